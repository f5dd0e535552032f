import { expect, test } from '@jest/globals';
import { type pt_regs, TaskDead } from '../arch/kernel.js';
import { drain } from '../emu/path.js';
import { exit_to_user_mode_loop } from './entry-common.js';
import { testCpu } from './testing.js';

const REGS: pt_regs = { instruction_pointer: 0x400010n, stack_pointer: 0x7000n, user_mode: true };

test.each([
  ['none', null],
  ['signal', { kind: 'stopped', why: 'a signal is delivered', pc: 0x400010n }],
  ['fatal', { kind: 'signal', signo: 9, code: 0, address: 0n }],
] as const)('the way back to user mode with signal_pending %s', (signal_pending, outcome) => {
  const { here, task, log } = testCpu();
  task.signal_pending = signal_pending;
  let end: unknown = null;
  try {
    drain(exit_to_user_mode_loop(here, REGS));
  } catch (error) {
    if (!(error instanceof TaskDead)) throw error;
    end = error.outcome;
  }
  expect(end).toEqual(outcome);
  expect(log.events.filter(({ type }) => type === 'enter' || type === 'decide')).toMatchObject([
    { type: 'enter', fn: 'exit_to_user_mode_loop' },
    { fn: 'exit_to_user_mode_loop', test: 'ti_work & _TIF_SIGPENDING', value: signal_pending !== 'none' },
  ]);
});
