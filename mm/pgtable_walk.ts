/**
 * Port of the walkers of mm/memory.c (bpf-next merge 8496d9020ff3) that call a function for each PTE of a
 * range: apply_to_page_range() and apply_to_existing_page_range(), with __apply_to_page_range() and
 * apply_to_{p4d,pud,pmd,pte}_range() folded into one loop.
 *
 * Left out: the PTE lock of user address spaces, lazy-MMU mode, and the console line of pmd_clear_bad()
 * and its kin, which each architecture words differently.
 */
import type { Ptep, ThisCpu } from '../arch/arch.js';
import { type mm_struct, PAGE_SIZE } from '../arch/kernel.js';
import { fromSigned, hex, toSigned } from '../emu/address.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { EINVAL, ENOMEM } from '../kernel/errno.js';
import {
  clearEntry,
  descend,
  entryAt,
  isStop,
  PTE,
  SPAN,
  spanEnd,
  stoppedAt,
  stoppedBy,
  syncRoots,
  tableEntryFor,
  tableIndex,
} from './descend.js';
import type { Memory } from './memory.js';
import { TABLE_OWNER } from './page_alloc.js';
import { ENTRY_BAD, ENTRY_LEAF, ENTRY_NONE, levelName, P4D, PMD, PUD } from './table_entries.js';

/** Called for a PTE; anything but 0 ends the walk and is its result. `addr` is the page's address. */
export type pte_fn_t<D> = (here: ThisCpu, pte: Ptep, addr: bigint, data: D) => Delegate<number>;

/** Walks over so many pages or less tell of each empty entry, longer ones of each run of them. */
const TOLD_EACH = 64;

/** Arguments of both walkers, whose `fn` and `data` belong together. */
type Walk = <D>(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  addr: bigint,
  size: number,
  fn: pte_fn_t<D>,
  data: D,
) => Delegate<number>;

const ARG_NAMES = ['memory', 'mm', 'addr', 'size', 'fn', 'data'];

/**
 * Calls `fn` for every PTE of [addr, addr + size), whatever it holds, and makes the tables that are
 * missing. Tables made before a failure stay.
 *
 * @param addr page aligned
 * @param size bytes
 * @returns 0; -EINVAL for an empty range or one that wraps, or over a huge page; -ENOMEM; or what `fn` said
 */
export const apply_to_page_range: Walk = walker('apply_to_page_range', true);

/**
 * The same for PTEs that hold something, and without making tables. Whether an entry is empty is read
 * before `fn` reads it again: in between another CPU may come in. Each empty entry is a decision, too; in
 * a walk over more than 64 pages a run of them is one.
 */
export const apply_to_existing_page_range: Walk = walker('apply_to_existing_page_range', false);

function walker(name: string, create: boolean): Walk {
  return port(
    name,
    ARG_NAMES,
    (
      here: ThisCpu,
      memory: Memory,
      mm: mm_struct,
      addr: bigint,
      size: number,
      fn: pte_fn_t<never>,
      data: unknown,
    ) => applyToRange(here, memory, mm, addr, size, fn as pte_fn_t<unknown>, data, create),
  ) as Walk;
}

function* applyToRange(
  here: ThisCpu,
  memory: Memory,
  mm: mm_struct,
  addr: bigint,
  size: number,
  fn: pte_fn_t<unknown>,
  data: unknown,
  create: boolean,
): Path<number> {
  const start = toSigned(addr);
  const end = start + size;
  checkRange(addr, start, size);
  if (size <= 0 || (start < 0 && end >= 0)) {
    here.kernel.warn(here, 'mm/memory.c', '__apply_to_page_range', null);
    return -EINVAL;
  }

  const each = size <= TOLD_EACH * PAGE_SIZE;
  let narratedNone = false;
  for (let va = start; va < end; ) {
    const table = descend(here, memory, mm, va, PTE, create);
    if (table < 0) {
      if (!isStop(table)) return table;
      const level = stoppedAt(table);
      const kind = stoppedBy(table);
      if (kind === ENTRY_LEAF) {
        warnOnce(here, `apply_to_${levelName(level)}_range`, 'leaf');
        return -EINVAL;
      }
      if (kind === ENTRY_BAD) {
        warnOnce(here, `apply_to_${levelName(level)}_range`, 'bad');
        if (create) {
          clearEntry(here, memory, mm, va, level);
          continue;
        }
      }
      va = spanEnd(level, va);
      continue;
    }

    const stop = Math.min(end, spanEnd(PMD, va));
    let pte = table + tableIndex(PTE, va) * 8;
    while (va < stop) {
      if (!create) {
        const none = countNone(memory, pte, (stop - va) / PAGE_SIZE);
        if (none > 0) {
          if (each || !narratedNone) {
            // Whoever comes in here may fill an entry that has not been looked at yet.
            yield* decideExisting(here, false);
            narratedNone = true;
            va += PAGE_SIZE;
            pte += 8;
          } else {
            va += none * PAGE_SIZE;
            pte += none * 8;
          }
          continue;
        }
        narratedNone = false;
        yield* decideExisting(here, true);
      }
      const err = yield* fn(here, pte, va === start ? addr : fromSigned(va), data);
      if (err !== 0) return err;
      va += PAGE_SIZE;
      pte += 8;
    }
  }
  return 0;
}

function decideExisting(here: ThisCpu, value: boolean): Delegate<boolean> {
  return here.trace.decide('apply_to_pte_range', 'create || !pte_none(ptep_get(pte))', value);
}

/** Length of the run of empty PTEs from `pte` on, `limit` at the most. */
export function countNone(memory: Memory, pte: Ptep, limit: number): number {
  const { ram, pgtable } = memory;
  const { words32 } = ram;
  let word = (pte - ram.base) / 4;
  let count = 0;
  for (; count < limit; count++, word += 2) {
    const lo = words32[word] ?? 0;
    const hi = words32[word + 1] ?? 0;
    if ((lo | hi) !== 0 && !pgtable.pte_none((BigInt(hi) << 32n) | BigInt(lo))) break;
  }
  return count;
}

function warnOnce(here: ThisCpu, fn: string, what: string): void {
  if (here.kernel.once(`mm/memory.c:${fn}:${what}`)) here.kernel.warn(here, 'mm/memory.c', fn, null);
}

function checkRange(addr: bigint, start: number, size: number): void {
  if (Number.isNaN(start) || (start & (PAGE_SIZE - 1)) !== 0 || size % PAGE_SIZE !== 0) {
    throw new RangeError(
      `a page-table walk over ${hex(addr)}, ${size} bytes: not whole pages of a canonical address`,
    );
  }
}

/**
 * Makes all tables of a range of init_mm and touches no PTE: what apply_to_page_range() with a callback
 * that does nothing comes to, without a million calls. One populate event stands for all of it.
 *
 * @returns 0, or -ENOMEM; tables made before stay
 */
export function* populate_kernel_tables(
  here: ThisCpu,
  memory: Memory,
  start: bigint,
  end: bigint,
): Path<number> {
  const { pages } = memory;
  const before = pages.count(TABLE_OWNER);
  const last = toSigned(end);
  let err = 0;
  for (let va = toSigned(start); va < last && err === 0; va = spanEnd(PMD, va)) {
    err = makeTables(here, memory, va);
  }
  const tables = pages.count(TABLE_OWNER) - before;
  here.trace.emit({ type: 'populate', cpu: here.cpu.id, start, end, tables });
  yield* here.trace.decide('apply_to_pte_range', '!pte_alloc_kernel_track(pmd, addr, mask)', err !== 0);
  return err;
}

/** Stores the entries down to the PTE table of `va` without an event each; 0, -ENOMEM or -EINVAL. */
function makeTables(here: ThisCpu, memory: Memory, va: number): number {
  const { ram, pages, init_mm, entries } = memory;
  let table = init_mm.pgd;
  for (let level = P4D; level <= PMD; level++) {
    const entry = table + tableIndex(level, va) * 8;
    const word = (entry - ram.base) / 4;
    let next = entries.classify(level, ram.words32[word] ?? 0, ram.words32[word + 1] ?? 0);
    if (next === ENTRY_NONE) {
      const pa = pages.takeFrame(TABLE_OWNER);
      if (pa === null) return -ENOMEM;
      const value = tableEntryFor(memory, init_mm, level, pa);
      ram.writeU64(entry, value);
      if (level === P4D) syncRoots(here, memory, entry - init_mm.pgd, value);
      next = pa;
    }
    if (next < 0) return -EINVAL;
    table = next;
  }
  return 0;
}

/**
 * Physical address of the page that init_mm maps at `addr`, or null: vmalloc_to_page() of mm/vmalloc.c.
 * Knows huge pages; the WARNs for bad entries are left out.
 */
export function vmalloc_to_page(here: ThisCpu, memory: Memory, addr: bigint): number | null {
  const { pgtable, init_mm } = memory;
  const va = toSigned(addr);
  const at = entryAt(here, memory, init_mm, va, PTE, false);
  if (at >= 0) {
    const pte = pgtable.ptep_get(here, at);
    return pgtable.pte_present(pte) ? pgtable.pte_pa(pte) : null;
  }
  if (stoppedBy(at) !== ENTRY_LEAF) return null;
  const level = stoppedAt(at);
  const leaf = pgtable.ptep_get(here, entryAt(here, memory, init_mm, va, level, false));
  if (!(level === PUD ? pgtable.pud_present(leaf) : pgtable.pmd_present(leaf))) return null;
  const span = SPAN[level] ?? PAGE_SIZE;
  const pa = pgtable.pte_pa(leaf);
  // The low bits of a huge leaf's frame may hold an attribute.
  return pa - (pa % span) + span - (spanEnd(level, va) - pageStart(va));
}

function pageStart(va: number): number {
  return Math.floor(va / PAGE_SIZE) * PAGE_SIZE;
}
