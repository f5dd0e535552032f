import { describe, expect, test } from '@jest/globals';
import { DEFAULT_CONFIG } from '../kernel-config.js';
import { createPgtable, flip_protnone_guard, PTE_PFN_MASK } from './pgtable.js';
import { HOLE, testMachine } from './testing.js';

const pgtable = createPgtable(DEFAULT_CONFIG);

describe('protections and entries', () => {
  test('have the values of pgtable_types.h', () => {
    expect(pgtable.PAGE_KERNEL).toBe(0x8000000000000163n);
    expect(pgtable.PAGE_KERNEL_EXEC).toBe(0x163n);
    expect(pgtable.PAGE_KERNEL_RO).toBe(0x8000000000000121n);
    expect(pgtable.PAGE_KERNEL_ROX).toBe(0x121n);
    expect(pgtable.PAGE_SHARED).toBe(0x8000000000000027n);
    expect(pgtable.PAGE_READONLY).toBe(0x8000000000000025n);
    expect(pgtable.PAGE_READONLY_EXEC).toBe(0x25n);
  });

  test('the scratch PTE loses its global bit with PTI', () => {
    const pti = createPgtable({ ...DEFAULT_CONFIG, PTI: true });
    expect(pgtable.mk_pte(0x1234000, pgtable.PAGE_KERNEL)).toBe(0x8000000001234163n);
    expect(pti.mk_pte(0x1234000, pti.PAGE_KERNEL)).toBe(0x8000000001234063n);
  });

  test('large leaves carry PSE, and PAT moves to bit 12', () => {
    expect(pgtable.mk_pmd(0x40200000, pgtable.PAGE_KERNEL)).toBe(0x80000000402001e3n);
    expect(pgtable.mk_pmd(0x40200000, pgtable.PAGE_KERNEL | 0x80n)).toBe(0x80000000402011e3n);
    expect(pgtable.mk_pud(0x40000000, pgtable.PAGE_KERNEL_EXEC)).toBe(0x400001e3n);
  });

  test('an entry without P holds its frame inverted', () => {
    const none = pgtable.mk_pte(0x1234000, 0x120n);
    expect(none).toBe(0x000ffffffedcb120n);
    expect(pgtable.pte_pa(none)).toBe(0x1234000);
    expect(flip_protnone_guard(0x8000000001234163n, 0x8000000001234162n, PTE_PFN_MASK)).toBe(
      0x800ffffffedcb162n,
    );
  });

  test('a dirty entry that cannot be written keeps D in bit 58', () => {
    expect(pgtable.pte_mkdirty(0x27n)).toBe(0x867n);
    expect(pgtable.pte_mkdirty(0x25n)).toBe(0x825n | (1n << 58n));
    expect(pgtable.pte_dirty(1n << 58n)).toBe(true);
  });
});

describe('predicates', () => {
  test('none looks away from A and D', () => {
    for (const v of [0n, 0x20n, 0x40n, 0x60n]) {
      for (const none of [pgtable.pte_none, pgtable.pmd_none, pgtable.pud_none, pgtable.p4d_none]) {
        expect(none(v)).toBe(true);
      }
    }
    expect(pgtable.pte_none(0x100n)).toBe(false);
    expect(pgtable.pmd_none(0x80n)).toBe(false);
  });

  test('a PTE with only the global bit is present, a PUD is not', () => {
    expect(pgtable.pte_present(0x100n)).toBe(true);
    expect(pgtable.pmd_present(0x100n)).toBe(true);
    expect(pgtable.pmd_present(0x80n)).toBe(true);
    expect(pgtable.pud_present(0x180n)).toBe(false);
    expect(pgtable.p4d_present(0x180n)).toBe(false);
    // A protected KFENCE page: hardware sees P=0, the kernel a present page. Not so with PTI.
    expect(pgtable.pte_present(0x800ffffffedcb162n)).toBe(true);
    expect(pgtable.pte_present(0x800ffffffedcb062n)).toBe(false);
  });

  test('pmd_bad wants exactly P, RW and D, and no NX', () => {
    for (const v of [0x43n, 0x63n, 0x67n, 0x1047n]) expect(pgtable.pmd_bad(v)).toBe(false);
    for (const v of [0x3n, 0x23n, 0x8000000000000063n, 0x1e3n, 0x61n]) expect(pgtable.pmd_bad(v)).toBe(true);
  });

  test('pud_bad only wants no bit that a table does not have; p4d_bad lets NX pass', () => {
    for (const v of [0x1n, 0x3n, 0x67n]) expect(pgtable.pud_bad(v)).toBe(false);
    expect(pgtable.pud_bad(0x8000000000000067n)).toBe(true);
    expect(pgtable.p4d_bad(0x8000000000000067n)).toBe(false);
    expect(pgtable.p4d_bad(0xe7n)).toBe(true);
  });

  test('a large leaf counts its bit 12 as a flag, not as its frame', () => {
    expect(pgtable.pmd_leaf(0x1e3n)).toBe(true);
    expect(pgtable.pud_leaf(0x80n)).toBe(true);
    expect(pgtable.pud_leaf(0x63n)).toBe(false);
  });
});

describe('ptep_try_set', () => {
  test('stores into a zero word only, and says so in the stream', () => {
    const machine = testMachine();
    const { here, ram } = machine;
    const ptep = machine.map(HOLE, 0n);
    expect(pgtable.ptep_try_set(here, ptep, 0x163n)).toBe(true);
    expect(ram.readU64(ptep)).toBe(0x163n);
    for (const word of [0x20n, 0x40n, 0x60n, 0x163n]) {
      ram.writeU64(ptep, word);
      expect(pgtable.ptep_try_set(here, ptep, 0x8163n)).toBe(false);
      expect(ram.readU64(ptep)).toBe(word);
    }
    const writes = machine.events('pte-write');
    expect(writes[0]).toMatchObject({ by: 'ptep_try_set', old: 0n, value: 0x163n, changed: true });
    expect(writes[1]).toMatchObject({ by: 'ptep_try_set', old: 0x20n, changed: false });
  });

  test('ptep_get_and_clear clears the whole word', () => {
    const machine = testMachine();
    const ptep = machine.map(HOLE, 0x60n);
    expect(pgtable.ptep_get_and_clear(machine.here, ptep)).toBe(0x60n);
    expect(machine.ram.readU64(ptep)).toBe(0n);
  });
});
