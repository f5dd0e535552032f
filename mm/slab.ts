/**
 * The slab allocators as their callers see them: kmem_cache_*() and kmalloc() and its kin of mm/slub.c and
 * mm/slab_common.c (bpf-next merge 8496d9020ff3). KFENCE is asked first, at the place where the kernel asks.
 *
 * What KFENCE does not take is served from plain pages: a slab is as many objects as a page holds, the object
 * freed last is the next one. Left out: per-CPU sheaves and lists, merging, redzones, partial slabs, NUMA,
 * memory cgroups, kmalloc() of more than a page's worth in orders (it gets whole pages).
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { hex } from '../emu/address.js';
import { type Path, port } from '../emu/path.js';
import {
  kfence_alloc,
  kfence_free,
  kfence_ksize,
  kfence_shutdown_cache,
  runRcuCallbacks,
} from './kfence/core.js';
import type { Kfence } from './kfence/state.js';
import type { Memory } from './memory.js';
import {
  __GFP_ZERO,
  calculate_alignment,
  KMALLOC_SIZES,
  kmalloc_align,
  kmalloc_name,
  kmalloc_size,
  type kmem_cache,
  type SlabInit,
  slab_want_init_on_alloc,
  slab_want_init_on_free,
  ZERO_SIZE_PTR,
} from './slab-cache.js';

/** Something is freed that was never allocated, or a cache that does not exist is used. */
export class SlabError extends Error {
  override name = 'SlabError';
}

export interface CacheSpec {
  readonly name: string;
  readonly size: number;
  /** A power of two; 1 asks for nothing. */
  readonly align?: number | undefined;
  readonly flags?: number | undefined;
  readonly ctor?: Uint8Array | null | undefined;
}

/** Bytes of a struct kmem_cache; nobody looks into it. */
const KMEM_CACHE_SIZE = 256;
const SLAB_OWNER = 'slab';

/** Objects of one cache that are not KFENCE's: physical addresses. */
interface Objects {
  /** The last one is the next. */
  readonly free: number[];
  /** Those in use, and how many bytes were asked for. */
  readonly used: Map<number, number>;
}

/** Functions of the allocators that guest code can call. */
export const slabFunctionNames = [
  'kmem_cache_alloc_noprof',
  '__kmalloc_cache_noprof',
  '__kmalloc_noprof',
  'krealloc_node_align_noprof',
  'kmem_cache_free',
  'kfree',
  'kmem_cache_free_bulk',
  'kmem_cache_alloc_bulk_noprof',
  'kmem_cache_shrink',
  'kmem_cache_destroy',
  'ksize',
  'rcu_barrier',
] as const;
export type SlabFunctionName = (typeof slabFunctionNames)[number];

/** The allocators of one machine. */
export class Slab {
  readonly #objects = new Map<kmem_cache, Objects>();
  readonly #byAddress = new Map<bigint, kmem_cache>();
  readonly #byPage = new Map<number, kmem_cache>();
  /** Allocations too large for a cache: physical address and pages. */
  readonly #large = new Map<number, number>();
  /** struct kmem_cache: where the next one goes. */
  #descriptor = 0;
  #descriptorsLeft = 0;

  constructor(
    readonly memory: Memory,
    readonly kfence: Kfence,
    readonly init: SlabInit,
  ) {}

  /** A cache by its name: one that was created, or a kmalloc cache. Null when there is none. */
  cacheOf(name: string): kmem_cache | null {
    for (const cache of this.#byAddress.values()) if (cache.name === name) return cache;
    const size = KMALLOC_SIZES.find((each) => kmalloc_name(each) === name);
    return size === undefined ? null : this.#create({ name, size, align: kmalloc_align(size) });
  }

  /** The cache whose struct is at an address, as guest code names it. Throws a SlabError when there is none. */
  cacheAt(address: bigint): kmem_cache {
    const cache = this.#byAddress.get(address);
    if (cache === undefined) throw new SlabError(`there is no cache at ${hex(address)}`);
    return cache;
  }

  /** kmem_cache_create() */
  kmem_cache_create(spec: CacheSpec): kmem_cache {
    return this.#create(spec);
  }

  #create({ name, size, align = 1, flags = 0, ctor = null }: CacheSpec): kmem_cache {
    const aligned = calculate_alignment(align);
    const cache: kmem_cache = {
      name,
      object_size: size,
      size: Math.ceil(size / aligned) * aligned,
      align: aligned,
      flags,
      ctor,
      address: this.#newDescriptor(),
    };
    this.#byAddress.set(cache.address, cache);
    this.#objects.set(cache, { free: [], used: new Map() });
    return cache;
  }

  #newDescriptor(): bigint {
    if (this.#descriptorsLeft === 0) {
      this.#descriptor = this.#frames(1);
      this.#descriptorsLeft = PAGE_SIZE / KMEM_CACHE_SIZE;
    }
    const at = this.#descriptor;
    this.#descriptor += KMEM_CACHE_SIZE;
    this.#descriptorsLeft -= 1;
    return this.virtual(at);
  }

  /** Forgets a cache; its objects stay where they are. */
  forget(cache: kmem_cache): void {
    this.#byAddress.delete(cache.address);
    this.#objects.delete(cache);
  }

  /** The kmalloc cache that serves a size; null when it is too large for one. */
  kmalloc_slab(size: number): kmem_cache | null {
    const object_size = kmalloc_size(size);
    return object_size === null ? null : this.cacheOf(kmalloc_name(object_size));
  }

  /** __slab_alloc(): a plain object, zeroed or constructed as the flags and the cache ask for. */
  allocate(cache: kmem_cache, size: number, flags: number): bigint {
    const { free, used } = this.#of(cache);
    if (free.length === 0) this.#newSlab(cache, free);
    const pa = free.pop();
    if (pa === undefined) throw new SlabError(`no object of ${cache.name}`);
    used.set(pa, size);
    const { ram } = this.memory;
    if (slab_want_init_on_alloc(this.init, flags, cache)) ram.fill(pa, cache.object_size, 0);
    return this.virtual(pa);
  }

  #newSlab(cache: kmem_cache, free: number[]): void {
    const pages = Math.max(1, Math.ceil(cache.size / PAGE_SIZE));
    const start = this.#frames(pages);
    for (let i = 0; i < pages; i++) this.#byPage.set(start + i * PAGE_SIZE, cache);
    const count = Math.floor((pages * PAGE_SIZE) / cache.size);
    for (let i = count - 1; i >= 0; i--) {
      const pa = start + i * cache.size;
      if (cache.ctor !== null) this.memory.ram.write(pa, cache.ctor);
      free.push(pa);
    }
  }

  /** A kmalloc() that no cache serves: whole pages. */
  allocateLarge(size: number): bigint {
    const count = Math.ceil(size / PAGE_SIZE);
    const pa = this.#frames(count);
    this.#large.set(pa, count);
    return this.virtual(pa);
  }

  /** virt_to_slab()->slab_cache of an address; null when no slab has it. */
  virt_to_cache(addr: bigint): kmem_cache | null {
    const { kfence } = this;
    if (kfence.is_kfence_address(addr)) return kfence.addr_to_metadata(addr)?.cache ?? null;
    const pa = this.#physical(addr);
    return this.#byPage.get(pa - (pa % PAGE_SIZE)) ?? null;
  }

  /** Size of a plain object's place; 0 where there is none. */
  sizeOf(addr: bigint): number {
    const large = this.#large.get(this.#physical(addr));
    return large === undefined ? (this.virt_to_cache(addr)?.size ?? 0) : large * PAGE_SIZE;
  }

  /** Gives a plain object back. Throws a SlabError when there is none. */
  release(here: ThisCpu, addr: bigint): void {
    const pa = this.#physical(addr);
    const pages = this.#large.get(pa);
    if (pages !== undefined) {
      this.#large.delete(pa);
      for (let i = 0; i < pages; i++) this.memory.pages.free_page(here, pa + i * PAGE_SIZE);
      return;
    }
    const cache = this.virt_to_cache(addr);
    const objects = cache === null ? undefined : this.#objects.get(cache);
    if (cache === null || objects?.used.delete(pa) !== true) {
      throw new SlabError(`${hex(addr)} is freed, but no object in use begins there`);
    }
    if (slab_want_init_on_free(this.init, cache)) this.memory.ram.fill(pa, cache.object_size, 0);
    objects.free.push(pa);
  }

  /** Objects of a cache in use, those of KFENCE not among them. */
  inUse(cache: kmem_cache): number {
    return this.#objects.get(cache)?.used.size ?? 0;
  }

  virtual(pa: number): bigint {
    const { layout } = this.memory;
    return layout.directMap + BigInt(pa - layout.physBase);
  }

  #physical(addr: bigint): number {
    const { layout } = this.memory;
    return layout.physBase + Number(addr - layout.directMap);
  }

  #of(cache: kmem_cache): Objects {
    const objects = this.#objects.get(cache);
    if (objects === undefined) throw new SlabError(`cache ${cache.name} is destroyed`);
    return objects;
  }

  #frames(count: number): number {
    const pa = this.memory.pages.takeFrames(count, SLAB_OWNER);
    if (pa === null) throw new SlabError('the ram is full: no pages for a slab');
    return pa;
  }
}

/** slab_alloc_node(): `orig_size` is what was asked for. */
function* slab_alloc(
  here: ThisCpu,
  slab: Slab,
  s: kmem_cache,
  gfpflags: number,
  orig_size: number,
): Path<bigint> {
  const object = yield* kfence_alloc(here, slab.kfence, s, orig_size, gfpflags);
  return object === 0n ? slab.allocate(s, orig_size, gfpflags) : object;
}

function* slab_free(here: ThisCpu, slab: Slab, object: bigint): Path<void> {
  if (yield* kfence_free(here, slab.kfence, object)) return;
  slab.release(here, object);
}

export const kmem_cache_alloc_noprof = port(
  'kmem_cache_alloc_noprof',
  ['slab', 's', 'gfpflags'],
  function* (here: ThisCpu, slab: Slab, s: kmem_cache, gfpflags: number): Path<bigint> {
    return yield* slab_alloc(here, slab, s, gfpflags, s.object_size);
  },
);

export const __kmalloc_noprof = port(
  '__kmalloc_noprof',
  ['slab', 'size', 'flags'],
  function* (here: ThisCpu, slab: Slab, size: number, flags: number): Path<bigint> {
    if (size === 0) return ZERO_SIZE_PTR;
    const s = slab.kmalloc_slab(size);
    return s === null ? slab.allocateLarge(size) : yield* slab_alloc(here, slab, s, flags, size);
  },
);

/** kmalloc() of a size known when compiling, which names the cache itself. */
export const __kmalloc_cache_noprof = port(
  '__kmalloc_cache_noprof',
  ['slab', 's', 'gfpflags', 'size'],
  function* (here: ThisCpu, slab: Slab, s: kmem_cache, gfpflags: number, size: number): Path<bigint> {
    return yield* slab_alloc(here, slab, s, gfpflags, size);
  },
);

export const kmem_cache_free = port(
  'kmem_cache_free',
  ['slab', 's', 'x'],
  function* (here: ThisCpu, slab: Slab, _s: kmem_cache, x: bigint): Path<void> {
    yield* slab_free(here, slab, x);
  },
);

export const kfree = port(
  'kfree',
  ['slab', 'object'],
  function* (here: ThisCpu, slab: Slab, object: bigint): Path<void> {
    if (object <= ZERO_SIZE_PTR) return;
    yield* slab_free(here, slab, object);
  },
);

/** ksize(): how many bytes the object of an address may use. */
export function ksize(slab: Slab, object: bigint): number {
  if (object <= ZERO_SIZE_PTR) return 0;
  const { kfence } = slab;
  return kfence.is_kfence_address(object) ? kfence_ksize(kfence, object) : slab.sizeOf(object);
}

/** What krealloc() is a macro for: `align` is 1, and `nid` is NUMA_NO_NODE, which has no meaning here. */
export const krealloc_node_align_noprof = port(
  'krealloc_node_align_noprof',
  ['slab', 'p', 'new_size', 'align', 'flags'],
  function* (
    here: ThisCpu,
    slab: Slab,
    p: bigint,
    new_size: number,
    align: number,
    flags: number,
  ): Path<bigint> {
    const { trace } = here;
    const fn = 'krealloc_node_align_noprof';
    if (yield* trace.decide(fn, '!new_size', new_size === 0)) {
      yield* kfree(here, slab, p);
      return ZERO_SIZE_PTR;
    }
    if (p <= ZERO_SIZE_PTR) return yield* __kmalloc_noprof(here, slab, new_size, flags);
    const ks = ksize(slab, p);
    const { ram } = slab.memory;
    const tooSmall = yield* trace.decide(fn, 'new_size > ks', new_size > ks);
    const misaligned = !tooSmall && align > 1 && p % BigInt(align) !== 0n;
    if (tooSmall || (yield* trace.decide(fn, '!IS_ALIGNED((unsigned long)p, align)', misaligned))) {
      const ret = yield* __kmalloc_noprof(here, slab, new_size, flags);
      ram.write(pa(slab, ret), ram.read(pa(slab, p), ks));
      yield* kfree(here, slab, p);
      return ret;
    }
    const init = slab.init.init_on_alloc || (flags & __GFP_ZERO) !== 0;
    if (yield* trace.decide(fn, 'want_init_on_alloc(flags)', init)) {
      ram.fill(pa(slab, p) + new_size, ks - new_size, 0);
    }
    return p;
  },
);

function pa(slab: Slab, addr: bigint): number {
  const { kfence, memory } = slab;
  if (kfence.is_kfence_address(addr)) return kfence.physical(addr);
  return memory.layout.physBase + Number(addr - memory.layout.directMap);
}

/** Drops the last reference to a cache: what KFENCE has of it becomes zombies. */
export const kmem_cache_destroy = port(
  'kmem_cache_destroy',
  ['slab', 's'],
  function* (here: ThisCpu, slab: Slab, s: kmem_cache): Path<void> {
    yield* kfence_shutdown_cache(here, slab.kfence, s);
    slab.forget(s);
  },
);

export const rcu_barrier = port('rcu_barrier', ['slab'], function* (here: ThisCpu, slab: Slab): Path<void> {
  yield* runRcuCallbacks(here, slab.kfence);
});
