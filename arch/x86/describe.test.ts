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
      'PGD[402] at physical 0x000100c90 = 0x0000000000101067  P=1 RW=1 US=1 NX=0 A=1  table at 0x101000',
      'PUD[0]   at physical 0x000101000 = 0x0000000000102067  P=1 RW=1 US=1 NX=0 A=1  table at 0x102000',
      'PMD[2]   at physical 0x000102010 = 0x0000000000107067  P=1 RW=1 US=1 NX=0 A=1  table at 0x107000',
      'PTE[1]   at physical 0x000107008 = 0x0000000000000000  P=0: not present',
      'supervisor write of 0xffffc90000401008: not present, decided at PTE',
    ]);
  });

  test('of an address that no table is read for', () => {
    const machine = testMachine();
    machine.miss(0x800000000000n, 'fetch');
    const [walk] = machine.events('walk');
    expect(walk === undefined ? [] : describeWalk(walk)).toEqual([
      'supervisor fetch of 0x0000800000000000: not canonical, decided before any table was read',
    ]);
  });
});

test('an error code in words', () => {
  expect(describeFault('#PF', 0x15n)).toEqual([
    'X86_PF_PROT: the page is mapped, and the access is not allowed',
    'X86_PF_WRITE clear: not a write',
    'X86_PF_USER: by user mode',
    'X86_PF_INSTR: an instruction fetch',
  ]);
  expect(describeFault('#GP', 0n)).toEqual(['error code 0x0']);
});
