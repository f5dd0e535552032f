/**
 * The page allocator: hands out frames of the machine's ram. It does what its callers see of
 * mm/page_alloc.c (alloc_page(GFP | __GFP_ZERO), __free_page(), get_page(), put_page()); zones, orders,
 * per-CPU lists and reclaim are left out.
 *
 * Which frame comes next is fixed: the frame freed last, and when none is free, the lowest one that was
 * never handed out. The frame at physical address 0 is never handed out, so that 0 can mean "none".
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { hex } from '../emu/address.js';
import type { Ram } from '../emu/ram.js';

/** Owner name of page tables. */
export const TABLE_OWNER = 'page table';

/** A frame is used wrongly: freed twice, never allocated, reserved twice. A mistake in a port or a fixture. */
export class PageAllocatorError extends Error {
  override name = 'PageAllocatorError';
}

const UNUSED = 0;
const USED = 1;
const FREE = 2;

/** Frames of one ram. A frame is named by its physical address. */
export class PageAllocator {
  readonly frames: number;
  /**
   * Set it once guest code or a fixture may have stored into frames that nobody owns (through the direct
   * map, say). Until then a frame that was never handed out is known to be zero and is not cleared.
   */
  exposed = false;
  /** Asked before each allocation with the owner: true makes it fail. Null when nothing is to fail. */
  refuses: ((owner: string) => boolean) | null = null;
  readonly #ram: Ram;
  readonly #base: number;
  readonly #state: Uint8Array;
  readonly #refcount: Int32Array;
  readonly #mapcount: Int32Array;
  readonly #owner: Uint16Array;
  readonly #owners: string[] = [];
  readonly #ownerIds = new Map<string, number>();
  readonly #ownerCounts: number[] = [];
  /** Indices of freed frames; the last one goes first. */
  readonly #freed: number[] = [];
  /** Every frame below was handed out, reserved or put among the freed ones. */
  #untouched = 0;
  /** A run that was not to be had. It never will be: no frame becomes untouched again. */
  #noRun: { readonly count: number; readonly align: number } | null = null;
  #allocated = 0;

  constructor(ram: Ram) {
    this.#ram = ram;
    this.#base = ram.base;
    this.frames = ram.size / PAGE_SIZE;
    this.#state = new Uint8Array(this.frames);
    this.#refcount = new Int32Array(this.frames);
    this.#mapcount = new Int32Array(this.frames);
    this.#owner = new Uint16Array(this.frames);
    if (ram.base === 0) this.reserve(0, 1, 'page 0');
  }

  /** Frames in use, reserved ones included. */
  get allocatedPages(): number {
    return this.#allocated;
  }

  get freePages(): number {
    return this.frames - this.#allocated;
  }

  /** Frames in use under this owner. */
  count(owner: string): number {
    const id = this.#ownerIds.get(owner);
    return id === undefined ? 0 : (this.#ownerCounts[id] ?? 0);
  }

  /** Who owns the frame that holds `pa`; null when it is free or not in the ram. */
  ownerOf(pa: number): string | null {
    const index = this.#indexOf(pa);
    if (index < 0 || this.#state[index] !== USED) return null;
    return this.#owners[this.#owner[index] ?? 0] ?? null;
  }

  /**
   * A zeroed page with one reference, or null when there is none (or a failure was asked for).
   * @param owner what it is for, for people: `bpf arena`, `page table`
   */
  alloc_page(here: ThisCpu, owner: string): number | null {
    const pa = this.takeFrame(owner);
    if (pa !== null) here.trace.emit({ type: 'page', cpu: here.cpu.id, action: 'alloc', pa, owner });
    return pa;
  }

  /** alloc_page() without an event: before there is a CPU, and for tables that are built in bulk. */
  takeFrame(owner: string): number | null {
    if (this.#fails(owner)) return null;
    const freed = this.#freed.pop();
    if (freed !== undefined) {
      // A frame that takeFrames() skipped lies among the freed ones, but nobody has had it.
      if (this.exposed || this.#state[freed] === FREE) this.#clear(freed, 1);
      this.#take(freed, owner);
      return this.#base + freed * PAGE_SIZE;
    }
    const index = this.#nextUntouched();
    if (index < 0) return null;
    this.#untouched = index + 1;
    this.#take(index, owner);
    if (this.exposed) this.#clear(index, 1);
    return this.#base + index * PAGE_SIZE;
  }

  /**
   * Zeroed frames that follow each other, never from freed ones; null when there are not enough.
   * @param align of the first frame's physical address, bytes, a multiple of 4096
   */
  takeFrames(count: number, owner: string, align = PAGE_SIZE): number | null {
    if (this.#fails(owner)) return null;
    const first = this.#findRun(count, align);
    if (first < 0) return null;
    for (let i = first - 1; i >= this.#untouched; i--) {
      if (this.#state[i] === UNUSED) this.#freed.push(i);
    }
    for (let i = first; i < first + count; i++) this.#take(i, owner);
    this.#untouched = first + count;
    if (this.exposed) this.#clear(first, count);
    return this.#base + first * PAGE_SIZE;
  }

  /** Takes given frames that nobody has used yet. Throws a PageAllocatorError when one of them is taken. */
  reserve(pa: number, count: number, owner: string): void {
    const first = this.#indexOf(pa);
    if (first < 0 || pa % PAGE_SIZE !== 0 || first + count > this.frames) {
      throw new PageAllocatorError(
        `cannot reserve ${count} pages at ${hex(pa)} for ${owner}: not whole pages of the ram`,
      );
    }
    for (let i = first; i < first + count; i++) {
      if (this.#state[i] === UNUSED && i >= this.#untouched) continue;
      const at = this.#base + i * PAGE_SIZE;
      const by = this.ownerOf(at);
      throw new PageAllocatorError(
        `cannot reserve page ${hex(at)} for ${owner}: ${by === null ? 'it was handed out before' : `${by} has it`}`,
      );
    }
    for (let i = first; i < first + count; i++) this.#take(i, owner);
  }

  /** __free_page(): drops a reference; the last one frees the page. */
  free_page(here: ThisCpu, pa: number): void {
    const index = this.#usedIndex(pa, 'freed');
    const refs = (this.#refcount[index] ?? 0) - 1;
    this.#refcount[index] = refs;
    if (refs > 0) return;
    const id = this.#owner[index] ?? 0;
    this.#state[index] = FREE;
    this.#mapcount[index] = 0;
    this.#ownerCounts[id] = (this.#ownerCounts[id] ?? 0) - 1;
    this.#allocated -= 1;
    this.#freed.push(index);
    const owner = this.#owners[id] ?? '';
    here.trace.emit({ type: 'page', cpu: here.cpu.id, action: 'free', pa, owner });
  }

  /** put_page(): the same as free_page(). */
  put_page(here: ThisCpu, pa: number): void {
    this.free_page(here, pa);
  }

  /** get_page(): one more reference. */
  get_page(pa: number): void {
    const index = this.#usedIndex(pa, 'referenced');
    this.#refcount[index] = (this.#refcount[index] ?? 0) + 1;
  }

  /** page_ref_count(): 0 for a free page. */
  page_ref_count(pa: number): number {
    const index = this.#indexOf(pa);
    return index < 0 ? 0 : (this.#refcount[index] ?? 0);
  }

  /** page_mapped(): true when a user page table maps it. */
  page_mapped(pa: number): boolean {
    const index = this.#indexOf(pa);
    return index >= 0 && (this.#mapcount[index] ?? 0) > 0;
  }

  /** How many user entries map the page; 0 for a free one. */
  page_mapcount(pa: number): number {
    const index = this.#indexOf(pa);
    return index < 0 ? 0 : (this.#mapcount[index] ?? 0);
  }

  /** folio_add_*_rmap_pte(): one more user entry maps the page. */
  page_add_rmap(pa: number): void {
    const index = this.#usedIndex(pa, 'mapped');
    this.#mapcount[index] = (this.#mapcount[index] ?? 0) + 1;
  }

  /** folio_remove_rmap_pte(): one user entry less. */
  page_remove_rmap(pa: number): void {
    const index = this.#usedIndex(pa, 'unmapped');
    const count = this.#mapcount[index] ?? 0;
    if (count === 0) throw new PageAllocatorError(`page ${hex(pa)} is unmapped, but nothing maps it`);
    this.#mapcount[index] = count - 1;
  }

  #fails(owner: string): boolean {
    return this.refuses?.(owner) ?? false;
  }

  #take(index: number, owner: string): void {
    let id = this.#ownerIds.get(owner);
    if (id === undefined) {
      id = this.#owners.length;
      if (id > 0xffff) throw new PageAllocatorError(`too many different owners of pages: ${owner}`);
      this.#owners.push(owner);
      this.#ownerIds.set(owner, id);
      this.#ownerCounts.push(0);
    }
    this.#state[index] = USED;
    this.#refcount[index] = 1;
    this.#owner[index] = id;
    this.#ownerCounts[id] = (this.#ownerCounts[id] ?? 0) + 1;
    this.#allocated += 1;
  }

  #clear(index: number, count: number): void {
    this.#ram.bytes.fill(0, index * PAGE_SIZE, (index + count) * PAGE_SIZE);
  }

  #nextUntouched(): number {
    let index = this.#untouched;
    while (this.#state[index] === USED) index += 1;
    // Looked through once: frames that are reserved lie behind it from now on.
    this.#untouched = index;
    return index < this.frames ? index : -1;
  }

  #findRun(count: number, align: number): number {
    const noRun = this.#noRun;
    if (noRun !== null && count >= noRun.count && align % noRun.align === 0) return -1;
    const step = align / PAGE_SIZE;
    const misalignment = this.#base / PAGE_SIZE + this.#untouched;
    let first = this.#untouched + ((step - (misalignment % step)) % step);
    while (first + count <= this.frames) {
      let i = first;
      while (i < first + count && this.#state[i] === UNUSED) i += 1;
      if (i === first + count) return first;
      first += step * Math.ceil((i + 1 - first) / step);
    }
    this.#noRun = { count, align };
    return -1;
  }

  #indexOf(pa: number): number {
    const index = (pa - this.#base) / PAGE_SIZE;
    return index >= 0 && index < this.frames ? Math.floor(index) : -1;
  }

  #usedIndex(pa: number, what: string): number {
    const index = (pa - this.#base) / PAGE_SIZE;
    if (this.#state[index] === USED) return index;
    const inRam = index >= 0 && index < this.frames;
    if (!inRam) throw new PageAllocatorError(`page ${hex(pa)} is ${what}: there is no ram`);
    if (!Number.isInteger(index)) throw new PageAllocatorError(`${hex(pa)} is ${what}: not a page address`);
    if (this.#state[index] === UNUSED) {
      throw new PageAllocatorError(`page ${hex(pa)} is ${what}, but was never allocated`);
    }
    const owner = this.#owners[this.#owner[index] ?? 0] ?? '';
    throw new PageAllocatorError(`page ${hex(pa)} is ${what}, but is free; last owner: ${owner}`);
  }
}
