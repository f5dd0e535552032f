/**
 * Port of what callers see of the resilient queued spinlock: kernel/bpf/rqspinlock.c and
 * include/asm-generic/rqspinlock.h (bpf-next merge 8496d9020ff3). It never hangs: it is acquired, or the
 * attempt fails with -EDEADLK or -ETIMEDOUT.
 *
 * Left out: the queue, the table of held locks (ABBA deadlocks need a CPU that waits, and here nobody
 * waits: CPUs never run at the same time), and the interrupt state. An attempt on a lock that another CPU
 * holds comes back with -ETIMEDOUT at once, because nothing would move while it waited.
 */
import type { ThisCpu } from '../arch/arch.js';
import type { task_struct } from '../arch/kernel.js';
import { EDEADLK, ETIMEDOUT } from './errno.js';

/** A lock that is released by somebody who does not hold it: a mistake in a port. */
export class LockError extends Error {
  override name = 'LockError';
}

/** One lock. */
export class rqspinlock {
  /** Number of the CPU that holds it, or null. */
  owner: number | null = null;
  /** The task whose preempt_count the holder raised. */
  holder: task_struct | null = null;
  /** Attempts made since the start, failed ones included; for measurements and tests. */
  attempts = 0;
  #errno = 0;
  #times = 0;

  /** @param name as people would write it, e.g. `arena->spinlock` */
  constructor(readonly name: string) {}

  /** Makes the next `times` attempts fail with -errno, whoever holds the lock. 0 times takes it back. */
  failNext(errno: typeof EDEADLK | typeof ETIMEDOUT, times = 1): void {
    this.#errno = errno;
    this.#times = times;
  }

  /** Takes one of the failures asked for: a negative errno, or 0 when there is none (left). */
  takeFailure(): number {
    if (this.#times <= 0) return 0;
    this.#times -= 1;
    return -this.#errno;
  }
}

/** 0, or -EDEADLK (this CPU holds it already) or -ETIMEDOUT (another one does): then it is not acquired. */
export function raw_res_spin_lock_irqsave(here: ThisCpu, lock: rqspinlock): number {
  lock.attempts += 1;
  const injected = lock.takeFailure();
  if (injected !== 0) return injected;
  if (lock.owner !== null) return lock.owner === here.cpu.id ? -EDEADLK : -ETIMEDOUT;
  lock.owner = here.cpu.id;
  lock.holder = here.current;
  here.current.preempt_count += 1;
  return 0;
}

/** Throws a LockError when this CPU does not hold the lock. */
export function raw_res_spin_unlock_irqrestore(here: ThisCpu, lock: rqspinlock): void {
  if (lock.owner !== here.cpu.id) {
    const by = lock.owner === null ? 'nobody holds it' : `CPU ${lock.owner} holds it`;
    throw new LockError(`${lock.name} is released on CPU ${here.cpu.id}, but ${by}`);
  }
  if (lock.holder !== null) lock.holder.preempt_count -= 1;
  lock.owner = null;
  lock.holder = null;
}
