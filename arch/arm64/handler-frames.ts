/**
 * The kernel's own functions on a stack: the handlers of an exception are host code here, so that where a dump
 * shows them, their names and offsets are what is known.
 */
import type { Arch, HandlerFrame, KernelFunction, ThisCpu } from '../arch.js';
import type { KernelConfig } from '../kernel-config.js';
import { fsc } from './esr.js';
import { type FaultHandler, faultInfo } from './fault-info.js';
import { mmuOf } from './mmu.js';

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
  do_alignment_fault: { fn: 'do_alignment_fault', offset: 0x28 }, // chosen; the size is published
  do_tag_check_fault: { fn: 'do_tag_check_fault', offset: 0x38 },
  do_page_fault: { fn: 'do_page_fault', offset: 0x2f4 }, // chosen
  do_mem_abort: { fn: 'do_mem_abort', offset: 0x4c },
  el1_abort: { fn: 'el1_abort', offset: 0x44 },
  el1h_64_sync_handler: { fn: 'el1h_64_sync_handler', offset: 0x50 },
  el1h_64_sync: { fn: 'el1h_64_sync', offset: 0x6c },
  ret_from_fork: { fn: 'ret_from_fork', offset: 0x10 },
} as const satisfies Record<string, HandlerFrame>;

/** From do_mem_abort() out to the vector. */
const ABORT_FRAMES: readonly HandlerFrame[] = [
  FRAME.do_mem_abort,
  FRAME.el1_abort,
  FRAME.el1h_64_sync_handler,
  FRAME.el1h_64_sync,
];

/** The same with what led to __do_kernel_fault() for an address of the kernel that has no page. */
const ENTRY_FRAMES: readonly HandlerFrame[] = [
  FRAME.do_bad_area,
  FRAME.do_translation_fault,
  ...ABORT_FRAMES,
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
  do_alignment_fault: 0x50,
  do_tag_check_fault: 0x60,
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

/** See Arch.kernelFunctions. */
export const kernelFunctions: readonly KernelFunction[] = Object.entries(SIZES).map(([name, size]) => ({
  name,
  size,
}));

/** See Arch.bpfReports; chosen. */
export const bpfReports: Arch['bpfReports'] = {
  rqspinlock: { fn: 'bpf_prog_report_rqspinlock_violation', offset: 0x11c, size: 0x150 },
  may_goto: { fn: 'bpf_prog_report_may_goto_violation', offset: 0x74, size: 0xa0 },
};

/** See Arch.kernelSideFrames. */
export const kernelSideFrames: readonly HandlerFrame[] = [
  FRAME.bpf_stream_stage_dump_stack,
  FRAME.bpf_arena_handle_page_fault,
  FRAME.__do_kernel_fault_arena,
  ...ENTRY_FRAMES,
];

const PROG_SIDE: readonly HandlerFrame[] = [
  FRAME.bpf_stream_stage_dump_stack,
  FRAME.bpf_prog_report_arena_violation,
  FRAME.ex_handler_bpf,
  FRAME.fixup_exception,
  FRAME.__do_kernel_fault,
];
const TRANSLATION = [...PROG_SIDE, ...ENTRY_FRAMES];

/** By the function of the status code. do_bad() and do_sea() look for no exception-table entry. */
const PROG_SIDE_FRAMES: Readonly<Record<FaultHandler, readonly HandlerFrame[]>> = {
  do_translation_fault: TRANSLATION,
  do_alignment_fault: [...PROG_SIDE, FRAME.do_bad_area, FRAME.do_alignment_fault, ...ABORT_FRAMES],
  do_tag_check_fault: [...PROG_SIDE, FRAME.do_bad_area, FRAME.do_tag_check_fault, ...ABORT_FRAMES],
  do_page_fault: [...PROG_SIDE, FRAME.do_page_fault, ...ABORT_FRAMES],
  do_bad: TRANSLATION,
  do_sea: TRANSLATION,
};

/** See Arch.progSideFrames. */
export function progSideFrames(here: ThisCpu): readonly HandlerFrame[] {
  return PROG_SIDE_FRAMES[faultInfo(fsc(mmuOf(here).syndrome.esr_el1)).fn];
}

/** See Arch.bottomFrame. */
export const bottomFrame: HandlerFrame = FRAME.ret_from_fork;

function frameText({ fn, offset }: HandlerFrame): string {
  const size = SIZES[fn];
  if (size === undefined) throw new Error(`no size of ${fn}`);
  return `${fn}+0x${offset.toString(16)}/0x${size.toString(16)}`;
}

const entryText: readonly string[] = ENTRY_FRAMES.map(frameText);

/** Chosen, but for the functions and the size: no report shows KFENCE's part of a stack on arm64. */
const KFENCE_FRAMES: readonly string[] = [
  'kfence_handle_page_fault+0x1b0/0x2a0',
  '__do_kernel_fault+0xe0/0x188',
];
const kfenceReport: readonly string[] = [
  'check_panic_on_warn+0x60/0x80', // chosen
  'kfence_report_error+0x404/0x4c8', // chosen
  ...KFENCE_FRAMES,
  ...entryText,
];
const kfenceFault: readonly string[] = [...KFENCE_FRAMES, ...entryText];

/**
 * Behind panic() in a fault that KFENCE handles: who panics is its report, where a warning is the end, and
 * what kfence.fault= asks for otherwise.
 */
export function kfenceHandlers({ panic_on_warn, warn_limit }: KernelConfig): readonly string[] {
  return panic_on_warn || warn_limit !== 0 ? kfenceReport : kfenceFault;
}

/** Where __do_kernel_fault() warns. Chosen: no report that shows this warning was found. The size is published. */
export const SPURIOUS_WARNING_AT = '__do_kernel_fault+0x164/0x188';

/** Behind panic() in that warning, which is an exception of its own: BRK, from its report out to the vector. */
export const spuriousWarningHandlers: readonly string[] = [
  'check_panic_on_warn+0x60/0x80', // chosen
  '__warn+0x98/0x1b8', // chosen
  '__report_bug+0x154/0x1c8', // chosen
  'report_bug+0x24/0x80', // chosen
  'bug_brk_handler+0x70/0xa4',
  'call_el1_break_hook+0x3c/0x1a0',
  'do_el1_brk64+0x24/0x74',
  'el1_brk64+0x34/0x54',
  'el1h_64_sync_handler+0x80/0x108', // the offset is chosen
  'el1h_64_sync+0x6c/0x70',
  `${SPURIOUS_WARNING_AT} (P)`,
  ...entryText,
];
