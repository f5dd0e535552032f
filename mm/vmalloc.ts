/**
 * Port of the area allocator of mm/vmalloc.c (bpf-next merge 8496d9020ff3): get_vm_area(), free_vm_area(),
 * and kernel stacks as kernel/fork.c takes them from there.
 *
 * An area is the lowest hole that fits; one page behind it stays unmapped. Left out: the trees, lazy
 * purging. The kernel puts off the TLB flush of a freed area and does not reuse its addresses before;
 * here the flush comes at once, which is one of the orders the kernel may choose.
 */
import type { AddressLayout, ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { fromSigned, hex, toSigned } from '../emu/address.js';
import { map_page, unmap_kernel_range } from './map.js';
import type { Memory } from './memory.js';

/** vm_struct flags, include/linux/vmalloc.h. */
export const VM_ALLOC = 0x2;
export const VM_MAP = 0x4;
export const VM_USERMAP = 0x8;
export const VM_NO_GUARD = 0x40;
export const VM_SPARSE = 0x1000;

/** A range that cannot be had or given back. A mistake in a fixture or a port. */
export class VmallocError extends Error {
  override name = 'VmallocError';
}

/** struct vm_struct */
export interface vm_struct {
  readonly addr: bigint;
  /** Bytes, with the guard page behind the area (none with VM_NO_GUARD). */
  readonly size: number;
  readonly flags: number;
}

export interface AreaOptions {
  /** The address to be had, and no other. */
  readonly at?: bigint;
  /** Alignment in bytes, 4096 or more. */
  readonly align?: number;
}

interface Busy {
  readonly start: number;
  readonly end: number;
  readonly area: vm_struct | null;
}

/** Who has which part of the vmalloc range. */
export class VmallocSpace {
  readonly #first: number;
  readonly #end: number;
  /** Ascending, disjoint. */
  readonly #busy: Busy[] = [];

  constructor(layout: AddressLayout) {
    this.#first = toSigned(layout.vmalloc.start);
    this.#end = toSigned(layout.vmalloc.end);
    // On arm64 the kernel image lies in this range: declare_kernel_vmas().
    const textStart = toSigned(layout.text.start);
    const textEnd = Math.ceil(toSigned(layout.text.end) / PAGE_SIZE) * PAGE_SIZE;
    if (textStart < this.#end && textEnd > this.#first) {
      this.#busy.push({ start: Math.max(textStart, this.#first), end: textEnd, area: null });
    }
  }

  /** Areas in use, ascending. */
  get areas(): readonly vm_struct[] {
    return this.#busy.flatMap(({ area }) => (area === null ? [] : [area]));
  }

  /** See get_vm_area(). */
  take(size: number, flags: number, options: AreaOptions): vm_struct | null {
    const guard = (flags & VM_NO_GUARD) === 0 ? PAGE_SIZE : 0;
    const bytes = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE + guard;
    const start =
      options.at === undefined
        ? this.#lowest(bytes, options.align ?? PAGE_SIZE)
        : this.#fixed(options.at, bytes);
    if (start === null) return null;
    const area: vm_struct = { addr: fromSigned(start), size: bytes, flags };
    const next = this.#busy.findIndex((busy) => busy.start > start);
    this.#busy.splice(next < 0 ? this.#busy.length : next, 0, { start, end: start + bytes, area });
    return area;
  }

  /** Gives an area's addresses back. Throws a VmallocError when it is not in use. */
  release(area: vm_struct): void {
    const index = this.#busy.findIndex((busy) => busy.area === area);
    if (index < 0) throw new VmallocError(`the area at ${hex(area.addr)} is freed, but is not in use`);
    this.#busy.splice(index, 1);
  }

  /** find_vm_area(): the area that holds `addr`, its guard page included. */
  find_vm_area(addr: bigint): vm_struct | null {
    const va = toSigned(addr);
    return this.#busy.find(({ start, end }) => va >= start && va < end)?.area ?? null;
  }

  #lowest(bytes: number, align: number): number | null {
    let start = Math.ceil(this.#first / align) * align;
    for (const busy of this.#busy) {
      if (start + bytes <= busy.start) break;
      start = Math.max(start, Math.ceil(busy.end / align) * align);
    }
    return start + bytes <= this.#end ? start : null;
  }

  #fixed(at: bigint, bytes: number): number {
    const start = toSigned(at);
    if (!(start >= this.#first && start + bytes <= this.#end) || start % PAGE_SIZE !== 0) {
      throw new VmallocError(
        `an area of ${hex(bytes)} bytes at ${hex(at)} is not in whole pages of the vmalloc range ` +
          `${hex(fromSigned(this.#first))}..${hex(fromSigned(this.#end - 1))}`,
      );
    }
    const other = this.#busy.find((busy) => start < busy.end && start + bytes > busy.start);
    if (other !== undefined) {
      const what = other.area === null ? 'the kernel image' : 'an area';
      throw new VmallocError(
        `an area of ${hex(bytes)} bytes at ${hex(at)} would overlap ${what} at ` +
          `${hex(fromSigned(other.start))}..${hex(fromSigned(other.end - 1))}`,
      );
    }
    return start;
  }
}

/**
 * Reserves addresses; nothing is mapped. Null when no hole is large enough.
 * @param size bytes; rounded up to pages, and one guard page is added
 */
export function get_vm_area(
  _here: ThisCpu,
  memory: Memory,
  size: number,
  flags: number,
  options: AreaOptions = {},
): vm_struct | null {
  return memory.vmalloc.take(size, flags, options);
}

/** get_vm_area_size(): the area without its guard page, in bytes. */
export function get_vm_area_size(area: vm_struct): number {
  return (area.flags & VM_NO_GUARD) === 0 ? area.size - PAGE_SIZE : area.size;
}

/** Clears what the area maps, drops its translations and gives its addresses back. Its tables stay. */
export function free_vm_area(here: ThisCpu, memory: Memory, area: vm_struct): void {
  memory.vmalloc.release(area);
  unmap_kernel_range(here, memory, area.addr, area.addr + BigInt(get_vm_area_size(area)));
}

/** A kernel stack in vmalloc space. */
export interface ThreadStack {
  /** Lowest address. */
  readonly stack: bigint;
  readonly size: number;
  readonly area: vm_struct;
  /** Physical addresses of its pages, lowest first. */
  readonly pages: readonly number[];
}

/**
 * alloc_thread_stack_node() with CONFIG_VMAP_STACK: THREAD_SIZE bytes; the pages below and above are not
 * mapped. Null without room or memory; then nothing is kept.
 *
 * @param align bytes
 */
export function alloc_thread_stack(
  here: ThisCpu,
  memory: Memory,
  owner: string,
  align = memory.layout.THREAD_ALIGN,
): ThreadStack | null {
  const size = memory.layout.THREAD_SIZE;
  const area = get_vm_area(here, memory, size, VM_ALLOC, { align });
  if (area === null) return null;
  const pages: number[] = [];
  for (let offset = 0; offset < size; offset += PAGE_SIZE) {
    const pa = memory.pages.alloc_page(here, owner);
    if (pa !== null) pages.push(pa);
    const failed =
      pa === null ||
      map_page(here, memory, memory.init_mm, area.addr + BigInt(offset), pa, memory.pgtable.PAGE_KERNEL) !==
        0;
    if (failed) {
      free_thread_stack(here, memory, { stack: area.addr, size, area, pages });
      return null;
    }
  }
  return { stack: area.addr, size, area, pages };
}

/** Gives a stack back. Nobody may run on it. */
export function free_thread_stack(here: ThisCpu, memory: Memory, { area, pages }: ThreadStack): void {
  free_vm_area(here, memory, area);
  for (const page of pages) memory.pages.free_page(here, page);
}
