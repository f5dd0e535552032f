/** Arenas page by page, and the objects of KFENCE. */
import { PAGE_SIZE } from '../arch/kernel.js';
import { type bpf_arena, compute_pgoff, lo32 } from '../bpf/arena/arena_struct.js';
import { toSigned } from '../emu/address.js';
import { eachEntry } from '../vector/machine/arena-view.js';
import type { SystemMachine } from '../vector/machine/system-machine.js';
import type { ArenaPageState, ArenaPagesView, KfencePoolView } from './views.js';

const STATES: readonly ArenaPageState[] = ['reserved', 'free', 'deferred', 'allocated', 'scratch'];
const [RESERVED, FREE, DEFERRED, ALLOCATED, SCRATCH] = [0, 1, 2, 3, 4];

export function arenaPages(machine: SystemMachine): ArenaPagesView[] {
  return [...machine.maps].flatMap(([name, map]) =>
    map?.arena === undefined || map.arena === null ? [] : [arenaView(machine, name, map.arena)],
  );
}

function arenaView(machine: SystemMachine, name: string, arena: bpf_arena): ArenaPagesView {
  const pages = arena.map.max_entries;
  const states = new Uint8Array(pages).fill(RESERVED);
  for (const [first, last] of arena.rt.ranges()) states.fill(FREE, first, last + 1);
  for (const { uaddr, page_cnt } of arena.free_spans) {
    const first = compute_pgoff(arena, uaddr);
    states.fill(DEFERRED, first, first + page_cnt);
  }
  const kernel = arena.kern_vm_start + BigInt(lo32(arena.user_vm_start));
  const start = toSigned(kernel);
  const { pgtable } = machine.system.memory;
  eachEntry(machine.system, start, start + pages * PAGE_SIZE, (entry, va) => {
    if (!pgtable.pte_present(entry)) return;
    states[(va - start) / PAGE_SIZE] = pgtable.pte_pa(entry) === arena.scratch_page ? SCRATCH : ALLOCATED;
  });
  return { name, kernel, user: arena.user_vm_start, pages, ranges: ranges(states) };
}

function ranges(states: Uint8Array): ArenaPagesView['ranges'] {
  const found: { first: number; last: number; state: ArenaPageState }[] = [];
  for (let page = 0; page < states.length; ) {
    const state = states[page] ?? RESERVED;
    let last = page;
    while (last + 1 < states.length && states[last + 1] === state) last += 1;
    found.push({ first: page, last, state: STATES[state] ?? 'reserved' });
    page = last + 1;
  }
  return found;
}

const OBJECT_STATES = ['unused', 'allocated', 'rcu_freeing', 'freed'] as const;

export function kfencePool(machine: SystemMachine): KfencePoolView | null {
  if (machine.kfence === null) return null;
  const { kfence } = machine.system.kernel;
  const { mmu } = machine.system.here();
  const start = kfence.__kfence_pool;
  return {
    enabled: kfence.kfence_enabled,
    start,
    end: start + BigInt(start === 0n ? 0 : kfence.KFENCE_POOL_SIZE),
    objects: (kfence.kfence_metadata ?? []).map(({ index, state, addr, size, cache }) => ({
      slot: index,
      state: OBJECT_STATES[state],
      address: addr,
      size,
      cache: cache?.name ?? null,
      protected: mmu.peek(addr) < 0,
    })),
  };
}
