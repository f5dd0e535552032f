/** BUG() in ported code: the kernel would execute ud2 there, an exception that is not modelled. */
import { TaskDead } from '../kernel.js';

/**
 * Ends the run at a place where the kernel has a BUG().
 * @param fn the function that has it
 * @param why what led there
 * @param pc the instruction that faulted
 */
export function BUG(fn: string, why: string, pc: bigint): never {
  throw new TaskDead({ kind: 'stopped', why: `BUG() in ${fn}(): ${why}`, pc });
}
