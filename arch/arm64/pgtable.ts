/**
 * Page-table entries of arm64 with a 4 KiB granule, 48-bit addresses and 4 levels: predicates and accessors
 * under the kernel's names.
 *
 * Ported from arch/arm64/include/asm/pgtable.h, and pgattr_change_is_safe() of arch/arm64/mm/mmu.c, bpf-next
 * merge 8496d9020ff3. Left out: POE, GCS, migration entries, folding and unfolding of contiguous ranges (for
 * init_mm neither happens, and nothing sets PTE_CONT on a live entry of a user), and barriers: the lab's
 * stores are seen at once.
 */
import type { LevelName } from '../../emu/events.js';
import type { Pgtable, Ptep, ThisCpu } from '../arch.js';
import type { KernelConfig } from '../kernel-config.js';
import {
  MT_NORMAL,
  MT_NORMAL_TAGGED,
  PMD_TYPE_MASK,
  PMD_TYPE_SECT,
  PMD_TYPE_TABLE,
  PTE_ADDR_LOW,
  PTE_AF,
  PTE_ATTRINDX,
  PTE_ATTRINDX_MASK,
  PTE_CONT,
  PTE_NG,
  PTE_PXN,
  PTE_RDONLY,
  PTE_SWBITS_MASK,
  PTE_USER,
  PTE_UXN,
  PTE_VALID,
  TABLE_ADDR,
} from './pgtable-hwdef.js';
import * as prot from './pgtable-prot.js';
import { PTE_DIRTY, PTE_PRESENT_INVALID, PTE_WRITE, type TableOwner, tableProt } from './pgtable-prot.js';

export function pte_none(v: bigint): boolean {
  return v === 0n;
}
export function pte_valid(v: bigint): boolean {
  return (v & PTE_VALID) !== 0n;
}
export function pte_present_invalid(v: bigint): boolean {
  return (v & (PTE_VALID | PTE_PRESENT_INVALID)) === PTE_PRESENT_INVALID;
}
export function pte_present(v: bigint): boolean {
  return pte_valid(v) || pte_present_invalid(v);
}
export function pte_write(v: bigint): boolean {
  return (v & PTE_WRITE) !== 0n;
}
export function pte_rdonly(v: bigint): boolean {
  return (v & PTE_RDONLY) !== 0n;
}
export function pte_user(v: bigint): boolean {
  return (v & PTE_USER) !== 0n;
}
export function pte_young(v: bigint): boolean {
  return (v & PTE_AF) !== 0n;
}
export function pte_user_exec(v: bigint): boolean {
  return (v & PTE_UXN) === 0n;
}
export function pte_hw_dirty(v: bigint): boolean {
  return pte_write(v) && !pte_rdonly(v);
}
export function pte_dirty(v: bigint): boolean {
  return (v & PTE_DIRTY) !== 0n || pte_hw_dirty(v);
}
/** A writable entry stops being read-only for hardware: that is what makes it dirty. */
export function pte_mkdirty(v: bigint): bigint {
  return (pte_write(v) ? v & ~PTE_RDONLY : v) | PTE_DIRTY;
}
/** A valid entry of the kernel's own. */
export function pte_valid_not_user(v: bigint): boolean {
  return (v & (PTE_VALID | PTE_USER | PTE_UXN)) === (PTE_VALID | PTE_UXN);
}
export function pte_pfn(v: bigint): bigint {
  return (v & PTE_ADDR_LOW) >> 12n;
}
/** pte_pfn() << PAGE_SHIFT */
export function pte_pa(v: bigint): number {
  return Number(v & PTE_ADDR_LOW);
}
function pte_mknoncont(v: bigint): bigint {
  return v & ~PTE_CONT;
}

/**
 * Swap entries: neither valid nor present-invalid, and not zero. Type in bits 10:6, offset in 61:12; bits 2
 * and 3 are about the page.
 */
export function is_swap_pte(v: bigint): boolean {
  return !pte_none(v) && !pte_present(v);
}
export function __swp_type(v: bigint): number {
  return Number((v >> 6n) & 0x1fn);
}
export function __swp_offset(v: bigint): bigint {
  return (v >> 12n) & ((1n << 50n) - 1n);
}
export function pte_swp_exclusive(v: bigint): boolean {
  return (v & (1n << 2n)) !== 0n;
}
export function pte_swp_uffd_wp(v: bigint): boolean {
  return (v & (1n << 3n)) !== 0n;
}

// PMD and PUD entries answer alike; so do p4d_none() and p4d_bad(). The folded PGD is never none or bad.
export function pmd_none(v: bigint): boolean {
  return v === 0n;
}
export function pmd_valid(v: bigint): boolean {
  return pte_valid(v);
}
export function pmd_table(v: bigint): boolean {
  return (v & PMD_TYPE_MASK) === PMD_TYPE_TABLE;
}
export function pmd_bad(v: bigint): boolean {
  return !pmd_table(v);
}
export function pmd_present(v: bigint): boolean {
  return pte_present(v);
}
export function pmd_leaf(v: bigint): boolean {
  return pmd_present(v) && !pmd_table(v);
}
/** There is no present-invalid at this level: whatever is not none is present. */
export function p4d_present(v: bigint): boolean {
  return v !== 0n;
}
export function pgd_none(_v: bigint): boolean {
  return false;
}
export function pgd_bad(_v: bigint): boolean {
  return false;
}
/** Physical address of the table behind a table descriptor. */
export function tablePa(v: bigint): number {
  return Number(v & TABLE_ADDR);
}

/** Are these two memory types one, as far as mismatched aliases go? */
function isNormal(v: bigint): boolean {
  const attrindx = v & PTE_ATTRINDX_MASK;
  return attrindx === PTE_ATTRINDX(MT_NORMAL) || attrindx === PTE_ATTRINDX(MT_NORMAL_TAGGED);
}

/**
 * May a live kernel entry be changed from `old` to `value` in one store? Everything else must go through an
 * invalid entry and a TLB flush: break before make.
 */
export function pgattr_change_is_safe(old: bigint, value: bigint): boolean {
  if (!pte_valid(old) || !pte_valid(value)) return true;
  if (pte_pfn(old) !== pte_pfn(value)) return false;
  if (((old | value) & PTE_CONT) !== 0n) return false;
  // From non-global to global: the TLB may hold both.
  if ((old & ~value & PTE_NG) !== 0n) return false;
  let mask = PTE_PXN | PTE_RDONLY | PTE_WRITE | PTE_NG | PTE_SWBITS_MASK;
  if (isNormal(old) && isNormal(value)) mask |= PTE_ATTRINDX_MASK;
  return ((old ^ value) & ~mask) === 0n;
}

/** Bits that differ between two configurations of the same kernel: nG, and the fate of ptep_try_set(). */
export class Arm64Pgtable implements Pgtable {
  readonly PAGE_KERNEL: bigint;
  readonly PAGE_KERNEL_RO: bigint;
  readonly PAGE_KERNEL_ROX: bigint;
  readonly PAGE_KERNEL_EXEC: bigint;
  readonly PAGE_LINEAR: bigint;
  readonly PAGE_SHARED = prot.PAGE_SHARED;
  readonly PAGE_SHARED_EXEC = prot.PAGE_SHARED_EXEC;
  readonly PAGE_READONLY = prot.PAGE_READONLY;
  readonly PAGE_READONLY_EXEC = prot.PAGE_READONLY_EXEC;

  readonly pte_none = pte_none;
  readonly pte_present = pte_present;
  readonly pte_write = pte_write;
  readonly pte_dirty = pte_dirty;
  readonly pte_young = pte_young;
  readonly pte_mkdirty = pte_mkdirty;
  readonly pte_pa = pte_pa;
  readonly pmd_none = pmd_none;
  readonly pmd_bad = pmd_bad;
  readonly pmd_present = pmd_present;
  readonly pmd_leaf = pmd_leaf;
  readonly pud_none = pmd_none;
  readonly pud_bad = pmd_bad;
  readonly pud_present = pmd_present;
  readonly pud_leaf = pmd_leaf;
  readonly p4d_none = pmd_none;
  readonly p4d_bad = pmd_bad;
  readonly p4d_present = p4d_present;
  readonly tablePa = tablePa;
  readonly ptep_try_set_is_stub: boolean;
  /** Break-before-make. */
  readonly flushes_tlb_before_set = true;
  readonly #contpte: boolean;

  constructor(config: KernelConfig) {
    const ng = config.KPTI ? PTE_NG : 0n;
    this.PAGE_KERNEL = prot.PAGE_KERNEL | ng;
    this.PAGE_KERNEL_RO = prot.PAGE_KERNEL_RO | ng;
    this.PAGE_KERNEL_ROX = prot.PAGE_KERNEL_ROX | ng;
    this.PAGE_KERNEL_EXEC = prot.PAGE_KERNEL_EXEC | ng;
    this.PAGE_LINEAR = prot.pgprot_tagged(this.PAGE_KERNEL);
    this.#contpte = config.ARM64_CONTPTE;
    this.ptep_try_set_is_stub = !config.ARM64_CONTPTE;
  }

  mk_pte(pa: number, pgprot: bigint): bigint {
    return pgprot | BigInt(pa);
  }

  mk_pmd(pa: number, pgprot: bigint): bigint {
    return (pgprot & ~PMD_TYPE_MASK) | PMD_TYPE_SECT | BigInt(pa);
  }

  mk_pud(pa: number, pgprot: bigint): bigint {
    return this.mk_pmd(pa, pgprot);
  }

  tableEntry(_level: 'pgd' | 'pud' | 'pmd', pa: number, owner: TableOwner): bigint {
    return tableProt(owner) | BigInt(pa);
  }

  ptep_get(here: ThisCpu, ptep: Ptep): bigint {
    return here.ram.readU64(ptep);
  }

  /** __set_pte(): the store as it is. */
  set_pte(here: ThisCpu, ptep: Ptep, value: bigint): void {
    store(here, 'set_pte', 'pte', ptep, value);
  }

  /** set_ptes() with nr = 1. With CONFIG_ARM64_CONTPTE only folding makes contiguous entries, never a caller. */
  set_pte_at(here: ThisCpu, ptep: Ptep, value: bigint): void {
    store(here, 'set_pte_at', 'pte', ptep, this.#contpte ? pte_mknoncont(value) : value);
  }

  pte_clear(here: ThisCpu, ptep: Ptep): void {
    store(here, 'pte_clear', 'pte', ptep, 0n);
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

  ptep_get_and_clear(here: ThisCpu, ptep: Ptep): bigint {
    return store(here, 'ptep_get_and_clear', 'pte', ptep, 0n);
  }

  /**
   * Without CONFIG_ARM64_CONTPTE the override is not compiled and the generic stub answers: it touches
   * nothing, so there is no event either.
   */
  ptep_try_set(here: ThisCpu, ptep: Ptep, value: bigint): boolean {
    if (!this.#contpte) return false;
    const old = here.ram.readU64(ptep);
    const changed = old === 0n;
    if (changed) here.ram.writeU64(ptep, value);
    if (!here.trace.listening) return changed;
    here.trace.emit({
      type: 'pte-write',
      cpu: here.trace.cpu,
      by: 'ptep_try_set',
      level: 'pte',
      pa: ptep,
      old,
      value,
      changed,
    });
    return changed;
  }
}

function store(here: ThisCpu, by: string, level: LevelName, pa: number, value: bigint): bigint {
  const old = here.ram.readU64(pa);
  here.ram.writeU64(pa, value);
  if (here.trace.listening) {
    here.trace.emit({ type: 'pte-write', cpu: here.trace.cpu, by, level, pa, old, value, changed: true });
  }
  return old;
}

/** The page-table format of a kernel built with `config`. */
export function createPgtable(config: KernelConfig): Arm64Pgtable {
  return new Arm64Pgtable(config);
}
