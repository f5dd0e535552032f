import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { SortedList } from './sorted_list.js';

/** So many that the tree gets a third level, and loses it again. */
const NUMBERS = 3000;

test('holds what a sorted array holds, whatever goes in and out, up to its last entry', () => {
  const numbers = fc.uniqueArray(fc.nat(1_000_000), { minLength: NUMBERS, maxLength: NUMBERS });
  fc.assert(
    fc.property(numbers, fc.nat(NUMBERS), fc.nat(1_000_000), (all, gone, limit) => {
      const list = new SortedList<number>((a, b) => a - b);
      for (const number of all) list.insert(number);
      const sorted = [...all].sort((a, b) => a - b);
      expect([...list]).toEqual(sorted);
      // Neighbours go together, so that nodes run empty.
      for (const number of sorted.slice(0, gone)) list.remove(number);
      for (const rest of [sorted.slice(gone), []]) {
        expect(list.size).toBe(rest.length);
        expect([...list]).toEqual(rest);
        expect(list.firstNot((number) => number < limit)).toBe(rest.find((number) => number >= limit));
        expect(list.lastWhere((number) => number < limit)).toBe(
          rest.filter((number) => number < limit).at(-1),
        );
        for (const number of rest) list.remove(number);
      }
      expect(() => list.remove(limit)).toThrow('not in the list');
    }),
    { seed: 3, numRuns: 12, endOnFailure: true },
  );
});
