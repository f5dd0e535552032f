/** What the steps and expectations about arenas ask of a machine. See machine.ts. */
import type { Delegate } from '../../emu/path.js';
import type { InjectData, InjectKey, MMAP_FLAGS, MMAP_PROTS, MREMAP_FLAGS } from '../format/schema-arena.js';

/** State of an arena as the page tables and the range tree have it. */
export interface ArenaView {
  /** Entries in the window that hold a page which is not the scratch page. */
  readonly pages: number;
  /** Entries that hold the scratch page. */
  readonly scratched: number;
  /** Pages in the range tree. */
  readonly free: number;
  /** The range tree, ascending: first and last page. */
  readonly ranges: readonly (readonly [first: number, last: number])[];
  /** Ranges whose freeing is put off, the newest first. */
  readonly deferred: readonly (readonly [first: number, last: number])[];
  readonly queued: 'none' | 'irq_work' | 'work';
  readonly user_vm_start: bigint;
  readonly user_vm_end: bigint;
  /** User mappings. */
  readonly mappings: number;
}

export interface MmapCall {
  readonly process: string | null;
  readonly arena: string;
  /** Null is user_vm_start, 0 while the arena has none. */
  readonly addr: bigint | null;
  /** Bytes; null is all of the arena. */
  readonly length: bigint | null;
  readonly prot: (typeof MMAP_PROTS)[number];
  readonly flags: readonly (typeof MMAP_FLAGS)[number][];
  readonly pgoff: bigint;
}

export interface MunmapCall {
  readonly process: string | null;
  readonly addr: bigint;
  readonly length: bigint;
}

export interface MremapCall {
  readonly process: string | null;
  readonly addr: bigint;
  readonly length: bigint;
  readonly new_length: bigint;
  readonly flags: readonly (typeof MREMAP_FLAGS)[number][];
  readonly new_addr: bigint;
}

export interface ForkCall {
  readonly process: string | null;
  /** Name that the child gets. */
  readonly child: string;
}

/** A page of the ram as the page allocator has it. */
export interface FrameView {
  readonly pa: number;
  readonly refs: number;
  readonly mapped: number;
  readonly owner: string | null;
}

/** Arenas of a machine. Addresses are unsigned 64-bit; results are addresses or negative errnos as such. */
export interface ArenaMachine {
  /** False for an arena that was refused, or destroyed, or is not there yet. */
  exists(name: string): boolean;
  /** BPF_MAP_CREATE of an arena that the fixture declares: 0 or an errno. */
  create(cpu: number, name: string): Delegate<bigint>;
  mmap(cpu: number, call: MmapCall): Delegate<bigint>;
  munmap(cpu: number, call: MunmapCall): Delegate<bigint>;
  mremap(cpu: number, call: MremapCall): Delegate<bigint>;
  /** The child's pid, or an errno. */
  fork(cpu: number, call: ForkCall): Delegate<bigint>;
  /** A process ends; nothing names it any more. */
  exit(cpu: number, process: string): Delegate<void>;
  /**
   * Lets things fail while `work` runs, and nothing else that was to fail before. `untried` is called for
   * what had no chance to fail as often as it was to.
   */
  failing<T>(
    inject: InjectData | null,
    work: () => Delegate<T>,
    untried: (what: InjectKey) => void,
  ): Delegate<T>;
  /** The page that `va` is mapped to; null when it is not mapped. */
  frame(cpu: number, va: bigint): FrameView | null;
  /** Pages that are taken for an owner. */
  inUse(owner: string): number;
  /** Areas of the vmalloc space with VM_SPARSE. */
  readonly areas: number;
}
