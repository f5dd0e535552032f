/**
 * The walk over tables in a ram, without a CPU. Numbers: Arm ARM (DDI 0487), D8.2 "Translation process",
 * D8.3 "Translation table descriptor formats".
 */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import { Ram } from '../../emu/ram.js';
import { NO_FAULT, Walker } from './walk.js';
import { initialControl, type WalkControl } from './walk-control.js';

const BASE = 0x4000_0000;
const SIZE = 1 << 20;
const TABLE = 3n;
/** AF, inner shareable, EL1 read and write, page or block by the low bits. */
const PAGE = 0x703n;
const BLOCK = 0x701n;

const TRANSLATION = 0x04;
const ADDRESS_SIZE = 0x00;
const ABORT_ON_WALK = 0x14;

/** Tables whose first level is at `ttbr`, for a half of `bits` bits. */
class Tables {
  readonly ram = new Ram(BASE, SIZE);
  readonly control: WalkControl = initialControl();
  readonly walker = new Walker(this.ram, this.control);
  readonly first: number;
  #nextPage = BASE + 0x1_0000;

  constructor(
    readonly bits = 48,
    readonly ttbr = BASE + 0x1000,
  ) {
    this.control.ttbr0 = this.control.ttbr1 = ttbr;
    this.control.limit0 = this.control.limit1 = 2 ** bits;
    this.first = 4 - Math.ceil((bits - 12) / 9);
  }

  page(): number {
    this.#nextPage += 0x1000;
    return this.#nextPage;
  }

  /** Address of the entry of `level`, by the bits of the offset in the half; makes the tables above. */
  entryPa(offset: bigint, level: number): number {
    let table = this.ttbr;
    for (let l = this.first; ; l++) {
      const width = BigInt(l === this.first ? this.bits - (39 - 9 * l) : 9);
      const index = (offset >> BigInt(39 - 9 * l)) & ((1n << width) - 1n);
      const pa = table + Number(index) * 8;
      if (l === level) return pa;
      if (this.ram.readU64(pa) === 0n) this.ram.writeU64(pa, BigInt(this.page()) | TABLE);
      table = Number(this.ram.readU64(pa) & 0xffff_ffff_f000n);
    }
  }

  set(offset: bigint, level: number, entry: bigint): void {
    this.ram.writeU64(this.entryPa(offset, level), entry);
  }
}

const signed = (va: bigint): number => Number(BigInt.asIntN(64, va));

describe('sizes', () => {
  // T0SZ or T1SZ, bits, level of the first table, entries in it.
  test.each([
    [16, 48, 0, 512],
    [20, 44, 0, 32],
    [24, 40, 0, 2],
    [25, 39, 1, 512],
    [28, 36, 1, 64],
    [33, 31, 1, 2],
    [34, 30, 2, 512],
    [39, 25, 2, 16],
    [42, 22, 2, 2],
    [43, 21, 3, 512],
    [48, 16, 3, 16],
  ])('TnSZ = %s: %s bits, from level %s with %s entries', (tsz, bits, first, entries) => {
    expect(64 - tsz).toBe(bits);
    // The first table right behind other data, aligned to no more than its own size.
    const tables = new Tables(bits, BASE + 0x2000 - entries * 8);
    const size = 1n << BigInt(bits);
    // The highest page of the half uses the last entry of each table.
    const last = size - 0x1000n;
    tables.set(last, 3, 0x4004_5000n | PAGE);
    tables.set(0n, 3, 0x4004_6000n | PAGE);
    const { walker } = tables;
    for (const start of [0n, (1n << 64n) - size]) {
      for (const [offset, pa, index] of [
        [last, 0x4004_5000, entries - 1],
        [0n, 0x4004_6000, 0],
        [last, 0x4004_5000, entries - 1],
      ] as const) {
        expect(walker.walk(signed(start + offset))).toBe(NO_FAULT);
        expect([walker.pa, walker.level, walker.depth]).toEqual([pa, 3, 4 - first]);
        const levels = walker.levels();
        expect(levels.map(({ level }) => level)).toEqual(['pgd', 'pud', 'pmd', 'pte'].slice(first));
        expect(levels[0]?.entryPa).toBe(tables.ttbr + index * 8);
        expect(levels.at(-1)?.entry).toBe(BigInt(pa) | PAGE);
      }
    }
  });

  test.each([16, 21, 25, 30, 39, 40, 48])(
    '%s bits: what is beyond is a level 0 translation fault',
    (bits) => {
      const tables = new Tables(bits);
      const { walker } = tables;
      const size = 2 ** bits;
      for (const va of [size, -size - 1, -size - 0x1000, 2 ** 52, -(2 ** 52), Number.NaN]) {
        expect([va, walker.walk(va), walker.depth, walker.level]).toEqual([va, TRANSLATION, 0, 0]);
        expect(walker.levels()).toEqual([]);
      }
      // Just inside, the first table is read: the fault has its level.
      for (const va of [size - 1, -size, 0, -1]) {
        expect([va, walker.walk(va), walker.depth]).toEqual([va, TRANSLATION + tables.first, 1]);
      }
    },
  );

  test('the halves have a size and a table each', () => {
    const tables = new Tables();
    const { control, walker, ram } = tables;
    tables.set(0x5000n, 3, 0x4004_5000n | PAGE);
    control.limit1 = 2 ** 39;
    control.ttbr1 = tables.page();
    const pmd = tables.page();
    ram.writeU64(control.ttbr1, BigInt(pmd) | TABLE);
    ram.writeU64(pmd, 0x4020_0000n | BLOCK);
    expect([walker.walk(0x5000), walker.pa]).toEqual([NO_FAULT, 0x4004_5000]);
    expect([walker.walk(-(2 ** 39) + 0x5000), walker.pa]).toEqual([NO_FAULT, 0x4020_5000]);
    expect(walker.walk(-(2 ** 39) - 0x1000)).toBe(TRANSLATION);
  });

  test('a way that is remembered is not used for another size, table or HPD', () => {
    const tables = new Tables();
    const { control, walker } = tables;
    tables.set(0x5000n, 3, 0x4004_5000n | PAGE);
    tables.ram.writeU64(tables.entryPa(0n, 0), tables.ram.readU64(tables.entryPa(0n, 0)) | (1n << 62n));
    const found = (): unknown => [
      walker.walk(0x5000),
      walker.depth,
      walker.check(ACCESS_WRITE, false, false),
    ];
    expect(found()).toEqual([NO_FAULT, 4, 0x0f]);
    control.hpd0 = true;
    expect(found()).toEqual([NO_FAULT, 4, NO_FAULT]);
    control.hpd0 = false;
    // The same table as a level 1 table: what it points to is read as level 2, and so on.
    control.limit0 = 2 ** 39;
    expect([walker.walk(0x5000), walker.depth]).toEqual([TRANSLATION + 3, 3]);
    control.limit0 = 2 ** 48;
    expect(found()).toEqual([NO_FAULT, 4, 0x0f]);
    control.ttbr0 = tables.page();
    expect([walker.walk(0x5000), walker.depth]).toEqual([TRANSLATION, 1]);
    control.ttbr0 = tables.ttbr;
    expect(found()).toEqual([NO_FAULT, 4, 0x0f]);
  });

  test.each([-0x7ffe_dcc0_0000, 0x7f00_0000_0000, 0])(
    'neighbours in two tables do not share a way: around %s',
    (va) => {
      const tables = new Tables();
      const offset = (page: number): bigint => BigInt(va < 0 ? page + 2 ** 48 : page);
      const pages = [va + 0x1f_f000, va + 0x20_0000, va + 0x3f_f000, va + 0x40_0000];
      pages.forEach((page, i) => {
        tables.set(offset(page), 3, BigInt(BASE + i * 0x1000) | PAGE);
      });
      for (const order of [pages, pages.toReversed()]) {
        for (const page of order) {
          expect(tables.walker.walk(page)).toBe(NO_FAULT);
          expect(tables.walker.pa).toBe(BASE + pages.indexOf(page) * 0x1000);
          expect(tables.walker.levels()[3]?.entryPa).toBe(tables.entryPa(offset(page), 3));
        }
      }
    },
  );

  test('EPD of one half leaves the other alone', () => {
    const tables = new Tables();
    tables.set(0x5000n, 3, 0x4004_5000n | PAGE);
    for (const half of [0, 1]) {
      tables.control.epd0 = half === 0;
      tables.control.epd1 = half === 1;
      const { walker } = tables;
      expect([walker.walk(0x5000), walker.depth]).toEqual(half === 0 ? [TRANSLATION, 0] : [NO_FAULT, 4]);
      const high = -(2 ** 48) + 0x5000;
      expect([walker.walk(high), walker.depth]).toEqual(half === 1 ? [TRANSLATION, 0] : [NO_FAULT, 4]);
    }
  });
});

describe('descriptors', () => {
  const VA = 0x1234_5678_9abcn;

  test.each([
    [0, 0b00n, TRANSLATION],
    [0, 0b01n, TRANSLATION], // no blocks of 512 GiB
    [0, 0b10n, TRANSLATION],
    [1, 0b00n, TRANSLATION + 1],
    [1, 0b10n, TRANSLATION + 1],
    [2, 0b00n, TRANSLATION + 2],
    [2, 0b10n, TRANSLATION + 2],
    [3, 0b00n, TRANSLATION + 3],
    [3, 0b01n, TRANSLATION + 3], // reserved
    [3, 0b10n, TRANSLATION + 3],
  ])('level %s, bits 1:0 = %s', (level, type, fault) => {
    const tables = new Tables();
    // Twice: the second walk remembers the way to the last table.
    tables.set(VA, 3, 0x4004_5000n | PAGE);
    expect(tables.walker.walk(Number(VA))).toBe(NO_FAULT);
    tables.set(VA, level, 0x00e8_0000_4004_5700n | type);
    for (let turn = 0; turn < 2; turn++) {
      expect([tables.walker.walk(Number(VA)), tables.walker.depth]).toEqual([fault, level + 1]);
    }
  });

  test.each([
    [1, 0x4000_0000n, 0x4000_0000 + 0x1678_9000],
    [2, 0x4020_0000n, 0x4020_0000 + 0x18_9000],
    [3, 0x4004_5000n, 0x4004_5000],
  ])('a leaf at level %s: its bits above, the address below', (level, pa, expected) => {
    const tables = new Tables();
    tables.set(VA, level, pa | (level === 3 ? PAGE : BLOCK));
    const { walker } = tables;
    expect([walker.walk(Number(VA)), walker.pa, walker.level]).toEqual([NO_FAULT, expected, level]);
    // What lies between the block's address and its attributes is RES0 and ignored; bit 16 is nT.
    if (level === 3) return;
    tables.set(VA, level, pa | BLOCK | 0x1f_f000n);
    expect([walker.walk(Number(VA)), walker.pa]).toEqual([NO_FAULT, expected]);
  });

  test('upper bits of a leaf that are not the address: software bits, POIndex, bits 49:48', () => {
    const tables = new Tables();
    tables.set(VA, 3, 0x4004_5000n | PAGE | (0x7fn << 57n) | (0xfn << 55n) | (3n << 48n) | (1n << 50n));
    const { walker } = tables;
    expect([walker.walk(Number(VA)), walker.pa]).toEqual([NO_FAULT, 0x4004_5000]);
    expect(walker.check(ACCESS_WRITE, false, true)).toBe(NO_FAULT);
  });

  test.each([1, 2, 3])('the contiguous bit at level %s is a hint: each entry is taken by itself', (level) => {
    const CONT = 1n << 52n;
    const step = 1n << BigInt(39 - 9 * level);
    const tables = new Tables();
    const type = level === 3 ? PAGE : BLOCK;
    // Two of sixteen, in the wrong order and with different rights.
    tables.set(0n, level, CONT | 0xc000_0000n | type);
    tables.set(step, level, CONT | 0x4000_0000n | type | (1n << 7n));
    const { walker } = tables;
    expect([walker.walk(0), walker.pa]).toEqual([NO_FAULT, 0xc000_0000]);
    expect(walker.check(ACCESS_WRITE, false, false)).toBe(NO_FAULT);
    expect([walker.walk(Number(step)), walker.pa]).toEqual([NO_FAULT, 0x4000_0000]);
    expect(walker.check(ACCESS_WRITE, false, false)).toBe(0x0c + level);
    expect(walker.walk(Number(step) * 2)).toBe(TRANSLATION + level);
  });

  // 16 blocks are 16 GiB at level 1 and 32 MiB at level 2.
  test.each([
    [34, 1, NO_FAULT],
    [33, 1, TRANSLATION + 1],
    [31, 1, TRANSLATION + 1],
    [25, 2, NO_FAULT],
    [24, 2, TRANSLATION + 2],
    [22, 2, TRANSLATION + 2],
    [16, 3, NO_FAULT],
  ])('%s bits: a contiguous range at level %s larger than the half', (bits, level, fault) => {
    const tables = new Tables(bits);
    const leaf = 0x4000_0000n | (level === 3 ? PAGE : BLOCK);
    tables.set(0n, level, (1n << 52n) | leaf);
    expect(tables.walker.walk(0)).toBe(fault);
    tables.set(0n, level, leaf);
    expect(tables.walker.walk(0)).toBe(NO_FAULT);
  });
});

describe('physical addresses', () => {
  const LIMIT = 2n ** 36n;

  function limited(bits = 48): Tables {
    const tables = new Tables(bits);
    tables.control.paLimit = Number(LIMIT);
    return tables;
  }

  test('a first table beyond them: address size fault of level 0, whatever its level', () => {
    for (const bits of [48, 39, 25]) {
      const tables = limited(bits);
      tables.control.ttbr0 = Number(LIMIT);
      expect([tables.walker.walk(0), tables.walker.depth]).toEqual([ADDRESS_SIZE, 0]);
      // Inside, but no memory: the external abort has the level of the table.
      tables.control.ttbr0 = Number(LIMIT) - 0x1000;
      expect([tables.walker.walk(0), tables.walker.depth]).toEqual([ABORT_ON_WALK + tables.first, 0]);
    }
  });

  test.each([0, 1, 2])('a table beyond them has the level of the entry that says so: %s', (level) => {
    const tables = limited();
    tables.set(0n, level, LIMIT | TABLE);
    expect([tables.walker.walk(0), tables.walker.depth]).toEqual([ADDRESS_SIZE + level, level + 1]);
    // A table where there is no memory is found out when it is read, one level on.
    tables.set(0n, level, (LIMIT - 0x1000n) | TABLE);
    for (let turn = 0; turn < 2; turn++) {
      expect([tables.walker.walk(0), tables.walker.depth]).toEqual([ABORT_ON_WALK + level + 1, level + 1]);
    }
    tables.set(0n, level, BigInt(BASE + SIZE) | TABLE);
    expect(tables.walker.walk(0)).toBe(ABORT_ON_WALK + level + 1);
    tables.set(0n, level, BigInt(BASE - 0x1000) | TABLE);
    expect(tables.walker.walk(0)).toBe(ABORT_ON_WALK + level + 1);
  });

  test.each([1, 2, 3])('a leaf beyond them, at level %s', (level) => {
    const tables = limited();
    tables.set(0n, level, LIMIT | (level === 3 ? PAGE : BLOCK));
    expect(tables.walker.walk(0)).toBe(ADDRESS_SIZE + level);
    // Beyond, and AF clear, and read-only: the address size comes first.
    tables.set(0n, level, LIMIT | (level === 3 ? 3n : 1n));
    expect(tables.walker.walk(0)).toBe(ADDRESS_SIZE + level);
    tables.control.paLimit = Number(LIMIT) * 2;
    expect(tables.walker.walk(0)).toBe(NO_FAULT);
  });

  test('a remembered way does not outlive a smaller limit', () => {
    const tables = new Tables();
    tables.set(0n, 3, 0x4004_5000n | PAGE);
    expect(tables.walker.walk(0)).toBe(NO_FAULT);
    tables.control.paLimit = tables.ttbr;
    expect(tables.walker.walk(0)).toBe(ADDRESS_SIZE);
    tables.control.paLimit = 2 ** 48;
    expect(tables.walker.walk(0)).toBe(NO_FAULT);
    // The tables are made from the root down: the last is the highest.
    tables.control.paLimit = tables.entryPa(0n, 3);
    expect(tables.walker.walk(0)).toBe(ADDRESS_SIZE + 2);
    // Nothing else moved: a limit between the tables is the fault of the entry above.
    tables.control.paLimit = tables.ttbr + 0x1000;
    expect([tables.walker.walk(0), tables.walker.depth]).toEqual([ADDRESS_SIZE, 1]);
    tables.control.paLimit = 2 ** 48;
    expect(tables.walker.walk(0)).toBe(NO_FAULT);
  });
});

describe('order', () => {
  // D8.15 "MMU faults": of the same level, the first that applies.
  test('access flag, then permission, then what is behind the address', () => {
    const tables = new Tables();
    const { walker } = tables;
    const READ_ONLY = 1n << 7n;
    const faults = (entry: bigint): number[] => {
      tables.set(0n, 3, entry);
      const fault = walker.walk(0);
      return fault !== NO_FAULT
        ? [fault]
        : [
            walker.check(ACCESS_READ, false, false),
            walker.check(ACCESS_WRITE, false, false),
            walker.present(),
          ];
    };
    const NOWHERE = 0x8000_0000n;
    expect(faults(NOWHERE | 3n | READ_ONLY)).toEqual([0x0b, 0x0b, 0x10]);
    expect(faults(NOWHERE | PAGE | READ_ONLY)).toEqual([NO_FAULT, 0x0f, 0x10]);
    expect(faults(NOWHERE | PAGE)).toEqual([NO_FAULT, NO_FAULT, 0x10]);
    expect(faults(NOWHERE | (PAGE & ~2n))).toEqual([0x07]);
  });

  test.each([1, 2, 3])('access flag and permission faults have the level of the leaf: %s', (level) => {
    const tables = new Tables();
    const { walker } = tables;
    const type = level === 3 ? 3n : 1n;
    tables.set(0n, level, 0x4000_0000n | type);
    walker.walk(0);
    expect(walker.check(ACCESS_READ, false, false)).toBe(0x08 + level);
    tables.set(0n, level, 0x4000_0780n | type);
    walker.walk(0);
    expect(walker.check(ACCESS_WRITE, false, false)).toBe(0x0c + level);
    expect(walker.check(ACCESS_READ, true, false)).toBe(0x0c + level);
  });
});
