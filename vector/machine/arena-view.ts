/** What an arena of a booted system is like, and where an address of its is. */
import { PAGE_SIZE } from '../../arch/kernel.js';
import type { System } from '../../boot/system.js';
import { type bpf_arena, compute_pgoff, RECOVERY_SZ } from '../../bpf/arena/arena_struct.js';
import { hex, toSigned } from '../../emu/address.js';
import { descend, isStop, PTE } from '../../mm/descend.js';
import type { ArenaView } from './machine-arena.js';

const PAGE = BigInt(PAGE_SIZE);
/** Bytes that one table of leaf entries maps. */
const TABLE_SPAN = 0x20_0000;
const EMPTY_TABLE = new Uint8Array(4096);

export function arenaView(system: System, arena: bpf_arena): ArenaView {
  const { pgtable } = system.memory;
  const { work } = system.bpf;
  let pages = 0;
  let scratched = 0;
  eachEntry(system, arena, (entry) => {
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

/** Visits every leaf entry of an arena's window that is not zero. */
function eachEntry(system: System, arena: bpf_arena, visit: (entry: bigint) => void): void {
  const { memory, ram } = system;
  const here = system.here();
  const start = toSigned(arena.kern_vm_start);
  const end = start + RECOVERY_SZ;
  for (let va = start; va < end; va = (Math.floor(va / TABLE_SPAN) + 1) * TABLE_SPAN) {
    const table = descend(here, memory, memory.init_mm, va, PTE, false);
    if (isStop(table)) continue;
    const first = Math.floor(va / PAGE_SIZE) & 511;
    const last = Math.min(512, first + Math.ceil((end - va) / PAGE_SIZE));
    // Nearly all of two thousand tables are empty: those are not looked through.
    const offset = table - ram.base;
    if (Buffer.compare(ram.bytes.subarray(offset, offset + EMPTY_TABLE.length), EMPTY_TABLE) === 0) continue;
    for (let index = first; index < last; index += 1) {
      const entry = ram.readU64(table + index * 8);
      if (entry !== 0n) visit(entry);
    }
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
