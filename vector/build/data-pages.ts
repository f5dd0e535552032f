/** Pages for the data of a fixture and for user code and stacks. */
import {
  PAGE_SIZE,
  VM_EXEC,
  VM_FAULT_COMPLETED,
  VM_FAULT_HWPOISON,
  VM_FAULT_MAJOR,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
  VM_GROWSDOWN,
  VM_READ,
  VM_WRITE,
} from '../../arch/kernel.js';
import type { System } from '../../boot/system.js';
import { hex } from '../../emu/address.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { MmapError } from '../../mm/mmap.js';
import { PageAllocatorError } from '../../mm/page_alloc.js';
import { VmallocError } from '../../mm/vmalloc.js';

import type { FAULTS, PROTS } from '../format/schema.js';

type KernelProt = 'rw' | 'ro' | 'rx' | 'rwx';
export type Prot = (typeof PROTS)[number];
type Fault = (typeof FAULTS)[number];

/** What a range of user memory is like. */
export interface UserMemory {
  readonly prot: Prot;
  /** False leaves its pages to the first touch. */
  readonly populate: boolean;
  readonly grows_down?: boolean | undefined;
  readonly pkey?: number | undefined;
  readonly fault?: Fault | undefined;
  readonly write_locked?: boolean | undefined;
}

/** Where user data goes that does not say, and where the user stack ends. */
const USER_DATA = 0x1000_0000n;
export const USER_STACK_END = 0x7f_ffff_f000n;
export const USER_STACK_SIZE = 8 * PAGE_SIZE;

const KERNEL_PROT = {
  rw: 'PAGE_KERNEL',
  ro: 'PAGE_KERNEL_RO',
  rx: 'PAGE_KERNEL_ROX',
  rwx: 'PAGE_KERNEL_EXEC',
} as const;
const USER_PROT: Readonly<Record<Prot, number>> = {
  none: 0,
  r: VM_READ,
  ro: VM_READ,
  rw: VM_READ | VM_WRITE,
  rx: VM_READ | VM_EXEC,
  rwx: VM_READ | VM_WRITE | VM_EXEC,
};
/** VM_FAULT_* bits, and how often they are answered. */
const CHOSEN: Readonly<Record<Fault, readonly [bits: number, times: number]>> = {
  sigbus: [VM_FAULT_SIGBUS, Number.POSITIVE_INFINITY],
  oom: [VM_FAULT_OOM, Number.POSITIVE_INFINITY],
  sigsegv: [VM_FAULT_SIGSEGV, Number.POSITIVE_INFINITY],
  hwpoison: [VM_FAULT_HWPOISON, Number.POSITIVE_INFINITY],
  retry: [VM_FAULT_RETRY, 1],
  retry_major: [VM_FAULT_RETRY | VM_FAULT_MAJOR, 1],
  completed: [VM_FAULT_COMPLETED, Number.POSITIVE_INFINITY],
};

/** True for what is thrown when pages cannot be had at a place; the message says why. */
export function isRefusal(error: unknown): error is Error {
  return (
    error instanceof MachineRefusal ||
    error instanceof VmallocError ||
    error instanceof MmapError ||
    error instanceof PageAllocatorError
  );
}

export class DataPages {
  #nextUser = USER_DATA;

  constructor(readonly system: System) {}

  /**
   * Maps fresh, zeroed kernel pages. Throws what `isRefusal` knows.
   * @param size bytes, 1 or more
   * @param at the address, page aligned; chosen if undefined
   * @returns their address
   */
  load(where: 'vmalloc' | 'linear', prot: Prot, size: number, owner: string, at?: bigint): bigint {
    if (at !== undefined && at % BigInt(PAGE_SIZE) !== 0n) {
      throw new MachineRefusal(`${hex(at)} is not the start of a page`);
    }
    const kernelProt = kernelProtOf(prot);
    if (kernelProt === null)
      throw new MachineRefusal(`kernel memory cannot be ${prot}: it is rw, ro, rx or rwx`);
    const { pgtable } = this.system.memory;
    return where === 'vmalloc'
      ? this.system.loadPages(size, pgtable[KERNEL_PROT[kernelProt]], owner, at)
      : this.#linear(kernelProt, size, owner, at);
  }

  /** Maps user memory. Other arguments as of `load`. */
  loadUser(user: UserMemory, size: number, owner: string, at: bigint = this.#nextUser): bigint {
    const bytes = this.#userRange(at, size);
    const { prot, populate, grows_down, pkey, fault, write_locked } = user;
    const vm_flags = USER_PROT[prot] | (grows_down === true ? VM_GROWSDOWN : 0);
    const vma = this.system.loadUserPages(at, bytes, { vm_flags, pkey }, owner, populate);
    if (fault !== undefined) {
      const [bits, times] = CHOSEN[fault];
      vma.chosen = { bits, times };
    }
    if (write_locked === true) vma.write_locked = true;
    return at;
  }

  /** A user stack; the first stack pointer. */
  stack(): bigint {
    const start = USER_STACK_END - BigInt(USER_STACK_SIZE);
    this.loadUser({ prot: 'rw', populate: true }, USER_STACK_SIZE, 'user stack', start);
    return USER_STACK_END;
  }

  #linear(prot: KernelProt, size: number, owner: string, at: bigint | undefined): bigint {
    if (prot !== 'rw')
      throw new MachineRefusal(`the direct map is rw as a whole: data in it cannot be ${prot}`);
    const { pages, layout, ram } = this.system.memory;
    const count = Math.ceil(size / PAGE_SIZE);
    if (at === undefined) {
      const pa = pages.takeFrames(count, owner);
      if (pa === null) throw new MachineRefusal(`the ram is full: no ${count} pages for ${owner}`);
      return layout.directMap + BigInt(pa - layout.physBase);
    }
    const offset = at - layout.directMap;
    if (offset < 0n || offset + BigInt(count * PAGE_SIZE) > BigInt(ram.size)) {
      throw new MachineRefusal(
        `${hex(at)} is outside of the direct map ` +
          `${hex(layout.directMap)}..${hex(layout.directMap + BigInt(ram.size) - 1n)}`,
      );
    }
    pages.reserve(layout.physBase + Number(offset), count, owner);
    return at;
  }

  /** The size in whole pages. Throws a MachineRefusal when the range is not in user memory. */
  #userRange(at: bigint, size: number): number {
    const { user } = this.system.memory.layout;
    if (at % BigInt(PAGE_SIZE) !== 0n) throw new MachineRefusal(`${hex(at)} is not the start of a page`);
    const bytes = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
    const end = at + BigInt(bytes);
    if (at < BigInt(PAGE_SIZE) || end > user.end) {
      throw new MachineRefusal(
        `${hex(at)} is no place for user memory: it lies between ${hex(PAGE_SIZE)} and ${hex(user.end)}`,
      );
    }
    if (end > this.#nextUser) this.#nextUser = end;
    return bytes;
  }
}

function kernelProtOf(prot: Prot): KernelProt | null {
  return prot === 'none' || prot === 'r' ? null : prot;
}
