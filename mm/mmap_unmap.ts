/**
 * munmap(): do_vmi_munmap(), vms_gather_munmap_vmas(), __split_vma() of mm/vma.c, and exit_mmap() of
 * mm/mmap.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: freeing of page tables, sealed mappings, the limit on the number of mappings, userfaultfd.
 */
import type { ThisCpu } from '../arch/arch.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { EINVAL } from '../kernel/errno.js';
import { find_vma_intersection, type UserMm, Vma, vma_link, vma_unlink, zap_vma_range } from './mmap.js';
import { misaligned, PAGE_ALIGN, TASK_SIZE } from './mmap_area.js';
import { mmap_write_lock, mmap_write_unlock, vma_start_write } from './mmap_lock.js';

/** vm_area_dup(): a VMA like this one over another range, not yet in the address space. */
export function vm_area_dup(vma: Vma, mm: UserMm, start: bigint, end: bigint, pgoff: bigint): Vma {
  const copy = new Vma(mm, start, end, vma.vm_flags, vma.vm_ops, vma.pkey);
  copy.anon_vma = vma.anon_vma;
  copy.vm_file = vma.vm_file;
  copy.vm_pgoff = pgoff;
  copy.vm_private_data = vma.vm_private_data;
  return copy;
}

/** Cuts a VMA in two at `addr`, which lies inside; its owner may refuse. 0 or a negative errno. */
const __split_vma = port(
  '__split_vma',
  ['vma', 'addr'],
  function* (here: ThisCpu, vma: Vma, addr: bigint): Path<number> {
    const { vm_ops } = vma;
    if (vm_ops?.may_split !== undefined) {
      const err = yield* vm_ops.may_split(here, vma, addr);
      if ((yield* here.trace.decide('__split_vma', 'vma->vm_ops->may_split(vma, addr)', err)) !== 0)
        return err;
    }
    const pgoff = vma.vm_file === null ? 0n : vma.vm_pgoff + ((addr - vma.vm_start) >> 12n);
    const upper = vm_area_dup(vma, vma.vm_mm, addr, vma.vm_end, pgoff);
    vma.vm_end = addr;
    vma_link(upper);
    if (vm_ops?.open !== undefined) yield* vm_ops.open(here, upper);
    return 0;
  },
);

/** Makes the borders of [start, end) borders of VMAs. 0 or a negative errno; cuts made before stay. */
export function* splitAtBorders(here: ThisCpu, mm: UserMm, start: bigint, end: bigint): Path<number> {
  const first = find_vma_intersection(mm, start, end);
  if (first !== null && first.vm_start < start) {
    const err = yield* __split_vma(here, first, start);
    if (err !== 0) return err;
  }
  for (const vma of mm.vmas.filter(({ vm_start, vm_end }) => vm_start < end && vm_end > end)) {
    const err = yield* __split_vma(here, vma, end);
    if (err !== 0) return err;
  }
  return 0;
}

/** Takes whole VMAs away: pages, then owner, then the VMA itself. */
function* removeVma(here: ThisCpu, vma: Vma): Path<void> {
  vma_start_write(here, vma);
  yield* zap_vma_range(here, vma, vma.vm_start, Number(vma.vm_end - vma.vm_start));
  vma_unlink(vma);
  if (vma.vm_ops?.close !== undefined) yield* vma.vm_ops.close(here, vma);
}

/**
 * Unmaps a range, whatever is mapped in it. Needs the mmap lock for writing.
 * @param len bytes, rounded up to pages
 * @returns 0 (nothing there is no error), -EINVAL, or what the owner of a VMA says to its being cut: then
 *   nothing is unmapped, but a cut made before stays
 */
export const do_munmap: (here: ThisCpu, mm: UserMm, start: bigint, len: bigint) => Delegate<number> = port(
  'do_vmi_munmap',
  ['mm', 'start', 'len'],
  function* (here: ThisCpu, mm: UserMm, start: bigint, len: bigint): Path<number> {
    const { trace } = here;
    const fn = 'do_vmi_munmap';
    const bad = misaligned(start) || start > TASK_SIZE(mm) || len > TASK_SIZE(mm) - start;
    const test = 'offset_in_page(start) || start > TASK_SIZE || len > TASK_SIZE - start';
    if (yield* trace.decide(fn, test, bad)) return -EINVAL;
    const end = start + PAGE_ALIGN(len);
    if (yield* trace.decide(fn, 'end == start', end === start)) return -EINVAL;
    const none = find_vma_intersection(mm, start, end) === null;
    if (yield* trace.decide(fn, '!vma', none)) return 0;

    const err = yield* splitAtBorders(here, mm, start, end);
    if (err !== 0) return err;
    const gone = mm.vmas.filter((vma) => vma.vm_start < end && vma.vm_end > start);
    for (const vma of gone) yield* removeVma(here, vma);
    return 0;
  },
);

/** munmap(2) of a task with this address space. 0 or a negative errno; see do_munmap(). */
export const vm_munmap = port(
  '__vm_munmap',
  ['mm', 'start', 'len'],
  function* (here: ThisCpu, mm: UserMm, start: bigint, len: bigint): Path<number> {
    mmap_write_lock(here, mm);
    const ret = yield* do_munmap(here, mm, start, len);
    mmap_write_unlock(here, mm);
    return ret;
  },
);

/** The last task of the address space has gone: everything is unmapped. The root table stays. */
export const exit_mmap = port('exit_mmap', ['mm'], function* (here: ThisCpu, mm: UserMm): Path<void> {
  mmap_write_lock(here, mm);
  for (const vma of [...mm.vmas]) yield* removeVma(here, vma);
  mmap_write_unlock(here, mm);
});
