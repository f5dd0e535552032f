/**
 * Which combinations x86/access.c of kvm-unit-tests runs, in its order: a counter over the bits of
 * access-model.ts from which the illegal values are left out. A combination has a number, its place in that
 * order, so that a part of the matrix can be run.
 */
import { AC, ALL_BITS, isLegal, type ModelCpu, NAMES } from './access-model.js';

/** The bits below this one are those of PTE and PDE. Whether they go together depends on EFER.NX alone. */
const ENTRY_BITS = AC.pdpteRo;
const ENTRY_MASK = (1 << ENTRY_BITS) - 1;
const SMEP = 1 << AC.smep;

/** Which combinations. */
export interface MatrixOptions extends ModelCpu {
  /** Those with CR4.SMEP set as well, which the program leaves out of its sweep. */
  readonly smep: boolean;
}

/** Bits that a combination must have, and must not have. */
export interface Filter {
  readonly set: number;
  readonly clear: number;
}

const EVERY: Filter = { set: 0, clear: 0 };

/** Combinations that have all but the entry bits in common. */
export interface Block {
  /** Number of its first combination. */
  readonly first: number;
  /** The common bits. */
  readonly high: number;
  /** Entry bits of its combinations, ascending. */
  readonly lows: Int32Array;
}

export class Matrix {
  readonly blocks: readonly Block[];
  /** Number of combinations. */
  readonly count: number;

  constructor(readonly options: MatrixOptions) {
    const lows = [entryBits(options, 0), entryBits(options, 1 << AC.nxe)] as const;
    const blocks: Block[] = [];
    let first = 0;
    for (let high = 0; high <= ALL_BITS; high += ENTRY_MASK + 1) {
      if (!isLegal(high, options) || (!options.smep && (high & SMEP) !== 0)) continue;
      const block: Block = { first, high, lows: lows[((high >> AC.nxe) & 1) === 1 ? 1 : 0] };
      blocks.push(block);
      first += block.lows.length;
    }
    this.blocks = blocks;
    this.count = first;
  }

  /** Number of the combinations from number `from` to below `to` that pass. */
  countOf(filter: Filter, from = 0, to = this.count): number {
    let count = 0;
    for (const block of this.blocks) {
      if (!mayPass(block, filter)) continue;
      const begin = Math.max(0, from - block.first);
      const end = Math.min(block.lows.length, to - block.first);
      for (let i = begin; i < end; i++) if (passes(block.lows[i] ?? 0, filter, ENTRY_MASK)) count += 1;
    }
    return count;
  }

  /** Calls `visit` with each combination from number `from` to below `to` that passes, until it returns false. */
  visit(
    { from = 0, to = this.count, filter = EVERY }: { from?: number; to?: number; filter?: Filter },
    visit: (c: number, index: number) => boolean,
  ): void {
    for (const block of this.blocks) {
      const { first, high, lows } = block;
      const begin = Math.max(0, from - first);
      const end = Math.min(lows.length, to - first);
      if (begin >= end || !mayPass(block, filter)) continue;
      for (let i = begin; i < end; i++) {
        const low = lows[i] ?? 0;
        if (passes(low, filter, ENTRY_MASK) && !visit(high | low, first + i)) return;
      }
    }
  }
}

function entryBits(cpu: ModelCpu, nxe: number): Int32Array {
  const lows: number[] = [];
  for (let low = 0; low <= ENTRY_MASK; low++) if (isLegal(low | nxe, cpu)) lows.push(low);
  return Int32Array.from(lows);
}

/** Of the bits in `mask`. */
function passes(c: number, { set, clear }: Filter, mask = ALL_BITS): boolean {
  return (c & set & mask) === (set & mask) && (c & clear & mask) === 0;
}

function mayPass({ high }: Block, filter: Filter): boolean {
  return passes(high, filter, ALL_BITS & ~ENTRY_MASK);
}

/** The combination as the names of its bits. */
export function nameOf(c: number): string {
  const names = NAMES.filter((_, bit) => ((c >> bit) & 1) === 1);
  return names.length === 0 ? 'no flag' : names.join(' ');
}

/**
 * A filter from names of flags; `!` in front means that the flag is clear.
 * @throws RangeError for a name that is none, or one that is asked for both ways
 */
export function parseFilter(text: string): Filter {
  let set = 0;
  let clear = 0;
  for (const word of text.split(/[\s,]+/).filter((each) => each !== '')) {
    const not = word.startsWith('!');
    const bit = NAMES.indexOf(not ? word.slice(1) : word);
    if (bit < 0) throw new RangeError(`there is no flag "${word}"; flags are: ${NAMES.join(' ')}`);
    if (not) clear |= 1 << bit;
    else set |= 1 << bit;
  }
  if ((set & clear) !== 0) throw new RangeError(`${nameOf(set & clear)}: set and clear at once`);
  return { set, clear };
}

/** The combination in which everything is allowed: both entries present, writable, of the user, executable. */
export const BENIGN =
  (1 << AC.pteRw) |
  (1 << AC.pteUser) |
  (1 << AC.pteP) |
  (1 << AC.pdeRw) |
  (1 << AC.pdeUser) |
  (1 << AC.pdeP) |
  (1 << AC.nxe) |
  (1 << AC.wp);

/**
 * Every legal combination in which one or two flags are other than in `base`; and `base` itself. A flag that
 * is illegal without another (a protection-key right without CR4.PKE, bit 13 of a PDE that is no leaf) brings
 * that one along.
 */
export function pairwise(base: number, cpu: ModelCpu): number[] {
  const found = new Set<number>();
  const add = (c: number): void => {
    let whole = c;
    if ((c & ((1 << AC.pkruAd) | (1 << AC.pkruWd))) !== 0) whole |= 1 << AC.pke;
    if ((c & (1 << AC.pde13)) !== 0) whole |= 1 << AC.pdePse;
    if (isLegal(whole, cpu)) found.add(whole);
  };
  add(base);
  for (let a = 0; a < NAMES.length; a++) {
    add(base ^ (1 << a));
    for (let b = a + 1; b < NAMES.length; b++) add(base ^ (1 << a) ^ (1 << b));
  }
  return [...found].sort((one, other) => one - other);
}
