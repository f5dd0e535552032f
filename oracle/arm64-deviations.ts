/** Where the engine's arm64 MMU is no such CPU as kfault's. Titles of sections are those of the Arm ARM (DDI 0487). */
import { ACCESS_FETCH, ACCESS_WRITE, PERM_EXEC, PERM_WRITE } from '../emu/cpu.js';
import type { WalkLevel } from '../emu/events.js';
import {
  ARM64_RAM_BASE,
  ARM64_RAM_SIZE,
  type Arm64Case,
  bit,
  half,
  isHigh,
  SCTLR_EPAN,
  TCR_E0PD,
  TCR_HA,
  TCR_HD,
  TCR_IPS,
} from './arm64-case.js';
import { difference, type Entries, type Ours, sameEntries } from './case.js';
import { type Deviation, sameAnswer } from './compare.js';

const ADDRESS = 0x0000_ffff_ffff_f000n;
const AF = bit(10);
const RDONLY = bit(7);
const DBM = bit(51);
const CONT = bit(52);
const UXN = bit(54);
const UXN_TABLE = bit(60);

const FSC_ADDRESS_SIZE = 0x00;
const FSC_TRANSLATION = 0x04;
const FSC_PERMISSION = 0x0c;
const FSC_EXTERNAL = 0x10;
const FSC_EXTERNAL_ON_WALK = 0x14;

/** Output address size of TCR_EL1.IPS, in bits. */
const IPS_BITS = [32n, 36n, 40n, 42n, 44n, 48n];

interface Entry {
  readonly pa: number;
  readonly value: bigint;
  /** 0 to 3. */
  readonly level: number;
}

/** Bits of an address that its half has. */
function sizeOf({ tcr, va }: Arm64Case): number {
  return 64 - Number((isHigh(va) ? tcr >> 16n : tcr) & 0x3fn);
}

/** The last entry of our walk; null when none was read. */
function last(question: Arm64Case, { levels }: Ours): Entry | null {
  const found = levels.at(-1);
  if (found === undefined) return null;
  const first = 4 - Math.ceil((sizeOf(question) - 12) / 9);
  return { pa: found.entryPa, value: found.entry, level: first + levels.length - 1 };
}

const isBlock = ({ value, level }: Entry): boolean => (level === 1 || level === 2) && (value & 3n) === 1n;
const isLeaf = (entry: Entry): boolean => isBlock(entry) || (entry.level === 3 && (entry.value & 3n) === 3n);

/** The question with the last entry of the walk replaced. */
function replace(question: Arm64Case, { pa }: Entry, value: bigint): Arm64Case {
  return { ...question, entries: new Map([...question.entries, [pa, value]]) };
}

/** Did the walk come as far as permissions? */
function checked({ pa, code }: Ours): boolean {
  return pa !== null || code === FSC_EXTERNAL || (code & 0x3c) === FSC_PERMISSION;
}

/** May EL0 execute the page that our walk came to? */
function el0Executes({ tcr, va }: Arm64Case, { levels }: Ours): boolean {
  const above = half(tcr, va, 41, 42) ? [] : levels.slice(0, -1);
  const leaf = levels.at(-1);
  return (
    leaf !== undefined && (leaf.entry & UXN) === 0n && above.every(({ entry }) => (entry & UXN_TABLE) === 0n)
  );
}

/** The leaf as hardware management of access flag and dirty state lets it count: AF, and AP[2] clear. */
function managed({ tcr }: Arm64Case, { value }: Entry): bigint {
  const writable = (tcr & TCR_HD) !== 0n && (value & DBM) !== 0n;
  return (writable ? value & ~RDONLY : value) | AF;
}

/** What an access that succeeds leaves of that in the table. */
function written(question: Arm64Case, entry: Entry): Entries {
  const kept = question.access === ACCESS_WRITE ? 0n : entry.value & RDONLY;
  const value = managed(question, entry) | kept;
  return value === entry.value ? new Map() : new Map([[entry.pa, value]]);
}

/** First output address that is too large. */
function addressLimit(tcr: bigint): bigint {
  return 1n << (IPS_BITS[Number((tcr & TCR_IPS) >> 32n)] ?? 48n);
}

/** Is an address in a TTBR or in a valid entry too large? */
function tooLarge(limit: bigint, { entry }: WalkLevel): boolean {
  return (entry & 1n) !== 0n && (entry & ADDRESS) >= limit;
}

/** Is our answer an address size fault at the first address that is too large, and none where none is? */
function obeysLimit(question: Arm64Case, ours: Ours, unlimited: Ours): boolean {
  const limit = addressLimit(question.tcr);
  const root = isHigh(question.va) ? question.ttbr1 : question.ttbr0;
  const refused = (level: number): boolean =>
    ours.pa === null && ours.code === FSC_ADDRESS_SIZE + level && ours.writes.size === 0;
  // A walk that was not begun has seen no address.
  if (unlimited.levels.length > 0 || (unlimited.code & 0x3c) === FSC_EXTERNAL_ON_WALK) {
    if ((root & ADDRESS) >= limit) return refused(0) && ours.levels.length === 0;
  }
  const at = unlimited.levels.findIndex((level) => tooLarge(limit, level));
  const end = last(question, { ...unlimited, levels: unlimited.levels.slice(0, at + 1) });
  if (end === null) return sameAnswer(ours, unlimited);
  // Entries that are no descriptors of their level have no address.
  const hasAddress = isLeaf(end) || (end.level < 3 && (end.value & 3n) === 3n);
  return hasAddress ? refused(end.level) && ours.levels.length === at + 1 : sameAnswer(ours, unlimited);
}

/** Level of the entry that a walk with one more step would have read. */
function levelAfter(question: Arm64Case, { levels }: Ours): number {
  return 4 - Math.ceil((sizeOf(question) - 12) / 9) + levels.length;
}

/** Is the address in a half that is walked for it? */
function isWalked({ va, tcr, access }: Arm64Case, size: number): boolean {
  if (half(tcr, va, 7, 23)) return false;
  const tagged = half(tcr, va, 37, 38) && !(access === ACCESS_FETCH && half(tcr, va, 51, 52));
  const address = BigInt.asIntN(tagged ? 56 : 64, va);
  return address >= 0n ? address < 1n << BigInt(size) : address >= -(1n << BigInt(size));
}

/** The page of the table at which our walk ended without reading an entry of it; null when it did not so end. */
function nextTable(question: Arm64Case, ours: Ours): number | null {
  const end = last(question, ours);
  if (end !== null) return end.level < 3 && (end.value & 3n) === 3n ? Number(end.value & ADDRESS) : null;
  if (!isWalked(question, sizeOf(question))) return null;
  return Number((isHigh(question.va) ? question.ttbr1 : question.ttbr0) & ADDRESS);
}

export const ARM64_DEVIATIONS: readonly Deviation<Arm64Case>[] = [
  {
    name: 'no-E0PD',
    engine: 'has no FEAT_E0PD: TCR_EL1.E0PD0 and E0PD1 do nothing',
    manual: '"TCR_EL1, Translation Control Register (EL1)", fields E0PD0 and E0PD1',
    instead: (question) => {
      if ((question.tcr & TCR_E0PD) === 0n) return null;
      const closed = question.unprivileged && half(question.tcr, question.va, 55, 56);
      return {
        question: { ...question, tcr: question.tcr & ~TCR_E0PD },
        follows: (ours, without) =>
          closed
            ? ours.pa === null && ours.code === FSC_TRANSLATION && ours.writes.size === 0
            : sameAnswer(ours, without),
      };
    },
  },
  {
    name: 'no-EPAN',
    engine: 'has no FEAT_PAN3: SCTLR_EL1.EPAN does nothing',
    manual: '"Memory access control", "Enhanced privileged access never" (SCTLR_EL1.EPAN)',
    instead: (question) => {
      const { access, pan, sctlr, unprivileged } = question;
      if ((sctlr & SCTLR_EPAN) === 0n || !pan || unprivileged) return null;
      return {
        question: { ...question, sctlr: sctlr & ~SCTLR_EPAN },
        follows: (ours, without) => {
          const end = last(question, without);
          if (end === null || !checked(without) || !el0Executes(question, without)) {
            return sameAnswer(ours, without);
          }
          if (access === ACCESS_FETCH) {
            return difference(ours, { ...without, rights: without.rights & PERM_EXEC }) === null;
          }
          return ours.pa === null && ours.code === FSC_PERMISSION + end.level && ours.writes.size === 0;
        },
      };
    },
  },
  {
    name: 'contiguous-range-too-large',
    engine: 'does not look at the contiguous bit',
    manual:
      '"Translation Lookaside Buffers", "The Contiguous bit": a range larger than the input addresses may be a Translation fault',
    instead: (question, ours) => {
      const end = last(question, ours);
      if (end === null || !isLeaf(end) || (end.value & CONT) === 0n) return null;
      // 16 entries of a level.
      if (39 - 9 * end.level + 4 <= sizeOf(question)) return null;
      return {
        question: replace(question, end, end.value & ~CONT),
        follows: (answer) => answer.pa === null && answer.code === FSC_TRANSLATION + end.level,
      };
    },
  },
  {
    name: 'no-address-size-faults',
    engine: 'does not compare addresses in TTBRs and descriptors with TCR_EL1.IPS',
    manual: '"Translation process", "Output address size" and "Address size fault"',
    instead: (question) => {
      if (addressLimit(question.tcr) === 1n << 48n) return null;
      return {
        question: { ...question, tcr: (question.tcr & ~TCR_IPS) | (5n << 32n) },
        follows: (ours, unlimited) => obeysLimit(question, ours, unlimited),
      };
    },
  },
  {
    name: 'no-HAFDBS',
    engine: 'has no FEAT_HAFDBS: TCR_EL1.HA and HD do nothing',
    manual:
      '"Memory access control", "Hardware management of the Access flag" and "Hardware management of the dirty state"',
    instead: (question, ours) => {
      const end = last(question, ours);
      if ((question.tcr & TCR_HA) === 0n || end === null || !isLeaf(end)) return null;
      const software = replace(question, end, managed(question, end));
      return {
        question: { ...software, tcr: question.tcr & ~(TCR_HA | TCR_HD) },
        follows: (answer, set) =>
          difference({ ...answer, writes: set.writes }, set) === null &&
          sameEntries(answer.writes, answer.pa === null ? new Map() : written(question, end)) &&
          (answer.granted & ~set.granted) === 0 &&
          // Of a page that is clean the first write must be asked for, because it writes the descriptor.
          ((answer.granted & PERM_WRITE) === 0 ||
            question.access === ACCESS_WRITE ||
            (end.value & RDONLY) === 0n),
      };
    },
  },
  {
    name: 'level-0-block',
    engine: 'takes a level 0 descriptor that ends in 01 for a block of 512 GiB',
    manual: '"Translation table descriptor formats": no blocks at level 0 without FEAT_LPA2, invalid',
    instead: (question, ours) => {
      const end = last(question, ours);
      if (end === null || end.level !== 0 || (end.value & 3n) !== 1n) return null;
      return { question: replace(question, end, 0n), follows: sameAnswer };
    },
  },
  {
    name: 'block-address-bits',
    engine: 'lets bits below the size of a block, which are RES0, into the physical address',
    manual:
      '"Translation table descriptor formats": block descriptors have the output address from bit 21 or 30 on',
    instead: (question, ours) => {
      const end = last(question, ours);
      if (end === null || !isBlock(end)) return null;
      const below = ADDRESS & ((1n << BigInt(39 - 9 * end.level)) - 1n);
      if ((end.value & below) === 0n) return null;
      return { question: replace(question, end, end.value & ~below), follows: sameAnswer };
    },
  },
  {
    name: 'absent-table',
    engine: 'reads zeros where a table is outside the ram, without an abort',
    manual: '"Translation process", "External abort on a translation table walk"; DFSC 0b0101LL',
    answers: (_question, ours) => {
      if (ours.pa !== null || (ours.code & 0x3c) !== FSC_EXTERNAL_ON_WALK) return null;
      return { ...ours, code: FSC_TRANSLATION + (ours.code & 3) };
    },
    avoided: (question, ours) => {
      const table = nextTable(question, ours);
      if (table === null || (table >= ARM64_RAM_BASE && table < ARM64_RAM_BASE + ARM64_RAM_SIZE)) return null;
      return ours.pa === null && ours.code === FSC_EXTERNAL_ON_WALK + levelAfter(question, ours);
    },
  },
];
