/** What the walker says about a refusal, and what becomes of pinned pages that are written or used first. */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import type { AccessType } from '../../emu/events.js';
import { testMachine } from './testing.js';

const NX = 1n << 63n;
const PAGE = 0xffffc90000600000n;
const SIGNED = Number(BigInt.asIntN(64, PAGE));

describe('the verdict names the check that refused', () => {
  const CR4 = 0x6f0n;
  const SMEP = 1n << 20n;
  const SMAP = 1n << 21n;
  const PKE = 1n << 22n;
  test.each<[string, bigint, bigint, AccessType, boolean]>([
    ['user access to supervisor page', 0x201163n, CR4, 'read', true],
    ['write to read-only page', 0x201161n, CR4, 'write', false],
    ['fetch from no-execute page', NX | 0x201163n, CR4, 'fetch', false],
    ['supervisor access to user page with SMAP and EFLAGS.AC=0', 0x201167n, CR4 | SMAP, 'read', false],
    ['supervisor fetch from user page with SMEP', 0x201167n, CR4 | SMEP, 'fetch', false],
    ['protection key forbids it', (1n << 59n) | 0x201167n, CR4 | PKE, 'read', true],
    ['not present', 0n, CR4, 'read', false],
    ['reserved bit set', (1n << 51n) | 0x201163n, CR4, 'read', false],
    ['translates', 0x201163n, CR4, 'read', false],
  ])('%s', (verdict, pte, cr4, access, user) => {
    const machine = testMachine();
    machine.map(PAGE, pte);
    // Key 1: no access.
    machine.set({ cr4, pkru: 0x4n });
    machine.mmu.refresh();
    expect(machine.mmu.explain(PAGE, access, user, false).verdict).toBe(verdict);
  });
});

describe('a pinned page', () => {
  test('that is clean is walked again by a write, and is pinned no more', () => {
    const { mmu, ram, map } = testMachine();
    const pte = map(PAGE, 0x201123n);
    mmu.pin(PAGE);
    ram.writeU64(pte, 0x202123n);
    expect(mmu.fill(SIGNED, ACCESS_READ)).not.toBe(0);
    expect(mmu.pa).toBe(0x201000);
    expect(mmu.fill(SIGNED, ACCESS_WRITE)).not.toBe(0);
    expect(mmu.pinnedPages()).toEqual([]);
    expect(mmu.fill(SIGNED, ACCESS_READ)).not.toBe(0);
    expect(mmu.pa).toBe(0x202000);
  });

  test('that is clean explains reads as they were, and a write by the tables', () => {
    const { mmu, ram, map } = testMachine();
    const pte = map(PAGE, 0x201123n);
    mmu.pin(PAGE);
    ram.writeU64(pte, 0n);
    expect(mmu.explain(PAGE, 'read', false, false)).toMatchObject({ ok: true, pa: 0x201000 });
    expect(mmu.explain(PAGE, 'write', false, false)).toMatchObject({ ok: false, code: 2 });
  });

  test('stays global when pinning sets its accessed flag', () => {
    const { mmu, ram, map } = testMachine();
    const pte = map(PAGE, 0x201143n);
    expect(mmu.pin(PAGE)).toBe(true);
    expect(ram.readU64(pte)).toBe(0x201163n);
    mmu.loadedCr3();
    expect(mmu.pinnedPages()).toEqual([PAGE]);
  });
});

describe('accessed flags', () => {
  const UPPER = 0x20n;
  test('that software clears above a page are set by the next walk there, though nothing else changed', () => {
    const { mmu, ram, map } = testMachine();
    map(PAGE, 0x201163n);
    const [, pud] = mmu.explain(PAGE, 'read', false, false).levels;
    const pa = pud?.entryPa ?? 0;
    const clear = ram.readU64(pa) & ~UPPER;
    for (let turn = 0; turn < 2; turn++) {
      ram.writeU64(pa, clear);
      expect(mmu.fill(SIGNED, ACCESS_READ)).not.toBe(0);
      expect(ram.readU64(pa)).toBe(clear | UPPER);
    }
  });
});
