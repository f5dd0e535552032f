import { expect, test } from '@jest/globals';
import { TaskDead } from '../kernel.js';
import { die_bug } from './kernel-bug.js';
import { HOLE, TEXT, type TestMachine, testMachine } from './testing.js';

const END = '---[ end trace 0000000000000000 ]---';

function bug(machine: TestMachine): string[] {
  machine.log.events.length = 0;
  expect(() => die_bug(machine.here, 'mm/slub.c:1', 'kfree+0x10/0x20')).toThrow(TaskDead);
  return machine.console();
}

test('a BUG() before any oops: the summary is all that is known of its registers', () => {
  const machine = testMachine();
  expect(bug(machine)).toEqual([
    '------------[ cut here ]------------',
    'kernel BUG at mm/slub.c:1!',
    'Oops: invalid opcode: 0000 [#1] SMP NOPTI',
    'CPU: 0 UID: 0 PID: 100 Comm: t Not tainted ',
    'RIP: 0010:kfree+0x10/0x20',
    'Modules linked in:',
    END,
    'RIP: 0010:kfree+0x10/0x20',
  ]);
});

/** What an oops or a BUG() prints behind its end marker. */
function summary(lines: readonly string[]): readonly string[] {
  return lines.slice(lines.indexOf(END) + 1);
}

function oops(machine: TestMachine): string[] {
  machine.log.events.length = 0;
  machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3], 0x10);
  machine.set({ rip: TEXT + 0x100n, rdi: HOLE });
  machine.miss(HOLE, 'write');
  return machine.console();
}

test('an oops behind a BUG() ends with the summary of the BUG()', () => {
  const machine = testMachine();
  bug(machine);
  expect(summary(oops(machine))).toEqual([
    'RIP: 0010:kfree+0x10/0x20',
    'note: t[100] exited with irqs disabled',
  ]);
});

test('a BUG() behind an oops ends with the registers of the oops', () => {
  const machine = testMachine();
  const first = summary(oops(machine)).slice(0, -1);
  expect(first).toHaveLength(11);
  const second = bug(machine);
  expect(second).toContain('Oops: invalid opcode: 0000 [#2] SMP NOPTI');
  expect(summary(second)).toEqual(first);
});
