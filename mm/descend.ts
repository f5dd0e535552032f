/**
 * The way from a root table down to the table that holds the entries of one level: what the nested loops
 * of mm/memory.c and mm/vmalloc.c do between them, for one address. Numbers only; no table is allocated
 * unless asked for.
 */
import type { Pgtable, Ptep, ThisCpu } from '../arch/arch.js';
import type { mm_struct } from '../arch/kernel.js';
import { hex } from '../emu/address.js';
import { RamError } from '../emu/ram.js';
import { ENOMEM } from '../kernel/errno.js';
import type { Memory } from './memory.js';
import { TABLE_OWNER } from './page_alloc.js';
import { ENTRY_NONE, P4D, PMD, PUD } from './table_entries.js';

/** Level whose table is asked for: the one with PTEs. The others are P4D, PUD and PMD. */
export const PTE = 3;

/** Bytes that one entry of a level covers, by level. */
export const SPAN: readonly number[] = [2 ** 39, 2 ** 30, 2 ** 21, 2 ** 12];

const STOP = 1000;

/** Level at which a descent stopped. */
export function stoppedAt(code: number): number {
  return Math.floor((-code - STOP) / 10);
}

/** What it met there: ENTRY_NONE, ENTRY_LEAF or ENTRY_BAD. */
export function stoppedBy(code: number): number {
  return -((-code - STOP) % 10);
}

/** True for a result that is neither a table nor an errno. */
export function isStop(code: number): boolean {
  return code <= -STOP;
}

/** Index of `va` in a table of `level`. */
export function tableIndex(level: number, va: number): number {
  const hi = Math.floor(va / 4294967296);
  const lo = va >>> 0;
  switch (level) {
    case P4D:
      return (hi >>> 7) & 511;
    case PUD:
      return ((hi & 0x7f) << 2) | (lo >>> 30);
    case PMD:
      return (lo >>> 21) & 511;
    default:
      return (lo >>> 12) & 511;
  }
}

/** First address behind the entry of `level` that covers `va`. */
export function spanEnd(level: number, va: number): number {
  const span = SPAN[level] ?? 4096;
  return (Math.floor(va / span) + 1) * span;
}

/**
 * Walks down to the table with the entries of `level` (PUD, PMD or PTE) for an address.
 *
 * @param va signed number
 * @param create whether to allocate the tables that are missing, as p4d_alloc() and its kin do
 * @returns physical address of the table; or -ENOMEM; or a code for isStop(), stoppedAt() and stoppedBy():
 *   the walk met an entry that is no table
 */
export function descend(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  va: number,
  level: number,
  create: boolean,
): number {
  const { ram, entries } = memory;
  let table = mm.pgd;
  for (let at = P4D; at < level; at++) {
    const entry = table + tableIndex(at, va) * 8;
    const word = (entry - ram.base) / 4;
    const lo = ram.words32[word];
    const hi = ram.words32[word + 1];
    if (lo === undefined || hi === undefined) throw outsideRam(table);
    let next = entries.classify(at, lo, hi);
    if (next < 0) {
      if (next !== ENTRY_NONE || !create) return -(STOP + at * 10 - next);
      next = addTable(here, memory, mm, at, entry);
      if (next < 0) return next;
    }
    table = next;
  }
  return table;
}

/** Where the entry of `level` for `va` is, or what a descent says when it does not get there. */
export function entryAt(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  va: number,
  level: number,
  create: boolean,
): number {
  const table = descend(here, memory, mm, va, level, create);
  return table < 0 ? table : table + tableIndex(level, va) * 8;
}

/** Stores an entry of `level` through the accessor of that level. */
export function setEntry(here: ThisCpu, pgtable: Pgtable, level: number, at: Ptep, value: bigint): void {
  switch (level) {
    case P4D:
      pgtable.set_p4d(here, at, value);
      return;
    case PUD:
      pgtable.set_pud(here, at, value);
      return;
    case PMD:
      pgtable.set_pmd(here, at, value);
      return;
    default:
      pgtable.set_pte(here, at, value);
  }
}

/** Clears the entry of `level` for `va`, to which a descent came: pmd_clear() and its kin. */
export function clearEntry(here: ThisCpu, memory: Memory, mm: mm_struct, va: number, level: number): void {
  const table = descend(here, memory, mm, va, level, false);
  if (table < 0) return;
  setEntry(here, memory.pgtable, level, table + tableIndex(level, va) * 8, 0n);
}

/** The entry of `level` that points to a table at `pa`. */
export function tableEntryFor(memory: Memory, mm: mm_struct, level: number, pa: number): bigint {
  const owner = mm === memory.init_mm ? 'kernel' : 'user';
  const name = level === P4D ? 'pgd' : level === PUD ? 'pud' : 'pmd';
  return memory.pgtable.tableEntry(name, pa, owner);
}

/** Allocates the table below the empty entry at `entry`; its address or -ENOMEM. */
function addTable(here: ThisCpu, memory: Memory, mm: mm_struct, level: number, entry: Ptep): number {
  const pa = memory.pages.alloc_page(here, TABLE_OWNER);
  if (pa === null) return -ENOMEM;
  const value = tableEntryFor(memory, mm, level, pa);
  setEntry(here, memory.pgtable, level, entry, value);
  if (level === P4D && mm === memory.init_mm) syncRoots(here, memory, entry - mm.pgd, value);
  return pa;
}

/** arch_sync_kernel_mappings(): copies a new root entry of init_mm to the roots that share its half. */
export function syncRoots(here: ThisCpu, memory: Memory, offset: number, value: bigint): void {
  for (const mm of memory.sharers) memory.pgtable.set_p4d(here, mm.pgd + offset, value);
}

function outsideRam(table: number): RamError {
  return new RamError(
    `a page-table entry points to a table at physical ${hex(table)}, which is not in the ram`,
  );
}
