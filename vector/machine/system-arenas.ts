/** Arenas of a booted system, as the steps and expectations of a fixture use them. */

import type { ThisCpu } from '../../arch/arch.js';
import type { System } from '../../boot/system.js';
import {
  BPF_F_MMAPABLE,
  BPF_MAP_TYPE_ARENA,
  bpf_arena_get_user_vm_start,
  type bpf_map,
} from '../../bpf/arena/arena_struct.js';
import { BpfMapFile } from '../../bpf/arena/map_file.js';
import { map_create } from '../../bpf/map.js';
import type { Primitive } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';
import { vm_mmap_pgoff } from '../../mm/mmap_call.js';
import {
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
} from '../../mm/mmap_flags.js';
import { do_mremap } from '../../mm/mmap_remap.js';
import { vm_munmap } from '../../mm/mmap_unmap.js';
import { VM_SPARSE } from '../../mm/vmalloc.js';
import type {
  ArenaData,
  InjectData,
  InjectKey,
  MMAP_FLAGS,
  MMAP_PROTS,
  MREMAP_FLAGS,
} from '../format/schema-arena.js';
import { failing } from './injection.js';
import { StepRefusal } from './machine.js';
import type { ArenaMachine, ForkCall, FrameView, MmapCall, MremapCall, MunmapCall } from './machine-arena.js';
import type { MachineScope } from './machine-scope.js';
import type { Processes } from './processes.js';

const U32_MAX = 0xffff_ffff;

const PROT: Readonly<Record<(typeof MMAP_PROTS)[number], number>> = {
  none: 0,
  r: PROT_READ,
  rw: PROT_READ | PROT_WRITE,
  rx: PROT_READ | PROT_EXEC,
  rwx: PROT_READ | PROT_WRITE | PROT_EXEC,
};
const MAP: Readonly<Record<(typeof MMAP_FLAGS)[number], number>> = {
  shared: MAP_SHARED,
  private: MAP_PRIVATE,
  fixed: MAP_FIXED,
  fixed_noreplace: MAP_FIXED_NOREPLACE,
};
const MREMAP: Readonly<Record<(typeof MREMAP_FLAGS)[number], number>> = {
  maymove: MREMAP_MAYMOVE,
  fixed: MREMAP_FIXED,
  dontunmap: MREMAP_DONTUNMAP,
};

/** What this needs of the machine it belongs to. */
export interface ArenaParts {
  readonly system: System;
  readonly scope: MachineScope;
  readonly processes: Processes;
  /** Maps by name; null once destroyed, or when refused. */
  readonly maps: Map<string, bpf_map | null>;
  /** A map that exists. Throws a MissingArena. */
  map(name: string): bpf_map;
  /** The task's user stack is there from now on. */
  userStack(): bigint;
  hostCall(
    here: ThisCpu,
    fn: string,
    args: Readonly<Record<string, Primitive>>,
    call: () => Delegate<bigint | number | undefined>,
  ): Delegate<bigint>;
}

export class SystemArenas implements ArenaMachine {
  readonly #machine: ArenaParts;
  /** Arenas that the fixture declares. */
  readonly declared = new Map<string, ArenaData>();

  constructor(machine: ArenaParts) {
    this.#machine = machine;
  }

  exists(name: string): boolean {
    const map = this.#machine.maps.get(name) ?? null;
    return map !== null;
  }

  create(cpu: number, name: string): Delegate<bigint> {
    const { system, scope, maps } = this.#machine;
    const data = this.declared.get(name);
    if (data === undefined) throw new StepRefusal(`the fixture declares no arena ${name}`);
    if (this.exists(name)) throw new StepRefusal(`arena \`${name}\` exists already`);
    const here = system.here(cpu);
    const attr = {
      map_type: data.map_type?.number(scope, 0, U32_MAX, 'map_type') ?? BPF_MAP_TYPE_ARENA,
      key_size: data.key_size?.number(scope, 0, U32_MAX, 'key_size') ?? 0,
      value_size: data.value_size?.number(scope, 0, U32_MAX, 'value_size') ?? 0,
      max_entries: data.max_entries.number(scope, 0, U32_MAX, 'max_entries'),
      map_flags: data.flags?.number(scope, 0, U32_MAX, 'flags') ?? BPF_F_MMAPABLE,
      map_extra: data.map_extra?.value(scope) ?? 0n,
      numa_node: data.numa_node?.number(scope, 0, U32_MAX, 'numa_node'),
      map_ifindex: data.map_ifindex?.number(scope, 0, U32_MAX, 'map_ifindex'),
      btf_key_type_id: data.btf_key_type_id?.number(scope, 0, U32_MAX, 'btf_key_type_id'),
      btf_value_type_id: data.btf_value_type_id?.number(scope, 0, U32_MAX, 'btf_value_type_id'),
      btf_vmlinux_value_type_id: data.btf_vmlinux_value_type_id?.number(
        scope,
        0,
        U32_MAX,
        'btf_vmlinux_value_type_id',
      ),
      // The kernel refuses longer names.
      name: name.slice(0, 15),
      kern_vm_at: data.at?.value(scope),
    };
    return this.#machine.hostCall(
      here,
      'map_create',
      { map: name, max_entries: attr.max_entries },
      function* () {
        const made = yield* map_create(here, system.bpf, attr, { CAP_BPF: data.capable ?? true });
        maps.set(name, typeof made === 'number' ? null : made);
        return typeof made === 'number' ? made : 0;
      },
    );
  }

  mmap(cpu: number, call: MmapCall): Delegate<bigint> {
    const { system, processes } = this.#machine;
    const map = this.#machine.map(call.arena);
    const length = call.length ?? BigInt(map.max_entries) * 4096n;
    const flags = call.flags.reduce((sum, flag) => sum | MAP[flag], 0);
    const addr = call.addr ?? bpf_arena_get_user_vm_start(map.arena);
    const { process, arena, prot, pgoff } = call;
    return processes.as(cpu, process, (mm) => {
      const here = system.here(cpu);
      const args = { map: arena, addr, len: length, prot, pgoff, ...inProcess(process) };
      return this.#machine.hostCall(here, 'mmap', args, () =>
        system.bpf.calls.during(map, 'mmap', () =>
          vm_mmap_pgoff(here, mm, new BpfMapFile(system.bpf, map), addr, length, PROT[prot], flags, pgoff),
        ),
      );
    });
  }

  munmap(cpu: number, { process, addr, length }: MunmapCall): Delegate<bigint> {
    const { system, processes } = this.#machine;
    return processes.as(cpu, process, (mm) => {
      const here = system.here(cpu);
      return this.#machine.hostCall(here, 'munmap', { addr, len: length, ...inProcess(process) }, () =>
        vm_munmap(here, mm, addr, length),
      );
    });
  }

  mremap(cpu: number, call: MremapCall): Delegate<bigint> {
    const { system, processes } = this.#machine;
    const { process, addr, length, new_length, new_addr } = call;
    const flags = call.flags.reduce((sum, flag) => sum | MREMAP[flag], 0);
    return processes.as(cpu, process, (mm) => {
      const here = system.here(cpu);
      const args = { addr, old_len: length, new_len: new_length, ...inProcess(process) };
      return this.#machine.hostCall(here, 'mremap', args, () =>
        do_mremap(here, mm, addr, length, new_length, flags, new_addr),
      );
    });
  }

  fork(cpu: number, { process, child }: ForkCall): Delegate<bigint> {
    const { system, processes } = this.#machine;
    processes.requireNew(child);
    if (process === null) this.#machine.userStack();
    return processes.as(cpu, process, (mm) =>
      this.#machine.hostCall(system.here(cpu), 'fork', { child, ...inProcess(process) }, () =>
        processes.fork(cpu, mm, child),
      ),
    );
  }

  *exit(cpu: number, process: string): Path<void> {
    const { system, processes } = this.#machine;
    yield* this.#machine.hostCall(system.here(cpu), 'exit', { process }, () => processes.exit(cpu, process));
  }

  failing<T>(
    inject: InjectData | null,
    work: () => Delegate<T>,
    untried: (what: InjectKey) => void,
  ): Delegate<T> {
    return failing(this.#machine.system.bpf.failures, inject, work, untried);
  }

  frame(cpu: number, va: bigint): FrameView | null {
    const { system } = this.#machine;
    const at = system.here(cpu).mmu.peek(va);
    if (at < 0) return null;
    const pa = at - (at % 4096);
    const { pages } = system.memory;
    return { pa, refs: pages.page_ref_count(pa), mapped: pages.page_mapcount(pa), owner: pages.ownerOf(pa) };
  }

  inUse(owner: string): number {
    return this.#machine.system.memory.pages.count(owner);
  }

  get areas(): number {
    const { areas } = this.#machine.system.memory.vmalloc;
    return areas.filter(({ flags }) => (flags & VM_SPARSE) !== 0).length;
  }
}

function inProcess(process: string | null): Readonly<Record<string, Primitive>> {
  return process === null ? {} : { process };
}
