/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 3b: freeing that is put off, because the
 * caller must not sleep or could not get the lock.
 *
 * Nothing runs by itself: arena_free_pages() queues the irq_work, the irq_work queues the worker, and the
 * machine says when each of them runs (run_irq_work, run_workqueue). Left out: memory cgroups.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { type Path, port } from '../../emu/path.js';
import { raw_res_spin_unlock_irqrestore } from '../../kernel/rqspinlock.js';
import { apply_to_existing_page_range } from '../../mm/pgtable_walk.js';
import { flush_tlb_kernel_range } from '../../mm/tlb.js';
import type { BpfEnv } from '../env.js';
import { lockArena } from './arena_lock.js';
import { apply_range_clear_cb, type clear_range_data } from './arena_ptes.js';
import { type bpf_arena, clear_lo32, compute_pgoff, kernelAddress } from './arena_struct.js';
import { zap_pages } from './arena_zap.js';

/** irq_work and work items of arenas that wait to run, in the order in which they were queued. */
export class ArenaWork {
  irq: bpf_arena[] = [];
  work: bpf_arena[] = [];

  /** irq_work_queue(&arena->free_irq): once is enough. */
  irq_work_queue(arena: bpf_arena): void {
    if (!this.irq.includes(arena)) this.irq.push(arena);
  }

  /** schedule_work(&arena->free_work) */
  schedule_work(arena: bpf_arena): void {
    if (!this.work.includes(arena)) this.work.push(arena);
  }

  /** A freed arena runs no more. True when something of it has waited. */
  forget(arena: bpf_arena): boolean {
    const waited = this.irq.includes(arena) || this.work.includes(arena);
    this.irq = this.irq.filter((other) => other !== arena);
    this.work = this.work.filter((other) => other !== arena);
    return waited;
  }

  /** True when something waits. */
  get pending(): boolean {
    return this.irq.length > 0 || this.work.length > 0;
  }
}

/** The kernel would go on with memory that it has freed: nothing that happens then can be foretold. */
export class UseAfterFree extends Error {
  override name = 'UseAfterFree';
}

/** Handler of free_irq: the worker may do what hard interrupt context may not. */
export function arena_free_irq(env: BpfEnv, arena: bpf_arena): void {
  env.work.schedule_work(arena);
}

/** Runs every irq_work that is queued now. */
export function run_irq_work(env: BpfEnv): void {
  const queued = env.work.irq;
  env.work.irq = [];
  for (const arena of queued) arena_free_irq(env, arena);
}

/** Runs every worker that is queued now; one that queues itself again waits for the next call. */
export function* run_workqueue(here: ThisCpu, env: BpfEnv): Path<void> {
  const queued = env.work.work;
  env.work.work = [];
  for (const arena of queued) {
    yield* env.calls.during(arena.map, 'arena_free_worker', () => arena_free_worker(here, env, arena));
  }
}

/**
 * irq_work_sync() and flush_work() of one arena: what is queued has run when this returns. A worker that has queued
 * itself again, because it did not get the lock, is not waited for once more.
 */
export function* flush_arena_work(here: ThisCpu, env: BpfEnv, arena: bpf_arena): Path<void> {
  const { work } = env;
  if (work.irq.includes(arena)) {
    work.irq = work.irq.filter((other) => other !== arena);
    arena_free_irq(env, arena);
  }
  if (work.work.includes(arena)) {
    work.work = work.work.filter((other) => other !== arena);
    yield* arena_free_worker(here, env, arena);
  }
}

/** Frees all spans that wait. Without the lock it queues itself again and does nothing. */
export const arena_free_worker = port(
  'arena_free_worker',
  ['env', 'arena'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena): Path<void> {
    const { memory } = env;
    const err = lockArena(here, env, arena);
    if ((yield* here.trace.decide('arena_free_worker', 'raw_res_spin_lock_irqsave()', err)) !== 0) {
      env.work.schedule_work(arena);
      return;
    }
    const spans = arena.free_spans;
    arena.free_spans = [];
    const cdata: clear_range_data = { env, free_pages: [], scratch_page: arena.scratch_page };
    for (const { uaddr, page_cnt } of spans) {
      yield* apply_to_existing_page_range(
        here,
        memory,
        memory.init_mm,
        kernelAddress(arena, uaddr),
        page_cnt * PAGE_SIZE,
        apply_range_clear_cb,
        cdata,
      );
      arena.rt.range_tree_set(compute_pgoff(arena, uaddr), page_cnt);
    }
    raw_res_spin_unlock_irqrestore(here, arena.spinlock);

    for (const { uaddr, page_cnt } of spans) {
      const kaddr = kernelAddress(arena, uaddr);
      flush_tlb_kernel_range(here, memory, kaddr, kaddr + BigInt(page_cnt * PAGE_SIZE));
      yield* zap_pages(here, env, arena, clear_lo32(arena.user_vm_start) + BigInt(uaddr), page_cnt);
    }
    for (const page of cdata.free_pages.reverse()) memory.pages.free_page(here, page);
  },
);
