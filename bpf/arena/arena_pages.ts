/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 3: pages of an arena are allocated, freed
 * and reserved, and the kfuncs through which programs ask for that.
 *
 * Left out: memory cgroups, flush_cache_vmap() (empty on x86-64 and arm64).
 *
 * User addresses are unsigned 64-bit; 0n is NULL.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SHIFT, PAGE_SIZE } from '../../arch/kernel.js';
import { pageOf, u64 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import { EBUSY, EINVAL, ENOMEM } from '../../kernel/errno.js';
import { raw_res_spin_unlock_irqrestore } from '../../kernel/rqspinlock.js';
import { misaligned } from '../../mm/mmap_area.js';
import { apply_to_existing_page_range, apply_to_page_range } from '../../mm/pgtable_walk.js';
import { flush_tlb_kernel_range } from '../../mm/tlb.js';
import type { BpfEnv } from '../env.js';
import { ARENA_PAGE_OWNER } from '../failures.js';
import { lockArena } from './arena_lock.js';
import {
  apply_range_clear_cb,
  type apply_range_data,
  apply_range_set_cb,
  type clear_range_data,
} from './arena_ptes.js';
import {
  BPF_MAP_TYPE_ARENA,
  type bpf_arena,
  type bpf_map,
  clear_lo32,
  compute_pgoff,
  kernelAddress,
  lo32,
  userVmSize,
} from './arena_struct.js';
import { zap_pages } from './arena_zap.js';

export const NUMA_NO_NODE = -1;

/** KMALLOC_MAX_CACHE_SIZE / sizeof(struct page *): pages that are mapped in one go. */
export const ALLOC_BATCH = (1 << (PAGE_SHIFT + 1)) / 8;

/** Pages of the user mapping; 0 while there is none. */
function pageCountMax(arena: bpf_arena): number {
  return Number(userVmSize(arena) >> BigInt(PAGE_SHIFT));
}

/** bpf_map_alloc_pages(): `count` zeroed pages, or null with none taken. */
function bpf_map_alloc_pages(here: ThisCpu, env: BpfEnv, count: number): number[] | null {
  const { pages } = env.memory;
  const taken: number[] = [];
  for (let i = 0; i < count; i++) {
    const page = pages.alloc_page(here, ARENA_PAGE_OWNER);
    if (page === null) {
      for (const other of taken) pages.free_page(here, other);
      return null;
    }
    taken.push(page);
  }
  return taken;
}

/**
 * Allocates `page_cnt` pages at `uaddr`, or anywhere when that is 0n. All or nothing; a scratch page in
 * the range makes it fail.
 * @param sleepable whether a rollback frees at once; otherwise it leaves that to the worker
 * @returns user address, 0n on any failure
 */
export const arena_alloc_pages = port(
  'arena_alloc_pages',
  ['env', 'arena', 'uaddr', 'page_cnt', 'node_id', 'sleepable'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    arena: bpf_arena,
    uaddr: bigint,
    page_cnt: number,
    node_id: number,
    sleepable: boolean,
  ): Path<bigint> {
    const { trace } = here;
    const fn = 'arena_alloc_pages';
    const page_cnt_max = pageCountMax(arena);

    const badNode = node_id !== NUMA_NO_NODE && node_id >>> 0 >= env.nr_node_ids;
    if (yield* trace.decide(fn, '(unsigned int)node_id >= nr_node_ids || !node_online(node_id)', badNode)) {
      return 0n;
    }
    if (yield* trace.decide(fn, 'page_cnt > page_cnt_max', page_cnt > page_cnt_max)) return 0n;

    let pgoff = 0;
    if (uaddr !== 0n) {
      if (yield* trace.decide(fn, 'uaddr & ~PAGE_MASK', misaligned(uaddr))) return 0n;
      pgoff = compute_pgoff(arena, lo32(uaddr));
      if (yield* trace.decide(fn, 'pgoff > page_cnt_max - page_cnt', pgoff > page_cnt_max - page_cnt)) {
        return 0n;
      }
    }

    if (yield* trace.decide(fn, '!pages', env.allocationFails('pages'))) return 0n;
    const locked = lockArena(here, env, arena);
    if ((yield* trace.decide(fn, 'raw_res_spin_lock_irqsave()', locked)) !== 0) return 0n;

    pgoff = yield* takeRange(here, arena, uaddr, pgoff, page_cnt);
    if (pgoff < 0) {
      raw_res_spin_unlock_irqrestore(here, arena.spinlock);
      return 0n;
    }

    const uaddr32 = lo32(arena.user_vm_start + BigInt(pgoff) * BigInt(PAGE_SIZE));
    const mapped = yield* mapPages(here, env, arena, uaddr32, page_cnt);
    if (mapped === page_cnt) {
      raw_res_spin_unlock_irqrestore(here, arena.spinlock);
      return clear_lo32(arena.user_vm_start) + BigInt(uaddr32);
    }

    arena.rt.range_tree_set(pgoff + mapped, page_cnt - mapped);
    raw_res_spin_unlock_irqrestore(here, arena.spinlock);
    if (mapped > 0) yield* arena_free_pages(here, env, arena, BigInt(uaddr32), mapped, sleepable);
    return 0n;
  },
);

/** Takes the range out of the free pages; its page number, or a negative errno. Needs the lock. */
function* takeRange(
  here: ThisCpu,
  arena: bpf_arena,
  uaddr: bigint,
  wanted: number,
  page_cnt: number,
): Path<number> {
  const { trace } = here;
  const fn = 'arena_alloc_pages';
  let pgoff = wanted;
  if (uaddr !== 0n) {
    const err = arena.rt.is_range_tree_set(pgoff, page_cnt);
    if ((yield* trace.decide(fn, 'is_range_tree_set(&arena->rt, pgoff, page_cnt)', err)) !== 0) return err;
  } else {
    pgoff = arena.rt.range_tree_find(page_cnt);
    yield* trace.decide(fn, 'range_tree_find(&arena->rt, page_cnt)', pgoff);
    if (pgoff < 0) return pgoff;
  }
  const err = arena.rt.range_tree_clear(pgoff, page_cnt);
  if ((yield* trace.decide(fn, 'range_tree_clear(&arena->rt, pgoff, page_cnt)', err)) !== 0) return err;
  return pgoff;
}

/** Allocates and maps in batches; how many pages are mapped when it ends. Needs the lock. */
function* mapPages(
  here: ThisCpu,
  env: BpfEnv,
  arena: bpf_arena,
  uaddr32: number,
  page_cnt: number,
): Path<number> {
  const { trace } = here;
  const { memory } = env;
  const fn = 'arena_alloc_pages';
  let mapped = 0;
  while (mapped < page_cnt) {
    const count = Math.min(page_cnt - mapped, ALLOC_BATCH);
    const pages = bpf_map_alloc_pages(here, env, count);
    const noPages = pages === null ? -ENOMEM : 0;
    yield* trace.decide(fn, 'bpf_map_alloc_pages(&arena->map, node_id, this_batch, pages)', noPages);
    if (pages === null) return mapped;

    const data: apply_range_data = { env, pages, i: 0, scratch_page: arena.scratch_page };
    const err = yield* apply_to_page_range(
      here,
      memory,
      memory.init_mm,
      kernelAddress(arena, uaddr32) + BigInt(mapped) * BigInt(PAGE_SIZE),
      count * PAGE_SIZE,
      apply_range_set_cb,
      data,
    );
    mapped += data.i;
    if ((yield* trace.decide(fn, 'apply_to_page_range(apply_range_set_cb)', err)) !== 0) {
      for (const page of pages.slice(data.i)) memory.pages.free_page(here, page);
      return mapped;
    }
  }
  return mapped;
}

/**
 * Gives a range back: pages that were allocated are freed, everything in it becomes free, a scratch page
 * in it is taken away and its address lives again. Rounds `uaddr` down and ends at the end of the mapping.
 * As in the kernel, nothing checks that the range does not begin below the start of the arena.
 */
export const arena_free_pages: (
  here: ThisCpu,
  env: BpfEnv,
  arena: bpf_arena,
  uaddr: bigint,
  page_cnt: number,
  sleepable: boolean,
) => Delegate<void> = port(
  'arena_free_pages',
  ['env', 'arena', 'uaddr', 'page_cnt', 'sleepable'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    arena: bpf_arena,
    uaddr: bigint,
    page_cnt: number,
    sleepable: boolean,
  ): Path<void> {
    const { trace } = here;
    const { memory } = env;
    const fn = 'arena_free_pages';
    const uaddr32 = lo32(pageOf(uaddr));
    const kaddr = kernelAddress(arena, uaddr32);
    const full_uaddr = clear_lo32(arena.user_vm_start) + BigInt(uaddr32);
    const wanted = u64(full_uaddr + BigInt(page_cnt) * BigInt(PAGE_SIZE));
    const uaddr_end = wanted < arena.user_vm_end ? wanted : arena.user_vm_end;
    if (yield* trace.decide(fn, 'full_uaddr >= uaddr_end', full_uaddr >= uaddr_end)) return;
    const count = Number((uaddr_end - full_uaddr) >> BigInt(PAGE_SHIFT));
    const pgoff = compute_pgoff(arena, uaddr32);

    if (yield* trace.decide(fn, '!sleepable', !sleepable)) {
      return yield* defer(here, env, arena, uaddr32, count);
    }
    const err = lockArena(here, env, arena);
    if ((yield* trace.decide(fn, 'raw_res_spin_lock_irqsave()', err)) !== 0) {
      return yield* defer(here, env, arena, uaddr32, count);
    }

    arena.rt.range_tree_set(pgoff, count);
    const cdata: clear_range_data = { env, free_pages: [], scratch_page: arena.scratch_page };
    const bytes = count * PAGE_SIZE;
    yield* apply_to_existing_page_range(
      here,
      memory,
      memory.init_mm,
      kaddr,
      bytes,
      apply_range_clear_cb,
      cdata,
    );
    raw_res_spin_unlock_irqrestore(here, arena.spinlock);

    flush_tlb_kernel_range(here, memory, kaddr, kaddr + BigInt(bytes));
    if (yield* trace.decide(fn, 'page_cnt > 1', count > 1)) {
      yield* zap_pages(here, env, arena, full_uaddr, count);
    }
    // The kernel's list is last in, first out.
    for (const page of cdata.free_pages.reverse()) {
      if (count === 1 && (yield* maybeMapped(here, env, page))) {
        yield* zap_pages(here, env, arena, full_uaddr, 1);
      }
      memory.pages.free_page(here, page);
    }
  },
);

/** A user has the page: his entry in the merge; later any reference, which a user fault has before its entry. */
function* maybeMapped(here: ThisCpu, { variant, memory }: BpfEnv, page: number): Path<boolean> {
  const { trace } = here;
  const { pages } = memory;
  const fn = 'arena_free_pages';
  return variant === 'v4'
    ? yield* trace.decide(fn, 'page_mapped(page)', pages.page_mapped(page))
    : yield* trace.decide(fn, 'page_ref_count(page) > 1', pages.page_ref_count(page) > 1);
}

/** Puts a range aside for the worker. Without memory for that its pages stay where they are until the end. */
function* defer(here: ThisCpu, env: BpfEnv, arena: bpf_arena, uaddr: number, page_cnt: number): Path<void> {
  if (yield* here.trace.decide('arena_free_pages', '!s', env.allocationFails('arena_free_span'))) return;
  arena.free_spans.unshift({ uaddr, page_cnt });
  env.work.irq_work_queue(arena);
}

/** Takes a range out of the free pages without backing it. 0, -EINVAL, -EBUSY or -ENOMEM. */
export const arena_reserve_pages = port(
  'arena_reserve_pages',
  ['env', 'arena', 'uaddr', 'page_cnt'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena, uaddr: bigint, page_cnt: number): Path<number> {
    const { trace } = here;
    const fn = 'arena_reserve_pages';
    // Not an error in the kernel modelled: a misaligned range is not reserved and nobody is told.
    if (yield* trace.decide(fn, 'uaddr & ~PAGE_MASK', misaligned(uaddr))) return 0;
    const page_cnt_max = pageCountMax(arena);
    const pgoff = compute_pgoff(arena, lo32(uaddr));
    const outside = pgoff + page_cnt > page_cnt_max;
    if (yield* trace.decide(fn, 'pgoff + page_cnt > page_cnt_max', outside)) return -EINVAL;

    const locked = lockArena(here, env, arena);
    if ((yield* trace.decide(fn, 'raw_res_spin_lock_irqsave()', locked)) !== 0) return -EBUSY;
    let ret = arena.rt.is_range_tree_set(pgoff, page_cnt);
    if ((yield* trace.decide(fn, 'is_range_tree_set(&arena->rt, pgoff, page_cnt)', ret)) !== 0) ret = -EBUSY;
    else ret = arena.rt.range_tree_clear(pgoff, page_cnt);
    raw_res_spin_unlock_irqrestore(here, arena.spinlock);
    return ret;
  },
);

function refusesAlloc(map: bpf_map, page_cnt: number, flags: bigint): boolean {
  return map.map_type !== BPF_MAP_TYPE_ARENA || flags !== 0n || page_cnt === 0;
}

function refusesFree(map: bpf_map, ptr: bigint, page_cnt: number): boolean {
  return map.map_type !== BPF_MAP_TYPE_ARENA || page_cnt === 0 || ptr === 0n;
}

function allocKfunc(fn: string, sleepable: boolean) {
  return port(
    fn,
    ['env', 'p__map', 'addr__ign', 'page_cnt', 'node_id', 'flags'],
    function* (
      here: ThisCpu,
      env: BpfEnv,
      p__map: bpf_map,
      addr__ign: bigint,
      page_cnt: number,
      node_id: number,
      flags: bigint,
    ): Path<bigint> {
      const refused = refusesAlloc(p__map, page_cnt, flags);
      yield* here.trace.decide(fn, 'map->map_type != BPF_MAP_TYPE_ARENA || flags || !page_cnt', refused);
      const { arena } = p__map;
      if (refused || arena === null) return 0n;
      return yield* arena_alloc_pages(here, env, arena, addr__ign, page_cnt, node_id, sleepable);
    },
  );
}

function freeKfunc(fn: string, sleepable: boolean) {
  return port(
    fn,
    ['env', 'p__map', 'ptr__ign', 'page_cnt'],
    function* (here: ThisCpu, env: BpfEnv, p__map: bpf_map, ptr__ign: bigint, page_cnt: number): Path<void> {
      const refused = refusesFree(p__map, ptr__ign, page_cnt);
      yield* here.trace.decide(fn, 'map->map_type != BPF_MAP_TYPE_ARENA || !page_cnt || !ptr__ign', refused);
      const { arena } = p__map;
      if (refused || arena === null) return;
      yield* arena_free_pages(here, env, arena, ptr__ign, page_cnt, sleepable);
    },
  );
}

/** kfunc: user address of `page_cnt` new pages, or 0n (NULL). `page_cnt` is a u32, `flags` must be 0n. */
export const bpf_arena_alloc_pages = allocKfunc('bpf_arena_alloc_pages', true);
/** The same where the verifier found that the program cannot sleep. */
export const bpf_arena_alloc_pages_non_sleepable = allocKfunc('bpf_arena_alloc_pages_non_sleepable', false);
/** The same for kernel code in process context. */
export const bpf_arena_alloc_pages_sleepable = allocKfunc('bpf_arena_alloc_pages_sleepable', true);

/** kfunc: frees `page_cnt` pages from user address `ptr__ign`. */
export const bpf_arena_free_pages = freeKfunc('bpf_arena_free_pages', true);
/** The same where the caller cannot sleep: the worker frees later. */
export const bpf_arena_free_pages_non_sleepable = freeKfunc('bpf_arena_free_pages_non_sleepable', false);

/** kfunc: keeps allocations out of a range. 0, -EINVAL, -EBUSY or -ENOMEM. */
export const bpf_arena_reserve_pages = port(
  'bpf_arena_reserve_pages',
  ['env', 'p__map', 'ptr__ign', 'page_cnt'],
  function* (here: ThisCpu, env: BpfEnv, p__map: bpf_map, ptr__ign: bigint, page_cnt: number): Path<number> {
    const { trace } = here;
    const fn = 'bpf_arena_reserve_pages';
    const wrongType = p__map.map_type !== BPF_MAP_TYPE_ARENA;
    yield* trace.decide(fn, 'map->map_type != BPF_MAP_TYPE_ARENA', wrongType);
    const { arena } = p__map;
    if (wrongType || arena === null) return -EINVAL;
    if (yield* trace.decide(fn, '!page_cnt', page_cnt === 0)) return 0;
    return yield* arena_reserve_pages(here, env, arena, ptr__ign, page_cnt);
  },
);
