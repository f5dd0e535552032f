/**
 * arch_stack_walk() of arch/arm64/kernel/stacktrace.c, bpf-next merge 8496d9020ff3, from given registers: what
 * stack_trace_save_regs() sees. Left out: walks of other tasks.
 */
import type { ThisCpu } from '../arch.js';
import type { pt_regs } from '../kernel.js';
import { KERN_DEFAULT } from '../kernel.js';
import { mmuOf } from './mmu.js';
import { __show_regs } from './process.js';
import { Arm64PtRegs } from './regs.js';
import { dump_backtrace, warnOfBrokenChain } from './stacktrace.js';
import { Unwinder } from './unwind.js';

/** Visits pc and then the return addresses, as long as the visitor says true. lr is never used. */
export function arch_stack_walk(here: ThisCpu, regs: pt_regs, visit: (addr: bigint) => boolean): void {
  if (!(regs instanceof Arm64PtRegs) || regs.user_mode) return;
  const unwinder = new Unwinder(mmuOf(here), here.ram);
  unwinder.start(here.current, regs, Number.NEGATIVE_INFINITY);
  while (visit(unwinder.ip) && unwinder.next());
  warnOfBrokenChain(here, unwinder.broken, 'arch_stack_walk+0x1d0/0x200');
}

/** show_regs() of arch/arm64/kernel/process.c: the registers, and the trace that they begin. */
export function show_regs(here: ThisCpu, regs: pt_regs): void {
  if (!(regs instanceof Arm64PtRegs)) return;
  __show_regs(here, regs);
  dump_backtrace(here, regs, KERN_DEFAULT);
}
