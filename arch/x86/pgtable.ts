/**
 * Page-table entries of x86-64: predicates, changes and accessors under the kernel's names.
 *
 * Ported from arch/x86/include/asm/{pgtable,pgtable_64,pgtable-invert,pgalloc}.h, bpf-next merge
 * 8496d9020ff3. The kernel asks the CPU at run time whether it has a fifth level and shadow stacks; here
 * that is an argument, false for the CPU modelled. Left out: the warning of pfn_pte() about a protection
 * with D and without RW, the user copy of the root under PTI, the kernel's page-table check, and atomicity:
 * nothing runs between the read and the store.
 */
import type { LevelName } from '../../emu/events.js';
import type { Pgtable, Ptep, ThisCpu } from '../arch.js';
import type { KernelConfig } from '../kernel-config.js';
import {
  __PAGE_KERNEL,
  __PAGE_KERNEL_EXEC,
  __PAGE_KERNEL_RO,
  __PAGE_KERNEL_ROX,
  _KERNPG_TABLE,
  _PAGE_ACCESSED,
  _PAGE_DIRTY,
  _PAGE_DIRTY_BITS,
  _PAGE_GLOBAL,
  _PAGE_KNL_ERRATUM_MASK,
  _PAGE_NX,
  _PAGE_PRESENT,
  _PAGE_PROTNONE,
  _PAGE_PSE,
  _PAGE_RW,
  _PAGE_SAVED_DIRTY,
  _PAGE_SOFT_DIRTY,
  _PAGE_SPECIAL,
  _PAGE_TABLE,
  _PAGE_USER,
  P4D_SHIFT,
  PAGE_READONLY,
  PAGE_READONLY_EXEC,
  PAGE_SHARED,
  PAGE_SHARED_EXEC,
  PAGE_SHIFT,
  PGDIR_SHIFT_L5,
  PHYSICAL_PMD_PAGE_MASK,
  PHYSICAL_PUD_PAGE_MASK,
  PMD_SHIFT,
  PTE_FLAGS_MASK,
  PTE_PFN_MASK,
  PTRS_PER_PTE,
  PUD_SHIFT,
  protval_4k_2_large,
} from './pgtable-types.js';

/** pgtable-invert.h: does the entry hold its frame number inverted (L1TF)? */
function __pte_needs_invert(v: bigint): boolean {
  return v !== 0n && (v & _PAGE_PRESENT) === 0n;
}
export function protnone_mask(v: bigint): bigint {
  return __pte_needs_invert(v) ? 0xffff_ffff_ffff_ffffn : 0n;
}
/** `val` with the bits under `mask` inverted if the change from `oldval` asks for it. */
export function flip_protnone_guard(oldval: bigint, val: bigint, mask: bigint): bigint {
  if (__pte_needs_invert(oldval) === __pte_needs_invert(val)) return val;
  return (val & ~mask) | (~val & mask);
}

const frame = (v: bigint, mask: bigint): number => Number((v & mask) >> PAGE_SHIFT);

/** Nearly always asked of 0, for which no bigint has to be made. */
export function pte_none(v: bigint): boolean {
  return v === 0n || (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function pte_present(v: bigint): boolean {
  return (v & (_PAGE_PRESENT | _PAGE_PROTNONE)) !== 0n;
}
export function pte_same(a: bigint, b: bigint): boolean {
  return a === b;
}
export function pte_flags(v: bigint): bigint {
  return v & PTE_FLAGS_MASK;
}
/** The frame of a page, 4 KiB each. */
export function pte_pfn(v: bigint): number {
  return frame(v ^ protnone_mask(v), PTE_PFN_MASK);
}
/** pte_pfn() << PAGE_SHIFT */
export function pte_pa(v: bigint): number {
  return Number((v ^ protnone_mask(v)) & PTE_PFN_MASK);
}
/** @param shstk the CPU has shadow stacks (X86_FEATURE_SHSTK): they are written, although not by a mov */
export function pte_write(v: bigint, shstk = false): boolean {
  return (v & _PAGE_RW) !== 0n || (shstk && (v & (_PAGE_RW | _PAGE_DIRTY)) === _PAGE_DIRTY);
}
export function pte_exec(v: bigint): boolean {
  return (v & _PAGE_NX) === 0n;
}
export function pte_dirty(v: bigint): boolean {
  return (v & _PAGE_DIRTY_BITS) !== 0n;
}
export function pte_young(v: bigint): boolean {
  return (v & _PAGE_ACCESSED) !== 0n;
}
export function pte_huge(v: bigint): boolean {
  return (v & _PAGE_PSE) !== 0n;
}
export function pte_global(v: bigint): boolean {
  return (v & _PAGE_GLOBAL) !== 0n;
}
export function pte_special(v: bigint): boolean {
  return (v & _PAGE_SPECIAL) !== 0n;
}
/** With CONFIG_NUMA_BALANCING; PROT_NONE looks the same. */
export function pte_protnone(v: bigint): boolean {
  return (v & (_PAGE_PROTNONE | _PAGE_PRESENT)) === _PAGE_PROTNONE;
}
/** May a TLB hold the entry? One made PROT_NONE stays in TLBs until the flush that is due. */
export function pte_accessible(mm: { readonly tlb_flush_pending: boolean }, v: bigint): boolean {
  return (v & _PAGE_PRESENT) !== 0n || (pte_protnone(v) && mm.tlb_flush_pending);
}

/** D of an entry without RW goes to bit 58: with D it would be a shadow stack. */
export function mksaveddirty_shift(v: bigint): bigint {
  return (v & (_PAGE_RW | _PAGE_DIRTY)) === _PAGE_DIRTY ? (v & ~_PAGE_DIRTY) | _PAGE_SAVED_DIRTY : v;
}
/** The way back, for an entry with RW. */
export function clear_saveddirty_shift(v: bigint): bigint {
  const both = _PAGE_RW | _PAGE_SAVED_DIRTY;
  return (v & both) === both ? (v & ~_PAGE_SAVED_DIRTY) | _PAGE_DIRTY : v;
}
export function pte_wrprotect(v: bigint): bigint {
  return mksaveddirty_shift(v & ~_PAGE_RW);
}
export function pte_mkdirty(v: bigint): bigint {
  return mksaveddirty_shift(v | _PAGE_DIRTY | _PAGE_SOFT_DIRTY);
}
export function pte_mkclean(v: bigint): bigint {
  return v & ~_PAGE_DIRTY_BITS;
}
export function pte_mkwrite_novma(v: bigint): bigint {
  return v | _PAGE_RW;
}

export function pmd_none(v: bigint): boolean {
  return v === 0n || (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function pmd_leaf(v: bigint): boolean {
  return (v & _PAGE_PSE) !== 0n;
}
export function pmd_pfn_mask(v: bigint): bigint {
  return pmd_leaf(v) ? PHYSICAL_PMD_PAGE_MASK : PTE_PFN_MASK;
}
export function pmd_flags(v: bigint): bigint {
  return v & ~pmd_pfn_mask(v);
}
export function pmd_pfn(v: bigint): number {
  return frame(v ^ protnone_mask(v), pmd_pfn_mask(v));
}
export function pmd_present(v: bigint): boolean {
  return (v & (_PAGE_PRESENT | _PAGE_PROTNONE | _PAGE_PSE)) !== 0n;
}
export function pmd_bad(v: bigint): boolean {
  return (pmd_flags(v) & ~(_PAGE_USER | _PAGE_ACCESSED)) !== (_KERNPG_TABLE & ~_PAGE_ACCESSED);
}
/** @param shstk as in pte_write(); here only a leaf can be one */
export function pmd_write(v: bigint, shstk = false): boolean {
  const leaf = _PAGE_DIRTY | _PAGE_PSE;
  return (v & _PAGE_RW) !== 0n || (shstk && (v & (_PAGE_RW | leaf)) === leaf);
}
export function pmd_protnone(v: bigint): boolean {
  return (v & (_PAGE_PROTNONE | _PAGE_PRESENT)) === _PAGE_PROTNONE;
}

export function pud_none(v: bigint): boolean {
  return v === 0n || (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function pud_leaf(v: bigint): boolean {
  return (v & _PAGE_PSE) !== 0n;
}
export function pud_pfn_mask(v: bigint): bigint {
  return pud_leaf(v) ? PHYSICAL_PUD_PAGE_MASK : PTE_PFN_MASK;
}
export function pud_flags(v: bigint): bigint {
  return v & ~pud_pfn_mask(v);
}
export function pud_pfn(v: bigint): number {
  return frame(v ^ protnone_mask(v), pud_pfn_mask(v));
}
export function pud_present(v: bigint): boolean {
  return (v & _PAGE_PRESENT) !== 0n;
}
export function pud_bad(v: bigint): boolean {
  return (pud_flags(v) & ~(_KERNPG_TABLE | _PAGE_USER)) !== 0n;
}
export function pud_write(v: bigint): boolean {
  return (v & _PAGE_RW) !== 0n;
}

export function p4d_none(v: bigint): boolean {
  return v === 0n || (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function p4d_present(v: bigint): boolean {
  return (v & _PAGE_PRESENT) !== 0n;
}
/** No CPU has pages of 512 GiB. */
export function p4d_leaf(_v: bigint): boolean {
  return false;
}
export function p4d_flags(v: bigint): bigint {
  return v & PTE_FLAGS_MASK;
}
export function p4d_pfn(v: bigint): number {
  return frame(v, PTE_PFN_MASK);
}
/** With CONFIG_MITIGATION_PAGE_TABLE_ISOLATION built in, NX is tolerated too; kfault's kernel has it built in. */
export function p4d_bad(v: bigint): boolean {
  return (p4d_flags(v) & ~(_KERNPG_TABLE | _PAGE_USER | _PAGE_NX)) !== 0n;
}

// With four levels the PGD is folded into the P4D: its own checks always pass.
/** @param l5 pgtable_l5_enabled() */
export function pgd_none(v: bigint, l5 = false): boolean {
  return l5 && v === 0n;
}
export function pgd_present(v: bigint, l5 = false): boolean {
  return !l5 || (v & _PAGE_PRESENT) !== 0n;
}
export function pgd_bad(v: bigint, l5 = false): boolean {
  return l5 && (pgd_flags(v) & ~(_PAGE_USER | _PAGE_NX)) !== _KERNPG_TABLE;
}
export function pgd_leaf(_v: bigint): boolean {
  return false;
}
export function pgd_flags(v: bigint): bigint {
  return v & PTE_FLAGS_MASK;
}
export function pgd_pfn(v: bigint): number {
  return frame(v, PTE_PFN_MASK);
}

/** Physical address of the table a non-leaf entry points to. */
export function tablePa(v: bigint): number {
  return Number(v & PTE_PFN_MASK);
}

/**
 * Index of `va` in a table of `level`.
 * @param l5 pgtable_l5_enabled(); without it PGD and P4D are the same table
 */
export function tableIndex(level: LevelName, va: bigint, l5 = false): number {
  return Number((va >> shiftOf(level, l5)) & (PTRS_PER_PTE - 1n));
}

function shiftOf(level: LevelName, l5: boolean): bigint {
  switch (level) {
    case 'pgd':
      return l5 ? PGDIR_SHIFT_L5 : P4D_SHIFT;
    case 'p4d':
      return P4D_SHIFT;
    case 'pud':
      return PUD_SHIFT;
    case 'pmd':
      return PMD_SHIFT;
    case 'pte':
      return PAGE_SHIFT;
  }
}

/** Physical address of the entry for `va` in the table at physical `table`: pgd_offset_pgd() and friends. */
export function entryPa(level: LevelName, table: number, va: bigint, l5 = false): number {
  return table + 8 * tableIndex(level, va, l5);
}

/** With four levels the PGD entry itself; else the entry in the table to which the PGD entry points. */
export function p4d_offset(pgdp: Ptep, pgd: bigint, va: bigint, l5 = false): Ptep {
  return l5 ? entryPa('p4d', tablePa(pgd), va, l5) : pgdp;
}

/**
 * The entry for a frame.
 * @param supported __supported_pte_mask: without the bits that this CPU lacks (NX, G); they count only in
 *   entries that hardware reads
 */
export function pfn_pte(pfn: number, prot: bigint, supported = -1n): bigint {
  const flags = (prot & _PAGE_PRESENT) === 0n ? prot : prot & supported;
  return framed(BigInt(pfn) << PAGE_SHIFT, PTE_PFN_MASK, flags);
}

/** The address bits under `mask`, inverted if the flags ask for it, and the flags. */
function framed(pa: bigint, mask: bigint, flags: bigint): bigint {
  return ((pa ^ protnone_mask(flags)) & mask) | flags;
}

class X86Pgtable implements Pgtable {
  readonly PAGE_KERNEL: bigint;
  readonly PAGE_KERNEL_RO: bigint;
  readonly PAGE_KERNEL_ROX: bigint;
  readonly PAGE_KERNEL_EXEC: bigint;
  readonly PAGE_LINEAR: bigint;
  readonly PAGE_SHARED = PAGE_SHARED;
  readonly PAGE_SHARED_EXEC = PAGE_SHARED_EXEC;
  readonly PAGE_READONLY = PAGE_READONLY;
  readonly PAGE_READONLY_EXEC = PAGE_READONLY_EXEC;

  readonly pte_none = pte_none;
  readonly pte_present = pte_present;
  readonly pte_write: (v: bigint) => boolean = pte_write;
  readonly pte_dirty = pte_dirty;
  readonly pte_mkdirty = pte_mkdirty;
  readonly pte_young = pte_young;
  readonly pte_pa = pte_pa;
  readonly pmd_none = pmd_none;
  readonly pmd_bad = pmd_bad;
  readonly pmd_present = pmd_present;
  readonly pmd_leaf = pmd_leaf;
  readonly pud_none = pud_none;
  readonly pud_bad = pud_bad;
  readonly pud_present = pud_present;
  readonly pud_leaf = pud_leaf;
  readonly p4d_none = p4d_none;
  readonly p4d_bad = p4d_bad;
  readonly p4d_present = p4d_present;
  readonly tablePa = tablePa;

  readonly ptep_get_and_clear = ptep_get_and_clear;
  readonly ptep_try_set = ptep_try_set;

  constructor(config: KernelConfig) {
    // __default_kernel_pte_mask: with PTI no kernel entry is global.
    const mask = config.PTI ? ~_PAGE_GLOBAL : -1n;
    this.PAGE_KERNEL = __PAGE_KERNEL & mask;
    this.PAGE_KERNEL_RO = __PAGE_KERNEL_RO & mask;
    this.PAGE_KERNEL_ROX = __PAGE_KERNEL_ROX & mask;
    this.PAGE_KERNEL_EXEC = __PAGE_KERNEL_EXEC & mask;
    this.PAGE_LINEAR = this.PAGE_KERNEL;
  }

  mk_pte(pa: number, prot: bigint): bigint {
    return framed(BigInt(pa), PTE_PFN_MASK, prot);
  }

  mk_pmd(pa: number, prot: bigint): bigint {
    return framed(BigInt(pa), PHYSICAL_PMD_PAGE_MASK, large(prot));
  }

  mk_pud(pa: number, prot: bigint): bigint {
    return framed(BigInt(pa), PHYSICAL_PUD_PAGE_MASK, large(prot));
  }

  /** p4d_populate(), pud_populate() and both pmd_populate() give tables of the kernel the user bit as well. */
  tableEntry(_level: 'pgd' | 'pud' | 'pmd', pa: number, _owner: 'kernel' | 'user'): bigint {
    return BigInt(pa) | _PAGE_TABLE;
  }

  ptep_get(here: ThisCpu, ptep: Ptep): bigint {
    return here.ram.readU64(ptep);
  }

  set_pte(here: ThisCpu, ptep: Ptep, value: bigint): void {
    store(here, 'set_pte', 'pte', ptep, value);
  }
  set_pmd(here: ThisCpu, pmdp: Ptep, value: bigint): void {
    store(here, 'set_pmd', 'pmd', pmdp, value);
  }
  set_pud(here: ThisCpu, pudp: Ptep, value: bigint): void {
    store(here, 'set_pud', 'pud', pudp, value);
  }
  set_p4d(here: ThisCpu, p4dp: Ptep, value: bigint): void {
    store(here, 'set_p4d', 'p4d', p4dp, value);
  }
}

/** pgprot_4k_2_large(), and the bit that makes the entry a leaf. */
function large(prot: bigint): bigint {
  return protval_4k_2_large(prot) | _PAGE_PSE;
}

/** One store of 8 bytes; returns what was there. No TLB is flushed. */
function store(here: ThisCpu, by: string, level: LevelName, pa: Ptep, value: bigint): bigint {
  const { ram } = here;
  const old = ram.readU64(pa);
  ram.writeU64(pa, value);
  report(here, by, level, pa, old, value, true);
  return old;
}

function report(
  { trace }: ThisCpu,
  by: string,
  level: LevelName,
  pa: Ptep,
  old: bigint,
  value: bigint,
  changed: boolean,
): void {
  if (!trace.listening) return;
  trace.emit({ type: 'pte-write', cpu: trace.cpu, by, level, pa, old, value, changed });
}

/** set_ptes() of one entry. `mm` and `addr` are for the page-table check and not taken. */
export function set_pte_at(here: ThisCpu, ptep: Ptep, value: bigint): void {
  store(here, 'set_pte_at', 'pte', ptep, value);
}

export function pte_clear(here: ThisCpu, ptep: Ptep): void {
  store(here, 'pte_clear', 'pte', ptep, 0n);
}

/** Exchanges the whole word for 0, stray A and D included. */
export function ptep_get_and_clear(here: ThisCpu, ptep: Ptep): bigint {
  return store(here, 'ptep_get_and_clear', 'pte', ptep, 0n);
}

export function ptep_set_wrprotect(here: ThisCpu, ptep: Ptep): void {
  store(here, 'ptep_set_wrprotect', 'pte', ptep, pte_wrprotect(here.ram.readU64(ptep)));
}

/** Narrower than pte_none(): a word with a stray A or D stays. */
export function ptep_try_set(here: ThisCpu, ptep: Ptep, value: bigint): boolean {
  const { ram } = here;
  const old = ram.readU64(ptep);
  const changed = old === 0n;
  if (changed) ram.writeU64(ptep, value);
  report(here, 'ptep_try_set', 'pte', ptep, old, value, changed);
  return changed;
}

/** The page-table format of a kernel built with `config`. */
export function createPgtable(config: KernelConfig): Pgtable {
  return new X86Pgtable(config);
}
