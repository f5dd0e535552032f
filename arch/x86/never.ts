/** Tests of what this kernel does not have, or what is never active in it. */
import type { Delegate } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';

/** A step that says no. It shows where the kernel would ask. */
export function never(here: ThisCpu, fn: string, test: string): Delegate<boolean> {
  return here.trace.decide(fn, test, false);
}
