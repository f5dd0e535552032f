/** Where a session stands in the run. */

/**
 * What the next tick is:
 * `start` the first step of the fixture begins; `between` steps of the fixture; `code` guest code runs on at pc;
 * `path` the kernel's path goes on; `end` nothing.
 */
export type Place = 'start' | 'between' | 'code' | 'path' | 'end';

export interface Position {
  /**
   * Counts everything that can be stopped between: completed instructions, stops of guest code, entries, decisions
   * and returns of ported functions, beginnings and ends of the fixture's steps. The same run has the same ticks,
   * however it is stopped. 0 is the start.
   */
  readonly tick: number;
  /** Instructions completed so far, on all CPUs. */
  readonly instructions: number;
  readonly place: Place;
  /** The CPU that runs, or ran last. */
  readonly cpu: number;
  /** Of guest code: the next instruction, or in a path the one that led into it. */
  readonly pc: bigint;
  /** Path of the fixture's step that is under way, or was last, e.g. `['steps', 0]`; null before the first. */
  readonly step: readonly (string | number)[] | null;
}
