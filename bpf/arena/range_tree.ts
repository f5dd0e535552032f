/**
 * Port of kernel/bpf/range_tree.c (bpf-next merge 8496d9020ff3): the free pages of an arena as disjoint
 * inclusive ranges of page numbers, merged wherever they touch. A set bit is a free page.
 *
 * The kernel keeps each range in two trees. Their shapes never show, only their orders do, so two ordered
 * lists take their place: one by start, one by descending size where of equal sizes the one inserted
 * later stands later. Left out: nothing. Locking is the caller's, as in the kernel.
 */
import { EFAULT, ENOENT, ENOMEM, ESRCH } from '../../kernel/errno.js';
import { SortedList } from './sorted_list.js';

/** An inclusive range of free pages. */
export interface range_node {
  rn_start: number;
  rn_last: number;
  /** Number of its latest insertion: what decides among equal sizes. */
  inserted: number;
}

/** Says whether the next range node can be allocated. */
export type NodeAllocator = () => boolean;

function rn_size(rn: range_node): number {
  return rn.rn_last - rn.rn_start + 1;
}

/** struct range_tree */
export class range_tree {
  readonly #byStart = new SortedList<range_node>((a, b) => a.rn_start - b.rn_start);
  readonly #bySize = new SortedList<range_node>((a, b) => rn_size(b) - rn_size(a) || a.inserted - b.inserted);
  readonly #mayAllocate: NodeAllocator;
  #insertions = 0;

  /** @param mayAllocate asked before each new node; false makes that allocation fail */
  constructor(mayAllocate: NodeAllocator = () => true) {
    this.#mayAllocate = mayAllocate;
  }

  /** Number of ranges. */
  get nodes(): number {
    return this.#byStart.size;
  }

  /** The free ranges as [first, last] pairs, ascending. */
  ranges(): [first: number, last: number][] {
    return Array.from(this.#byStart, (rn) => [rn.rn_start, rn.rn_last]);
  }

  /**
   * Start of the range that an allocation of `len` pages without an address gets: the smallest that is
   * large enough, of several of that size the one inserted or changed last. -ENOENT when none is.
   */
  range_tree_find(len: number): number {
    const rn = this.#bySize.lastWhere((node) => rn_size(node) >= len);
    return rn === undefined ? -ENOENT : rn.rn_start;
  }

  /** 0 when all of [start, start + len) is free, else -ESRCH. */
  is_range_tree_set(start: number, len: number): number {
    const last = (start + len - 1) >>> 0;
    const left = this.#firstOverlap(start, last);
    return left !== null && left.rn_start <= start && last <= left.rn_last ? 0 : -ESRCH;
  }

  /**
   * Marks [start, start + len) as taken; what is taken already does not matter. 0, or -ENOMEM when a
   * range would have to be split and no node can be had: then the part behind `last` is lost too.
   */
  range_tree_clear(start: number, len: number): number {
    const last = (start + len - 1) >>> 0;
    for (;;) {
      const rn = this.#firstOverlap(start, last);
      if (rn === null) return 0;
      const { rn_start, rn_last } = rn;
      this.#remove(rn);
      if (rn_start < start && rn_last > last) {
        rn.rn_last = start - 1;
        this.#insert(rn);
        return this.#insertNew(last + 1, rn_last);
      }
      if (rn_start < start) {
        rn.rn_last = start - 1;
        this.#insert(rn);
      } else if (rn_last > last) {
        rn.rn_start = last + 1;
        this.#insert(rn);
        return 0;
      }
    }
  }

  /** Marks [start, start + len) as free and merges it with its neighbours. 0, -ENOMEM or -EFAULT. */
  range_tree_set(start: number, len: number): number {
    const last = (start + len - 1) >>> 0;
    if (this.is_range_tree_set(start, len) === 0) return 0;
    const err = this.range_tree_clear(start, len);
    if (err !== 0) return err;

    const before = (start - 1) >>> 0;
    const behind = (last + 1) >>> 0;
    const left = this.#firstOverlap(before, before);
    if (left !== null && left.rn_last !== before) return -EFAULT;
    const right = this.#firstOverlap(behind, behind);
    if (right !== null && right.rn_start !== behind) return -EFAULT;

    if (left !== null) {
      this.#remove(left);
      left.rn_last = last;
      if (right !== null) {
        this.#remove(right);
        left.rn_last = right.rn_last;
      }
      this.#insert(left);
      return 0;
    }
    if (right !== null) {
      this.#remove(right);
      right.rn_start = start;
      this.#insert(right);
      return 0;
    }
    return this.#insertNew(start, last);
  }

  range_tree_destroy(): void {
    this.#byStart.clear();
    this.#bySize.clear();
  }

  /** The leftmost range that shares a page with [start, last]. */
  #firstOverlap(start: number, last: number): range_node | null {
    const rn = this.#byStart.firstNot((node) => node.rn_last < start);
    return rn !== undefined && rn.rn_start <= last ? rn : null;
  }

  #insertNew(rn_start: number, rn_last: number): number {
    if (!this.#mayAllocate()) return -ENOMEM;
    this.#insert({ rn_start, rn_last, inserted: 0 });
    return 0;
  }

  #insert(rn: range_node): void {
    this.#insertions += 1;
    rn.inserted = this.#insertions;
    this.#byStart.insert(rn);
    this.#bySize.insert(rn);
  }

  #remove(rn: range_node): void {
    this.#byStart.remove(rn);
    this.#bySize.remove(rn);
  }
}
