/**
 * Bits and protections of x86-64 page-table entries: arch/x86/include/asm/pgtable_types.h and
 * pgtable_64_types.h, bpf-next merge 8496d9020ff3. Left out: memory encryption (_PAGE_ENC is 0), and the
 * protections nobody uses here (VVAR of the vDSO is kept, fixmap and I/O are not).
 */
export const PAGE_SHIFT = 12n;
export const PMD_SHIFT = 21n;
export const PUD_SHIFT = 30n;
export const P4D_SHIFT = 39n;
/** pgdir_shift with five levels; with four, P4D_SHIFT. */
export const PGDIR_SHIFT_L5 = 48n;
/** The same at every level. */
export const PTRS_PER_PTE = 512n;

export const _PAGE_PRESENT = 1n << 0n;
export const _PAGE_RW = 1n << 1n;
export const _PAGE_USER = 1n << 2n;
export const _PAGE_PWT = 1n << 3n;
export const _PAGE_PCD = 1n << 4n;
export const _PAGE_ACCESSED = 1n << 5n;
export const _PAGE_DIRTY = 1n << 6n;
export const _PAGE_PSE = 1n << 7n; // in a PMD or PUD; PAT in a PTE
export const _PAGE_PAT = 1n << 7n;
export const _PAGE_GLOBAL = 1n << 8n;
/** The global bit of an entry that is not present: PROT_NONE. */
export const _PAGE_PROTNONE = _PAGE_GLOBAL;
export const _PAGE_SPECIAL = 1n << 9n; // _PAGE_SOFTW1
export const _PAGE_CPA_TEST = 1n << 9n; // _PAGE_SOFTW1
export const _PAGE_UFFD_WP = 1n << 10n; // _PAGE_SOFTW2
/** _PAGE_SOFTW3, with CONFIG_MEM_SOFT_DIRTY. */
export const _PAGE_SOFT_DIRTY = 1n << 11n;
export const _PAGE_KERNEL_4K = 1n << 11n; // _PAGE_SOFTW3
export const _PAGE_PAT_LARGE = 1n << 12n; // in a large leaf
export const _PAGE_SOFTW4 = 1n << 57n;
export const _PAGE_SAVED_DIRTY = 1n << 58n; // _PAGE_SOFTW5, in a leaf
export const _PAGE_NOPTISHADOW = 1n << 58n; // _PAGE_SOFTW5, in the root
export const _PAGE_PKEY_BIT0 = 1n << 59n;
export const _PAGE_PKEY_BIT1 = 1n << 60n;
export const _PAGE_PKEY_BIT2 = 1n << 61n;
export const _PAGE_PKEY_BIT3 = 1n << 62n;
/** With CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS. */
export const _PAGE_PKEY_MASK = _PAGE_PKEY_BIT0 | _PAGE_PKEY_BIT1 | _PAGE_PKEY_BIT2 | _PAGE_PKEY_BIT3;
export const _PAGE_NX = 1n << 63n;

/** Bits that some CPUs set in entries that are not present (an erratum of Knights Landing). */
export const _PAGE_KNL_ERRATUM_MASK = _PAGE_DIRTY | _PAGE_ACCESSED;
export const _PAGE_DIRTY_BITS = _PAGE_DIRTY | _PAGE_SAVED_DIRTY;
/** Bits of a swap entry, which is not present: what hardware gives a meaning has another one there. */
export const _PAGE_SWP_UFFD_WP = _PAGE_USER;
export const _PAGE_SWP_SOFT_DIRTY = _PAGE_RW;
export const _PAGE_SWP_EXCLUSIVE = _PAGE_PWT;

export const __PHYSICAL_MASK = (1n << 52n) - 1n;
export const PTE_PFN_MASK = 0x000f_ffff_ffff_f000n;
export const PTE_FLAGS_MASK = 0xfff0_0000_0000_0fffn;
export const PHYSICAL_PMD_PAGE_MASK = 0x000f_ffff_ffe0_0000n;
export const PHYSICAL_PUD_PAGE_MASK = 0x000f_ffff_c000_0000n;

export const _KERNPG_TABLE = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY;
export const _PAGE_TABLE = _KERNPG_TABLE | _PAGE_USER;

// No D in what cannot be written: on a CPU with shadow stacks it would be one.
export const __PAGE_KERNEL_RO = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_NX | _PAGE_GLOBAL;
export const __PAGE_KERNEL_ROX = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_GLOBAL;
export const __PAGE_KERNEL_EXEC = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_GLOBAL;
export const __PAGE_KERNEL = __PAGE_KERNEL_EXEC | _PAGE_NX;
export const __PAGE_KERNEL_NOCACHE = __PAGE_KERNEL | _PAGE_PCD | _PAGE_PWT;
export const __PAGE_KERNEL_VVAR = __PAGE_KERNEL_RO | _PAGE_USER;
export const __PAGE_KERNEL_LARGE = __PAGE_KERNEL | _PAGE_PSE;
export const __PAGE_KERNEL_LARGE_EXEC = __PAGE_KERNEL_EXEC | _PAGE_PSE;

export const PAGE_NONE = _PAGE_ACCESSED | _PAGE_PROTNONE;
export const PAGE_SHARED_EXEC = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED;
export const PAGE_SHARED = PAGE_SHARED_EXEC | _PAGE_NX;
export const PAGE_READONLY_EXEC = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED;
export const PAGE_READONLY = PAGE_READONLY_EXEC | _PAGE_NX;
export const PAGE_COPY_EXEC = PAGE_READONLY_EXEC;
export const PAGE_COPY = PAGE_READONLY;

/** enum page_cache_mode */
export const _PAGE_CACHE_MODE_WB = 0;
export const _PAGE_CACHE_MODE_WC = 1;
export const _PAGE_CACHE_MODE_UC_MINUS = 2;
export const _PAGE_CACHE_MODE_UC = 3;
export const _PAGE_CACHE_MODE_WT = 4;
export const _PAGE_CACHE_MODE_WP = 5;

/** PTE bits of each cache mode, under the PAT that the kernel programs. */
const PROTVALS: readonly bigint[] = [
  0n,
  _PAGE_PWT,
  _PAGE_PCD,
  _PAGE_PCD | _PAGE_PWT,
  _PAGE_PAT | _PAGE_PCD | _PAGE_PWT,
  _PAGE_PAT | _PAGE_PWT,
];

/**
 * Bits of a 4 KiB PTE that select a cache mode.
 * @throws RangeError for a mode that there is not
 */
export function cachemode2protval(pcm: number): bigint {
  const bits = PROTVALS[pcm];
  if (bits === undefined) throw new RangeError(`there is no cache mode ${pcm}`);
  return bits;
}

/** Entry of the PAT that a 4 KiB PTE selects, 0 to 7; for a large leaf, ask after protval_large_2_4k(). */
export function __pte2cm_idx(cb: bigint): number {
  return Number(((cb >> 5n) & 4n) | ((cb >> 3n) & 2n) | ((cb >> 3n) & 1n));
}

/** The PAT bit moves: bit 7 says "large" in a large leaf. */
export function protval_4k_2_large(val: bigint): bigint {
  return (val & ~(_PAGE_PAT | _PAGE_PAT_LARGE)) | ((val & _PAGE_PAT) === 0n ? 0n : _PAGE_PAT_LARGE);
}
export function protval_large_2_4k(val: bigint): bigint {
  return (val & ~(_PAGE_PAT | _PAGE_PAT_LARGE)) | ((val & _PAGE_PAT_LARGE) === 0n ? 0n : _PAGE_PAT);
}
