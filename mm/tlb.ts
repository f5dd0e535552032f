/**
 * TLB maintenance for kernel addresses: flush_tlb_kernel_range() and flush_tlb_one_kernel() as
 * arch/x86/mm/tlb.c and arch/arm64/include/asm/tlbflush.h (bpf-next merge 8496d9020ff3) have them.
 *
 * Up to tlb_single_page_flush_ceiling pages go one by one, more than that drop everything. The ceiling is
 * x86's default for both architectures (arm64's own limit is 512 pages): dropping more than was asked for
 * is allowed everywhere. Left out: lazy TLB mode; and the interrupt or broadcast that carries the flush to
 * other CPUs, which is complete when the function returns, as it is for the kernel's callers.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { fromSigned, pageOf, toSigned } from '../emu/address.js';
import type { Memory } from './memory.js';

export const tlb_single_page_flush_ceiling = 33;

/** Drops translations of [start, end) from every CPU of the machine. */
export function flush_tlb_kernel_range(_here: ThisCpu, memory: Memory, start: bigint, end: bigint): void {
  flushEverywhere(memory, start, end, 'flush_tlb_kernel_range');
}

/** flush_tlb_all(): drops all translations of every CPU. */
export function flush_tlb_all(_here: ThisCpu, memory: Memory): void {
  for (const cpu of memory.cpus) dropAll(cpu, 'flush_tlb_all');
}

/** flush_tlb_range() of a user address space. Global entries go as well; nobody can tell. */
export function flush_tlb_range(_here: ThisCpu, memory: Memory, start: bigint, end: bigint): void {
  flushEverywhere(memory, start, end, 'flush_tlb_range');
}

/** flush_tlb_one_kernel(): drops one page from this CPU's TLB only. */
export function flush_tlb_one(here: ThisCpu, addr: bigint): void {
  dropPage(here, pageOf(addr), 'flush_tlb_one_kernel');
}

/**
 * Drops what this CPU's TLB holds of a page whose entry allows what was refused: somebody else changed it. That is
 * arm64's; on x86 it is empty in the kernel, because the fault itself has dropped it, and does no harm here.
 */
export function flush_tlb_fix_spurious_fault(here: ThisCpu, address: bigint): void {
  dropPage(here, pageOf(address), 'flush_tlb_fix_spurious_fault');
}

function flushEverywhere(memory: Memory, start: bigint, end: bigint, by: string): void {
  const first = toSigned(pageOf(start));
  const pages = Math.ceil((toSigned(end) - first) / PAGE_SIZE);
  for (const cpu of memory.cpus) {
    if (!(pages <= tlb_single_page_flush_ceiling)) {
      dropAll(cpu, by);
      continue;
    }
    for (let i = 0; i < pages; i++) dropPage(cpu, fromSigned(first + i * PAGE_SIZE), by);
  }
}

function dropPage(target: ThisCpu, va: bigint, by: string): void {
  target.cpu.flushTlbPage(va);
  target.mmu.unpin(va);
  target.trace.emit({ type: 'tlb-flush', cpu: target.cpu.id, va, by });
}

function dropAll(target: ThisCpu, by: string): void {
  target.cpu.flushTlb();
  target.mmu.unpin(null);
  target.trace.emit({ type: 'tlb-flush', cpu: target.cpu.id, va: null, by });
}
