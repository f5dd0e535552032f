import { describe, expect, test } from '@jest/globals';
import { DEFAULT_CONFIG } from '../kernel-config.js';
import { lookup_address_in_pgd } from './lookup-address.js';
import * as x86 from './pgtable.js';
import { createPgtable, flip_protnone_guard } from './pgtable.js';
import * as bits from './pgtable-types.js';
import { PTE_PFN_MASK } from './pgtable-types.js';
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

describe('bits and composed values', () => {
  test('of pgtable_types.h', () => {
    const single = /^_PAGE_(?!CACHE|KNL|TABLE|DIRTY_BITS|PKEY_MASK)/;
    const values = Object.entries(bits).filter(([name]) => single.test(name));
    expect(Object.fromEntries(values.map(([name, value]) => [name, Math.log2(Number(value))]))).toEqual({
      _PAGE_PRESENT: 0,
      _PAGE_RW: 1,
      _PAGE_SWP_SOFT_DIRTY: 1,
      _PAGE_USER: 2,
      _PAGE_SWP_UFFD_WP: 2,
      _PAGE_PWT: 3,
      _PAGE_SWP_EXCLUSIVE: 3,
      _PAGE_PCD: 4,
      _PAGE_ACCESSED: 5,
      _PAGE_DIRTY: 6,
      _PAGE_PSE: 7,
      _PAGE_PAT: 7,
      _PAGE_GLOBAL: 8,
      _PAGE_PROTNONE: 8,
      _PAGE_SPECIAL: 9,
      _PAGE_CPA_TEST: 9,
      _PAGE_UFFD_WP: 10,
      _PAGE_SOFT_DIRTY: 11,
      _PAGE_KERNEL_4K: 11,
      _PAGE_PAT_LARGE: 12,
      _PAGE_SOFTW4: 57,
      _PAGE_SAVED_DIRTY: 58,
      _PAGE_NOPTISHADOW: 58,
      _PAGE_PKEY_BIT0: 59,
      _PAGE_PKEY_BIT1: 60,
      _PAGE_PKEY_BIT2: 61,
      _PAGE_PKEY_BIT3: 62,
      _PAGE_NX: 63,
    });
    expect(bits._PAGE_KNL_ERRATUM_MASK).toBe(0x60n);
    expect(bits._PAGE_DIRTY_BITS).toBe((1n << 58n) | 0x40n);
    expect(bits._PAGE_PKEY_MASK).toBe(0x7800000000000000n);
    expect(bits.__PHYSICAL_MASK).toBe(0xfffffffffffffn);
    expect(bits.PTE_FLAGS_MASK).toBe(0xffffffffffffffffn ^ 0x000ffffffffff000n);
    expect(bits.PHYSICAL_PMD_PAGE_MASK).toBe(0x000fffffffe00000n);
    expect(bits.PHYSICAL_PUD_PAGE_MASK).toBe(0x000fffffc0000000n);
  });

  test('protections', () => {
    const { __PAGE_KERNEL, __PAGE_KERNEL_EXEC, __PAGE_KERNEL_RO, __PAGE_KERNEL_ROX } = bits;
    expect([__PAGE_KERNEL, __PAGE_KERNEL_EXEC]).toEqual([0x8000000000000163n, 0x163n]);
    expect([__PAGE_KERNEL_RO, __PAGE_KERNEL_ROX]).toEqual([0x8000000000000121n, 0x121n]);
    expect(bits.__PAGE_KERNEL_NOCACHE).toBe(0x800000000000017bn);
    expect(bits.__PAGE_KERNEL_VVAR).toBe(0x8000000000000125n);
    expect(bits.__PAGE_KERNEL_LARGE).toBe(0x80000000000001e3n);
    expect(bits.__PAGE_KERNEL_LARGE_EXEC).toBe(0x1e3n);
    expect([bits._KERNPG_TABLE, bits._PAGE_TABLE]).toEqual([0x63n, 0x67n]);
    expect([bits.PAGE_SHARED, bits.PAGE_SHARED_EXEC]).toEqual([0x8000000000000027n, 0x27n]);
    expect([bits.PAGE_READONLY, bits.PAGE_COPY]).toEqual([0x8000000000000025n, 0x8000000000000025n]);
    expect([bits.PAGE_READONLY_EXEC, bits.PAGE_COPY_EXEC]).toEqual([0x25n, 0x25n]);
    expect(bits.PAGE_NONE).toBe(0x120n);
  });

  test('cache modes, and where PAT is', () => {
    const modes = [
      [bits._PAGE_CACHE_MODE_WB, 0n, 0],
      [bits._PAGE_CACHE_MODE_WC, 0x08n, 1],
      [bits._PAGE_CACHE_MODE_UC_MINUS, 0x10n, 2],
      [bits._PAGE_CACHE_MODE_UC, 0x18n, 3],
      [bits._PAGE_CACHE_MODE_WT, 0x98n, 7],
      [bits._PAGE_CACHE_MODE_WP, 0x88n, 5],
    ] as const;
    expect(modes.map(([mode]) => mode)).toEqual([0, 1, 2, 3, 4, 5]);
    for (const [mode, protval, index] of modes) {
      expect(bits.cachemode2protval(mode)).toBe(protval);
      expect(bits.__pte2cm_idx(0x163n | protval)).toBe(index);
    }
    expect(() => bits.cachemode2protval(6)).toThrow('6');
    expect(bits.protval_4k_2_large(0x1063n)).toBe(0x63n);
    expect(bits.protval_4k_2_large(0xe3n)).toBe(0x1063n);
    expect(bits.protval_large_2_4k(0x1063n)).toBe(0xe3n);
    expect(bits.protval_large_2_4k(0xe3n)).toBe(0x63n);
  });
});

describe('frames and flags', () => {
  test('pfn_pte drops what the CPU lacks from entries that it reads', () => {
    const noNx = ~(1n << 63n);
    expect(x86.pfn_pte(0x1234, 0x8000000000000163n)).toBe(0x8000000001234163n);
    expect(x86.pfn_pte(0x1234, 0x8000000000000163n, noNx)).toBe(0x1234163n);
    expect(x86.pfn_pte(0x1234, 0x8000000000000120n, noNx)).toBe(0x800ffffffedcb120n);
  });

  test('a frame is inverted in a PTE, PMD or PUD without P, and never above', () => {
    expect([x86.protnone_mask(0n), x86.protnone_mask(1n), x86.protnone_mask(0x20n)]).toEqual([
      0n,
      0n,
      2n ** 64n - 1n,
    ]);
    expect(x86.pte_pfn(0x8000000001234163n)).toBe(0x1234);
    expect(x86.pte_pfn(0x000ffffffedcb120n)).toBe(0x1234);
    expect(x86.pmd_pfn(0x000ffffffedcb120n)).toBe(0x1234);
    expect(x86.pud_pfn(0x000ffffffedcb120n)).toBe(0x1234);
    expect(x86.p4d_pfn(0x000ffffffedcb120n)).toBe(0xffffffedcb);
    expect(x86.pgd_pfn(0x000ffffffedcb120n)).toBe(0xffffffedcb);
  });

  test('a large leaf has fewer frame bits and more flags', () => {
    // 2 MiB at 0x40200000 and 1 GiB at 0x40000000, PAT in bit 12.
    expect(x86.pmd_flags(0x80000000402011e3n)).toBe(0x80000000000011e3n);
    expect(x86.pmd_pfn(0x80000000402011e3n)).toBe(0x40200);
    expect(x86.pud_flags(0x400011e3n)).toBe(0x11e3n);
    expect(x86.pud_pfn(0x400011e3n)).toBe(0x40000);
    expect([x86.pmd_pfn_mask(0x80n), x86.pmd_pfn_mask(0n)]).toEqual([0x000fffffffe00000n, PTE_PFN_MASK]);
    expect([x86.pud_pfn_mask(0x80n), x86.pud_pfn_mask(0n)]).toEqual([0x000fffffc0000000n, PTE_PFN_MASK]);
    // Not large: bit 12 belongs to the frame.
    expect([x86.pmd_flags(0x1063n), x86.pud_flags(0x1063n), x86.p4d_flags(0x10e3n)]).toEqual([
      0x63n,
      0x63n,
      0xe3n,
    ]);
    expect([x86.pte_flags(0x80000000402011e3n), x86.pgd_flags(0x1067n)]).toEqual([
      0x80000000000001e3n,
      0x67n,
    ]);
  });
});

describe('single bits', () => {
  test.each<[string, (v: bigint) => boolean, bigint[], bigint[]]>([
    ['pte_exec', x86.pte_exec, [0n, 0x163n], [1n << 63n]],
    ['pte_write', x86.pte_write, [2n], [0x61n, 0x40n]],
    ['pte_dirty', x86.pte_dirty, [0x40n, 1n << 58n], [0x23n]],
    ['pte_young', x86.pte_young, [0x20n], [0x40n]],
    ['pte_huge', x86.pte_huge, [0x80n], [0x163n]],
    ['pte_global', x86.pte_global, [0x100n], [0x63n]],
    ['pte_special', x86.pte_special, [0x200n], [0x5ffn, 0xc00n]],
    ['pte_protnone', x86.pte_protnone, [0x100n, 0x120n, 0x162n], [0x101n, 0x163n, 0n]],
    ['pmd_protnone', x86.pmd_protnone, [0x100n, 0x1e2n], [0x1e3n, 0x80n]],
    ['pmd_write', x86.pmd_write, [2n, 0x1e3n], [0xc1n]],
    ['pud_write', x86.pud_write, [2n, 0x1e3n], [0xc1n]],
    ['p4d_leaf', x86.p4d_leaf, [], [0x80n, 0xe7n]],
    ['pgd_leaf', x86.pgd_leaf, [], [0x80n, 0xe7n]],
  ])('%s', (_, predicate, yes, no) => {
    expect(yes.map((v) => predicate(v))).toEqual(yes.map(() => true));
    expect(no.map((v) => predicate(v))).toEqual(no.map(() => false));
  });

  test('with shadow stacks D without RW counts as writable, in a PMD only for a leaf', () => {
    expect([0x41n, 0x61n, 0x43n, 0x21n].map((v) => x86.pte_write(v, true))).toEqual([
      true,
      true,
      true,
      false,
    ]);
    expect([0xc1n, 0x41n, 0x81n, 0x3n].map((v) => x86.pmd_write(v, true))).toEqual([
      true,
      false,
      false,
      true,
    ]);
  });

  test('pte_same is equality of the words; pte_accessible sees a PROT_NONE that TLBs may still hold', () => {
    expect([x86.pte_same(0x163n, 0x163n), x86.pte_same(0x163n, 0x143n)]).toEqual([true, false]);
    const quiet = { tlb_flush_pending: false };
    const pending = { tlb_flush_pending: true };
    expect([1n, 0x100n, 0n].map((v) => x86.pte_accessible(quiet, v))).toEqual([true, false, false]);
    expect([1n, 0x100n, 0n].map((v) => x86.pte_accessible(pending, v))).toEqual([true, true, false]);
  });
});

describe('changes', () => {
  const SAVED = 1n << 58n;

  test('D moves to bit 58 without RW, and back with it', () => {
    expect([0x41n, 0x43n, 0x1n].map(x86.mksaveddirty_shift)).toEqual([SAVED | 1n, 0x43n, 0x1n]);
    expect([SAVED | 1n, SAVED | 3n, 0x43n].map(x86.clear_saveddirty_shift)).toEqual([
      SAVED | 1n,
      0x43n,
      0x43n,
    ]);
    expect(x86.pte_wrprotect(0x63n)).toBe(SAVED | 0x21n);
    expect(x86.pte_wrprotect(0x23n)).toBe(0x21n);
    expect(x86.pte_mkclean(SAVED | 0x63n)).toBe(0x23n);
    expect(x86.pte_mkwrite_novma(0x21n)).toBe(0x23n);
    expect(x86.pte_mkwrite_novma(SAVED | 0x21n)).toBe(SAVED | 0x23n);
  });
});

describe('the top levels', () => {
  test('a folded PGD always passes; with five levels it is looked at', () => {
    for (const v of [0n, 0x60n, 0x67n, 0xffffn]) {
      expect([x86.pgd_none(v), x86.pgd_present(v), x86.pgd_bad(v)]).toEqual([false, true, false]);
    }
    expect([0n, 0x20n, 0x67n].map((v) => x86.pgd_none(v, true))).toEqual([true, false, false]);
    expect([0n, 0x66n, 0x67n].map((v) => x86.pgd_present(v, true))).toEqual([false, false, true]);
    const good = [0x63n, 0x67n, 0x8000000000000067n, 0x1067n];
    const bad = [0x23n, 0x43n, 0xe7n, 0n];
    expect(good.map((v) => x86.pgd_bad(v, true))).toEqual([false, false, false, false]);
    expect(bad.map((v) => x86.pgd_bad(v, true))).toEqual([true, true, true, true]);
  });

  test('indices, and where the P4D is', () => {
    const va = 0xff12345678abc000n;
    expect(x86.tableIndex('pgd', va, true)).toBe(0x112);
    expect(x86.tableIndex('pgd', va)).toBe(x86.tableIndex('p4d', va));
    expect(x86.tableIndex('p4d', va, true)).toBe(Number((va >> 39n) & 511n));
    expect(x86.tableIndex('pud', va)).toBe(Number((va >> 30n) & 511n));
    expect(x86.tableIndex('pmd', va)).toBe(Number((va >> 21n) & 511n));
    expect(x86.tableIndex('pte', va)).toBe(0xbc);
    expect(x86.p4d_offset(0x1890, 0x5067n, va)).toBe(0x1890);
    expect(x86.p4d_offset(0x1890, 0x5067n, va, true)).toBe(0x5000 + 8 * x86.tableIndex('p4d', va));
  });
});

describe('stores', () => {
  test('are one word each, with the name of the accessor in the stream', () => {
    const machine = testMachine();
    const { here, ram } = machine;
    const ptep = machine.map(HOLE, 0x63n);
    x86.ptep_set_wrprotect(here, ptep);
    expect(ram.readU64(ptep)).toBe((1n << 58n) | 0x21n);
    x86.set_pte_at(here, ptep, 0x163n);
    expect(ram.readU64(ptep)).toBe(0x163n);
    x86.pte_clear(here, ptep);
    expect(ram.readU64(ptep)).toBe(0n);
    expect(machine.events('pte-write').map(({ by }) => by)).toEqual([
      'ptep_set_wrprotect',
      'set_pte_at',
      'pte_clear',
    ]);
    // None of them flushes.
    expect(machine.events('tlb-flush')).toEqual([]);
  });
});

describe('lookup_address_in_pgd', () => {
  test('finds the entry that maps, or where it would be, and NX above it', () => {
    const machine = testMachine();
    const { here, ram, kernel } = machine;
    const root = kernel.init_mm.pgd;
    const ptep = machine.map(HOLE, 0x163n);
    expect(lookup_address_in_pgd(here, root, HOLE)).toMatchObject({
      level: 'pte',
      ptep,
      entry: 0x163n,
      nx: false,
    });
    const [pgd = 0, pud = 0, pmd = 0] = machine.mmu
      .explain(HOLE, 'read', false, false)
      .levels.map((l) => l.entryPa);
    for (const [at, level] of [
      [pmd, 'pmd'],
      [pud, 'pud'],
    ] as const) {
      const old = ram.readU64(at);
      ram.writeU64(at, old | (1n << 63n));
      expect(lookup_address_in_pgd(here, root, HOLE)).toMatchObject({ level: 'pte', nx: true });
      // A leaf, and one without P.
      ram.writeU64(at, 0x1e3n);
      expect(lookup_address_in_pgd(here, root, HOLE)).toMatchObject({ level, ptep: at, nx: false });
      ram.writeU64(at, 0x60n);
      expect(lookup_address_in_pgd(here, root, HOLE)).toBeNull();
      ram.writeU64(at, old);
    }
    ram.writeU64(pgd, 0x8000000000000066n);
    expect(lookup_address_in_pgd(here, root, HOLE)).toMatchObject({ level: 'p4d', ptep: pgd, nx: true });
  });

  test('with five levels begins one higher', () => {
    const machine = testMachine();
    const { here, ram, kernel } = machine;
    const ptep = machine.map(HOLE, 0x163n);
    const deep = 0x3e0000;
    ram.fill(deep, 4096, 0);
    const look = (): unknown => lookup_address_in_pgd(here, deep, HOLE, true);
    expect(look()).toBeNull();
    ram.writeU64(deep + 8 * 511, BigInt(kernel.init_mm.pgd) | 0x67n | (1n << 63n));
    expect(look()).toMatchObject({ level: 'pte', ptep, nx: true });
  });
});
