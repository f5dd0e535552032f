import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, PERM_EXEC, PERM_READ, PERM_WRITE } from '../../emu/cpu.js';
import type { AccessType } from '../../emu/events.js';
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
    expect(machine.mmu.explain(PAGE + 0x1ff234n, 'read', false, false).pa).toBe(0x3ff234);
    ram.writeU64(at(pmd), 0x2021e3n);
    expect(code(machine, PAGE, 'write')).toBe(0xb);
    ram.writeU64(at(pud), 0x1e3n);
    expect(machine.mmu.explain(PAGE + 0x1234n, 'read', false, false).pa).toBe(0x601234);
    expect(machine.mmu.explain(PAGE + 0x3f9ff234n, 'read', false, false).pa).toBe(0x3ffff234);
    ram.writeU64(at(pud), 0x21e3n);
    expect(code(machine, PAGE, 'read')).toBe(9);
    ram.writeU64(at(pgd), ram.readU64(at(pgd)) | 0x80n);
    expect(machine.mmu.explain(PAGE, 'fetch', false, false)).toMatchObject({ code: 0x19, at: 'pgd' });
    // Without any other bit that a 1 GiB page would not have.
    ram.writeU64(at(pgd), 0x1e3n);
    expect(machine.mmu.explain(PAGE, 'read', false, false)).toMatchObject({ code: 9, at: 'pgd' });
  });

  test('every address bit below a large page but bit 12 is one', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x163n);
    const [, pud, pmd] = machine.mmu.explain(PAGE, 'read', false, false).levels;
    for (const [level, lowest] of [
      [pmd, 21n],
      [pud, 30n],
    ] as const) {
      for (let bit = 12n; bit <= lowest; bit++) {
        machine.ram.writeU64(level?.entryPa ?? 0, 0x1e3n | (1n << bit));
        const want = bit === 12n || bit === lowest ? 'ok' : 9;
        expect([level?.level, bit, code(machine, PAGE, 'read')]).toEqual([level?.level, bit, want]);
      }
    }
  });

  test('NX is one with NXE clear, also in an entry that was read before', () => {
    const machine = testMachine();
    machine.map(PAGE, 0x201163n);
    const pmd = machine.mmu.explain(PAGE, 'read', false, false).levels[2]?.entryPa ?? 0;
    machine.ram.writeU64(pmd, machine.ram.readU64(pmd) | NX);
    for (const [efer, want] of [
      [0xd01n, 'ok'],
      [0x501n, 9],
      [0xd01n, 'ok'],
    ] as const) {
      control(machine, { efer });
      expect(code(machine, PAGE, 'read')).toBe(want);
    }
    machine.ram.writeU64(pmd, machine.ram.readU64(pmd) & ~NX);
    const pte = machine.map(PAGE, NX | 0x201163n);
    expect(code(machine, PAGE, 'read')).toBe('ok');
    control(machine, { efer: 0x501n });
    expect([machine.ram.readU64(pte), code(machine, PAGE, 'read')]).toEqual([NX | 0x201163n, 9]);
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
    expect(code(machine, USER, 'write', true)).toBe('ok');
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

describe('a load of CR3', () => {
  test('leaves global translations, a full flush does not', () => {
    const machine = testMachine();
    const { mmu, ram, here } = machine;
    const other = PAGE + 0x1000n;
    const global = machine.map(PAGE, 0x201163n);
    const own = machine.map(other, 0x202063n);
    const pinBoth = (): void => {
      ram.writeU64(global, 0x201163n);
      ram.writeU64(own, 0x202063n);
      expect([mmu.pin(PAGE), mmu.pin(other)]).toEqual([true, true]);
      ram.writeU64(global, 0n);
      ram.writeU64(own, 0n);
    };
    pinBoth();
    here.arch.switch_mm(here, null);
    expect(mmu.pinnedPages()).toEqual([PAGE]);
    expect([code(machine, PAGE, 'read'), code(machine, other, 'read')]).toEqual(['ok', 0]);
    mmu.unpin(null);
    expect(code(machine, PAGE, 'read')).toBe(0);
    // Without CR4.PGE the bit is ignored.
    control(machine, { cr4: 0x350670n });
    pinBoth();
    here.arch.switch_mm(here, null);
    expect(mmu.pinnedPages()).toEqual([]);
  });

  test('G of a table entry says nothing, that of a large page does', () => {
    const machine = testMachine();
    const { mmu, ram, here } = machine;
    machine.map(PAGE, 0x201063n);
    const pmd = mmu.explain(PAGE, 'read', false, false).levels[2]?.entryPa ?? 0;
    ram.writeU64(pmd, ram.readU64(pmd) | 0x100n);
    mmu.pin(PAGE);
    here.arch.switch_mm(here, null);
    expect(mmu.pinnedPages()).toEqual([]);
    ram.writeU64(pmd, 0x2001e3n);
    mmu.pin(PAGE);
    here.arch.switch_mm(here, null);
    expect(mmu.pinnedPages()).toEqual([PAGE]);
  });
});

test('an implicit access is a supervisor access whatever code runs, and AC does not help it', () => {
  const machine = testMachine();
  machine.map(USER, 0x201067n);
  machine.cpu.setPrivilege('user');
  expect(machine.mmu.explain(USER, 'read', false, false)).toMatchObject({ ok: false, code: 1 });
  machine.set({ rflags: 0x40202n });
  expect(machine.mmu.supervisorWrite(Number(USER))).toBe(-1);
  expect(machine.mmu.supervisorWrite(Number(BigInt.asIntN(64, HOLE)))).toBe(-1);
});

test('code that was fetched through a pinned page is decoded where it was fetched', () => {
  const machine = testMachine();
  const { mmu, ram } = machine;
  const pte = machine.map(PAGE, 0x201161n);
  ram.write(0x201000, Uint8Array.of(0x48, 0x01, 0x07));
  mmu.pin(PAGE);
  ram.writeU64(pte, 0n);
  expect(mmu.faulting.at(SIGNED)?.mnemonic).toBe('add');
  mmu.unpin(PAGE);
  expect(mmu.faulting.at(SIGNED)).toBeNull();
});
