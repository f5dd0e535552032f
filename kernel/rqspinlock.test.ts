import { describe, expect, test } from '@jest/globals';
import { EDEADLK, ETIMEDOUT } from './errno.js';
import {
  LockError,
  raw_res_spin_lock_irqsave,
  raw_res_spin_unlock_irqrestore,
  rqspinlock,
} from './rqspinlock.js';
import { testCpu } from './testing.js';

describe('rqspinlock', () => {
  test('is refused to its holder as a deadlock, and to another CPU by timeout', () => {
    const [a, b] = [testCpu({ id: 0 }).here, testCpu({ id: 1 }).here];
    const lock = new rqspinlock('arena->spinlock');
    expect(raw_res_spin_lock_irqsave(a, lock)).toBe(0);
    expect(raw_res_spin_lock_irqsave(a, lock)).toBe(-EDEADLK);
    expect(raw_res_spin_lock_irqsave(b, lock)).toBe(-ETIMEDOUT);
    raw_res_spin_unlock_irqrestore(a, lock);
    expect(raw_res_spin_lock_irqsave(b, lock)).toBe(0);
  });

  test('makes its holder atomic; a refused attempt changes nothing', () => {
    const { here } = testCpu();
    const lock = new rqspinlock('arena->spinlock');
    raw_res_spin_lock_irqsave(here, lock);
    raw_res_spin_lock_irqsave(here, lock);
    expect(here.current.preempt_count).toBe(1);
    raw_res_spin_unlock_irqrestore(here, lock);
    expect(here.current.preempt_count).toBe(0);
  });

  test('refuses to be released by somebody who does not hold it', () => {
    const { here } = testCpu({ id: 1 });
    const lock = new rqspinlock('arena->spinlock');
    expect(() => raw_res_spin_unlock_irqrestore(here, lock)).toThrow(LockError);
    expect(() => raw_res_spin_unlock_irqrestore(here, lock)).toThrow(
      'arena->spinlock is released on CPU 1, but nobody holds it',
    );
  });
});
