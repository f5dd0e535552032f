/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 1b: creation and destruction of an arena.
 *
 * Left out: memory cgroups, BTF checks.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import { E2BIG, EINVAL, ENOMEM, EOPNOTSUPP, ERANGE } from '../../kernel/errno.js';
import { misaligned } from '../../mm/mmap_area.js';
import { apply_to_existing_page_range, populate_kernel_tables } from '../../mm/pgtable_walk.js';
import { free_vm_area, get_vm_area, VM_SPARSE, VM_USERMAP } from '../../mm/vmalloc.js';
import type { BpfEnv } from '../env.js';
import { SCRATCH_PAGE_OWNER } from '../failures.js';
import { existing_page_cb } from './arena_ptes.js';
import {
  BPF_F_MMAPABLE,
  BPF_F_NO_USER_CONV,
  BPF_F_SEGV_ON_FAULT,
  bpf_arena,
  type bpf_map,
  KERN_VM_SZ,
  type MapAttr,
  RECOVERY_SZ,
  SZ_4G,
  userVmSize,
} from './arena_struct.js';
import { flush_arena_work, UseAfterFree } from './arena_work.js';

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

    if (yield* trace.decide(fn, 'attr->map_extra & ~PAGE_MASK', misaligned(attr.map_extra))) return -EINVAL;

    if (yield* trace.decide(fn, 'vm_range > SZ_4G', vm_range > SZ_4G)) return -E2BIG;

    const crosses = attr.map_extra >> 32n !== lastByte(attr.map_extra, vm_range) >> 32n;
    if (
      yield* trace.decide(fn, '(attr->map_extra >> 32) != ((attr->map_extra + vm_range - 1) >> 32)', crosses)
    ) {
      return -ERANGE;
    }

    const at = attr.kern_vm_at;
    const where = at === undefined ? {} : { at };
    const kern_vm = env.allocationFails('vm_area')
      ? null
      : get_vm_area(here, env.memory, KERN_VM_SZ, VM_SPARSE | VM_USERMAP, where);
    if ((yield* trace.decide(fn, '!kern_vm', kern_vm === null)) || kern_vm === null) return -ENOMEM;

    if (yield* trace.decide(fn, '!arena', env.allocationFails('bpf_arena'))) {
      free_vm_area(here, env.memory, kern_vm);
      return -ENOMEM;
    }
    const scratch_page = env.memory.pages.alloc_page(here, SCRATCH_PAGE_OWNER);
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

/**
 * Destroys an arena. Nobody may be able to reach it any more: no program, no mapping, no call. Throws a UseAfterFree,
 * when all is done, where its worker would still run.
 */
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
    if (env.work.forget(arena)) {
      throw new UseAfterFree(
        `arena_map_free() of ${map.name}: its worker did not get the lock and has queued itself again, which flush_work() ` +
          'does not wait for: in the kernel it runs later, on memory that is free (use after free)',
      );
    }
  },
);

/** map_direct_value_addr: the address a program's reference to offset `off` of the arena stands for. */
export function arena_map_direct_value_addr(arena: bpf_arena, off: bigint): bigint | number {
  if (off >= userVmSize(arena)) return -ERANGE;
  return arena.user_vm_start;
}
