/**
 * A kfunc allocates pages anywhere in an arena of 4 GiB, and a kfunc frees them, at a given occupancy. What is taken
 * is taken as reserved pages are: it has no memory behind it, which for 4 GiB no machine here has.
 *
 * The free pages lie as badly as they can while 1,024 of them can still be had in one piece: each eighth of the arena
 * begins with a hole of 1,024 pages, and in the rest the pages of whichever kind is rarer stand alone, at equal
 * distances. At 1 % that makes free ranges of some 100 pages, at 50 % every second page is free, at 99 % one in 454.
 */
import { System } from '../boot/system.js';
import { arena_map_alloc } from '../bpf/arena/arena.js';
import { bpf_arena_alloc_pages, bpf_arena_free_pages, NUMA_NO_NODE } from '../bpf/arena/arena_pages.js';
import { BPF_F_MMAPABLE, type bpf_map } from '../bpf/arena/arena_struct.js';
import type { range_tree } from '../bpf/arena/range_tree.js';
import type { Engine } from '../emu/cpu.js';
import { NO_EVENTS } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { ARCHES, type ArchName } from './guest-code.js';
import type { Subject } from './subject.js';

/** Pages of 4 GiB. */
const PAGES = 2 ** 20;
const EIGHTH = PAGES / 8;
const HOLE = 1024;
/** So many allocations are held while others come and go. */
const HELD = 4;
/** Tables of the arena, pages that are held, and the kernel's own. */
const RAM = 40 << 20;

/** Percent of the pages that are taken. */
export const OCCUPANCIES = [1, 50, 99] as const;
export type Occupancy = (typeof OCCUPANCIES)[number];
/** Pages of one allocation. */
export const COUNTS = [1, 64, 1024] as const;

/** Makes a tree with so much taken; what it had before is forgotten. */
export function occupy(tree: range_tree, percent: Occupancy): void {
  const rest = EIGHTH - HOLE;
  const taken = (EIGHTH * percent) / 100;
  const free = rest - taken;
  const sparse = taken < free;
  const distance = Math.round(rest / (sparse ? taken : free));
  tree.range_tree_destroy();
  for (let start = 0; start < PAGES; start += EIGHTH) {
    const end = start + EIGHTH;
    tree.range_tree_set(start, HOLE);
    for (let page = start + HOLE; page < end; page += distance) {
      // Of each distance the first page is the rare taken one, or the last page the rare free one.
      const [first, count] = sparse
        ? [page + 1, Math.min(page + distance, end) - page - 1]
        : [page + distance - 1, page + distance <= end ? 1 : 0];
      if (count > 0) tree.range_tree_set(first, count);
    }
  }
}

export class ArenaPages implements Subject {
  readonly #system: System;
  readonly #map: bpf_map;
  readonly #count: number;
  readonly #held: bigint[] = [];

  constructor(
    engine: Engine,
    arch: ArchName,
    percent: Occupancy,
    count: number,
    readonly rounds: number,
  ) {
    this.#count = count;
    this.#system = System.boot({ arch: ARCHES[arch], engine, sink: NO_EVENTS, ramBytes: RAM });
    const map = drain(
      arena_map_alloc(this.#system.here(), this.#system.bpf, {
        key_size: 0,
        value_size: 0,
        max_entries: PAGES,
        map_flags: BPF_F_MMAPABLE,
        map_extra: 0x7f7d_0000_0000n,
        name: 'bench',
      }),
    );
    if (typeof map === 'number' || map.arena === null) throw new Error(`no arena: errno ${map}`);
    this.#map = map;
    occupy(map.arena.rt, percent);
    while (this.#held.length < HELD) this.#alloc();
  }

  run(): void {
    for (let i = 0; i < this.rounds; i++) {
      this.#alloc();
      const oldest = this.#held.shift() ?? 0n;
      const { bpf } = this.#system;
      drain(bpf_arena_free_pages(this.#system.here(), bpf, this.#map, oldest, this.#count));
    }
  }

  reset(): void {}

  close(): void {
    this.#system.close();
  }

  #alloc(): void {
    const here = this.#system.here();
    const { bpf } = this.#system;
    const at = drain(bpf_arena_alloc_pages(here, bpf, this.#map, 0n, this.#count, NUMA_NO_NODE, 0n));
    if (at === 0n) throw new Error(`${this.#count} pages cannot be had`);
    this.#held.push(at);
  }
}
