/**
 * What the hardware does with an address: the stage 1 walk of the EL1&0 regime, and its permission check.
 *
 * Arm ARM (DDI 0487), D8 "The AArch64 Virtual Memory System Architecture"; pseudocode AArch64.S1Translate,
 * AArch64.S1Walk, AArch64.S1DirectBasePermissions. 4 KiB granule, 48-bit addresses, 4 levels. Left out:
 * LPA2, the contiguous bit (a hint), memory types (all memory is Normal), permission indirection, MTE.
 *
 * Everything here is numbers and 32-bit halves: the TLB fill callback runs it. A walk leaves its result in
 * the walker's fields, so that nothing is allocated; the next walk overwrites them.
 */
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
} from '../../emu/cpu.js';
import type { LevelName, WalkLevel } from '../../emu/events.js';
import type { Ram } from '../../emu/ram.js';
import {
  ESR_ELx_FSC_ACCESS,
  ESR_ELx_FSC_ADDRSZ,
  ESR_ELx_FSC_EXTABT,
  ESR_ELx_FSC_FAULT,
  ESR_ELx_FSC_PERM,
  ESR_ELx_FSC_SEA_TTW,
} from './esr.js';

/** Leaf attributes and hierarchical bits of a walk, packed into one small number. */
export const ATTR_EL0 = 1 << 0; // AP[1]
export const ATTR_RDONLY = 1 << 1; // AP[2]
export const ATTR_AF = 1 << 2;
export const ATTR_DBM = 1 << 3;
export const ATTR_PXN = 1 << 4;
export const ATTR_UXN = 1 << 5;
export const ATTR_TABLE_NO_EL0 = 1 << 6; // APTable[0]
export const ATTR_TABLE_NO_WRITE = 1 << 7; // APTable[1]
export const ATTR_TABLE_PXN = 1 << 8;
export const ATTR_TABLE_UXN = 1 << 9;

/** Result of a walk or a check that found nothing wrong. */
export const NO_FAULT = -1;

/** Linux names of the levels 0 to 3. The folded p4d is the pgd entry and is not listed twice. */
export const LEVEL_NAMES: readonly LevelName[] = ['pgd', 'pud', 'pmd', 'pte'];

const TWO_32 = 4294967296;
const TWO_48 = 2 ** 48;

/** Control state of the regime, as `refresh` decodes it from the system registers. */
export interface WalkControl {
  /** Physical address of the root table of each half. */
  ttbr0: number;
  ttbr1: number;
  epd0: boolean;
  epd1: boolean;
  /** Hierarchical bits are ignored. */
  hpd0: boolean;
  hpd1: boolean;
  /** First physical address that is too large, from TCR_EL1.IPS. */
  paLimit: number;
  ha: boolean;
  hd: boolean;
  wxn: boolean;
}

/** Most bits of packed attributes come out of the high half of a descriptor. */
function leafAttr(lo: number, hi: number): number {
  return (
    ((lo >>> 6) & 3) | // AP[2:1]
    ((lo >>> 8) & 4) | // AF, bit 10
    ((hi >>> 16) & 8) | // DBM, bit 51
    ((hi >>> 17) & 0x30) // PXN, UXN, bits 53 and 54
  );
}

/** APTable, UXNTable and PXNTable of a table descriptor's high half. */
function tableAttr(hi: number): number {
  return (
    (((hi >>> 29) & 3) * ATTR_TABLE_NO_EL0) |
    (((hi >>> 27) & 1) * ATTR_TABLE_PXN) |
    (((hi >>> 28) & 1) * ATTR_TABLE_UXN)
  );
}

/**
 * Rights of a translation, PERM_*, for EL0 and for LDTR/STTR (`unprivileged`) or for EL1 with the given
 * PSTATE.PAN. `attr` with ATTR_RDONLY set grants no write,
 * whatever DBM says: hardware dirty state is the caller's.
 */
export function rights(attr: number, unprivileged: boolean, pan: boolean, wxn: boolean): number {
  const writable = (attr & (ATTR_RDONLY | ATTR_TABLE_NO_WRITE)) === 0;
  const el0Read = (attr & (ATTR_EL0 | ATTR_TABLE_NO_EL0)) === ATTR_EL0;
  const el0Write = el0Read && writable;
  if (unprivileged) {
    let perms = el0Read ? PERM_READ : 0;
    if (el0Write) perms |= PERM_WRITE;
    if ((attr & (ATTR_UXN | ATTR_TABLE_UXN)) === 0 && !(wxn && el0Write)) perms |= PERM_EXEC;
    return perms;
  }
  let perms = pan && el0Read ? 0 : PERM_READ | (writable ? PERM_WRITE : 0);
  if ((attr & (ATTR_PXN | ATTR_TABLE_PXN)) === 0 && !el0Write && !(wxn && writable)) perms |= PERM_EXEC;
  return perms;
}

export function permFor(access: AccessCode): number {
  switch (access) {
    case ACCESS_READ:
      return PERM_READ;
    case ACCESS_WRITE:
      return PERM_WRITE;
    case ACCESS_FETCH:
      return PERM_EXEC;
  }
}

/** Control state with the MMU's tables nowhere yet. */
export function initialControl(): WalkControl {
  return {
    ttbr0: 0,
    ttbr1: 0,
    epd0: false,
    epd1: false,
    hpd0: false,
    hpd1: false,
    paLimit: TWO_48,
    ha: false,
    hd: false,
    wxn: false,
  };
}

/**
 * A way down the tables: the entries read, and what the upper three of them came to. It serves as a memory
 * of the 2 MiB around an address, and is only believed while the ram still holds the same entries.
 */
class Way {
  /** Physical addresses of the entries. */
  readonly entryPa = new Float64Array(4);
  /** The upper entries as events show them; made when first asked for. */
  readonly levels: (WalkLevel | undefined)[] = [undefined, undefined, undefined];

  /** Which 2 MiB these are, from address 0 of both halves on; NaN when nothing is remembered. */
  region = Number.NaN;
  /** The control state that counted. */
  root = -1;
  paLimit = 0;
  hierarchical = false;
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
  /** Packed attributes of the upper entries. */
  attr = 0;
}

/** Ways remembered: two to the power of WAYS_LOG2. */
const WAYS_LOG2 = 4;
const REGION = 0x200000;

/** Place of a region among the ways. Stacks, text and arenas tend to start at round addresses: mixes the bits. */
function placeOf(region: number): number {
  return Math.imul(region, 0x9e3779b1) >>> (32 - WAYS_LOG2);
}

export class Walker {
  /** Entries read by the last walk. */
  depth = 0;
  /** Level at which the last walk ended; 0 when no table was read. */
  level = 0;
  /** Physical address of the page (4 KiB, also inside blocks), when the walk found a leaf. */
  pa = 0;
  /** Packed attributes of the leaf and of the tables above it. */
  attr = 0;

  /** The ram as signed halves: they are small integers to the JavaScript engine. */
  readonly #words: Int32Array;
  readonly #ways: readonly Way[] = Array.from({ length: 1 << WAYS_LOG2 }, () => new Way());
  #way: Way = new Way();

  constructor(
    readonly ram: Ram,
    readonly control: WalkControl,
  ) {
    this.#words = new Int32Array(ram.words32.buffer, ram.words32.byteOffset, ram.words32.length);
  }

  /** Physical addresses of the entries read by the last walk; `depth` of them are valid. */
  get entryPa(): Float64Array {
    return this.#way.entryPa;
  }

  /**
   * The entries of the last walk as events show them, as they are in the ram now: nothing has happened
   * since. Objects of upper levels are shared between walks.
   */
  levels(): WalkLevel[] {
    const way = this.#way;
    const { base, words64 } = this.ram;
    const levels: WalkLevel[] = [];
    for (let i = 0; i < this.depth; i++) {
      let level = way.levels[i];
      if (level === undefined) {
        const entryPa = way.entryPa[i] ?? 0;
        level = { level: LEVEL_NAMES[i] ?? 'pte', entryPa, entry: words64[(entryPa - base) / 8] ?? 0n };
        if (i < 3 && !Number.isNaN(way.region)) way.levels[i] = level;
      }
      levels.push(level);
    }
    return levels;
  }

  /**
   * Walks the tables for an address and stops at the leaf: no access flag, no permissions yet.
   *
   * @param va address in range of its half: a signed number, -2^48 to 2^48-1; NaN for one out of range
   * @returns NO_FAULT, or the fault status code
   */
  walk(va: number): number {
    const { control } = this;
    this.depth = 0;
    this.level = 0;
    this.attr = 0;
    if (!(va >= -TWO_48 && va < TWO_48)) return ESR_ELx_FSC_FAULT;
    const high = va < 0;
    if (high ? control.epd1 : control.epd0) return ESR_ELx_FSC_FAULT;
    const table = high ? control.ttbr1 : control.ttbr0;
    if (table >= control.paLimit) return ESR_ELx_FSC_ADDRSZ;
    const hierarchical = !(high ? control.hpd1 : control.hpd0);
    const words = this.#words;
    const region = Math.floor(va / REGION);
    const way = this.#ways[placeOf(region)] ?? this.#way;
    this.#way = way;
    if (
      way.region === region &&
      way.root === table &&
      way.paLimit === control.paLimit &&
      way.hierarchical === hierarchical &&
      words[way.word0] === way.low0 &&
      words[way.word0 + 1] === way.high0 &&
      words[way.word1] === way.low1 &&
      words[way.word1 + 1] === way.high1 &&
      words[way.word2] === way.low2 &&
      words[way.word2 + 1] === way.high2
    ) {
      return this.#lastStep(way, va);
    }
    return this.#walkAll(way, region, table, hierarchical, va);
  }

  /** The rest of a walk that is known down to the last table. */
  #lastStep(way: Way, va: number): number {
    const words = this.#words;
    const index = (va >>> 12) & 511;
    const at = way.tableWord + index * 2;
    const low = words[at] ?? 0;
    const high = words[at + 1] ?? 0;
    way.entryPa[3] = way.table + index * 8;
    this.depth = 4;
    this.level = 3;
    this.attr = way.attr;
    if ((low & 3) !== 3) return ESR_ELx_FSC_FAULT + 3;
    this.pa = (high & 0xffff) * TWO_32 + ((low & 0xfffff000) >>> 0);
    if (this.pa >= way.paLimit) return ESR_ELx_FSC_ADDRSZ + 3;
    this.attr = way.attr | leafAttr(low, high);
    return NO_FAULT;
  }

  #walkAll(way: Way, region: number, root: number, hierarchical: boolean, va: number): number {
    const { control, ram } = this;
    const { entryPa, levels } = way;
    way.region = Number.NaN;
    levels[0] = levels[1] = levels[2] = undefined;
    let table = root;
    const offset = va < 0 ? va + TWO_48 : va;
    const hi = Math.floor(offset / TWO_32);
    const lo = offset >>> 0;

    for (let level = 0; ; level++) {
      this.level = level;
      if (table < ram.base || table + 4096 > ram.end) return ESR_ELx_FSC_SEA_TTW + level;
      const index =
        level === 0
          ? hi >>> 7
          : level === 1
            ? ((hi & 0x7f) << 2) | (lo >>> 30)
            : level === 2
              ? (lo >>> 21) & 511
              : (lo >>> 12) & 511;
      entryPa[level] = table + index * 8;
      this.depth = level + 1;
      const word = (table - ram.base) / 4 + index * 2;
      const entryLo = ram.words32[word] ?? 0;
      const entryHi = ram.words32[word + 1] ?? 0;
      // Bit 0 clear is invalid; 01 is a block at levels 1 and 2 and invalid at levels 0 and 3.
      if ((entryLo & 1) === 0) return ESR_ELx_FSC_FAULT + level;
      const isTableOrPage = (entryLo & 2) !== 0;
      if (level < 3 && isTableOrPage) {
        table = (entryHi & 0xffff) * TWO_32 + ((entryLo & 0xfffff000) >>> 0);
        if (table >= control.paLimit) return ESR_ELx_FSC_ADDRSZ + level;
        if (hierarchical) this.attr |= tableAttr(entryHi);
        if (level === 2) this.#remember(way, region, root, hierarchical, table);
        continue;
      }
      if (level === 0 || (level === 3 && !isTableOrPage)) return ESR_ELx_FSC_FAULT + level;
      // Bits of the address below the block size come from the address.
      const mask = level === 3 ? 0xfffff000 : level === 2 ? 0xffe00000 : 0xc0000000;
      const frame = (((entryLo & mask) | (lo & ~mask)) & 0xfffff000) >>> 0;
      this.pa = (entryHi & 0xffff) * TWO_32 + frame;
      if (this.pa >= control.paLimit) return ESR_ELx_FSC_ADDRSZ + level;
      this.attr |= leafAttr(entryLo, entryHi);
      return NO_FAULT;
    }
  }

  /** Keeps the way to a last table, if that is in the ram. */
  #remember(way: Way, region: number, root: number, hierarchical: boolean, table: number): void {
    const { ram } = this;
    const words = this.#words;
    if (table < ram.base || table + 4096 > ram.end) return;
    const { entryPa } = way;
    way.region = region;
    way.root = root;
    way.paLimit = this.control.paLimit;
    way.hierarchical = hierarchical;
    way.word0 = ((entryPa[0] ?? 0) - ram.base) / 4;
    way.word1 = ((entryPa[1] ?? 0) - ram.base) / 4;
    way.word2 = ((entryPa[2] ?? 0) - ram.base) / 4;
    way.low0 = words[way.word0] ?? 0;
    way.low1 = words[way.word1] ?? 0;
    way.low2 = words[way.word2] ?? 0;
    way.high0 = words[way.word0 + 1] ?? 0;
    way.high1 = words[way.word1 + 1] ?? 0;
    way.high2 = words[way.word2 + 1] ?? 0;
    way.tableWord = (table - ram.base) / 4;
    way.table = table;
    way.attr = this.attr;
  }

  /**
   * Checks an access against the leaf that the last walk found, in the order of the architecture: access
   * flag, then permissions. Whether there is memory behind it is the next question (`present`).
   *
   * @returns NO_FAULT, or the fault status code
   */
  check(access: AccessCode, unprivileged: boolean, pan: boolean): number {
    const { control, level } = this;
    if ((this.attr & ATTR_AF) === 0 && !control.ha) return ESR_ELx_FSC_ACCESS + level;
    const allowed = (this.usable(unprivileged, pan) & permFor(access)) !== 0;
    return allowed ? NO_FAULT : ESR_ELx_FSC_PERM + level;
  }

  /** Which bits stand against an access that `check` refused by its permissions, in words. */
  objection(access: AccessCode, unprivileged: boolean, pan: boolean): string {
    const { attr, control } = this;
    const has = (bits: number): boolean => (attr & bits) !== 0;
    const el0 = has(ATTR_EL0) && !has(ATTR_TABLE_NO_EL0);
    const writable = !has(ATTR_RDONLY | ATTR_TABLE_NO_WRITE);
    if (access === ACCESS_FETCH) {
      if (unprivileged) {
        if (has(ATTR_UXN)) return 'UXN=1';
        return has(ATTR_TABLE_UXN) ? 'UXNTable=1 above' : 'WXN: the page is writable';
      }
      if (has(ATTR_PXN)) return 'PXN=1';
      if (has(ATTR_TABLE_PXN)) return 'PXNTable=1 above';
      return el0 && writable && !control.wxn ? 'EL0 may write the page' : 'WXN: the page is writable';
    }
    if (unprivileged && !el0) {
      return has(ATTR_EL0) ? 'APTable[0]=1 above: no access for EL0' : 'AP[1]=0: no access for EL0';
    }
    if (!unprivileged && pan && el0) return 'PSTATE.PAN=1, and EL0 may access the page';
    return has(ATTR_RDONLY) ? 'AP[2]=1: read-only' : 'APTable[1]=1 above: read-only';
  }

  /** Rights of the last leaf; a page whose dirty state hardware manages counts as writable. */
  usable(unprivileged: boolean, pan: boolean): number {
    const { attr, control } = this;
    const dirtied = control.ha && control.hd && (attr & ATTR_DBM) !== 0 ? attr & ~ATTR_RDONLY : attr;
    return rights(dirtied, unprivileged, pan, control.wxn);
  }

  /** NO_FAULT when the last leaf's page lies in the ram; else the external abort of the access. */
  present(): number {
    return this.pa >= this.ram.base && this.pa + 4096 <= this.ram.end ? NO_FAULT : ESR_ELx_FSC_EXTABT;
  }
}
