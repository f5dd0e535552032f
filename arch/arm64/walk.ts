/**
 * What the hardware does with an address: the stage 1 walk of the EL1&0 regime, and its permission check.
 *
 * Arm ARM (DDI 0487), D8 "The AArch64 Virtual Memory System Architecture"; pseudocode AArch64.S1Translate,
 * AArch64.S1Walk. 4 KiB granule, halves of 16 to 48 bits. Left out: LPA2, memory types (all memory is
 * Normal), FEAT_HAFT (the access flag of a table is ignored), MTE.
 *
 * The contiguous bit is a hint, and no TLB here is built from it: each entry is taken as it stands, also
 * where the entries of one range disagree, which is one of the outcomes that the architecture allows
 * (D8.7.1). A range larger than the half is a translation fault, which it allows, too.
 *
 * Everything here is numbers and 32-bit halves: the TLB fill callback runs it. A walk leaves its result in
 * the walker's fields, so that nothing is allocated; the next walk overwrites them.
 */
import { type AccessCode, permFor } from '../../emu/cpu.js';
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
import { firstLevel, type WalkControl } from './walk-control.js';
import { ATTR_AF, ATTR_DBM, ATTR_RDONLY, leafAttr, objection, rights, tableAttr } from './walk-rights.js';

/** Result of a walk or a check that found nothing wrong. */
export const NO_FAULT = -1;

/** Linux names of the levels 0 to 3. The folded p4d is the pgd entry and is not listed twice. */
export const LEVEL_NAMES: readonly LevelName[] = ['pgd', 'pud', 'pmd', 'pte'];

const TWO_32 = 4294967296;
/** PTE_CONT in the high half of a descriptor. */
const CONT = 1 << 20;
/** Bytes of a contiguous range of blocks at levels 1 and 2: 16 of them. */
const CONT_PUD_SIZE = 2 ** 34;
const CONT_PMD_SIZE = 2 ** 25;

/**
 * A way down the tables: the entries read, and what the upper three of them came to. It serves as a memory
 * of the 2 MiB around an address, and is only believed while the ram still holds the same entries.
 */
class Way {
  /** Physical addresses of the entries. */
  readonly entryPa = new Float64Array(4);
  /** The upper entries as events show them; made when first asked for. */
  readonly levels: (WalkLevel | undefined)[] = [undefined, undefined, undefined];

  /** Level of the first entry. */
  first = 0;

  /** Which 2 MiB these are, counted from address 0; NOWHERE when nothing is remembered. */
  region = NOWHERE;
  /** The control state that counted. */
  root = -1;
  limit = 0;
  /** The highest of the tables' addresses. */
  top = 0;
  hierarchical = false;
  /** Where in the ram's halves the upper entries are, and what they held. Levels that are none repeat the first. */
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
/** Regions per byte, 2^-21: multiplying is as exact as dividing, and faster. */
const PER_REGION = 1 / 0x200000;
/** No region: in 48 bits they are -2^27 to 2^27-1. */
const NOWHERE = 2 ** 28;

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

  /** Physical addresses of the entries read by the last walk, by level; `level` is the last of them. */
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
    for (let i = way.first; i < way.first + this.depth; i++) {
      let level = way.levels[i];
      if (level === undefined) {
        const entryPa = way.entryPa[i] ?? 0;
        level = { level: LEVEL_NAMES[i] ?? 'pte', entryPa, entry: words64[(entryPa - base) / 8] ?? 0n };
        if (i < 3 && way.region !== NOWHERE) way.levels[i] = level;
      }
      levels.push(level);
    }
    return levels;
  }

  /**
   * Walks the tables for an address and stops at the leaf: no access flag, no permissions yet.
   *
   * @param va a signed number without tag; NaN for an address that is in range of no half
   * @returns NO_FAULT, or the fault status code
   */
  walk(va: number): number {
    const { control } = this;
    const high = va < 0;
    const limit = high ? control.limit1 : control.limit0;
    if (!(high ? va >= -limit : va < limit)) return this.refuse(ESR_ELx_FSC_FAULT);
    if (high ? control.epd1 : control.epd0) return this.refuse(ESR_ELx_FSC_FAULT);
    const table = high ? control.ttbr1 : control.ttbr0;
    const hierarchical = !(high ? control.hpd1 : control.hpd0);
    const words = this.#words;
    const region = Math.floor(va * PER_REGION);
    const way = this.#ways[placeOf(region)] ?? this.#way;
    this.#way = way;
    if (
      way.region === region &&
      way.root === table &&
      way.limit === limit &&
      way.top < control.paLimit &&
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
    return this.#walkAll(way, region, table, limit, hierarchical, va);
  }

  /** A walk that ends before any table is read, as E0PD has it. Returns the fault status code given. */
  refuse(fault: number): number {
    this.depth = 0;
    this.level = 0;
    this.attr = 0;
    return fault;
  }

  /** The rest of a walk that is known down to the last table. */
  #lastStep(way: Way, va: number): number {
    const words = this.#words;
    const index = (va >>> 12) & 511;
    const at = way.tableWord + index * 2;
    const low = words[at] ?? 0;
    const high = words[at + 1] ?? 0;
    way.entryPa[3] = way.table + index * 8;
    this.depth = 4 - way.first;
    this.level = 3;
    this.attr = way.attr;
    if ((low & 3) !== 3) return ESR_ELx_FSC_FAULT + 3;
    this.pa = (high & 0xffff) * TWO_32 + ((low & 0xfffff000) >>> 0);
    if (this.pa >= this.control.paLimit) return ESR_ELx_FSC_ADDRSZ + 3;
    this.attr = way.attr | leafAttr(low, high);
    return NO_FAULT;
  }

  #walkAll(way: Way, region: number, root: number, limit: number, hierarchical: boolean, va: number): number {
    const { control, ram } = this;
    const { entryPa, levels } = way;
    const first = firstLevel(limit);
    way.region = NOWHERE;
    way.first = first;
    levels[0] = levels[1] = levels[2] = undefined;
    if (root >= control.paLimit) return this.refuse(ESR_ELx_FSC_ADDRSZ);
    this.depth = 0;
    this.attr = 0;
    let table = root;
    let top = root;
    const offset = va < 0 ? va + limit : va;
    const hi = Math.floor(offset / TWO_32);
    const lo = offset >>> 0;

    for (let level = first; ; level++) {
      this.level = level;
      const index =
        level === 0
          ? hi >>> 7
          : level === 1
            ? ((hi & 0x7f) << 2) | (lo >>> 30)
            : level === 2
              ? (lo >>> 21) & 511
              : (lo >>> 12) & 511;
      const at = table + index * 8;
      if (at < ram.base || at + 8 > ram.end) return ESR_ELx_FSC_SEA_TTW + level;
      entryPa[level] = at;
      this.depth = level - first + 1;
      const word = (at - ram.base) / 4;
      const entryLo = ram.words32[word] ?? 0;
      const entryHi = ram.words32[word + 1] ?? 0;
      // Bit 0 clear is invalid; 01 is a block at levels 1 and 2 and invalid at levels 0 and 3.
      if ((entryLo & 1) === 0) return ESR_ELx_FSC_FAULT + level;
      const isTableOrPage = (entryLo & 2) !== 0;
      if (level < 3 && isTableOrPage) {
        table = (entryHi & 0xffff) * TWO_32 + ((entryLo & 0xfffff000) >>> 0);
        if (table >= control.paLimit) return ESR_ELx_FSC_ADDRSZ + level;
        if (hierarchical) this.attr |= tableAttr(entryHi);
        top = Math.max(top, table);
        if (level === 2) {
          way.root = root;
          way.limit = limit;
          way.hierarchical = hierarchical;
          way.top = top;
          this.#remember(way, region, table);
        }
        continue;
      }
      if (level === 0 || (level === 3 && !isTableOrPage)) return ESR_ELx_FSC_FAULT + level;
      if (level < 3 && (entryHi & CONT) !== 0 && (level === 1 ? CONT_PUD_SIZE : CONT_PMD_SIZE) > limit) {
        return ESR_ELx_FSC_FAULT + level;
      }
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
  #remember(way: Way, region: number, table: number): void {
    const { ram } = this;
    const words = this.#words;
    if (table < ram.base || table + 4096 > ram.end) return;
    const { entryPa, first } = way;
    way.region = region;
    way.word0 = ((entryPa[first] ?? 0) - ram.base) / 4;
    way.word1 = ((entryPa[Math.max(1, first)] ?? 0) - ram.base) / 4;
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
    const { level } = this;
    if (!this.accessible) return ESR_ELx_FSC_ACCESS + level;
    const allowed = (this.usable(unprivileged, pan) & permFor(access)) !== 0;
    return allowed ? NO_FAULT : ESR_ELx_FSC_PERM + level;
  }

  /** The last leaf's access flag is set, or hardware sets it. */
  get accessible(): boolean {
    return (this.attr & ATTR_AF) !== 0 || this.control.ha;
  }

  /** Which bits stand against an access that `check` refused by its permissions, in words. */
  objection(access: AccessCode, unprivileged: boolean, pan: boolean): string {
    return objection(this.attr, access, unprivileged, pan, this.control);
  }

  /** Rights of the last leaf; a page whose dirty state hardware manages counts as writable. */
  usable(unprivileged: boolean, pan: boolean): number {
    const { attr, control } = this;
    const dirtied = control.ha && control.hd && (attr & ATTR_DBM) !== 0 ? attr & ~ATTR_RDONLY : attr;
    return rights(dirtied, unprivileged, pan, control);
  }

  /** NO_FAULT when the last leaf's page lies in the ram; else the external abort of the access. */
  present(): number {
    return this.pa >= this.ram.base && this.pa + 4096 <= this.ram.end ? NO_FAULT : ESR_ELx_FSC_EXTABT;
  }
}
