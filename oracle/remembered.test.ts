/** Walks that begin where an earlier one has been, at last tables at the ends of the ram and beyond them. */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ } from '../emu/cpu.js';
import { ARM64_RAM_BASE, ARM64_RAM_SIZE, ARM64_TABLES, type Arm64Case, Arm64Ours } from './arm64-case.js';
import { X86_RAM_SIZE, X86_TABLES, type X86Case, X86Ours } from './x86-case.js';

const PAGE = 4096;
const NX = 1n << 63n;
/** Offsets of entries of the last table: the first and the last of them. */
const ENDS = [0n, 511n];

function root(tables: readonly number[]): readonly [number, number, number] {
  const [first = 0, second = 0, third = 0] = tables;
  return [first, second, third];
}

describe('x86-64', () => {
  const [pgd, pud, pmd] = root(X86_TABLES);
  const question = (table: number, index: bigint, leaf: bigint): X86Case => ({
    ...{ cr0: 0x80050033n, cr3: BigInt(pgd), cr4: 0x2a0n, efer: 0xd01n, pkru: 0, user: false, ac: false },
    ...{ access: ACCESS_READ, va: (index << 12n) + 0x123n },
    entries: new Map([
      [pgd, BigInt(pud) | 0x27n],
      [pud, BigInt(pmd) | 0x27n],
      [pmd, BigInt(table) | 0x27n],
      ...(leaf === 0n ? [] : [[table + Number(index) * 8, leaf] as const]),
    ]),
  });

  test.each([
    ['just behind the ram', X86_RAM_SIZE],
    ['one page further', X86_RAM_SIZE + PAGE],
    ['far away', 0x4000_0000],
  ])('a table %s reads as ones, also when asked again', (_where, table) => {
    for (const index of ENDS) {
      const mmu = new X86Ours();
      for (let turn = 0; turn < 3; turn++) {
        expect(mmu.answer(question(table, index, 0n))).toMatchObject({ pa: null, code: 9, flaw: null });
      }
    }
  });

  test.each([
    ['first', 0],
    ['last', X86_RAM_SIZE - PAGE],
  ])('a table in the %s page of the ram is read, also when asked again', (_which, table) => {
    for (const index of ENDS) {
      const mmu = new X86Ours();
      for (const leaf of [0x8021n, 0x9021n, 0n, 0x8021n]) {
        const expected = leaf === 0n ? { pa: null, code: 0 } : { pa: Number(leaf & ~0xfffn) + 0x123 };
        for (let turn = 0; turn < 2; turn++) {
          expect(mmu.answer(question(table, index, leaf))).toMatchObject({ ...expected, flaw: null });
        }
      }
    }
  });

  /** What is remembered of `before` must not matter for `after`. */
  function expectForgotten(before: X86Case, after: X86Case): void {
    const mmu = new X86Ours();
    mmu.answer(before);
    const fresh = new X86Ours().answer(after);
    expect(mmu.answer(after)).toEqual(fresh);
    expect(fresh).not.toEqual(new X86Ours().answer(before));
  }
  const at = (n: number): number => X86_TABLES[n] ?? 0;
  const LA57 = 1n << 12n;
  const walk = (root: number, five: boolean, va: bigint, rest: Partial<X86Case>): X86Case => ({
    ...question(0, 0n, 0n),
    ...{ cr3: BigInt(root), cr4: five ? 0x2a0n | LA57 : 0x2a0n, va: va + 0x123n, ...rest },
  });
  const table = (pa: number): bigint => BigInt(pa) | 0x27n;

  // The second place is at four fifths of the first one: an entry must not be watched elsewhere.
  const FIRST = 0x1a018;
  const SECOND = 0x14ce0;
  test.each([
    ['PGD', false, 39n, [0x1a000, at(1), at(2), at(7)]],
    ['PUD', false, 30n, [at(1), 0x1a000, at(2), at(7)]],
    ['PMD', false, 21n, [at(1), at(2), 0x1a000, at(7)]],
    ['PML5', true, 48n, [0x1a000, at(1), at(2), at(6), at(7)]],
  ] as const)('a changed %s entry counts, though another place still has it', (_level, five, shift, ways) => {
    const place = ways.indexOf(0x1a000);
    const entries = new Map<number, bigint>();
    ways.forEach((pa, i) => {
      const next = ways[i + 1];
      entries.set(i === place ? FIRST : pa, next === undefined ? 0x8021n : table(next));
    });
    entries.set(SECOND, entries.get(FIRST) ?? 0n);
    const before = walk(ways[0] ?? 0, five, 3n << shift, { entries });
    expectForgotten(before, { ...before, entries: new Map([...entries, [FIRST, 0n]]) });
  });

  test.each([
    ['PGD', false],
    ['PML5', true],
  ])('a changed %s entry counts, though the one below is what it was', (_level, five) => {
    const self = table(at(1));
    const last = five ? [[at(1) + 8, table(at(2))] as const, [at(2), table(at(7))] as const] : [];
    const entries = new Map([
      [at(0), self],
      [at(1), self],
      ...last,
      [at(1) + 16, table(at(7))],
      [at(7), 0x8021n],
    ]);
    const va = five ? 1n << 30n : 2n << 21n;
    const before = walk(at(0), five, va, { entries });
    expectForgotten(before, { ...before, entries: new Map([...entries, [at(0), 0n]]) });
  });

  test('a PML5 entry that becomes what the one below is', () => {
    const entries = new Map([
      ...([
        [at(0), table(at(1))],
        [at(1), table(at(2))],
        [at(2), table(at(6))],
      ] as const),
      ...([
        [at(6), table(at(7))],
        [at(7), table(at(8))],
        [at(8), 0x8021n],
      ] as const),
    ]);
    const before = walk(at(0), true, 0n, { entries });
    expectForgotten(
      { ...before, entries: new Map([...entries, [at(7), 0x9021n]]) },
      { ...before, entries: new Map([...entries, [at(0), table(at(2))]]) },
    );
  });

  test('a PML5 entry that loses its NX', () => {
    const entries = new Map([
      ...([
        [at(0), NX | table(at(1))],
        [at(1), table(at(2))],
        [at(2), table(at(6))],
      ] as const),
      ...([
        [at(6), table(at(7))],
        [at(7), 0x8021n],
      ] as const),
    ]);
    const before = walk(at(0), true, 0n, { entries, access: ACCESS_FETCH });
    expectForgotten(before, { ...before, entries: new Map([...entries, [at(0), table(at(1))]]) });
  });
});

describe('arm64', () => {
  const [pgd, pud, pmd] = root(ARM64_TABLES);
  const end = ARM64_RAM_BASE + ARM64_RAM_SIZE;
  const question = (table: number, index: bigint, leaf: bigint): Arm64Case => ({
    ...{ ttbr0: BigInt(pgd), ttbr1: BigInt(pgd), tcr: 0x5_b510_3510n, sctlr: 1n },
    ...{ unprivileged: false, ldtr: false, pan: false, access: ACCESS_READ, va: (index << 12n) + 0x123n },
    entries: new Map([
      [pgd, BigInt(pud) | 3n],
      [pud, BigInt(pmd) | 3n],
      [pmd, BigInt(table) | 3n],
      ...(leaf === 0n ? [] : [[table + Number(index) * 8, leaf] as const]),
    ]),
  });

  test.each([
    ['just behind the ram', end],
    ['just before it', ARM64_RAM_BASE - PAGE],
    ['far away', 0x8000_0000],
  ])('a table %s aborts the walk, also when asked again', (_where, table) => {
    for (const index of ENDS) {
      const mmu = new Arm64Ours();
      for (let turn = 0; turn < 3; turn++) {
        expect(mmu.answer(question(table, index, 0n))).toMatchObject({ pa: null, code: 0x17, flaw: null });
      }
    }
  });

  test.each([
    ['first', ARM64_RAM_BASE],
    ['last', end - PAGE],
  ])('a table in the %s page of the ram is read, also when asked again', (_which, table) => {
    for (const index of ENDS) {
      const mmu = new Arm64Ours();
      for (const leaf of [0x4000_8403n, 0x4000_9403n, 0n, 0x4000_8403n]) {
        const expected = leaf === 0n ? { pa: null, code: 7 } : { pa: Number(leaf & ~0xfffn) + 0x123 };
        for (let turn = 0; turn < 2; turn++) {
          expect(mmu.answer(question(table, index, leaf))).toMatchObject({ ...expected, flaw: null });
        }
      }
    }
  });
});
