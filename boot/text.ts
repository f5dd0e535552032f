/**
 * Executable memory of a machine: kernel text and BPF images. Pages come in chunks as code is put there;
 * whatever no code covers holds the architecture's filler, as between functions of a real image.
 */
import type { AddressLayout, ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { pageOf } from '../emu/address.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import { map_kernel_range } from '../mm/map.js';
import type { Memory } from '../mm/memory.js';

/** Where code can go. */
export type TextKind = 'kernel' | 'bpf';

/** Functions begin at multiples of this, in bytes. */
export const TEXT_ALIGN = 16;

/** Bytes mapped at a time; region starts are aligned to it. */
export const CHUNK = 4 * PAGE_SIZE;

/** Code never begins at the first byte that is mapped: dumps show what is in front of an instruction (x86: 42 bytes). */
const BYTES_IN_FRONT = 64n;

/** The text regions of a machine. */
export class TextSpace {
  readonly #next: Record<TextKind, bigint>;
  readonly #memory: Memory;
  /** A chunk that no code is in yet. */
  readonly #blank = new Uint8Array(CHUNK);

  constructor(memory: Memory, layout: AddressLayout, filler: Uint8Array) {
    this.#memory = memory;
    this.#blank.set(filler);
    for (let done = filler.length; done < CHUNK; done *= 2) this.#blank.copyWithin(done, 0, done);
    this.#next = { kernel: layout.text.start, bpf: layout.bpf.start };
  }

  /** First free address of a region, aligned. */
  base(kind: TextKind): bigint {
    return alignUp(this.#next[kind], BigInt(TEXT_ALIGN));
  }

  /** Nothing else goes below `address`. */
  reserve(kind: TextKind, address: bigint): void {
    if (address > this.#next[kind]) this.#next[kind] = address;
  }

  /** Puts bytes at an address, mapping the pages they need: executable, read-only. */
  store(here: ThisCpu, kind: TextKind, start: bigint, bytes: Uint8Array): void {
    this.map(here, start - BYTES_IN_FRONT, bytes.length + Number(BYTES_IN_FRONT));
    for (let done = 0; done < bytes.length; ) {
      const va = start + BigInt(done);
      const length = Math.min(bytes.length - done, PAGE_SIZE - Number(va & 0xfffn));
      this.#memory.ram.write(here.mmu.peek(va), bytes.subarray(done, done + length));
      done += length;
    }
    this.reserve(kind, start + BigInt(bytes.length));
  }

  /** Maps the pages of a range, so that they hold filler at least. */
  map(here: ThisCpu, start: bigint, size: number): void {
    const end = start + BigInt(size);
    for (let page = pageOf(start); page < end; page += BigInt(PAGE_SIZE)) this.#ensure(here, page);
  }

  /** Maps the chunk of a page. Its frames follow each other: an exception table may cross a page. */
  #ensure(here: ThisCpu, page: bigint): void {
    if (here.mmu.peek(page) >= 0) return;
    const { ram, pages, pgtable, init_mm } = this.#memory;
    const chunk = page & ~BigInt(CHUNK - 1);
    const pa = pages.takeFrames(CHUNK / PAGE_SIZE, 'text');
    if (pa === null) throw new MachineRefusal('the ram is full: no pages for code; make it larger');
    ram.write(pa, this.#blank);
    const err = map_kernel_range(
      here,
      this.#memory,
      init_mm,
      chunk,
      pa,
      CHUNK / PAGE_SIZE,
      pgtable.PAGE_KERNEL_ROX,
    );
    if (err !== 0)
      throw new MachineRefusal('the ram is full: no pages for the tables of code; make it larger');
  }
}

/** The next multiple of a power of two. */
export function alignUp(value: bigint, to: bigint): bigint {
  return (value + to - 1n) & ~(to - 1n);
}
