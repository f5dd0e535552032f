/**
 * The allocators as kernel functions that guest code can call. Sizes are chosen, except those that reports
 * of the modelled kernels print.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { u64 } from '../emu/address.js';
import type { Path } from '../emu/path.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import {
  __kmalloc_noprof,
  kfree,
  kmem_cache_alloc_noprof,
  kmem_cache_destroy,
  kmem_cache_free,
  krealloc_node_align_noprof,
  ksize,
  rcu_barrier,
  type Slab,
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

/** struct kmem_cache *, size_t, gfp_t, … by the kernel's prototypes. Names carry no suffix in source code. */
export function slabFunctions(slab: Slab): HostFunction[] {
  const none = 0n;
  function* kmem_cache_alloc(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    return yield* kmem_cache_alloc_noprof(here, slab, slab.cacheAt(args[0] ?? 0n), gfp(args, 1));
  }
  function* kmalloc(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    return yield* __kmalloc_noprof(here, slab, number(args, 0), gfp(args, 1));
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
  return [
    { name: 'kmem_cache_alloc_noprof', size: 0x340, body: kmem_cache_alloc },
    { name: '__kmalloc_cache_noprof', size: 0x360, body: kmalloc_cache },
    { name: '__kmalloc_noprof', size: 0x480, body: kmalloc },
    { name: 'krealloc_node_align_noprof', size: 0x2a0, body: krealloc },
    { name: 'kmem_cache_free', size: 0x3f0, body: cacheFree },
    { name: 'kfree', size: 0x3c0, body: free },
    { name: 'kmem_cache_free_bulk', size: 0x310, body: freeBulk },
    { name: 'kmem_cache_alloc_bulk_noprof', size: 0x2f0, body: allocBulk },
    { name: 'kmem_cache_shrink', size: 0x20, body: shrink },
    { name: 'kmem_cache_destroy', size: 0x1a0, body: destroy },
    { name: 'ksize', size: 0x60, body: usable },
    { name: 'rcu_barrier', size: 0x380, body: barrier },
  ];

  /** kmalloc() of a size known when compiling: the cache, the flags and the size. */
  function* kmalloc_cache(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const size = number(args, 2);
    if (size > PAGE_SIZE * 2) throw new GuestRefusal(`no cache has objects of ${size} bytes`);
    return yield* __kmalloc_noprof(here, slab, size, gfp(args, 1));
  }
}
