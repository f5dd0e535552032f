/**
 * Bits of translation table descriptors as hardware defines them: 4 KiB granule, 48-bit addresses, 4 levels.
 *
 * Ported from arch/arm64/include/asm/pgtable-hwdef.h, bpf-next merge 8496d9020ff3. Left out: LPA2, POE, and
 * the names of PUD and P4D bits, which are those of PMD entries.
 */

/** Page descriptors (level 3); blocks have the same bits from bit 2 on. */
export const PTE_VALID = 1n << 0n;
export const PTE_TYPE_PAGE = 3n << 0n;
export const PTE_USER = 1n << 6n; // AP[1]
export const PTE_RDONLY = 1n << 7n; // AP[2]
export const PTE_SHARED = 3n << 8n; // SH, inner shareable
export const PTE_AF = 1n << 10n;
export const PTE_NG = 1n << 11n;
export const PTE_DBM = 1n << 51n;
export const PTE_CONT = 1n << 52n;
export const PTE_PXN = 1n << 53n;
export const PTE_UXN = 1n << 54n;
/** Bits that hardware leaves to software: 63 and 58:55. */
export const PTE_SWBITS_MASK = (1n << 63n) | (0xfn << 55n);
export const PTE_ATTRINDX_MASK = 7n << 2n;
export const PTE_ADDR_LOW = 0x0003_ffff_ffff_f000n;

export function PTE_ATTRINDX(type: bigint): bigint {
  return type << 2n;
}

export const PMD_TYPE_MASK = 3n << 0n;
export const PMD_TYPE_TABLE = 3n << 0n;
export const PMD_TYPE_SECT = 1n << 0n;

/** Table descriptors. */
export const PMD_TABLE_AF = 1n << 10n;
export const PMD_TABLE_PXN = 1n << 59n;
export const PMD_TABLE_UXN = 1n << 60n;
/** Next-level table address, bits 47:12. */
export const TABLE_ADDR = 0x0000_ffff_ffff_f000n;

/** Memory types: indices into MAIR_EL1 (asm/memory.h). */
export const MT_NORMAL = 0n;
export const MT_NORMAL_TAGGED = 1n;
