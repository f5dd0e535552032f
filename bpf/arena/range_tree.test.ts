import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ENOENT, ENOMEM, ESRCH } from '../../kernel/errno.js';
import { range_tree } from './range_tree.js';

const PAGES = 48;

/** The same set as a bitmap, and its ranges as a list in the order in which they came or changed. */
class Model {
  readonly free: boolean[] = new Array(PAGES).fill(false);
  order: [number, number][] = [];

  clear(start: number, len: number): void {
    for (let page = start; page < start + len; page++) this.free[page] = false;
    const hit = this.order
      .filter(([first, last]) => last >= start && first < start + len)
      .sort((a, b) => a[0] - b[0]);
    for (const range of hit) {
      this.order = this.order.filter((other) => other !== range);
      if (range[0] < start) this.order.push([range[0], start - 1]);
      if (range[1] >= start + len) this.order.push([start + len, range[1]]);
    }
  }

  set(start: number, len: number): void {
    if (this.free.slice(start, start + len).every((bit) => bit)) return;
    this.clear(start, len);
    for (let page = start; page < start + len; page++) this.free[page] = true;
    let first = start;
    let last = start + len - 1;
    while (this.free[first - 1] === true) first -= 1;
    while (this.free[last + 1] === true) last += 1;
    this.order = this.order.filter(([a, b]) => b < first || a > last);
    this.order.push([first, last]);
  }

  find(len: number): number {
    let best: [number, number] | null = null;
    for (const range of this.order) {
      const size = range[1] - range[0] + 1;
      if (size >= len && (best === null || size <= best[1] - best[0] + 1)) best = range;
    }
    return best === null ? -ENOENT : best[0];
  }

  runs(): [number, number][] {
    const runs: [number, number][] = [];
    this.free.forEach((bit, page) => {
      const run = runs.at(-1);
      if (bit && run !== undefined && run[1] === page - 1) run[1] = page;
      else if (bit) runs.push([page, page]);
    });
    return runs;
  }
}

const operation = fc
  .tuple(fc.boolean(), fc.nat(PAGES - 1), fc.integer({ min: 1, max: 12 }))
  .map(([set, start, len]) => ({ set, start, len: Math.min(len, PAGES - start) }));

describe('range_tree', () => {
  test('holds the same ranges, in the same order of preference, as a bitmap and a list', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const tree = new range_tree();
        const model = new Model();
        for (const { set, start, len } of operations) {
          if (set) {
            expect(tree.range_tree_set(start, len)).toBe(0);
            model.set(start, len);
          } else {
            expect(tree.range_tree_clear(start, len)).toBe(0);
            model.clear(start, len);
          }
          expect(tree.ranges()).toEqual(model.runs());
          const whole = model.free.slice(start, start + len).every((bit) => bit);
          expect(tree.is_range_tree_set(start, len)).toBe(whole ? 0 : -ESRCH);
          for (const want of [1, 2, 3, 5, 8, 13]) expect(tree.range_tree_find(want)).toBe(model.find(want));
        }
      }),
      { seed: 20260525, numRuns: 200 },
    );
  });

  test('a fresh tree hands out pages from its start', () => {
    const tree = new range_tree();
    tree.range_tree_set(0, 16);
    const taken = [0, 1, 2].map(() => {
      const start = tree.range_tree_find(1);
      tree.range_tree_clear(start, 1);
      return start;
    });
    expect(taken).toEqual([0, 1, 2]);
  });

  test('the best fit wins, not the first', () => {
    const tree = new range_tree();
    tree.range_tree_set(2, 3);
    tree.range_tree_set(7, 9);
    expect(tree.range_tree_find(3)).toBe(2);
    expect(tree.range_tree_find(4)).toBe(7);
    expect(tree.range_tree_find(10)).toBe(-ENOENT);
  });

  test('of equal sizes the one freed last wins', () => {
    const tree = new range_tree();
    for (const page of [1, 5, 3]) tree.range_tree_set(page, 1);
    expect(tree.range_tree_find(1)).toBe(3);
  });

  test('of two equal halves the right one is found, because it is inserted last', () => {
    const tree = new range_tree();
    tree.range_tree_set(0, 5);
    tree.range_tree_clear(2, 1);
    expect(tree.range_tree_find(2)).toBe(3);
  });

  test('a split without a node keeps the left part and loses the right one', () => {
    let nodes = 1;
    const tree = new range_tree(() => nodes-- > 0);
    expect(tree.range_tree_set(0, 10)).toBe(0);
    expect(tree.range_tree_clear(4, 2)).toBe(-ENOMEM);
    expect(tree.ranges()).toEqual([[0, 3]]);
    expect(tree.range_tree_set(8, 1)).toBe(-ENOMEM);
    expect(tree.range_tree_set(4, 1)).toBe(0);
    expect(tree.ranges()).toEqual([[0, 4]]);
  });

  test('an arena in 65536 pieces is still quick to take apart and put together', () => {
    const tree = new range_tree();
    const pages = 1 << 17;
    const start = process.hrtime.bigint();
    tree.range_tree_set(0, pages);
    for (let page = 1; page < pages; page += 2) tree.range_tree_clear(page, 1);
    expect(tree.nodes).toBe(pages / 2);
    expect(tree.range_tree_find(1)).toBe(pages - 2);
    for (let page = 1; page < pages; page += 2) tree.range_tree_set(page, 1);
    expect(tree.ranges()).toEqual([[0, pages - 1]]);
    // A list that shifts everything behind the place takes many times as long; this needs well under a second.
    expect(Number(process.hrtime.bigint() - start) / 1e9).toBeLessThan(10);
  });
});
