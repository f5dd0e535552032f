/**
 * Stack walks by frame records: who walks, and from where. The steps are in unwind.ts.
 *
 * Ported from arch/arm64/kernel/stacktrace.c, bpf-next merge 8496d9020ff3. The handlers of an exception
 * have no frames here, so a walk starts at the registers of the exception, as if it had just come out of
 * them. Left out: function graph tracing, kretprobes, and blocked tasks.
 */
import type { StackVisitor, ThisCpu } from '../arch.js';
import type { task_struct } from '../kernel.js';
import { mmuOf } from './mmu.js';
import { Arm64PtRegs } from './regs.js';
import { type BrokenChain, Unwinder } from './unwind.js';

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
  warnOfBrokenChain(here, unwinder.broken, 'arch_bpf_stack_walk+0x1c4/0x1e8');
}

/** What arch_bpf_stack_walk() comes to. Walks once for each exception, as long as nobody can intervene. */
export function stackAddresses(here: ThisCpu): readonly bigint[] {
  const { regs } = here;
  if (!(regs instanceof Arm64PtRegs) || regs.user_mode) return [];
  if (regs.stack !== null && !here.trace.pausing) return regs.stack;
  const { unwinder } = mmuOf(here);
  regs.stack = unwinder.addresses(here.current, regs, consumedUpTo(regs));
  if (unwinder.broken !== null) {
    warnOfBrokenChain(here, unwinder.broken, 'arch_bpf_stack_walk+0x1c4/0x1e8');
  }
  return regs.stack;
}

/**
 * Prints the frames behind `regs`; nothing for registers of user code. Registers of the current task say
 * nothing about another one, of which no frame is printed then.
 * @param handlers frames of host code in front of them
 */
export function dump_backtrace(
  here: ThisCpu,
  regs: Arm64PtRegs,
  loglvl: number,
  tsk: task_struct = here.current,
  handlers: readonly string[] = [],
): void {
  if (regs.user_mode) return;
  const { kernel } = here;
  kernel.printk(here, loglvl, 'Call trace:');
  for (const frame of handlers) kernel.printk(here, loglvl, ` ${frame}`);
  if (tsk !== here.current) return;
  const unwinder = new Unwinder(mmuOf(here), here.ram);
  unwinder.start(tsk, regs, Number.NEGATIVE_INFINITY);
  do {
    const { ip, source } = unwinder;
    kernel.printk(here, loglvl, ` ${kernel.sprint_symbol(ip)}${source === '' ? '' : ` (${source})`}`);
  } while (unwinder.next());
  warnOfBrokenChain(here, unwinder.broken, 'dump_backtrace+0x1d8/0x208');
}

/**
 * For whoever has walked: WARN_ON_ONCE(), each of the two places warns once since boot. `at` is the function they are
 * inlined in.
 */
export function warnOfBrokenChain(here: ThisCpu, broken: BrokenChain | null, at: string): void {
  if (broken === null) return;
  const line = broken === 'final record in the middle' ? 206 : 211;
  const site = `arch/arm64/kernel/stacktrace.c:${line}`;
  if (here.kernel.once(site)) here.kernel.warn(here, site, at, null);
}
