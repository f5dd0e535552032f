/** What a walker remembers of its walks, so that the next one nearby is short. */
import type { WalkLevel } from '../../emu/events.js';

/**
 * A way down the tables: the entries read, and what the upper ones came to. It serves as a memory of the
 * 2 MiB around an address, and is only believed while the ram still holds the same entries.
 */
export class Way {
  /** Physical addresses and halves of the entries, by place. */
  readonly entryPa = new Float64Array(5);
  readonly entryLo = new Int32Array(5);
  readonly entryHi = new Int32Array(5);
  /** The upper entries as events show them; made when first asked for. */
  readonly levels: (WalkLevel | undefined)[] = [undefined, undefined, undefined, undefined];
  /** Place of the root. */
  first: 0 | 1 = 1;

  /** Which 2 MiB these are, from the lowest address on; NaN when nothing is remembered. */
  region = Number.NaN;
  /** Control.key */
  key = -1;
  /** Control.reserved */
  reserved = 0;
  /** Where in the ram's halves the entries of places 1 to 3 are, and what they held. */
  word0 = 0;
  word1 = 0;
  word2 = 0;
  low0 = 0;
  low1 = 0;
  low2 = 0;
  high0 = 0;
  high1 = 0;
  high2 = 0;
  /** The last table: its place among the halves, and its physical address. */
  tableWord = 0;
  table = 0;
  /** US, RW and A of the upper entries together, and their high halves OR-ed. */
  lows = 0;
  highs = 0;
}

/** The entries of a walk, by place. */
export interface EntriesRead {
  readonly first: 0 | 1;
  readonly last: number;
  readonly entryPa: Float64Array;
  readonly entryLo: Int32Array;
  readonly entryHi: Int32Array;
}

// What is not exported is a constant to the JavaScript engine, an import is a place in memory: see walk.ts.
const WAYS_LOG2 = 4;

/** Ways remembered, one for each region that asks for its place last. */
export class Ways {
  readonly #ways: readonly Way[] = Array.from({ length: 1 << WAYS_LOG2 }, () => new Way());
  readonly #none = new Way();

  /** Stacks, text and arenas tend to start at round addresses: mixes the bits of the region's number. */
  of(region: number): Way {
    return this.#ways[Math.imul(region, 0x9e3779b1) >>> (32 - WAYS_LOG2)] ?? this.#none;
  }
}
