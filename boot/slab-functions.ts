/**
 * The allocators as kernel functions that guest code can call. Sizes are chosen, except those that reports
 * of the modelled kernels print.
 */
import type { ThisCpu } from '../arch/arch.js';
import { type KfuncSizes, kfuncs } from '../bpf/kfunc.js';
import { u64 } from '../emu/address.js';
import type { Path } from '../emu/path.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import {
  __kmalloc_cache_noprof,
  __kmalloc_noprof,
  kfree,
  kmem_cache_alloc_noprof,
  kmem_cache_destroy,
  kmem_cache_free,
  krealloc_node_align_noprof,
  ksize,
  rcu_barrier,
  type Slab,
  type SlabFunctionName,
} from '../mm/slab.js';
import type { HostFunction } from './host-functions.js';

/** Argument `i` as a number of 32 bits (gfp_t) or a size. */
function number(args: readonly bigint[], i: number): number {
  return Number(args[i] ?? 0n);
}

function gfp(args: readonly bigint[], i: number): number {
  return Number(BigInt.asUintN(32, args[i] ?? 0n));
}

/** Physical address of a word of an array of pointers, which may cross pages. */
function wordAt(here: ThisCpu, va: bigint, i: number): number {
  const pa = here.mmu.peek(u64(va + BigInt(i * 8)));
  if (pa < 0 || pa % 8 !== 0) throw new GuestRefusal(`no array of pointers at 0x${va.toString(16)}`);
  return pa;
}

const SLAB_FUNCTIONS = {
  kmem_cache_alloc_noprof: 0x340,
  __kmalloc_cache_noprof: 0x360,
  __kmalloc_noprof: 0x480,
  krealloc_node_align_noprof: 0x2a0,
  kmem_cache_free: 0x3f0,
  kfree: 0x3c0,
  kmem_cache_free_bulk: 0x310,
  kmem_cache_alloc_bulk_noprof: 0x2f0,
  kmem_cache_shrink: 0x20,
  kmem_cache_destroy: 0x1a0,
  ksize: 0x60,
  rcu_barrier: 0x380,
} satisfies KfuncSizes<SlabFunctionName>;

/** struct kmem_cache *, size_t, gfp_t, … by the kernel's prototypes. Names carry no suffix in source code. */
export function slabFunctions(slab: Slab): HostFunction[] {
  const none = 0n;
  function* kmem_cache_alloc(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    return yield* kmem_cache_alloc_noprof(here, slab, slab.cacheAt(args[0] ?? 0n), gfp(args, 1));
  }
  function* kmalloc(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    return yield* __kmalloc_noprof(here, slab, number(args, 0), gfp(args, 1));
  }
  function* kmalloc_cache(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const s = slab.cacheAt(args[0] ?? 0n);
    return yield* __kmalloc_cache_noprof(here, slab, s, gfp(args, 1), number(args, 2));
  }
  function* krealloc(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const [p = 0n] = args;
    return yield* krealloc_node_align_noprof(here, slab, p, number(args, 1), number(args, 2), gfp(args, 3));
  }
  function* cacheFree(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    yield* kmem_cache_free(here, slab, slab.cacheAt(args[0] ?? 0n), args[1] ?? 0n);
    return none;
  }
  function* free(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    yield* kfree(here, slab, args[0] ?? 0n);
    return none;
  }
  function* freeBulk(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const [s = 0n, , p = 0n] = args;
    const count = number(args, 1);
    for (let i = 0; i < count; i++) {
      const object = here.ram.readU64(wordAt(here, p, i));
      if (s === 0n) yield* kfree(here, slab, object);
      else yield* kmem_cache_free(here, slab, slab.cacheAt(s), object);
    }
    return none;
  }
  function* allocBulk(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const [s = 0n, , , p = 0n] = args;
    const count = number(args, 2);
    for (let i = 0; i < count; i++) {
      const object = yield* kmem_cache_alloc_noprof(here, slab, slab.cacheAt(s), gfp(args, 1));
      here.ram.writeU64(wordAt(here, p, i), object);
    }
    return BigInt(count);
  }
  function* destroy(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    yield* kmem_cache_destroy(here, slab, slab.cacheAt(args[0] ?? 0n));
    return none;
  }
  function* barrier(here: ThisCpu): Path<bigint> {
    yield* rcu_barrier(here, slab);
    return none;
  }
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* usable(_here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    return BigInt(ksize(slab, args[0] ?? 0n));
  }
  // biome-ignore lint/correctness/useYield: no empty slab is ever given back here
  function* shrink(): Path<bigint> {
    return none;
  }
  return kfuncs(SLAB_FUNCTIONS, {
    kmem_cache_alloc_noprof: kmem_cache_alloc,
    __kmalloc_cache_noprof: kmalloc_cache,
    __kmalloc_noprof: kmalloc,
    krealloc_node_align_noprof: krealloc,
    kmem_cache_free: cacheFree,
    kfree: free,
    kmem_cache_free_bulk: freeBulk,
    kmem_cache_alloc_bulk_noprof: allocBulk,
    kmem_cache_shrink: shrink,
    kmem_cache_destroy: destroy,
    ksize: usable,
    rcu_barrier: barrier,
  });
}
