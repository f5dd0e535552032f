import { afterAll, describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, PERM_EXEC, PERM_READ, PERM_WRITE } from '../emu/cpu.js';
import { libraryPath, openLibrary } from '../emu/unicorn/library.js';
import { ARM64_RAM_BASE, ARM64_RAM_SIZE, ARM64_TABLES, type Arm64Case, bit } from './arm64-case.js';
import type { Case, Entries, Ours, Theirs } from './case.js';
import { type Answers, compare, type Verdict } from './compare.js';
import { ARM64_DEVIATIONS, X86_DEVIATIONS } from './deviations.js';
import { arm64Bench, type Bench, x86Bench } from './oracle.js';
import { CR4_LA57, X86_RAM_SIZE, X86_TABLES, type X86Case } from './x86-case.js';

const library = openLibrary(libraryPath());
const x86 = x86Bench(library);
const arm64 = arm64Bench(library);
afterAll(() => {
  x86.close();
  arm64.close();
});

/** Both answers, the verdict, and the names of the deviations in it. */
function both<C extends Case>(
  bench: Bench<C>,
  question: C,
): { ours: Ours; theirs: Theirs; verdict: Verdict; names: readonly string[] } {
  const verdict = compare(bench, bench.deviations, question);
  const names = verdict.kind === 'deviation' ? verdict.names : [];
  return { ours: bench.ours(question), theirs: bench.theirs(question), verdict, names };
}

/** A walker that is the engine's own: it has every one of the engine's defects, and agrees with it. */
function copyOf<C extends Case>({ ours, theirs }: Answers<C>): Answers<C> {
  return {
    theirs,
    ours: (question) => {
      const { silent, ...answer } = theirs(question);
      return { ...answer, levels: ours(question).levels, granted: silent, flaw: null };
    },
  };
}

/** What is said of the engine's defect in a walker of ours. */
function caught<C extends Case>(bench: Bench<C>, name: string, question: C, broken: Answers<C>): void {
  const others = compare(
    broken,
    bench.deviations.filter((each) => each.name !== name),
    question,
  );
  expect(others.kind).toBe('agree');
  expect(compare(broken, bench.deviations, question)).toMatchObject({
    kind: 'disagree',
    what: `${name}: kfault does as the engine does`,
  });
}

const NOTHING: Entries = new Map();
const NX = 1n << 63n;

describe('deviations of the x86-64 engine', () => {
  const [root, second, third, last] = [0, 1, 2, 3].map((n) => X86_TABLES[n]) as [
    number,
    number,
    number,
    number,
  ];
  const table = (pa: number): bigint => BigInt(pa) | 0x27n;
  const question = (
    entries: readonly (readonly [number, bigint])[],
    rest: Partial<X86Case> = {},
  ): X86Case => ({
    ...{ cr0: 0x80050033n, cr3: BigInt(root), cr4: 0x2a0n, efer: 0xd01n, pkru: 0, user: false, ac: false },
    ...{ access: ACCESS_READ, va: 0x5123n, entries: new Map(entries), ...rest },
  });

  test('absent-table: what is not there reads as all ones', () => {
    const { ours, theirs, names } = both(x86, question([[root, 0x4000_0027n]]));
    expect(names).toEqual(['absent-table']);
    // P and RSVD; the engine says "not present".
    expect([ours.code, theirs.code]).toEqual([9, 0]);
    caught(x86, 'absent-table', question([[root, 0x4000_0027n]]), copyOf(x86));
    // Just behind the ram, and the last page of it.
    expect(x86.ours(question([[root, BigInt(X86_RAM_SIZE) | 0x27n]])).code).toBe(9);
    expect(x86.ours(question([[root, BigInt(X86_RAM_SIZE + 0x1000) | 0x27n]])).code).toBe(9);
    expect(x86.ours(question([[root, BigInt(X86_RAM_SIZE - 0x1000) | 0x27n]])).code).toBe(0);
  });

  test('accessed-above-a-fault: the engine sets A in the entries above', () => {
    const bare = question([
      [root, BigInt(second) | 7n],
      [second, BigInt(third) | 7n],
      [third, 0n],
    ]);
    const { ours, theirs, names } = both(x86, bare);
    expect(names).toEqual(['accessed-above-a-fault']);
    expect(ours.code).toBe(0);
    expect(ours.writes).toEqual(NOTHING);
    expect(theirs.writes).toEqual(
      new Map([
        [root, BigInt(second) | 0x27n],
        [second, BigInt(third) | 0x27n],
      ]),
    );
    caught(x86, 'accessed-above-a-fault', bare, copyOf(x86));
  });

  test('accessed-above-a-fault: and not in a 4 KiB or 2 MiB leaf that refuses', () => {
    const leaf = question(
      [
        [root, table(second)],
        [second, table(third)],
        [third, table(last)],
        [last + 40, 0x8001n],
      ],
      { access: ACCESS_WRITE },
    );
    expect(both(x86, leaf)).toMatchObject({ verdict: { kind: 'agree' }, ours: { code: 3 } });
    const large = question([
      [root, table(second)],
      [second, table(third)],
      [third, NX | 0x81n],
    ]);
    expect(both(x86, { ...large, access: ACCESS_FETCH })).toMatchObject({
      verdict: { kind: 'agree' },
      ours: { code: 17 },
    });
  });

  test('accessed-in-a-refused-1GiB-leaf', () => {
    const gigabyte = question(
      [
        [root, table(second)],
        [second, 0x81n],
      ],
      { access: ACCESS_WRITE },
    );
    const { ours, theirs, names } = both(x86, gigabyte);
    expect(names).toEqual(['accessed-in-a-refused-1GiB-leaf']);
    expect(ours).toMatchObject({ code: 3, writes: NOTHING });
    expect(theirs).toMatchObject({ code: 3, writes: new Map([[second, 0xa1n]]) });
    caught(x86, 'accessed-in-a-refused-1GiB-leaf', gigabyte, copyOf(x86));
  });

  test('nothing else is explained: another code, another address, another entry', () => {
    const five = question([[root, table(second)]], { cr4: 0x2a0n | CR4_LA57 });
    const { ours, theirs } = both(x86, five);
    for (const wrong of [{ code: theirs.code ^ 4 }, { address: 1n }, { writes: new Map([[root, 0n]]) }]) {
      const lying = { ours: () => ours, theirs: () => ({ ...theirs, ...wrong }) };
      expect(compare(lying, X86_DEVIATIONS, five).kind).toBe('disagree');
    }
  });
});

describe('deviations of the arm64 engine', () => {
  const [root, second, third, last] = [0, 1, 2, 3].map((n) => ARM64_TABLES[n]) as [
    number,
    number,
    number,
    number,
  ];
  const table = (pa: number): bigint => BigInt(pa) | 3n;
  const PAGE = 0x4000_8000n;
  const AF = bit(10);
  const EL0 = bit(6);
  const RDONLY = bit(7);
  const DBM = bit(51);
  const UXN = bit(54);
  const TCR = 0x5_b510_3510n;
  const question = (leaf: bigint, rest: Partial<Arm64Case> = {}): Arm64Case => ({
    ...{
      ttbr0: BigInt(root),
      ttbr1: BigInt(root),
      tcr: TCR,
      sctlr: 1n,
      unprivileged: false,
      ldtr: false,
      pan: false,
    },
    ...{ access: ACCESS_READ, va: 0x5123n },
    entries: new Map([
      [root, table(second)],
      [second, table(third)],
      [third, table(last)],
      [last + 40, leaf],
    ]),
    ...rest,
  });
  const withEntries = (
    entries: readonly (readonly [number, bigint])[],
    rest: Partial<Arm64Case> = {},
  ): Arm64Case => question(0n, { entries: new Map(entries), ...rest });

  test('no-E0PD: a level 0 translation fault for EL0', () => {
    const closed = question(PAGE | AF | EL0 | 3n, { tcr: TCR | bit(55), unprivileged: true });
    const { ours, theirs, names } = both(arm64, closed);
    expect(names).toEqual(['no-E0PD']);
    expect(ours).toMatchObject({ pa: null, code: 4 });
    expect(theirs.pa).toBe(0x4000_8123);
    caught(arm64, 'no-E0PD', closed, copyOf(arm64));
    // EL1 and the other half are not meant.
    expect(both(arm64, { ...closed, unprivileged: false }).verdict.kind).toBe('agree');
    expect(both(arm64, { ...closed, tcr: TCR | bit(56) }).verdict.kind).toBe('agree');
  });

  test('no-EPAN: PAN counts for a page that EL0 may only execute', () => {
    const executeOnly = question(PAGE | AF | 3n, { sctlr: 1n | bit(57), pan: true });
    const { ours, theirs, names } = both(arm64, executeOnly);
    expect(names).toEqual(['no-EPAN']);
    expect(ours).toMatchObject({ pa: null, code: 0xf });
    expect(theirs.pa).toBe(0x4000_8123);
    caught(arm64, 'no-EPAN', executeOnly, copyOf(arm64));
    expect(both(arm64, question(PAGE | AF | UXN | 3n, { sctlr: 1n | bit(57), pan: true })).verdict.kind).toBe(
      'agree',
    );
    const fetch = both(arm64, { ...executeOnly, access: ACCESS_FETCH, va: 0x5120n });
    expect([fetch.ours.pa, fetch.ours.rights & (PERM_READ | PERM_EXEC)]).toEqual([0x4000_8120, PERM_EXEC]);
  });

  test('contiguous-range-too-large: 16 blocks of 1 GiB do not fit in 33 bits', () => {
    const size = { tcr: (TCR & ~0x3fn) | 31n };
    const block = withEntries([[root + 8, 0x4000_0000n | bit(52) | AF | 1n]], { ...size, va: 0x4000_8123n });
    const { ours, theirs, names } = both(arm64, block);
    expect(names).toEqual(['contiguous-range-too-large']);
    expect(ours).toMatchObject({ pa: null, code: 5 });
    expect(theirs.pa).toBe(0x4000_8123);
    caught(arm64, 'contiguous-range-too-large', block, copyOf(arm64));
  });

  test('no-address-size-faults: by the root, a table, a page', () => {
    const narrow = TCR & ~(7n << 32n);
    for (const [wide, code, seen] of [
      [question(bit(33) | AF | 3n, { tcr: narrow }), 3, 0x10],
      [withEntries([[root, bit(32) | 3n]], { tcr: narrow }), 0, 5],
      [
        withEntries(
          [
            [root, table(second)],
            [second, bit(40) | 3n],
          ],
          { tcr: narrow },
        ),
        1,
        6,
      ],
      [question(PAGE | AF | 3n, { tcr: narrow, ttbr0: bit(35) }), 0, 4],
    ] as const) {
      const { ours, theirs, names } = both(arm64, wide);
      expect(names[0]).toBe('no-address-size-faults');
      expect([ours.pa, ours.code, theirs.code]).toEqual([null, code, seen]);
      const unlimited: Answers<Arm64Case> = {
        theirs: arm64.theirs,
        ours: (each) => arm64.ours({ ...each, tcr: each.tcr | (5n << 32n) }),
      };
      expect(compare(unlimited, ARM64_DEVIATIONS, wide).kind).toBe('disagree');
      // Where a table is beyond the ram, too, a copy of the engine has another defect.
      if (seen === 0x10) caught(arm64, 'no-address-size-faults', wide, copyOf(arm64));
    }
  });

  test('no-HAFDBS: access flag and dirty state by hardware', () => {
    const leaf = PAGE | DBM | RDONLY | 3n;
    const write = both(arm64, question(leaf, { tcr: TCR | bit(39) | bit(40), access: ACCESS_WRITE }));
    expect(write.names).toEqual(['no-HAFDBS']);
    expect(write.ours).toMatchObject({
      pa: 0x4000_8123,
      writes: new Map([[last + 40, (leaf | AF) & ~RDONLY]]),
    });
    expect(write.theirs.code).toBe(0xb);
    const read = both(arm64, question(leaf, { tcr: TCR | bit(39) | bit(40) }));
    expect(read.ours).toMatchObject({ pa: 0x4000_8123, writes: new Map([[last + 40, leaf | AF]]) });
    const flagOnly = both(arm64, question(leaf, { tcr: TCR | bit(39), access: ACCESS_WRITE }));
    expect([flagOnly.names, flagOnly.ours.code]).toEqual([['no-HAFDBS'], 0xf]);
    for (const access of [ACCESS_READ, ACCESS_WRITE] as const) {
      caught(arm64, 'no-HAFDBS', question(leaf, { tcr: TCR | bit(39) | bit(40), access }), copyOf(arm64));
    }
  });

  test('no-HAFDBS: a read must not grant the first write to a clean page', () => {
    const clean = question(PAGE | AF | DBM | RDONLY | 3n, { tcr: TCR | bit(39) | bit(40) });
    const careless: Answers<Arm64Case> = {
      theirs: arm64.theirs,
      ours: (each) => {
        const answer = arm64.ours(each);
        return each === clean ? { ...answer, granted: answer.granted | PERM_WRITE } : answer;
      },
    };
    expect(compare(arm64, ARM64_DEVIATIONS, clean).kind).toBe('deviation');
    expect(compare(careless, ARM64_DEVIATIONS, clean).kind).toBe('disagree');
  });

  test('level-0-block: invalid', () => {
    const { ours, theirs, names } = both(arm64, withEntries([[root, AF | 0x1n]]));
    expect(names).toEqual(['level-0-block']);
    expect(ours).toMatchObject({ pa: null, code: 4 });
    expect(theirs.code).toBe(0x10);
    caught(arm64, 'level-0-block', withEntries([[root, AF | 0x1n]]), copyOf(arm64));
  });

  test('block-address-bits: those below the block are RES0', () => {
    const block = withEntries([
      [root, table(second)],
      [second, table(third)],
      [third, 0x4000_0000n | 0x3000n | AF | 1n],
    ]);
    const { ours, theirs, names } = both(arm64, block);
    expect(names).toEqual(['block-address-bits']);
    expect([ours.pa, theirs.pa]).toEqual([0x4000_5123, 0x4000_7123]);
    caught(arm64, 'block-address-bits', block, copyOf(arm64));
  });

  test('absent-table: an external abort on the walk', () => {
    const { ours, theirs, names } = both(arm64, withEntries([[root, 0x8000_0003n]]));
    expect(names).toEqual(['absent-table']);
    expect([ours.code, theirs.code]).toEqual([0x15, 5]);
    caught(arm64, 'absent-table', withEntries([[root, 0x8000_0003n]]), copyOf(arm64));
    caught(arm64, 'absent-table', question(PAGE | AF | 3n, { ttbr0: 0x8000_0000n }), copyOf(arm64));
    // Just behind the ram and just before it, and the pages at its ends.
    const end = ARM64_RAM_BASE + ARM64_RAM_SIZE;
    for (const [pa, code] of [
      [end, 0x15],
      [end + 0x1000, 0x15],
      [ARM64_RAM_BASE - 0x1000, 0x15],
      [end - 0x1000, 5],
      [ARM64_RAM_BASE, 5],
    ] as const) {
      // The first and the last entry of the table.
      for (const va of [0x123n, 0x7f_c000_0123n]) {
        expect(arm64.ours(withEntries([[root, BigInt(pa) | 3n]], { va })).code).toBe(code);
      }
    }
  });

  test('nothing else is explained', () => {
    const asked = question(PAGE | 3n, { tcr: TCR | bit(39) });
    const { theirs } = both(arm64, asked);
    const lying = {
      ours: (each: Arm64Case) => arm64.ours(each),
      theirs: (each: Arm64Case) => ({
        ...arm64.theirs(each),
        ...(each === asked ? theirs : { pa: 0x4000_9123 }),
      }),
    };
    expect(compare(lying, ARM64_DEVIATIONS, asked).kind).toBe('disagree');
  });
});

describe('the list', () => {
  test('every deviation has a manual section', () => {
    for (const { name, engine, manual } of [...X86_DEVIATIONS, ...ARM64_DEVIATIONS]) {
      expect([name, engine.length > 20, /SDM|"[A-Z]/.test(manual)]).toEqual([name, true, true]);
    }
  });
});
