/**
 * Port of mm/kfence/core.c (bpf-next merge 8496d9020ff3): allocation, free, and the page-fault handler. The
 * rest of the file: state.ts (variables, address computations, protection), init.ts (the pool, parameters),
 * canary.ts, covered.ts.
 *
 * Left out: static keys, KCSAN and KMSAN annotations, memory cgroups, the gate where `gate` is `open`, and
 * the coverage filter where `skip_covered` is off.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE, type pt_regs } from '../../arch/kernel.js';
import { hex } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import {
  __GFP_DIRECT_RECLAIM,
  __GFP_KSWAPD_RECLAIM,
  __GFP_THISNODE,
  GFP_ZONEMASK,
  type kmem_cache,
  SLAB_CACHE_DMA,
  SLAB_CACHE_DMA32,
  SLAB_SKIP_KFENCE,
  SLAB_TYPESAFE_BY_RCU,
  slab_want_init_on_alloc,
  slab_want_init_on_free,
} from '../slab-cache.js';
import { check_canary, set_canary } from './canary.js';
import { get_alloc_stack_hash } from './covered.js';
import type { KfenceFrame } from './frames.js';
import { runTimer } from './init.js';
import {
  KFENCE_ERROR_INVALID,
  KFENCE_ERROR_INVALID_FREE,
  KFENCE_ERROR_OOB,
  KFENCE_ERROR_UAF,
  KFENCE_OBJECT_ALLOCATED,
  KFENCE_OBJECT_FREED,
  KFENCE_OBJECT_RCU_FREEING,
  KfenceError,
  type kfence_error_type,
  type kfence_metadata,
  kfence_obj_allocated,
  type kfence_object_state,
} from './kfence.js';
import { kfence_handle_fault, kfence_report_error } from './report.js';
import type { GuardedPlacement, Kfence, Placement } from './state.js';

const PAGE = BigInt(PAGE_SIZE);

/** Saves who does it, unless RCU has kept that since the free. */
function metadata_update_state(
  here: ThisCpu,
  kfence: Kfence,
  meta: kfence_metadata,
  next: kfence_object_state,
  stack_entries: readonly bigint[],
): void {
  if (meta.state !== KFENCE_OBJECT_RCU_FREEING) {
    const track = { pid: here.current.pid, cpu: here.cpu.id, ts_nsec: kfence.local_clock(), stack_entries };
    if (next === KFENCE_OBJECT_ALLOCATED) meta.alloc_track = track;
    else meta.free_track = track;
  }
  meta.state = next;
}

/** Takes the object that is asked for to the head of the freelist. */
function bringForward(kfence: Kfence, slot: number | undefined): void {
  if (slot === undefined) return;
  const list = kfence.kfence_freelist;
  const at = list.findIndex(({ index }) => index === slot);
  const meta = list[at];
  if (meta === undefined) throw new KfenceError(`kfence-#${slot} is not free: it cannot be allocated`);
  list.splice(at, 1);
  list.unshift(meta);
}

const kfence_guarded_alloc = port(
  'kfence_guarded_alloc',
  ['kfence', 'cache', 'size', 'gfp'],
  function* (
    here: ThisCpu,
    kfence: Kfence,
    cache: kmem_cache,
    size: number,
    gfp: number,
    stack_entries: readonly bigint[],
    alloc_stack_hash: number,
    placement: Placement | null,
  ): Path<bigint> {
    const { trace } = here;
    const fn = 'kfence_guarded_alloc';
    const { random, stress_test_faults } = kfence.settings;
    const wish: GuardedPlacement = placement?.kind === 'guarded' ? placement : { kind: 'guarded' };
    const drawn = random.get_random_u32_below(2) !== 0;
    const random_right_allocate = wish.side === undefined ? drawn : wish.side === 'right';
    const random_fault = stress_test_faults !== 0 && random.get_random_u32_below(stress_test_faults) === 0;

    bringForward(kfence, wish.slot);
    const meta = kfence.kfence_freelist.shift();
    if (yield* trace.decide(fn, '!meta', meta === undefined)) kfence.counters.SKIP_CAPACITY += 1;
    if (meta === undefined) return 0n;
    meta.listed = false;
    if (yield* trace.decide(fn, '!raw_spin_trylock_irqsave(&meta->lock, flags)', meta.locked)) {
      meta.listed = true;
      kfence.kfence_freelist.push(meta);
      return 0n;
    }

    meta.addr = kfence.metadata_to_pageaddr(here, meta);
    if (yield* trace.decide(fn, 'meta->state == KFENCE_OBJECT_FREED', meta.state === KFENCE_OBJECT_FREED)) {
      kfence.kfence_unprotect(here, meta.addr);
    }
    if (yield* trace.decide(fn, 'random_right_allocate', random_right_allocate)) {
      meta.addr = (meta.addr + PAGE - BigInt(size)) & ~BigInt(cache.align - 1);
    }
    const { addr } = meta;
    metadata_update_state(here, kfence, meta, KFENCE_OBJECT_ALLOCATED, stack_entries);
    meta.cache = cache;
    meta.size = size;
    meta.alloc_stack_hash = alloc_stack_hash;

    kfence.covered.alloc_covered_add(alloc_stack_hash, 1);
    set_canary(kfence, meta);
    const zero = slab_want_init_on_alloc(kfence.deps.init, gfp, cache);
    if (yield* trace.decide(fn, 'slab_want_init_on_alloc(gfp, cache)', zero)) kfence.memzero(addr, size);
    if (yield* trace.decide(fn, 'cache->ctor', cache.ctor !== null)) {
      if (cache.ctor !== null) kfence.deps.memory.ram.write(kfence.physical(addr), cache.ctor);
    }
    if (yield* trace.decide(fn, 'random_fault', random_fault)) kfence.kfence_protect(here, addr);
    kfence.counters.ALLOCATED += 1;
    kfence.counters.ALLOCS += 1;
    return addr;
  },
);

const kfence_guarded_free = port(
  'kfence_guarded_free',
  ['kfence', 'addr', 'meta', 'zombie'],
  function* (
    here: ThisCpu,
    kfence: Kfence,
    addr: bigint,
    meta: kfence_metadata,
    zombie: boolean,
    callers: readonly KfenceFrame[],
  ): Path<void> {
    const { trace } = here;
    const fn = 'kfence_guarded_free';
    const frames: readonly KfenceFrame[] = [fn, ...callers];
    meta.locked = true;
    const invalid = !kfence_obj_allocated(meta) || meta.addr !== addr;
    const test = '!kfence_obj_allocated(meta) || meta->addr != (unsigned long)addr';
    if (yield* trace.decide(fn, test, invalid)) {
      kfence.counters.BUGS += 1;
      const type = KFENCE_ERROR_INVALID_FREE;
      const fault = yield* kfence_report_error(here, kfence, addr, false, null, meta, type, frames);
      meta.locked = false;
      yield* kfence_handle_fault(here, kfence, fault);
      return;
    }

    if (kfence.settings.stress_test_faults !== 0) kfence.kfence_unprotect(here, addr);
    if (yield* trace.decide(fn, 'meta->unprotected_page', meta.unprotected_page)) {
      kfence.memzero(meta.unprotected_page & ~(PAGE - 1n), PAGE_SIZE);
      kfence.kfence_protect(here, meta.unprotected_page);
      meta.unprotected_page = 0n;
    }
    const stack_entries = kfence.stack_trace_save(here, frames);
    metadata_update_state(here, kfence, meta, KFENCE_OBJECT_FREED, stack_entries);
    const init = slab_want_init_on_free(kfence.deps.init, meta.cache);
    meta.locked = false;

    kfence.covered.alloc_covered_add(meta.alloc_stack_hash, -1);
    yield* check_canary(here, kfence, meta, frames);
    if (yield* trace.decide(fn, '!zombie && init', !zombie && init)) kfence.memzero(addr, meta.size);
    kfence.kfence_protect(here, addr);
    if (yield* trace.decide(fn, '!zombie', !zombie)) {
      if (meta.listed) throw new KfenceError(`kfence-#${meta.index} is freed, but on the freelist already`);
      meta.listed = true;
      kfence.kfence_freelist.push(meta);
      kfence.counters.ALLOCATED -= 1;
      kfence.counters.FREES += 1;
    } else kfence.counters.ZOMBIES += 1;
  },
);

const rcu_guarded_free = port(
  'rcu_guarded_free',
  ['kfence', 'meta'],
  function* (here: ThisCpu, kfence: Kfence, meta: kfence_metadata): Path<void> {
    yield* kfence_guarded_free(here, kfence, meta.addr, meta, false, [
      'rcu_guarded_free',
      'rcu_do_batch',
      'rcu_core',
    ]);
  },
);

/** rcu_barrier(), as far as KFENCE has put something off: the grace periods are over. */
export function* runRcuCallbacks(here: ThisCpu, kfence: Kfence): Path<void> {
  for (;;) {
    const meta = kfence.rcu.shift();
    if (meta === undefined) return;
    yield* rcu_guarded_free(here, kfence, meta);
  }
}

/** A cache is destroyed: what is still allocated from it becomes a zombie. */
export const kfence_shutdown_cache = port(
  'kfence_shutdown_cache',
  ['kfence', 's'],
  function* (here: ThisCpu, kfence: Kfence, s: kmem_cache): Path<void> {
    const metadata = kfence.kfence_metadata;
    if (yield* here.trace.decide('kfence_shutdown_cache', '!kfence_metadata', metadata === null)) return;
    for (const meta of metadata ?? []) {
      if (meta.cache !== s || !kfence_obj_allocated(meta)) continue;
      yield* kfence_guarded_free(here, kfence, meta.addr, meta, true, ['kfence_shutdown_cache']);
    }
    for (const meta of metadata ?? []) {
      if (meta.cache === s && meta.state === KFENCE_OBJECT_FREED) meta.cache = null;
    }
  },
);

/**
 * kfence_alloc() of include/linux/kfence.h: an object of KFENCE, or 0n for the allocator to serve itself.
 * @param size what is asked for, in bytes
 */
export function* kfence_alloc(
  here: ThisCpu,
  kfence: Kfence,
  s: kmem_cache,
  size: number,
  flags: number,
): Path<bigint> {
  // kfence_allocation_key, which is on when KFENCE was initialised.
  if (kfence.kfence_metadata === null) return 0n;
  runTimer(kfence);
  const placement = kfence.placements.shift() ?? null;
  if (placement?.kind === 'none') return 0n;
  if (placement === null && kfence.settings.gate === 'sampled' && kfence.kfence_allocation_gate > 0)
    return 0n;
  return yield* __kfence_alloc(here, kfence, s, size, flags, placement);
}

const __kfence_alloc = port(
  '__kfence_alloc',
  ['kfence', 's', 'size', 'flags'],
  function* (
    here: ThisCpu,
    kfence: Kfence,
    s: kmem_cache,
    size: number,
    flags: number,
    placement: Placement | null,
  ): Path<bigint> {
    const { trace } = here;
    const { counters, settings } = kfence;
    const fn = '__kfence_alloc';
    if (yield* trace.decide(fn, 'size > PAGE_SIZE', size > PAGE_SIZE)) {
      counters.SKIP_INCOMPAT += 1;
      return 0n;
    }
    // There is one node, so that __GFP_THISNODE asks for nothing.
    const zone = (flags & GFP_ZONEMASK) !== 0 || (s.flags & (SLAB_CACHE_DMA | SLAB_CACHE_DMA32)) !== 0;
    const thisNode = (flags & __GFP_THISNODE) !== 0 && NUM_ONLINE_NODES > 1;
    const test =
      '(flags & GFP_ZONEMASK) || ((flags & __GFP_THISNODE) && num_online_nodes() > 1) || ' +
      '(s->flags & (SLAB_CACHE_DMA | SLAB_CACHE_DMA32))';
    if (yield* trace.decide(fn, test, zone || thisNode)) {
      counters.SKIP_INCOMPAT += 1;
      return 0n;
    }
    const skip = (s.flags & SLAB_SKIP_KFENCE) !== 0;
    if (yield* trace.decide(fn, 's->flags & SLAB_SKIP_KFENCE', skip)) return 0n;
    const spins = (flags & (__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)) !== 0;
    if (yield* trace.decide(fn, '!gfpflags_allow_spinning(flags)', !spins)) return 0n;
    if (settings.gate === 'sampled' && placement === null) {
      kfence.kfence_allocation_gate += 1;
      const closed = kfence.kfence_allocation_gate > 1;
      if (yield* trace.decide(fn, 'allocation_gate > 1', closed)) return 0n;
    }
    if (yield* trace.decide(fn, '!READ_ONCE(kfence_enabled)', !kfence.kfence_enabled)) return 0n;

    const stack_entries = kfence.stack_trace_save(here, [fn]);
    const hash = get_alloc_stack_hash(stack_entries, kfence.stack_hash_seed);
    if (settings.skip_covered) {
      const thresh = Math.floor((kfence.num_objects * settings.skip_covered_thresh) / 100);
      const covered = counters.ALLOCATED > thresh && kfence.covered.alloc_covered_contains(hash);
      const coveredTest = 'should_skip_covered() && alloc_covered_contains(alloc_stack_hash)';
      if (yield* trace.decide(fn, coveredTest, covered)) {
        counters.SKIP_COVERED += 1;
        return 0n;
      }
    }
    return yield* kfence_guarded_alloc(here, kfence, s, size, flags, stack_entries, hash, placement);
  },
);

const NUM_ONLINE_NODES = 1;

/** Size that was asked for; 0 for an address that no object belongs to. A guard page answers for its left. */
export function kfence_ksize(kfence: Kfence, addr: bigint): number {
  return kfence.addr_to_metadata(addr)?.size ?? 0;
}

/** Start of the object of an address, 0n when there is none. */
export function kfence_object_start(kfence: Kfence, addr: bigint): bigint {
  return kfence.addr_to_metadata(addr)?.addr ?? 0n;
}

/**
 * kfence_free() of include/linux/kfence.h: false when the address is not KFENCE's.
 * @throws KfenceError where the kernel would run into undefined behaviour
 */
export function* kfence_free(here: ThisCpu, kfence: Kfence, addr: bigint): Path<boolean> {
  if (!kfence.is_kfence_address(addr)) return false;
  yield* __kfence_free(here, kfence, addr);
  return true;
}

const __kfence_free = port(
  '__kfence_free',
  ['kfence', 'addr'],
  function* (here: ThisCpu, kfence: Kfence, addr: bigint): Path<void> {
    const meta = kfence.addr_to_metadata(addr);
    if (meta === null) {
      throw new KfenceError(
        `__kfence_free(${hex(addr)}): no object has this page; the kernel takes a NULL pointer`,
      );
    }
    const deferred = ((meta.cache?.flags ?? 0) & SLAB_TYPESAFE_BY_RCU) !== 0;
    const test = 'meta->cache && (meta->cache->flags & SLAB_TYPESAFE_BY_RCU)';
    if (yield* here.trace.decide('__kfence_free', test, deferred)) {
      if (kfence.rcu.includes(meta)) {
        throw new KfenceError(
          `kfence-#${meta.index} waits for RCU already: a second call_rcu() corrupts the kernel's list`,
        );
      }
      if (!kfence_obj_allocated(meta)) {
        throw new KfenceError(
          `kfence-#${meta.index} of a SLAB_TYPESAFE_BY_RCU cache is free already: the kernel frees it once more, ` +
            'reading its protected page, and corrupts the freelist',
        );
      }
      const stack_entries = kfence.stack_trace_save(here, ['__kfence_free']);
      metadata_update_state(here, kfence, meta, KFENCE_OBJECT_RCU_FREEING, stack_entries);
      kfence.rcu.push(meta);
    } else yield* kfence_guarded_free(here, kfence, addr, meta, false, ['__kfence_free']);
  },
);

/** Which object an access to a guard page is reported for, and as what. */
function* blame(
  here: ThisCpu,
  kfence: Kfence,
  addr: bigint,
): Path<{ readonly to_report: kfence_metadata; readonly error_type: kfence_error_type } | null> {
  const { trace } = here;
  const fn = 'kfence_handle_page_fault';
  const page_index = Number((addr - kfence.__kfence_pool) / PAGE);
  if (!(yield* trace.decide(fn, 'page_index % 2', page_index % 2 !== 0))) {
    const meta = kfence.addr_to_metadata(addr);
    if (yield* trace.decide(fn, '!to_report', meta === null)) return null;
    return meta === null ? null : { to_report: meta, error_type: KFENCE_ERROR_UAF };
  }
  const allocated = 'meta && kfence_obj_allocated(meta)';
  const left = kfence.addr_to_metadata(addr - PAGE);
  const hasLeft = yield* trace.decide(fn, allocated, left !== null && kfence_obj_allocated(left));
  let to_report = hasLeft ? left : null;
  const distance = to_report === null ? 0n : addr - (to_report.addr + BigInt(to_report.size));
  const right = kfence.addr_to_metadata(addr + PAGE);
  const hasRight = yield* trace.decide(fn, allocated, right !== null && kfence_obj_allocated(right));
  if (hasRight && right !== null) {
    const nearer = to_report === null || distance > right.addr - addr;
    if (yield* trace.decide(fn, '!to_report || distance > data_race(meta->addr) - addr', nearer)) {
      to_report = right;
    }
  }
  if (yield* trace.decide(fn, '!to_report', to_report === null)) return null;
  return to_report === null ? null : { to_report, error_type: KFENCE_ERROR_OOB };
}

/**
 * A page that should be there does not translate: is it KFENCE's doing?
 * @param addr lowest byte of the access that does not translate
 * @returns true when the access is to be tried again
 */
export const kfence_handle_page_fault = port(
  'kfence_handle_page_fault',
  ['kfence', 'addr', 'is_write', 'regs'],
  function* (here: ThisCpu, kfence: Kfence, addr: bigint, is_write: boolean, regs: pt_regs): Path<boolean> {
    const { trace } = here;
    const fn = 'kfence_handle_page_fault';
    const ours = kfence.is_kfence_address(addr);
    if (yield* trace.decide(fn, '!is_kfence_address((void *)addr)', !ours)) return false;
    if (yield* trace.decide(fn, '!READ_ONCE(kfence_enabled)', !kfence.kfence_enabled)) {
      return kfence.kfence_unprotect(here, addr);
    }
    kfence.counters.BUGS += 1;
    const found = yield* blame(here, kfence, addr);
    const meta = found === null ? null : found.to_report;
    const error_type = found === null ? KFENCE_ERROR_INVALID : found.error_type;
    if (meta !== null) {
      meta.locked = true;
      meta.unprotected_page = error_type === KFENCE_ERROR_OOB ? addr : 0n;
    }
    const fault = yield* kfence_report_error(here, kfence, addr, is_write, regs, meta, error_type, []);
    if (meta !== null) meta.locked = false;
    yield* kfence_handle_fault(here, kfence, fault);
    return kfence.kfence_unprotect(here, addr);
  },
);
