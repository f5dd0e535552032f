/** range_tree against a plain list, in arenas large enough that the tree has some depth. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { range_tree } from '../bpf/arena/range_tree.js';
import { FreeRanges } from './free-ranges.js';

/** Asked for after every operation: what a size is worth depends on all ranges. */
const WANTED = [1, 2, 3, 4, 7, 16, 40, 200];

interface Operation {
  readonly what: 'set' | 'clear' | 'take';
  readonly start: number;
  readonly len: number;
  /** The next node cannot be allocated. */
  readonly noNode: boolean;
}

function operations(
  pages: number,
  longest: number,
  failures: boolean,
  count: number,
): fc.Arbitrary<Operation[]> {
  const operation = fc.record({
    what: fc.constantFrom('set' as const, 'clear' as const, 'clear' as const, 'take' as const),
    start: fc.nat(pages - 1),
    len: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: longest })),
    noNode: failures ? fc.integer({ min: 0, max: 9 }).map((n) => n === 0) : fc.constant(false),
  });
  return fc.array(operation, { maxLength: count, size: 'max' });
}

/** Does the same to both, and compares what they say and hold. */
function compare(pages: number, sequence: readonly Operation[], every: number): void {
  let noNode = false;
  const mayAllocate = (): boolean => !noNode;
  const tree = new range_tree(mayAllocate);
  const list = new FreeRanges(mayAllocate);
  expect([tree.range_tree_set(0, pages), list.set(0, pages)]).toEqual([0, 0]);
  for (const [i, { what, start, len, ...rest }] of sequence.entries()) {
    noNode = rest.noNode;
    if (what === 'set') {
      expect(tree.range_tree_set(start, len)).toBe(list.set(start, len));
    } else {
      const from = what === 'clear' ? start : list.find(len);
      if (what === 'take') expect(tree.range_tree_find(len)).toBe(from);
      if (from >= 0) {
        expect(tree.is_range_tree_set(from, len)).toBe(list.isSet(from, len));
        expect(tree.range_tree_clear(from, len)).toBe(list.clear(from, len));
      }
    }
    noNode = false;
    const found = WANTED.map((size) => tree.range_tree_find(size));
    if (found.some((at, n) => at !== list.find(WANTED[n] ?? 0))) {
      expect(found).toEqual(WANTED.map((size) => list.find(size)));
    }
    if (i % every === 0 || i === sequence.length - 1) expect(tree.ranges()).toEqual(list.ranges);
  }
}

describe('range_tree and a plain list', () => {
  test('agree after every operation, and on every choice, nodes failing now and then', () => {
    fc.assert(
      fc.property(operations(64, 12, true, 80), (sequence) => compare(64, sequence, 1)),
      { seed: 20261121, numRuns: 200 },
    );
  });

  test('agree with hundreds of ranges', () => {
    fc.assert(
      fc.property(operations(5000, 6, false, 1500), (sequence) => compare(5000, sequence, 64)),
      { seed: 7, numRuns: 6, endOnFailure: true },
    );
  });
});
