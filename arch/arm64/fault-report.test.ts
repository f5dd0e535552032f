import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ } from '../../emu/cpu.js';
import { KERN_ALERT } from '../kernel.js';
import { kthread, PAGE_KERNEL, raise, userTask } from './fake-tasks.js';
import { K, TestMachine, USER_DATA } from './testing.js';

/** Console lines from `Mem abort info:` up to the page tables. */
function abortInfo(machine: TestMachine): string[] {
  const { console } = machine.kernel;
  const end = console.findIndex((line) => /^(swapper|user) pgtable|^\[/.test(line));
  return console.slice(console.indexOf('Mem abort info:') + 1, end);
}

describe('what the syndrome says', () => {
  test('a syndrome of the instruction: size, extension, register', () => {
    const machine = kthread();
    // ISV, SAS = 2, SSE, SRT = 19, SF, AR, SET = 2, FnV, EA, S1PTW, WnR; ISS2: TnD, TagAccess, DirtyBit, Xs = 21
    const iss = (1n << 24n) | (2n << 22n) | (1n << 21n) | (19n << 16n) | (3n << 14n);
    const low = (2n << 11n) | (1n << 10n) | (1n << 9n) | (1n << 7n) | (1n << 6n) | 0x07n;
    const iss2 = (1n << 10n) | (1n << 9n) | (1n << 5n) | 21n;
    raise(machine, (iss2 << 32n) | 0x9600_0000n | iss | low, K);
    expect(abortInfo(machine)).toEqual([
      '  ESR = 0x0000063597b3d6c7',
      '  EC = 0x25: DABT (current EL), IL = 32 bits',
      '  SET = 2, FnV = 1',
      '  EA = 1, S1PTW = 1',
      '  FSC = 0x07: level 3 translation fault',
      'Data abort info:',
      '  Access size = 4 byte(s)',
      '  SSE = 1, SRT = 19',
      '  SF = 1, AR = 1',
      '  CM = 0, WnR = 1, TnD = 1, TagAccess = 1',
      '  GCS = 0, Overlay = 0, DirtyBit = 1, Xs = 21',
    ]);
  });

  test('without one: ISS and ISS2 as they are; a 16-bit instruction, overlay and guarded control stack', () => {
    const machine = kthread();
    raise(machine, (0x140n << 32n) | 0x9400_0000n | 0x147n, K);
    expect(abortInfo(machine).slice(1)).toEqual([
      '  EC = 0x25: DABT (current EL), IL = 16 bits',
      '  SET = 0, FnV = 0',
      '  EA = 0, S1PTW = 0',
      '  FSC = 0x07: level 3 translation fault',
      'Data abort info:',
      '  ISV = 0, ISS = 0x00000147, ISS2 = 0x00000140',
      '  CM = 1, WnR = 1, TnD = 0, TagAccess = 0',
      '  GCS = 1, Overlay = 1, DirtyBit = 0, Xs = 0',
    ]);
  });

  test('a fetch has no data abort info', () => {
    const machine = kthread();
    raise(machine, 0x8600_0007n, K);
    expect(abortInfo(machine)).toHaveLength(5);
  });
});

describe('KASAN', () => {
  test.each<readonly [bigint, string]>([
    [0xdfff_8000_0000_0000n, 'null-ptr-deref in range [0x0000000000000000-0x0000000000000007]'],
    [0xdfff_8000_0000_0003n, 'null-ptr-deref in range [0x0000000000000018-0x000000000000001f]'],
    [0xdfff_8000_0000_0200n, 'probably user-memory-access in range [0x0000000000001000-0x0000000000001007]'],
    [0xdfff_a000_0000_0000n, 'maybe wild-memory-access in range [0x0001000000000000-0x0001000000000007]'],
    // Shadow of the linear map.
    [0xffff_6000_0000_0001n, 'probably wild-memory-access in range [0xffff000000000008-0xffff00000000000f]'],
    [0xdbff_dead_0000_0000n, ''],
  ])('%#x', (address, text) => {
    const machine = kthread(undefined, { KASAN: true });
    raise(machine, 0x9600_0004n, address);
    const line = machine.kernel.console[1];
    if (text === '') expect(line).toBe('Mem abort info:');
    else expect(line).toBe(`KASAN: ${text}`);
    expect(machine.kernel.levels[1]).toBe(KERN_ALERT);
  });

  test('is silent when it is not configured', () => {
    const machine = kthread();
    raise(machine, 0x9600_0004n, 0xdfff_8000_0000_0000n);
    expect(machine.kernel.console[1]).toBe('Mem abort info:');
  });
});

describe('show_pte', () => {
  const shown = (machine: TestMachine): string[] => {
    const { console } = machine.kernel;
    const at = console.findIndex((line) => line.startsWith('['));
    return console[at - 1]?.includes('pgtable') === true
      ? console.slice(at - 1, at + 1)
      : [console[at] ?? ''];
  };
  const hex = (value: bigint | number): string => value.toString(16).padStart(16, '0');

  test('user tables of a borrowed address space', () => {
    const machine = userTask();
    machine.here.current.mm = null;
    const entry = machine.map(USER_DATA, 0x0068_0000_0000_0fc3n);
    machine.miss(USER_DATA, ACCESS_READ);
    const lines = shown(machine);
    expect(lines[0]).toBe(`user pgtable: 4k pages, 48-bit VAs, pgdp=${hex(machine.userMm.pgd)}`);
    expect(lines[1]).toMatch(new RegExp(`, pte=${hex(0x0068_0000_0000_0fc3n | BigInt(entry))}$`));
  });

  test('a table that is no memory ends the line before it', () => {
    const machine = kthread();
    machine.set(K, 1, 0x1000_0000_8000_0403n);
    // A fetch, for what AT says of such tables would make a data abort spurious.
    raise(machine, 0x8600_0007n, K);
    expect(shown(machine)[1]).toMatch(/, pud=1000000080000403$/);
  });

  test('a block is the last value', () => {
    const machine = kthread();
    machine.set(K, 1, 0x00e8_0000_4000_0701n);
    raise(machine, 0x9600_000dn, K);
    expect(shown(machine)[1]).toMatch(/, pud=00e8000040000701$/);
  });
});

describe('die()', () => {
  test('a notifier can stop it: no registers, and the task gets SIGKILL', () => {
    const machine = kthread();
    machine.kernel.answers.notifyStop = true;
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ outcome: { kind: 'oops', signal: 9 } });
    const { console } = machine.kernel;
    expect(console.slice(-2)).toEqual([
      'Internal error: Oops: 0000000096000007 [#1]  SMP',
      '---[ end trace 0000000000000000 ]---',
    ]);
  });

  test('a notifier that stops an external abort lets the instruction be tried again', () => {
    const machine = kthread();
    machine.kernel.answers.notifyStop = true;
    expect(raise(machine, 0x9600_0010n, K)).toMatchObject({ how: 'retry' });
  });

  test('without CONFIG_SMP the line ends in a blank', () => {
    const machine = new TestMachine({ SMP: false });
    machine.miss(K, ACCESS_READ);
    expect(machine.kernel.console.find((line) => line.startsWith('Internal'))).toMatch(/ \[#1\] $/);
  });

  test('the number counts', () => {
    const machine = kthread();
    machine.map(K, PAGE_KERNEL & ~(1n << 10n));
    machine.miss(K, ACCESS_READ);
    machine.miss(K, ACCESS_READ);
    expect(machine.kernel.console.filter((line) => line.startsWith('Internal')).at(-1)).toContain('[#2]');
  });
});

test('lr is printed without its authentication code, pc as it is', () => {
  const machine = kthread();
  machine.cpu.write('x30', 0x0012_8000_8001_0040n | (1n << 55n));
  machine.miss(K, ACCESS_READ);
  expect(machine.kernel.console).toContain('lr : 0xffff800080010040');
  const low = kthread();
  low.cpu.write('x30', 0x5a7f_0000_0000_1234n);
  low.miss(K, ACCESS_READ);
  expect(low.kernel.console).toContain('lr : 0x5a00000000001234');
});
