import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, PERM_EXEC, PERM_READ, PERM_WRITE } from '../../emu/cpu.js';
import type { AccessType } from '../../emu/events.js';
import { AC, ALL_BITS, expected, isLegal } from './access-model.js';
import { NOT_CANONICAL, X86Mmu } from './mmu.js';
import { HOLE, type TestMachine, testMachine } from './testing.js';

const NX = 1n << 63n;
const PAGE = 0xffffc90000600000n;
const SIGNED = Number(BigInt.asIntN(64, PAGE));
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

describe('the walk agrees with the model of kvm-unit-tests', () => {
  // The sweep of access.c has a thousand times more; a linear congruential generator picks among them.
  test('fault, error code, A and D of 20,000 combinations', () => {
    const VA = 0xffff923400000000n;
    const VA_SIGNED = Number(BigInt.asIntN(64, VA));
    const machine = testMachine({}, 36);
    const { mmu, ram, cpu } = machine;
    // The leaf is set later; for 2 MiB pages the PDE is one.
    const ptePa = machine.map(VA, 0x200001n);
    const [, pdpte, pdeLevel] = mmu.explain(VA, 'read', false, false).levels;
    const pdptePa = pdpte?.entryPa ?? 0;
    const pdePa = pdeLevel?.entryPa ?? 0;
    const table = BigInt(ptePa - (ptePa % 4096));
    const wrong: string[] = [];
    let seed = 1;
    let ran = 0;
    while (ran < 20_000) {
      seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
      const c = (seed ^ (seed >>> 13)) & ALL_BITS;
      if (!isLegal(c)) continue;
      ran += 1;
      const on = (bit: number): boolean => ((c >> bit) & 1) === 1;
      const bits = (pairs: readonly (readonly [number, bigint])[]): bigint =>
        pairs.reduce((word, [bit, mask]) => (on(bit) ? word | mask : word), 0n);
      const pte =
        0x200000n |
        bits([
          [AC.pteP, 1n],
          [AC.pteRw, 2n],
          [AC.pteUser, 4n],
          [AC.pteA, 0x20n],
          [AC.pteD, 0x40n],
          [AC.pteNx, NX],
          [AC.pte51, 1n << 51n],
          [AC.pte36, 1n << 36n],
        ]);
      const pde =
        (on(AC.pdePse) ? 0x200080n : table) |
        bits([
          [AC.pdeP, 1n],
          [AC.pdeRw, 2n],
          [AC.pdeUser, 4n],
          [AC.pdeA, 0x20n],
          [AC.pdeD, 0x40n],
          [AC.pdeNx, NX],
          [AC.pde51, 1n << 51n],
          [AC.pde36, 1n << 36n],
          [AC.pde13, 1n << 13n],
        ]);
      ram.writeU64(ptePa, pte);
      ram.writeU64(pdePa, pde);
      const upper = ram.readU64(pdptePa);
      ram.writeU64(pdptePa, on(AC.pdpteRo) ? upper & ~2n : upper | 2n);
      control(machine, {
        cr0: on(AC.wp) ? 0x80050033n : 0x80040033n,
        cr4: on(AC.smep) ? 0x1006f0n : 0x6f0n,
        efer: on(AC.nxe) ? 0xd01n : 0x501n,
      });
      const want = expected(c, pde, pte);

      if (on(AC.twice)) {
        cpu.setPrivilege('kernel');
        mmu.user = false;
        mmu.fill(VA_SIGNED, ACCESS_READ);
      }
      cpu.setPrivilege(on(AC.user) ? 'user' : 'kernel');
      mmu.user = on(AC.user);
      const access = on(AC.write) ? 'write' : on(AC.fetch) ? 'fetch' : 'read';
      const engine = on(AC.write) ? ACCESS_WRITE : on(AC.fetch) ? ACCESS_FETCH : ACCESS_READ;
      const walk = mmu.explain(VA, access, on(AC.user), false);
      const filled = mmu.fill(VA_SIGNED, engine) !== 0;
      const pdeNow = ram.readU64(pdePa) | (want.pdeADontCare ? 0x20n : 0n);
      const pdeWant = want.pde | (want.pdeADontCare ? 0x20n : 0n);
      const agrees =
        filled === !want.fault &&
        walk.ok === !want.fault &&
        (walk.ok || walk.code === want.code) &&
        ram.readU64(ptePa) === want.pte &&
        pdeNow === pdeWant;
      if (!agrees) {
        const got = `fault ${!filled} code ${walk.code} pde ${pdeNow.toString(16)} pte ${ram.readU64(ptePa).toString(16)}`;
        wrong.push(
          `0x${c.toString(16)}: ${got}, not ${want.fault} ${want.code} ${pdeWant.toString(16)} ${want.pte.toString(16)}`,
        );
      }
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });
});

describe('reserved bits', () => {
  test('depend on MAXPHYADDR', () => {
    for (const [width, bit, want] of [
      [46, 45n, 'ok'],
      [46, 46n, 9],
      [40, 40n, 9],
      [52, 51n, 'ok'],
    ] as const) {
      const machine = testMachine({}, width);
      machine.map(PAGE, (1n << bit) | 0x163n);
      expect([width, bit, code(machine, PAGE, 'read')]).toEqual([width, bit, want]);
    }
    expect(() => new X86Mmu(testMachine().ram, 53)).toThrow('MAXPHYADDR');
  });

  test('a large page has some in its address, and PS in the root is one', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x163n);
    const [pgd, pud, pmd] = machine.mmu.explain(PAGE, 'read', false, false).levels;
    const { ram } = machine;
    const at = (level: typeof pgd): number => level?.entryPa ?? 0;
    ram.writeU64(at(pmd), 0x201163n | 0x80n);
    // Bit 12 is PAT and no part of the address.
    expect(machine.mmu.explain(PAGE + 0x1234n, 'read', false, false).pa).toBe(0x201234);
    ram.writeU64(at(pmd), 0x2021e3n);
    expect(code(machine, PAGE, 'write')).toBe(0xb);
    ram.writeU64(at(pud), 0x1e3n);
    expect(machine.mmu.explain(PAGE + 0x1234n, 'read', false, false).pa).toBe(0x601234);
    ram.writeU64(at(pud), 0x21e3n);
    expect(code(machine, PAGE, 'read')).toBe(9);
    ram.writeU64(at(pgd), ram.readU64(at(pgd)) | 0x80n);
    expect(machine.mmu.explain(PAGE, 'fetch', false, false)).toMatchObject({ code: 0x19, at: 'pgd' });
  });

  test('a table that is not in the ram reads as all ones', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x163n);
    const pmd = machine.mmu.explain(PAGE, 'read', false, false).levels[2]?.entryPa ?? 0;
    machine.ram.writeU64(pmd, 0x3f000000067n);
    expect(code(machine, PAGE, 'read')).toBe(9);
    expect(machine.mmu.peek(PAGE)).toBe(-1);
  });
});

describe('nothing is remembered that the tables do not hold any more', () => {
  test('an entry of any level changes between two walks', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x201163n);
    const { levels } = machine.mmu.explain(PAGE, 'read', false, false);
    for (const { level, entryPa, entry } of levels) {
      for (const [value, want] of [
        [entry & ~1n, 0],
        [entry & ~2n, 'ok'],
        [entry, 'ok'],
        [entry | (1n << 50n), 9],
        [entry, 'ok'],
      ] as const) {
        machine.ram.writeU64(entryPa, value);
        expect([level, value, code(machine, PAGE, 'read')]).toEqual([level, value, want]);
        const shown = machine.mmu.explain(PAGE, 'read', false, false).levels;
        expect(shown.find((read) => read.level === level)?.entry).toBe(value);
        expect(code(machine, PAGE, 'write')).toBe(
          value === entry ? 'ok' : want === 'ok' ? 3 : want === 0 ? 2 : 11,
        );
      }
    }
  });

  test('another root, another table, a large page in its place', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x201163n);
    expect(machine.mmu.peek(PAGE)).toBe(0x201000);
    const other = 0x3f0000;
    machine.ram.fill(other, 4096, 0);
    machine.map(PAGE, 0x202163n, other);
    control(machine, { cr3: BigInt(other) });
    expect(machine.mmu.peek(PAGE)).toBe(0x202000);
    const pmd = machine.mmu.explain(PAGE, 'read', false, false).levels[2]?.entryPa ?? 0;
    const table = machine.ram.readU64(pmd);
    machine.ram.writeU64(pmd, 0x2001e3n);
    expect(machine.mmu.peek(PAGE + 0x1000n)).toBe(0x201000);
    machine.ram.writeU64(pmd, table);
    expect(machine.mmu.peek(PAGE)).toBe(0x202000);
    expect(machine.mmu.peek(PAGE + 0x1000n)).toBe(-1);
  });
});

describe('addresses', () => {
  test('outside of 48 signed bits no table is read', () => {
    const machine = testMachine();
    for (const va of [0x800000000000n, 0xffff7fffffffffffn, 1n << 63n]) {
      expect(machine.mmu.explain(va, 'read', false, false)).toMatchObject({
        ok: false,
        levels: [],
        code: NOT_CANONICAL,
      });
      const signed = BigInt.asIntN(64, va);
      const asAsked = Number.isSafeInteger(Number(signed)) ? Number(signed) : signed;
      expect(machine.mmu.fill(asAsked, ACCESS_READ)).toBe(0);
    }
  });

  test('the first and the last page translate', () => {
    const machine = testMachine();
    for (const va of [0n, 0x7ffffffff000n, 0xffff800000000000n, 0xfffffffffffff000n]) {
      machine.map(va, 0x201163n);
      expect(machine.mmu.peek(va + 0xfffn)).toBe(0x201fff);
    }
  });

  test('a walk names the level that decided', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x201163n);
    const levels = machine.mmu.explain(PAGE, 'read', false, false).levels;
    const pmd = levels[2]?.entryPa ?? 0;
    machine.ram.writeU64(pmd, machine.ram.readU64(pmd) & ~2n);
    expect(machine.mmu.explain(PAGE, 'write', false, false)).toMatchObject({
      verdict: 'write to read-only page',
      at: 'pmd',
      code: 3,
    });
    expect(machine.mmu.explain(HOLE, 'read', false, false)).toMatchObject({
      verdict: 'not present',
      at: 'pte',
      code: 0,
    });
  });
});

describe('modes', () => {
  test('supervisor data accesses to user pages need AC with SMAP; fetches are for SMEP to refuse', () => {
    const machine = testMachine();
    machine.map(USER, 0x201067n);
    expect(code(machine, USER, 'read')).toBe(1);
    expect(code(machine, USER, 'write')).toBe(3);
    expect(code(machine, USER, 'read', false, true)).toBe('ok');
    expect(code(machine, USER, 'fetch', false, true)).toBe(0x11);
    control(machine, { cr4: 0x506f0n });
    expect(code(machine, USER, 'read')).toBe('ok');
    expect(code(machine, USER, 'fetch')).toBe('ok');
    expect(code(machine, USER, 'write', true)).toBe('ok');
    expect(code(machine, HOLE, 'read', true)).toBe(4);
  });

  test('the INSTR bit needs NXE or SMEP', () => {
    const machine = testMachine();
    expect(code(machine, HOLE, 'fetch')).toBe(0x10);
    control(machine, { cr4: 0x506f0n });
    expect(code(machine, HOLE, 'fetch')).toBe(0x10);
    control(machine, { efer: 0x501n });
    expect(code(machine, HOLE, 'fetch')).toBe(0);
  });

  test('fill asks the CPU whether guest code did stac or iretq', () => {
    const machine = testMachine();
    const { mmu } = machine;
    machine.map(USER, 0x201067n);
    const page = Number(USER);
    expect(mmu.fill(page, ACCESS_READ)).toBe(0);
    machine.set({ rflags: 0x40202n });
    expect(mmu.fill(page, ACCESS_READ)).toBe(PERM_READ | PERM_WRITE);
    machine.set({ rflags: 0x202n });
    machine.cpu.setPrivilege('user');
    expect(mmu.fill(page, ACCESS_FETCH)).toBe(RWX);
    expect(mmu.user).toBe(true);
    expect(mmu.fill(Number(BigInt.asIntN(64, HOLE)), ACCESS_READ)).toBe(0);
  });

  test('code that went to user mode in a kernel page cannot be fetched', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x201163n);
    expect(machine.mmu.fill(SIGNED, ACCESS_FETCH)).toBe(RWX);
    machine.cpu.setPrivilege('user');
    expect(machine.mmu.fill(SIGNED, ACCESS_FETCH)).toBe(0);
  });
});

describe('fill', () => {
  test('grants a write only once D is set, and sets it for the write', () => {
    const machine = testMachine();
    const { mmu, ram } = machine;
    const pte = machine.map(PAGE, NX | 0x201003n);
    expect(mmu.fill(SIGNED, ACCESS_READ)).toBe(PERM_READ);
    expect(mmu.pa).toBe(0x201000);
    expect(ram.readU64(pte)).toBe(NX | 0x201023n);
    expect(mmu.fill(SIGNED, ACCESS_WRITE)).toBe(PERM_READ | PERM_WRITE);
    expect(ram.readU64(pte)).toBe(NX | 0x201063n);
    expect(mmu.fill(SIGNED, ACCESS_FETCH)).toBe(0);
    expect(machine.events('pte-write')).toMatchObject([
      { by: 'hardware', old: NX | 0x201003n, value: NX | 0x201023n },
      { by: 'hardware', old: NX | 0x201023n, value: NX | 0x201063n },
    ]);
  });

  test('translate leaves A and D alone', () => {
    const machine = testMachine();
    const pte = machine.map(PAGE, 0x201003n);
    expect(machine.mmu.translate(PAGE, 'write', false).ok).toBe(true);
    expect(machine.ram.readU64(pte)).toBe(0x201003n);
    expect(machine.log.events).toEqual([]);
  });
});

describe('pinned pages', () => {
  test('answer as the tables were, until they are dropped', () => {
    const machine = testMachine();
    const { mmu } = machine;
    const pte = machine.map(PAGE, 0x201163n);
    expect(mmu.pin(PAGE)).toBe(true);
    machine.ram.writeU64(pte, 0n);
    expect(mmu.fill(SIGNED, ACCESS_WRITE)).toBe(RWX);
    expect(mmu.pa).toBe(0x201000);
    mmu.unpin(PAGE + 8n);
    expect(mmu.fill(SIGNED, ACCESS_READ)).toBe(0);
    expect(mmu.pin(PAGE)).toBe(false);
  });

  test('a stale read-only entry faults with P=1 although the tables allow the write', () => {
    const machine = testMachine();
    const pte = machine.map(PAGE, NX | 0x201161n);
    machine.mmu.pin(PAGE);
    machine.ram.writeU64(pte, NX | 0x201163n);
    expect(machine.mmu.fill(SIGNED, ACCESS_WRITE)).toBe(0);
    expect(machine.mmu.explain(PAGE, 'write', false, false)).toMatchObject({
      code: 3,
      verdict: 'write to read-only page (stale TLB entry)',
    });
  });

  test('a write through an entry that is not dirty walks the tables again', () => {
    const machine = testMachine();
    const pte = machine.map(PAGE, 0x201123n);
    machine.mmu.pin(PAGE);
    machine.ram.writeU64(pte, 0x202123n);
    expect(machine.mmu.fill(SIGNED, ACCESS_WRITE)).toBe(RWX);
    expect(machine.mmu.pa).toBe(0x202000);
    expect(machine.ram.readU64(pte)).toBe(0x202163n);
  });
});
