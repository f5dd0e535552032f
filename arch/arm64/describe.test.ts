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
    const table = (level: number): string =>
      `= 0x${value(level)}  table at 0x${next(level + 1)}, UXNTable: no execution by EL0 below`;
    expect(lines).toEqual([
      `PGD[256] level 0 at physical ${at(0)} ${table(0)}`,
      `PUD[4]   level 1 at physical ${at(1)} ${table(1)}`,
      `PMD[282] level 2 at physical ${at(2)} ${table(2)}`,
      `PTE[86]  level 3 at physical ${at(3)} = 0x0000000000000000  bit 0 = 0: invalid (none)`,
      'privileged read of 0xffff800123456008 through TTBR1_EL1: level 3 translation fault, decided at PTE',
    ]);
  });

  test.each([
    [3, 0x00e8_0000_43e0_0f06n, /invalid; bit 11 = 1: present for software/],
    [3, 0x00e8_0000_4000_0701n, /01: reserved at level 3, invalid for hardware/],
    [0, 0x0000_0000_4000_0701n, /no blocks at level 0/],
    [
      2,
      0x00e0_0000_4020_0781n,
      /2 MiB block at 0x40200000, AP\[2:1\]=10: EL1 read-only, EL0 no access, AF=1/,
    ],
    [3, 0x00e8_0000_4000_0303n, /page at 0x40000000, AP\[2:1\]=00: EL1 read\/write, .* AF=0: access flag/],
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
    expect(describeWalk({ ...event, levels })[level]).toMatch(text);
  });

  test('an address out of range has no entries', () => {
    const event = { type: 'walk', cpu: 0, va: 0xdead_0000_0000_0108n, access: 'write', user: true } as const;
    expect(describeWalk({ ...event, levels: [], verdict: 'level 0 translation fault', at: null })).toEqual([
      'unprivileged write of 0xdead000000000108 through TTBR1_EL1: level 0 translation fault, decided before any table was read',
    ]);
  });
});

test('describeFault names the fields that matter', () => {
  expect(describeFault('Data Abort', 0x9600_0147n)).toEqual([
    'EC = 0x25: DABT (current EL)',
    'IL = 1: 32-bit instruction',
    'DFSC = 0x07: level 3 translation fault',
    'WnR = 1: write',
    'CM = 1: cache maintenance (WnR is always 1 with it)',
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
