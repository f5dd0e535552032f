import { describe, expect, test } from '@jest/globals';
import { median, ratios, summary } from './statistics.js';

describe('median', () => {
  test.each<[readonly number[], number]>([
    [[7], 7],
    [[3, 1, 2], 2],
    [[10, 9, 1, 100], 9.5],
    [[10, 9, 100, 1, 2], 9],
  ])('%j: %d', (values, expected) => {
    expect(median(values)).toBe(expected);
  });

  test('of nothing there is none', () => {
    expect(median([])).toBeNaN();
  });

  test('leaves its argument as it is', () => {
    const values = [3, 1, 2];
    median(values);
    expect(values).toEqual([3, 1, 2]);
  });
});

test('a summary has the spread as well', () => {
  expect(summary([5, 1, 3])).toEqual({ median: 3, min: 1, max: 5 });
});

describe('figures side by side', () => {
  test('a turn is compared with the same turn', () => {
    // The second turn was slow for both.
    expect(ratios([1, 10, 2], [2, 20, 4])).toEqual([0.5, 0.5, 0.5]);
  });

  test('a missing turn is an error', () => {
    expect(() => ratios([1, 2], [1])).toThrow('2 turns of one figure and 1 of another');
  });
});
