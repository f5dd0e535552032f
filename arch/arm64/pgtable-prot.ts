/**
 * Software bits of entries, and the protections that mappings are made with.
 *
 * Ported from arch/arm64/include/asm/pgtable-prot.h and pgalloc.h, bpf-next merge 8496d9020ff3, without LPA2
 * (PTE_MAYBE_SHARED is PTE_SHARED). PAGE_KERNEL and its kin are here without PTE_MAYBE_NG, which the format
 * of a kernel with KPTI adds. Left out: device mappings, BTI, realms, POE, permission indirection.
 */
import {
  MT_NORMAL,
  MT_NORMAL_TAGGED,
  PMD_TABLE_AF,
  PMD_TABLE_PXN,
  PMD_TABLE_UXN,
  PMD_TYPE_TABLE,
  PTE_AF,
  PTE_ATTRINDX,
  PTE_ATTRINDX_MASK,
  PTE_DBM,
  PTE_NG,
  PTE_PXN,
  PTE_RDONLY,
  PTE_SHARED,
  PTE_TYPE_PAGE,
  PTE_USER,
  PTE_UXN,
  PTE_VALID,
} from './pgtable-hwdef.js';

export const PTE_WRITE = PTE_DBM;
export const PTE_DIRTY = 1n << 55n;
export const PTE_SPECIAL = 1n << 56n;
/** Bit 11 of an entry whose bit 0 is clear: present for software, nothing for hardware. */
export const PTE_PRESENT_INVALID = PTE_NG;

const PROT_DEFAULT = PTE_TYPE_PAGE | PTE_AF | PTE_SHARED;
const PROT_NORMAL = PROT_DEFAULT | PTE_PXN | PTE_UXN | PTE_WRITE | PTE_ATTRINDX(MT_NORMAL);

export const PAGE_KERNEL = PROT_NORMAL | PTE_DIRTY;
export const PAGE_KERNEL_RO = (PAGE_KERNEL & ~PTE_WRITE) | PTE_RDONLY;
export const PAGE_KERNEL_ROX = PAGE_KERNEL_RO & ~PTE_PXN;
export const PAGE_KERNEL_EXEC = PAGE_KERNEL & ~PTE_PXN;

// A writable page is clean at first: RDONLY stays until the first write has made it dirty.
export const PAGE_READONLY = PROT_DEFAULT | PTE_USER | PTE_RDONLY | PTE_NG | PTE_PXN | PTE_UXN;
export const PAGE_SHARED = PAGE_READONLY | PTE_WRITE;
export const PAGE_READONLY_EXEC = PAGE_READONLY & ~PTE_UXN;
export const PAGE_SHARED_EXEC = PAGE_SHARED & ~PTE_UXN;
/** EL0 may execute and nothing else: EL1 is kept out by PAN with EPAN. */
export const PAGE_EXECONLY = PAGE_READONLY_EXEC & ~PTE_USER;
export const PAGE_NONE = (PAGE_READONLY & ~(PTE_VALID | PTE_USER)) | PTE_PRESENT_INVALID;

/** The same memory as Normal-Tagged; without MTE the two types are one. */
export function pgprot_tagged(prot: bigint): bigint {
  return (prot & ~PTE_ATTRINDX_MASK) | PTE_ATTRINDX(MT_NORMAL_TAGGED);
}

/** Who a table belongs to, which decides what it takes from everything below it. */
export type TableOwner =
  /** p4d_populate(), pud_populate() and pmd_populate_kernel() for init_mm. */
  | 'kernel'
  | 'user'
  /** Tables of the direct map, which executes nothing. */
  | 'linear'
  /** Tables of the kernel image, made by the boot code. */
  | 'early';

/** A table descriptor without its address. */
export function tableProt(owner: TableOwner): bigint {
  switch (owner) {
    case 'kernel':
      return PMD_TYPE_TABLE | PMD_TABLE_AF | PMD_TABLE_UXN;
    case 'user':
      return PMD_TYPE_TABLE | PMD_TABLE_AF | PMD_TABLE_PXN;
    case 'linear':
      return PMD_TYPE_TABLE | PMD_TABLE_AF | PMD_TABLE_PXN | PMD_TABLE_UXN;
    case 'early':
      return PMD_TYPE_TABLE | PMD_TABLE_UXN;
  }
}
