/**
 * Loops of the kernel that only somebody else could end. CPUs never run at the same time, so one that goes round
 * without anything having changed goes round for ever.
 */
import type { RunOutcome } from './events.js';

/** How long such a loop may go on. */
export interface Patience {
  /** Turns without progress before it is a livelock. */
  readonly refaults: number;
  /** Wall-clock milliseconds of all its turns. A safety net: which turn it ends at is not reproducible. */
  readonly milliseconds: number;
  /** Milliseconds since any fixed point. */
  now(): number;
}

/** What a CPU has that nobody gave limits. */
export const DEFAULT_PATIENCE: Patience = {
  refaults: 16,
  milliseconds: Number.POSITIVE_INFINITY,
  now: () => 0,
};

/** Turns between two looks at the clock. */
const TURNS_PER_CLOCK_LOOK = 64;

type EndlessOutcome = Extract<RunOutcome, { kind: 'livelock' | 'deadline' }>;

/** Thrown out of a path that does not come to an end: the CPU is in it for good. Never an error of a port. */
export class Endless {
  readonly #outcome: (pc: bigint | null) => EndlessOutcome;

  constructor(outcome: (pc: bigint | null) => EndlessOutcome) {
    this.#outcome = outcome;
  }

  /** The end of the run whose instruction at `pc` has led into the path; null where none has. */
  outcome(pc: bigint | null): EndlessOutcome {
    return this.#outcome(pc);
  }
}

/** Turns of one loop. */
export class Turns {
  #turns = 0;
  #since = 0;

  constructor(readonly patience: Patience) {}

  /**
   * A turn has ended and the next one begins with nothing changed. Throws Endless when that is too often.
   * @param address what the loop is about: of a fault, or of a table entry
   */
  again(address: bigint): void {
    const { refaults, milliseconds, now } = this.patience;
    this.#turns += 1;
    const turns = this.#turns;
    if (turns >= refaults) throw new Endless((pc) => ({ kind: 'livelock', pc, address, turns }));
    if (turns === 1) this.#since = now();
    else if (turns % TURNS_PER_CLOCK_LOOK === 0 && now() - this.#since > milliseconds) {
      throw new Endless(() => ({ kind: 'deadline', milliseconds }));
    }
  }
}
