/** Pages for the data of a fixture and for user code and stacks. */
import { PAGE_SIZE, VM_EXEC, VM_READ, VM_WRITE } from '../arch/kernel.js';
import type { System } from '../boot/system.js';
import { hex } from '../emu/address.js';
import { MmapError, mmap_region } from '../mm/mmap.js';
import { PageAllocatorError } from '../mm/page_alloc.js';
import { VmallocError } from '../mm/vmalloc.js';

export type Prot = 'rw' | 'ro' | 'rx' | 'rwx';

/** Where user data goes that does not say, and where the user stack ends. */
const USER_DATA = 0x1000_0000n;
const USER_STACK_END = 0x7f_ffff_f000n;
const USER_STACK_SIZE = 8 * PAGE_SIZE;

const KERNEL_PROT = {
  rw: 'PAGE_KERNEL',
  ro: 'PAGE_KERNEL_RO',
  rx: 'PAGE_KERNEL_ROX',
  rwx: 'PAGE_KERNEL_EXEC',
} as const;
const USER_PROT = {
  rw: ['PAGE_SHARED', VM_READ | VM_WRITE],
  ro: ['PAGE_READONLY', VM_READ],
  rx: ['PAGE_READONLY_EXEC', VM_READ | VM_EXEC],
  rwx: ['PAGE_SHARED_EXEC', VM_READ | VM_WRITE | VM_EXEC],
} as const;

/** True for what is thrown when pages cannot be had at a place; the message says why. */
export function isRefusal(error: unknown): error is Error {
  return (
    error instanceof RangeError ||
    error instanceof VmallocError ||
    error instanceof MmapError ||
    error instanceof PageAllocatorError
  );
}

export class DataPages {
  #nextUser = USER_DATA;

  constructor(readonly system: System) {}

  /**
   * Maps fresh, zeroed pages. Throws what `isRefusal` knows.
   * @param size bytes, 1 or more
   * @param at the address, page aligned; chosen if undefined
   * @returns their address
   */
  load(where: 'vmalloc' | 'linear' | 'user', prot: Prot, size: number, owner: string, at?: bigint): bigint {
    if (at !== undefined && at % BigInt(PAGE_SIZE) !== 0n) {
      throw new RangeError(`${hex(at)} is not the start of a page`);
    }
    const { pgtable } = this.system.memory;
    switch (where) {
      case 'vmalloc':
        return this.system.loadPages(size, pgtable[KERNEL_PROT[prot]], owner, at);
      case 'linear':
        return this.#linear(prot, size, owner, at);
      case 'user':
        return this.#user(prot, size, owner, at ?? this.#nextUser);
    }
  }

  /** Maps a range of user memory whose pages come with the first touch. Arguments as of `load`. */
  reserve(prot: Prot, size: number, at: bigint = this.#nextUser): bigint {
    const bytes = this.#userRange(at, size);
    mmap_region(this.system.userMm(), at, bytes, USER_PROT[prot][1]);
    return at;
  }

  /** A user stack; the first stack pointer. */
  stack(): bigint {
    this.#user('rw', USER_STACK_SIZE, 'user stack', USER_STACK_END - BigInt(USER_STACK_SIZE));
    return USER_STACK_END;
  }

  #linear(prot: Prot, size: number, owner: string, at: bigint | undefined): bigint {
    if (prot !== 'rw') throw new RangeError(`the direct map is rw as a whole: data in it cannot be ${prot}`);
    const { pages, layout, ram } = this.system.memory;
    const count = Math.ceil(size / PAGE_SIZE);
    if (at === undefined) {
      const pa = pages.takeFrames(count, owner);
      if (pa === null) throw new RangeError(`the ram is full: no ${count} pages for ${owner}`);
      return layout.directMap + BigInt(pa - layout.physBase);
    }
    const offset = at - layout.directMap;
    if (offset < 0n || offset + BigInt(count * PAGE_SIZE) > BigInt(ram.size)) {
      throw new RangeError(
        `${hex(at)} is outside of the direct map ` +
          `${hex(layout.directMap)}..${hex(layout.directMap + BigInt(ram.size) - 1n)}`,
      );
    }
    pages.reserve(layout.physBase + Number(offset), count, owner);
    return at;
  }

  #user(prot: Prot, size: number, owner: string, at: bigint): bigint {
    const { pgtable } = this.system.memory;
    const bytes = this.#userRange(at, size);
    const [name, flags] = USER_PROT[prot];
    this.system.loadUserPages(at, bytes, flags, pgtable[name], owner);
    return at;
  }

  /** The size in whole pages. Throws a RangeError when the range is not in user memory. */
  #userRange(at: bigint, size: number): number {
    const { user } = this.system.memory.layout;
    if (at % BigInt(PAGE_SIZE) !== 0n) throw new RangeError(`${hex(at)} is not the start of a page`);
    const bytes = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
    const end = at + BigInt(bytes);
    if (at < BigInt(PAGE_SIZE) || end > user.end) {
      throw new RangeError(
        `${hex(at)} is no place for user memory: it lies between ${hex(PAGE_SIZE)} and ${hex(user.end)}`,
      );
    }
    if (end > this.#nextUser) this.#nextUser = end;
    return bytes;
  }
}
