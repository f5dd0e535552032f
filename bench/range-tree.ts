/**
 * Operations of the free pages of an arena, against the number of ranges they lie in. One round finds the range for
 * a page, takes the middle out of a range somewhere, which cuts it in two, and puts it back, which joins them again.
 */
import { range_tree } from '../bpf/arena/range_tree.js';
import type { Subject } from './subject.js';

/** Pages of a free range, and of what is taken behind it. */
const FREE = 3;
const PERIOD = FREE + 1;
/** The most ranges of this kind that an arena of 4 GiB holds are 2^18. */
export const RANGES = [2 ** 6, 2 ** 10, 2 ** 14, 2 ** 18] as const;

export class RangeTreeOperations implements Subject {
  readonly #tree = new range_tree();
  readonly #ranges: number;
  #at = 1;

  constructor(
    ranges: number,
    readonly rounds: number,
  ) {
    this.#ranges = ranges;
    const tree = this.#tree;
    tree.range_tree_set(0, ranges * PERIOD);
    for (let range = 0; range < ranges; range++) tree.range_tree_clear(range * PERIOD + FREE, 1);
    if (tree.nodes !== ranges) throw new Error(`${tree.nodes} ranges, not ${ranges}`);
  }

  run(): void {
    const tree = this.#tree;
    for (let i = 0; i < this.rounds; i++) {
      // Every range once before one comes again, neighbours far from each other: an LCG with a power of two as modulus.
      this.#at = (Math.imul(this.#at, 0x9e37_79b5) + 1) >>> 0;
      const page = (this.#at & (this.#ranges - 1)) * PERIOD + 1;
      tree.range_tree_find(1);
      tree.range_tree_clear(page, 1);
      tree.range_tree_set(page, 1);
    }
    if (tree.nodes !== this.#ranges) throw new Error(`${tree.nodes} ranges are left, not ${this.#ranges}`);
  }

  reset(): void {}
  close(): void {}
}
