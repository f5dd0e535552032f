/**
 * Numbers that only look random: the same seed gives the same numbers everywhere. xoshiro128**, seeded by
 * splitmix32 (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators").
 */
export class Random {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  /** @param seed its low 32 bits count */
  constructor(seed: number) {
    let state = seed >>> 0;
    const next = (): number => {
      state = (state + 0x9e3779b9) >>> 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return (z ^ (z >>> 16)) >>> 0;
    };
    this.a = next();
    this.b = next();
    this.c = next();
    // All zeros is the one state that leads nowhere.
    this.d = next() | 1;
  }

  /** 0 to 2^32 - 1. */
  u32(): number {
    const rotate = (x: number, by: number): number => (x << by) | (x >>> (32 - by));
    const result = Math.imul(rotate(Math.imul(this.b, 5), 7), 9);
    const t = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= t;
    this.d = rotate(this.d, 11);
    return result >>> 0;
  }

  /** 0 to n - 1. */
  below(n: number): number {
    return Math.floor((this.u32() / 4294967296) * n);
  }

  chance(probability: number): boolean {
    return this.u32() < probability * 4294967296;
  }

  /** `count` random bits, at most 64. */
  bits(count: number): bigint {
    const all = (BigInt(this.u32()) << 32n) | BigInt(this.u32());
    return BigInt.asUintN(count, all);
  }

  /** One of them; there must be one. */
  pick<T>(list: readonly T[]): T {
    const found = list[this.below(list.length)];
    if (found === undefined) throw new RangeError('nothing to pick from');
    return found;
  }
}
