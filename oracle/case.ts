/** A question for two memory management units, and what an answer says. */
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
} from '../emu/cpu.js';
import type { WalkLevel } from '../emu/events.js';
import type { Ram } from '../emu/ram.js';

const PAGE = 4096;

export type ArchName = 'x86-64' | 'arm64';

/** Table entries by physical address. All other memory is zero. */
export type Entries = ReadonlyMap<number, bigint>;

export interface Case {
  readonly entries: Entries;
  readonly access: AccessCode;
  /** Unsigned; a multiple of 4 for a fetch on arm64. */
  readonly va: bigint;
}

/** What an access comes to. */
export interface Answer {
  /** Physical address, with the offset in the page; null for a fault. */
  readonly pa: number | null;
  /** x86-64: the error code, or NOT_CANONICAL. arm64: the fault status code. 0 without a fault. */
  readonly code: number;
  /** CR2 or FAR; null without a fault, and for a fault that has none. */
  readonly address: bigint | null;
  /** All rights of a page that translates, PERM_*; 0 for a fault. */
  readonly rights: number;
  /** Words of the tables that the access changed, with their new values. */
  readonly writes: Entries;
}

/** The answer of the engine's MMU. */
export interface Theirs extends Answer {
  /** PERM_* of accesses that would change no more than the one asked for did. */
  readonly silent: number;
}

/** The answer of kfault's MMU. */
export interface Ours extends Answer {
  /** The entries read, root first. */
  readonly levels: readonly WalkLevel[];
  /** PERM_* that a TLB fill gives out for the access. */
  readonly granted: number;
  /** How the parts of our MMU contradict each other; null when they do not. */
  readonly flaw: string | null;
}

export const ACCESSES: readonly AccessCode[] = [ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH];

export function permOf(access: AccessCode): number {
  switch (access) {
    case ACCESS_READ:
      return PERM_READ;
    case ACCESS_WRITE:
      return PERM_WRITE;
    case ACCESS_FETCH:
      return PERM_EXEC;
  }
}

export function sameEntries(a: Entries, b: Entries): boolean {
  if (a.size !== b.size) return false;
  for (const [pa, value] of a) if (b.get(pa) !== value) return false;
  return true;
}

/** Would an access that writes `more` find nothing left to write after one that wrote `done`? Bits are only set. */
export function coveredBy(more: Entries, done: Entries): boolean {
  return [...more].every(([pa, value]) => (value & ~(done.get(pa) ?? 0n)) === 0n);
}

/** What two answers differ in, in words; null when they are the same. */
export function difference(ours: Answer, theirs: Answer): string | null {
  const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
  const outcome = ({ pa, code }: Answer): string =>
    pa === null ? `faults with ${code < 0 ? '#GP' : hex(code)}` : `translates to ${hex(pa)}`;
  if (ours.pa !== theirs.pa || ours.code !== theirs.code) {
    return `kfault ${outcome(ours)}, the engine ${outcome(theirs)}`;
  }
  if (ours.address !== theirs.address) {
    const address = (a: Answer): string => (a.address === null ? 'none' : hex(a.address));
    return `fault address: kfault ${address(ours)}, the engine ${address(theirs)}`;
  }
  if (ours.rights !== theirs.rights) {
    return `rights (read 1, write 2, execute 4): kfault ${ours.rights}, the engine ${theirs.rights}`;
  }
  if (!sameEntries(ours.writes, theirs.writes)) {
    const list = (entries: Entries): string =>
      entries.size === 0 ? 'nothing' : [...entries].map(([pa, v]) => `${hex(pa)} = ${hex(v)}`).join(', ');
    return `table entries written: kfault ${list(ours.writes)}; the engine ${list(theirs.writes)}`;
  }
  return null;
}

/** The part of a ram that holds the tables of one case after the other. */
export class Tables {
  private readonly words: BigUint64Array;
  private readonly before: BigUint64Array;
  private readonly pages: readonly { readonly now: Buffer; readonly before: Buffer }[];
  private entries: Entries = new Map();

  /** @param size bytes from `base` on, whole pages; all entries of all cases lie there */
  constructor(
    ram: Ram,
    private readonly base: number,
    size: number,
  ) {
    const start = base - ram.base;
    const copy = new ArrayBuffer(size);
    this.words = new BigUint64Array(ram.memory, start, size / 8);
    this.before = new BigUint64Array(copy);
    this.pages = Array.from({ length: size / PAGE }, (_, page) => ({
      now: Buffer.from(ram.memory, start + page * PAGE, PAGE),
      before: Buffer.from(copy, page * PAGE, PAGE),
    }));
  }

  /** Replaces the tables by these entries. */
  load(entries: Entries): void {
    for (const pa of this.entries.keys()) this.before[this.index(pa)] = 0n;
    for (const [pa, value] of entries) this.before[this.index(pa)] = value;
    this.entries = entries;
    this.restore();
  }

  /** As after `load`. */
  restore(): void {
    this.words.set(this.before);
  }

  /** Words that are not as `load` left them. */
  changes(): Entries {
    const changed = new Map<number, bigint>();
    this.pages.forEach(({ now, before }, page) => {
      if (now.equals(before)) return;
      const first = (page * PAGE) / 8;
      for (let index = first; index < first + PAGE / 8; index++) {
        const value = this.words[index] ?? 0n;
        if (value !== this.before[index]) changed.set(this.base + index * 8, value);
      }
    });
    return changed;
  }

  private index(pa: number): number {
    const index = (pa - this.base) / 8;
    if (!(index >= 0 && index < this.words.length)) {
      throw new RangeError(`0x${pa.toString(16)} is not among the tables`);
    }
    return index;
  }
}
