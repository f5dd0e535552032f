/** Page protection for KFENCE: port of arch/x86/include/asm/kfence.h, bpf-next merge 8496d9020ff3. */
import type { ThisCpu } from '../arch.js';
import { lookup_address_in_pgd } from './lookup-address.js';
import { flip_protnone_guard } from './pgtable.js';
import { _PAGE_PRESENT, PTE_PFN_MASK } from './pgtable-types.js';

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
