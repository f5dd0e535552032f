import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import { AC, ALL_BITS, controlsOf, expected, isLegal, type ModelCpu, pdeOf, pteOf } from './access-model.js';
import { type TestMachine, testMachine } from './testing.js';

const VA = 0xffff923400000000n;
const NX = 1n << 63n;

/** A linear congruential generator. */
function* random(seed: number): Generator<number, never> {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    yield state ^ (state >>> 13);
  }
}

/** The access as the engine would make it; true when it goes through. */
function access(machine: TestMachine, va: bigint, kind: number, user: boolean): boolean {
  const { cpu, mmu } = machine;
  cpu.setPrivilege(user ? 'user' : 'kernel');
  mmu.user = user;
  const code = kind === 2 ? ACCESS_FETCH : kind === 1 ? ACCESS_WRITE : ACCESS_READ;
  return mmu.fill(Number(BigInt.asIntN(64, va)), code) !== 0;
}
const READ = 0;
const WRITE = 1;
const FETCH = 2;
const KINDS = ['read', 'write', 'fetch'] as const;

/** `ok`, or the error code; the access is really made, with its marks. */
function outcome(machine: TestMachine, va: bigint, kind: 0 | 1 | 2, user = false): number | 'ok' {
  const walk = machine.mmu.explain(va, KINDS[kind], user, false);
  expect(access(machine, va, kind, user)).toBe(walk.ok);
  return walk.ok ? 'ok' : walk.code;
}

function control(machine: TestMachine, registers: Readonly<Record<string, bigint>>): void {
  machine.set(registers);
  machine.mmu.refresh();
}

test('the model runs as many combinations as the program does', () => {
  // 19,169,280 and so on, without the bits that no rule looks at: 15, and the key where there are none.
  const free = [
    'pteRw',
    'pteUser',
    'pteA',
    'pteD',
    'pteP',
    'pdeRw',
    'pdeUser',
    'pdeA',
    'pdeD',
    'pdeP',
  ] as const;
  const looked =
    ALL_BITS &
    ~[...free, 'pdpteRo', 'pkey', 'user', 'twice', 'wp', 'smep'].reduce(
      (mask, name) => mask | (1 << AC[name as keyof typeof AC]),
      0,
    );
  const count = (cpu: ModelCpu): number => {
    let legal = 0;
    // All subsets of a mask.
    for (let c = looked; ; c = (c - 1) & looked) {
      if (isLegal(c, cpu)) legal += 1;
      if (c === 0) return legal;
    }
  };
  expect(count({ maxphyaddr: 46, pku: true }) * 2 ** 15).toBe(19_169_280);
  expect(count({ maxphyaddr: 52, pku: true }) * 2 ** 15).toBe(9_338_880);
  expect(count({ maxphyaddr: 46, pku: false }) * 2 ** 14).toBe(1_916_928);
  expect(count({ maxphyaddr: 52, pku: false }) * 2 ** 14).toBe(933_888);
});

describe('the walk agrees with the model of kvm-unit-tests', () => {
  test.each<[ModelCpu, number]>([
    [{ maxphyaddr: 36, pku: true }, 6000],
    [{ maxphyaddr: 46, pku: true }, 6000],
    [{ maxphyaddr: 52, pku: false }, 2000],
  ])('fault, error code, A and D on %j', (model, combinations) => {
    const machine = testMachine({}, model.maxphyaddr);
    const { mmu, ram } = machine;
    const ptePa = machine.map(VA, 1n);
    const [, pdpte, pdeLevel] = mmu.explain(VA, 'read', false, false).levels;
    const pdptePa = pdpte?.entryPa ?? 0;
    const pdePa = pdeLevel?.entryPa ?? 0;
    const table = BigInt(ptePa - (ptePa % 4096));
    const upper = ram.readU64(pdptePa);
    const wrong: string[] = [];
    const numbers = random(model.maxphyaddr);
    for (let ran = 0; ran < combinations; ) {
      const c = numbers.next().value & ALL_BITS;
      if (!isLegal(c, model)) continue;
      ran += 1;
      const on = (bit: number): boolean => ((c >> bit) & 1) === 1;
      const pte = pteOf(c);
      const pde = pdeOf(c, table);
      ram.writeU64(ptePa, pte);
      ram.writeU64(pdePa, pde);
      ram.writeU64(pdptePa, on(AC.pdpteRo) ? upper & ~2n : upper);
      control(machine, controlsOf(c));
      const want = expected(c, pde, pte);
      if (on(AC.twice)) access(machine, VA, READ, false);
      const kind = on(AC.write) ? WRITE : on(AC.fetch) ? FETCH : READ;
      const walk = mmu.explain(VA, KINDS[kind], on(AC.user), false);
      const filled = access(machine, VA, kind, on(AC.user));
      const dontCare = want.pdeADontCare ? 0x20n : 0n;
      const show = (fault: boolean, code: number, pdeNow: bigint, pteNow: bigint): string =>
        `fault ${fault} code ${fault ? code : 0} pde ${(pdeNow | dontCare).toString(16)} pte ${pteNow.toString(16)}`;
      const got = show(!filled, walk.code, ram.readU64(pdePa), ram.readU64(ptePa));
      const wanted = show(want.fault, want.code, want.pde, want.pte);
      if (got !== wanted || walk.ok !== filled) wrong.push(`0x${c.toString(16)}: ${got}, not ${wanted}`);
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });
});

describe('scripted cases of the same program', () => {
  const OTHER = VA + 0x200000n;
  const WP = { cr0: 0x80050033n, cr4: 0x6f0n, efer: 0xd01n };

  /** Entries of a page, root first. */
  function entries(machine: TestMachine, va: bigint): readonly number[] {
    return machine.mmu.explain(va, 'read', false, false).levels.map(({ entryPa }) => entryPa);
  }

  test('corrupt_hugepage_trigger: two large pages of one table, one of them read-only', () => {
    const machine = testMachine();
    machine.map(VA, 1n);
    machine.map(OTHER, 1n);
    const [, , pde = 0] = entries(machine, VA);
    const [, , otherPde = 0] = entries(machine, OTHER);
    machine.ram.writeU64(pde, 0x200085n);
    machine.ram.writeU64(otherPde, 0x200087n);
    control(machine, WP);
    expect(outcome(machine, VA, READ)).toBe('ok');
    expect(outcome(machine, OTHER, WRITE)).toBe('ok');
    expect(outcome(machine, VA, WRITE)).toBe(3);
    expect([machine.ram.readU64(pde), machine.ram.readU64(otherPde)]).toEqual([0x2000a5n, 0x2000e7n]);
  });

  test('check_pfec_on_prefetch_pte: NX is reserved with NXE clear, in one PTE and not in its neighbour', () => {
    const machine = testMachine();
    machine.map(VA, 0x200007n);
    const pte = machine.map(VA + 0x1000n, NX | 0x201007n);
    control(machine, { ...WP, efer: 0x501n });
    expect(outcome(machine, VA, READ)).toBe('ok');
    expect(outcome(machine, VA + 0x1000n, READ)).toBe(9);
    expect(machine.ram.readU64(pte)).toBe(NX | 0x201007n);
  });

  test('check_large_pte_dirty_for_nowp: a write that only WP=0 allows sets D', () => {
    const machine = testMachine();
    machine.map(VA, 1n);
    machine.map(OTHER, 1n);
    const [, , pde = 0] = entries(machine, VA);
    const [, , otherPde = 0] = entries(machine, OTHER);
    machine.ram.writeU64(pde, 0x200087n);
    machine.ram.writeU64(otherPde, 0x200085n);
    control(machine, { ...WP, cr0: 0x80040033n });
    expect(outcome(machine, VA, READ)).toBe('ok');
    expect(outcome(machine, OTHER, WRITE)).toBe('ok');
    expect([machine.ram.readU64(pde), machine.ram.readU64(otherPde)]).toEqual([0x2000a7n, 0x2000e5n]);
  });

  test('check_smep_andnot_wp: with NXE clear SMEP reports fetches as such', () => {
    const machine = testMachine();
    const pte = machine.map(VA, 0x200005n);
    control(machine, { cr0: 0x80050033n, cr4: 0x1006f0n, efer: 0x501n });
    expect(outcome(machine, VA, WRITE)).toBe(3);
    expect(outcome(machine, VA, FETCH)).toBe(0x11);
    expect(outcome(machine, VA, FETCH, true)).toBe('ok');
    expect(machine.ram.readU64(pte)).toBe(0x200025n);
  });

  test('check_toggle_cr0_wp: a supervisor writes to a read-only page when WP is clear', () => {
    const machine = testMachine();
    machine.map(VA, 0x200005n);
    for (const [cr0, want] of [
      [0x80050033n, 3],
      [0x80040033n, 'ok'],
      [0x80050033n, 3],
    ] as const) {
      control(machine, { ...WP, cr0 });
      expect(outcome(machine, VA, WRITE)).toBe(want);
      expect(outcome(machine, VA, WRITE, true)).toBe(7);
    }
  });

  test('check_effective_sp_permissions: rights are those of the path, not of the shared table', () => {
    const machine = testMachine();
    const { ram } = machine;
    const GIB = 1n << 30n;
    machine.map(VA, 0x200007n);
    const [, pdpte = 0, pde = 0] = entries(machine, VA);
    machine.map(VA + GIB, 1n);
    machine.map(VA + 2n * GIB, 1n);
    machine.map(VA + 3n * GIB, 1n);
    const pmdTable = ram.readU64(pdpte) & ~0xfffn;
    // Four ways to one table of PDEs: user and not, writable and not.
    for (const [i, rights] of [7n, 5n, 3n, 1n].entries()) ram.writeU64(pdpte + 8 * i, pmdTable | rights);
    control(machine, WP);
    const all = (user: boolean, kind: 0 | 1): (number | 'ok')[] =>
      [0n, 1n, 2n, 3n].map((i) => outcome(machine, VA + i * GIB, kind, user));
    expect(all(true, READ)).toEqual(['ok', 'ok', 5, 5]);
    expect(all(true, WRITE)).toEqual(['ok', 7, 7, 7]);
    expect(all(false, READ)).toEqual(['ok', 'ok', 'ok', 'ok']);
    expect(all(false, WRITE)).toEqual(['ok', 3, 'ok', 3]);
    // The same PDE in all of them.
    expect(entries(machine, VA + 3n * GIB)[2]).toBe(pde);
  });
});
