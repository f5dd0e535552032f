/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 5: the user's view of an arena: where it
 * is mapped, who maps it, and the faults of user space. Left out: memory cgroups, flush_cache_vmap().
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE, VM_FAULT_RETRY, VM_FAULT_SIGSEGV } from '../../arch/kernel.js';
import { type Path, port } from '../../emu/path.js';
import { E2BIG, EBUSY, EFAULT, EINVAL, ENOMEM } from '../../kernel/errno.js';
import { mutex_lock, mutex_unlock } from '../../kernel/mutex.js';
import { raw_res_spin_unlock_irqrestore } from '../../kernel/rqspinlock.js';
import type { UserMm, Vma, vm_fault, vm_operations_struct } from '../../mm/mmap.js';
import { mm_get_unmapped_area } from '../../mm/mmap_area.js';
import { VM_DONTCOPY, VM_DONTEXPAND } from '../../mm/mmap_flags.js';
import { apply_to_page_range, vmalloc_to_page } from '../../mm/pgtable_walk.js';
import type { BpfEnv } from '../env.js';
import { ARENA_PAGE_OWNER } from '../failures.js';
import { lockArena } from './arena_lock.js';
import { type apply_range_data, apply_range_set_cb } from './arena_ptes.js';
import {
  BPF_F_SEGV_ON_FAULT,
  type bpf_arena,
  kernelAddress,
  lo32,
  SZ_4G,
  userVmSize,
  type vma_list,
} from './arena_struct.js';

const FOUR_GIB = BigInt(SZ_4G);

/**
 * Chooses the address of a mapping: one whose range does not cross a 4 GiB boundary, and always the same
 * once there is one. An address, or -EINVAL, -E2BIG, -EFAULT, -ENOMEM.
 */
export const arena_get_unmapped_area = port(
  'arena_get_unmapped_area',
  ['env', 'arena', 'mm', 'addr', 'len', 'pgoff', 'flags'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    arena: bpf_arena,
    mm: UserMm,
    addr: bigint,
    len: bigint,
    pgoff: bigint,
    flags: number,
  ): Path<bigint> {
    const { trace } = here;
    const fn = 'arena_get_unmapped_area';
    if (yield* trace.decide(fn, 'pgoff', pgoff !== 0n)) return BigInt(-EINVAL);
    if (yield* trace.decide(fn, 'len > SZ_4G', len > FOUR_GIB)) return BigInt(-E2BIG);
    const { user_vm_start } = arena;
    if (yield* trace.decide(fn, 'arena->user_vm_start', user_vm_start !== 0n)) {
      const size = userVmSize(arena);
      if (yield* trace.decide(fn, 'len > arena->user_vm_end - arena->user_vm_start', len > size)) {
        return BigInt(-E2BIG);
      }
      if (yield* trace.decide(fn, 'len != arena->user_vm_end - arena->user_vm_start', len !== size)) {
        return BigInt(-EINVAL);
      }
      if (yield* trace.decide(fn, 'addr != arena->user_vm_start', addr !== user_vm_start)) {
        return BigInt(-EINVAL);
      }
    }
    const ret = yield* mm_get_unmapped_area(here, mm, addr, len * 2n, flags);
    if (yield* trace.decide(fn, 'IS_ERR_VALUE(ret)', ret < 0n)) return ret;
    const fits = ret >> 32n === (ret + len - 1n) >> 32n;
    if (yield* trace.decide(fn, '(ret >> 32) == ((ret + len - 1) >> 32)', fits)) return ret;
    if (yield* trace.decide(fn, 'WARN_ON_ONCE(arena->user_vm_start)', user_vm_start !== 0n)) {
      env.warnOnce(here, fn, 'arena->user_vm_start');
      return BigInt(-EFAULT);
    }
    return ((ret + FOUR_GIB - 1n) / FOUR_GIB) * FOUR_GIB;
  },
);

/** map_mmap: takes a mapping on. 0, -EBUSY, -EFAULT or -ENOMEM. */
export const arena_map_mmap = port(
  'arena_map_mmap',
  ['env', 'arena', 'vma'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena, vma: Vma): Path<number> {
    mutex_lock(here, arena.lock);
    const err = yield* mapLocked(here, env, arena, vma);
    mutex_unlock(here, arena.lock);
    return err;
  },
);

function* mapLocked(here: ThisCpu, env: BpfEnv, arena: bpf_arena, vma: Vma): Path<number> {
  const { trace } = here;
  const fn = 'arena_map_mmap';
  const { vm_start, vm_end } = vma;
  const elsewhere = arena.user_vm_start !== 0n && arena.user_vm_start !== vm_start;
  const startTest = 'arena->user_vm_start && arena->user_vm_start != vma->vm_start';
  if (yield* trace.decide(fn, startTest, elsewhere)) return -EBUSY;
  const otherEnd = arena.user_vm_end !== 0n && arena.user_vm_end !== vm_end;
  if (yield* trace.decide(fn, 'arena->user_vm_end && arena->user_vm_end != vma->vm_end', otherEnd)) {
    return -EBUSY;
  }
  const impossible = vm_end - vm_start > FOUR_GIB || vma.vm_pgoff !== 0n;
  const sizeTest = 'vma->vm_end - vma->vm_start > SZ_4G || vma->vm_pgoff';
  if (yield* trace.decide(fn, sizeTest, impossible)) {
    env.warnOnce(here, fn, sizeTest);
    return -EFAULT;
  }
  if (yield* trace.decide(fn, 'remember_vma(arena, vma)', !remember_vma(env, arena, vma))) return -ENOMEM;
  arena.user_vm_start = vm_start;
  arena.user_vm_end = vm_end;
  vma.vm_flags |= VM_DONTEXPAND | VM_DONTCOPY;
  vma.vm_ops = new ArenaVmOps(env, arena);
  return 0;
}

/** False without memory. */
function remember_vma(env: BpfEnv, arena: bpf_arena, vma: Vma): boolean {
  if (env.allocationFails('vma_list')) return false;
  const vml: vma_list = { vma, mmap_count: 1, zap_gen: 0 };
  vma.vm_private_data = vml;
  arena.vma_list.unshift(vml);
  return true;
}

/** The record of a VMA of this arena; null for a mistake in a port. */
function recordOf(arena: bpf_arena, vma: Vma): vma_list | null {
  return arena.vma_list.find((vml) => vml === vma.vm_private_data) ?? null;
}

/** arena_vm_ops */
class ArenaVmOps implements vm_operations_struct {
  constructor(
    readonly env: BpfEnv,
    readonly arena: bpf_arena,
  ) {}

  open(here: ThisCpu, vma: Vma) {
    return arena_vm_open(here, this.arena, vma);
  }
  close(here: ThisCpu, vma: Vma) {
    return arena_vm_close(here, this.arena, vma);
  }
  may_split(here: ThisCpu) {
    return arena_vm_may_split(here);
  }
  mremap(here: ThisCpu) {
    return arena_vm_mremap(here);
  }
  fault(here: ThisCpu, vmf: vm_fault) {
    return arena_vm_fault(here, this.env, this.arena, vmf);
  }
}

const arena_vm_open = port(
  'arena_vm_open',
  ['arena', 'vma'],
  function* (here: ThisCpu, arena: bpf_arena, vma: Vma): Path<void> {
    const vml = recordOf(arena, vma);
    if (vml === null) return;
    vml.mmap_count += 1;
    yield* here.trace.decide('arena_vm_open', 'vml->mmap_count', vml.mmap_count);
  },
);

// biome-ignore lint/correctness/useYield: it decides nothing
const arena_vm_may_split = port('arena_vm_may_split', [], function* (): Path<number> {
  return -EINVAL;
});

// biome-ignore lint/correctness/useYield: it decides nothing
const arena_vm_mremap = port('arena_vm_mremap', [], function* (): Path<number> {
  return -EINVAL;
});

const arena_vm_close = port(
  'arena_vm_close',
  ['arena', 'vma'],
  function* (here: ThisCpu, arena: bpf_arena, vma: Vma): Path<void> {
    const vml = recordOf(arena, vma);
    if (vml === null) return;
    vml.mmap_count -= 1;
    const shared = vml.mmap_count !== 0;
    if (yield* here.trace.decide('arena_vm_close', '!refcount_dec_and_test(&vml->mmap_count)', shared))
      return;
    mutex_lock(here, arena.lock);
    arena.vma_list = arena.vma_list.filter((other) => other !== vml);
    vma.vm_private_data = null;
    mutex_unlock(here, arena.lock);
  },
);

/**
 * A fault of user space. The page that the kernel sees is mapped; where there is none, one is allocated,
 * unless the arena forbids that. Where the kernel sees the scratch page, user space gets nothing.
 * @returns 0 with vmf.page set and referenced, VM_FAULT_SIGSEGV or VM_FAULT_RETRY. The retry leaves the lock
 *   under which the fault is handled taken, although its callers take it for released: the kernel's own
 *   answer to a case that it holds for impossible
 */
export const arena_vm_fault = port(
  'arena_vm_fault',
  ['env', 'arena', 'vmf'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena, vmf: vm_fault): Path<number> {
    const { trace } = here;
    const { memory } = env;
    const fn = 'arena_vm_fault';
    const kaddr = kernelAddress(arena, lo32(vmf.address));
    const locked = lockArena(here, env, arena);
    if ((yield* trace.decide(fn, 'raw_res_spin_lock_irqsave()', locked)) !== 0) return VM_FAULT_RETRY;

    let page = vmalloc_to_page(here, memory, kaddr);
    const scratch = page === arena.scratch_page;
    if (yield* trace.decide(fn, 'page == arena->scratch_page', scratch)) return segv(here, arena);
    if (!(yield* trace.decide(fn, 'page', page !== null))) {
      page = yield* addPage(here, env, arena, kaddr, vmf.pgoff);
    }
    if (page === null) return segv(here, arena);
    memory.pages.get_page(page);
    raw_res_spin_unlock_irqrestore(here, arena.spinlock);
    vmf.page = page;
    return 0;
  },
);

function segv(here: ThisCpu, arena: bpf_arena): number {
  raw_res_spin_unlock_irqrestore(here, arena.spinlock);
  return VM_FAULT_SIGSEGV;
}

/** A new page where the kernel sees none; null when user space must do without. Needs the lock. */
function* addPage(
  here: ThisCpu,
  env: BpfEnv,
  arena: bpf_arena,
  kaddr: bigint,
  pgoff: number,
): Path<number | null> {
  const { trace } = here;
  const { memory } = env;
  const fn = 'arena_vm_fault';
  const forbidden = (arena.map.map_flags & BPF_F_SEGV_ON_FAULT) !== 0;
  if (yield* trace.decide(fn, 'arena->map.map_flags & BPF_F_SEGV_ON_FAULT', forbidden)) return null;
  // A page that was reserved is not free either, but clearing it twice is no error.
  const err = arena.rt.range_tree_clear(pgoff, 1);
  if ((yield* trace.decide(fn, 'range_tree_clear(&arena->rt, vmf->pgoff, 1)', err)) !== 0) return null;

  const page = memory.pages.alloc_page(here, ARENA_PAGE_OWNER);
  if ((yield* trace.decide(fn, 'bpf_map_alloc_pages(&page)', page === null)) || page === null) {
    arena.rt.range_tree_set(pgoff, 1);
    return null;
  }
  const data: apply_range_data = { env, pages: [page], i: 0, scratch_page: arena.scratch_page };
  const { init_mm } = memory;
  const set = yield* apply_to_page_range(here, memory, init_mm, kaddr, PAGE_SIZE, apply_range_set_cb, data);
  if ((yield* trace.decide(fn, 'apply_to_page_range(apply_range_set_cb)', set)) !== 0) {
    arena.rt.range_tree_set(pgoff, 1);
    memory.pages.free_page(here, page);
    return null;
  }
  return page;
}
