/** A question for two memory management units, and what an answer says. */
import { pageOf, toSigned } from '../emu/address.js';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode, type TlbFiller } from '../emu/cpu.js';
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

/** What the TLB is filled with for an access of a case: fill() takes pages beyond 2^53 as bigint. */
export function fillFor(mmu: TlbFiller, { va, access }: Case): number {
  const page = toSigned(pageOf(va));
  return mmu.fill(Number.isNaN(page) ? BigInt.asIntN(64, pageOf(va)) : page, access);
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

/** The pages of a ram that hold the tables of one case after the other. */
export class Tables {
  private readonly pages: readonly TablePage[];
  private readonly places: ReadonlyMap<number, TablePage>;
  private entries: Entries = new Map();

  /** @param pages physical addresses of the pages in which all entries of all cases lie */
  constructor(ram: Ram, pages: readonly number[]) {
    this.pages = pages.map((pa) => {
      const before = new ArrayBuffer(PAGE);
      return {
        pa,
        words: new BigUint64Array(ram.memory, pa - ram.base, PAGE / 8),
        bytes: Buffer.from(ram.memory, pa - ram.base, PAGE),
        wordsBefore: new BigUint64Array(before),
        bytesBefore: Buffer.from(before),
      };
    });
    this.places = new Map(this.pages.map((page) => [page.pa, page]));
  }

  /** Replaces the tables by these entries. */
  load(entries: Entries): void {
    for (const pa of this.entries.keys()) this.set(pa, 0n);
    for (const [pa, value] of entries) this.set(pa, value);
    this.entries = entries;
    this.restore();
  }

  /** As after `load`. */
  restore(): void {
    for (const { words, wordsBefore } of this.pages) words.set(wordsBefore);
  }

  /** Words that are not as `load` left them. */
  changes(): Entries {
    const changed = new Map<number, bigint>();
    for (const { pa, words, bytes, wordsBefore, bytesBefore } of this.pages) {
      if (bytes.equals(bytesBefore)) continue;
      words.forEach((value, index) => {
        if (value !== wordsBefore[index]) changed.set(pa + index * 8, value);
      });
    }
    return changed;
  }

  private set(pa: number, value: bigint): void {
    const offset = pa % PAGE;
    const page = this.places.get(pa - offset);
    if (page === undefined || offset % 8 !== 0) {
      throw new RangeError(`0x${pa.toString(16)} is not among the tables`);
    }
    page.wordsBefore[offset / 8] = value;
  }
}

interface TablePage {
  readonly pa: number;
  readonly words: BigUint64Array;
  readonly bytes: Buffer;
  readonly wordsBefore: BigUint64Array;
  readonly bytesBefore: Buffer;
}
