/**
 * What a table entry is, decided on its two 32-bit halves.
 *
 * The predicates of an architecture take bigints; asking several of them at each level of each walk costs
 * more than the rest of a walk. The answer depends on the value alone, and almost every walk meets the
 * same few values, so the last table entry of each level is remembered with its answer.
 */
import type { Pgtable } from '../arch/arch.js';

/** Levels that hold table entries, by their place in a walk. The folded p4d is the root level. */
export const P4D = 0;
export const PUD = 1;
export const PMD = 2;

export const ENTRY_NONE = -1;
export const ENTRY_LEAF = -2;
export const ENTRY_BAD = -3;

const NAMES = ['p4d', 'pud', 'pmd'] as const;

/** Kernel name of a level. */
export function levelName(level: number): 'p4d' | 'pud' | 'pmd' {
  return NAMES[level] ?? 'pmd';
}

export class TableEntries {
  readonly #pgtable: Pgtable;
  // Zero is never a table entry, so the memory starts out empty.
  readonly #lo = new Uint32Array(3);
  readonly #hi = new Uint32Array(3);
  readonly #table = new Float64Array(3);

  constructor(pgtable: Pgtable) {
    this.#pgtable = pgtable;
  }

  /**
   * @returns physical address of the table that the entry points to, or ENTRY_NONE, ENTRY_LEAF or
   *   ENTRY_BAD; in this order, as the walkers of mm/memory.c test
   */
  classify(level: number, lo: number, hi: number): number {
    if ((lo | hi) === 0) return ENTRY_NONE;
    if (this.#lo[level] === lo && this.#hi[level] === hi) return this.#table[level] ?? ENTRY_BAD;
    const kind = this.#ask(level, (BigInt(hi) << 32n) | BigInt(lo));
    if (kind >= 0) {
      this.#lo[level] = lo;
      this.#hi[level] = hi;
      this.#table[level] = kind;
    }
    return kind;
  }

  #ask(level: number, entry: bigint): number {
    const pgtable = this.#pgtable;
    switch (level) {
      case P4D:
        if (pgtable.p4d_none(entry)) return ENTRY_NONE;
        if (pgtable.p4d_bad(entry)) return ENTRY_BAD;
        break;
      case PUD:
        if (pgtable.pud_none(entry)) return ENTRY_NONE;
        if (pgtable.pud_leaf(entry)) return ENTRY_LEAF;
        if (pgtable.pud_bad(entry)) return ENTRY_BAD;
        break;
      default:
        if (pgtable.pmd_none(entry)) return ENTRY_NONE;
        if (pgtable.pmd_leaf(entry)) return ENTRY_LEAF;
        if (pgtable.pmd_bad(entry)) return ENTRY_BAD;
        break;
    }
    return pgtable.tablePa(entry);
  }
}
