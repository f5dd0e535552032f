/** The spinlock of an arena, which may fail because somebody asked for it. */
import type { ThisCpu } from '../../arch/arch.js';
import { raw_res_spin_lock_irqsave } from '../../kernel/rqspinlock.js';
import type { BpfEnv } from '../env.js';
import type { bpf_arena } from './arena_struct.js';

/** raw_res_spin_lock_irqsave(&arena->spinlock): 0, -EDEADLK or -ETIMEDOUT. */
export function lockArena(here: ThisCpu, env: BpfEnv, arena: bpf_arena): number {
  const injected = env.failures.lockError();
  return injected === 0 ? raw_res_spin_lock_irqsave(here, arena.spinlock) : injected;
}
