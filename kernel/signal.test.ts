import { expect, test } from '@jest/globals';
import { BUS_MCEERR_AR, SEGV_PKUERR, SIGBUS, SIGKILL, SIGSEGV, TaskDead } from '../arch/kernel.js';
import { force_sig, force_sig_fault, unhandled_signal } from './signal.js';
import { testCpu } from './testing.js';

/** How the task of a machine ends. */
function ended(run: () => never): unknown {
  try {
    return run();
  } catch (error) {
    if (error instanceof TaskDead) return error.outcome;
    throw error;
  }
}

test('a forced signal ends the task, with what the exception knows about it', () => {
  const { here } = testCpu();
  expect(ended(() => force_sig_fault(here, SIGBUS, BUS_MCEERR_AR, 0x7000n))).toEqual({
    kind: 'signal',
    signo: 7,
    code: 4,
    address: 0x7000n,
  });
  expect(ended(() => force_sig_fault(here, SIGSEGV, SEGV_PKUERR, 0x7000n, 3))).toEqual({
    kind: 'signal',
    signo: 11,
    code: 4,
    address: 0x7000n,
    pkey: 3,
  });
  // SI_KERNEL
  expect(ended(() => force_sig(here, SIGSEGV))).toEqual({
    kind: 'signal',
    signo: 11,
    code: 0x80,
    address: 0n,
  });
});

test('a signal that waits is delivered after it, one that kills instead of it', () => {
  const { here, task } = testCpu();
  task.signal_pending = 'signal';
  expect(ended(() => force_sig(here, SIGSEGV))).toMatchObject({ signo: SIGSEGV });
  task.signal_pending = 'fatal';
  for (const run of [
    () => force_sig(here, SIGSEGV),
    () => force_sig(here, SIGKILL),
    () => force_sig_fault(here, SIGSEGV, SEGV_PKUERR, 0x7000n, 3),
  ]) {
    expect(ended(run)).toEqual({ kind: 'signal', signo: 9, code: 0, address: 0n });
  }
});

test('of a task that dies anyway nothing is said, unless it is init', () => {
  const { task } = testCpu();
  expect(unhandled_signal(task)).toBe(true);
  expect(unhandled_signal({ ...task, signal_pending: 'signal' })).toBe(true);
  expect(unhandled_signal({ ...task, signal_pending: 'fatal' })).toBe(false);
  expect(unhandled_signal({ ...task, pid: 1, signal_pending: 'fatal' })).toBe(true);
});
