/**
 * The free pages of an arena as a plain list: what kernel/bpf/range_tree.c does, without a tree. The list is
 * in the order in which the ranges came or changed last, which is all that decides among equal sizes.
 */
import { ENOENT, ENOMEM, ESRCH } from '../kernel/errno.js';

interface Range {
  first: number;
  last: number;
}

export class FreeRanges {
  /** Disjoint, never adjacent; the one that came or changed last is last. */
  #ranges: Range[] = [];
  readonly #mayAllocate: () => boolean;

  /** @param mayAllocate asked before each new range; false makes that allocation fail */
  constructor(mayAllocate: () => boolean = () => true) {
    this.#mayAllocate = mayAllocate;
  }

  /** [first, last] pairs, ascending. */
  get ranges(): [first: number, last: number][] {
    return this.#ascending().map(({ first, last }) => [first, last]);
  }

  has(page: number): boolean {
    return this.#ranges.some(({ first, last }) => first <= page && page <= last);
  }

  /** Where an allocation without an address goes: best fit, of equal sizes the newest. Or -ENOENT. */
  find(len: number): number {
    let best: Range | null = null;
    for (const range of this.#ranges) {
      const size = range.last - range.first + 1;
      if (size >= len && (best === null || size <= best.last - best.first + 1)) best = range;
    }
    return best === null ? -ENOENT : best.first;
  }

  isSet(start: number, len: number): number {
    const last = start + len - 1;
    return this.#ranges.some((range) => range.first <= start && last <= range.last) ? 0 : -ESRCH;
  }

  clear(start: number, len: number): number {
    const last = start + len - 1;
    for (const range of this.#ascending()) {
      if (range.last < start || range.first > last) continue;
      this.#ranges = this.#ranges.filter((other) => other !== range);
      if (range.first < start) this.#ranges.push({ first: range.first, last: start - 1 });
      if (range.last <= last) continue;
      // Only a range that is cut in two needs memory.
      if (range.first < start && !this.#mayAllocate()) return -ENOMEM;
      this.#ranges.push({ first: last + 1, last: range.last });
    }
    return 0;
  }

  set(start: number, len: number): number {
    if (this.isSet(start, len) === 0) return 0;
    const err = this.clear(start, len);
    if (err !== 0) return err;
    const last = start + len - 1;
    const left = this.#ranges.find((range) => range.last === start - 1);
    const right = this.#ranges.find((range) => range.first === last + 1);
    if (left === undefined && right === undefined && !this.#mayAllocate()) return -ENOMEM;
    this.#ranges = this.#ranges.filter((range) => range !== left && range !== right);
    this.#ranges.push({ first: left?.first ?? start, last: right?.last ?? last });
    return 0;
  }

  #ascending(): Range[] {
    return [...this.#ranges].sort((a, b) => a.first - b.first);
  }
}
