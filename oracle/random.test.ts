import { describe, expect, test } from '@jest/globals';
import { Random } from './random.js';

describe('random numbers', () => {
  test('a seed gives the same numbers each time, and another seed gives others', () => {
    const numbers = (seed: number): number[] => {
      const random = new Random(seed);
      return Array.from({ length: 100 }, () => random.u32());
    };
    expect(numbers(7)).toEqual(numbers(7));
    expect(numbers(8)).not.toEqual(numbers(7));
  });

  test('they fill their range', () => {
    const random = new Random(1);
    const seen = new Set(Array.from({ length: 1000 }, () => random.below(7)));
    expect([...seen].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    let every = 0n;
    let some = -1n;
    for (let i = 0; i < 200; i++) {
      const bits = random.bits(64);
      every |= bits;
      some &= bits;
    }
    expect(every).toBe(0xffff_ffff_ffff_ffffn);
    expect(some).toBe(0n);
    expect(random.bits(12) >> 12n).toBe(0n);
    const hits = Array.from({ length: 10_000 }, () => random.chance(0.25)).filter(Boolean).length;
    expect(Math.abs(hits - 2500)).toBeLessThan(200);
  });
});
