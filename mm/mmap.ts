/**
 * User address spaces: struct mm_struct with its VMAs. Port of parts of kernel/fork.c (mm_init()),
 * mm/mmap.c and mm/vma.c (find_vma(), expand_stack_locked()) and mm/memory.c (zap_vma_range()), bpf-next
 * merge 8496d9020ff3. The system calls are beside it: mmap_call.ts (mmap()), mmap_unmap.ts (munmap()),
 * mmap_remap.ts (mremap()), mmap_fork.ts (what fork() copies); mmap_area.ts looks for room.
 *
 * Left out: merging of VMAs, accounting, locked memory, memory cgroups.
 */
import type { ThisCpu } from '../arch/arch.js';
import {
  type mm_struct,
  PAGE_SIZE,
  VM_EXEC,
  VM_GROWSDOWN,
  VM_READ,
  VM_SHARED,
  VM_WRITE,
  type vm_area_struct,
} from '../arch/kernel.js';
import { fromSigned, hex, pageOf, toSigned } from '../emu/address.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { EFAULT, ENOMEM, EPERM } from '../kernel/errno.js';
import { entryAt, isStop, PTE, spanEnd, stoppedAt } from './descend.js';
import type { Memory } from './memory.js';
import { TABLE_OWNER } from './page_alloc.js';
import { flush_tlb_range } from './tlb.js';

/** A mapping that cannot be made. A mistake in a fixture. */
export class MmapError extends Error {
  override name = 'MmapError';
}

/** struct vm_fault: a fault on its way to the VMA's owner. */
export interface vm_fault {
  readonly vma: Vma;
  /** Page aligned. */
  readonly address: bigint;
  /** Page of the file: linear_page_index(). */
  readonly pgoff: number;
  readonly flags: number;
  /** The page to be mapped, with a reference that now belongs to the mapping; set by fault(). */
  page: number | null;
}

/** struct vm_operations_struct. What is left out is not there: then nobody is asked. */
export interface vm_operations_struct {
  /** Another VMA with the same owner has come to be: by a split, a move or a fork. */
  open?(here: ThisCpu, vma: Vma): Delegate<void>;
  /** The VMA goes. Its pages are unmapped already. */
  close?(here: ThisCpu, vma: Vma): Delegate<void>;
  /** May the VMA be cut at `addr`? 0 or a negative errno. */
  may_split?(here: ThisCpu, vma: Vma, addr: bigint): Delegate<number>;
  /** The VMA is a copy to which the pages of another one have been moved. 0 or a negative errno. */
  mremap?(here: ThisCpu, vma: Vma): Delegate<number>;
  /** Finds the page. 0, or VM_FAULT_* bits. */
  fault(here: ThisCpu, vmf: vm_fault): Delegate<number>;
}

/** struct file with the file_operations that a mapping asks. */
export interface file {
  /** For people. */
  readonly name: string;
  /** FMODE_READ and FMODE_WRITE. */
  readonly f_mode: number;
  /** path_noexec(): its pages may not be executed. */
  readonly noexec: boolean;
  /** Chooses the address of a mapping: an address, or a negative errno. Absent: mm_get_unmapped_area(). */
  get_unmapped_area?(
    here: ThisCpu,
    mm: UserMm,
    addr: bigint,
    len: bigint,
    pgoff: bigint,
    flags: number,
  ): Delegate<bigint>;
  /** Takes the VMA on: sets vm_ops, changes vm_flags. 0 or a negative errno. */
  mmap(here: ThisCpu, vma: Vma): Delegate<number>;
}

/** What handle_mm_fault() answers for a mapping instead of looking at it. */
export interface ChosenFault {
  /** VM_FAULT_* bits. VM_FAULT_COMPLETED maps the page all the same: that is what it says. */
  readonly bits: number;
  /** How many more times. */
  times: number;
}

/** A mapping of a user address space. */
export class Vma implements vm_area_struct {
  /** anon_vma_prepare() has been here: the first page that is its own has been mapped. */
  anon_vma = false;
  /** Somebody writes to it: vma_start_read() fails. Goes away with the writer of the mmap lock. */
  write_locked = false;
  /** vm_refcnt: readers that hold the per-VMA lock. */
  readers = 0;
  chosen: ChosenFault | null = null;
  /** Null for anonymous memory. */
  vm_file: file | null = null;
  /** Page of the file at vm_start. */
  vm_pgoff = 0n;
  /** What its owner keeps with it. */
  vm_private_data: object | null = null;

  constructor(
    readonly vm_mm: UserMm,
    public vm_start: bigint,
    public vm_end: bigint,
    public vm_flags: number,
    /** Null for anonymous memory. */
    public vm_ops: vm_operations_struct | null,
    readonly pkey = 0,
  ) {}
}

/** A user address space. */
export class UserMm implements mm_struct {
  /** Ascending, disjoint. */
  readonly vmas: Vma[] = [];
  /**
   * Somebody else holds the mmap lock for writing: mmap_read_trylock() fails. Who waits gets it: the
   * writer is done then.
   */
  contended = false;
  /** Readers that hold the mmap lock. */
  readers = 0;
  /** The CPU that holds the mmap lock for writing, or null. */
  writer: number | null = null;
  /**
   * Below here mappings are put that may be anywhere. By default what a task without randomization gets:
   * 128 MiB below the end of user space.
   */
  mmap_base: bigint;

  constructor(
    readonly name: string,
    readonly pgd: number,
    readonly memory: Memory,
  ) {
    this.mmap_base = memory.layout.user.end - MIN_GAP;
  }
}

/** SIZE_128M of mmap_base(): the least room that is left for the stack. */
const MIN_GAP = 0x800_0000n;

/** RLIMIT_STACK */
const STACK_LIMIT = 8 << 20;
/** 256 pages */
export const stack_guard_gap = 256 * PAGE_SIZE;
export const mmap_min_addr = 0x10000n;

/**
 * An empty address space, or null without memory. Where kernel addresses go through the user's root
 * (see Memory.sharedRoot), the kernel's half is that of init_mm, and stays so.
 */
export function create_mm(here: ThisCpu, memory: Memory, name: string): UserMm | null {
  const pgd = memory.pages.alloc_page(here, TABLE_OWNER);
  if (pgd === null) return null;
  const mm = new UserMm(name, pgd, memory);
  if (memory.sharedRoot) {
    const half = PAGE_SIZE / 2;
    memory.ram.write(pgd + half, memory.ram.read(memory.init_mm.pgd + half, half));
    memory.sharers.add(mm);
  }
  return mm;
}

/**
 * Maps a range; its pages come with the first touch.
 * Throws a MmapError for a range that is empty, not in whole pages, not the user's, or taken.
 *
 * @param length bytes
 * @param vm_flags VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_GROWSDOWN
 * @param pkey protection key of its pages, 0 to 15, where the architecture has them
 */
export function mmap_region(
  mm: UserMm,
  start: bigint,
  length: number,
  vm_flags: number,
  vm_ops: vm_operations_struct | null = null,
  pkey = 0,
): Vma {
  const end = start + BigInt(length);
  const { user } = mm.memory.layout;
  const what = `a mapping of ${hex(length)} bytes at ${hex(start)}`;
  if (length <= 0 || length % PAGE_SIZE !== 0 || pageOf(start) !== start) {
    throw new MmapError(`${what}: not whole pages`);
  }
  if (start < user.start || end > user.end) {
    throw new MmapError(`${what}: user addresses are ${hex(user.start)}..${hex(user.end - 1n)}`);
  }
  const other = find_vma_intersection(mm, start, end);
  if (other !== null) {
    throw new MmapError(`${what}: there is one at ${hex(other.vm_start)}..${hex(other.vm_end - 1n)}`);
  }
  const vma = new Vma(mm, start, end, vm_flags, vm_ops, pkey);
  vma_link(vma);
  return vma;
}

/** vma_link(): puts a VMA into its address space, at its place. */
export function vma_link(vma: Vma): void {
  const { vmas } = vma.vm_mm;
  const next = vmas.findIndex(({ vm_start }) => vm_start > vma.vm_start);
  vmas.splice(next < 0 ? vmas.length : next, 0, vma);
}

/** Takes a VMA out of its address space. */
export function vma_unlink(vma: Vma): void {
  const { vmas } = vma.vm_mm;
  const at = vmas.indexOf(vma);
  if (at >= 0) vmas.splice(at, 1);
}

/** The first mapping that ends above the address; it may begin above it, too. */
export function find_vma(mm: UserMm, addr: bigint): Vma | null {
  return mm.vmas.find(({ vm_end }) => vm_end > addr) ?? null;
}

/** vma_lookup(): the mapping that holds the address. */
export function vma_lookup(mm: UserMm, addr: bigint): Vma | null {
  const vma = find_vma(mm, addr);
  return vma !== null && vma.vm_start <= addr ? vma : null;
}

/** find_vma_intersection(): the first mapping that shares a byte with [start, end). */
export function find_vma_intersection(mm: UserMm, start: bigint, end: bigint): Vma | null {
  const vma = find_vma(mm, start);
  return vma !== null && vma.vm_start < end ? vma : null;
}

/**
 * vma->vm_page_prot of a mapping whose writable pages may be written, because they are nobody else's:
 * PAGE_SHARED and its kin.
 */
export function vm_page_prot(here: ThisCpu, memory: Memory, vma: Vma): bigint {
  return here.arch.vm_get_page_prot(memory.pgtable, vma.vm_flags | VM_SHARED, vma.pkey);
}

/** Grows a stack down to `address`: expand_downwards(). 0, or -EFAULT, -EPERM, -ENOMEM. */
export function expand_stack_locked(vma: Vma, address: bigint): number {
  if ((vma.vm_flags & VM_GROWSDOWN) === 0) return -EFAULT;
  const start = pageOf(address);
  if (start < mmap_min_addr) return -EPERM;
  const { vmas } = vma.vm_mm;
  const prev = vmas[vmas.indexOf(vma) - 1];
  const accessible = VM_READ | VM_WRITE | VM_EXEC;
  if (
    prev !== undefined &&
    (prev.vm_flags & VM_GROWSDOWN) === 0 &&
    (prev.vm_flags & accessible) !== 0 &&
    start - prev.vm_end < BigInt(stack_guard_gap)
  ) {
    return -ENOMEM;
  }
  if (start >= vma.vm_start) return 0;
  if (vma.vm_end - start > BigInt(STACK_LIMIT)) return -ENOMEM;
  vma.vm_start = start;
  return 0;
}

/**
 * Takes pages out of a mapping: entries are cleared, translations dropped, references given back. What
 * lies outside of the mapping is left alone. As with struct mmu_gather, the flush goes from the first entry
 * that was present to the last, and comes before any page is freed.
 * @param size bytes
 */
export const zap_vma_range = port(
  'zap_vma_range',
  ['vma', 'address', 'size'],
  function* (here: ThisCpu, vma: vm_area_struct, address: bigint, size: number): Path<void> {
    if (!(vma instanceof Vma)) throw new MmapError('zap_vma_range() of a mapping that mm/ did not make');
    const mm = vma.vm_mm;
    const { memory } = mm;
    const { pgtable, pages } = memory;
    // unmap_single_vma()
    const from = address < vma.vm_start ? vma.vm_start : address;
    const wanted = address + BigInt(size);
    const to = wanted > vma.vm_end ? vma.vm_end : wanted;
    const first = toSigned(from);
    const end = toSigned(to);
    const gone: number[] = [];
    let [flushFrom, flushTo] = [end, first];
    for (let va = first; va < end; ) {
      const at = entryAt(here, memory, mm, va, PTE, false);
      if (isStop(at)) {
        va = spanEnd(stoppedAt(at), va);
        continue;
      }
      va += PAGE_SIZE;
      const none = pgtable.pte_none(pgtable.ptep_get(here, at));
      if (yield* here.trace.decide('zap_pte_range', 'pte_none(ptent)', none)) continue;
      const old = pgtable.ptep_get_and_clear(here, at);
      if (!pgtable.pte_present(old)) continue;
      flushFrom = Math.min(flushFrom, va - PAGE_SIZE);
      flushTo = va;
      const page = pgtable.pte_pa(old);
      // vm_normal_page(): nobody counts references to the zero page.
      if (memory.isZeroPage(page) || pages.ownerOf(page) === null) continue;
      pages.page_remove_rmap(page);
      gone.push(page);
    }
    if (flushFrom < flushTo) flush_tlb_range(here, memory, fromSigned(flushFrom), fromSigned(flushTo));
    for (const page of gone) pages.put_page(here, page);
  },
);
