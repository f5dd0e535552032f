/**
 * Random numbers as the kernel asks for them: get_random_u32() and get_random_u32_below() of
 * drivers/char/random.c. Where they come from is an input, so that two runs of a machine are alike.
 */
import { MachineRefusal } from './machine-refusal.js';

export interface Random {
  /** 0 to 2^32 - 1. */
  get_random_u32(): number;
  /** 0 to ceil - 1; `ceil` is 1 or more. */
  get_random_u32_below(ceil: number): number;
}

/** Always the highest number: a shuffle that draws so leaves everything in its place. */
export const HIGHEST: Random = {
  get_random_u32: () => 0xffff_ffff,
  get_random_u32_below: (ceil) => ceil - 1,
};

/** Numbers that follow from a seed: splitmix32, which passes for random and is no secret. */
export class SeededRandom implements Random {
  #state: number;

  /** @param seed its low 32 bits count */
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  get_random_u32(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  get_random_u32_below(ceil: number): number {
    return Math.floor((this.get_random_u32() / 2 ** 32) * ceil);
  }
}

/** Given numbers, one after the other, and then those of another source. */
export class ListedRandom implements Random {
  readonly #draws: number[];

  constructor(
    draws: readonly number[],
    readonly then: Random = HIGHEST,
  ) {
    this.#draws = [...draws];
  }

  get_random_u32(): number {
    return this.#draws.shift() ?? this.then.get_random_u32();
  }

  /** Throws a MachineRefusal when the number that comes next is not below `ceil`. */
  get_random_u32_below(ceil: number): number {
    const draw = this.#draws.shift();
    if (draw === undefined) return this.then.get_random_u32_below(ceil);
    if (draw >= ceil)
      throw new MachineRefusal(`the next random number is ${draw}, but one below ${ceil} is asked for`);
    return draw;
  }
}
