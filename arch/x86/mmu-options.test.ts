/** What a CPU may have or not: a fifth level, pages of 1 GiB, protection keys. */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_WRITE, PERM_EXEC, PERM_READ, PERM_WRITE } from '../../emu/cpu.js';
import type { AccessType } from '../../emu/events.js';
import { X86Mmu } from './mmu.js';
import { type TestMachine, testMachine } from './testing.js';

const NX = 1n << 63n;
const PAGE = 0xffffc90000600000n;
const USER = 0x7f0000000000n;
const RWX = PERM_READ | PERM_WRITE | PERM_EXEC;

/** Error code of an access, or `ok`. */
function code({ mmu }: TestMachine, va: bigint, access: AccessType, user = false, ac = false): number | 'ok' {
  const walk = mmu.explain(va, access, user, ac);
  return walk.ok ? 'ok' : walk.code;
}

function control(machine: TestMachine, registers: Readonly<Record<string, bigint>>): void {
  machine.set(registers);
  machine.mmu.refresh();
}

describe('five levels', () => {
  /** First page of the direct map with five levels. */
  const WIDE = 0xff11000000000000n;
  const ROOT = 0x3e0000;

  /** A PML5 above the tables that are there, for the pages of the tests and for `WIDE`. */
  function deep(): TestMachine {
    const machine = testMachine();
    const { ram, kernel } = machine;
    ram.fill(ROOT, 4096, 0);
    for (const index of [0, 0x111, 511]) ram.writeU64(ROOT + 8 * index, BigInt(kernel.init_mm.pgd) | 0x67n);
    control(machine, { cr3: BigInt(ROOT), cr4: 0x3516f0n });
    return machine;
  }

  test('are walked from bits 56 to 48 on, and have their names', () => {
    const machine = deep();
    const { mmu, ram } = machine;
    machine.map(WIDE, 0x201163n);
    const walk = mmu.explain(WIDE + 0x123n, 'write', false, false);
    expect(walk).toMatchObject({ ok: true, pa: 0x201123 });
    expect(walk.levels.map(({ level }) => level)).toEqual(['pgd', 'p4d', 'pud', 'pmd', 'pte']);
    expect(walk.levels[0]).toMatchObject({ entryPa: ROOT + 8 * 0x111, entry: 0x100067n });
    expect(mmu.peek(WIDE + 0xfffn)).toBe(0x201fff);
    expect(mmu.fill(BigInt.asIntN(64, WIDE), ACCESS_WRITE)).toBe(RWX);
    expect(mmu.pa).toBe(0x201000);
    expect(ram.readU64(ROOT + 8 * 0x111)).toBe(0x100067n);
    expect(mmu.pin(WIDE)).toBe(true);
    expect(mmu.pinnedPages()).toEqual([WIDE]);
    mmu.unpin(WIDE + 1n);
    expect(mmu.pinnedPages()).toEqual([]);
  });

  test('have 57 canonical bits', () => {
    const { mmu } = deep();
    for (const [va, want] of [
      [0x00ffffffffffffffn, true],
      [0x0100000000000000n, false],
      [0xfeffffffffffffffn, false],
      [0xff00000000000000n, true],
      [0x0000800000000000n, true],
    ] as const) {
      expect([va, mmu.isCanonical(va)]).toEqual([va, want]);
      const { levels } = mmu.explain(va, 'read', false, false);
      expect([va, levels.length > 0]).toEqual([va, want]);
    }
  });

  test('PS is reserved in the upper two, and each of the five decides', () => {
    const machine = deep();
    const { mmu, ram } = machine;
    machine.map(WIDE, 0x201163n);
    const { levels } = mmu.explain(WIDE, 'read', false, false);
    for (const { level, entryPa, entry } of levels) {
      for (const [value, access, want] of [
        [entry & ~1n, 'read', 0],
        [entry & ~2n, 'write', 3],
        [entry | NX, 'fetch', 0x11],
        [entry | (1n << 46n), 'read', 9],
        ...(level === 'pgd' || level === 'p4d' ? [[0x1e3n, 'read', 9] as const] : []),
        [entry, 'read', 'ok'],
      ] as const) {
        ram.writeU64(entryPa, value);
        expect([level, value, code(machine, WIDE, access)]).toEqual([level, value, want]);
        if (want !== 'ok') expect(mmu.explain(WIDE, access, false, false).at).toBe(level);
      }
    }
  });

  test('what four levels found is not believed by five, and the other way round', () => {
    const machine = deep();
    machine.map(PAGE, 0x201163n);
    control(machine, { cr3: 0x100000n, cr4: 0x3506f0n });
    expect(machine.mmu.peek(PAGE)).toBe(0x201000);
    // The same root, read as a PML5: its entry 511 is empty.
    control(machine, { cr4: 0x3516f0n });
    expect(machine.mmu.peek(PAGE)).toBe(-1);
    control(machine, { cr4: 0x3506f0n });
    expect(machine.mmu.peek(PAGE)).toBe(0x201000);
  });
});

test('without pages of 1 GiB their bit is reserved', () => {
  const machine = testMachine();
  const { ram, cpu, here } = machine;
  machine.map(PAGE, 1n);
  const pud = machine.mmu.explain(PAGE, 'read', false, false).levels[1]?.entryPa ?? 0;
  ram.writeU64(pud, 0x1e3n);
  expect(code(machine, PAGE, 'read')).toBe('ok');
  const small = new X86Mmu(ram, 46, { gbpages: false });
  small.attach(cpu, here.trace);
  small.refresh();
  expect(small.explain(PAGE, 'read', false, false)).toMatchObject({ code: 9, at: 'pud' });
});

describe('protection keys', () => {
  const KEY_5 = 5n << 59n;
  const PKE = 0x4506f0n;

  /** A user page with key 5, and PKRU with these two bits for it. */
  function keyed(disabled: bigint, changes: Readonly<Record<string, bigint>> = {}): TestMachine {
    const machine = testMachine();
    machine.map(USER, KEY_5 | 0x201067n);
    control(machine, { cr4: PKE, pkru: disabled << 10n, ...changes });
    return machine;
  }

  test('AD forbids data, WD writes, and nobody a fetch', () => {
    const noAccess = keyed(1n);
    expect(code(noAccess, USER, 'read', true)).toBe(0x25);
    expect(code(noAccess, USER, 'write', true)).toBe(0x27);
    expect(code(noAccess, USER, 'read')).toBe(0x21);
    expect(code(noAccess, USER, 'fetch', true)).toBe('ok');
    expect(noAccess.mmu.explain(USER, 'read', true, false).verdict).toBe('protection key forbids it');
    expect(noAccess.mmu.explain(USER, 'fetch', true, false).perms).toBe(PERM_EXEC);
    const noWrite = keyed(2n);
    expect(code(noWrite, USER, 'read', true)).toBe('ok');
    expect(code(noWrite, USER, 'write', true)).toBe(0x27);
    expect(noWrite.mmu.explain(USER, 'read', true, false).perms).toBe(PERM_READ | PERM_EXEC);
  });

  test('WD stops a supervisor only with WP', () => {
    expect(code(keyed(2n), USER, 'write')).toBe(0x23);
    expect(code(keyed(2n, { cr0: 0x80040033n }), USER, 'write')).toBe('ok');
    expect(code(keyed(2n, { cr0: 0x80040033n }), USER, 'write', true)).toBe(0x27);
  });

  test('are looked at with CR4.PKE and on user pages only', () => {
    expect(code(keyed(3n, { cr4: 0x506f0n }), USER, 'write', true)).toBe('ok');
    const machine = keyed(3n);
    machine.map(PAGE, KEY_5 | 0x201163n);
    expect(code(machine, PAGE, 'write')).toBe('ok');
    // Key 5 of another page's PKRU bits: keys 4 and 6.
    expect(code(keyed(0n, { pkru: (3n << 8n) | (3n << 12n) }), USER, 'write', true)).toBe('ok');
  });

  test('their bit comes with other causes, but not without a page', () => {
    const machine = keyed(1n);
    machine.map(USER, KEY_5 | 0x201065n);
    expect(code(machine, USER, 'write', true)).toBe(0x27);
    control(machine, { cr4: PKE | (1n << 21n) });
    expect(code(machine, USER, 'read')).toBe(0x21);
    machine.map(USER, KEY_5 | 0x201066n);
    expect(code(machine, USER, 'read', true)).toBe(4);
    machine.map(USER, KEY_5 | (1n << 51n) | 0x201067n);
    expect(code(machine, USER, 'read', true)).toBe(0xd);
  });
});
