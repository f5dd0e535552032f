import { expect, test } from '@jest/globals';
import { HIGHEST, ListedRandom, SeededRandom } from './random.js';

test('a seed gives the same numbers every time, spread over the whole range', () => {
  const draws = (seed: number) => {
    const random = new SeededRandom(seed);
    return Array.from({ length: 1000 }, () => random.get_random_u32_below(10));
  };
  expect(draws(1)).toEqual(draws(1));
  expect(draws(1)).not.toEqual(draws(2));
  for (let digit = 0; digit < 10; digit++) {
    const count = draws(1).filter((draw) => draw === digit).length;
    expect(count).toBeGreaterThan(60);
    expect(count).toBeLessThan(140);
  }
});

test('numbers can be given, and end in those of another source', () => {
  const random = new ListedRandom([3, 0], HIGHEST);
  expect([random.get_random_u32_below(4), random.get_random_u32_below(2)]).toEqual([3, 0]);
  expect(random.get_random_u32_below(100)).toBe(99);
  expect(() => new ListedRandom([2]).get_random_u32_below(2)).toThrow('the next random number is 2');
});
