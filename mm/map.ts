/**
 * Maps and unmaps ranges: what mm/vmalloc.c (vmap_range_noflush(), vunmap_range()) and the architectures'
 * boot code do with the tables of init_mm. Entries are stored by the architecture's accessors, one event
 * each.
 */
import type { Ptep, ThisCpu } from '../arch/arch.js';
import { type mm_struct, PAGE_SIZE } from '../arch/kernel.js';
import { toSigned } from '../emu/address.js';
import { EBUSY, EINVAL } from '../kernel/errno.js';
import {
  descend,
  entryAt,
  isStop,
  PTE,
  SPAN,
  setEntry,
  spanEnd,
  stoppedAt,
  stoppedBy,
  tableIndex,
} from './descend.js';
import type { Memory } from './memory.js';
import { countNone } from './pgtable_walk.js';
import { ENTRY_BAD, ENTRY_LEAF, PMD, PUD } from './table_entries.js';
import { flush_tlb_kernel_range } from './tlb.js';

export interface MapOptions {
  /** Use 2 MiB and 1 GiB leaves where address, frame and length allow; the direct map does. */
  readonly huge?: boolean;
}

/**
 * Maps one page. 0, -EBUSY when something is there already, -ENOMEM.
 * @param pa page aligned; may lie outside of the ram (a device, a hole)
 */
export function map_page(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  va: bigint,
  pa: number,
  prot: bigint,
): number {
  return mapEntry(here, memory, mm, toSigned(va), PTE, memory.pgtable.mk_pte(pa, prot));
}

/**
 * Maps `npages` pages that follow each other in memory. 0, -EBUSY, -ENOMEM; -EINVAL over a huge page.
 * What was mapped before a failure stays.
 */
export function map_kernel_range(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  va: bigint,
  pa: number,
  npages: number,
  prot: bigint,
  options: MapOptions = {},
): number {
  const { pgtable } = memory;
  let at = toSigned(va);
  let frame = pa;
  const end = at + npages * PAGE_SIZE;
  while (at < end) {
    const level = options.huge === true ? largestLeaf(at, frame, end - at) : PTE;
    if (level === PTE) {
      const stop = Math.min(end, spanEnd(PMD, at));
      const err = mapPtes(here, memory, mm, at, frame, (stop - at) / PAGE_SIZE, prot);
      if (err !== 0) return err;
      frame += stop - at;
      at = stop;
      continue;
    }
    const leaf = level === PMD ? pgtable.mk_pmd(frame, prot) : pgtable.mk_pud(frame, prot);
    const err = mapEntry(here, memory, mm, at, level, leaf);
    if (err !== 0) return err;
    const span = SPAN[level] ?? PAGE_SIZE;
    at += span;
    frame += span;
  }
  return 0;
}

/** vmap_pte_range(): `count` pages whose entries are in one table. */
function mapPtes(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  va: number,
  pa: number,
  count: number,
  prot: bigint,
): number {
  const ptep = entryAt(here, memory, mm, va, PTE, true);
  if (ptep < 0) return isStop(ptep) ? -EINVAL : ptep;
  const free = countNone(memory, ptep, count);
  if (free > 0) set_ptes(here, memory, ptep, memory.pgtable.mk_pte(pa, prot), free);
  return free < count ? -EBUSY : 0;
}

/**
 * set_ptes() of include/linux/pgtable.h: entries of `nr` pages that follow each other, from a present `pte`
 * on. One event each; where nobody listens, no bigint is made for each.
 */
function set_ptes(here: ThisCpu, memory: Memory, ptep: Ptep, pte: bigint, nr: number): void {
  const { ram, pgtable } = memory;
  const frames = BigInt(nr - 1) * BigInt(PAGE_SIZE);
  const first = Number(pte & 0xffff_ffffn);
  // A carry out of the low half would change the high one.
  if (here.trace.listening || Number((pte + frames) & 0xffff_ffffn) < first) {
    for (let i = 0; i < nr; i++) pgtable.set_pte(here, ptep + i * 8, pte + BigInt(i * PAGE_SIZE));
    return;
  }
  const high = Number(pte >> 32n);
  const { words32 } = ram;
  let word = (ptep - ram.base) / 4;
  for (let low = first, i = 0; i < nr; i++, low += PAGE_SIZE) {
    words32[word++] = low;
    words32[word++] = high;
  }
}

/** vunmap_range(): clears what [start, end) of init_mm maps and drops its translations. Tables stay. */
export function unmap_kernel_range(here: ThisCpu, memory: Memory, start: bigint, end: bigint): void {
  clearLeaves(here, memory, memory.init_mm, toSigned(start), toSigned(end));
  flush_tlb_kernel_range(here, memory, start, end);
}

/** vunmap_range_noflush() for any address space. A huge leaf goes as a whole. */
function clearLeaves(here: ThisCpu, memory: Memory, mm: mm_struct, start: number, end: number): void {
  const { pgtable } = memory;
  for (let va = start; va < end; ) {
    const table = descend(here, memory, mm, va, PTE, false);
    if (isStop(table)) {
      const level = stoppedAt(table);
      const kind = stoppedBy(table);
      if (kind === ENTRY_LEAF || kind === ENTRY_BAD) {
        setEntry(here, pgtable, level, entryAt(here, memory, mm, va, level, false), 0n);
      }
      va = spanEnd(level, va);
      continue;
    }
    const stop = Math.min(end, spanEnd(PMD, va));
    let pte = table + tableIndex(PTE, va) * 8;
    while (va < stop) {
      const none = countNone(memory, pte, (stop - va) / PAGE_SIZE);
      va += none * PAGE_SIZE;
      pte += none * 8;
      if (va >= stop) break;
      pgtable.ptep_get_and_clear(here, pte);
      va += PAGE_SIZE;
      pte += 8;
    }
  }
}

function largestLeaf(va: number, pa: number, left: number): number {
  for (const level of [PUD, PMD]) {
    const span = SPAN[level] ?? PAGE_SIZE;
    if (left >= span && va % span === 0 && pa % span === 0) return level;
  }
  return PTE;
}

function mapEntry(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  va: number,
  level: number,
  value: bigint,
): number {
  const at = entryAt(here, memory, mm, va, level, true);
  if (at < 0) return isStop(at) ? -EINVAL : at;
  const { pgtable } = memory;
  const old = pgtable.ptep_get(here, at);
  const free =
    level === PTE ? pgtable.pte_none(old) : level === PMD ? pgtable.pmd_none(old) : pgtable.pud_none(old);
  if (!free) return -EBUSY;
  setEntry(here, pgtable, level, at, value);
  return 0;
}
