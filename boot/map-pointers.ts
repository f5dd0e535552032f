/**
 * Pointers to struct bpf_map, which guest code hands around: each map has an address of its own in the direct map,
 * taken when it is first asked for.
 *
 * What is there is zeroed memory, except the fields of struct bpf_arena that programs read through the pointer.
 * Their offsets are chosen: they depend on the configuration of the kernel.
 */
import type { bpf_map } from '../bpf/arena/arena_struct.js';
import { hex } from '../emu/address.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import type { Memory } from '../mm/memory.js';

/** Offsets in struct bpf_arena, behind struct bpf_map. */
export const BPF_ARENA_FIELDS = { user_vm_start: 0x100, user_vm_end: 0x108 } as const;

export class MapPointers {
  readonly #memory: Memory;
  readonly #addresses = new Map<bpf_map, bigint>();
  readonly #maps = new Map<bigint, bpf_map>();

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** struct bpf_map * of a map that has one already, or null: for those who only look. */
  known(map: bpf_map): bigint | null {
    return this.#addresses.get(map) ?? null;
  }

  /** struct bpf_map *, which takes its place when it is first asked for. Throws a MachineRefusal when there is no page for it. */
  addressOf(map: bpf_map): bigint {
    const known = this.#addresses.get(map);
    if (known !== undefined) return known;
    const { pages, layout } = this.#memory;
    const pa = pages.takeFrames(1, `struct bpf_map of ${map.name}`);
    if (pa === null) throw new MachineRefusal(`the ram is full: no page for the map ${map.name}`);
    const address = layout.directMap + BigInt(pa - layout.physBase);
    this.#addresses.set(map, address);
    this.#maps.set(address, map);
    this.refresh();
    return address;
  }

  /** The map at a pointer that a function has got. Throws a GuestRefusal when none is there. */
  at(pointer: bigint): bpf_map {
    const map = this.#maps.get(pointer);
    if (map !== undefined) return map;
    throw new GuestRefusal(
      `no map is at ${hex(pointer)}, which it got as its map: \`map[a]\` in BPF text and \`a.map\` elsewhere ` +
        'are the pointer to the map of arena a',
    );
  }

  /** Brings the fields that can be read up to date. */
  refresh(): void {
    const { layout, ram } = this.#memory;
    for (const [{ arena }, address] of this.#addresses) {
      if (arena === null) continue;
      const pa = layout.physBase + Number(address - layout.directMap);
      ram.writeU64(pa + BPF_ARENA_FIELDS.user_vm_start, arena.user_vm_start);
      ram.writeU64(pa + BPF_ARENA_FIELDS.user_vm_end, arena.user_vm_end);
    }
  }
}
