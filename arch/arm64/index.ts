/**
 * arm64 as the rest of the laboratory sees it.
 */
import type { Arch, HandlerFrame, KernelFunction } from '../arch.js';
import { describeFault, describeWalk } from './describe.js';
import { handleStop } from './entry.js';
import { EXTABLE_ENTRY_SIZE, packExtable } from './extable.js';
import { kfence_protect_page } from './kfence.js';
import { Arm64Mmu } from './mmu.js';
import { createPgtable } from './pgtable.js';
import { Arm64PtRegs, PSR_I_BIT } from './regs.js';
import { layout, prepareCall, prepareUser, setupCpu, switch_mm } from './setup.js';
import { arch_bpf_stack_walk, stackAddresses } from './stacktrace.js';

/**
 * Offsets and sizes as published reports of arm64 kernels print them, where there is one (a stream report
 * of a program-side fault, an oops). Those that no report shows are of the same order: marked `chosen`.
 */
const FRAME = {
  bpf_stream_stage_dump_stack: { fn: 'bpf_stream_stage_dump_stack', offset: 0xc0 },
  bpf_prog_report_arena_violation: { fn: 'bpf_prog_report_arena_violation', offset: 0x98 },
  bpf_arena_handle_page_fault: { fn: 'bpf_arena_handle_page_fault', offset: 0xd8 }, // chosen
  ex_handler_bpf: { fn: 'ex_handler_bpf', offset: 0x5c },
  fixup_exception: { fn: 'fixup_exception', offset: 0xf8 },
  __do_kernel_fault: { fn: '__do_kernel_fault', offset: 0x40 },
  __do_kernel_fault_arena: { fn: '__do_kernel_fault', offset: 0xf4 }, // chosen
  do_bad_area: { fn: 'do_bad_area', offset: 0x70 },
  do_translation_fault: { fn: 'do_translation_fault', offset: 0x54 },
  do_mem_abort: { fn: 'do_mem_abort', offset: 0x4c },
  el1_abort: { fn: 'el1_abort', offset: 0x44 },
  el1h_64_sync_handler: { fn: 'el1h_64_sync_handler', offset: 0x50 },
  el1h_64_sync: { fn: 'el1h_64_sync', offset: 0x6c },
  ret_from_fork: { fn: 'ret_from_fork', offset: 0x10 },
} as const satisfies Record<string, HandlerFrame>;

/** From the fault handler's caller out to the vector. */
const ENTRY_FRAMES: readonly HandlerFrame[] = [
  FRAME.do_bad_area,
  FRAME.do_translation_fault,
  FRAME.do_mem_abort,
  FRAME.el1_abort,
  FRAME.el1h_64_sync_handler,
  FRAME.el1h_64_sync,
];

const SIZES: Readonly<Record<string, number>> = {
  bpf_stream_stage_dump_stack: 0x150,
  bpf_prog_report_arena_violation: 0xf0,
  bpf_arena_handle_page_fault: 0x148, // chosen
  ex_handler_bpf: 0x78,
  fixup_exception: 0x160,
  __do_kernel_fault: 0x188,
  do_bad_area: 0x88,
  do_translation_fault: 0x98,
  do_page_fault: 0x5e8, // chosen
  do_mem_abort: 0xa8,
  el1_abort: 0x70,
  el1h_64_sync_handler: 0x108,
  el1h_64_sync: 0x70,
  bpf_prog_test_run_syscall: 0x328,
  __sys_bpf: 0xb98,
  __arm64_sys_bpf: 0x48,
  invoke_syscall: 0x120,
  'el0_svc_common.constprop.0': 0xf8,
  do_el0_svc: 0x40,
  el0_svc: 0xf8,
  el0t_64_sync_handler: 0xe8,
  el0t_64_sync: 0x1a0,
  kthread: 0x124,
  ret_from_fork: 0x20,
};

const kernelFunctions: readonly KernelFunction[] = Object.entries(SIZES).map(([name, size]) => ({
  name,
  size,
}));

const GENERAL_REGISTERS: readonly string[] = [...Array.from({ length: 31 }, (_, n) => `x${n}`), 'sp'];

/** BRK #0x100, AARCH64_BREAK_FAULT. */
const TEXT_FILLER = Uint8Array.of(0x00, 0x20, 0x20, 0xd4);

export const arm64: Arch = {
  name: 'arm64',
  layout,
  pgtable: createPgtable,
  createMmu: (ram) => new Arm64Mmu(ram),
  setupCpu,
  switch_mm,

  generalRegisters: GENERAL_REGISTERS,
  returnRegister: 'x0',
  pcRegister: 'pc',
  prepareCall,
  prepareUser,

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
  kernelSideFrames: [
    FRAME.bpf_stream_stage_dump_stack,
    FRAME.bpf_arena_handle_page_fault,
    FRAME.__do_kernel_fault_arena,
    ...ENTRY_FRAMES,
  ],
  progSideFrames: [
    FRAME.bpf_stream_stage_dump_stack,
    FRAME.bpf_prog_report_arena_violation,
    FRAME.ex_handler_bpf,
    FRAME.fixup_exception,
    FRAME.__do_kernel_fault,
    ...ENTRY_FRAMES,
  ],
  bottomFrame: FRAME.ret_from_fork,
  textFiller: TEXT_FILLER,

  kfence_protect_page,

  packExtable,
  extableEntrySize: EXTABLE_ENTRY_SIZE,

  describeWalk,
  describeFault,
};
