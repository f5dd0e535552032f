/**
 * An ordered list that stays fast with hundreds of thousands of entries.
 *
 * Entries lie in chunks of at most CHUNK_MAX, each chunk an array, all in order. Every operation is two
 * binary searches and one shift inside a chunk, which is a single short memmove; that beats a tree of
 * nodes at every size an arena can reach, and there is nothing to rebalance. A chunk is split when it is
 * full and removed when it is empty, so the outer array changes only once in some hundred operations.
 */

const CHUNK_MAX = 512;

/** A list kept in the order of `compare`. No two entries may compare equal. */
export class SortedList<T> {
  readonly #compare: (a: T, b: T) => number;
  #chunks: T[][] = [];
  #size = 0;

  /** @param compare negative when `a` comes before `b`; 0 only for the same entry */
  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  get size(): number {
    return this.#size;
  }

  insert(entry: T): void {
    this.#size += 1;
    const before = (other: T) => this.#compare(other, entry) < 0;
    const index = Math.min(this.#chunkAfter(before), this.#chunks.length - 1);
    const chunk = this.#chunks[index];
    if (chunk === undefined) {
      this.#chunks.push([entry]);
      return;
    }
    chunk.splice(partition(chunk, before), 0, entry);
    if (chunk.length > CHUNK_MAX) this.#chunks.splice(index + 1, 0, chunk.splice(CHUNK_MAX >> 1));
  }

  /** Takes the entry out that compares equal. Throws when there is none: the caller lost track of it. */
  remove(entry: T): void {
    const before = (other: T) => this.#compare(other, entry) < 0;
    const index = this.#chunkAfter(before);
    const chunk = this.#chunks[index];
    const at = chunk === undefined ? 0 : partition(chunk, before);
    const found = chunk?.[at];
    if (chunk === undefined || found === undefined || this.#compare(found, entry) !== 0) {
      throw new Error('SortedList: the entry to remove is not in the list');
    }
    chunk.splice(at, 1);
    if (chunk.length === 0) this.#chunks.splice(index, 1);
    this.#size -= 1;
  }

  /** First entry for which `before` is false. `before` must be true for a beginning of the list only. */
  firstNot(before: (entry: T) => boolean): T | undefined {
    const chunk = this.#chunks[this.#chunkAfter(before)];
    return chunk?.[partition(chunk, before)];
  }

  /** Last entry for which `before` is true. `before` must be true for a beginning of the list only. */
  lastWhere(before: (entry: T) => boolean): T | undefined {
    const index = this.#chunkAfter(before);
    const chunk = this.#chunks[index];
    const at = chunk === undefined ? 0 : partition(chunk, before);
    if (at > 0) return chunk?.[at - 1];
    return this.#chunks[index - 1]?.at(-1);
  }

  clear(): void {
    this.#chunks = [];
    this.#size = 0;
  }

  *[Symbol.iterator](): IterableIterator<T> {
    for (const chunk of this.#chunks) yield* chunk;
  }

  /** Index of the first chunk whose last entry is not `before`; the number of chunks when there is none. */
  #chunkAfter(before: (entry: T) => boolean): number {
    return partition(this.#chunks, (chunk) => before(chunk[chunk.length - 1] as T));
  }
}

/** Number of leading entries for which `before` is true. */
function partition<T>(entries: readonly T[], before: (entry: T) => boolean): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (before(entries[middle] as T)) low = middle + 1;
    else high = middle;
  }
  return low;
}
