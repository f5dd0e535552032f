/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 1: struct bpf_arena and address arithmetic.
 * Part 1b is arena.ts (creation and destruction), part 2 arena_ptes.ts (page-table callbacks), part 3
 * arena_pages.ts (allocating, freeing, reserving), part 4 arena_fault.ts (the fault handler), part 5
 * arena_mmap.ts (user mappings), part 6 arena_zap.ts.
 */
import { PAGE_SHIFT, PAGE_SIZE, type vm_area_struct } from '../../arch/kernel.js';
import { u64 } from '../../emu/address.js';
import { mutex } from '../../kernel/mutex.js';
import { rqspinlock } from '../../kernel/rqspinlock.js';
import type { vm_struct } from '../../mm/vmalloc.js';
import type { BpfEnv } from '../env.js';
import type { scratch_data } from './arena_ptes.js';
import { range_tree } from './range_tree.js';

export const BPF_MAP_TYPE_ARENA = 33;

export const BPF_F_MMAPABLE = 1 << 10;
export const BPF_F_SEGV_ON_FAULT = 1 << 17;
export const BPF_F_NO_USER_CONV = 1 << 18;

export const SZ_4G = 0x1_0000_0000;
/** round_up(1 << 16, 2 * PAGE_SIZE): what the 16-bit offset of an instruction can reach, both ways. */
export const GUARD_SZ = Math.ceil((1 << 16) / (2 * PAGE_SIZE)) * 2 * PAGE_SIZE;
export const KERN_VM_SZ = SZ_4G + GUARD_SZ;
/** Bytes from kern_vm_start in which an access is recovered: the band and the upper half-guard. */
export const RECOVERY_SZ = SZ_4G + GUARD_SZ / 2;

/** struct bpf_map, the part that every map type has. */
export interface bpf_map {
  readonly map_type: number;
  readonly key_size: number;
  readonly value_size: number;
  readonly max_entries: number;
  readonly map_flags: number;
  readonly map_extra: bigint;
  readonly name: string;
  /** BPF_MAP_FREEZE has been here. */
  readonly frozen?: boolean;
  /** container_of(map, struct bpf_arena, map); null for a map of another type. */
  readonly arena: bpf_arena | null;
}

/** A user mapping of an arena: struct vma_list. */
export interface vma_list {
  readonly vma: vm_area_struct;
  mmap_count: number;
  /** The latest zap_pages() that has seen it; L1 only. */
  zap_gen: number;
}

/** A range whose freeing is put off: struct arena_free_span. */
export interface arena_free_span {
  /** Low 32 bits of the user address, page aligned. */
  readonly uaddr: number;
  readonly page_cnt: number;
}

/** struct bpf_arena */
export class bpf_arena {
  readonly map: bpf_map;
  /** Start and end (exclusive) of the user mapping; 0 until they are known, never reset. */
  user_vm_start: bigint;
  user_vm_end: bigint;
  readonly kern_vm: vm_struct;
  /** Physical address of the page that backs addresses nobody allocated. */
  readonly scratch_page: number;
  /** The same for the fault handler. */
  readonly scratch: scratch_data;
  readonly rt: range_tree;
  /** Protects `rt` and orders the writers of page-table entries, but not the installer of scratch pages. */
  readonly spinlock: rqspinlock;
  /** Newest first. */
  vma_list: vma_list[] = [];
  /** Protects `vma_list`, `user_vm_start` and `user_vm_end`. */
  readonly lock = new mutex('arena->lock');
  /** L1 only: how many zap_pages() there have been, and who is in it. */
  zap_gen = 0;
  readonly zap_mutex = new mutex('arena->zap_mutex');
  /** Newest first, as the kernel's lock-free list is. */
  free_spans: arena_free_span[] = [];

  /** bpf_arena_get_kern_vm_start(): kernel address that stands for offset 0 of the 4 GiB band. */
  readonly kern_vm_start: bigint;
  /** First address behind the window in which the fault handler recovers. */
  readonly recovery_end: bigint;

  /** @param scratch_page physical address of a zeroed page */
  constructor(env: BpfEnv, kern_vm: vm_struct, scratch_page: number, attr: MapAttr) {
    const { pgtable } = env.memory;
    this.kern_vm = kern_vm;
    this.scratch_page = scratch_page;
    this.scratch = { env, pte: pgtable.mk_pte(scratch_page, pgtable.PAGE_KERNEL) };
    this.rt = new range_tree(() => !env.allocationFails('range_node'));
    this.spinlock = new rqspinlock('arena->spinlock');
    this.user_vm_start = attr.map_extra;
    const bytes = BigInt(attr.max_entries * PAGE_SIZE);
    this.user_vm_end = attr.map_extra === 0n ? 0n : u64(attr.map_extra + bytes);
    this.kern_vm_start = kern_vm.addr + BigInt(GUARD_SZ / 2);
    this.recovery_end = this.kern_vm_start + BigInt(RECOVERY_SZ);
    this.map = {
      map_type: BPF_MAP_TYPE_ARENA,
      key_size: attr.key_size,
      value_size: attr.value_size,
      max_entries: attr.max_entries,
      map_flags: attr.map_flags,
      map_extra: attr.map_extra,
      name: attr.name,
      arena: this,
    };
  }
}

/** What BPF_MAP_CREATE is given (union bpf_attr), as far as an arena looks at it. */
export interface MapAttr {
  readonly key_size: number;
  readonly value_size: number;
  /** u32 */
  readonly max_entries: number;
  /** u32 */
  readonly map_flags: number;
  /** u64 */
  readonly map_extra: bigint;
  readonly name: string;
  /** Address of the vmalloc area, for whoever needs a certain one; the kernel takes what it finds. */
  readonly kern_vm_at?: bigint | undefined;
}

/** `value` with its low 32 bits cleared. */
export function clear_lo32(value: bigint): bigint {
  return BigInt.asUintN(64, value & 0xffff_ffff_0000_0000n);
}

/** The low 32 bits of an address, as a number. */
export function lo32(value: bigint): number {
  return Number(value & 0xffff_ffffn);
}

/** u64 bpf_arena_get_kern_vm_start(struct bpf_arena *) */
export function bpf_arena_get_kern_vm_start(arena: bpf_arena | null): bigint {
  return arena === null ? 0n : arena.kern_vm_start;
}

/** u64 bpf_arena_get_user_vm_start(struct bpf_arena *) */
export function bpf_arena_get_user_vm_start(arena: bpf_arena | null): bigint {
  return arena === null ? 0n : arena.user_vm_start;
}

/** u64 bpf_arena_map_kern_vm_start(struct bpf_map *): of a map that is an arena. */
export function bpf_arena_map_kern_vm_start(map: bpf_map): bigint {
  return bpf_arena_get_kern_vm_start(map.arena);
}

/** Page number of a user address; takes whole addresses and low halves. Wraps below the start. */
export function compute_pgoff(arena: bpf_arena, uaddr: number): number {
  return ((uaddr - lo32(arena.user_vm_start)) >>> 0) >>> PAGE_SHIFT;
}

/** Kernel address of a user address: the band is indexed by its low 32 bits, not by its page number. */
export function kernelAddress(arena: bpf_arena, uaddr32: number): bigint {
  return arena.kern_vm_start + BigInt(uaddr32);
}

/** Bytes between user_vm_start and user_vm_end, 0 while there is no mapping; user_vm_end may have wrapped to 0. */
export function userVmSize({ user_vm_start, user_vm_end }: bpf_arena): bigint {
  return u64(user_vm_end - user_vm_start);
}
