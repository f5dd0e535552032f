import { describe, expect, test } from '@jest/globals';
import { EventLog } from '../../emu/events.js';
import { Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import type { ThisCpu } from '../arch.js';
import { DEFAULT_CONFIG } from '../kernel-config.js';
import * as bits from './pgtable.js';
import { PTE_AF, PTE_CONT, PTE_RDONLY } from './pgtable-hwdef.js';
import * as prot from './pgtable-prot.js';

const pgtable = bits.createPgtable(DEFAULT_CONFIG);

function memory(): { here: ThisCpu; ram: Ram; log: EventLog } {
  const ram = new Ram(0x4000_0000, 1 << 20);
  const log = new EventLog();
  // The accessors use nothing else of it.
  return { here: { ram, trace: new Trace(0, log) } as unknown as ThisCpu, ram, log };
}

describe('protections', () => {
  test.each([
    ['PAGE_KERNEL', 0x00e8_0000_0000_0703n],
    ['PAGE_KERNEL_RO', 0x00e0_0000_0000_0783n],
    ['PAGE_KERNEL_ROX', 0x00c0_0000_0000_0783n],
    ['PAGE_KERNEL_EXEC', 0x00c8_0000_0000_0703n],
    ['PAGE_LINEAR', 0x00e8_0000_0000_0707n],
    ['PAGE_SHARED', 0x0068_0000_0000_0fc3n],
    ['PAGE_SHARED_EXEC', 0x0028_0000_0000_0fc3n],
    ['PAGE_READONLY', 0x0060_0000_0000_0fc3n],
    ['PAGE_READONLY_EXEC', 0x0020_0000_0000_0fc3n],
  ] as const)('%s is what the kernel macro comes to', (name, value) => {
    expect(pgtable[name]).toBe(value);
  });

  test('those that only user mappings have', () => {
    expect(prot.PAGE_NONE).toBe(0x0060_0000_0000_0f82n);
    expect(prot.PAGE_EXECONLY).toBe(0x0020_0000_0000_0f83n);
  });

  test('KPTI makes kernel mappings non-global and leaves user ones alone', () => {
    const kpti = bits.createPgtable({ ...DEFAULT_CONFIG, KPTI: true });
    expect(kpti.PAGE_KERNEL).toBe(0x00e8_0000_0000_0f03n);
    expect(kpti.PAGE_LINEAR).toBe(0x00e8_0000_0000_0f07n);
    expect(kpti.PAGE_KERNEL_ROX).toBe(0x00c0_0000_0000_0f83n);
    expect(kpti.PAGE_SHARED).toBe(pgtable.PAGE_SHARED);
  });

  test('pages and tables end in 11, blocks in 01; tables have the bits of their owner', () => {
    expect(pgtable.mk_pte(0x43e9_2000, pgtable.PAGE_KERNEL)).toBe(0x00e8_0000_43e9_2703n);
    expect(pgtable.mk_pmd(0x4020_0000, pgtable.PAGE_KERNEL)).toBe(0x00e8_0000_4020_0701n);
    expect(pgtable.mk_pud(0x4000_0000, pgtable.PAGE_KERNEL)).toBe(0x00e8_0000_4000_0701n);
    expect(pgtable.tableEntry('pmd', 0x42b0_2000, 'kernel')).toBe(0x1000_0000_42b0_2403n);
    expect(pgtable.tableEntry('pgd', 0x42b0_2000, 'user')).toBe(0x0800_0000_42b0_2403n);
    expect(pgtable.tableEntry('pud', 0x42b0_2000, 'linear')).toBe(0x1800_0000_42b0_2403n);
    expect(pgtable.tableEntry('pud', 0x42b0_2000, 'early')).toBe(0x1000_0000_42b0_2003n);
  });
});

describe('predicates', () => {
  const flags = (v: bigint): string =>
    [
      bits.pte_none(v) ? 'none' : '',
      bits.pte_valid(v) ? 'valid' : '',
      bits.pte_present_invalid(v) ? 'present_invalid' : '',
      bits.pte_present(v) ? 'present' : '',
      bits.pte_write(v) ? 'write' : '',
      bits.pte_rdonly(v) ? 'rdonly' : '',
      bits.pte_user(v) ? 'user' : '',
      bits.pte_young(v) ? 'young' : '',
      bits.pte_user_exec(v) ? 'user_exec' : '',
      bits.pte_hw_dirty(v) ? 'hw_dirty' : '',
      bits.pte_dirty(v) ? 'dirty' : '',
      bits.pte_valid_not_user(v) ? 'valid_not_user' : '',
    ]
      .filter((name) => name !== '')
      .join(' ');

  test.each([
    ['nothing', 0n, 'none user_exec'],
    ['bit 0', 1n << 0n, 'valid present user_exec'],
    ['bit 6', 1n << 6n, 'user user_exec'],
    ['bit 7', 1n << 7n, 'rdonly user_exec'],
    ['bit 10', 1n << 10n, 'young user_exec'],
    ['bit 11', 1n << 11n, 'present_invalid present user_exec'],
    ['bits 11 and 0', 0x801n, 'valid present user_exec'],
    ['bit 51', 1n << 51n, 'write user_exec hw_dirty dirty'],
    ['bits 51 and 7', (1n << 51n) | (1n << 7n), 'write rdonly user_exec'],
    ['bit 54', 1n << 54n, ''],
    ['bits 54 and 0', (1n << 54n) | 1n, 'valid present valid_not_user'],
    ['bits 54, 6 and 0', (1n << 54n) | 0x41n, 'valid present user'],
    ['bit 55', 1n << 55n, 'user_exec dirty'],
    ['bit 63', 1n << 63n, 'user_exec'],
  ])('%s', (_, v, expected) => {
    expect(flags(v)).toBe(expected);
  });

  // Of a descriptor's type, the two low bits, and of bit 11.
  test.each([
    [0b00n, false, false, false, true, false],
    [0b01n, true, true, false, true, true],
    [0b10n, false, false, false, true, false],
    [0b11n, true, true, true, false, false],
    [0x800n, false, true, false, true, true],
    [0x802n, false, true, false, true, true],
  ])('PMD and PUD entry %s', (v, valid, present, table, bad, leaf) => {
    expect([
      bits.pmd_valid(v),
      bits.pmd_present(v),
      bits.pmd_table(v),
      bits.pmd_bad(v),
      bits.pmd_leaf(v),
    ]).toEqual([valid, present, table, bad, leaf]);
    expect([pgtable.pud_present(v), pgtable.pud_bad(v), pgtable.pud_leaf(v)]).toEqual([present, bad, leaf]);
    expect([pgtable.pmd_none(v), pgtable.pud_none(v), pgtable.p4d_none(v)]).toEqual(Array(3).fill(v === 0n));
    expect([pgtable.p4d_bad(v), pgtable.p4d_present(v)]).toEqual([bad, v !== 0n]);
    expect([bits.pgd_none(v), bits.pgd_bad(v)]).toEqual([false, false]);
  });

  test('pte_pfn is bits 49:12', () => {
    expect(bits.pte_pfn(0xfffc_0000_0000_0fffn)).toBe(0n);
    expect(bits.pte_pfn(0x0003_ffff_ffff_f000n)).toBe(0x3f_ffff_ffffn);
    expect(bits.pte_pfn(0x00e8_0000_43e9_2707n)).toBe(0x43e92n);
  });

  test('swap entries: bits 2 and 3, type in 10:6, offset in 61:12', () => {
    const entry = (0x12345n << 12n) | (0x15n << 6n);
    expect(bits.is_swap_pte(entry)).toBe(true);
    expect([bits.__swp_type(entry), bits.__swp_offset(entry)]).toEqual([0x15, 0x12345n]);
    expect([bits.pte_swp_exclusive(entry), bits.pte_swp_uffd_wp(entry)]).toEqual([false, false]);
    expect([bits.pte_swp_exclusive(entry | 4n), bits.pte_swp_uffd_wp(entry | 4n)]).toEqual([true, false]);
    expect([bits.pte_swp_exclusive(entry | 8n), bits.pte_swp_uffd_wp(entry | 8n)]).toEqual([false, true]);
    const all = 0xffff_ffff_ffff_ffffn;
    expect([bits.__swp_type(all), bits.__swp_offset(all)]).toEqual([31, (1n << 50n) - 1n]);
    for (const v of [0n, entry | 1n, entry | 0x800n]) expect(bits.is_swap_pte(v)).toBe(false);
  });

  test('an entry that hardware ignores is still not none', () => {
    expect(pgtable.pte_none(0n)).toBe(true);
    expect(pgtable.pte_none(0x8000_0000_0000_0000n)).toBe(false);
    expect(pgtable.pte_present(0x8000_0000_0000_0000n)).toBe(false);
  });

  test('present-invalid: bit 11 with bit 0 clear, as KFENCE protects and as PAGE_NONE has it', () => {
    for (const v of [0x00e8_0000_43e0_0f06n, 0x0060_0000_0000_0f82n]) {
      expect([bits.pte_valid(v), bits.pte_present_invalid(v), pgtable.pte_present(v)]).toEqual([
        false,
        true,
        true,
      ]);
    }
    // nG on a valid entry is not "present invalid".
    expect(bits.pte_present_invalid(0x0068_0000_0000_0fc3n)).toBe(false);
  });

  test('a level 3 entry that ends in 01 is present for software although hardware faults on it', () => {
    expect(pgtable.pte_present(0x00e8_0000_4000_0701n)).toBe(true);
  });

  test('dirty is the software bit, or writable and not read-only', () => {
    expect(pgtable.pte_dirty(pgtable.PAGE_SHARED)).toBe(false);
    expect(pgtable.pte_dirty(pgtable.PAGE_SHARED & ~PTE_RDONLY)).toBe(true);
    expect(pgtable.pte_dirty(pgtable.PAGE_KERNEL_RO)).toBe(true);
    expect(pgtable.pte_mkdirty(pgtable.PAGE_SHARED)).toBe(0x00e8_0000_0000_0f43n);
    // What may not be written stays read-only.
    expect(pgtable.pte_mkdirty(pgtable.PAGE_READONLY)).toBe(0x00e0_0000_0000_0fc3n);
    expect(pgtable.pte_write(pgtable.PAGE_SHARED)).toBe(true);
    expect(pgtable.pte_write(pgtable.PAGE_KERNEL_RO)).toBe(false);
    expect(pgtable.pte_young(pgtable.PAGE_KERNEL & ~PTE_AF)).toBe(false);
  });

  test('kernel entries are valid, not user and not executable by EL0', () => {
    expect(bits.pte_valid_not_user(pgtable.PAGE_KERNEL_ROX)).toBe(true);
    expect(bits.pte_valid_not_user(pgtable.PAGE_READONLY)).toBe(false);
    expect(bits.pte_valid_not_user(pgtable.PAGE_KERNEL & ~1n)).toBe(false);
  });

  test('upper levels: bad is anything but a table, leaf is present and no table', () => {
    const block = 0x00e8_0000_4020_0701n;
    const table = 0x1000_0000_42b0_2403n;
    expect([pgtable.pmd_bad(block), pgtable.pmd_leaf(block)]).toEqual([true, true]);
    expect([pgtable.pmd_bad(table), pgtable.pmd_leaf(table)]).toEqual([false, false]);
    expect([pgtable.pmd_bad(0n), pgtable.pmd_leaf(0n), pgtable.pmd_none(0n)]).toEqual([true, false, true]);
    expect(pgtable.tablePa(table)).toBe(0x42b0_2000);
    // Bits 47:12, whatever is above and below.
    expect(pgtable.tablePa(0xffff_0000_0000_0fffn)).toBe(0);
    expect(pgtable.tablePa(0x0000_ffff_ffff_f000n)).toBe(0xffff_ffff_f000);
    expect(pgtable.pte_pa(0x00e8_0000_43e9_2707n)).toBe(0x43e9_2000);
  });
});

describe('pgattr_change_is_safe', () => {
  const PAGE = 0x00e8_0000_4000_0703n;
  const BIT = (n: bigint): bigint => 1n << n;
  test.each<readonly [string, bigint, bigint, boolean]>([
    ['making an entry', 0n, PAGE, true],
    ['taking one down', PAGE, 0n, true],
    ['anything to an invalid entry', PAGE & ~1n, (PAGE & ~1n) + 0x1000n, true],
    ['another page', PAGE, PAGE + 0x1000n, false],
    ['PXN', PAGE, PAGE ^ BIT(53n), true],
    ['RDONLY', PAGE, PAGE ^ BIT(7n), true],
    ['WRITE', PAGE, PAGE ^ BIT(51n), true],
    ['DIRTY', PAGE, PAGE ^ BIT(55n), true],
    ['bit 58', PAGE, PAGE ^ BIT(58n), true],
    ['bit 63', PAGE, PAGE ^ BIT(63n), true],
    ['bit 59', PAGE, PAGE ^ BIT(59n), false],
    ['UXN', PAGE, PAGE ^ BIT(54n), false],
    ['USER', PAGE, PAGE ^ BIT(6n), false],
    ['AF', PAGE, PAGE ^ BIT(10n), false],
    ['shareability', PAGE, PAGE ^ BIT(9n), false],
    ['page to block', PAGE, PAGE ^ BIT(1n), false],
    ['global to nG', PAGE, PAGE | BIT(11n), true],
    ['nG to global', PAGE | BIT(11n), PAGE, false],
    ['Normal to Normal-Tagged', PAGE, PAGE | BIT(2n), true],
    ['Normal-Tagged to Normal', PAGE | BIT(2n), PAGE, true],
    ['Normal to non-cacheable', PAGE, PAGE | BIT(3n), false],
    ['non-cacheable to device', PAGE | BIT(3n), PAGE | (3n << 2n), false],
    ['a contiguous entry', PAGE | BIT(52n), PAGE | BIT(52n) | BIT(7n), false],
    ['to a contiguous entry', PAGE, PAGE | BIT(52n), false],
    ['nothing', PAGE, PAGE, true],
  ])('%s', (_, old, value, safe) => {
    expect(bits.pgattr_change_is_safe(old, value)).toBe(safe);
  });
});

describe('accessors', () => {
  test('ptep_try_set stores from zero only, and says so', () => {
    const { here, ram, log } = memory();
    const value = pgtable.mk_pte(0x4000_5000, pgtable.PAGE_KERNEL);
    expect(pgtable.ptep_try_set(here, 0x4000_0008, value)).toBe(true);
    expect(ram.readU64(0x4000_0008)).toBe(value);
    ram.writeU64(0x4000_0010, prot.PTE_PRESENT_INVALID);
    expect(pgtable.ptep_try_set(here, 0x4000_0010, value)).toBe(false);
    expect(ram.readU64(0x4000_0010)).toBe(prot.PTE_PRESENT_INVALID);
    expect(log.events).toMatchObject([
      { by: 'ptep_try_set', pa: 0x4000_0008, old: 0n, value, changed: true },
      { by: 'ptep_try_set', pa: 0x4000_0010, old: 0x800n, value, changed: false },
    ]);
  });

  test('without CONTPTE ptep_try_set is the stub: false, nothing stored', () => {
    const { here, ram, log } = memory();
    const stub = bits.createPgtable({ ...DEFAULT_CONFIG, ARM64_CONTPTE: false });
    expect(stub.ptep_try_set(here, 0x4000_0008, 3n)).toBe(false);
    expect(ram.readU64(0x4000_0008)).toBe(0n);
    expect(log.events).toEqual([]);
  });

  test('set_pte_at takes PTE_CONT off, unless CONTPTE is not built', () => {
    const { here, ram } = memory();
    const value = pgtable.mk_pte(0x4000_5000, pgtable.PAGE_KERNEL);
    pgtable.set_pte_at(here, 0x4000_0008, value | PTE_CONT);
    expect(ram.readU64(0x4000_0008)).toBe(value);
    const stub = bits.createPgtable({ ...DEFAULT_CONFIG, ARM64_CONTPTE: false });
    stub.set_pte_at(here, 0x4000_0008, value | PTE_CONT);
    expect(ram.readU64(0x4000_0008)).toBe(value | (1n << 52n));
  });

  test('stores are events with the level and the value before', () => {
    const { here, ram, log } = memory();
    pgtable.set_pte(here, 0x4000_0000, 5n);
    pgtable.set_p4d(here, 0x4000_0018, 7n);
    expect(pgtable.ptep_get_and_clear(here, 0x4000_0000)).toBe(5n);
    expect(ram.readU64(0x4000_0000)).toBe(0n);
    pgtable.set_pmd(here, 0x4000_0020, 9n);
    pgtable.set_pud(here, 0x4000_0028, 11n);
    pgtable.set_pte_at(here, 0x4000_0000, 13n);
    pgtable.pte_clear(here, 0x4000_0000);
    expect(pgtable.ptep_get(here, 0x4000_0028)).toBe(11n);
    expect(log.events).toMatchObject([
      { by: 'set_pte', level: 'pte', old: 0n, value: 5n },
      { by: 'set_p4d', level: 'p4d', old: 0n, value: 7n },
      { by: 'ptep_get_and_clear', level: 'pte', old: 5n, value: 0n },
      { by: 'set_pmd', level: 'pmd', old: 0n, value: 9n },
      { by: 'set_pud', level: 'pud', old: 0n, value: 11n },
      { by: 'set_pte_at', level: 'pte', old: 0n, value: 13n },
      { by: 'pte_clear', level: 'pte', old: 13n, value: 0n },
    ]);
  });
});
