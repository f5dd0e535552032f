/**
 * arm64 as the rest of the laboratory sees it.
 */
import type { Arch } from '../arch.js';
import { exceptionNames } from './class-string.js';
import { describeFault, describeWalk } from './describe.js';
import { handleStop } from './entry.js';
import { EXTABLE_ENTRY_SIZE, packExtable } from './extable.js';
import {
  bottomFrame,
  bpfReports,
  kernelFunctions,
  kernelSideFrames,
  progSideFrames,
} from './handler-frames.js';
import { hostCall } from './host-call.js';
import { die_bug } from './kernel-bug.js';
import { arch_kfence_init_pool, kfence_protect_page } from './kfence.js';
import { timedMayGoto } from './may-goto.js';
import { pte_mkspecial, pte_mkyoung, vm_get_page_prot } from './mmap.js';
import { mmuOf } from './mmu.js';
import { panicNotifierLines, show_stack, smp_send_stop } from './panic.js';
import { createPgtable } from './pgtable.js';
import { Arm64PtRegs, PSR_I_BIT } from './regs.js';
import {
  disableInterrupts,
  layout,
  local_irq_restore,
  local_irq_save,
  prepareCall,
  prepareUser,
  setupCpu,
  switch_mm,
} from './setup.js';
import { arch_stack_walk, show_regs } from './stack-walk.js';
import { arch_bpf_stack_walk, stackAddresses } from './stacktrace.js';
import { testRun } from './test-run.js';
import { createMmu } from './uaccess-ttbr0.js';

const GENERAL_REGISTERS: readonly string[] = [...Array.from({ length: 31 }, (_, n) => `x${n}`), 'sp'];

/** BRK #0x100, AARCH64_BREAK_FAULT. */
const TEXT_FILLER = Uint8Array.of(0x00, 0x20, 0x20, 0xd4);

export const arm64: Arch = {
  name: 'arm64',
  layout,
  pgtable: createPgtable,
  createMmu,
  setupCpu,
  switch_mm,

  generalRegisters: GENERAL_REGISTERS,
  returnRegister: 'x0',
  pcRegister: 'pc',
  spRegister: 'sp',
  prepareCall,
  prepareUser,
  disableInterrupts,
  local_irq_save,
  local_irq_restore,
  show_stack,
  smp_send_stop,
  panicNotifierLines,
  vm_get_page_prot,
  pte_mkspecial,
  pte_mkyoung,

  handleStop,

  arch_bpf_stack_walk,
  stackAddresses,
  // el1_abort() runs the handlers with the DAIF of the interrupted code, el0_da() with nothing masked.
  irqs_disabled: ({ regs }) =>
    regs instanceof Arm64PtRegs && !regs.user_mode && (regs.pstate & PSR_I_BIT) !== 0n,
  hardwareName: 'linux,dummy-virt (DT)',
  // Frame records say it all: there are no tables.
  addUnwindInfo: () => undefined,

  kernelFunctions,
  bpfReports,
  kernelSideFrames,
  progSideFrames,
  bottomFrame,
  textFiller: TEXT_FILLER,

  kfence_protect_page,
  arch_kfence_init_pool,
  arch_stack_walk,
  show_regs,
  die_bug,
  hostCall,
  testRun,
  timedMayGoto,
  captureRegs: (here) => mmuOf(here).enterException(),
  savedRegister: (regs, name) => {
    if (!(regs instanceof Arm64PtRegs)) return undefined;
    if (name === 'sp') return regs.sp;
    return name === 'pc' ? regs.pc : regs.named(name);
  },
  setSavedRegister(regs, name, value) {
    if (!(regs instanceof Arm64PtRegs)) return false;
    if (name === 'sp') regs.sp = value;
    else if (name === 'pc') regs.pc = value;
    else if (regs.named(name) === undefined) return false;
    else regs.pt_regs_write_reg(Number(name.slice(1)), value);
    return true;
  },
  releaseRegs: (here) => mmuOf(here).leaveException(),

  packExtable,
  extableEntrySize: EXTABLE_ENTRY_SIZE,

  describeWalk,
  describeFault,
  exceptionNames,
};
