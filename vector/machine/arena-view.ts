/** What an arena of a booted system is like, and where an address of its is. */
import { PAGE_SIZE } from '../../arch/kernel.js';
import type { System } from '../../boot/system.js';
import { type bpf_arena, compute_pgoff, RECOVERY_SZ } from '../../bpf/arena/arena_struct.js';
import { hex, toSigned } from '../../emu/address.js';
import { RamError } from '../../emu/ram.js';
import { descend, isStop, PTE } from '../../mm/descend.js';
import type { ArenaView } from './machine-arena.js';

const PAGE = BigInt(PAGE_SIZE);
/** Bytes that one table of leaf entries maps. */
const TABLE_SPAN = 0x20_0000;
const EMPTY_TABLE = new Uint8Array(PAGE_SIZE);

export function arenaView(system: System, arena: bpf_arena): ArenaView {
  const { pgtable } = system.memory;
  const { work } = system.bpf;
  let pages = 0;
  let scratched = 0;
  const start = toSigned(arena.kern_vm_start);
  eachEntry(system, start, start + RECOVERY_SZ, (entry) => {
    if (!pgtable.pte_present(entry)) return;
    if (pgtable.pte_pa(entry) === arena.scratch_page) scratched += 1;
    else pages += 1;
  });
  const ranges = arena.rt.ranges();
  return {
    pages,
    scratched,
    free: ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0),
    ranges,
    deferred: arena.free_spans.map(({ uaddr, page_cnt }) => {
      const first = compute_pgoff(arena, uaddr);
      return [first, first + page_cnt - 1];
    }),
    queued: work.irq.includes(arena) ? 'irq_work' : work.work.includes(arena) ? 'work' : 'none',
    user_vm_start: arena.user_vm_start,
    user_vm_end: arena.user_vm_end,
    mappings: arena.vma_list.length,
  };
}

/** Visits every leaf entry of the kernel's tables from `start` to `end` (signed, exclusive) that is not zero. */
export function eachEntry(
  system: System,
  start: number,
  end: number,
  visit: (entry: bigint, va: number) => void,
): void {
  const { ram } = system;
  for (let va = start; va < end; ) {
    const next = (Math.floor(va / TABLE_SPAN) + 1) * TABLE_SPAN;
    const table = leafTable(system, va);
    if (table !== null) {
      for (; va < Math.min(next, end); va += PAGE_SIZE) {
        const entry = ram.readU64(table + (Math.floor(va / PAGE_SIZE) & 511) * 8);
        if (entry !== 0n) visit(entry, va);
      }
    }
    va = next;
  }
}

/** Physical address of the table of leaf entries for an address; null where there is none, or nothing in it. */
function leafTable(system: System, va: number): number | null {
  const { memory, ram } = system;
  try {
    const table = descend(system.here(), memory, memory.init_mm, va, PTE, false);
    if (isStop(table) || !ram.contains(table, PAGE_SIZE)) return null;
    // Nearly all of two thousand tables are empty: those are not looked through.
    const offset = table - ram.base;
    return Buffer.compare(ram.bytes.subarray(offset, offset + PAGE_SIZE), EMPTY_TABLE) === 0 ? null : table;
  } catch (error) {
    // Bent tables lead out of the ram.
    if (error instanceof RamError) return null;
    throw error;
  }
}

/** An address of an arena's area as a fixture would write it; null for others. */
export function inArena(name: string, arena: bpf_arena, address: bigint): string | null {
  const offset = address - arena.kern_vm.addr;
  if (offset < 0n || offset >= BigInt(arena.kern_vm.size)) return null;
  const band = address - arena.kern_vm_start;
  const first = arena.user_vm_start & 0xffff_ffffn;
  const page = (band - first) / PAGE;
  if (band >= first && page < BigInt(arena.map.max_entries)) {
    const rest = address & (PAGE - 1n);
    return `${name}.page(${page})${rest === 0n ? '' : ` + ${hex(rest)}`}`;
  }
  return band < 0n ? `${name}.kern - ${hex(-band)}` : `${name}.kern + ${hex(band)}`;
}
