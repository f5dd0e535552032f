/** What the tests of faults share: code that faults, mappings of user memory, and how a fault ends. */

import type { RunOutcome } from '../../emu/events.js';
import type { Resumption } from '../arch.js';
import { TaskDead, type vm_area_struct } from '../kernel.js';
import { HOLE, TEXT, type TestMachine } from './testing.js';

/** A page of user memory. */
export const USER = 0x7f0000001000n;
/** Far enough into the text page for the Code line to be read without a fault. */
export const CODE = TEXT + 0x100n;

/** mov [rdi], rax at CODE, with HOLE in rdi. */
export function aboutToStore(machine: TestMachine): void {
  machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3], 0x10);
  machine.set({ rip: CODE, rdi: HOLE, rax: 0x4141n });
}

/** The mapping of the page USER. */
export function vma(vm_flags: number, pkey = 0): vm_area_struct {
  return { vm_start: USER & ~0xfffn, vm_end: USER + 0x1000n, vm_flags, pkey };
}

/** What ended the task, or how it goes on. */
export function outcome(result: Resumption | TaskDead): Resumption | RunOutcome {
  return result instanceof TaskDead ? result.outcome : result;
}
