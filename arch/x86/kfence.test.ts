import { describe, expect, test } from '@jest/globals';
import { arch_kfence_init_pool, kfence_protect_page } from './kfence.js';
import { lookup_address_in_pgd } from './lookup-address.js';
import { entryPa, tablePa } from './pgtable.js';
import { testMachine } from './testing.js';

const POOL = 0xffff888003e00000n;

describe('kfence_protect_page', () => {
  test.each([
    [0x8000000003e00163n, 0x800ffffffc1ff162n],
    [0x8000000003e92163n, 0x800ffffffc16d162n],
    [0x8000000003e93163n, 0x800ffffffc16c162n],
  ])('clears P and inverts the frame, and back (%#)', (present, hidden) => {
    const machine = testMachine();
    const { here, ram, cpu } = machine;
    const pte = machine.map(POOL, present);
    machine.mmu.pin(POOL);
    cpu.flushed.length = 0;
    expect(kfence_protect_page(here, POOL, true)).toBe(true);
    expect(ram.readU64(pte)).toBe(hidden);
    expect(machine.mmu.pinnedPages()).toEqual([]);
    // Asked for twice it does not invert twice.
    expect(kfence_protect_page(here, POOL, true)).toBe(true);
    expect(ram.readU64(pte)).toBe(hidden);
    expect(kfence_protect_page(here, POOL, false)).toBe(true);
    expect(ram.readU64(pte)).toBe(present);
    expect(cpu.flushed).toEqual([POOL.toString(16)]);
  });

  test('warns about a page that no PTE maps', () => {
    const machine = testMachine();
    expect(kfence_protect_page(machine.here, POOL, true)).toBe(false);
    expect(machine.console()).toEqual(['------------[ cut here ]------------']);
  });
});

describe('arch_kfence_init_pool', () => {
  const LARGE = 0xffff888003e00000n;
  /** A machine whose direct map has a large page there, and the place of its entry. */
  const withLargePage = () => {
    const machine = testMachine();
    const pte = machine.map(LARGE, 0x8000000003e00163n);
    const found = lookup_address_in_pgd(machine.here, machine.here.kernel.init_mm.pgd, LARGE);
    expect(found?.ptep).toBe(pte);
    const { pgd } = machine.here.kernel.init_mm;
    const pud = tablePa(machine.ram.readU64(entryPa('pgd', pgd, LARGE)));
    const pmd = entryPa('pmd', tablePa(machine.ram.readU64(entryPa('pud', pud, LARGE))), LARGE);
    machine.ram.writeU64(pmd, 0x8000000003e001e3n);
    return { machine, pmd, table: pte - (pte % 4096) };
  };

  test('splits a large page once, and marks the page that asked for it', () => {
    const { machine, pmd, table } = withLargePage();
    const { here, ram } = machine;
    let tables = 0;
    const newTable = () => {
      tables += 1;
      return table;
    };
    expect(arch_kfence_init_pool(here, LARGE, 0x20_0000, newTable)).toBe(true);
    expect(tables).toBe(1);
    expect(ram.readU64(pmd)).toBe(BigInt(table) | 0x63n);
    expect(ram.readU64(table)).toBe(0x8000000003e00963n);
    expect(ram.readU64(table + 8)).toBe(0x8000000003e01163n);
    expect(ram.readU64(table + 511 * 8)).toBe(0x8000000003fff163n);
  });

  test('does not say that there was no page for a table; protecting finds out', () => {
    const { machine, pmd } = withLargePage();
    expect(arch_kfence_init_pool(machine.here, LARGE, 0x20_0000, () => null)).toBe(true);
    expect(machine.ram.readU64(pmd)).toBe(0x8000000003e001e3n);
    expect(kfence_protect_page(machine.here, LARGE, true)).toBe(false);
  });

  test('fails where nothing is mapped', () => {
    const { machine } = withLargePage();
    expect(arch_kfence_init_pool(machine.here, LARGE + 0x4000_0000n, 0x1000, () => null)).toBe(false);
  });
});

test('an empty entry is refused: unprotected it would map page 0', () => {
  const machine = testMachine();
  machine.map(POOL, 0n);
  expect(() => kfence_protect_page(machine.here, POOL, false)).toThrow('no page of the KFENCE pool');
});
