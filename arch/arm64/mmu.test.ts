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
import { K, LDR_X0_X1, NOP, TEXT, TestMachine, USER_DATA } from './testing.js';
import { NO_FAULT } from './walk.js';

const R = PERM_READ;
const W = PERM_WRITE;
const X = PERM_EXEC;
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_SHARED = 0x0068_0000_0000_0fc3n;
const PAGE_EXECONLY = 0x0020_0000_0000_0f83n;
const EL0_RW = 0x0068_0000_0000_0f43n;
const LDTR_X1_X2 = 0xf840_0841;

const AP = (ap: bigint): bigint => ap << 6n;
/** A page descriptor with AF, inner shareable, and nothing else. */
const BARE = 0x703n;
const PXN = 1n << 53n;
const UXN = 1n << 54n;
const DBM = 1n << 51n;

const page = (va: bigint): number => Number(BigInt.asIntN(64, va & ~0xfffn));

/** The rights that reading, writing and fetching ask out one after the other. */
function allowed(machine: TestMachine, va: bigint): number {
  const asks: readonly (readonly [AccessCode, number])[] = [
    [ACCESS_READ, R],
    [ACCESS_WRITE, W],
    [ACCESS_FETCH, X],
  ];
  return asks.reduce((sum, [access, right]) => sum | (machine.mmu.fill(page(va), access) & right), 0);
}

describe('permissions', () => {
  // AP[2:1], PXN, UXN: rights of EL1 without PAN, of EL1 with PAN and EPAN, of EL0 (Arm ARM, D8.4.1).
  test.each([
    [0n, 0n, R | W | X, X, X],
    [1n, 0n, R | W, 0, R | W | X],
    [2n, 0n, R | X, X, X],
    [3n, 0n, R | X, X, R | X],
    [0n, PXN, R | W, 0, X],
    [0n, UXN, R | W | X, R | W | X, 0],
    [0n, PXN | UXN, R | W, R | W, 0],
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
      machine.mapBare(BARE | AP(ap) | never);
      expect(allowed(machine, USER_DATA)).toBe(expected);
    }
    const machine = new TestMachine();
    machine.mapBare(BARE | AP(ap) | never);
    machine.becomeUserCode();
    expect(allowed(machine, USER_DATA)).toBe(el0);
  });

  // Bits 61 and 62 of a table: no EL0 below, no writes below; 59 and 60: PXN and UXN below.
  test.each([
    [1n, 0n, R | W, R | W | X],
    [1n, 1n << 61n, R | W | X, X],
    [1n, 1n << 62n, R | X, R | X],
    [1n, 3n << 61n, R | X, X],
    [1n, 1n << 59n, R | W, R | W | X],
    [1n, 1n << 60n, R | W, R | W],
    [0n, 0n, R | W | X, X],
    [0n, 1n << 59n, R | W, X],
    [0n, 1n << 60n, R | W | X, 0],
    [0n, 1n << 63n, R | W | X, X],
  ])('AP[2:1] = %s: table bits %s count at every level above the page', (ap, bits, el1, el0) => {
    for (const level of [0, 1, 2]) {
      const machine = new TestMachine({ PAN: false });
      machine.mapBare(BARE | AP(ap));
      const pa = machine.entryPa(USER_DATA, level);
      machine.ram.writeU64(pa, machine.ram.readU64(pa) | bits);
      machine.becomeUserTask();
      expect(allowed(machine, USER_DATA)).toBe(el1);
      machine.becomeUserCode();
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

  // The same for EL0 and EL1: what they can write they cannot execute.
  test.each([
    [1n, 0n, R | W, R | W],
    [0n, 0n, R | W, X],
    [2n, 0n, R | X, X],
    [3n, 0n, R | X, R | X],
    [1n, 1n << 62n, R | X, R | X],
  ])('WXN with AP[2:1] = %s, table bits %s', (ap, bits, el1, el0) => {
    const machine = new TestMachine({ PAN: false });
    machine.mapBare(BARE | AP(ap));
    const pa = machine.entryPa(USER_DATA, 2);
    machine.ram.writeU64(pa, machine.ram.readU64(pa) | bits);
    machine.becomeUserTask();
    machine.setBits('sctlr_el1', 1n << 19n, 0n);
    expect(allowed(machine, USER_DATA)).toBe(el1);
    machine.becomeUserCode();
    expect(allowed(machine, USER_DATA)).toBe(el0);
  });

  test('with WXN what can be written is not executable', () => {
    const machine = new TestMachine();
    machine.cpu.write('sctlr_el1', machine.cpu.read('sctlr_el1') | (1n << 19n));
    machine.mmu.refresh();
    expect(allowed(machine, TEXT)).toBe(R | W);
  });

  // SCTLR_EL1.EPAN: a page that EL0 may execute and not read is still one of EL0's.
  test('PAN counts for execute-only pages with EPAN, and not without', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.mapBare(PAGE_EXECONLY);
    expect(allowed(machine, USER_DATA)).toBe(0);
    const { code, verdict } = machine.mmu.translate(USER_DATA, 'read', false);
    expect([code, verdict]).toEqual([
      0x0f,
      'level 3 permission fault: PSTATE.PAN=1 with EPAN=1, and EL0 may execute the page',
    ]);
    // A table that takes execution from EL0 makes it a page of the kernel's.
    const table = machine.entryPa(USER_DATA, 2);
    machine.ram.writeU64(table, machine.ram.readU64(table) | (1n << 60n));
    expect(allowed(machine, USER_DATA)).toBe(R);
    machine.ram.writeU64(table, machine.ram.readU64(table) & ~(1n << 60n));
    machine.setBits('pstate', 0n, 1n << 22n);
    expect(allowed(machine, USER_DATA)).toBe(R);
    machine.setBits('pstate', 1n << 22n, 0n);
    machine.setBits('sctlr_el1', 0n, 1n << 57n);
    expect(allowed(machine, USER_DATA)).toBe(R);
    machine.becomeUserCode();
    expect(allowed(machine, USER_DATA)).toBe(X);
  });

  test('WXN does not make a page less executable for EPAN: both look at the descriptor', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.setBits('sctlr_el1', 1n << 19n, 0n);
    // EL1 may write, EL0 may only execute: AP = 00, UXN = 0.
    machine.mapBare(BARE | PXN);
    expect(allowed(machine, USER_DATA)).toBe(0);
    machine.setBits('sctlr_el1', 0n, 1n << 57n);
    expect(allowed(machine, USER_DATA)).toBe(R | W);
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

  test('LDTR with PSTATE.UAO is a plain load: rights of EL1, and PAN counts', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.map(USER_DATA, EL0_RW);
    machine.map(K, PAGE_KERNEL);
    machine.code(LDTR_X1_X2);
    machine.mmu.fill(page(TEXT), ACCESS_FETCH);
    machine.setBits('pstate', 1n << 23n, 0n);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(0);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(R | W);
    machine.setBits('pstate', 0n, 1n << 22n);
    expect(machine.mmu.fill(page(USER_DATA), ACCESS_READ)).toBe(R | W);
  });

  test.each([
    ['eret', 0xd69f_03e0],
    ['eretaa', 0xd69f_0bff],
    ['eretab', 0xd69f_0fff],
  ])('code that holds an %s may be at EL0 without anybody having said so', (_, word) => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    machine.code(word);
    machine.mmu.fill(page(TEXT), ACCESS_FETCH);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(R | W);
    machine.setBits('pstate', 0n, 0xfn);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(0);
    expect(machine.mmu.fill(page(TEXT), ACCESS_FETCH)).toBe(0);
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
    machine.mapBare(entry);
    const { code, verdict } = machine.mmu.translate(USER_DATA, access, user);
    expect([code, verdict]).toEqual([0x0f, `level 3 permission fault: ${reason}`]);
  });

  test.each<readonly [string, bigint, bigint, 'read' | 'write' | 'fetch', boolean]>([
    ['APTable[1]=1 above: read-only', BARE | PXN | UXN, 1n << 62n, 'write', false],
    ['APTable[0]=1 above: no access for EL0', BARE | AP(1n), 1n << 61n, 'read', true],
    ['PXNTable=1 above', BARE, 1n << 59n, 'fetch', false],
    ['UXNTable=1 above', BARE, 1n << 60n, 'fetch', true],
  ])('what a table takes away is told apart: %s', (reason, entry, bits, access, user) => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.mapBare(entry);
    const pa = machine.entryPa(USER_DATA, 1);
    machine.ram.writeU64(pa, machine.ram.readU64(pa) | bits);
    expect(machine.mmu.translate(USER_DATA, access, user).verdict).toBe(
      `level 3 permission fault: ${reason}`,
    );
  });

  test.each([false, true])('WXN: the page is writable (EL0 %s)', (user) => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.setBits('sctlr_el1', 1n << 19n, 0n);
    machine.mapBare(BARE | AP(user ? 1n : 0n));
    expect(machine.mmu.translate(USER_DATA, 'fetch', user).verdict).toBe(
      'level 3 permission fault: WXN: the page is writable',
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

  test.each([
    ['neither HA nor HD', 0n, false],
    ['HD without HA: it is ignored', 1n << 40n, false],
    ['HA alone', 1n << 39n, false],
    ['both', 3n << 39n, true],
  ])('%s: may a page with AP[2] = 1 and DBM = 1 be written', (_, bits, writable) => {
    const machine = new TestMachine();
    machine.setBits('tcr_el1', bits, 0n);
    machine.map(K, BARE | AP(2n) | DBM);
    expect(allowed(machine, K)).toBe(writable ? R | W | X : R | X);
    // Without DBM never, nor below a table that takes writing away; PXN is another bit.
    machine.map(K, BARE | AP(2n) | PXN);
    expect(allowed(machine, K)).toBe(R);
    machine.map(K, BARE | AP(2n) | DBM);
    const pa = machine.entryPa(K, 2);
    machine.ram.writeU64(pa, machine.ram.readU64(pa) | (1n << 62n));
    expect(allowed(machine, K)).toBe(R | X);
    expect(machine.ram.readU64(machine.entryPa(K, 3)) & AP(2n)).toBe(AP(2n));
  });

  test('a page that hardware makes writable is one that EL0 may write: EL1 does not execute it', () => {
    const machine = new TestMachine({ HA: true, HD: true, PAN: false });
    machine.becomeUserTask();
    machine.mapBare(BARE | AP(3n) | DBM);
    expect(allowed(machine, USER_DATA)).toBe(R | W);
  });

  test.each([1, 2])('the entry that hardware updates is the block at level %s', (level) => {
    const machine = new TestMachine({ HA: true, HD: true });
    const before = 0x4000_0301n | AP(2n) | DBM;
    const va = (K & ~0x3fff_ffffn) + 0x3000n;
    machine.set(va, level, before);
    const entry = machine.entryPa(va, level);
    expect(machine.mmu.translate(va, 'write', false).ok).toBe(true);
    expect(machine.ram.readU64(entry)).toBe(before);
    expect(machine.mmu.fill(page(va), ACCESS_FETCH)).toBe(R | X);
    expect(machine.ram.readU64(entry)).toBe(before | (1n << 10n));
    expect(machine.mmu.fill(page(va), ACCESS_WRITE)).toBe(R | W);
    expect(machine.ram.readU64(entry)).toBe((before | (1n << 10n)) & ~AP(2n));
  });

  test('an access that is refused sets no access flag', () => {
    const machine = new TestMachine({ HA: true, HD: true });
    machine.map(K, 0x303n | AP(2n));
    const before = machine.ram.readU64(machine.entryPa(K, 3));
    expect(machine.mmu.fill(page(K), ACCESS_WRITE)).toBe(0);
    expect(machine.ram.readU64(machine.entryPa(K, 3))).toBe(before);
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

describe('cache maintenance', () => {
  // DC CVAC, CIVAC, CVAU and IC IVAU need nothing at EL1; DC IVAC writes; EL0 reads. No access flag faults, no PAN.
  test.each<readonly [string, bigint, number, number, number]>([
    ['a kernel page', PAGE_KERNEL, NO_FAULT, NO_FAULT, 0x0f],
    ['a read-only page', PAGE_KERNEL | AP(2n), NO_FAULT, 0x0f, 0x0f],
    ['a user page', EL0_RW, NO_FAULT, NO_FAULT, NO_FAULT],
    ['a read-only user page', EL0_RW | AP(2n), NO_FAULT, 0x0f, NO_FAULT],
    ['a page with AF = 0', EL0_RW & ~(1n << 10n), NO_FAULT, NO_FAULT, NO_FAULT],
    ['a read-only page with AF = 0', (PAGE_KERNEL | AP(2n)) & ~(1n << 10n), NO_FAULT, 0x0f, 0x0f],
    ['no page', 0n, 0x07, 0x07, 0x07],
    ['a page beyond the physical addresses', PAGE_KERNEL | (1n << 40n), 0x03, 0x03, 0x03],
  ])('%s', (_, entry, clean, invalidate, user) => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.set(USER_DATA, 3, entry === 0n ? 0n : entry | BigInt(machine.page()));
    expect(machine.mmu.maintenanceFaultOf(USER_DATA, false, false)).toBe(clean);
    expect(machine.mmu.maintenanceFaultOf(USER_DATA, false, true)).toBe(invalidate);
    expect(machine.mmu.maintenanceFaultOf(USER_DATA, true, false)).toBe(user);
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

describe('nothing is remembered that the tables do not hold any more', () => {
  test('an entry of any level changes between two walks', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    const { levels } = machine.mmu.translate(K, 'write', false);
    expect(levels.map(({ level }) => level)).toEqual(['pgd', 'pud', 'pmd', 'pte']);
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
