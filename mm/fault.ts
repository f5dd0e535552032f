/**
 * User faults behind the architecture's part: lock_mm_and_find_vma() of mm/mmap_lock.c, and
 * handle_mm_fault() of mm/memory.c with handle_pte_fault(), do_anonymous_page() and do_fault()
 * (bpf-next merge 8496d9020ff3).
 *
 * Left out: the shared zero page (a read of untouched anonymous memory gets a page of its own, mapped
 * with the rights of the VMA), copy on write, swap, huge pages, userfaultfd, per-VMA locks, NUMA. A
 * present entry that refused the access is made anew from the VMA's rights.
 */
import type { Ptep, ThisCpu } from '../arch/arch.js';
import {
  FAULT_FLAG_WRITE,
  type mm_struct,
  type pt_regs,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGSEGV,
  VM_GROWSDOWN,
  VM_WRITE,
  type vm_area_struct,
} from '../arch/kernel.js';
import { pageOf, toSigned } from '../emu/address.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { entryAt, isStop, PTE } from './descend.js';
import type { Memory } from './memory.js';
import {
  expand_stack_locked,
  find_vma,
  MmapError,
  UserMm,
  Vma,
  type vm_fault,
  vm_page_prot,
} from './mmap.js';

/** Owner name of anonymous pages. */
export const ANONYMOUS_OWNER = 'anonymous';

/** User memory as the fault handlers of the architectures see it: part of `Kernel`. */
export class UserMemory {
  #injected = 0;
  #times = 0;

  constructor(readonly memory: Memory) {}

  /** Makes the next `times` handle_mm_fault() end with these VM_FAULT_* bits before anything is looked at. */
  failNext(fault: number, times = 1): void {
    this.#injected = fault;
    this.#times = times;
  }

  /** Takes one of the results asked for: VM_FAULT_* bits, 0 when there is none (left). */
  takeFailure(): number {
    if (this.#times <= 0) return 0;
    this.#times -= 1;
    return this.#injected;
  }

  /**
   * The mapping of a user address, with a stack grown down to it if need be; null when there is none or
   * the lock cannot be had.
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
    return handle_mm_fault(here, this, vma, address, flags, regs);
  }
}

const lock_mm_and_find_vma = port(
  'lock_mm_and_find_vma',
  ['mm', 'addr', 'regs'],
  function* (here: ThisCpu, mm: mm_struct, addr: bigint, regs: pt_regs): Path<vm_area_struct | null> {
    const { trace } = here;
    const fn = 'lock_mm_and_find_vma';
    // init_mm has no mappings.
    if (!(mm instanceof UserMm)) return null;

    const locked = !mm.contended || mayWaitForLock(here, regs);
    if (yield* trace.decide(fn, '!get_mmap_lock_carefully(mm, regs)', !locked)) return null;
    const vma = find_vma(mm, addr);
    const covered = vma !== null && vma.vm_start <= addr;
    if ((yield* trace.decide(fn, 'vma && vma->vm_start <= addr', covered)) && vma !== null) return vma;

    const stack = vma !== null && (vma.vm_flags & VM_GROWSDOWN) !== 0;
    if ((yield* trace.decide(fn, '!vma || !(vma->vm_flags & VM_GROWSDOWN)', !stack)) || vma === null)
      return null;
    const upgraded = mayWaitForLock(here, regs);
    if (yield* trace.decide(fn, '!upgrade_mmap_lock_carefully(mm, regs)', !upgraded)) return null;
    const err = expand_stack_locked(vma, addr);
    if ((yield* trace.decide(fn, 'expand_stack_locked(vma, addr)', err)) !== 0) return null;
    return vma;
  },
);

/** Kernel code may wait for the lock only where a fault is expected. */
function mayWaitForLock(here: ThisCpu, regs: pt_regs): boolean {
  return regs.user_mode || here.kernel.search_exception_tables(regs.instruction_pointer) !== null;
}

const handle_mm_fault = port(
  'handle_mm_fault',
  ['user', 'vma', 'address', 'flags', 'regs'],
  function* (
    here: ThisCpu,
    user: UserMemory,
    vma: vm_area_struct,
    address: bigint,
    flags: number,
    _regs: pt_regs,
  ): Path<number> {
    const { trace } = here;
    const fn = 'handle_mm_fault';
    if (!(vma instanceof Vma)) throw new MmapError('handle_mm_fault() of a mapping that mm/ did not make');
    const mm = vma.vm_mm;
    const injected = user.takeFailure();
    if (injected !== 0) return yield* trace.decide(fn, 'injected', injected);

    const at = entryAt(here, mm.memory, mm, toSigned(pageOf(address)), PTE, true);
    if (yield* trace.decide('__handle_mm_fault', '!p4d || !vmf.pud || !vmf.pmd || !vmf.pte', at < 0)) {
      return isStop(at) ? VM_FAULT_SIGSEGV : VM_FAULT_OOM;
    }
    return yield* handle_pte_fault(here, vma, pageOf(address), flags, at);
  },
);

const handle_pte_fault = port(
  'handle_pte_fault',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number, pte: Ptep): Path<number> {
    const { trace } = here;
    const { memory } = vma.vm_mm;
    const { pgtable } = memory;
    const fn = 'handle_pte_fault';
    const entry = pgtable.ptep_get(here, pte);
    if (yield* trace.decide(fn, '!vmf->pte', pgtable.pte_none(entry))) {
      const anonymous = vma.vm_ops === null;
      if (yield* trace.decide('do_pte_missing', 'vma_is_anonymous(vmf->vma)', anonymous)) {
        return yield* do_anonymous_page(here, vma, address, pte);
      }
      return yield* do_fault(here, vma, address, flags, pte);
    }
    if (yield* trace.decide(fn, '!pte_present(vmf->orig_pte)', !pgtable.pte_present(entry))) {
      return VM_FAULT_SIGSEGV;
    }

    // Another CPU may have mapped the page in the meantime, or the entry is old, clean or stale.
    const dirty = pgtable.pte_dirty(entry) ? FAULT_FLAG_WRITE : 0;
    const changed = entryFor(memory, vma, pgtable.pte_pa(entry), flags | dirty);
    if (yield* trace.decide(fn, 'ptep_set_access_flags()', changed !== entry)) {
      pgtable.set_pte(here, pte, changed);
    }
    return 0;
  },
);

const do_anonymous_page = port(
  'do_anonymous_page',
  ['vma', 'address', 'pte'],
  function* (here: ThisCpu, vma: Vma, _address: bigint, pte: Ptep): Path<number> {
    const { memory } = vma.vm_mm;
    const { pages, pgtable } = memory;
    const page = pages.alloc_page(here, ANONYMOUS_OWNER);
    if ((yield* here.trace.decide('do_anonymous_page', '!folio', page === null)) || page === null) {
      return VM_FAULT_OOM;
    }
    pages.page_add_rmap(page);
    // Unlike a page of a file, it is made dirty at once where it may be written.
    const flags = (vma.vm_flags & VM_WRITE) === 0 ? 0 : FAULT_FLAG_WRITE;
    pgtable.set_pte(here, pte, entryFor(memory, vma, page, flags));
    return 0;
  },
);

const do_fault = port(
  'do_fault',
  ['vma', 'address', 'flags', 'pte'],
  function* (here: ThisCpu, vma: Vma, address: bigint, flags: number, pte: Ptep): Path<number> {
    const { trace } = here;
    const { memory } = vma.vm_mm;
    const { vm_ops } = vma;
    if (vm_ops === null) throw new MmapError('do_fault() of anonymous memory');
    const pgoff = Number((address - vma.vm_start) >> 12n);
    const vmf: vm_fault = { vma, address, pgoff, flags, page: null };
    const ret = yield* vm_ops.fault(here, vmf);
    const refused = (ret & (VM_FAULT_ERROR | VM_FAULT_RETRY | VM_FAULT_COMPLETED)) !== 0;
    const test = 'ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY | VM_FAULT_DONE_COW)';
    if (yield* trace.decide('__do_fault', test, refused)) return ret;
    const { page } = vmf;
    if (page === null) throw new MmapError('vm_ops->fault() succeeded without a page');
    memory.pages.page_add_rmap(page);
    memory.pgtable.set_pte(here, pte, entryFor(memory, vma, page, flags));
    return ret;
  },
);

/** The entry for a page of a mapping; dirty when it is being written and may be. */
function entryFor(memory: Memory, vma: Vma, page: number, flags: number): bigint {
  const { pgtable } = memory;
  const entry = pgtable.mk_pte(page, vm_page_prot(memory, vma));
  const writes = (flags & FAULT_FLAG_WRITE) !== 0 && (vma.vm_flags & VM_WRITE) !== 0;
  return writes ? pgtable.pte_mkdirty(entry) : entry;
}
