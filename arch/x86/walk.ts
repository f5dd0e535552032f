/**
 * What the memory management unit of an x86-64 CPU does with an address: the walk of four levels, the
 * rights that come out of it, and the error code when they do not suffice.
 *
 * Intel SDM volume 3, chapter "Paging", sections "4-Level Paging and 5-Level Paging", "Determination of
 * Access Rights" and "Page-Fault Exceptions". Left out: five levels, protection keys, shadow stacks, LAM,
 * LASS. Physical memory that is not there reads as all ones, as on a PC.
 *
 * Numbers and 32-bit halves only: this is asked by the engine in the middle of an instruction.
 */
import {
  ACCESS_FETCH,
  ACCESS_WRITE,
  type AccessCode,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
} from '../../emu/cpu.js';
import type { LevelName, WalkLevel } from '../../emu/events.js';
import type { Ram } from '../../emu/ram.js';

/** Error-code bits, enum x86_pf_error_code in arch/x86/include/asm/trap_pf.h. */
export const X86_PF_PROT = 1 << 0;
export const X86_PF_WRITE = 1 << 1;
export const X86_PF_USER = 1 << 2;
export const X86_PF_RSVD = 1 << 3;
export const X86_PF_INSTR = 1 << 4;
export const X86_PF_PK = 1 << 5;
export const X86_PF_SHSTK = 1 << 6;
export const X86_PF_SGX = 1 << 15;
/** Bit 31, as an unsigned number. */
export const X86_PF_RMP = 0x80000000;

/** Low halves of entries. */
export const P = 1 << 0;
export const RW = 1 << 1;
export const US = 1 << 2;
export const A = 1 << 5;
export const D = 1 << 6;
export const PS = 1 << 7;
/** NX in the high half. */
const NX_HI = 0x80000000;

/** How a walk ends. */
export const WALKED = 0;
export const NOT_PRESENT = 1;
export const RESERVED = 2;
export type WalkEnd = typeof WALKED | typeof NOT_PRESENT | typeof RESERVED;

/** Why an access of a walked page is refused; 0 when it is not. */
export const ALLOWED = 0;
export const USER_TO_SUPERVISOR = 1;
export const READ_ONLY = 2;
export const NO_EXECUTE = 3;
export const SMAP_REFUSES = 4;
export const SMEP_REFUSES = 5;
export type Refusal = 0 | 1 | 2 | 3 | 4 | 5;

const TWO_32 = 4294967296;
const LIMIT = 0x8000_0000_0000;

/** Levels by their place in the walk. */
export const LEVEL_NAMES: readonly LevelName[] = ['pgd', 'pud', 'pmd', 'pte'];

/** Is a signed address in one of the two halves that 48-bit addresses have? */
export function isCanonical(va: number): boolean {
  return va >= -LIMIT && va < LIMIT;
}

/** Control state of one CPU, as far as translation depends on it. */
export class Control {
  /** Physical address of the root table: CR3 without PCID and flags. */
  root = 0;
  wp = true;
  smep = false;
  smap = false;
  nxe = true;
  /** Bits of an entry's high half that must be 0. */
  reserved = 0;

  constructor(
    /** Physical address bits of the CPU, 36 to 52. */
    readonly maxphyaddr: number,
  ) {}

  update(cr0: bigint, cr3: bigint, cr4: bigint, efer: bigint): void {
    this.root = Number(cr3 & 0x000f_ffff_ffff_f000n);
    this.wp = (cr0 & (1n << 16n)) !== 0n;
    this.smep = (cr4 & (1n << 20n)) !== 0n;
    this.smap = (cr4 & (1n << 21n)) !== 0n;
    this.nxe = (efer & (1n << 11n)) !== 0n;
    const beyond = 0xfffff & ~((1 << (this.maxphyaddr - 32)) - 1);
    this.reserved = beyond | (this.nxe ? 0 : NX_HI);
  }
}

/**
 * A way down the tables: the entries read, and what the upper three of them came to. It serves as a memory
 * of the 2 MiB around an address, and is only believed while the ram still holds the same entries.
 */
class Way {
  /** Physical addresses and halves of the entries. */
  readonly entryPa = new Float64Array(4);
  readonly entryLo = new Int32Array(4);
  readonly entryHi = new Int32Array(4);
  /** The upper entries as events show them; made when first asked for. */
  readonly levels: (WalkLevel | undefined)[] = [undefined, undefined, undefined];

  /** Which 2 MiB these are, from the lowest address on; NaN when nothing is remembered. */
  region = Number.NaN;
  root = -1;
  reserved = 0;
  /** Where in the ram's halves the upper entries are, and what they held. */
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

/** Ways remembered: two to the power of WAYS_LOG2. */
const WAYS_LOG2 = 4;
const REGION = 0x200000;

/** Place of a region among the ways. Stacks, text and arenas tend to start at round addresses: mixes the bits. */
function placeOf(region: number): number {
  return Math.imul(region, 0x9e3779b1) >>> (32 - WAYS_LOG2);
}

/** One walk after the other; the fields describe the last one. */
export class Walker {
  /** Physical address of the page, 4 KiB part of it in case of a large one. */
  pa = 0;
  /** US and RW of all levels together. */
  rights = 0;
  /** True when no level forbids execution. */
  executable = false;
  /** A of all levels together. */
  accessed = false;
  /** D of the leaf. */
  dirty = false;
  /** Entries read, 0 to 4. */
  depth = 0;

  /** The ram as signed halves: they are small integers to the JavaScript engine. */
  readonly #words: Int32Array;
  readonly #base: number;
  readonly #ways: readonly Way[] = Array.from({ length: 1 << WAYS_LOG2 }, () => new Way());
  /** For entries that are not in the ram any more. */
  readonly #elsewhere = new Way();
  #way = this.#elsewhere;

  constructor(
    ram: Ram,
    readonly control: Control,
  ) {
    this.#words = new Int32Array(ram.words32.buffer, ram.words32.byteOffset, ram.words32.length);
    this.#base = ram.base;
  }

  /** Physical addresses and halves of the entries read. */
  get entryPa(): Float64Array {
    return this.#way.entryPa;
  }
  get entryLo(): Int32Array {
    return this.#way.entryLo;
  }
  get entryHi(): Int32Array {
    return this.#way.entryHi;
  }

  /** Makes entries that were read earlier those of the last walk. */
  setEntries(entryPa: readonly number[], entryLo: readonly number[], entryHi: readonly number[]): void {
    const way = this.#elsewhere;
    way.entryPa.set(entryPa);
    way.entryLo.set(entryLo);
    way.entryHi.set(entryHi);
    this.depth = entryPa.length;
    this.#way = way;
  }

  /**
   * The entries of the last walk as events show them. Objects of upper levels are shared between walks.
   * @param words64 the ram, in which the entries still are as they were read
   */
  levels(words64: BigUint64Array): WalkLevel[] {
    const way = this.#way;
    const levels: WalkLevel[] = [];
    for (let i = 0; i < this.depth; i++) {
      let level = way.levels[i];
      if (level === undefined) {
        const entryPa = way.entryPa[i] ?? 0;
        const inRam = way === this.#elsewhere ? undefined : words64[(entryPa - this.#base) / 8];
        level = { level: LEVEL_NAMES[i] ?? 'pte', entryPa, entry: inRam ?? halves(way, i) };
        if (i < 3 && !Number.isNaN(way.region)) way.levels[i] = level;
      }
      levels.push(level);
    }
    return levels;
  }

  /**
   * Walks the tables for a canonical address.
   * @param va signed number
   */
  walk(va: number): WalkEnd {
    const { control } = this;
    const words = this.#words;
    const region = Math.floor(va / REGION);
    const way = this.#ways[placeOf(region)] ?? this.#elsewhere;
    this.#way = way;
    if (
      way.region === region &&
      way.root === control.root &&
      way.reserved === control.reserved &&
      words[way.word0] === way.low0 &&
      words[way.word0 + 1] === way.high0 &&
      words[way.word1] === way.low1 &&
      words[way.word1 + 1] === way.high1 &&
      words[way.word2] === way.low2 &&
      words[way.word2 + 1] === way.high2
    ) {
      return this.#lastStep(way, va);
    }
    return this.#walkAll(way, region, va);
  }

  /** The rest of a walk that is known down to the last table. */
  #lastStep(way: Way, va: number): WalkEnd {
    const words = this.#words;
    const { nxe } = this.control;
    const index = (va >>> 12) & 511;
    const at = way.tableWord + index * 2;
    const low = words[at] ?? 0;
    const high = words[at + 1] ?? 0;
    way.entryPa[3] = way.table + index * 8;
    way.entryLo[3] = low;
    way.entryHi[3] = high;
    this.depth = 4;
    if ((low & P) === 0) return NOT_PRESENT;
    if ((high & way.reserved) !== 0) return RESERVED;
    const lows = way.lows & low;
    this.pa = (high & 0xfffff) * TWO_32 + ((low & 0xfffff000) >>> 0);
    this.dirty = (low & D) !== 0;
    this.rights = lows & (RW | US);
    this.executable = (way.highs | high) >= 0 || !nxe;
    this.accessed = (lows & A) !== 0;
    return WALKED;
  }

  #walkAll(way: Way, region: number, va: number): WalkEnd {
    const { entryPa, entryLo, entryHi, levels } = way;
    const { reserved, nxe, root } = this.control;
    const words = this.#words;
    way.region = Number.NaN;
    levels[0] = levels[1] = levels[2] = undefined;
    const lo = va | 0;
    const hi = Math.floor(va / TWO_32);
    let rights = RW | US;
    let highs = 0;
    let accessed = A;
    let table = root;
    let index = (hi >>> 7) & 511;
    for (let level = 0; ; level++) {
      const word = (table - this.#base) / 4;
      let low = -1;
      let high = -1;
      if (word >= 0 && word + 1024 <= words.length) {
        const at = (word | 0) + index * 2;
        low = words[at] ?? 0;
        high = words[at + 1] ?? 0;
      }
      entryPa[level] = table + index * 8;
      entryLo[level] = low;
      entryHi[level] = high;
      this.depth = level + 1;
      if ((low & P) === 0) return NOT_PRESENT;
      if ((high & reserved) !== 0) return RESERVED;
      rights &= low;
      highs |= high;
      accessed &= low;
      const target = (high & 0xfffff) * TWO_32;
      if (level < 3 && (low & PS) === 0) {
        table = target + ((low & 0xfffff000) >>> 0);
        if (level === 0) index = ((hi & 0x7f) << 2) | (lo >>> 30);
        else index = (level === 1 ? lo >>> 21 : lo >>> 12) & 511;
        if (level === 2) this.#remember(way, region, table, rights | accessed, highs);
        continue;
      }
      if (level === 3) {
        this.pa = target + ((low & 0xfffff000) >>> 0);
      } else if (level === 2) {
        if ((low & 0x001fe000) !== 0) return RESERVED;
        this.pa = target + ((low & 0xffe00000) >>> 0) + (lo & 0x001ff000);
      } else {
        if (level === 0 || (low & 0x3fffe000) !== 0) return RESERVED;
        this.pa = target + ((low & 0xc0000000) >>> 0) + (lo & 0x3ffff000);
      }
      this.dirty = (low & D) !== 0;
      break;
    }
    this.rights = rights;
    this.executable = highs >= 0 || !nxe;
    this.accessed = accessed !== 0;
    return WALKED;
  }

  /** Keeps the way to a last table, if that is in the ram. */
  #remember(way: Way, region: number, table: number, lows: number, highs: number): void {
    const { entryPa, entryLo, entryHi } = way;
    const base = this.#base;
    const tableWord = (table - base) / 4;
    if (!(tableWord >= 0 && tableWord + 1024 <= this.#words.length)) return;
    for (let level = 0; level < 3; level++) {
      const word = ((entryPa[level] ?? 0) - base) / 4;
      if (!(word >= 0 && word + 1 < this.#words.length)) return;
    }
    way.region = region;
    way.root = this.control.root;
    way.reserved = this.control.reserved;
    way.word0 = ((entryPa[0] ?? 0) - base) / 4;
    way.word1 = ((entryPa[1] ?? 0) - base) / 4;
    way.word2 = ((entryPa[2] ?? 0) - base) / 4;
    way.low0 = entryLo[0] ?? 0;
    way.low1 = entryLo[1] ?? 0;
    way.low2 = entryLo[2] ?? 0;
    way.high0 = entryHi[0] ?? 0;
    way.high1 = entryHi[1] ?? 0;
    way.high2 = entryHi[2] ?? 0;
    way.tableWord = tableWord;
    way.table = table;
    way.lows = lows;
    way.highs = highs;
  }

  /** After a walk that came through: may the access be made? */
  refusal(access: AccessCode, user: boolean, ac: boolean): Refusal {
    const { control, rights } = this;
    if (user) {
      if ((rights & US) === 0) return USER_TO_SUPERVISOR;
      if (access === ACCESS_FETCH) return this.executable ? ALLOWED : NO_EXECUTE;
      return access === ACCESS_WRITE && (rights & RW) === 0 ? READ_ONLY : ALLOWED;
    }
    if (access === ACCESS_FETCH) {
      if (!this.executable) return NO_EXECUTE;
      return control.smep && (rights & US) !== 0 ? SMEP_REFUSES : ALLOWED;
    }
    if (control.smap && !ac && (rights & US) !== 0) return SMAP_REFUSES;
    return access === ACCESS_WRITE && control.wp && (rights & RW) === 0 ? READ_ONLY : ALLOWED;
  }

  /** After a walk that came through: all rights of the page, PERM_*, whatever A and D say. */
  usable(user: boolean, ac: boolean): number {
    const { control, rights } = this;
    const isUserPage = (rights & US) !== 0;
    if (user && !isUserPage) return 0;
    let perms = 0;
    if (user || !isUserPage || !control.smap || ac) {
      perms = PERM_READ;
      if ((rights & RW) !== 0 || (!user && !control.wp)) perms |= PERM_WRITE;
    }
    if (this.executable && (user || !isUserPage || !control.smep)) perms |= PERM_EXEC;
    return perms;
  }

  /** Error code of a #PF for an access that ended so. SDM, "Page-Fault Exceptions". */
  errorCode(end: WalkEnd, access: AccessCode, user: boolean): number {
    const { control } = this;
    let code = end === NOT_PRESENT ? 0 : end === RESERVED ? X86_PF_PROT | X86_PF_RSVD : X86_PF_PROT;
    if (access === ACCESS_WRITE) code |= X86_PF_WRITE;
    if (user) code |= X86_PF_USER;
    if (access === ACCESS_FETCH && (control.nxe || control.smep)) code |= X86_PF_INSTR;
    return code;
  }

  /** The first level without a right, root first: who decided a refusal. */
  decidingLevel(refusal: Refusal): number {
    const { depth, entryLo, entryHi } = this;
    for (let level = 0; level < depth; level++) {
      const low = entryLo[level] ?? 0;
      if (refusal === USER_TO_SUPERVISOR && (low & US) === 0) return level;
      if (refusal === READ_ONLY && (low & RW) === 0) return level;
      if (refusal === NO_EXECUTE && (entryHi[level] ?? 0) < 0) return level;
    }
    return depth - 1;
  }
}

/** An entry from its halves. */
function halves({ entryLo, entryHi }: Way, level: number): bigint {
  return (BigInt((entryHi[level] ?? 0) >>> 0) << 32n) | BigInt((entryLo[level] ?? 0) >>> 0);
}

/** What a walk or a refusal means, for people. */
export function verdictOf(end: WalkEnd, refusal: Refusal): string {
  if (end === NOT_PRESENT) return 'not present';
  if (end === RESERVED) return 'reserved bit set';
  switch (refusal) {
    case ALLOWED:
      return 'translates';
    case USER_TO_SUPERVISOR:
      return 'user access to supervisor page';
    case READ_ONLY:
      return 'write to read-only page';
    case NO_EXECUTE:
      return 'fetch from no-execute page';
    case SMAP_REFUSES:
      return 'supervisor access to user page with SMAP and EFLAGS.AC=0';
    case SMEP_REFUSES:
      return 'supervisor fetch from user page with SMEP';
  }
}
