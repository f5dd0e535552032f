/**
 * What a program holds, and where it must not: active_locks, active_irq_id, active_rcu_locks and active_preempt_locks of
 * struct bpf_verifier_state in kernel/bpf/verifier.c (bpf-next merge 8496d9020ff3).
 *
 * Which lock a pointer means is not followed: it is as if each came from a lookup of its own. So locks are told apart
 * by their kinds only, and the same lock taken twice is for the lock itself to find out.
 */
import { EINVAL } from '../../kernel/errno.js';
import type { KernelCall, Place } from './verifier.js';
import { constant, type Value } from './verifier-value.js';

/** enum ref_state_type, those in REF_TYPE_LOCK_MASK. */
export type LockType = 'REF_TYPE_LOCK' | 'REF_TYPE_RES_LOCK' | 'REF_TYPE_RES_LOCK_IRQ';

/** Paths that hold different things are not joined. */
export interface Held {
  /** The latest last. */
  readonly locks: readonly LockType[];
  readonly active_rcu_locks: number;
  readonly active_preempt_locks: number;
  /** The same for what is the same. */
  readonly key: string;
  /** Of all that is held. */
  readonly count: number;
}

function held(locks: readonly LockType[], active_rcu_locks: number, active_preempt_locks: number): Held {
  const key = `${locks.join()} ${active_rcu_locks} ${active_preempt_locks}`;
  const count = locks.length + active_rcu_locks + active_preempt_locks;
  return { locks, active_rcu_locks, active_preempt_locks, key, count };
}

export const NOTHING_HELD: Held = held([], 0, 0);

/** Nothing that keeps a program from sleeping is held: in_sleepable_context() of a program that can. */
export const holdsNothing = ({ count }: Held): boolean => count === 0;

/** What is held, and R0 where the call decides about it, behind a call on one of the ways it can go. */
export interface Outcome {
  readonly held: Held;
  readonly r0: Value | null;
}

const MAX_ERRNO = 4095n;
const U64 = (1n << 64n) - 1n;
/** -MAX_ERRNO to -1. */
const ERRNO: Value = [{ type: 'SCALAR_VALUE', value: { min: U64 - MAX_ERRNO + 1n, max: U64 } }];

/** kfunc_spin_allowed(), and the helper that gives the lock back. */
const ALLOWED_WITH_LOCK: ReadonlySet<string> = new Set([
  'bpf_spin_unlock',
  'bpf_res_spin_lock',
  'bpf_res_spin_unlock',
  'bpf_res_spin_lock_irqsave',
  'bpf_res_spin_unlock_irqrestore',
  'bpf_arena_alloc_pages',
  'bpf_arena_free_pages',
  'bpf_arena_reserve_pages',
  'bpf_stream_vprintk',
  'bpf_stream_print_stack',
]);

/** Throws a VerifierError for a call of the kernel that is not allowed with a lock held. */
export function checkCallWithLock(place: Place, slot: number, call: KernelCall, { locks }: Held): void {
  if (locks.length > 0 && !ALLOWED_WITH_LOCK.has(call.name)) {
    place.fail('function calls are not allowed while holding a lock', EINVAL, slot);
  }
}

/** The ways that a call of the kernel can go. Throws a VerifierError for what ends that has not begun. */
export function heldAfter(
  place: Place,
  slot: number,
  { name }: KernelCall,
  before: Held,
): readonly Outcome[] {
  const { locks, active_rcu_locks: rcu, active_preempt_locks: preempt } = before;
  const one = (after: Held): readonly Outcome[] => [{ held: after, r0: null }];
  const locked = (type: LockType): Held => held([...locks, type], rcu, preempt);
  const unlocked = (lock_str: string, type: LockType): readonly Outcome[] => {
    process_spin_unlock(place, slot, lock_str, type, locks);
    return one(held(locks.slice(0, -1), rcu, preempt));
  };
  // A lock that may fail forks: it is held where it gives 0.
  const tried = (type: LockType): readonly Outcome[] => [
    { held: locked(type), r0: constant(0n) },
    { held: before, r0: ERRNO },
  ];
  switch (name) {
    case 'bpf_spin_lock':
      return one(locked('REF_TYPE_LOCK'));
    case 'bpf_spin_unlock':
      return unlocked('bpf_spin', 'REF_TYPE_LOCK');
    case 'bpf_res_spin_lock':
      return tried('REF_TYPE_RES_LOCK');
    case 'bpf_res_spin_unlock':
      return unlocked('bpf_res_spin', 'REF_TYPE_RES_LOCK');
    case 'bpf_res_spin_lock_irqsave':
      return tried('REF_TYPE_RES_LOCK_IRQ');
    case 'bpf_res_spin_unlock_irqrestore':
      return unlocked('bpf_res_spin', 'REF_TYPE_RES_LOCK_IRQ');
    case 'bpf_rcu_read_lock':
      return one(held(locks, rcu + 1, preempt));
    case 'bpf_rcu_read_unlock':
      if (rcu === 0) place.fail(`unmatched rcu read unlock (kernel function ${name})`, EINVAL, slot);
      return one(held(locks, rcu - 1, preempt));
    case 'bpf_preempt_disable':
      return one(held(locks, rcu, preempt + 1));
    case 'bpf_preempt_enable':
      if (preempt === 0) {
        place.fail(`unmatched attempt to enable preemption (kernel function ${name})`, EINVAL, slot);
      }
      return one(held(locks, rcu, preempt - 1));
    default:
      return one(before);
  }
}

/** process_spin_lock() without PROCESS_SPIN_LOCK */
function process_spin_unlock(
  place: Place,
  slot: number,
  lock_str: string,
  type: LockType,
  locks: readonly LockType[],
): void {
  if (locks.length === 0) place.fail(`${lock_str}_unlock without taking a lock`, EINVAL, slot);
  if (!locks.includes(type)) place.fail(`${lock_str}_unlock of different lock`, EINVAL, slot);
  if (locks.at(-1) !== type) place.fail(`${lock_str}_unlock cannot be out of order`, EINVAL, slot);
}

/** check_resource_leak() where a main program ends. Throws a VerifierError. */
export function check_resource_leak(place: Place, slot: number, state: Held): void {
  const refuse = (region: string): never =>
    place.fail(`BPF_EXIT instruction in main prog cannot be used inside ${region} region`, EINVAL, slot);
  // Interrupts are off only with a lock, which is found first.
  if (state.locks.length > 0) refuse('bpf_spin_lock-ed');
  if (state.active_rcu_locks > 0) refuse('bpf_rcu_read_lock-ed');
  if (state.active_preempt_locks > 0) refuse('bpf_preempt_disable-ed');
}
