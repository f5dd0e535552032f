/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 1: struct bpf_arena, address arithmetic,
 * creation and destruction. Part 2 is arena_ptes.ts (page-table callbacks), part 3 arena_pages.ts
 * (allocating, freeing, reserving), part 4 arena_fault.ts (the fault handler).
 *
 * Left out: memory cgroups, BTF checks, user mappings (mmap, get_unmapped_area and the user fault; the
 * list of mappings is here so that freeing can zap them).
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SHIFT, PAGE_SIZE, type vm_area_struct } from '../arch/kernel.js';
import { u64 } from '../emu/address.js';
import { type Path, port } from '../emu/path.js';
import { E2BIG, EINVAL, ENOMEM, EOPNOTSUPP, ERANGE } from '../kernel/errno.js';
import { rqspinlock } from '../kernel/rqspinlock.js';
import { apply_to_existing_page_range, populate_kernel_tables } from '../mm/pgtable_walk.js';
import { free_vm_area, get_vm_area, VM_SPARSE, VM_USERMAP, type vm_struct } from '../mm/vmalloc.js';
import { existing_page_cb, type scratch_data } from './arena_ptes.js';
import { flush_arena_work } from './arena_work.js';
import type { BpfEnv } from './env.js';
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
  /** container_of(map, struct bpf_arena, map); null for a map of another type. */
  readonly arena: bpf_arena | null;
}

/** A user mapping of an arena: struct vma_list. */
export interface vma_list {
  readonly vma: vm_area_struct;
  mmap_count: number;
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
  vma_list: vma_list[] = [];
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

const ALLOWED_FLAGS = BPF_F_SEGV_ON_FAULT | BPF_F_MMAPABLE | BPF_F_NO_USER_CONV;

/** Makes an arena, or a negative errno: -EOPNOTSUPP, -EINVAL, -E2BIG, -ERANGE, -ENOMEM. */
export const arena_map_alloc = port(
  'arena_map_alloc',
  ['env', 'attr'],
  function* (here: ThisCpu, env: BpfEnv, attr: MapAttr): Path<bpf_map | number> {
    const { trace } = here;
    const fn = 'arena_map_alloc';
    const vm_range = attr.max_entries * PAGE_SIZE;

    if (yield* trace.decide(fn, '!bpf_jit_supports_arena()', !env.jit_supports_arena)) return -EOPNOTSUPP;

    const badAttr =
      attr.key_size !== 0 ||
      attr.value_size !== 0 ||
      attr.max_entries === 0 ||
      (attr.map_flags & BPF_F_MMAPABLE) === 0 ||
      (attr.map_flags & ~ALLOWED_FLAGS) !== 0;
    if (
      yield* trace.decide(
        fn,
        'attr->key_size || attr->value_size || !attr->max_entries || map_flags',
        badAttr,
      )
    ) {
      return -EINVAL;
    }

    const misaligned = (attr.map_extra & BigInt(PAGE_SIZE - 1)) !== 0n;
    if (yield* trace.decide(fn, 'attr->map_extra & ~PAGE_MASK', misaligned)) return -EINVAL;

    if (yield* trace.decide(fn, 'vm_range > SZ_4G', vm_range > SZ_4G)) return -E2BIG;

    const crosses = attr.map_extra >> 32n !== lastByte(attr.map_extra, vm_range) >> 32n;
    if (
      yield* trace.decide(fn, '(attr->map_extra >> 32) != ((attr->map_extra + vm_range - 1) >> 32)', crosses)
    ) {
      return -ERANGE;
    }

    const at = attr.kern_vm_at;
    const where = at === undefined ? {} : { at };
    const kern_vm = get_vm_area(here, env.memory, KERN_VM_SZ, VM_SPARSE | VM_USERMAP, where);
    if ((yield* trace.decide(fn, '!kern_vm', kern_vm === null)) || kern_vm === null) return -ENOMEM;

    if (yield* trace.decide(fn, '!arena', env.allocationFails('bpf_arena'))) {
      free_vm_area(here, env.memory, kern_vm);
      return -ENOMEM;
    }
    const scratch_page = env.memory.pages.alloc_page(here, 'bpf arena scratch');
    const noPage = scratch_page === null;
    if ((yield* trace.decide(fn, 'bpf_map_alloc_pages(&scratch_page)', noPage)) || noPage) {
      free_vm_area(here, env.memory, kern_vm);
      return -ENOMEM;
    }

    const arena = new bpf_arena(env, kern_vm, scratch_page, attr);
    const err = yield* prepareArena(here, env, arena);
    if (err !== 0) {
      env.memory.pages.free_page(here, scratch_page);
      free_vm_area(here, env.memory, kern_vm);
      return err;
    }
    env.arenas.add(arena);
    return arena.map;
  },
);

/** The last two parts of arena_map_alloc(): free pages and tables. Undoes the first when the second fails. */
function* prepareArena(here: ThisCpu, env: BpfEnv, arena: bpf_arena): Path<number> {
  const { trace } = here;
  const fn = 'arena_map_alloc';
  const err = arena.rt.range_tree_set(0, arena.map.max_entries);
  if ((yield* trace.decide(fn, 'range_tree_set(&arena->rt, 0, attr->max_entries)', err)) !== 0) return err;
  const populated = yield* populate_pgtable_except_pte(here, env, arena);
  yield* trace.decide(fn, 'populate_pgtable_except_pte(arena)', populated);
  if (populated !== 0) arena.rt.range_tree_destroy();
  return populated;
}

/** Last byte of a range, wrapping at 64 bits. */
function lastByte(start: bigint, size: number): bigint {
  return u64(start + BigInt(size) - 1n);
}

/**
 * Builds the tables for the whole window, so that neither an allocation nor the fault handler ever needs
 * one. The kernel walks the window with a callback that does nothing; the result is the same.
 */
export const populate_pgtable_except_pte = port(
  'populate_pgtable_except_pte',
  ['env', 'arena'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena): Path<number> {
    return yield* populate_kernel_tables(here, env.memory, arena.kern_vm_start, arena.recovery_end);
  },
);

/** Destroys an arena. Nobody may be able to reach it any more: no program, no mapping. */
export const arena_map_free = port(
  'arena_map_free',
  ['env', 'map'],
  function* (here: ThisCpu, env: BpfEnv, map: bpf_map): Path<void> {
    const { arena } = map;
    if (arena === null) return;
    const mapped = arena.vma_list.length > 0;
    if (yield* here.trace.decide('arena_map_free', '!list_empty(&arena->vma_list)', mapped)) {
      env.warnOnce(here, 'arena_map_free', '!list_empty(&arena->vma_list)');
      return;
    }

    yield* flush_arena_work(here, env, arena);

    const { memory } = env;
    yield* apply_to_existing_page_range(
      here,
      memory,
      memory.init_mm,
      arena.kern_vm_start,
      RECOVERY_SZ,
      existing_page_cb,
      { env, arena },
    );
    free_vm_area(here, memory, arena.kern_vm);
    arena.rt.range_tree_destroy();
    memory.pages.free_page(here, arena.scratch_page);
    env.arenas.delete(arena);
  },
);

/** map_direct_value_addr: the address a program's reference to offset `off` of the arena stands for. */
export function arena_map_direct_value_addr(arena: bpf_arena, off: bigint): bigint | number {
  if (off >= arena.user_vm_end - arena.user_vm_start) return -ERANGE;
  return arena.user_vm_start;
}
