/**
 * Stack walks by frame records: who walks, and from where. The steps are in unwind.ts.
 *
 * Ported from arch/arm64/kernel/stacktrace.c, bpf-next merge 8496d9020ff3. The handlers of an exception
 * have no frames here, so a walk starts at the registers of the exception, as if it had just come out of
 * them. Left out: function graph tracing, kretprobes, and blocked tasks.
 */
import type { StackVisitor, ThisCpu } from '../arch.js';
import { mmuOf } from './mmu.js';
import { Arm64PtRegs } from './regs.js';
import { Unwinder } from './unwind.js';

/** The handlers' own walk, before that of the registers, has used the stack up to the end of the frame. */
function consumedUpTo(regs: Arm64PtRegs): number {
  return regs.spSigned;
}

/**
 * The walk that finds the BPF program behind a fault: from the registers of the exception outwards. lr is
 * never used, so that the caller of a function without a frame record of its own is not visited. A walk
 * outside of an exception, and one from user mode, has nothing to visit.
 */
export function arch_bpf_stack_walk(here: ThisCpu, visit: StackVisitor): void {
  const { regs } = here;
  if (!(regs instanceof Arm64PtRegs) || regs.user_mode) return;
  const unwinder = new Unwinder(mmuOf(here), here.ram);
  unwinder.start(here.current, regs, consumedUpTo(regs));
  do {
    if (!visit(unwinder.ip, 0n, unwinder.bp)) return;
  } while (unwinder.next());
}

/** What arch_bpf_stack_walk() comes to. Walks once for each exception, as long as nobody can intervene. */
export function stackAddresses(here: ThisCpu): readonly bigint[] {
  const { regs } = here;
  if (!(regs instanceof Arm64PtRegs) || regs.user_mode) return [];
  if (regs.stack !== null && !here.trace.pausing) return regs.stack;
  regs.stack = mmuOf(here).unwinder.addresses(here.current, regs, consumedUpTo(regs));
  return regs.stack;
}

/** Prints the frames behind `regs`; nothing for registers of user code. */
export function dump_backtrace(here: ThisCpu, regs: Arm64PtRegs, loglvl: number): void {
  if (regs.user_mode) return;
  const { kernel } = here;
  kernel.printk(here, loglvl, 'Call trace:');
  const unwinder = new Unwinder(mmuOf(here), here.ram);
  unwinder.start(here.current, regs, Number.NEGATIVE_INFINITY);
  do {
    const source = unwinder.fromRegs ? ' (P)' : '';
    kernel.printk(here, loglvl, ` ${kernel.sprint_symbol(unwinder.ip)}${source}`);
  } while (unwinder.next());
}
