/** Page protection for KFENCE: port of arch/x86/include/asm/kfence.h, bpf-next merge 8496d9020ff3. */
import { hex } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { set_memory_4k } from './kfence-split.js';
import { lookup_address_in_pgd } from './lookup-address.js';
import { flip_protnone_guard } from './pgtable.js';
import { _PAGE_PRESENT, PTE_PFN_MASK } from './pgtable-types.js';

const PAGE = 4096n;

/**
 * Maps every page of the pool by an entry of its own.
 * @param newTable a zeroed page for a table, or null when there is none
 * @returns false when a page is not mapped at all
 */
export function arch_kfence_init_pool(
  here: ThisCpu,
  pool: bigint,
  size: number,
  newTable: () => number | null,
): boolean {
  const end = pool + BigInt(size);
  for (let addr = pool; addr < end; addr += PAGE) {
    const found = lookup_address_in_pgd(here, here.kernel.init_mm.pgd, addr);
    if (found === null) return false;
    // What it says is not looked at: the pages that could not be split are found when they are protected.
    if (found.level !== 'pte') set_memory_4k(here, addr, newTable);
  }
  return true;
}

/**
 * Makes a page of the pool fault, or not fault any more. Only the local CPU's TLB is flushed, and only
 * when protecting.
 * @returns false, after a warning, when the page is not mapped by a PTE
 */
export function kfence_protect_page(here: ThisCpu, addr: bigint, protect: boolean): boolean {
  const { cpu, mmu, kernel, ram, trace } = here;
  const found = lookup_address_in_pgd(here, kernel.init_mm.pgd, addr);
  if (found === null || found.level !== 'pte') {
    kernel.warn(here, 'arch/x86/include/asm/kfence.h:48', 'kfence_protect+0x94/0xd0', null);
    return false;
  }
  const val = found.entry;
  // An empty entry would become one that maps page 0.
  if (val === 0n)
    throw new Error(`the entry of ${hex(addr)} is empty: no page of the KFENCE pool is mapped there`);
  // Asked for twice, the inversion would be undone.
  if (protect === ((val & _PAGE_PRESENT) === 0n)) return true;
  const value = flip_protnone_guard(val, val ^ _PAGE_PRESENT, PTE_PFN_MASK);
  ram.writeU64(found.ptep, value);
  trace.emit({
    type: 'pte-write',
    cpu: trace.cpu,
    by: 'set_pte',
    level: 'pte',
    pa: found.ptep,
    old: val,
    value,
    changed: true,
  });
  if (!protect) return true;
  cpu.flushTlbPage(addr);
  mmu.unpin(addr);
  trace.emit({ type: 'tlb-flush', cpu: trace.cpu, va: addr & ~0xfffn, by: 'flush_tlb_one_kernel' });
  return true;
}
