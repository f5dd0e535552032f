/**
 * Page protection for KFENCE.
 *
 * Ported from arch/arm64/include/asm/kfence.h and set_memory_valid() of arch/arm64/mm/pageattr.c, bpf-next
 * merge 8496d9020ff3. Left out: splitting of blocks (the pool is mapped by pages from the start).
 */
import { hex, pageOf } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { pmd_bad, tablePa } from './pgtable.js';
import { PTE_NG, PTE_VALID } from './pgtable-hwdef.js';
import { PTE_PRESENT_INVALID } from './pgtable-prot.js';

/** Physical address of the level 3 entry for a kernel address, or null where there is no table. */
function pteOf(here: ThisCpu, addr: bigint): number | null {
  let table = here.kernel.init_mm.pgd;
  for (const shift of [39n, 30n, 21n]) {
    const entry = here.ram.readU64(table + Number((addr >> shift) & 511n) * 8);
    if (pmd_bad(entry)) return null;
    table = tablePa(entry);
  }
  return table + Number((addr >> 12n) & 511n) * 8;
}

/**
 * Makes one page invalid for hardware, or valid again, without touching its address. Both masks may hold
 * bit 11, so that clearing comes before setting. Only making it invalid needs a TLB flush.
 */
function set_memory_valid(here: ThisCpu, addr: bigint, enable: boolean): void {
  const ptep = pteOf(here, addr);
  // The kernel warns once about a block and changes nothing.
  if (ptep === null) return;
  const PTE_PRESENT_VALID_KERNEL = PTE_VALID | (here.kernel.config.KPTI ? PTE_NG : 0n);
  const old = here.ram.readU64(ptep);
  // An empty entry would not become a valid one.
  if (old === 0n)
    throw new Error(`the entry of ${hex(addr)} is empty: no page of the KFENCE pool is mapped there`);
  const value = enable
    ? (old & ~PTE_PRESENT_INVALID) | PTE_PRESENT_VALID_KERNEL
    : (old & ~PTE_PRESENT_VALID_KERNEL) | PTE_PRESENT_INVALID;
  here.ram.writeU64(ptep, value);
  const { cpu } = here.trace;
  here.trace.emit({
    type: 'pte-write',
    cpu,
    by: 'set_memory_valid',
    level: 'pte',
    pa: ptep,
    old,
    value,
    changed: true,
  });
  if (enable) return;
  here.kernel.flush_tlb_kernel_range(here, pageOf(addr), pageOf(addr) + 4096n);
}

/**
 * kfence_early_init: the pool was mapped by pages at boot. The linear map here always is.
 * @returns true: nothing can fail
 */
export function arch_kfence_init_pool(): boolean {
  return true;
}

/** Always true, as in the kernel, even where nothing could be changed. */
export function kfence_protect_page(here: ThisCpu, addr: bigint, protect: boolean): boolean {
  set_memory_valid(here, addr, !protect);
  return true;
}
