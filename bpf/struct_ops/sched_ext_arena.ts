/**
 * sched_ext's use of an arena: port of kernel/sched/ext/arena.c, and of the registration of a cid-form scheduler
 * (bpf_scx_reg_cid(), scx_set_cmask_scratch_alloc()) in kernel/sched/ext/ext.c, as the series on top of bpf-next
 * merge 8496d9020ff3 has them.
 *
 * Left out: everything else that registering a scheduler does, and references to the map.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { KERN_ERR, PAGE_SHIFT, PAGE_SIZE } from '../../arch/kernel.js';
import { u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import { EINVAL, ENOMEM } from '../../kernel/errno.js';
import {
  type gen_pool,
  gen_pool_add,
  gen_pool_alloc,
  gen_pool_create,
  gen_pool_destroy,
  gen_pool_for_each_chunk,
  gen_pool_free,
} from '../../kernel/genalloc.js';
import {
  bpf_arena_alloc_pages_sleepable,
  bpf_arena_free_pages_non_sleepable,
  NUMA_NO_NODE,
} from '../arena/arena_pages.js';
import { bpf_arena_map_kern_vm_start, type bpf_map, lo32 } from '../arena/arena_struct.js';
import type { BpfEnv } from '../env.js';
import { type CmaskLayout, cmaskSize, scx_cmask_init, storeCmask } from './sched_ext_cmask.js';
import { bpf_prog_arena, bpf_struct_ops_for_each_prog } from './struct_ops.js';

/** log2 of the pool's unit: 8 bytes. */
export const SCX_ARENA_MIN_ORDER = 3;
/** Pages by which the pool grows at the least. */
export const SCX_ARENA_GROW_PAGES = 4;

/** struct scx_sched, the fields that the arena needs. */
export class scx_sched {
  arena_pool: gen_pool | null = null;
  /** Of each possible CPU: kernel address of the cmask that set_cmask() is called with. */
  readonly set_cmask_scratch: bigint[] = [];
  constructor(readonly arena_map: bpf_map | null) {}
}

/**
 * The arena of a cid-form scheduler: bpf_scx_reg_cid() up to scx_enable().
 * @param kdata address of its table of operations
 * @returns the map, or -EINVAL with the reason on the console: none of its programs uses an arena, or they use
 *   different ones
 */
export const bpf_scx_reg_cid = port(
  'bpf_scx_reg_cid',
  ['env', 'kdata'],
  function* (here: ThisCpu, env: BpfEnv, kdata: bigint): Path<bpf_map | number> {
    const fn = 'bpf_scx_reg_cid';
    let arena: bpf_map | null = null;
    const ret = yield* bpf_struct_ops_for_each_prog(here, env, kdata, function* (cpu, prog): Path<number> {
      const used = bpf_prog_arena(prog);
      const test = 'bpf_prog_arena(prog)';
      yield* cpu.trace.decide('scx_arena_scan_prog', test, used === null ? null : used.name);
      if (used === null) return 0;
      if (arena !== null && arena !== used) return -EINVAL;
      arena = used;
      return 0;
    });
    if (
      (yield* here.trace.decide(
        fn,
        'bpf_struct_ops_for_each_prog(kdata, scx_arena_scan_prog, &scan)',
        ret,
      )) !== 0
    ) {
      here.kernel.printk(here, KERN_ERR, 'sched_ext: cid-form scheduler uses multiple arena maps');
      return ret;
    }
    const found = arena as bpf_map | null;
    if (yield* here.trace.decide(fn, '!scan.arena', found === null)) {
      here.kernel.printk(here, KERN_ERR, 'sched_ext: cid-form scheduler must use a BPF arena map');
      return -EINVAL;
    }
    return found ?? -EINVAL;
  },
);

/** 0, also without an arena, which needs no pool; -ENOMEM. */
export const scx_arena_pool_init = port(
  'scx_arena_pool_init',
  ['env', 'sch'],
  function* (here: ThisCpu, env: BpfEnv, sch: scx_sched): Path<number> {
    const fn = 'scx_arena_pool_init';
    if (yield* here.trace.decide(fn, '!sch->arena_map', sch.arena_map === null)) return 0;
    if (yield* here.trace.decide(fn, '!sch->arena_pool', env.allocationFails('gen_pool'))) return -ENOMEM;
    sch.arena_pool = gen_pool_create(SCX_ARENA_MIN_ORDER);
    return 0;
  },
);

/** Gives all of a pool back, what is still in use too, and forgets it. The pages stay with the arena. */
export const scx_arena_pool_destroy = port(
  'scx_arena_pool_destroy',
  ['sch'],
  function* (here: ThisCpu, sch: scx_sched): Path<void> {
    const pool = sch.arena_pool;
    yield* here.trace.decide('scx_arena_pool_destroy', '!sch->arena_pool', pool === null);
    if (pool === null) return;
    gen_pool_for_each_chunk(pool, ({ bits, start_addr }) => {
      const unit = 2 ** pool.min_alloc_order;
      for (let b = bits.indexOf(1); b >= 0; b = bits.indexOf(1, b)) {
        const next = bits.indexOf(0, b);
        const e = next < 0 ? bits.length : next;
        gen_pool_free(here, pool, start_addr + BigInt(b * unit), (e - b) * unit);
      }
    });
    gen_pool_destroy(here, pool);
    sch.arena_pool = null;
  },
);

/** Pages of the arena for the pool: 0, -EINVAL without arena or pool, -ENOMEM. Sleeps. */
export const scx_arena_grow = port(
  'scx_arena_grow',
  ['env', 'sch', 'page_cnt'],
  function* (here: ThisCpu, env: BpfEnv, sch: scx_sched, page_cnt: number): Path<number> {
    const fn = 'scx_arena_grow';
    const { arena_map: map, arena_pool: pool } = sch;
    yield* here.trace.decide(fn, '!sch->arena_map || !sch->arena_pool', map === null || pool === null);
    if (map === null || pool === null) return -EINVAL;
    const p = yield* bpf_arena_alloc_pages_sleepable(here, env, map, 0n, page_cnt, NUMA_NO_NODE, 0n);
    if (yield* here.trace.decide(fn, '!p', p === 0n)) return -ENOMEM;
    const ret = env.allocationFails('gen_pool_chunk') ? -ENOMEM : 0;
    if ((yield* here.trace.decide(fn, 'gen_pool_add()', ret)) !== 0) {
      yield* bpf_arena_free_pages_non_sleepable(here, env, map, p, page_cnt);
      return ret;
    }
    gen_pool_add(pool, bpf_arena_map_kern_vm_start(map) + BigInt(lo32(p)), page_cnt * PAGE_SIZE);
    return 0;
  },
);

/**
 * Kernel address of bytes of the arena, 0n when there are none. Sleeps.
 * @param size a size_t, whose pages are counted in 32 bits
 */
export const scx_arena_alloc = port(
  'scx_arena_alloc',
  ['env', 'sch', 'size'],
  function* (here: ThisCpu, env: BpfEnv, sch: scx_sched, size: bigint): Path<bigint> {
    const fn = 'scx_arena_alloc';
    const pool = sch.arena_pool;
    yield* here.trace.decide(fn, '!sch->arena_pool', pool === null);
    if (pool === null) return 0n;
    for (;;) {
      const kern_va = gen_pool_alloc(pool, Number(size));
      if (yield* here.trace.decide(fn, 'kern_va', kern_va !== 0n)) return kern_va;
      const wanted = u64(size + BigInt(PAGE_SIZE - 1)) >> BigInt(PAGE_SHIFT);
      const page_cnt = Math.max(SCX_ARENA_GROW_PAGES, Number(BigInt.asUintN(32, wanted)));
      const err = yield* scx_arena_grow(here, env, sch, page_cnt);
      if ((yield* here.trace.decide(fn, 'scx_arena_grow(sch, page_cnt)', err)) !== 0) return 0n;
    }
  },
);

/** Gives bytes back to the pool; a BUG() when they are not of it. Nothing without a pool, or for 0n. */
export function scx_arena_free(here: ThisCpu, sch: scx_sched, kern_va: bigint, size: bigint): void {
  if (sch.arena_pool !== null && kern_va !== 0n) gen_pool_free(here, sch.arena_pool, kern_va, Number(size));
}

/** Address that a program knows an arena object by: the low half of its address in the band. */
export function scx_kaddr_to_arena(sch: scx_sched, kern_va: bigint): bigint {
  if (sch.arena_map === null) return 0n;
  return BigInt.asUintN(64, kern_va - bpf_arena_map_kern_vm_start(sch.arena_map));
}

/** A cmask for each possible CPU, for all possible CPUs, initialised with base 0. 0 or -ENOMEM. */
export const scx_set_cmask_scratch_alloc = port(
  'scx_set_cmask_scratch_alloc',
  ['env', 'sch', 'layout', 'num_possible_cpus'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    sch: scx_sched,
    layout: CmaskLayout,
    num_possible_cpus: number,
  ): Path<number> {
    const fn = 'scx_set_cmask_scratch_alloc';
    const size = cmaskSize(layout, num_possible_cpus);
    if (yield* here.trace.decide(fn, '!sch->arena_pool', sch.arena_pool === null)) return 0;
    for (let cpu = 0; cpu < num_possible_cpus; cpu++) {
      const cm = yield* scx_arena_alloc(here, env, sch, BigInt(size));
      if (yield* here.trace.decide(fn, '!*slot', cm === 0n)) return -ENOMEM;
      storeCmask(here, cm, scx_cmask_init(layout, 0, num_possible_cpus));
      sch.set_cmask_scratch[cpu] = cm;
    }
    return 0;
  },
);

/** scx_set_cmask_scratch_free() */
export function scx_set_cmask_scratch_free(
  here: ThisCpu,
  sch: scx_sched,
  layout: CmaskLayout,
  num_possible_cpus: number,
): void {
  const size = cmaskSize(layout, num_possible_cpus);
  for (const kern_va of sch.set_cmask_scratch.splice(0)) scx_arena_free(here, sch, kern_va, BigInt(size));
}
