/** Calls into the kernel from outside guest code, as steps make them. */

import type { ThisCpu } from '../../arch/arch.js';
import { TaskDead } from '../../arch/kernel.js';
import { Endless } from '../../emu/endless.js';
import type { Primitive, RunOutcome } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';

/** The kernel has not come back from a call: what the step comes to instead of a result. Never an error. */
export class CallEnded {
  constructor(readonly outcome: RunOutcome) {}
}

/**
 * Makes a call; both ends are in the event stream. Throws a CallEnded, whose outcome is the last event, where the
 * kernel dies over it or never comes out of it.
 */
export function* hostCall<T extends bigint | number | undefined>(
  { trace }: ThisCpu,
  fn: string,
  args: Readonly<Record<string, Primitive>>,
  call: () => Delegate<T>,
): Path<T> {
  const { cpu } = trace;
  trace.emit({ type: 'host-call', cpu, fn, phase: 'start', args, value: undefined });
  try {
    const value = yield* call();
    trace.emit({ type: 'host-call', cpu, fn, phase: 'end', args, value });
    return value;
  } catch (thrown) {
    const outcome = outcomeOf(thrown);
    if (outcome === null) throw thrown;
    trace.emit({ type: 'host-call', cpu, fn, phase: 'end', args, value: undefined });
    trace.emit({ type: 'outcome', cpu, outcome });
    throw new CallEnded(outcome);
  }
}

function outcomeOf(thrown: unknown): RunOutcome | null {
  if (thrown instanceof TaskDead) return thrown.outcome;
  // No instruction has led there.
  return thrown instanceof Endless ? thrown.outcome(null) : null;
}
