/** The memory management of one machine: what mm/, bpf/ and boot/ hand around. */
import type { AddressLayout, Pgtable, ThisCpu } from '../arch/arch.js';
import type { mm_struct } from '../arch/kernel.js';
import type { Ram } from '../emu/ram.js';
import { PageAllocator, PageAllocatorError, TABLE_OWNER } from './page_alloc.js';
import { TableEntries } from './table_entries.js';
import { VmallocSpace } from './vmalloc.js';

/** State of the memory management of one machine. One per `Ram`. */
export class Memory {
  readonly pages: PageAllocator;
  /** The kernel's own address space. Its root table is the first frame taken. */
  readonly init_mm: mm_struct;
  readonly vmalloc: VmallocSpace;
  /** All CPUs of the machine; whoever makes one adds it. TLB flushes go to each of them. */
  readonly cpus: ThisCpu[] = [];
  /**
   * User address spaces whose root has the kernel's half copied into it: those that must learn of a new
   * root entry of init_mm. Empty where the halves have a root each.
   */
  readonly sharers = new Set<mm_struct>();
  /**
   * True when kernel addresses are translated by the upper half of the user's root (x86); false when user
   * addresses need the whole root, so that the kernel has another one (arm64).
   */
  readonly sharedRoot: boolean;
  /** What the generic walkers know about table entries. */
  readonly entries: TableEntries;
  #zeroPage: number | null = null;

  /** Throws a PageAllocatorError when the ram has no frame for the root table. */
  constructor(
    readonly ram: Ram,
    readonly pgtable: Pgtable,
    readonly layout: AddressLayout,
  ) {
    this.pages = new PageAllocator(ram);
    const pgd = this.pages.takeFrame(TABLE_OWNER);
    if (pgd === null) throw new PageAllocatorError('no frame for the root table of init_mm');
    this.init_mm = { name: 'init_mm', pgd };
    this.vmalloc = new VmallocSpace(layout);
    this.sharedRoot = layout.user.end <= 1n << 47n;
    this.entries = new TableEntries(pgtable);
  }

  /** Physical address of empty_zero_page, taken when it is first asked for; null when the ram is full. */
  zeroPage(): number | null {
    this.#zeroPage ??= this.pages.takeFrame('zero page');
    return this.#zeroPage;
  }

  /** is_zero_pfn() */
  isZeroPage(pa: number): boolean {
    return pa === this.#zeroPage;
  }
}
