/**
 * Which addresses are looked up at all, by which tables, and what the control registers have to do with it.
 */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, PERM_EXEC, PERM_READ, PERM_WRITE } from '../../emu/cpu.js';
import { arm64 } from './index.js';
import { K, NOP, TEXT, TestMachine, USER_DATA } from './testing.js';
import { NO_FAULT } from './walk.js';
import { ControlRegisterError } from './walk-control.js';

const R = PERM_READ;
const W = PERM_WRITE;
const X = PERM_EXEC;
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_SHARED = 0x0068_0000_0000_0fc3n;
const EL0_RW = 0x0068_0000_0000_0f43n;
const LDTR_X1_X2 = 0xf840_0841;
/** A page descriptor with AF, inner shareable, and nothing else. */
const BARE = 0x703n;

const page = (va: bigint): number => Number(BigInt.asIntN(64, va & ~0xfffn));

describe('addresses', () => {
  test('a user address translates with any tag; a kernel address with none', () => {
    const machine = new TestMachine();
    const pa = machine.map(USER_DATA, PAGE_SHARED);
    const kernel = machine.map(K, PAGE_KERNEL);
    machine.becomeUserCode();
    for (const tag of [0x01n, 0x5an, 0xffn]) {
      const tagged = USER_DATA | (tag << 56n);
      expect(machine.mmu.fill(BigInt.asIntN(64, tagged), ACCESS_READ)).toBe(R);
      expect(machine.mmu.pa).toBe(pa);
    }
    arm64.prepareCall(machine.here, TEXT, 0n);
    expect(machine.mmu.peek(K)).toBe(kernel + Number(K & 0xfffn));
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

  test.each([
    [0, 7n, USER_DATA],
    [1, 23n, K],
  ])('EPD%s: no walks for the half', (half, position, va) => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    machine.map(va, PAGE_KERNEL);
    expect(machine.mmu.translate(va, 'read', false).ok).toBe(true);
    machine.setBits('tcr_el1', 1n << position, 0n);
    expect(machine.mmu.translate(va, 'read', false)).toMatchObject({
      ok: false,
      code: 0x04,
      levels: [],
      verdict: `level 0 translation fault: EPD${half}=1: no walks through TTBR${half}_EL1`,
    });
  });

  // Level 0 before any table is read, whatever the page grants; LDTR is an access of EL0 (AccessDescriptor.el).
  test.each([
    [0, 55n, USER_DATA],
    [1, 56n, K],
  ])('E0PD%s: no accesses of EL0 to the half', (half, position, va) => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    machine.map(va, EL0_RW);
    machine.mmu.pin(va);
    machine.setBits('tcr_el1', 1n << position, 0n);
    expect(machine.mmu.fill(page(va), ACCESS_READ)).toBe(R | W);
    expect(machine.mmu.faultOf(va, ACCESS_READ, false, false)).toBe(NO_FAULT);
    for (const access of ['read', 'write', 'fetch'] as const) {
      expect(machine.mmu.translate(va, access, true)).toMatchObject({
        code: 0x04,
        levels: [],
        verdict: `level 0 translation fault: E0PD${half}=1: no access for EL0 through TTBR${half}_EL1`,
      });
    }
    machine.code(LDTR_X1_X2);
    machine.mmu.fill(page(TEXT), ACCESS_FETCH);
    expect(machine.mmu.fill(page(va), ACCESS_READ)).toBe(0);
    machine.code(NOP);
    machine.becomeUserCode();
    machine.setBits('tcr_el1', 1n << position, 0n);
    expect(machine.mmu.fill(page(va), ACCESS_READ)).toBe(0);
    machine.setBits('tcr_el1', 0n, 1n << position);
    expect(machine.mmu.fill(page(va), ACCESS_READ)).toBe(R | W);
  });

  test('TBI1: a kernel address with any top byte whose bit 55 is set', () => {
    const machine = new TestMachine();
    const pa = machine.map(K, PAGE_KERNEL);
    const tagged = K & ~(0xffn << 56n);
    expect(machine.mmu.translate(tagged, 'read', false)).toMatchObject({ code: 0x04, levels: [] });
    machine.setBits('tcr_el1', 1n << 38n, 0n);
    expect(machine.mmu.translate(tagged, 'read', false)).toMatchObject({ ok: true, pa: pa + 8 });
    // Bits 54:48 count all the same.
    expect(machine.mmu.translate(tagged & ~(1n << 48n), 'read', false)).toMatchObject({ code: 0x04 });
  });

  test.each([
    [0, 51n, USER_DATA | (0x5an << 56n)],
    [1, 52n, K & ~(0x5an << 56n)],
  ])('TBID%s: the top byte of an instruction address counts', (_, position, tagged) => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    machine.mapBare(BARE);
    machine.map(K, BARE);
    machine.setBits('tcr_el1', 1n << 38n, 0n);
    const fetch = () => machine.mmu.fill(BigInt.asIntN(64, tagged & ~0xfffn), ACCESS_FETCH);
    expect(machine.mmu.translate(tagged, 'fetch', false).code).toBe(0);
    expect(fetch()).toBe(R | W | X);
    machine.setBits('tcr_el1', 1n << position, 0n);
    expect(machine.mmu.translate(tagged, 'fetch', false)).toMatchObject({ code: 0x04, levels: [] });
    expect(fetch()).toBe(0);
    expect(machine.mmu.translate(tagged, 'read', false).code).toBe(0);
    expect(machine.mmu.fill(BigInt.asIntN(64, tagged & ~0xfffn), ACCESS_READ)).toBe(R | W);
  });

  test('halves of 39 bits: three levels, and 2^39 is out of range', () => {
    const machine = new TestMachine({ PAN: false });
    machine.becomeUserTask();
    const low = 0x40_1234_5000n;
    const high = 0xffff_ffc0_1234_5000n;
    const pa = machine.map(low, PAGE_KERNEL);
    machine.map(high, PAGE_KERNEL);
    const second = (va: bigint): bigint => machine.ram.readU64(machine.entryPa(va, 0)) & 0xffff_ffff_f000n;
    machine.cpu.write('ttbr0_el1', second(low));
    machine.cpu.write('ttbr1_el1', second(high));
    machine.setBits('tcr_el1', (25n << 16n) | 25n, (0x3fn << 16n) | 0x3fn);
    const { ok, levels, pa: found } = machine.mmu.translate(low, 'read', false);
    expect([ok, found, levels.map(({ level }) => level)]).toEqual([true, pa, ['pud', 'pmd', 'pte']]);
    expect(machine.mmu.translate(high, 'write', false)).toMatchObject({ ok: true, at: 'pte' });
    for (const va of [low + (1n << 39n), high - (1n << 39n)]) {
      expect(machine.mmu.translate(va, 'read', false)).toMatchObject({
        code: 0x04,
        verdict: 'level 0 translation fault: the address is out of range of its half',
      });
    }
    // A pinned leaf of a three-level walk has its level, and its levels.
    machine.map(low, PAGE_KERNEL | (1n << 7n));
    expect(machine.mmu.pin(low)).toBe(true);
    expect(machine.mmu.translate(low, 'write', false)).toMatchObject({ code: 0x0f, at: 'pte' });
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

describe('control registers', () => {
  test('what is not modelled is refused, and the translation stays as it was', () => {
    const machine = new TestMachine();
    machine.map(K, PAGE_KERNEL);
    machine.cpu.write('tcr_el1', machine.cpu.read('tcr_el1') | (1n << 14n));
    expect(() => machine.mmu.refresh()).toThrow(ControlRegisterError);
    expect(() => machine.mmu.refresh()).toThrow(/TG0 = 1 \(64 KiB\) is not modelled/);
    expect(machine.mmu.fill(page(K), ACCESS_READ)).toBe(R | W);
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
