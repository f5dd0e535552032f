/**
 * struct mutex (kernel/locking/mutex.c), as far as anybody can see it here: CPUs never run at the same
 * time, so a mutex that is held when somebody wants it would never be given back. That is a mistake in
 * the order in which CPUs were told to act, and is said to be one.
 */
import type { ThisCpu } from '../arch/arch.js';
import { LockError } from './rqspinlock.js';

export class mutex {
  /** Number of the CPU that holds it, or null. */
  owner: number | null = null;

  /** @param name as people would write it, e.g. `arena->lock` */
  constructor(readonly name: string) {}
}

/** Throws a LockError when the mutex is held. */
export function mutex_lock(here: ThisCpu, lock: mutex): void {
  if (lock.owner !== null) {
    throw new LockError(
      `CPU ${here.cpu.id} would wait for ever for ${lock.name}, which CPU ${lock.owner} holds`,
    );
  }
  lock.owner = here.cpu.id;
}

/** Throws a LockError when this CPU does not hold the mutex. */
export function mutex_unlock(here: ThisCpu, lock: mutex): void {
  if (lock.owner !== here.cpu.id)
    throw new LockError(`${lock.name} is released by CPU ${here.cpu.id}, which does not hold it`);
  lock.owner = null;
}
