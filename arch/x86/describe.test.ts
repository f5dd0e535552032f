import { describe, expect, test } from '@jest/globals';
import { describeFault, describeWalk } from './describe.js';
import { HOLE, testMachine } from './testing.js';

describe('a walk in words', () => {
  test('has a line for each level, what counted in it, and who decided', () => {
    const machine = testMachine();
    machine.miss(HOLE, 'write');
    const [walk] = machine.events('walk');
    const lines = walk === undefined ? [] : describeWalk(walk);
    expect(lines).toEqual([
      'PGD[402] at 0x000100c90 = 0000000000101067  P=1 RW=1 US=1 NX=0 A=1  table 0x101000',
      'PUD[0]   at 0x000101000 = 0000000000102067  P=1 RW=1 US=1 NX=0 A=1  table 0x102000',
      'PMD[2]   at 0x000102010 = 0000000000107067  P=1 RW=1 US=1 NX=0 A=1  table 0x107000',
      'PTE[1]   at 0x000107008 = 0000000000000000  P=0: not present',
      'supervisor write of ffffc90000401008: not present, decided at PTE',
    ]);
  });

  test.each([
    // Only A and D: pte_none() to the kernel.
    ['pte', 0x60n, 'P=0: not present, other bits ignored'],
    // A page of KFENCE's pool, protected: pte_present() to the kernel.
    ['pte', 0x800ffffffedcb162n, 'P=0: not present, _PAGE_PROTNONE=1: pte_present()'],
    ['pud', 0x162n, 'P=0: not present, other bits ignored'],
    ['pmd', 0x80000000002001e3n, 'P=1 RW=1 US=0 NX=1 A=1 D=1 G=1  2M page 0x200000'],
    ['p4d', 0x2000e7n, 'P=1 RW=1 US=1 NX=0 A=1 D=1 G=0  PS=1: reserved'],
  ] as const)('%s %s', (level, entry, text) => {
    const event = { type: 'walk', cpu: 0, va: HOLE, access: 'read', user: false, verdict: '' } as const;
    const [line] = describeWalk({ ...event, levels: [{ level, entryPa: 0, entry }], at: level });
    expect(line?.slice(line.indexOf('= ') + 20)).toBe(text);
    // Explained, it stands six columns in.
    expect(line?.length).toBeLessThanOrEqual(94);
  });

  test('shows the protection key of a leaf, if it is not 0', () => {
    const event = { type: 'walk', cpu: 0, va: HOLE, access: 'read', user: false, verdict: '' } as const;
    const levels = [{ level: 'pte', entryPa: 0, entry: (5n << 59n) | 0x201067n }] as const;
    const [line] = describeWalk({ ...event, levels, at: 'pte' });
    expect(line?.slice(line.indexOf('P=1'))).toBe('P=1 RW=1 US=1 NX=0 A=1 D=1 G=0 PKEY=5  page 0x201000');
  });

  test('names an entry by its place, with five levels too', () => {
    const event = { type: 'walk', cpu: 0, access: 'read', user: false, verdict: '', at: 'pgd' } as const;
    const levels = [{ level: 'pgd', entryPa: 0x3e0888, entry: 0n }] as const;
    expect(describeWalk({ ...event, va: 0xff11000000000000n, levels })[0]).toMatch(
      /^PGD\[273\] at 0x0003e0888 /,
    );
  });

  test('of an address that no table is read for', () => {
    const machine = testMachine();
    machine.miss(0x800000000000n, 'fetch');
    const [walk] = machine.events('walk');
    expect(walk === undefined ? [] : describeWalk(walk)).toEqual([
      'supervisor fetch of 0000800000000000: not canonical, decided before any table was read',
    ]);
  });
});

test('an error code in words', () => {
  expect(describeFault('#PF', 0x15n)).toEqual([
    'X86_PF_PROT: the page is present, and the access is not allowed',
    'X86_PF_WRITE clear: not a write',
    'X86_PF_USER: a user-mode access',
    'X86_PF_INSTR: an instruction fetch',
  ]);
  // A reserved bit breaks the walk off: whether the access is allowed was never looked at.
  expect(describeFault('#PF', 0x9n)).toEqual([
    'X86_PF_PROT: all entries that were read are present',
    'X86_PF_WRITE clear: not a write',
    'X86_PF_USER clear: a supervisor-mode access',
    'X86_PF_RSVD: a reserved bit is set in an entry',
  ]);
  expect(describeFault('#GP', 0n)).toEqual(['error code 0x0']);
});
