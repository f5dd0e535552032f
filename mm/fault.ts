/**
 * handle_mm_fault() of mm/memory.c with what it leads to: handle_pte_fault(), do_anonymous_page(),
 * do_wp_page(), do_fault() (bpf-next merge 8496d9020ff3).
 *
 * Left out: swap, huge pages, userfaultfd, NUMA, dirty accounting, arch_vma_access_permitted() (the
 * architecture's handler has asked it before), out-of-memory killing. A page that nobody else refers to
 * counts as exclusive.
 */
import type { Ptep, ThisCpu } from '../arch/arch.js';
import {
  FAULT_FLAG_TRIED,
  FAULT_FLAG_VMA_LOCK,
  FAULT_FLAG_WRITE,
  type mm_struct,
  PAGE_SIZE,
  type pt_regs,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_NOPAGE,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
  VM_SHARED,
  VM_WRITE,
  type vm_area_struct,
} from '../arch/kernel.js';
import { pageOf, toSigned } from '../emu/address.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { entryAt, isStop, PTE } from './descend.js';
import type { Memory } from './memory.js';
import { MmapError, Vma, type vm_fault, vm_page_prot } from './mmap.js';
import {
  lock_mm_and_find_vma,
  lock_vma_under_rcu,
  mmap_read_trylock,
  mmap_read_unlock,
  vma_end_read,
} from './mmap_lock.js';
import { flush_tlb_fix_spurious_fault, flush_tlb_range } from './tlb.js';

/** Owner name of anonymous pages. */
export const ANONYMOUS_OWNER = 'anonymous';

/** User memory as the fault handlers of the architectures see it: part of `Kernel`. */
export class UserMemory {
  constructor(readonly memory: Memory) {}

  /** The mapping of a user address with its lock held; null when there is none or it cannot be had so. */
  lock_vma_under_rcu(here: ThisCpu, mm: mm_struct, address: bigint): Delegate<vm_area_struct | null> {
    return lock_vma_under_rcu(here, mm, address);
  }

  vma_end_read(vma: vm_area_struct): void {
    vma_end_read(vma);
  }

  mmap_read_unlock(mm: mm_struct): void {
    mmap_read_unlock(mm);
  }

  /**
   * The mapping of a user address with the mmap lock held, and with a stack grown down to it if need be;
   * null when there is none or the lock cannot be had.
   */
  lock_mm_and_find_vma(
    here: ThisCpu,
    mm: mm_struct,
    address: bigint,
    regs: pt_regs,
  ): Delegate<vm_area_struct | null> {
    return lock_mm_and_find_vma(here, mm, address, regs);
  }

  /**
   * Maps the page of a user address; the access must be one that the mapping allows.
   * @param flags FAULT_FLAG_*
   * @returns VM_FAULT_* bits; 0 when the access can be tried again
   */
  handle_mm_fault(
    here: ThisCpu,
    vma: vm_area_struct,
    address: bigint,
    flags: number,
    regs: pt_regs,
  ): Delegate<number> {
    return handle_mm_fault(here, vma, address, flags, regs);
  }
}

const handle_mm_fault = port(
  'handle_mm_fault',
  ['vma', 'address', 'flags', 'regs'],
  function* (
    here: ThisCpu,
    vma: vm_area_struct,
    address: bigint,
    flags: number,
    _regs: pt_regs,
  ): Path<number> {
    const fn = 'handle_mm_fault';
    if (!(vma instanceof Vma)) throw new MmapError('handle_mm_fault() of a mapping that mm/ did not make');
    const chosen = takeChosen(vma);
    if (chosen !== 0) {
      yield* here.trace.decide(fn, 'chosen by the fixture', chosen);
      if ((chosen & VM_FAULT_COMPLETED) === 0) return endWith(vma, flags, chosen);
    }
    const fault = yield* __handle_mm_fault(here, vma, pageOf(address), flags);
    return chosen === 0 || (fault & (VM_FAULT_ERROR | VM_FAULT_RETRY)) !== 0
      ? fault
      : endWith(vma, flags, fault | chosen);
  },
);

/** VM_FAULT_RETRY and VM_FAULT_COMPLETED say that the lock is gone already. */
function endWith(vma: Vma, flags: number, fault: number): number {
  if ((fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) !== 0) release_fault_lock(vma, flags);
  return fault;
}

/** What a fixture has chosen for a mapping, as often as it has; else 0. */
function takeChosen({ chosen }: Vma): number {
  if (chosen === null || chosen.times <= 0) return 0;
  chosen.times -= 1;
  return chosen.bits;
}

/** release_fault_lock(): whichever lock the fault is handled under. */
function release_fault_lock(vma: Vma, flags: number): void {
  if ((flags & FAULT_FLAG_VMA_LOCK) !== 0) vma_end_read(vma);
  else mmap_read_unlock(vma.vm_mm);
}

const __handle_mm_fault = port(
  '__handle_mm_fault',
  ['vma', 'address', 'flags'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number): Path<number> {
    const mm = vma.vm_mm;
    const at = entryAt(here, mm.memory, mm, toSigned(address), PTE, true);
    const test = '!p4d || !vmf.pud || !vmf.pmd || !vmf.pte';
    if (yield* here.trace.decide('__handle_mm_fault', test, at < 0)) {
      // A table that is none, where one should be.
      return isStop(at) ? VM_FAULT_SIGSEGV : VM_FAULT_OOM;
    }
    return yield* handle_pte_fault(here, vma, address, flags, at);
  },
);

const handle_pte_fault = port(
  'handle_pte_fault',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number, pte: Ptep): Path<number> {
    const { trace, arch } = here;
    const { pgtable } = vma.vm_mm.memory;
    const fn = 'handle_pte_fault';
    const orig = pgtable.ptep_get(here, pte);
    if (yield* trace.decide(fn, '!vmf->pte', pgtable.pte_none(orig))) {
      const anonymous = vma.vm_ops === null;
      if (yield* trace.decide('do_pte_missing', 'vma_is_anonymous(vmf->vma)', anonymous)) {
        return yield* do_anonymous_page(here, vma, address, flags, pte);
      }
      return yield* do_fault(here, vma, address, flags, pte);
    }
    // do_swap_page(): nothing was ever swapped out, so the entry means nothing.
    if (yield* trace.decide(fn, '!pte_present(vmf->orig_pte)', !pgtable.pte_present(orig))) {
      return VM_FAULT_SIGBUS;
    }

    let entry = orig;
    const write = (flags & FAULT_FLAG_WRITE) !== 0;
    if (yield* trace.decide(fn, 'vmf->flags & (FAULT_FLAG_WRITE|FAULT_FLAG_UNSHARE)', write)) {
      if (yield* trace.decide(fn, '!pte_write(entry)', !pgtable.pte_write(entry))) {
        return yield* do_wp_page(here, vma, address, flags, pte);
      }
      entry = pgtable.pte_mkdirty(entry);
    }
    // Another CPU may have mapped the page in the meantime, or the entry is old, clean or stale.
    entry = arch.pte_mkyoung(entry);
    const test =
      'ptep_set_access_flags(vmf->vma, vmf->address, vmf->pte, entry, vmf->flags & FAULT_FLAG_WRITE)';
    if (yield* trace.decide(fn, test, entry !== orig)) pgtable.set_pte(here, pte, entry);
    else if (write && (flags & FAULT_FLAG_TRIED) === 0) flush_tlb_fix_spurious_fault(here, address);
    return 0;
  },
);

/** The first page that belongs to a mapping alone: under the per-VMA lock it needs the mmap lock as well. */
const __vmf_anon_prepare = port(
  '__vmf_anon_prepare',
  ['vma', 'flags'],
  function* (here: ThisCpu, vma: Vma, flags: number): Path<number> {
    const { trace } = here;
    const fn = '__vmf_anon_prepare';
    if (yield* trace.decide(fn, 'likely(vma->anon_vma)', vma.anon_vma)) return 0;
    const underVmaLock = (flags & FAULT_FLAG_VMA_LOCK) !== 0;
    if (yield* trace.decide(fn, 'vmf->flags & FAULT_FLAG_VMA_LOCK', underVmaLock)) {
      const locked = mmap_read_trylock(vma.vm_mm);
      if (yield* trace.decide(fn, '!mmap_read_trylock(vma->vm_mm)', !locked)) {
        return endWith(vma, flags, VM_FAULT_RETRY);
      }
      mmap_read_unlock(vma.vm_mm);
    }
    vma.anon_vma = true;
    return 0;
  },
);

const do_anonymous_page = port(
  'do_anonymous_page',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, _address: bigint, flags: number, pte: Ptep): Path<number> {
    const { trace, arch } = here;
    const { memory } = vma.vm_mm;
    const { pages, pgtable } = memory;
    const fn = 'do_anonymous_page';
    // A shared mapping without operations: nobody says which pages are shared.
    const shared = (vma.vm_flags & VM_SHARED) !== 0;
    if (yield* trace.decide(fn, 'vma->vm_flags & VM_SHARED', shared)) return VM_FAULT_SIGBUS;
    // Without memory for a zero page of its own the machine does as if zero pages were forbidden.
    const zero = (flags & FAULT_FLAG_WRITE) === 0 ? memory.zeroPage() : null;
    const test = '!(vmf->flags & FAULT_FLAG_WRITE) && !mm_forbids_zeropage(vma->vm_mm)';
    if ((yield* trace.decide(fn, test, zero !== null)) && zero !== null) {
      const prot = arch.vm_get_page_prot(pgtable, vma.vm_flags, vma.pkey);
      pgtable.set_pte(here, pte, arch.pte_mkspecial(pgtable.mk_pte(zero, prot)));
      return 0;
    }
    const prepared = yield* __vmf_anon_prepare(here, vma, flags);
    if (prepared !== 0) return prepared;
    const page = pages.alloc_page(here, ANONYMOUS_OWNER);
    if ((yield* trace.decide(fn, '!folio', page === null)) || page === null) return VM_FAULT_OOM;
    pages.page_add_rmap(page);
    // Unlike a page of a file, it is made dirty at once where it may be written.
    const written = (vma.vm_flags & VM_WRITE) === 0 ? 0 : FAULT_FLAG_WRITE;
    pgtable.set_pte(here, pte, entryFor(here, memory, vma, page, written));
    return 0;
  },
);

/** A write to a page that is present and read-only, in a mapping that may be written. */
const do_wp_page = port(
  'do_wp_page',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number, pte: Ptep): Path<number> {
    const { trace } = here;
    const { memory } = vma.vm_mm;
    const { pages, pgtable } = memory;
    const fn = 'do_wp_page';
    const page = pgtable.pte_pa(pgtable.ptep_get(here, pte));
    const reuse = (): number => {
      pgtable.set_pte(here, pte, entryFor(here, memory, vma, page, FAULT_FLAG_WRITE));
      return 0;
    };
    const shared = (vma.vm_flags & VM_SHARED) !== 0;
    if (yield* trace.decide(fn, 'vma->vm_flags & (VM_SHARED | VM_MAYSHARE)', shared)) return reuse();
    const own = !memory.isZeroPage(page) && pages.page_ref_count(page) === 1;
    const exclusive =
      'folio && folio_test_anon(folio) && (PageAnonExclusive(vmf->page) || wp_can_reuse_anon_folio(folio, vma))';
    if (yield* trace.decide(fn, exclusive, own)) return reuse();
    return yield* wp_page_copy(here, vma, address, flags, pte);
  },
);

const wp_page_copy = port(
  'wp_page_copy',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number, pte: Ptep): Path<number> {
    const { memory } = vma.vm_mm;
    const { pages, pgtable, ram } = memory;
    const prepared = yield* __vmf_anon_prepare(here, vma, flags);
    if (prepared !== 0) return prepared;
    const old = pgtable.pte_pa(pgtable.ptep_get(here, pte));
    const page = pages.alloc_page(here, ANONYMOUS_OWNER);
    if ((yield* here.trace.decide('wp_page_copy', '!new_folio', page === null)) || page === null) {
      return VM_FAULT_OOM;
    }
    if (ram.contains(old, PAGE_SIZE)) ram.write(page, ram.read(old, PAGE_SIZE));
    pgtable.ptep_get_and_clear(here, pte);
    flush_tlb_range(here, memory, address, address + BigInt(PAGE_SIZE));
    pages.page_add_rmap(page);
    pgtable.set_pte(here, pte, entryFor(here, memory, vma, page, FAULT_FLAG_WRITE));
    // Nobody counts who maps the zero page.
    if (pages.page_mapped(old)) {
      pages.page_remove_rmap(old);
      pages.put_page(here, old);
    }
    return 0;
  },
);

/** A page of a file. Private mappings of files, which a write would copy, are left out. */
const do_fault = port(
  'do_fault',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number, pte: Ptep): Path<number> {
    const { trace } = here;
    const write = (flags & FAULT_FLAG_WRITE) !== 0;
    if (yield* trace.decide('do_fault', '!(vmf->flags & FAULT_FLAG_WRITE)', !write)) {
      return yield* do_shared(here, 'do_read_fault', vma, address, flags, pte);
    }
    const cow = (vma.vm_flags & VM_SHARED) === 0;
    if (yield* trace.decide('do_fault', '!(vma->vm_flags & VM_SHARED)', cow)) {
      throw new MmapError('a write to a private mapping of a file: do_cow_fault() is left out');
    }
    return yield* do_shared(here, 'do_shared_fault', vma, address, flags, pte);
  },
);

/** do_read_fault() and do_shared_fault(), which differ for files that track writes. */
function* do_shared(
  here: ThisCpu,
  fn: string,
  vma: Vma,
  address: bigint,
  flags: number,
  pte: Ptep,
): Path<number> {
  const { trace } = here;
  const { memory } = vma.vm_mm;
  const { vm_ops } = vma;
  if (vm_ops === null) throw new MmapError('do_fault() of anonymous memory');
  // vmf_can_call_fault(): only map_pages() may run under the per-VMA lock alone.
  const underVmaLock = (flags & FAULT_FLAG_VMA_LOCK) !== 0;
  if (yield* trace.decide(fn, 'vmf_can_call_fault(vmf)', underVmaLock ? VM_FAULT_RETRY : 0)) {
    return endWith(vma, flags, VM_FAULT_RETRY);
  }
  const pgoff = Number(((address - vma.vm_start) >> 12n) + vma.vm_pgoff);
  const vmf: vm_fault = { vma, address, pgoff, flags, page: null };
  const ret = yield* vm_ops.fault(here, vmf);
  const refused = (ret & (VM_FAULT_ERROR | VM_FAULT_RETRY | VM_FAULT_COMPLETED)) !== 0;
  const test = 'ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY | VM_FAULT_DONE_COW)';
  if (yield* trace.decide('__do_fault', test, refused)) return ret;
  const { page } = vmf;
  if (page === null) throw new MmapError('vm_ops->fault() succeeded without a page');

  // finish_fault(): another CPU may have mapped a page here while nobody held the table's lock.
  const changed = !memory.pgtable.pte_none(memory.pgtable.ptep_get(here, pte));
  if (yield* trace.decide('finish_fault', 'vmf_pte_changed(vmf)', changed)) {
    memory.pages.put_page(here, page);
    return VM_FAULT_NOPAGE;
  }
  memory.pages.page_add_rmap(page);
  memory.pgtable.set_pte(here, pte, entryFor(here, memory, vma, page, flags));
  return ret;
}

/** The entry for a page of a mapping; dirty when it is being written and may be. */
function entryFor(here: ThisCpu, memory: Memory, vma: Vma, page: number, flags: number): bigint {
  const { pgtable } = memory;
  const entry = pgtable.mk_pte(page, vm_page_prot(here, memory, vma));
  const writes = (flags & FAULT_FLAG_WRITE) !== 0 && (vma.vm_flags & VM_WRITE) !== 0;
  return writes ? pgtable.pte_mkdirty(entry) : entry;
}
