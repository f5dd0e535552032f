/**
 * Signals that exceptions force on a task: force_sig(), force_sig_fault() and its kin, and unhandled_signal(), of
 * kernel/signal.c, bpf-next merge 8496d9020ff3. A signal is the end of what is modelled of a user task.
 *
 * Left out: handlers and tracers (nobody has any here), and what a handler would do.
 */
import type { ThisCpu } from '../arch/arch.js';
import { SI_KERNEL, SIGKILL, TaskDead, type task_struct } from '../arch/kernel.js';

/** si_code of a signal that kill() sent. */
const SI_USER = 0;

/** Is nobody there to handle a signal? Of one that comes when the task dies anyway, nothing is said. */
export function unhandled_signal({ pid, signal_pending }: task_struct): boolean {
  return pid === 1 || signal_pending !== 'fatal';
}

/**
 * The end of a task that a fatal signal waits for: get_signal() looks at SIGNAL_GROUP_EXIT before it takes any
 * signal from the queue, also one that an instruction has raised, and SIGKILL is what it finds then.
 */
export function killed(): TaskDead {
  return new TaskDead({ kind: 'signal', signo: SIGKILL, code: SI_USER, address: 0n });
}

/** force_sig_fault(), force_sig_pkuerr() and force_sig_mceerr(). */
export function force_sig_fault(
  { current }: ThisCpu,
  signo: number,
  code: number,
  address: bigint,
  pkey?: number,
): never {
  if (current.signal_pending === 'fatal') throw killed();
  const signal = { kind: 'signal', signo, code, address } as const;
  throw new TaskDead(pkey === undefined ? signal : { ...signal, pkey });
}

/** force_sig(): without a code of its own. */
export function force_sig(here: ThisCpu, signo: number): never {
  return force_sig_fault(here, signo, SI_KERNEL, 0n);
}
