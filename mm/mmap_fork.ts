/**
 * What fork() makes of an address space: dup_mmap() of mm/mmap.c and copy_page_range() of mm/memory.c
 * (bpf-next merge 8496d9020ff3).
 *
 * A page of a shared mapping is not copied: the child finds it by its own fault. Private pages are shared
 * read-only until one side writes. Left out: swap, huge pages, userfaultfd, MADV_WIPEONFORK.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE, VM_SHARED } from '../arch/kernel.js';
import { toSigned } from '../emu/address.js';
import { type Path, port } from '../emu/path.js';
import { ENOMEM } from '../kernel/errno.js';
import { entryAt, isStop, PTE } from './descend.js';
import { create_mm, type UserMm, type Vma, vma_link } from './mmap.js';
import { VM_DONTCOPY } from './mmap_flags.js';
import { mmap_write_lock, mmap_write_unlock } from './mmap_lock.js';
import { exit_mmap, vm_area_dup } from './mmap_unmap.js';
import { flush_tlb_range } from './tlb.js';

/**
 * A copy for the child; null without memory: then what was copied is given back, but for page tables. Mappings
 * with VM_DONTCOPY are not in it.
 */
export const dup_mmap = port(
  'dup_mmap',
  ['oldmm', 'name'],
  function* (here: ThisCpu, oldmm: UserMm, name: string): Path<UserMm | null> {
    const { trace } = here;
    const mm = create_mm(here, oldmm.memory, name);
    if (mm === null) return null;
    mm.mmap_base = oldmm.mmap_base;
    mmap_write_lock(here, oldmm);
    for (const vma of oldmm.vmas) {
      const skipped = (vma.vm_flags & VM_DONTCOPY) !== 0;
      if (yield* trace.decide('dup_mmap', 'mpnt->vm_flags & VM_DONTCOPY', skipped)) continue;
      const copy = vm_area_dup(vma, mm, vma.vm_start, vma.vm_end, vma.vm_pgoff);
      vma_link(copy);
      if (vma.vm_ops?.open !== undefined) yield* vma.vm_ops.open(here, copy);
      // vma_needs_copy()
      const needs = vma.anon_vma && (vma.vm_flags & VM_SHARED) === 0;
      if (yield* trace.decide('copy_page_range', '!vma_needs_copy(dst_vma, src_vma)', !needs)) continue;
      const copied = copyPrivatePages(here, vma, mm);
      // Also of a copy that was broken off: entries that were writable are not any more.
      flush_tlb_range(here, oldmm.memory, vma.vm_start, vma.vm_end);
      if ((yield* trace.decide('dup_mmap', 'retval', copied ? 0 : -ENOMEM)) !== 0) {
        mmap_write_unlock(here, oldmm);
        yield* exit_mmap(here, mm);
        return null;
      }
    }
    mmap_write_unlock(here, oldmm);
    return mm;
  },
);

/** copy_present_ptes(): both sides may only read from now on. False without memory for a table. */
function copyPrivatePages(here: ThisCpu, vma: Vma, child: UserMm): boolean {
  const { vm_mm, vm_start, vm_end } = vma;
  const { memory } = vm_mm;
  const { pgtable, pages } = memory;
  const readOnly = here.arch.vm_get_page_prot(pgtable, vma.vm_flags & ~VM_SHARED, vma.pkey);
  for (let va = vm_start; va < vm_end; va += BigInt(PAGE_SIZE)) {
    const source = entryAt(here, memory, vm_mm, toSigned(va), PTE, false);
    if (isStop(source)) continue;
    const pte = pgtable.ptep_get(here, source);
    if (!pgtable.pte_present(pte)) continue;
    const target = entryAt(here, memory, child, toSigned(va), PTE, true);
    if (target < 0) return false;
    const page = pgtable.pte_pa(pte);
    if (memory.isZeroPage(page)) {
      pgtable.set_pte(here, target, pte);
      continue;
    }
    const entry = pgtable.mk_pte(page, readOnly);
    pages.get_page(page);
    pages.page_add_rmap(page);
    pgtable.set_pte(here, source, entry);
    pgtable.set_pte(here, target, entry);
  }
  return true;
}
