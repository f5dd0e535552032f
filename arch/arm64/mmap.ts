/**
 * Port of arch/arm64/mm/mmap.c (bpf-next merge 8496d9020ff3). Left out: memory tagging, guarded control
 * stacks, permission overlays, execute-only mappings (nobody can ask for one here).
 */
import type { Pgtable } from '../arch.js';
import { VM_EXEC, VM_READ, VM_SHARED, VM_WRITE } from '../kernel.js';
import { PTE_AF } from './pgtable-hwdef.js';
import { PAGE_NONE, PTE_SPECIAL } from './pgtable-prot.js';

/** Protection of the pages of a mapping; a private one that may be written begins read-only. */
export function vm_get_page_prot(pgtable: Pgtable, vm_flags: number, _pkey: number): bigint {
  if ((vm_flags & (VM_READ | VM_WRITE | VM_EXEC)) === 0) return PAGE_NONE;
  const exec = (vm_flags & VM_EXEC) !== 0;
  const write = (vm_flags & (VM_WRITE | VM_SHARED)) === (VM_WRITE | VM_SHARED);
  if (write) return exec ? pgtable.PAGE_SHARED_EXEC : pgtable.PAGE_SHARED;
  return exec ? pgtable.PAGE_READONLY_EXEC : pgtable.PAGE_READONLY;
}

export function pte_mkspecial(v: bigint): bigint {
  return v | PTE_SPECIAL;
}

export function pte_mkyoung(v: bigint): bigint {
  return v | PTE_AF;
}
