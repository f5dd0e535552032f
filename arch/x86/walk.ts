/**
 * What the memory management unit of an x86-64 CPU does with an address: the walk of four or five levels,
 * the rights that come out of it, and the error code when they do not suffice.
 *
 * Intel SDM volume 3, chapter "Paging", sections "4-Level Paging and 5-Level Paging", "Determination of
 * Access Rights", "Protection Keys" and "Page-Fault Exceptions". Left out: shadow stacks, keys of supervisor
 * pages, LAM, LASS. Physical memory that is not there reads as all ones, as on a PC.
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
import { type EntriesRead, Way, Ways } from './way.js';

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

// Bits of the low halves of entries. Not exported: an export is a place in memory, not a constant, to the
// JavaScript engine.
const P = 1 << 0;
const RW = 1 << 1;
const US = 1 << 2;
const A = 1 << 5;
const D = 1 << 6;
const PS = 1 << 7;
const G = 1 << 8;
/** NX in the high half. */
const NX_HI = 0x80000000;
/** Where the protection key of a leaf begins in its high half; four bits. */
const KEY_SHIFT_HI = 27;
/** Address bits that are reserved in a large leaf. Bit 12 is PAT. */
const RESERVED_2M = 0x001fe000;
const RESERVED_1G = 0x3fffe000;

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
export const KEY_REFUSES = 6;
export type Refusal = 0 | 1 | 2 | 3 | 4 | 5 | 6;

const TWO_32 = 4294967296;
/** Bytes that the entries of one last table map. */
const REGION = 0x200000;
const LIMIT_4_LEVELS = 2 ** 47;
const LIMIT_5_LEVELS = 2 ** 56;

/**
 * Entries of a walk are kept by their level, so that a PTE is always in the last place. A walk of four
 * levels begins at place 1, where its root is: pgd and p4d are one.
 */
const PLACES: readonly LevelName[] = ['pgd', 'p4d', 'pud', 'pmd', 'pte'];
const PUD = 2;
const PMD = 3;
const PTE = 4;

/** Control state of one CPU, as far as translation depends on it. */
export class Control {
  /** Physical address of the root table: CR3 without PCID and flags. */
  root = 0;
  wp = true;
  smep = false;
  smap = false;
  nxe = true;
  /** CR4.PGE: global translations outlive a load of CR3. */
  pge = false;
  /** CR4.PKE */
  pke = false;
  /** Access-disable and write-disable of the 16 keys, AD of key 0 in bit 0. */
  pkru = 0;
  /** Place of the root: 0 with CR4.LA57, else 1. */
  first: 0 | 1 = 1;
  /** Canonical addresses are from -limit to below it. */
  limit = LIMIT_4_LEVELS;
  /** Bits of an entry's high half that must be 0. */
  reserved = 0;
  /** The same number for as long as tables are read in the same way: the root, and what `reserved` and `first` are. */
  key = 0;

  constructor(
    /** Physical address bits of the CPU, 36 to 52. */
    readonly maxphyaddr: number,
    /** The CPU has pages of 1 GiB; without them bit 7 of a PDPTE is reserved. */
    readonly gbpages = true,
  ) {}

  /** Is a signed address one that the linear-address width allows? */
  isCanonical(va: number): boolean {
    return va >= -this.limit && va < this.limit;
  }

  update(cr0: bigint, cr3: bigint, cr4: bigint, efer: bigint): void {
    this.root = Number(cr3 & 0x000f_ffff_ffff_f000n);
    this.wp = (cr0 & (1n << 16n)) !== 0n;
    this.smep = (cr4 & (1n << 20n)) !== 0n;
    this.smap = (cr4 & (1n << 21n)) !== 0n;
    this.pge = (cr4 & (1n << 7n)) !== 0n;
    this.pke = (cr4 & (1n << 22n)) !== 0n;
    const la57 = (cr4 & (1n << 12n)) !== 0n;
    this.first = la57 ? 0 : 1;
    this.limit = la57 ? LIMIT_5_LEVELS : LIMIT_4_LEVELS;
    this.nxe = (efer & (1n << 11n)) !== 0n;
    const beyond = 0xfffff & ~((1 << (this.maxphyaddr - 32)) - 1);
    this.reserved = beyond | (this.nxe ? 0 : NX_HI);
    // The root is the address of a page: its low bits are free.
    this.key = this.root + this.first + (this.nxe ? 2 : 0);
  }
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
  /** Place of the last entry read. */
  last = 0;

  /** The ram as signed halves: they are small integers to the JavaScript engine. */
  readonly #words: Int32Array;
  readonly #base: number;
  readonly #ways = new Ways();
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

  /** Place of the root in the last walk. */
  get first(): number {
    return this.#way.first;
  }
  /** Physical addresses and halves of the entries read, from place `first` to place `last`. */
  get entryPa(): Float64Array {
    return this.#way.entryPa;
  }
  get entryLo(): Int32Array {
    return this.#way.entryLo;
  }
  get entryHi(): Int32Array {
    return this.#way.entryHi;
  }

  /** After a walk that came through: may user code reach the page? */
  get isUserPage(): boolean {
    return (this.rights & US) !== 0;
  }
  /** After a walk that came through: does the leaf have the global bit? */
  get isGlobal(): boolean {
    return ((this.entryLo[this.last] ?? 0) & G) !== 0;
  }

  /** Name of the level at a place of the last walk. */
  nameOf(place: number): LevelName {
    return place === this.#way.first ? 'pgd' : (PLACES[place] ?? 'pte');
  }

  /** Lets the next walk nearby read all entries again. */
  forget(): void {
    this.#way.region = Number.NaN;
  }

  /** Makes entries that were read earlier those of the last walk. */
  setEntries({ first, last, entryPa, entryLo, entryHi }: EntriesRead): void {
    const way = this.#elsewhere;
    way.first = first;
    way.entryPa.set(entryPa);
    way.entryLo.set(entryLo);
    way.entryHi.set(entryHi);
    this.last = last;
    this.#way = way;
  }

  /** The entries of the last walk, to be kept. */
  copyEntries(): EntriesRead {
    const { first, entryPa, entryLo, entryHi } = this.#way;
    return {
      first,
      last: this.last,
      entryPa: entryPa.slice(),
      entryLo: entryLo.slice(),
      entryHi: entryHi.slice(),
    };
  }

  /**
   * The entries of the last walk as events show them. Objects of upper levels are shared between walks.
   * @param words64 the ram, in which the entries still are as they were read
   */
  levels(words64: BigUint64Array): WalkLevel[] {
    const way = this.#way;
    const levels: WalkLevel[] = [];
    for (let place: number = way.first; place <= this.last; place++) {
      let level = way.levels[place];
      if (level === undefined) {
        const entryPa = way.entryPa[place] ?? 0;
        const inRam = way === this.#elsewhere ? undefined : words64[(entryPa - this.#base) / 8];
        level = { level: this.nameOf(place), entryPa, entry: inRam ?? halves(way, place) };
        if (place < PTE && !Number.isNaN(way.region)) way.levels[place] = level;
      }
      levels.push(level);
    }
    return levels;
  }

  /**
   * Walks the tables for a canonical address.
   * @param va signed number; above 2^53 only page-aligned addresses are exact, and those suffice
   */
  walk(va: number): WalkEnd {
    const { control } = this;
    const words = this.#words;
    const region = Math.floor(va / REGION);
    const way = this.#ways.of(region);
    this.#way = way;
    if (
      way.region === region &&
      way.key === control.key &&
      words[way.word0] === way.low0 &&
      words[way.word0 + 1] === way.high0 &&
      words[way.word1] === way.low1 &&
      words[way.word1 + 1] === way.high1 &&
      words[way.word2] === way.low2 &&
      words[way.word2 + 1] === way.high2 &&
      (way.first !== 0 || this.#holdsRoot(way))
    ) {
      return this.#lastStep(way, va);
    }
    return this.#walkAll(way, region, va);
  }

  /** Five levels: is the topmost entry still what it was? */
  #holdsRoot({ entryPa, entryLo, entryHi }: Way): boolean {
    const word = ((entryPa[0] ?? 0) - this.#base) / 4;
    return this.#words[word] === entryLo[0] && this.#words[word + 1] === entryHi[0];
  }

  /** The rest of a walk that is known down to the last table. */
  #lastStep(way: Way, va: number): WalkEnd {
    const words = this.#words;
    const { nxe } = this.control;
    const index = (va >>> 12) & 511;
    const at = way.tableWord + index * 2;
    const low = words[at] ?? 0;
    const high = words[at + 1] ?? 0;
    way.entryPa[PTE] = way.table + index * 8;
    way.entryLo[PTE] = low;
    way.entryHi[PTE] = high;
    this.last = PTE;
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
    const { reserved, nxe, root, first, gbpages } = this.control;
    const words = this.#words;
    way.region = Number.NaN;
    way.first = first;
    levels[0] = levels[1] = levels[2] = levels[3] = undefined;
    const lo = va | 0;
    const hi = Math.floor(va / TWO_32);
    let rights = RW | US;
    let highs = 0;
    let accessed = A;
    let table = root;
    let index = (first === 0 ? hi >>> 16 : hi >>> 7) & 511;
    for (let place: number = first; ; place++) {
      const word = (table - this.#base) / 4;
      let low = -1;
      let high = -1;
      if (word >= 0 && word + 1024 <= words.length) {
        const at = (word | 0) + index * 2;
        low = words[at] ?? 0;
        high = words[at + 1] ?? 0;
      }
      entryPa[place] = table + index * 8;
      entryLo[place] = low;
      entryHi[place] = high;
      this.last = place;
      if ((low & P) === 0) return NOT_PRESENT;
      if ((high & reserved) !== 0) return RESERVED;
      rights &= low;
      highs |= high;
      accessed &= low;
      const target = (high & 0xfffff) * TWO_32;
      if (place < PTE && (low & PS) === 0) {
        table = target + ((low & 0xfffff000) >>> 0);
        if (place === PMD) {
          index = (lo >>> 12) & 511;
          this.#remember(way, region, table, rights | accessed, highs);
        } else if (place === PUD) index = (lo >>> 21) & 511;
        else index = place === 0 ? (hi >>> 7) & 511 : ((hi & 0x7f) << 2) | (lo >>> 30);
        continue;
      }
      if (place === PTE) {
        this.pa = target + ((low & 0xfffff000) >>> 0);
      } else if (place === PMD) {
        if ((low & RESERVED_2M) !== 0) return RESERVED;
        this.pa = target + ((low & 0xffe00000) >>> 0) + (lo & 0x001ff000);
      } else {
        // PS: only a PDPTE may have it, and not on every CPU.
        if (place !== PUD || !gbpages || (low & RESERVED_1G) !== 0) return RESERVED;
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

  /**
   * Keeps the way to a last table, if that is in the ram. The entries above are: what is not reads as all
   * ones, and no walk goes on behind that.
   */
  #remember(way: Way, region: number, table: number, lows: number, highs: number): void {
    const { entryPa, entryLo, entryHi } = way;
    const base = this.#base;
    const tableWord = (table - base) / 4;
    if (!(tableWord >= 0 && tableWord + 1024 <= this.#words.length)) return;
    way.region = region;
    way.key = this.control.key;
    way.reserved = this.control.reserved;
    way.word0 = ((entryPa[1] ?? 0) - base) / 4;
    way.word1 = ((entryPa[PUD] ?? 0) - base) / 4;
    way.word2 = ((entryPa[PMD] ?? 0) - base) / 4;
    way.low0 = entryLo[1] ?? 0;
    way.low1 = entryLo[PUD] ?? 0;
    way.low2 = entryLo[PMD] ?? 0;
    way.high0 = entryHi[1] ?? 0;
    way.high1 = entryHi[PUD] ?? 0;
    way.high2 = entryHi[PMD] ?? 0;
    way.tableWord = tableWord;
    way.table = table;
    way.lows = lows;
    way.highs = highs;
  }

  /** After a walk that came through: may the access be made? */
  refusal(access: AccessCode, user: boolean, ac: boolean): Refusal {
    const { control, rights } = this;
    if (user && (rights & US) === 0) return USER_TO_SUPERVISOR;
    if (access === ACCESS_FETCH) {
      if (!this.executable) return NO_EXECUTE;
      return !user && control.smep && (rights & US) !== 0 ? SMEP_REFUSES : ALLOWED;
    }
    if (!user && control.smap && !ac && (rights & US) !== 0) return SMAP_REFUSES;
    if (access === ACCESS_WRITE && (rights & RW) === 0 && (user || control.wp)) return READ_ONLY;
    return (this.keyAllows(user) & (access === ACCESS_WRITE ? PERM_WRITE : PERM_READ)) === 0
      ? KEY_REFUSES
      : ALLOWED;
  }

  /** After a walk that came through: the rights to data, PERM_*, that the protection key of the leaf leaves. */
  keyAllows(user: boolean): number {
    const { control, rights } = this;
    if (!control.pke || (rights & US) === 0) return PERM_READ | PERM_WRITE;
    const key = ((this.entryHi[this.last] ?? 0) >>> KEY_SHIFT_HI) & 15;
    const disabled = control.pkru >>> (2 * key);
    if ((disabled & 1) !== 0) return 0;
    return (disabled & 2) !== 0 && (user || control.wp) ? PERM_READ : PERM_READ | PERM_WRITE;
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
      if (control.pke) perms &= this.keyAllows(user);
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
    if (access === ACCESS_FETCH) return control.nxe || control.smep ? code | X86_PF_INSTR : code;
    // The key is looked at whatever else forbids the access.
    const asked = access === ACCESS_WRITE ? PERM_WRITE : PERM_READ;
    return end === WALKED && (this.keyAllows(user) & asked) === 0 ? code | X86_PF_PK : code;
  }

  /** The first level without a right, root first: who decided a refusal. */
  decidingLevel(refusal: Refusal): LevelName {
    const { entryLo, entryHi, first, last } = this;
    for (let place = first; place <= last; place++) {
      const low = entryLo[place] ?? 0;
      const decides =
        (refusal === USER_TO_SUPERVISOR && (low & US) === 0) ||
        (refusal === READ_ONLY && (low & RW) === 0) ||
        (refusal === NO_EXECUTE && (entryHi[place] ?? 0) < 0);
      if (decides) return this.nameOf(place);
    }
    return this.nameOf(last);
  }
}

/** An entry from its halves. */
function halves({ entryLo, entryHi }: Way, place: number): bigint {
  return (BigInt((entryHi[place] ?? 0) >>> 0) << 32n) | BigInt((entryLo[place] ?? 0) >>> 0);
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
    case KEY_REFUSES:
      return 'protection key forbids it';
  }
}
