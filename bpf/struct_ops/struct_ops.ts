/**
 * Port of kernel/bpf/bpf_struct_ops.c (bpf-next merge 8496d9020ff3): a table of operations whose members are
 * programs, from the map that holds it to the trampolines behind its pointers.
 *
 * Left out: BTF (a type is described by its members), the map's states and its reference counts, links as
 * file descriptors, subsystems (->init_member, ->check_member, ->reg: whoever registers calls them).
 */

import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import { E2BIG, EINVAL } from '../../kernel/errno.js';
import { GuestRefusal } from '../../kernel/guest-refusal.js';
import type { bpf_map } from '../arena/arena_struct.js';
import type { BpfEnv } from '../env.js';
import type { bpf_ksym, bpf_prog } from '../program.js';
import type { PrepareTrampoline, TrampolineOptions } from './struct_ops_trampoline.js';
import { bpf_trampoline_enter, bpf_trampoline_exit } from './trampoline.js';

/** Pages of trampolines that one map may have. */
export const MAX_TRAMP_IMAGE_PAGES = 8;

/** A member that is a pointer to a function. */
export interface StructOpsFunction {
  readonly name: string;
  /** Words of arguments. */
  readonly nr_args: number;
  readonly returns: boolean;
}

/** A structure of operations, e.g. sched_ext_ops. */
export interface StructOpsType {
  readonly name: string;
  /** Function pointers, in the order in which the structure has them. */
  readonly members: readonly StructOpsFunction[];
  /** Offset of a member in bytes; 8 times its place among the function pointers if left out. */
  readonly offsets?: ReadonlyMap<string, number>;
  /** Bytes of the structure; what its function pointers need if left out. */
  readonly size?: number;
}

/** struct bpf_link of one member. */
export interface bpf_struct_ops_member_link {
  readonly prog: bpf_prog;
  readonly member: string;
}

/** One trampoline: its code and its symbol, which is no program. */
export interface StructOpsImage {
  readonly ksym: bpf_ksym;
  readonly code: Uint8Array;
}

/** struct bpf_struct_ops_map */
export interface bpf_struct_ops_map {
  readonly name: string;
  readonly type: StructOpsType;
  /** Address of kvalue.data: the table, as the kernel's callers and ->reg() see it. */
  readonly kdata: bigint;
  /** Function pointers of the type. */
  readonly funcs_cnt: number;
  /** One per function pointer: those with a program first, in the order of the members, then null. */
  readonly links: readonly (bpf_struct_ops_member_link | null)[];
  readonly images: readonly StructOpsImage[];
  /** Bytes of the table: addresses of trampolines; 0 where there is no program. */
  readonly table: Uint8Array;
}

/** A program for a member. */
export interface StructOpsProgram {
  readonly prog: bpf_prog;
  /** Address that stands for its struct bpf_prog; a kernel address. */
  readonly address: bigint;
  readonly sleepable: boolean;
  /** It asks for a private stack: bpf_prog_check_recur(). */
  readonly recur?: boolean;
}

/** Where the parts of a map come from. */
export interface StructOpsPlace {
  /** Address of the table. */
  readonly kdata: bigint;
  /** Address of a new page for code, as often as one is full. */
  page(): bigint;
  /** Address of a kernel function. Throws when there is none. */
  lookup(name: string): bigint;
  readonly prepare: PrepareTrampoline;
  readonly options: TrampolineOptions;
}

/**
 * bpf_struct_ops_map_update_elem(): makes the trampolines and the table, and makes the map known by its kdata.
 * Nobody writes anything to memory here: images and table are bytes for somebody who does.
 * @returns the map; -EINVAL when a program is for no member; -E2BIG when the trampolines need too many pages
 */
export function bpf_struct_ops_map_update_elem(
  env: BpfEnv,
  name: string,
  type: StructOpsType,
  programs: ReadonlyMap<string, StructOpsProgram>,
  place: StructOpsPlace,
): bpf_struct_ops_map | number {
  for (const member of programs.keys()) {
    if (!type.members.some((known) => known.name === member)) return -EINVAL;
  }
  const links: (bpf_struct_ops_member_link | null)[] = [];
  const images: StructOpsImage[] = [];
  const table = new Uint8Array(type.size ?? type.members.length * 8);
  const view = new DataView(table.buffer);
  let page: bigint | null = null;
  let pages = 0;
  let image_off = 0;

  for (const [index, member] of type.members.entries()) {
    const program = programs.get(member.name);
    if (program === undefined) continue;
    links.push({ prog: program.prog, member: member.name });
    const kind = { sleepable: program.sleepable, recur: program.recur ?? false };
    const make = (image: bigint): Uint8Array =>
      place.prepare(
        {
          image,
          nr_args: member.nr_args,
          returns: member.returns,
          prog: program.address,
          bpf_func: program.prog.bpf_func,
          enter: place.lookup(bpf_trampoline_enter(kind)),
          exit: place.lookup(bpf_trampoline_exit(kind)),
        },
        place.options,
      );
    let code = page === null ? null : make(page + BigInt(image_off));
    if (page === null || code === null || code.length > PAGE_SIZE - image_off) {
      if (pages === MAX_TRAMP_IMAGE_PAGES) return -E2BIG;
      page = place.page();
      pages += 1;
      image_off = 0;
      code = make(page);
    }
    const start = page + BigInt(image_off);
    const end = start + BigInt(code.length);
    images.push({ code, ksym: { name: `bpf__${type.name}_${member.name}`, start, end, prog: null } });
    image_off += code.length;
    view.setBigUint64(type.offsets?.get(member.name) ?? index * 8, start, true);
  }

  const funcs_cnt = type.members.length;
  while (links.length < funcs_cnt) links.push(null);
  const map: bpf_struct_ops_map = { name, type, kdata: place.kdata, funcs_cnt, links, images, table };
  env.structOps.set(place.kdata, map);
  for (const { ksym } of images) env.programs.bpf_ksym_add(ksym);
  return map;
}

/** What is done with each program; anything but 0 ends the walk. */
export type StructOpsVisitor = (here: ThisCpu, prog: bpf_prog) => Delegate<number>;

/**
 * Visits the programs of the table at `kdata`, in the order of its members. Takes no lock: the table is whole
 * and stands still while a subsystem registers it. Throws a GuestRefusal when no map has such a table: the
 * kernel would walk whatever lies there.
 * @returns what `cb` returned when it was not 0, else 0
 */
export const bpf_struct_ops_for_each_prog = port(
  'bpf_struct_ops_for_each_prog',
  ['env', 'kdata', 'cb'],
  function* (here: ThisCpu, env: BpfEnv, kdata: bigint, cb: StructOpsVisitor): Path<number> {
    const fn = 'bpf_struct_ops_for_each_prog';
    const st_map = env.structOps.get(kdata);
    if (st_map === undefined)
      throw new GuestRefusal(`no struct_ops map has its table at 0x${kdata.toString(16)}`);
    for (let i = 0; i < st_map.funcs_cnt; i++) {
      const link = st_map.links[i] ?? null;
      yield* here.trace.decide(fn, `st_map->links[${i}]`, link === null ? null : link.prog.aux.name);
      if (link === null) continue;
      const ret = yield* cb(here, link.prog);
      if ((yield* here.trace.decide(fn, 'ret', ret)) !== 0) return ret;
    }
    return 0;
  },
);

/** bpf_prog_arena(): the map of the arena that a program uses, or null. */
export function bpf_prog_arena(prog: bpf_prog): bpf_map | null {
  const { arena } = prog.aux;
  return arena === null ? null : arena.map;
}
