/**
 * Page-table entries of x86-64 with 4 levels: bits, predicates and accessors under the kernel's names.
 *
 * Ported from arch/x86/include/asm/{pgtable_types,pgtable,pgtable-invert,pgtable_64,pgalloc}.h, bpf-next
 * merge 8496d9020ff3. The fifth level is folded, as it is at run time on a CPU without LA57. Left out:
 * shadow stacks (the CPU modelled has none, so pte_write() is the RW bit), protection keys, memory
 * encryption, and the kernel's page-table check.
 */
import type { LevelName } from '../../emu/events.js';
import type { Pgtable, Ptep, ThisCpu } from '../arch.js';
import type { KernelConfig } from '../kernel-config.js';

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
export const _PAGE_SPECIAL = 1n << 9n;
/** CONFIG_MEM_SOFT_DIRTY */
export const _PAGE_SOFT_DIRTY = 1n << 11n;
export const _PAGE_PAT_LARGE = 1n << 12n; // in a large leaf
export const _PAGE_SAVED_DIRTY = 1n << 58n;
export const _PAGE_NX = 1n << 63n;
/** Bits that some CPUs set in entries that are not present (an erratum of Knights Landing). */
export const _PAGE_KNL_ERRATUM_MASK = _PAGE_DIRTY | _PAGE_ACCESSED;
export const _PAGE_DIRTY_BITS = _PAGE_DIRTY | _PAGE_SAVED_DIRTY;

export const PTE_PFN_MASK = 0x000f_ffff_ffff_f000n;
export const PHYSICAL_PMD_PAGE_MASK = 0x000f_ffff_ffe0_0000n;
export const PHYSICAL_PUD_PAGE_MASK = 0x000f_ffff_c000_0000n;

export const _KERNPG_TABLE = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY;
export const _PAGE_TABLE = _KERNPG_TABLE | _PAGE_USER;

const __PAGE_KERNEL_RO = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_NX | _PAGE_GLOBAL;
const __PAGE_KERNEL_ROX = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_GLOBAL;
const __PAGE_KERNEL_EXEC = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_GLOBAL;
const __PAGE_KERNEL = __PAGE_KERNEL_EXEC | _PAGE_NX;
const PAGE_SHARED_EXEC = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED;
const PAGE_READONLY_EXEC = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED;

/** pgtable-invert.h: does the entry hold its frame number inverted (L1TF)? */
export function __pte_needs_invert(v: bigint): boolean {
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

export function pte_none(v: bigint): boolean {
  return (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function pte_present(v: bigint): boolean {
  return (v & (_PAGE_PRESENT | _PAGE_PROTNONE)) !== 0n;
}
export function pte_write(v: bigint): boolean {
  return (v & _PAGE_RW) !== 0n;
}
export function pte_exec(v: bigint): boolean {
  return (v & _PAGE_NX) === 0n;
}
export function pte_dirty(v: bigint): boolean {
  return (v & _PAGE_DIRTY_BITS) !== 0n;
}
/** Moves D out of the way of an entry that cannot be written: D without RW would mean a shadow stack. */
function mksaveddirty(v: bigint): bigint {
  return (v & (_PAGE_RW | _PAGE_DIRTY)) === _PAGE_DIRTY ? (v & ~_PAGE_DIRTY) | _PAGE_SAVED_DIRTY : v;
}
export function pte_mkdirty(v: bigint): bigint {
  return mksaveddirty(v | _PAGE_DIRTY | _PAGE_SOFT_DIRTY);
}
export function pte_young(v: bigint): boolean {
  return (v & _PAGE_ACCESSED) !== 0n;
}
/** pte_pfn() << PAGE_SHIFT */
export function pte_pa(v: bigint): number {
  return Number((v ^ protnone_mask(v)) & PTE_PFN_MASK);
}

export function pmd_none(v: bigint): boolean {
  return (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function pmd_leaf(v: bigint): boolean {
  return (v & _PAGE_PSE) !== 0n;
}
export function pmd_flags(v: bigint): bigint {
  return v & ~(pmd_leaf(v) ? PHYSICAL_PMD_PAGE_MASK : PTE_PFN_MASK);
}
export function pmd_present(v: bigint): boolean {
  return (v & (_PAGE_PRESENT | _PAGE_PROTNONE | _PAGE_PSE)) !== 0n;
}
export function pmd_bad(v: bigint): boolean {
  return (pmd_flags(v) & ~(_PAGE_USER | _PAGE_ACCESSED)) !== (_KERNPG_TABLE & ~_PAGE_ACCESSED);
}

export function pud_none(v: bigint): boolean {
  return (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function pud_leaf(v: bigint): boolean {
  return (v & _PAGE_PSE) !== 0n;
}
export function pud_flags(v: bigint): bigint {
  return v & ~(pud_leaf(v) ? PHYSICAL_PUD_PAGE_MASK : PTE_PFN_MASK);
}
export function pud_present(v: bigint): boolean {
  return (v & _PAGE_PRESENT) !== 0n;
}
export function pud_bad(v: bigint): boolean {
  return (pud_flags(v) & ~(_KERNPG_TABLE | _PAGE_USER)) !== 0n;
}

export function p4d_none(v: bigint): boolean {
  return (v & ~_PAGE_KNL_ERRATUM_MASK) === 0n;
}
export function p4d_present(v: bigint): boolean {
  return (v & _PAGE_PRESENT) !== 0n;
}
/** With CONFIG_MITIGATION_PAGE_TABLE_ISOLATION built in, NX is tolerated too; kfault's kernel has it built in. */
export function p4d_bad(v: bigint): boolean {
  return (v & ~PTE_PFN_MASK & ~(_KERNPG_TABLE | _PAGE_USER | _PAGE_NX)) !== 0n;
}

/** Physical address of the table a non-leaf entry points to. */
export function tablePa(v: bigint): number {
  return Number(v & PTE_PFN_MASK);
}

/** Index of `va` in a table of `level`. */
export function tableIndex(level: LevelName, va: bigint): number {
  switch (level) {
    case 'pgd':
    case 'p4d':
      return Number((va >> 39n) & 511n);
    case 'pud':
      return Number((va >> 30n) & 511n);
    case 'pmd':
      return Number((va >> 21n) & 511n);
    case 'pte':
      return Number((va >> 12n) & 511n);
  }
}

/** Physical address of the entry for `va` in the table at physical `table`: pgd_offset_pgd() and friends. */
export function entryPa(level: LevelName, table: number, va: bigint): number {
  return table + 8 * tableIndex(level, va);
}

/** An entry found by lookup_address(). */
export interface LookedUp {
  readonly level: 'p4d' | 'pud' | 'pmd' | 'pte';
  readonly ptep: Ptep;
  readonly entry: bigint;
  /** NX of any table entry above. */
  readonly nx: boolean;
  /** The root entry. */
  readonly pgd: bigint;
}

/**
 * lookup_address_in_pgd_attr(), arch/x86/mm/pat/set_memory.c: the entry that maps `va`, or the place
 * where it would be. Null where a level above holds nothing, or where a table is not in ram.
 *
 * @param root physical address of the root table
 */
export function lookup_address_in_pgd(here: ThisCpu, root: number, va: bigint): LookedUp | null {
  const { ram } = here;
  const pgdp = entryPa('pgd', root, va);
  if (!ram.contains(pgdp, 8)) return null;
  const pgd = ram.readU64(pgdp);
  if (p4d_none(pgd)) return null;
  if (!p4d_present(pgd)) return { level: 'p4d', ptep: pgdp, entry: pgd, nx: false, pgd };
  let nx = (pgd & _PAGE_NX) !== 0n;

  const pudp = entryPa('pud', tablePa(pgd), va);
  if (!ram.contains(pudp, 8)) return null;
  const pud = ram.readU64(pudp);
  if (pud_none(pud)) return null;
  if (pud_leaf(pud) || !pud_present(pud)) return { level: 'pud', ptep: pudp, entry: pud, nx, pgd };
  nx ||= (pud & _PAGE_NX) !== 0n;

  const pmdp = entryPa('pmd', tablePa(pud), va);
  if (!ram.contains(pmdp, 8)) return null;
  const pmd = ram.readU64(pmdp);
  if (pmd_none(pmd)) return null;
  if (pmd_leaf(pmd) || !pmd_present(pmd)) return { level: 'pmd', ptep: pmdp, entry: pmd, nx, pgd };
  nx ||= (pmd & _PAGE_NX) !== 0n;

  const ptep = entryPa('pte', tablePa(pmd), va);
  if (!ram.contains(ptep, 8)) return null;
  return { level: 'pte', ptep, entry: ram.readU64(ptep), nx, pgd };
}

class X86Pgtable implements Pgtable {
  readonly PAGE_KERNEL: bigint;
  readonly PAGE_KERNEL_RO: bigint;
  readonly PAGE_KERNEL_ROX: bigint;
  readonly PAGE_KERNEL_EXEC: bigint;
  readonly PAGE_LINEAR: bigint;
  readonly PAGE_SHARED = PAGE_SHARED_EXEC | _PAGE_NX;
  readonly PAGE_SHARED_EXEC = PAGE_SHARED_EXEC;
  readonly PAGE_READONLY = PAGE_READONLY_EXEC | _PAGE_NX;
  readonly PAGE_READONLY_EXEC = PAGE_READONLY_EXEC;

  readonly pte_none = pte_none;
  readonly pte_present = pte_present;
  readonly pte_write = pte_write;
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
    return ((BigInt(pa) ^ protnone_mask(prot)) & PTE_PFN_MASK) | prot;
  }

  mk_pmd(pa: number, prot: bigint): bigint {
    return ((BigInt(pa) ^ protnone_mask(prot)) & PHYSICAL_PMD_PAGE_MASK) | large(prot);
  }

  mk_pud(pa: number, prot: bigint): bigint {
    return ((BigInt(pa) ^ protnone_mask(prot)) & PHYSICAL_PUD_PAGE_MASK) | large(prot);
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

  ptep_get_and_clear(here: ThisCpu, ptep: Ptep): bigint {
    return store(here, 'ptep_get_and_clear', 'pte', ptep, 0n);
  }

  ptep_try_set(here: ThisCpu, ptep: Ptep, value: bigint): boolean {
    const { ram, trace } = here;
    const old = ram.readU64(ptep);
    const changed = old === 0n;
    if (changed) ram.writeU64(ptep, value);
    if (!trace.listening) return changed;
    trace.emit({
      type: 'pte-write',
      cpu: trace.cpu,
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

/** protval_4k_2_large(), and the bit that makes the entry a leaf. */
function large(prot: bigint): bigint {
  const pat = (prot & _PAGE_PAT) === 0n ? 0n : _PAGE_PAT_LARGE;
  return (prot & ~(_PAGE_PAT | _PAGE_PAT_LARGE)) | pat | _PAGE_PSE;
}

/** One store of 8 bytes; returns what was there. */
function store(here: ThisCpu, by: string, level: LevelName, pa: Ptep, value: bigint): bigint {
  const { ram, trace } = here;
  const old = ram.readU64(pa);
  ram.writeU64(pa, value);
  if (trace.listening) {
    trace.emit({ type: 'pte-write', cpu: trace.cpu, by, level, pa, old, value, changed: true });
  }
  return old;
}

/** The page-table format of a kernel built with `config`. */
export function createPgtable(config: KernelConfig): Pgtable {
  return new X86Pgtable(config);
}
