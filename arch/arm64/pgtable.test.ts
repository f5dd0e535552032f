import { describe, expect, test } from '@jest/globals';
import { EventLog } from '../../emu/events.js';
import { Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import type { ThisCpu } from '../arch.js';
import { DEFAULT_CONFIG } from '../kernel-config.js';
import * as bits from './pgtable.js';

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

  test('KPTI makes kernel mappings non-global and leaves user ones alone', () => {
    const kpti = bits.createPgtable({ ...DEFAULT_CONFIG, KPTI: true });
    expect(kpti.PAGE_KERNEL).toBe(0x00e8_0000_0000_0f03n);
    expect(kpti.PAGE_SHARED).toBe(pgtable.PAGE_SHARED);
  });

  test('blocks end in 01, tables in 11 with the bits of their owner', () => {
    expect(pgtable.mk_pmd(0x4020_0000, pgtable.PAGE_KERNEL)).toBe(0x00e8_0000_4020_0701n);
    expect(pgtable.mk_pud(0x4000_0000, pgtable.PAGE_KERNEL)).toBe(0x00e8_0000_4000_0701n);
    expect(pgtable.tableEntry('pmd', 0x42b0_2000, 'kernel')).toBe(0x1000_0000_42b0_2403n);
    expect(pgtable.tableEntry('pgd', 0x42b0_2000, 'user')).toBe(0x0800_0000_42b0_2403n);
  });
});

describe('predicates', () => {
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
    expect(pgtable.pte_dirty(pgtable.PAGE_SHARED & ~bits.PTE_RDONLY)).toBe(true);
    expect(pgtable.pte_dirty(pgtable.PAGE_KERNEL_RO)).toBe(true);
    expect(pgtable.pte_mkdirty(pgtable.PAGE_SHARED)).toBe(0x00e8_0000_0000_0f43n);
    // What may not be written stays read-only.
    expect(pgtable.pte_mkdirty(pgtable.PAGE_READONLY)).toBe(0x00e0_0000_0000_0fc3n);
    expect(pgtable.pte_write(pgtable.PAGE_SHARED)).toBe(true);
    expect(pgtable.pte_write(pgtable.PAGE_KERNEL_RO)).toBe(false);
    expect(pgtable.pte_young(pgtable.PAGE_KERNEL & ~bits.PTE_AF)).toBe(false);
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
    expect(pgtable.pte_pa(0x00e8_0000_43e9_2707n)).toBe(0x43e9_2000);
  });
});

describe('accessors', () => {
  test('ptep_try_set stores from zero only, and says so', () => {
    const { here, ram, log } = memory();
    const value = pgtable.mk_pte(0x4000_5000, pgtable.PAGE_KERNEL);
    expect(pgtable.ptep_try_set(here, 0x4000_0008, value)).toBe(true);
    expect(ram.readU64(0x4000_0008)).toBe(value);
    ram.writeU64(0x4000_0010, bits.PTE_PRESENT_INVALID);
    expect(pgtable.ptep_try_set(here, 0x4000_0010, value)).toBe(false);
    expect(ram.readU64(0x4000_0010)).toBe(bits.PTE_PRESENT_INVALID);
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

  test('stores are events with the level and the value before', () => {
    const { here, ram, log } = memory();
    pgtable.set_pte(here, 0x4000_0000, 5n);
    pgtable.set_p4d(here, 0x4000_0018, 7n);
    expect(pgtable.ptep_get_and_clear(here, 0x4000_0000)).toBe(5n);
    expect(ram.readU64(0x4000_0000)).toBe(0n);
    expect(log.events).toMatchObject([
      { by: 'set_pte', level: 'pte', old: 0n, value: 5n },
      { by: 'set_p4d', level: 'p4d', old: 0n, value: 7n },
      { by: 'ptep_get_and_clear', level: 'pte', old: 5n, value: 0n },
    ]);
  });
});
