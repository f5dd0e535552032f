/**
 * Port of what callers see of the resilient queued spinlock: kernel/bpf/rqspinlock.c and
 * include/asm-generic/rqspinlock.h (bpf-next merge 8496d9020ff3). It never hangs: it is acquired, or the
 * attempt fails with -EDEADLK or -ETIMEDOUT.
 *
 * Left out: the queue and the search for ABBA deadlocks (they need a CPU that waits, and here nobody waits:
 * CPUs never run at the same time), and the interrupt state. An attempt on a lock that another CPU holds comes
 * back with -ETIMEDOUT at once, because nothing would move while it waited.
 *
 * Locks of ported code are objects; those of programs are words of ram, and only they are in the table of held
 * locks.
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

  /** @param name as people would write it, e.g. `arena->spinlock` */
  constructor(readonly name: string) {}
}

/** 0, or -EDEADLK (this CPU holds it already) or -ETIMEDOUT (another one does): then it is not acquired. */
export function raw_res_spin_lock_irqsave(here: ThisCpu, lock: rqspinlock): number {
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

/** Locks that the table of a CPU remembers; those beyond are counted. */
export const RES_NR_HELD = 31;

/** struct rqspinlock_held: what one CPU holds, or tries to take. */
export interface rqspinlock_held {
  cnt: number;
  /** Addresses, oldest first; 0n is NULL. */
  readonly locks: bigint[];
}

/** rqspinlock_held_locks: the tables of all CPUs. */
export class HeldLocks {
  readonly #tables = new Map<number, rqspinlock_held>();

  of(cpu: number): rqspinlock_held {
    let table = this.#tables.get(cpu);
    if (table === undefined) {
      table = { cnt: 0, locks: new Array<bigint>(RES_NR_HELD).fill(0n) };
      this.#tables.set(cpu, table);
    }
    return table;
  }
}

/** grab_held_lock_entry() */
function grab_held_lock_entry(rqh: rqspinlock_held, lock: bigint): void {
  rqh.cnt += 1;
  if (rqh.cnt <= RES_NR_HELD) rqh.locks[rqh.cnt - 1] = lock;
}

/** release_held_lock_entry() */
function release_held_lock_entry(rqh: rqspinlock_held): void {
  if (rqh.cnt <= RES_NR_HELD) rqh.locks[rqh.cnt - 1] = 0n;
  rqh.cnt -= 1;
}

/** check_deadlock_AA(): whether a lock is held already; the latest entry is the attempt itself. */
function check_deadlock_AA(rqh: rqspinlock_held, lock: bigint): boolean {
  const cnt = Math.min(RES_NR_HELD, rqh.cnt);
  return rqh.locks.slice(0, Math.max(cnt - 1, 0)).includes(lock);
}

/**
 * res_spin_lock() of a lock in ram.
 * @param lock its address, by which tables and reports know it
 * @param pa where its word of 32 bits is: 0 is free, 1 is locked
 * @returns 0, -EDEADLK when this CPU holds it, -ETIMEDOUT when it is taken otherwise
 */
export function res_spin_lock(here: ThisCpu, held: HeldLocks, lock: bigint, pa: number): number {
  const { ram } = here;
  const index = (pa - ram.base) / 4;
  const rqh = held.of(here.cpu.id);
  grab_held_lock_entry(rqh, lock);
  if (ram.words32[index] === 0) {
    ram.words32[index] = 1;
    return 0;
  }
  const err = check_deadlock_AA(rqh, lock) ? -EDEADLK : -ETIMEDOUT;
  release_held_lock_entry(rqh);
  return err;
}

/**
 * res_spin_unlock(): takes the latest entry out of the table, whichever lock it is, and frees the word. Throws a
 * LockError when this CPU holds nothing.
 */
export function res_spin_unlock(here: ThisCpu, held: HeldLocks, lock: bigint, pa: number): void {
  const rqh = held.of(here.cpu.id);
  if (rqh.cnt === 0)
    throw new LockError(
      `the lock at 0x${lock.toString(16)} is released on CPU ${here.cpu.id}, which holds none`,
    );
  // Only the byte `locked` is written.
  here.ram.bytes[pa - here.ram.base] = 0;
  release_held_lock_entry(rqh);
}
