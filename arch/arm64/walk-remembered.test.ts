/**
 * Walks that begin where an earlier one has been. Each of the upper entries counts as it is in the ram now,
 * with both its halves. Arm ARM (DDI 0487), D8.3 "Translation table descriptor formats": what bits 63:59 of
 * a table take away.
 */
import { describe, expect, test } from '@jest/globals';
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
} from '../../emu/cpu.js';
import { Ram } from '../../emu/ram.js';
import { NO_FAULT, Walker } from './walk.js';
import { initialControl } from './walk-control.js';

const BASE = 0x4000_0000;
/** Tables of the levels 0 to 3, and the page. */
const TABLES = [BASE + 0x1000, BASE + 0x2000, BASE + 0x3000, BASE + 0x4000] as const;
const FRAME = BASE + 0x9000;
const TABLE = 3n;
/** AF, AP[1] (EL0 may read and write), page. */
const USER_PAGE = 0x743n;
const APTABLE_NO_EL0 = 1n << 61n;
const APTABLE_READ_ONLY = 1n << 62n;
const UXNTABLE = 1n << 60n;

/** Entry 2 of the table of `level`; entries 1 and 3 are its neighbours. */
const entryPa = (level: number): number => (TABLES[level] ?? 0) + 16;
const VA = 2 * 2 ** 39 + 2 * 2 ** 30 + 2 * 2 ** 21 + 2 * 2 ** 12;

class Ways {
  readonly ram = new Ram(BASE, 1 << 20);
  readonly walker: Walker;
  readonly va: number;

  /** @param first level of the first table */
  constructor(first = 0) {
    const control = initialControl();
    control.ttbr0 = TABLES[first] ?? 0;
    control.limit0 = 2 ** (48 - 9 * first);
    this.walker = new Walker(this.ram, control);
    this.va = VA % control.limit0;
    for (let level = 0; level < 3; level++) {
      this.ram.writeU64(entryPa(level), BigInt(TABLES[level + 1] ?? 0) | TABLE);
    }
    this.ram.writeU64(entryPa(3), BigInt(FRAME) | USER_PAGE);
  }

  /** What EL0 may do, after a walk as it comes. */
  rights(): number {
    const asks: readonly (readonly [AccessCode, number])[] = [
      [ACCESS_READ, PERM_READ],
      [ACCESS_WRITE, PERM_WRITE],
      [ACCESS_FETCH, PERM_EXEC],
    ];
    expect(this.walker.walk(this.va)).toBe(NO_FAULT);
    expect(this.walker.pa).toBe(FRAME);
    return asks.reduce(
      (sum, [access, right]) => (this.walker.check(access, true, false) === NO_FAULT ? sum | right : sum),
      0,
    );
  }
}

const ALL = PERM_READ | PERM_WRITE | PERM_EXEC;

// Bits of a table descriptor, and what they leave to EL0.
const TAKEN = [
  ['APTable[0]', APTABLE_NO_EL0, PERM_EXEC],
  ['APTable[1]', APTABLE_READ_ONLY, PERM_READ | PERM_EXEC],
  ['UXNTable', UXNTABLE, PERM_READ | PERM_WRITE],
] as const;

// The first table is that of level 0, 1 or 2: 48, 39 or 30 bits of address.
const UPPER = [
  [0, 0],
  [0, 1],
  [0, 2],
  [1, 1],
  [1, 2],
  [2, 2],
] as const;

describe.each(UPPER)('first level %s, the entry of level %s', (first, level) => {
  test.each(TAKEN)('%s set, and cleared again', (_bit, bit, left) => {
    const ways = new Ways(first);
    const { ram } = ways;
    const entry = ram.readU64(entryPa(level));
    expect(ways.rights()).toBe(ALL);
    for (let turn = 0; turn < 2; turn++) {
      ram.writeU64(entryPa(level), entry | bit);
      expect([ways.rights(), ways.rights()]).toEqual([left, left]);
      ram.writeU64(entryPa(level), entry);
      expect([ways.rights(), ways.rights()]).toEqual([ALL, ALL]);
    }
  });

  test.each(TAKEN)('%s set or cleared, though the entries beside it had it so before', (_bit, bit, left) => {
    for (const [before, after, rights] of [
      [0n, bit, left],
      [bit, 0n, ALL],
    ] as const) {
      const ways = new Ways(first);
      const { ram } = ways;
      const pa = entryPa(level);
      const entry = ram.readU64(pa);
      // All words beside it are what its high half is going to be; the invalid entries mean nothing.
      const word = after >> 32n;
      for (const beside of [pa - 8, pa + 8]) ram.writeU64(beside, (word << 32n) | word);
      ram.writeU64(pa, entry | before);
      expect([ways.rights(), ways.rights()]).toEqual(before === 0n ? [ALL, ALL] : [left, left]);
      ram.writeU64(pa, entry | after);
      expect(ways.rights()).toBe(rights);
    }
  });
});
