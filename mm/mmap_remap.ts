/**
 * mremap(): do_mremap() of mm/mremap.c with check_mremap_params(), check_prep_vma(), mremap_to(),
 * mremap_at(), expand_vma(), shrink_vma() and move_vma() (bpf-next merge 8496d9020ff3).
 *
 * Left out: moving several mappings in one call, locked, huge, sealed and accounted memory, userfaultfd,
 * the limit on the number of mappings.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE, VM_SHARED } from '../arch/kernel.js';
import { toSigned } from '../emu/address.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { EFAULT, EINVAL, ENOMEM } from '../kernel/errno.js';
import { entryAt, isStop, PTE } from './descend.js';
import { find_vma_intersection, type UserMm, type Vma, vma_link, vma_lookup } from './mmap.js';
import { __get_unmapped_area, misaligned, PAGE_ALIGN, TASK_SIZE } from './mmap_area.js';
import {
  MAP_FIXED,
  MAP_SHARED,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  VM_DONTEXPAND,
  VM_MAYSHARE,
} from './mmap_flags.js';
import { mmap_write_lock, mmap_write_unlock, vma_start_write } from './mmap_lock.js';
import { do_munmap, vm_area_dup } from './mmap_unmap.js';
import { flush_tlb_range } from './tlb.js';

/** struct vma_remap_struct: what is asked for. Lengths are whole pages. */
interface Remap {
  readonly mm: UserMm;
  readonly addr: bigint;
  /** Shrinks before a move. */
  old_len: bigint;
  readonly new_len: bigint;
  readonly flags: number;
  new_addr: bigint;
}

/** vrm_implies_new_addr() */
function impliesNewAddr({ flags }: Remap): boolean {
  return (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) !== 0;
}

/** What check_mremap_params() finds wrong, in its words, or null. All of it is -EINVAL. */
function wrongParameter(vrm: Remap): string | null {
  const { mm, addr, old_len, new_len, flags, new_addr } = vrm;
  if ((flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP)) !== 0) return 'flags';
  if (misaligned(addr)) return 'offset_in_page(addr)';
  if (new_len === 0n) return '!vrm->new_len';
  if (new_len > TASK_SIZE(mm)) return 'vrm->new_len > TASK_SIZE';
  if (!impliesNewAddr(vrm)) return null;
  if (new_addr > TASK_SIZE(mm) - new_len) return 'vrm->new_addr > TASK_SIZE - vrm->new_len';
  if (misaligned(new_addr)) return 'offset_in_page(vrm->new_addr)';
  if ((flags & MREMAP_MAYMOVE) === 0) return '!(flags & MREMAP_MAYMOVE)';
  if ((flags & MREMAP_DONTUNMAP) !== 0 && old_len !== new_len) return 'vrm->old_len != vrm->new_len';
  const overlaps = addr + old_len > new_addr && new_addr + new_len > addr;
  return overlaps ? 'vrm_overlaps(vrm)' : null;
}

/** May the mapping do this? 0, -EFAULT or -EINVAL. Only asked in full where new addresses are needed. */
const check_prep_vma = port(
  'check_prep_vma',
  ['vma', 'vrm'],
  function* (here: ThisCpu, vma: Vma | null, vrm: Remap): Path<number> {
    const { trace } = here;
    const fn = 'check_prep_vma';
    if ((yield* trace.decide(fn, '!vma', vma === null)) || vma === null) return -EFAULT;
    const { old_len, new_len, flags } = vrm;
    const mapsNew = new_len > old_len || impliesNewAddr(vrm);
    if (yield* trace.decide(fn, '!vrm_will_map_new(vrm)', !mapsNew)) return 0;
    const duplicate = old_len === 0n && (vma.vm_flags & (VM_SHARED | VM_MAYSHARE)) === 0;
    if (yield* trace.decide(fn, '!old_len && !(vma->vm_flags & (VM_SHARED | VM_MAYSHARE))', duplicate)) {
      return -EINVAL;
    }
    const fixedSize = (vma.vm_flags & VM_DONTEXPAND) !== 0;
    const stays = (flags & MREMAP_DONTUNMAP) !== 0 && fixedSize;
    const dontUnmap = '(vrm->flags & MREMAP_DONTUNMAP) && (vma->vm_flags & (VM_DONTEXPAND | VM_PFNMAP))';
    if (yield* trace.decide(fn, dontUnmap, stays)) return -EINVAL;
    const beyond = old_len > vma.vm_end - vrm.addr;
    if (yield* trace.decide(fn, 'old_len > vma->vm_end - addr', beyond)) return -EFAULT;
    if (yield* trace.decide(fn, 'new_len <= old_len', new_len <= old_len)) return 0;
    const pgoff = vma.vm_pgoff + ((vrm.addr - vma.vm_start) >> 12n);
    const wraps = pgoff + (new_len >> 12n) >= 1n << 64n;
    if (yield* trace.decide(fn, 'pgoff + (new_len >> PAGE_SHIFT) < pgoff', wraps)) return -EINVAL;
    const refused = yield* trace.decide(fn, 'vma->vm_flags & (VM_DONTEXPAND | VM_PFNMAP)', fixedSize);
    return refused ? -EFAULT : 0;
  },
);

/** vrm_set_new_addr(): where the mapping moves to; the file has its say. */
function* vrm_set_new_addr(here: ThisCpu, vma: Vma, vrm: Remap): Path<number> {
  const flags =
    ((vrm.flags & MREMAP_FIXED) !== 0 ? MAP_FIXED : 0) |
    ((vma.vm_flags & VM_MAYSHARE) !== 0 ? MAP_SHARED : 0);
  const pgoff = vma.vm_pgoff + ((vrm.addr - vma.vm_start) >> 12n);
  const wanted = impliesNewAddr(vrm) ? vrm.new_addr : 0n;
  const at = yield* __get_unmapped_area(here, vrm.mm, vma.vm_file, wanted, vrm.new_len, pgoff, flags);
  if (yield* here.trace.decide('vrm_set_new_addr', 'IS_ERR_VALUE(res)', at < 0n)) return Number(at);
  vrm.new_addr = at;
  return 0;
}

/** move_page_tables(): what [from, from + len) maps is mapped at `to` afterwards. -ENOMEM without a table. */
function movePages(here: ThisCpu, mm: UserMm, from: bigint, to: bigint, len: bigint): number {
  const { memory } = mm;
  const { pgtable } = memory;
  for (let offset = 0n; offset < len; offset += BigInt(PAGE_SIZE)) {
    const source = entryAt(here, memory, mm, toSigned(from + offset), PTE, false);
    if (isStop(source) || pgtable.pte_none(pgtable.ptep_get(here, source))) continue;
    const target = entryAt(here, memory, mm, toSigned(to + offset), PTE, true);
    if (target < 0) return -ENOMEM;
    pgtable.set_pte(here, target, pgtable.ptep_get_and_clear(here, source));
  }
  flush_tlb_range(here, memory, from, from + len);
  return 0;
}

const move_vma = port(
  'move_vma',
  ['vma', 'vrm'],
  function* (here: ThisCpu, vma: Vma, vrm: Remap): Path<bigint> {
    const { trace } = here;
    const { mm, addr, old_len, new_len, new_addr, flags } = vrm;
    const { vm_ops } = vma;
    if (vm_ops?.may_split !== undefined) {
      let err = vma.vm_start === addr ? 0 : yield* vm_ops.may_split(here, vma, addr);
      const end = addr + old_len;
      if (err === 0 && vma.vm_end !== end) err = yield* vm_ops.may_split(here, vma, end);
      if ((yield* trace.decide('prep_move_vma', 'vma->vm_ops->may_split()', err)) !== 0) return BigInt(err);
    }
    vma_start_write(here, vma);

    // copy_vma()
    const pgoff = vma.vm_pgoff + (vma.vm_file === null ? 0n : (addr - vma.vm_start) >> 12n);
    const copy = vm_area_dup(vma, mm, new_addr, new_addr + new_len, pgoff);
    vma_link(copy);
    if (vm_ops?.open !== undefined) yield* vm_ops.open(here, copy);
    let err = movePages(here, mm, addr, new_addr, old_len);
    if (err === 0 && vm_ops?.mremap !== undefined) err = yield* vm_ops.mremap(here, copy);
    if ((yield* trace.decide('copy_vma_and_data', 'err', err)) !== 0) {
      movePages(here, mm, new_addr, addr, old_len);
      yield* do_munmap(here, mm, new_addr, new_len);
      return BigInt(err);
    }
    const stays = (flags & MREMAP_DONTUNMAP) !== 0;
    if (!stays && old_len > 0n) yield* do_munmap(here, mm, addr, old_len);
    return new_addr;
  },
);

const mremap_to = port(
  'mremap_to',
  ['vma', 'vrm'],
  function* (here: ThisCpu, given: Vma, vrm: Remap): Path<bigint> {
    const { trace } = here;
    const { mm } = vrm;
    let vma: Vma | null = given;
    if (yield* trace.decide('mremap_to', 'vrm->flags & MREMAP_FIXED', (vrm.flags & MREMAP_FIXED) !== 0)) {
      const err = yield* do_munmap(here, mm, vrm.new_addr, vrm.new_len);
      if ((yield* trace.decide('mremap_to', 'do_munmap(mm, vrm->new_addr, vrm->new_len)', err)) !== 0) {
        return BigInt(err);
      }
      vma = vma_lookup(mm, vrm.addr);
    }
    if (yield* trace.decide('mremap_to', 'vrm->remap_type == MREMAP_SHRINK', vrm.new_len < vrm.old_len)) {
      const err = yield* do_munmap(here, mm, vrm.addr + vrm.new_len, vrm.old_len - vrm.new_len);
      if ((yield* trace.decide('mremap_to', 'shrink_vma(vrm)', err)) !== 0) return BigInt(err);
      vrm.old_len = vrm.new_len;
      vma = vma_lookup(mm, vrm.addr);
    }
    if (vma === null) return BigInt(-EFAULT);
    const err = yield* vrm_set_new_addr(here, vma, vrm);
    return err === 0 ? yield* move_vma(here, vma, vrm) : BigInt(err);
  },
);

/** Resizes in place; only what grows and cannot is moved. */
const mremap_at = port(
  'mremap_at',
  ['vma', 'vrm'],
  function* (here: ThisCpu, vma: Vma, vrm: Remap): Path<bigint> {
    const { trace } = here;
    const fn = 'mremap_at';
    const { mm, addr, old_len, new_len } = vrm;
    const type = new_len === old_len ? 'NO_RESIZE' : new_len < old_len ? 'SHRINK' : 'EXPAND';
    yield* trace.decide(fn, 'vrm->remap_type', type);
    if (type === 'NO_RESIZE') return addr;
    if (type === 'SHRINK') {
      const err = yield* do_munmap(here, mm, addr + new_len, old_len - new_len);
      return (yield* trace.decide(fn, 'shrink_vma(vrm)', err)) === 0 ? addr : BigInt(err);
    }
    const end = vma.vm_end + (new_len - old_len);
    const room = end <= TASK_SIZE(mm) && find_vma_intersection(mm, vma.vm_end, end) === null;
    const inPlace = vma.vm_end - addr === old_len && room;
    if (yield* trace.decide('expand_vma', 'vrm_can_expand_in_place(vrm)', inPlace)) {
      vma_start_write(here, vma);
      vma.vm_end = end;
      return addr;
    }
    const stays = (vrm.flags & MREMAP_MAYMOVE) === 0;
    if (yield* trace.decide('expand_vma', '!(vrm->flags & MREMAP_MAYMOVE)', stays)) return BigInt(-ENOMEM);
    const err = yield* vrm_set_new_addr(here, vma, vrm);
    return err === 0 ? yield* move_vma(here, vma, vrm) : BigInt(err);
  },
);

/**
 * mremap(2) of a task with this address space.
 *
 * @param addr start of what is resized or moved
 * @param old_len bytes, rounded up to pages
 * @param new_len bytes, rounded up to pages
 * @param flags MREMAP_*
 * @param new_addr where to, with MREMAP_FIXED or MREMAP_DONTUNMAP
 * @returns the address that the mapping has now, or a negative errno
 */
export const do_mremap: (
  here: ThisCpu,
  mm: UserMm,
  addr: bigint,
  old_len: bigint,
  new_len: bigint,
  flags: number,
  new_addr: bigint,
) => Delegate<bigint> = port(
  'do_mremap',
  ['mm', 'addr', 'old_len', 'new_len', 'flags', 'new_addr'],
  function* (
    here: ThisCpu,
    mm: UserMm,
    addr: bigint,
    oldLength: bigint,
    newLength: bigint,
    flags: number,
    new_addr: bigint,
  ): Path<bigint> {
    const { trace } = here;
    const fn = 'do_mremap';
    const vrm: Remap = {
      mm,
      addr,
      old_len: PAGE_ALIGN(oldLength),
      new_len: PAGE_ALIGN(newLength),
      flags,
      new_addr,
    };
    const wrong = wrongParameter(vrm);
    yield* trace.decide(fn, 'check_mremap_params(vrm)', wrong);
    if (wrong !== null) return BigInt(-EINVAL);

    mmap_write_lock(here, mm);
    const vma = vma_lookup(mm, addr);
    const err = yield* check_prep_vma(here, vma, vrm);
    let ret = BigInt(err);
    if (err === 0 && vma !== null) {
      const moves = yield* trace.decide(fn, 'vrm_implies_new_addr(vrm)', impliesNewAddr(vrm));
      ret = moves ? yield* mremap_to(here, vma, vrm) : yield* mremap_at(here, vma, vrm);
    }
    mmap_write_unlock(here, mm);
    return ret;
  },
);
