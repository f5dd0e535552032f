/**
 * Declarations of mm/kfence/kfence.h (bpf-next merge 8496d9020ff3): objects, their states, errors.
 *
 * Left out: obj_exts (CONFIG_MEMCG). The metadata is the host's; no page of the ram holds it.
 */
import type { kmem_cache } from '../slab-cache.js';

/** Deepest stack that is kept. */
export const KFENCE_STACK_DEPTH = 64;

/** Every 8 bytes around an object hold this, as a little-endian word at an aligned address. */
export const KFENCE_CANARY_PATTERN_U64 = 0xaaaa_aaaa_aaaa_aaaan ^ 0x0706_0504_0302_0100n;

/** The canary byte at an address. */
export function KFENCE_CANARY_PATTERN_U8(addr: bigint): number {
  return 0xaa ^ Number(addr & 7n);
}

/** enum kfence_object_state */
export const KFENCE_OBJECT_UNUSED = 0;
export const KFENCE_OBJECT_ALLOCATED = 1;
export const KFENCE_OBJECT_RCU_FREEING = 2;
export const KFENCE_OBJECT_FREED = 3;
export type kfence_object_state = 0 | 1 | 2 | 3;

/** enum kfence_error_type */
export const KFENCE_ERROR_OOB = 0;
export const KFENCE_ERROR_UAF = 1;
export const KFENCE_ERROR_CORRUPTION = 2;
export const KFENCE_ERROR_INVALID = 3;
export const KFENCE_ERROR_INVALID_FREE = 4;
export type kfence_error_type = 0 | 1 | 2 | 3 | 4;

/** enum kfence_fault: what a report leads to. `none`: there was nothing to report. */
export type kfence_fault = 'none' | 'report' | 'oops' | 'panic';

/** struct kfence_track: who allocated or freed. */
export interface kfence_track {
  readonly pid: number;
  readonly cpu: number;
  /** local_clock(), nanoseconds. */
  readonly ts_nsec: number;
  /** At most KFENCE_STACK_DEPTH, innermost first. */
  readonly stack_entries: readonly bigint[];
}

const NOBODY: kfence_track = { pid: 0, cpu: 0, ts_nsec: 0, stack_entries: [] };

/** struct kfence_metadata: one object. */
export class kfence_metadata {
  /** It is on the freelist. */
  listed = false;
  /** meta->lock is held. */
  locked = false;
  state: kfence_object_state = KFENCE_OBJECT_UNUSED;
  /** Start of the object; which page it is in never changes. */
  addr = 0n;
  size = 0;
  /** Cache of the last allocation; null before the first, and when the cache is destroyed. */
  cache: kmem_cache | null = null;
  /** Address of the out-of-bounds access for which a guard page was opened, 0n when there was none. */
  unprotected_page = 0n;
  alloc_track = NOBODY;
  free_track = NOBODY;
  alloc_stack_hash = 0;

  /** @param index its place in the array: the number in `kfence-#%td` */
  constructor(readonly index: number) {}
}

/** kfence_obj_allocated(): an object that waits for RCU counts. */
export function kfence_obj_allocated({ state }: kfence_metadata): boolean {
  return state === KFENCE_OBJECT_ALLOCATED || state === KFENCE_OBJECT_RCU_FREEING;
}

/** The port was asked to do what is undefined behaviour in the kernel. A mistake in a fixture. */
export class KfenceError extends Error {
  override name = 'KfenceError';
}
