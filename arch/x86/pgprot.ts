/** Port of arch/x86/mm/pgprot.c (bpf-next merge 8496d9020ff3). Left out: memory encryption, SGX. */
import type { Pgtable } from '../arch.js';
import { VM_EXEC, VM_READ, VM_SHARED, VM_WRITE } from '../kernel.js';
import { _PAGE_ACCESSED, _PAGE_GLOBAL, _PAGE_SPECIAL } from './pgtable-types.js';

/** Bit 8 of an entry that is not present. */
const _PAGE_PROTNONE = _PAGE_GLOBAL;
export const PAGE_NONE = _PAGE_ACCESSED | _PAGE_PROTNONE;

const _PAGE_BIT_PKEY_BIT0 = 59n;

/** Protection of the pages of a mapping; a private one that may be written begins read-only. */
export function vm_get_page_prot(pgtable: Pgtable, vm_flags: number, pkey: number): bigint {
  return protection_map(pgtable, vm_flags) | (BigInt(pkey) << _PAGE_BIT_PKEY_BIT0);
}

function protection_map(pgtable: Pgtable, vm_flags: number): bigint {
  if ((vm_flags & (VM_READ | VM_WRITE | VM_EXEC)) === 0) return PAGE_NONE;
  const exec = (vm_flags & VM_EXEC) !== 0;
  const write = (vm_flags & (VM_WRITE | VM_SHARED)) === (VM_WRITE | VM_SHARED);
  if (write) return exec ? pgtable.PAGE_SHARED_EXEC : pgtable.PAGE_SHARED;
  return exec ? pgtable.PAGE_READONLY_EXEC : pgtable.PAGE_READONLY;
}

export function pte_mkspecial(v: bigint): bigint {
  return v | _PAGE_SPECIAL;
}

export function pte_mkyoung(v: bigint): bigint {
  return v | _PAGE_ACCESSED;
}
