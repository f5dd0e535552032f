/** x86-64, behind the interface that both architectures have. */
import type { Arch, HandlerFrame, KernelFunction } from '../arch.js';
import { KERN_EMERG } from '../kernel.js';
import { describeFault, describeWalk } from './describe.js';
import { show_regs } from './dumpstack.js';
import { exceptionNames, handleStop } from './entry.js';
import { EXTABLE_ENTRY_SIZE, packExtable } from './extable-format.js';
import { hostCall } from './host-call.js';
import { die_bug } from './kernel-bug.js';
import { arch_kfence_init_pool, kfence_protect_page } from './kfence.js';
import { timedMayGoto } from './may-goto.js';
import { mmuOf, X86Mmu } from './mmu.js';
import { pte_mkspecial, pte_mkyoung, vm_get_page_prot } from './pgprot.js';
import { createPgtable } from './pgtable.js';
import { regsOffset, X86PtRegs } from './regs.js';
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
import { show_stack } from './show-trace.js';
import { arch_stack_walk } from './stack-walk.js';
import { addUnwindInfo, arch_bpf_stack_walk, stackAddresses } from './stacktrace.js';
import { testRun } from './test-run.js';

/** Names, sizes and return offsets as published traces of x86-64 kernels print them. */
const kernelFunctions: readonly KernelFunction[] = [
  { name: 'asm_exc_page_fault', size: 0x30 },
  { name: 'exc_page_fault', size: 0x1d0 },
  { name: 'kernelmode_fixup_or_oops.constprop.0', size: 0x70 },
  { name: 'page_fault_oops', size: 0x2d0 },
  { name: 'fixup_exception', size: 0x310 },
  { name: 'ex_handler_bpf', size: 0xa0 },
  { name: 'bpf_arena_handle_page_fault', size: 0x140 },
  { name: 'bpf_prog_report_arena_violation', size: 0xb0 },
  { name: 'bpf_stream_stage_dump_stack', size: 0xd0 },
  { name: 'ret_from_fork_asm', size: 0x30 },
  { name: 'entry_SYSCALL_64_after_hwframe', size: 0x7e },
];

const ENTRY_FRAMES: readonly HandlerFrame[] = [
  { fn: 'exc_page_fault', offset: 0xdd },
  { fn: 'asm_exc_page_fault', offset: 0x26 },
];

/**
 * kernelmode_fixup_or_oops() calls page_fault_oops() last, by a jump: it has left the stack by then.
 * __bpf_prog_report_arena_violation() is inlined.
 */
const kernelSideFrames: readonly HandlerFrame[] = [
  { fn: 'bpf_stream_stage_dump_stack', offset: 0xb0 },
  { fn: 'bpf_arena_handle_page_fault', offset: 0xd4 },
  { fn: 'page_fault_oops', offset: 0x92 },
  ...ENTRY_FRAMES,
];

const progSideFrames: readonly HandlerFrame[] = [
  { fn: 'bpf_stream_stage_dump_stack', offset: 0xb0 },
  { fn: 'bpf_prog_report_arena_violation', offset: 0x90 },
  { fn: 'ex_handler_bpf', offset: 0x4a },
  { fn: 'fixup_exception', offset: 0xde },
  { fn: 'kernelmode_fixup_or_oops.constprop.0', offset: 0x2f },
  ...ENTRY_FRAMES,
];

/** As published reports of these two print them. */
const bpfReports: Arch['bpfReports'] = {
  rqspinlock: { fn: 'bpf_prog_report_rqspinlock_violation', offset: 0x10b, size: 0x130 },
  may_goto: { fn: 'bpf_prog_report_may_goto_violation', offset: 0x6a, size: 0x90 },
};

export const x86: Arch = {
  name: 'x86-64',
  layout,
  pgtable: createPgtable,
  createMmu: (ram) => new X86Mmu(ram),
  setupCpu,
  switch_mm,
  generalRegisters: [
    'rax',
    'rbx',
    'rcx',
    'rdx',
    'rsi',
    'rdi',
    'rbp',
    'rsp',
    'r8',
    'r9',
    'r10',
    'r11',
    'r12',
    'r13',
    'r14',
    'r15',
  ],
  returnRegister: 'rax',
  pcRegister: 'rip',
  spRegister: 'rsp',
  prepareCall,
  prepareUser,
  disableInterrupts,
  local_irq_save,
  local_irq_restore,
  show_stack,
  panicNotifierLines: () => [{ level: KERN_EMERG, text: 'Kernel Offset: disabled' }],
  vm_get_page_prot,
  pte_mkspecial,
  pte_mkyoung,
  handleStop,
  arch_bpf_stack_walk,
  stackAddresses,
  irqs_disabled: (here) => mmuOf(here).irqsDisabled,
  hardwareName: null,
  addUnwindInfo,
  kernelFunctions,
  kernelSideFrames,
  progSideFrames: () => progSideFrames,
  bpfReports,
  bottomFrame: { fn: 'ret_from_fork_asm', offset: 0x1a },
  // int3
  textFiller: Uint8Array.of(0xcc),
  kfence_protect_page,
  arch_kfence_init_pool,
  arch_stack_walk,
  show_regs: (here, regs) => {
    if (regs instanceof X86PtRegs) show_regs(here, regs);
  },
  die_bug,
  hostCall,
  testRun,
  timedMayGoto,
  captureRegs: (here) => mmuOf(here).capture(),
  savedRegister: (regs, name) =>
    regs instanceof X86PtRegs && (regsOffset(name) !== undefined || name === 'rsp' || name === 'rip')
      ? regs.named(name)
      : undefined,
  setSavedRegister(regs, name, value) {
    if (!(regs instanceof X86PtRegs)) return false;
    const offset = regsOffset(name);
    if (offset !== undefined) regs.setAtOffset(offset, value);
    else if (name === 'rsp') regs.sp = value;
    else if (name === 'rip') regs.ip = value;
    else return false;
    return true;
  },
  releaseRegs: (here) => mmuOf(here).release(),
  packExtable,
  extableEntrySize: EXTABLE_ENTRY_SIZE,
  describeWalk,
  describeFault,
  exceptionNames,
};
