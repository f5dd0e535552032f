/**
 * Large pages of the direct map made into small ones: set_memory_4k() and __split_large_page() of
 * arch/x86/mm/pat/set_memory.c, bpf-next merge 8496d9020ff3, as far as they are needed for that.
 *
 * Left out: the tables of user address spaces (the direct map has none of its own there), alias checks.
 */
import type { ThisCpu } from '../arch.js';
import { type LookedUp, lookup_address_in_pgd } from './lookup-address.js';
import {
  _KERNPG_TABLE,
  _PAGE_KERNEL_4K,
  _PAGE_PSE,
  PHYSICAL_PMD_PAGE_MASK,
  PHYSICAL_PUD_PAGE_MASK,
  PTE_PFN_MASK,
  protval_large_2_4k,
} from './pgtable-types.js';

const PTRS_PER_TABLE = 512;
const PAGE_SIZE = 4096n;
const PMD_SIZE = 0x20_0000n;

/** Puts a table of smaller pages in the place of a large one. False when there is no page for it. */
function split_large_page(here: ThisCpu, found: LookedUp, newTable: () => number | null): boolean {
  const { ram, trace } = here;
  const base = newTable();
  if (base === null) return false;
  const isPud = found.level === 'pud';
  const mask = isPud ? PHYSICAL_PUD_PAGE_MASK : PHYSICAL_PMD_PAGE_MASK;
  const prot = found.entry & ~mask;
  const small = isPud ? prot : protval_large_2_4k(prot);
  const step = isPud ? PMD_SIZE : PAGE_SIZE;
  const first = found.entry & mask;
  for (let i = 0; i < PTRS_PER_TABLE; i++) ram.writeU64(base + i * 8, (first + BigInt(i) * step) | small);
  const value = (BigInt(base) & PTE_PFN_MASK) | _KERNPG_TABLE;
  ram.writeU64(found.ptep, value);
  trace.emit({
    type: 'pte-write',
    cpu: trace.cpu,
    by: '__split_large_page',
    level: found.level,
    pa: found.ptep,
    old: found.entry,
    value,
    changed: true,
  });
  here.kernel.flush_tlb_all(here);
  return true;
}

/**
 * Maps the page of `addr` by a small entry, and marks that somebody wanted it so: only this page gets the
 * mark, although the whole large page is split.
 */
export function set_memory_4k(here: ThisCpu, addr: bigint, newTable: () => number | null): boolean {
  for (;;) {
    const found = lookup_address_in_pgd(here, here.kernel.init_mm.pgd, addr);
    if (found === null || found.level === 'p4d') return false;
    if (found.level !== 'pte') {
      if ((found.entry & _PAGE_PSE) === 0n || !split_large_page(here, found, newTable)) return false;
      continue;
    }
    here.ram.writeU64(found.ptep, found.entry | _PAGE_KERNEL_4K);
    return true;
  }
}
