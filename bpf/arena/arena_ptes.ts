/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 2: what the page-table walks of an arena
 * do to each entry. Left out: nothing. Reading an entry and storing it are separate steps: between them
 * another CPU may come in.
 */
import type { Ptep, ThisCpu } from '../../arch/arch.js';
import { Turns } from '../../emu/endless.js';
import type { Path } from '../../emu/path.js';
import { EBUSY, EINVAL } from '../../kernel/errno.js';
import { flush_tlb_kernel_range } from '../../mm/tlb.js';
import type { BpfEnv } from '../env.js';
import type { bpf_arena } from './arena_struct.js';

/** struct apply_range_data: pages to map, and how many of them are mapped already. */
export interface apply_range_data {
  readonly env: BpfEnv;
  /** Physical addresses. */
  readonly pages: readonly number[];
  i: number;
  /** L1 only: the page that may be replaced. */
  readonly scratch_page: number;
}

/** struct clear_range_data: pages that leave the arena, in the order in which they were found. */
export interface clear_range_data {
  readonly env: BpfEnv;
  readonly free_pages: number[];
  readonly scratch_page: number;
}

export interface existing_page_data {
  readonly env: BpfEnv;
  readonly arena: bpf_arena;
}

/** The scratch page as the fault handler hands it on: its entry is the same for every fault. */
export interface scratch_data {
  readonly env: BpfEnv;
  /** mk_pte(scratch_page, PAGE_KERNEL) */
  readonly pte: bigint;
}

/**
 * Maps the next page. In v4 -EBUSY over anything that is there already, a scratch page included; later
 * only over a real page.
 */
export function* apply_range_set_cb(
  here: ThisCpu,
  pte: Ptep,
  addr: bigint,
  d: apply_range_data,
): Path<number> {
  const { pgtable } = d.env.memory;
  if (d.env.variant !== 'v4' && pgtable.ptep_try_set_is_stub !== true)
    return yield* replaceScratch(here, pte, addr, d);
  const fn = 'apply_range_set_cb';
  const taken = !pgtable.pte_none(pgtable.ptep_get(here, pte));
  if (yield* here.trace.decide(fn, '!pte_none(ptep_get(pte))', taken)) return -EBUSY;
  const page = yield* nextPage(here, d);
  if (page < 0) return page;
  pgtable.set_pte(here, pte, pgtable.mk_pte(page, pgtable.PAGE_KERNEL));
  d.i += 1;
  return 0;
}

/** f64c723741c9: a scratch page makes room, in two steps that nobody can come between unseen. */
function* replaceScratch(here: ThisCpu, pte: Ptep, addr: bigint, d: apply_range_data): Path<number> {
  const { trace } = here;
  const { memory } = d.env;
  const { pgtable } = memory;
  const fn = 'apply_range_set_cb';
  const page = yield* nextPage(here, d);
  if (page < 0) return page;
  const value = pgtable.mk_pte(page, pgtable.PAGE_KERNEL);
  const turns = new Turns(trace.patience);
  while (!(yield* trace.decide(fn, 'ptep_try_set(pte, pteval)', pgtable.ptep_try_set(here, pte, value)))) {
    const old = pgtable.ptep_get(here, pte);
    if (yield* trace.decide(fn, 'pte_none(old)', pgtable.pte_none(old))) {
      // An x86 entry with nothing but erratum bits is none and cannot be exchanged.
      turns.again(addr);
      continue;
    }
    const other = pgtable.pte_pa(old) !== d.scratch_page;
    if (yield* trace.decide(fn, 'pte_page(old) != d->scratch_page', other)) {
      d.env.warnOnce(here, fn, 'pte_page(old) != d->scratch_page');
      return -EBUSY;
    }
    pgtable.ptep_get_and_clear(here, pte);
    // flush_tlb_before_set()
    if (pgtable.flushes_tlb_before_set === true) flush_tlb_kernel_range(here, memory, addr, addr + 1n);
  }
  d.i += 1;
  return 0;
}

/** The page to be mapped, or -EINVAL with a warning. */
function* nextPage(here: ThisCpu, d: apply_range_data): Path<number> {
  const page = d.pages[d.i];
  if (page !== undefined && here.ram.contains(page)) return page;
  const test = '!pfn_valid(page_to_pfn(page))';
  yield* here.trace.decide('apply_range_set_cb', test, true);
  d.env.warnOnce(here, 'apply_range_set_cb', test);
  return -EINVAL;
}

/** Clears an entry. A real page is collected for freeing; the scratch page is nobody's. */
export function* apply_range_clear_cb(
  here: ThisCpu,
  pte: Ptep,
  _addr: bigint,
  d: clear_range_data,
): Path<number> {
  const { trace, ram } = here;
  const { pgtable } = d.env.memory;
  const fn = 'apply_range_clear_cb';
  const old = pgtable.ptep_get_and_clear(here, pte);
  const nothing = pgtable.pte_none(old) || !pgtable.pte_present(old);
  if (yield* trace.decide(fn, 'pte_none(old_pte) || !pte_present(old_pte)', nothing)) return 0;

  const page = pgtable.pte_pa(old);
  if (!ram.contains(page)) {
    d.env.warnOnce(here, fn, '!page');
    return -EINVAL;
  }
  if (yield* trace.decide(fn, 'page == d->scratch_page', page === d.scratch_page)) return 0;
  d.free_pages.push(page);
  return 0;
}

/** Puts the scratch page where nothing is. Never fails: whoever was faster has made the address usable. */
export function* apply_range_set_scratch_cb(
  here: ThisCpu,
  pte: Ptep,
  _addr: bigint,
  d: scratch_data,
): Path<number> {
  const { trace } = here;
  const { pgtable } = d.env.memory;
  const fn = 'apply_range_set_scratch_cb';
  const taken = !pgtable.pte_none(pgtable.ptep_get(here, pte));
  if (yield* trace.decide(fn, '!pte_none(ptep_get(pte))', taken)) return 0;
  const set = pgtable.ptep_try_set(here, pte, d.pte);
  yield* trace.decide(fn, 'ptep_try_set(pte, mk_pte(scratch_page, PAGE_KERNEL))', set);
  return 0;
}

/** Frees what an entry maps when the arena dies. The entry stays; nobody can use it any more. */
export function* existing_page_cb(
  here: ThisCpu,
  pte: Ptep,
  _addr: bigint,
  d: existing_page_data,
): Path<number> {
  const { trace } = here;
  const { pgtable, pages } = d.env.memory;
  const fn = 'existing_page_cb';
  const value = pgtable.ptep_get(here, pte);
  if (yield* trace.decide(fn, '!pte_present(pte)', !pgtable.pte_present(value))) return 0;
  const page = pgtable.pte_pa(value);
  if (yield* trace.decide(fn, 'page == arena->scratch_page', page === d.arena.scratch_page)) return 0;
  pages.free_page(here, page);
  return 0;
}
