/**
 * Which stacks have an object at the moment: the counting Bloom filter of mm/kfence/core.c (bpf-next merge
 * 8496d9020ff3). Left out: filter_irq_stacks(), because no interrupt ever comes.
 */
import { jhash64 } from '../../kernel/jhash.js';

/** Innermost entries that tell one allocation from another. */
export const UNIQUE_ALLOC_STACK_DEPTH = 8;
const ALLOC_COVERED_HNUM = 2;
const GOLDEN_RATIO_32 = 0x61c88647;

/** get_alloc_stack_hash() */
export function get_alloc_stack_hash(stack_entries: readonly bigint[], seed: number): number {
  return jhash64(stack_entries.slice(0, UNIQUE_ALLOC_STACK_DEPTH), seed);
}

export class CoverageFilter {
  /** ALLOC_COVERED_ORDER */
  readonly order: number;
  readonly #counts: Int32Array;

  /** @param objects CONFIG_KFENCE_NUM_OBJECTS */
  constructor(objects: number) {
    this.order = 31 - Math.clz32(objects) + 2;
    this.#counts = new Int32Array(1 << this.order);
  }

  /** alloc_covered_add(): `val` is 1 or -1. */
  alloc_covered_add(alloc_stack_hash: number, val: number): void {
    for (const at of this.#probes(alloc_stack_hash)) this.#counts[at] = (this.#counts[at] ?? 0) + val;
  }

  alloc_covered_contains(alloc_stack_hash: number): boolean {
    return this.#probes(alloc_stack_hash).every((at) => this.#counts[at] !== 0);
  }

  /** True when nothing is counted. */
  get empty(): boolean {
    return this.#counts.every((count) => count === 0);
  }

  #probes(alloc_stack_hash: number): number[] {
    const probes: number[] = [];
    let hash = alloc_stack_hash;
    for (let i = 0; i < ALLOC_COVERED_HNUM; i++) {
      probes.push(hash & ((1 << this.order) - 1));
      // hash_32()
      hash = Math.imul(hash, GOLDEN_RATIO_32) >>> (32 - this.order);
    }
    return probes;
  }
}
