/**
 * Page-table entries of arm64 with a 4 KiB granule, 48-bit addresses and 4 levels: bits, predicates and
 * accessors under the kernel's names.
 *
 * Ported from arch/arm64/include/asm/{pgtable-hwdef,pgtable-prot,pgtable,pgalloc}.h, bpf-next merge
 * 8496d9020ff3. Left out: LPA2, POE, GCS, swap and migration entries, folding and unfolding of contiguous
 * ranges (nothing here sets PTE_CONT on a live entry), and barriers: the lab's stores are seen at once.
 */
import type { LevelName } from '../../emu/events.js';
import type { Pgtable, Ptep, ThisCpu } from '../arch.js';
import type { KernelConfig } from '../kernel-config.js';

/** Bits of page descriptors (level 3); blocks use the same from bit 2 on. */
export const PTE_VALID = 1n << 0n;
export const PTE_TYPE_MASK = 3n << 0n;
export const PTE_TYPE_PAGE = 3n << 0n;
export const PTE_TABLE_BIT = 1n << 1n;
export const PTE_USER = 1n << 6n; // AP[1]
export const PTE_RDONLY = 1n << 7n; // AP[2]
export const PTE_SHARED = 3n << 8n; // SH, inner shareable
export const PTE_AF = 1n << 10n;
export const PTE_NG = 1n << 11n;
export const PTE_DBM = 1n << 51n;
export const PTE_CONT = 1n << 52n;
export const PTE_PXN = 1n << 53n;
export const PTE_UXN = 1n << 54n;
/** Software bits. */
export const PTE_WRITE = PTE_DBM;
export const PTE_DIRTY = 1n << 55n;
export const PTE_SPECIAL = 1n << 56n;
/** Bit 11 of an entry whose bit 0 is clear: present for software, nothing for hardware. */
export const PTE_PRESENT_INVALID = PTE_NG;

export const PMD_TYPE_MASK = 3n << 0n;
export const PMD_TYPE_TABLE = 3n << 0n;
export const PMD_TYPE_SECT = 1n << 0n;

/** Bits of table descriptors. */
export const TABLE_AF = 1n << 10n;
export const TABLE_PXN = 1n << 59n;
export const TABLE_UXN = 1n << 60n;

/** Memory types: indices into MAIR_EL1. */
export const MT_NORMAL = 0n;
export const MT_NORMAL_TAGGED = 1n;

export const PTE_ADDR_LOW = 0x0003_ffff_ffff_f000n;
/** Next-level table address, bits 47:12. */
export const TABLE_ADDR = 0x0000_ffff_ffff_f000n;

export function PTE_ATTRINDX(type: bigint): bigint {
  return type << 2n;
}

// pgtable-prot.h, without LPA2 (PTE_MAYBE_SHARED = PTE_SHARED) and with PTE_MAYBE_NG = 0.
const PROT_DEFAULT = PTE_TYPE_PAGE | PTE_AF | PTE_SHARED;
const PROT_NORMAL = PROT_DEFAULT | PTE_PXN | PTE_UXN | PTE_WRITE | PTE_ATTRINDX(MT_NORMAL);
const KERNEL = PROT_NORMAL | PTE_DIRTY;
const KERNEL_RO = (KERNEL & ~PTE_WRITE) | PTE_RDONLY;
const KERNEL_ROX = KERNEL_RO & ~PTE_PXN;
const KERNEL_EXEC = KERNEL & ~PTE_PXN;
const KERNEL_TAGGED = KERNEL | PTE_ATTRINDX(MT_NORMAL_TAGGED);
const USER_RO = PROT_DEFAULT | PTE_USER | PTE_RDONLY | PTE_NG | PTE_PXN | PTE_UXN;

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
/** pte_pfn() << PAGE_SHIFT */
export function pte_pa(v: bigint): number {
  return Number(v & PTE_ADDR_LOW);
}

export function pmd_none(v: bigint): boolean {
  return v === 0n;
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
/** Physical address of the table behind a table descriptor. */
export function tablePa(v: bigint): number {
  return Number(v & TABLE_ADDR);
}

/** Bits that differ between two configurations of the same kernel: nG, and the fate of ptep_try_set(). */
class Arm64Pgtable implements Pgtable {
  readonly PAGE_KERNEL: bigint;
  readonly PAGE_KERNEL_RO: bigint;
  readonly PAGE_KERNEL_ROX: bigint;
  readonly PAGE_KERNEL_EXEC: bigint;
  readonly PAGE_LINEAR: bigint;
  // Writable but clean: RDONLY stays until the first write has made the page dirty.
  readonly PAGE_SHARED = USER_RO | PTE_WRITE;
  readonly PAGE_SHARED_EXEC = (USER_RO | PTE_WRITE) & ~PTE_UXN;
  readonly PAGE_READONLY = USER_RO;
  readonly PAGE_READONLY_EXEC = USER_RO & ~PTE_UXN;

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
  // No present-invalid at this level: p4d_present() only asks whether there is anything.
  readonly p4d_present = (v: bigint): boolean => v !== 0n;
  readonly tablePa = tablePa;
  readonly #contpte: boolean;

  constructor(config: KernelConfig) {
    const ng = config.KPTI ? PTE_NG : 0n;
    this.PAGE_KERNEL = KERNEL | ng;
    this.PAGE_KERNEL_RO = KERNEL_RO | ng;
    this.PAGE_KERNEL_ROX = KERNEL_ROX | ng;
    this.PAGE_KERNEL_EXEC = KERNEL_EXEC | ng;
    this.PAGE_LINEAR = KERNEL_TAGGED | ng;
    this.#contpte = config.ARM64_CONTPTE;
  }

  mk_pte(pa: number, prot: bigint): bigint {
    return prot | BigInt(pa);
  }

  mk_pmd(pa: number, prot: bigint): bigint {
    return (prot & ~PMD_TYPE_MASK) | PMD_TYPE_SECT | BigInt(pa);
  }

  mk_pud(pa: number, prot: bigint): bigint {
    return this.mk_pmd(pa, prot);
  }

  tableEntry(_level: 'pgd' | 'pud' | 'pmd', pa: number, owner: 'kernel' | 'user'): bigint {
    return PMD_TYPE_TABLE | TABLE_AF | (owner === 'kernel' ? TABLE_UXN : TABLE_PXN) | BigInt(pa);
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
export function createPgtable(config: KernelConfig): Pgtable {
  return new Arm64Pgtable(config);
}
