/**
 * Port of lib/genalloc.c (bpf-next merge 8496d9020ff3): an allocator of pieces of address ranges that it is
 * given, with a bitmap for each range and first fit.
 *
 * Left out: physical addresses, owners, other algorithms than gen_pool_first_fit(), device-managed pools,
 * nodes, and the lock-free bitmap updates (nobody moves in between).
 */
import type { ThisCpu } from '../arch/arch.js';
import { u64 } from '../emu/address.js';

/** The BUG()s of gen_pool_free_owner(), and where they are in it; that of gen_pool_destroy() is chosen. */
const LEAVES_ITS_CHUNK = 'lib/genalloc.c:505';
const NOT_ALLOCATED = 'lib/genalloc.c:508';
const NOT_OF_THIS_POOL = 'lib/genalloc.c:518';
const STILL_IN_USE = 'lib/genalloc.c:272';
const IN_FREE = 'gen_pool_free_owner+0xc9/0xe0';
const IN_DESTROY = 'gen_pool_destroy+0x9e/0xb0';

/** Bits of the map that are changed at once: those of an unsigned long. */
const BITS_PER_LONG = 64;

/** struct gen_pool_chunk: one range. */
export interface gen_pool_chunk {
  readonly start_addr: bigint;
  /** Last byte. */
  readonly end_addr: bigint;
  /** Free bytes. */
  avail: number;
  /** One per unit of the pool; 1 is allocated. */
  readonly bits: Uint8Array;
}

/** struct gen_pool */
export interface gen_pool {
  /** log2 of the unit in bytes. */
  readonly min_alloc_order: number;
  /** Newest first: that is where an allocation begins to look. */
  chunks: gen_pool_chunk[];
}

/** Units that `size` bytes take. */
function unitsOf(pool: gen_pool, size: number): number {
  return Math.ceil(size / 2 ** pool.min_alloc_order);
}

/** @param min_alloc_order log2 of the unit in bytes, 0 to 30 */
export function gen_pool_create(min_alloc_order: number): gen_pool {
  return { min_alloc_order, chunks: [] };
}

/** gen_pool_add(): a range for the pool. What is left over behind the last whole unit is never given out. */
export function gen_pool_add(pool: gen_pool, addr: bigint, size: number): void {
  pool.chunks.unshift({
    start_addr: addr,
    end_addr: addr + BigInt(size) - 1n,
    avail: size,
    bits: new Uint8Array(Math.floor(size / 2 ** pool.min_alloc_order)),
  });
}

/** bitmap_find_next_zero_area() from bit 0: the first of `nr` zeros in a row; the length of the map when none. */
function firstFit(map: Uint8Array, nr: number): number {
  let start = 0;
  for (let i = 0; start + nr <= map.length; i++) {
    if (i === start + nr) return start;
    if (map[i] !== 0) start = i + 1;
  }
  return map.length;
}

/** Address of `size` bytes, rounded up to whole units; 0n when no range has them in a row, or `size` is 0. */
export function gen_pool_alloc(pool: gen_pool, size: number): bigint {
  if (size === 0) return 0n;
  const nbits = unitsOf(pool, size);
  for (const chunk of pool.chunks) {
    if (size > chunk.avail) continue;
    const start_bit = firstFit(chunk.bits, nbits);
    if (start_bit >= chunk.bits.length) continue;
    chunk.bits.fill(1, start_bit, start_bit + nbits);
    chunk.avail -= nbits * 2 ** pool.min_alloc_order;
    return chunk.start_addr + BigInt(start_bit * 2 ** pool.min_alloc_order);
  }
  return 0n;
}

/** bitmap_clear_ll(): 0, or how many bits are left at the first word in which one of them is clear already. */
function bitmap_clear_ll(map: Uint8Array, start: number, nr: number): number {
  const end = start + nr;
  for (let at = start; at < end; ) {
    const next = Math.min((Math.floor(at / BITS_PER_LONG) + 1) * BITS_PER_LONG, end);
    if (next > map.length || map.subarray(at, next).includes(0)) return end - at;
    map.fill(0, at, next);
    at = next;
  }
  return 0;
}

/** gen_pool_free_owner(): gives bytes back. A BUG() when they are not of this pool, or not allocated. */
export function gen_pool_free(here: ThisCpu, pool: gen_pool, addr: bigint, size: number): void {
  const chunk = pool.chunks.find(({ start_addr, end_addr }) => addr >= start_addr && addr <= end_addr);
  if (chunk === undefined) here.arch.die_bug(here, NOT_OF_THIS_POOL, IN_FREE);
  if (u64(addr + BigInt(size) - 1n) > chunk.end_addr) here.arch.die_bug(here, LEAVES_ITS_CHUNK, IN_FREE);
  const start_bit = Number((addr - chunk.start_addr) >> BigInt(pool.min_alloc_order));
  const nbits = unitsOf(pool, size);
  const remain = bitmap_clear_ll(chunk.bits, start_bit, nbits);
  if (remain !== 0) here.arch.die_bug(here, NOT_ALLOCATED, IN_FREE);
  chunk.avail += nbits * 2 ** pool.min_alloc_order;
}

/** gen_pool_for_each_chunk() */
export function gen_pool_for_each_chunk(pool: gen_pool, func: (chunk: gen_pool_chunk) => void): void {
  for (const chunk of pool.chunks) func(chunk);
}

/** Forgets the ranges. A BUG() when something is still allocated. */
export function gen_pool_destroy(here: ThisCpu, pool: gen_pool): void {
  for (const { bits } of pool.chunks) {
    if (bits.includes(1)) here.arch.die_bug(here, STILL_IN_USE, IN_DESTROY);
  }
  pool.chunks = [];
}
