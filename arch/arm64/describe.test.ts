import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, type ACCESS_WRITE } from '../../emu/cpu.js';
import { describeFault, describeWalk } from './describe.js';
import { K, LDR_X0_X1, TestMachine } from './testing.js';

/** Lines of the walk behind a refused access to K, whose entry at `level` is `entry`. */
function walk(level: number, entry: bigint, access: typeof ACCESS_READ | typeof ACCESS_WRITE = ACCESS_READ) {
  const machine = new TestMachine();
  machine.code(LDR_X0_X1);
  machine.set(K, level, entry);
  machine.miss(K, access);
  const event = machine.find('walk');
  if (event === undefined) throw new Error('no walk');
  return { machine, lines: describeWalk(event) };
}

describe('describeWalk', () => {
  test('a missing page: each entry with its index, place and value', () => {
    const { machine, lines } = walk(3, 0n);
    const at = (level: number): string => `0x${machine.entryPa(K, level).toString(16).padStart(9, '0')}`;
    const value = (level: number): string =>
      machine.ram.readU64(machine.entryPa(K, level)).toString(16).padStart(16, '0');
    const next = (level: number): string => (machine.entryPa(K, level) & ~0xfff).toString(16);
    const table = (level: number): string => `= ${value(level)}  table at 0x${next(level + 1)} UXNTable=1`;
    expect(lines).toEqual([
      `PGD[256] level 0 at ${at(0)} ${table(0)}`,
      `PUD[4]   level 1 at ${at(1)} ${table(1)}`,
      `PMD[282] level 2 at ${at(2)} ${table(2)}`,
      `PTE[86]  level 3 at ${at(3)} = 0000000000000000  invalid: bit 0 = 0`,
      'privileged read of ffff800123456008 through TTBR1_EL1, decided at PTE:',
      '  level 3 translation fault',
    ]);
  });

  test.each([
    [3, 0x00e8_0000_43e0_0f06n, /invalid: bit 0 = 0 .*PTE_PRESENT_INVALID=1: present for software$/],
    [3, 0x0000_0000_1234_50c4n, /other bits ignored .*a swap entry: type 3, offset 0x12345, exclusive$/],
    [3, 0x0000_0000_1234_5008n, /other bits ignored .*a swap entry: type 0, offset 0x12345, uffd-wp$/],
    [2, 0x0000_0000_1234_50c4n, /invalid: bit 0 = 0, other bits ignored$/],
    [3, 0x00e8_0000_4000_0701n, /invalid: bits 1:0 = 01 .*reserved at level 3/],
    [0, 0x0000_0000_4000_0701n, /invalid: bits 1:0 = 01 .*no blocks at level 0$/],
    [
      2,
      0x00e0_0000_4020_0781n,
      /2 MiB block at 0x40200000 {10}AP\[2:1\]=10 \(EL1 r\/o, EL0 none\) AF=1 nG=0 DBM=0 PXN=1 UXN=1$/,
    ],
    [3, 0x00e8_0000_4000_0303n, /page at 0x40000000 .*AP\[2:1\]=00 \(EL1 r\/w, EL0 none\) AF=0 nG=0 DBM=1/],
    // A user page that was not written yet, and a table that takes rights from all below.
    [3, 0x0068_0000_4000_0fc3n, /AP\[2:1\]=11 \(EL1 r\/o, EL0 r\/o\) AF=1 nG=1 DBM=1 PXN=1 UXN=1$/],
    [2, 0x6800_0000_4000_0403n, /table at 0x40000000 APTable=11 PXNTable=1$/],
  ])('level %s, %s', (level, entry, text) => {
    // Level 0 is shared with everything else: only the description is wanted there.
    const event = {
      type: 'walk',
      cpu: 0,
      va: K,
      access: 'read',
      user: false,
      verdict: '',
      at: null,
    } as const;
    const names = ['pgd', 'pud', 'pmd', 'pte'] as const;
    const levels = names.slice(0, level + 1).map((name, i) => ({
      level: name,
      entryPa: 0x4000_0000,
      entry: i === level ? entry : 0x1000_0000_4000_1403n,
    }));
    const own = describeWalk({ ...event, levels }).slice(level, -2);
    expect(own.join(' ')).toMatch(text);
    // Explained, they stand six columns in.
    expect(Math.max(...own.map((line) => line.length))).toBeLessThanOrEqual(94);
  });

  test('a walk of three levels begins at level 1; small first tables have the indices that the hardware used', () => {
    const event = { type: 'walk', cpu: 0, access: 'read', user: false, verdict: '', at: 'pmd' } as const;
    const levels = [
      { level: 'pud', entryPa: 0x4000_1018, entry: 0x4000_2003n },
      { level: 'pmd', entryPa: 0x4000_2ff8, entry: 0n },
    ] as const;
    // 36 bits: index 3 of 64 in bits 35:30, whose table is at 0x40001000 in one half, at 0x40000e00 in the other.
    const names = (va: bigint, first: number): string[] =>
      describeWalk({ ...event, va, levels: [{ ...levels[0], entryPa: first + 24 }, levels[1]] })
        .slice(0, 2)
        .map((line) => line.slice(0, 16));
    expect(names(0xffff_fff0_ffe0_0000n, 0x4000_1000)).toEqual(['PUD[3]   level 1', 'PMD[511] level 2']);
    expect(names(0xffe0_0000n, 0x4000_0e00)).toEqual(['PUD[3]   level 1', 'PMD[511] level 2']);
  });

  test('an address out of range has no entries', () => {
    const event = { type: 'walk', cpu: 0, va: 0xdead_0000_0000_0108n, access: 'write', user: true } as const;
    expect(describeWalk({ ...event, levels: [], verdict: 'level 0 translation fault', at: null })).toEqual([
      'unprivileged write of dead000000000108 through TTBR1_EL1, decided before any table was read:',
      '  level 0 translation fault',
    ]);
  });
});

test('describeFault names the fields that matter', () => {
  expect(describeFault('Data Abort', 0x9600_0147n)).toEqual([
    'EC = 0x25: DABT (current EL)',
    'IL = 1: 32-bit instruction',
    'DFSC = 0x07: level 3 translation fault',
    'WnR = 1: by a write',
    'CM = 1: by cache maintenance (WnR is always 1 with it)',
    'ISV = 0: no syndrome of the instruction',
  ]);
  expect(describeFault('Instruction Abort', 0x8200_000fn)).toEqual([
    'EC = 0x20: IABT (lower EL)',
    'IL = 1: 32-bit instruction',
    'IFSC = 0x0f: level 3 permission fault',
  ]);
  expect(describeFault('PC Alignment', 0x8a00_0000n)).toEqual([
    'EC = 0x22: PC Alignment',
    'IL = 1: 32-bit instruction',
  ]);
});
