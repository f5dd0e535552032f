/**
 * Caches of equal objects: the part of struct kmem_cache that KFENCE and its callers look at, with the
 * flags of include/linux/slab.h and the sizes of mm/slab_common.c (bpf-next merge 8496d9020ff3).
 */

/** SLAB_* flags. The numbers are this file's own: nobody sees them. */
export const SLAB_TYPESAFE_BY_RCU = 0x1;
export const SLAB_SKIP_KFENCE = 0x2;
export const SLAB_CACHE_DMA = 0x4;
export const SLAB_CACHE_DMA32 = 0x8;
export const SLAB_POISON = 0x10;
export const SLAB_NO_MERGE = 0x20;
export const SLAB_ACCOUNT = 0x40;

export const SLAB_FLAGS: Readonly<Record<string, number>> = {
  SLAB_TYPESAFE_BY_RCU,
  SLAB_SKIP_KFENCE,
  SLAB_CACHE_DMA,
  SLAB_CACHE_DMA32,
  SLAB_POISON,
  SLAB_NO_MERGE,
  SLAB_ACCOUNT,
};

/** GFP bits that an allocation looks at, include/linux/gfp_types.h. */
export const __GFP_DMA = 0x1;
export const __GFP_HIGHMEM = 0x2;
export const __GFP_DMA32 = 0x4;
export const __GFP_MOVABLE = 0x8;
export const __GFP_HIGH = 0x20;
export const __GFP_IO = 0x40;
export const __GFP_FS = 0x80;
export const __GFP_ZERO = 0x100;
export const __GFP_DIRECT_RECLAIM = 0x400;
export const __GFP_KSWAPD_RECLAIM = 0x800;
export const __GFP_THISNODE = 0x20_0000;
export const GFP_ZONEMASK = __GFP_DMA | __GFP_HIGHMEM | __GFP_DMA32 | __GFP_MOVABLE;
export const GFP_KERNEL = __GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM | __GFP_IO | __GFP_FS;
export const GFP_ATOMIC = __GFP_HIGH | __GFP_KSWAPD_RECLAIM;

/** What kmalloc() of no bytes returns. */
export const ZERO_SIZE_PTR = 0x10n;

export interface kmem_cache {
  readonly name: string;
  /** What callers ask for, in bytes. */
  readonly object_size: number;
  /** Distance of two objects in bytes. */
  readonly size: number;
  /** A power of two from 8 on. */
  readonly align: number;
  readonly flags: number;
  /** Bytes that the constructor stores at the start of an object; null where there is no constructor. */
  readonly ctor: Uint8Array | null;
  /** Address of the struct: what guest code passes. */
  readonly address: bigint;
}

/** ARCH_KMALLOC_MINALIGN of x86, and of arm64 with a software TLB for DMA, as nearly all machines have. */
const ARCH_KMALLOC_MINALIGN = 8;
export const KMALLOC_MAX_CACHE_SIZE = 8192;

/** Object sizes of the kmalloc caches, ascending. */
export const KMALLOC_SIZES = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192] as const;

/** kmalloc_slab(): the object size of the cache that serves `size` bytes; null when none does. */
export function kmalloc_size(size: number): number | null {
  return KMALLOC_SIZES.find((each) => size <= each) ?? null;
}

/** `kmalloc-32`, …, `kmalloc-1k`, …: the name of the cache with objects of `size` bytes. */
export function kmalloc_name(size: number): string {
  return size < 1024 ? `kmalloc-${size}` : `kmalloc-${size / 1024}k`;
}

/** Alignment of a kmalloc cache: the largest power of two that divides its object size. */
export function kmalloc_align(size: number): number {
  return calculate_alignment(Math.max(ARCH_KMALLOC_MINALIGN, size & -size));
}

/** calculate_alignment(): at least arch_slab_minalign(), in whole words. */
export function calculate_alignment(align: number): number {
  return Math.ceil(Math.max(align, 8) / 8) * 8;
}

/** init_on_alloc and init_on_free: boot parameters, off by default. */
export interface SlabInit {
  readonly init_on_alloc: boolean;
  readonly init_on_free: boolean;
}

/** slab_want_init_on_alloc() */
export function slab_want_init_on_alloc(init: SlabInit, flags: number, c: kmem_cache): boolean {
  const zero = (flags & __GFP_ZERO) !== 0;
  if (!init.init_on_alloc) return zero;
  if (c.ctor !== null) return false;
  return (c.flags & (SLAB_TYPESAFE_BY_RCU | SLAB_POISON)) !== 0 ? zero : true;
}

/** slab_want_init_on_free() */
export function slab_want_init_on_free(init: SlabInit, c: kmem_cache | null): boolean {
  if (!init.init_on_free || c === null) return false;
  return c.ctor === null && (c.flags & (SLAB_TYPESAFE_BY_RCU | SLAB_POISON)) === 0;
}
