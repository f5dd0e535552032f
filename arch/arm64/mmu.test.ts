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
import { arm64 } from './index.js';
import { ControlRegisterError } from './mmu.js';
import { K, LDR_X0_X1, NOP, TEXT, TestMachine, USER_DATA, USER_TEXT } from './testing.js';

const R = PERM_READ;
const W = PERM_WRITE;
const X = PERM_EXEC;
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_SHARED = 0x0068_0000_0000_0fc3n;
const EL0_RW = 0x0068_0000_0000_0f43n;
const LDTR_X1_X2 = 0xf840_0841;

const AP = (ap: bigint): bigint => ap << 6n;
/** A page descriptor with AF, inner shareable, and nothing else. */
const BARE = 0x703n;
const PXN = 1n << 53n;
const UXN = 1n << 54n;

const page = (va: bigint): number => Number(BigInt.asIntN(64, va & ~0xfffn));

/** A user page without the PXNTable bit that user tables have. */
function mapBare(machine: TestMachine, entry: bigint): void {
  machine.map(USER_DATA, entry);
  for (const level of [0, 1, 2]) {
    const pa = machine.entryPa(USER_DATA, level);
    machine.ram.writeU64(pa, machine.ram.readU64(pa) & ~(1n << 59n));
  }
}

/** The rights that reading, writing and fetching ask out one after the other. */
function allowed(machine: TestMachine, va: bigint): number {
  const asks: readonly (readonly [AccessCode, number])[] = [
    [ACCESS_READ, R],
    [ACCESS_WRITE, W],
    [ACCESS_FETCH, X],
  ];
  return asks.reduce((sum, [access, right]) => sum | (machine.mmu.fill(page(va), access) & right), 0);
}

function asUser(machine: TestMachine): void {
  machine.becomeUserTask();
  arm64.prepareUser(machine.here, USER_TEXT, USER_DATA);
}

describe('permissions', () => {
  // AP[2:1], PXN, UXN: rights of EL1 without PAN, of EL1 with PAN, of EL0 (Arm ARM, D8.4.1).
  test.each([
    [0n, 0n, R | W | X, R | W | X, X],
    [1n, 0n, R | W, 0, R | W | X],
    [2n, 0n, R | X, R | X, X],
    [3n, 0n, R | X, X, R | X],
    [0n, PXN, R | W, R | W, X],
    [1n, UXN, R | W, 0, R | W],
    [3n, PXN | UXN, R, 0, R],
    [2n, UXN, R | X, R | X, 0],
  ])('AP[2:1] = %s, descriptor bits %s', (ap, never, el1, el1Pan, el0) => {
    for (const [PAN, expected] of [
      [false, el1],
      [true, el1Pan],
    ] as const) {
      const machine = new TestMachine({ PAN });
      machine.becomeUserTask();
      mapBare(machine, BARE | AP(ap) | never);
      expect(allowed(machine, USER_DATA)).toBe(expected);
    }
    const machine = new TestMachine();
    mapBare(machine, BARE | AP(ap) | never);
    asUser(machine);
    expect(allowed(machine, USER_DATA)).toBe(el0);
  });

  // Bits 61 and 62 of a table: no EL0 below, no writes below; 59 and 60: PXN and UXN below.
  test.each([
    [1n << 61n, R | W | X, X],
    [1n << 62n, R | X, R | X],
    [3n << 61n, R | X, X],
    [1n << 59n, R | W, R | W | X],
    [1n << 60n, R | W, R | W],
  ])('table bits %s count at every level above the page', (bits, el1, el0) => {
    for (const level of [0, 1, 2]) {
      const machine = new TestMachine({ PAN: false });
      mapBare(machine, BARE | AP(1n));
      const pa = machine.entryPa(USER_DATA, level);
      machine.ram.writeU64(pa, machine.ram.readU64(pa) | bits);
      machine.becomeUserTask();
      expect(allowed(machine, USER_DATA)).toBe(el1);
      asUser(machine);
      expect(allowed(machine, USER_DATA)).toBe(el0);
    }
  });

  test('with HPD the hierarchical bits are ignored', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    const pa = machine.entryPa(K, 2);
    machine.ram.writeU64(pa, machine.ram.readU64(pa) | (1n << 62n));
    expect(allowed(machine, K)).toBe(R);
    machine.cpu.write('tcr_el1', machine.cpu.read('tcr_el1') | (1n << 42n));
    machine.mmu.refresh();
    expect(allowed(machine, K)).toBe(R | W);
  });

  test('with WXN what can be written is not executable', () => {
    const machine = new TestMachine();
    machine.cpu.write('sctlr_el1', machine.cpu.read('sctlr_el1') | (1n << 19n));
    machine.mmu.refresh();
    expect(allowed(machine, TEXT)).toBe(R | W);
  });

  test('guest code that cleared PAN may touch user pages', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.map(USER_DATA, PAGE_SHARED);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(0);
    machine.cpu.write('pstate', 5n);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(R);
  });

  test('LDTR at EL1 has the rights of EL0: user pages despite PAN, kernel pages never', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.map(USER_DATA, EL0_RW);
    machine.map(K, PAGE_KERNEL);
    machine.code(LDTR_X1_X2);
    machine.mmu.fill(page(TEXT), ACCESS_FETCH);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(R | W);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(0);
    machine.cpu.write('pc', TEXT + 4n);
    machine.code(LDR_X0_X1, TEXT + 4n);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(0);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(R | W);
  });

  test('an LDTR that the host wrote after the page was fetched is noticed with the next call', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    machine.code(NOP);
    machine.mmu.fill(page(TEXT), ACCESS_FETCH);
    machine.code(LDTR_X1_X2);
    arm64.prepareCall(machine.here, TEXT, 0n);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(0);
  });
});

describe('why a permission fault', () => {
  test.each<readonly [string, bigint, 'read' | 'write' | 'fetch', boolean]>([
    ['AP[1]=0: no access for EL0', BARE | UXN, 'read', true],
    ['AP[2]=1: read-only', BARE | AP(2n) | UXN, 'write', false],
    ['AP[2]=1: read-only', BARE | AP(3n), 'write', true],
    ['PSTATE.PAN=1, and EL0 may access the page', BARE | AP(1n), 'read', false],
    ['PXN=1', BARE | PXN, 'fetch', false],
    ['UXN=1', BARE | AP(3n) | UXN, 'fetch', true],
    ['EL0 may write the page', BARE | AP(1n), 'fetch', false],
  ])('%s', (reason, entry, access, user) => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    mapBare(machine, entry);
    const { code, verdict } = machine.mmu.translate(USER_DATA, access, user);
    expect([code, verdict]).toEqual([0x0f, `level 3 permission fault: ${reason}`]);
  });

  test('what a table takes away is told apart', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    const pa = machine.entryPa(K, 1);
    machine.ram.writeU64(pa, machine.ram.readU64(pa) | (1n << 62n));
    expect(machine.mmu.translate(K, 'write', false).verdict).toBe(
      'level 3 permission fault: APTable[1]=1 above: read-only',
    );
  });
});

describe('what is granted at once', () => {
  test('never execution to a data access, and no write while the page is read-only', () => {
    const machine = new TestMachine();
    expect(machine.mmu.fill(page(TEXT), ACCESS_READ)).toBe(R | W);
    expect(machine.mmu.fill(page(TEXT), ACCESS_FETCH)).toBe(R | W | X);
  });

  test('hardware dirty state: the write is asked for again and then clears AP[2] in ram', () => {
    const machine = new TestMachine({ HA: true, HD: true, PAN: false });
    machine.becomeUserTask();
    machine.map(USER_DATA, PAGE_SHARED & ~(1n << 10n));
    const ptep = machine.entryPa(USER_DATA, 3);
    const before = machine.ram.readU64(ptep);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(R);
    expect(machine.ram.readU64(ptep)).toBe(before | (1n << 10n));
    machine.log.events.length = 0;
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_WRITE)).toBe(R | W);
    const after = (before | (1n << 10n)) & ~(1n << 7n);
    expect(machine.log.events).toMatchObject([
      { type: 'pte-write', by: 'hardware', level: 'pte', pa: ptep, old: before | (1n << 10n), value: after },
    ]);
    // Nothing changes any more, so nothing is written.
    machine.log.events.length = 0;
    machine.mmu.fill(page(USER_DATA), ACCESS_WRITE);
    expect(machine.log.events).toEqual([]);
  });

  test('without HA a clear access flag refuses; without HD so does RDONLY with DBM', () => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    machine.map(USER_DATA, PAGE_SHARED);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_WRITE)).toBe(0);
    expect(machine.mmu.translate(USER_DATA, 'write', false)).toMatchObject({ ok: false, code: 0x0f });
    machine.map(USER_DATA, PAGE_SHARED & ~(1n << 10n));
    expect(machine.mmu.translate(USER_DATA, 'read', false)).toMatchObject({ ok: false, code: 0x0b });
  });
});

describe('addresses', () => {
  test('a user address translates with any tag; a kernel address with none', () => {
    const machine = new TestMachine();
    const pa = machine.map(USER_DATA, PAGE_SHARED);
    machine.map(K, PAGE_KERNEL);
    asUser(machine);
    for (const tag of [0x01n, 0x5an, 0xffn]) {
      const tagged = USER_DATA | (tag << 56n);
      expect(machine.mmu.fill(BigInt.asIntN(64, tagged), ACCESS_READ)).toBe(R);
      expect(machine.mmu.pa).toBe(pa);
    }
    arm64.prepareCall(machine.here, TEXT, 0n);
    expect(machine.mmu.peek(K)).toBeGreaterThan(0);
    expect(machine.mmu.peek(K & ~(1n << 56n))).toBe(-1);
  });

  test.each([
    ['bit 48 of a user address', 0x0001_0000_0000_0000n],
    ['bit 54 of a user address', 0x0040_7f00_0000_0000n],
    ['bits 63:48 of a kernel address not all ones', 0xfffe_8001_2345_6000n],
    ['a kernel address without its top byte', 0x00ff_8001_2345_6000n],
  ])('%s: level 0 translation fault before any table is read', (_, va) => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    expect(machine.mmu.translate(va, 'read', false)).toMatchObject({
      ok: false,
      code: 0x04,
      levels: [],
      at: null,
      verdict: 'level 0 translation fault: the address is out of range of its half',
    });
    expect(machine.mmu.fill(BigInt.asIntN(64, va), ACCESS_READ)).toBe(0);
  });

  test('EPD switches a half off', () => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    machine.map(USER_DATA, PAGE_SHARED);
    machine.cpu.write('tcr_el1', machine.cpu.read('tcr_el1') | (1n << 7n));
    machine.mmu.refresh();
    expect(machine.mmu.translate(USER_DATA, 'read', false)).toMatchObject({
      ok: false,
      code: 0x04,
      levels: [],
    });
  });

  test('blocks: the address supplies what the block does not', () => {
    const machine = new TestMachine();
    const va = 0xffff_9000_4061_2345n;
    machine.set(va, 2, 0x00e8_0000_4020_0701n);
    expect(machine.mmu.translate(va, 'read', false)).toMatchObject({ ok: true, pa: 0x4021_2345 });
    machine.set(va, 1, 0x00e8_0000_4000_0701n);
    expect(machine.mmu.peek(va)).toBe(-1); // 0x40612345 is behind the end of the ram
    machine.set(va - 0x40_0000n, 1, 0x00e8_0000_4000_0701n);
    expect(machine.mmu.peek(va - 0x40_0000n)).toBe(0x4021_2345);
  });

  test.each([
    ['a table beyond the physical addresses', 1, 0x0100_0000_0403n, 0x01],
    ['a table that is no memory', 1, 0x8000_0403n, 0x16],
    ['a page beyond the physical addresses', 3, 0x00e8_0100_0000_0703n, 0x03],
    ['a page that is no memory', 3, 0x00e8_0000_8000_0703n, 0x10],
  ])('%s', (_, level, entry, code) => {
    const machine = new TestMachine();
    machine.set(K, level, entry);
    expect(machine.mmu.translate(K, 'read', false)).toMatchObject({ ok: false, code });
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(0);
  });

  test('permissions come before the external abort of the access', () => {
    const machine = new TestMachine();
    machine.set(K, 3, 0x00e0_0000_8000_0783n);
    expect(machine.mmu.translate(K, 'write', false)).toMatchObject({ code: 0x0f });
  });

  test('the walk lists each entry it read', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    const { levels } = machine.mmu.translate(K, 'read', false);
    expect(levels.map(({ level, entryPa }) => [level, entryPa])).toEqual([
      ['pgd', machine.entryPa(K, 0)],
      ['pud', machine.entryPa(K, 1)],
      ['pmd', machine.entryPa(K, 2)],
      ['pte', machine.entryPa(K, 3)],
    ]);
    expect(levels[3]?.entry).toBe(machine.ram.readU64(machine.entryPa(K, 3)));
  });
});

describe('pinned pages', () => {
  test('answer as they were until they are flushed', () => {
    const machine = new TestMachine();
    const pa = machine.map(K, PAGE_KERNEL);
    expect(machine.mmu.pin(K)).toBe(true);
    machine.set(K, 3, 0n);
    expect(machine.mmu.fill(page(K), ACCESS_WRITE)).toBe(R | W);
    expect(machine.mmu.pa).toBe(pa);
    expect(machine.mmu.peek(K)).toBe(-1);
    expect(machine.mmu.fill(page(K), ACCESS_FETCH)).toBe(0);
    expect(machine.mmu.translate(K, 'fetch', false)).toMatchObject({
      code: 0x0f,
      verdict: 'level 3 permission fault: PXN=1 (stale TLB entry)',
    });
    machine.mmu.unpin(K);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(0);
  });

  test('belong to their address space', () => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    machine.map(USER_DATA, EL0_RW);
    expect(machine.mmu.pin(USER_DATA)).toBe(true);
    machine.set(USER_DATA, 3, 0n);
    arm64.switch_mm(machine.here, null);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(0);
    arm64.switch_mm(machine.here, machine.userMm);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(R | W);
  });

  test('cannot be made of what does not translate', () => {
    const machine = new TestMachine();
    expect(machine.mmu.pin(K)).toBe(false);
  });
});

describe('control registers', () => {
  test.each([
    ['tcr_el1', 0xffn, 25n, /T0SZ and T1SZ must be 16/],
    ['tcr_el1', 3n << 14n, 1n << 14n, /only the 4 KiB granule/],
    ['tcr_el1', 3n << 30n, 3n << 30n, /only the 4 KiB granule/],
    ['tcr_el1', 7n << 32n, 6n << 32n, /IPS = 6/],
    ['sctlr_el1', 1n, 0n, /the MMU must be on/],
  ])('%s, field %s = %s is refused', (register, mask, value, message) => {
    const machine = new TestMachine();
    machine.cpu.write(register, (machine.cpu.read(register) & ~mask) | value);
    expect(() => machine.mmu.refresh()).toThrow(ControlRegisterError);
    expect(() => machine.mmu.refresh()).toThrow(message);
  });

  test('boot values', () => {
    const { cpu, kernel } = new TestMachine();
    expect(cpu.read('tcr_el1')).toBe(0x32_b550_3510n);
    expect(cpu.read('mair_el1')).toBe(0x4_0044_ffffn);
    expect(cpu.read('ttbr1_el1')).toBe(BigInt(kernel.init_mm.pgd));
    expect(cpu.read('ttbr0_el1')).toBe(BigInt(kernel.reserved_pg_dir));
    expect(cpu.read('pstate')).toBe(0x40_0005n);
    // WXN and A are clear, SPAN is cleared because PAN is in use.
    expect(cpu.read('sctlr_el1') & ((1n << 19n) | (1n << 23n) | 2n)).toBe(0n);
  });
});

describe('nothing is remembered that the tables do not hold any more', () => {
  test('an entry of any level changes between two walks', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    const { levels } = machine.mmu.translate(K, 'write', false);
    const TABLE_NO_WRITE = 1n << 62n;
    for (const [at, { entryPa, entry }] of levels.entries()) {
      const readOnly = at === 3 ? entry | AP(2n) : entry | TABLE_NO_WRITE;
      for (const [value, fault] of [
        [entry & ~1n, 0x04 + at],
        // A table's right counts when the leaf is looked at.
        [readOnly, 0x0f],
        [entry, 0],
      ] as const) {
        machine.ram.writeU64(entryPa, value);
        const { code, levels: shown } = machine.mmu.translate(K, 'write', false);
        expect([at, code, shown[at]?.entry]).toEqual([at, fault, value]);
      }
    }
  });

  test('a block in the place of a table', () => {
    const machine = new TestMachine();
    const VA = K & ~0xfffn;
    const pa = machine.map(VA, PAGE_KERNEL);
    expect(machine.mmu.peek(VA)).toBe(pa);
    const pmd = machine.entryPa(VA, 2);
    const table = machine.ram.readU64(pmd);
    machine.ram.writeU64(pmd, (PAGE_KERNEL & ~2n) | BigInt(machine.ram.base));
    expect(machine.mmu.peek(VA + 0x1000n)).toBe(machine.ram.base + Number((VA + 0x1000n) & 0x1fffffn));
    machine.ram.writeU64(pmd, table);
    expect(machine.mmu.peek(VA)).toBe(pa);
    expect(machine.mmu.peek(VA + 0x1000n)).toBe(-1);
  });
});
