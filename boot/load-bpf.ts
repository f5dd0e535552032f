/** BPF programs as a machine loads them: verified, compiled, stored and made known. */

import { arena_map_direct_value_addr } from '../bpf/arena/arena.js';
import { BPF_MAP_TYPE_ARENA, type bpf_map } from '../bpf/arena/arena_struct.js';
import type { bpf_prog } from '../bpf/program.js';
import type { BpfText } from '../bpf/text/asm.js';
import {
  type LinkArch,
  type LinkCallTarget,
  type LinkContextField,
  type LinkedFunction,
  type LinkedProgram,
  type LinkMap,
  type LinkSymbol,
  linkProgram,
} from '../bpf/verifier/link.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import { jitOptions, LINK_ARCHES } from './jit-options.js';
import type { System } from './system.js';
import { alignUp, CHUNK, TEXT_ALIGN } from './text.js';

/** One function: a main program or one of its subprograms. */
export interface BpfFunctionSpec {
  readonly name: string;
  readonly text: BpfText;
  /** Tag in its symbol; the kernel's, of its instructions, if left out. */
  readonly tag?: string | undefined;
}

/** A program with everything that it names. */
export interface BpfSpec {
  /** The main program first. */
  readonly functions: readonly BpfFunctionSpec[];
  /** Maps that `map[NAME]` may name. */
  readonly maps: ReadonlyMap<string, bpf_map>;
  /** Name of an arena that belongs to the program although no instruction may name it; null for none. */
  readonly arena: string | null;
  /** Functions of kernel text that `call NAME` may name beside the kernel's own. */
  readonly functionsOfText: ReadonlyMap<string, bigint>;
  /** What `r1 = NAME ll` may name. */
  readonly symbols: ReadonlyMap<string, LinkSymbol>;
  /** The program may sleep: SEC("syscall") and the like. */
  readonly sleepable: boolean;
  readonly context: readonly LinkContextField[];
}

/** A function in memory. */
export interface LoadedFunction {
  readonly linked: LinkedFunction;
  readonly prog: bpf_prog;
  /** Address of the native code of each slot of its text. */
  readonly insns: readonly bigint[];
}

export interface LoadedBpf {
  readonly linked: LinkedProgram;
  /** The main program first. */
  readonly functions: readonly LoadedFunction[];
}

/** BTF ids of functions of a fixture: behind those of the kernel. */
const FIRST_TEXT_ID = 1000;

/** By map type, the struct that ops->map_btf_id names: hash, array, ring buffer, arena. Others go by their first member. */
const BTF_NAMES: ReadonlyMap<number, string> = new Map([
  [1, 'bpf_htab'],
  [2, 'bpf_array'],
  [27, 'bpf_ringbuf_map'],
  [BPF_MAP_TYPE_ARENA, 'bpf_arena'],
]);

/** Throws a VerifierError or a JitError for what the kernel refuses, a MachineRefusal when there is no room. */
export function loadBpf(system: System, spec: BpfSpec): LoadedBpf {
  const aux = new AuxPage(system, spec.functions[0]?.name ?? '');
  const linked = link(system, spec, aux);
  const loaded: LoadedFunction[] = [];
  for (const fn of linked.functions) {
    const { name, tag, image, code, extable, extableOffset, linfo } = fn;
    const prog = system.loadProgram({
      name,
      start: image,
      code,
      tag: spec.functions.find((given) => given.name === name)?.tag ?? tag,
      arena: linked.arena === null ? null : (spec.maps.get(linked.arena)?.arena ?? null),
      main: loaded[0]?.prog ?? null,
      linfo,
      extable,
      extableOffset,
    });
    loaded.push({ linked: fn, prog, insns: slotAddresses(fn) });
  }
  const main = loaded[0]?.prog.aux;
  if (main !== undefined && aux.taken !== null) system.bpf.programs.placeAux(aux.taken, main);
  return { linked, functions: loaded };
}

function link(system: System, spec: BpfSpec, aux: AuxPage): LinkedProgram {
  const { arch, config, callables } = system;
  const maps = new Map<string, LinkMap>();
  for (const name of mapNames(spec)) {
    const map = spec.maps.get(name);
    if (map === undefined) continue;
    const { arena } = map;
    maps.set(name, {
      address: system.maps.addressOf(map),
      btf_name: BTF_NAMES.get(map.map_type) ?? 'bpf_map',
      value_size: map.value_size,
      arena: arena === null ? null : arenaOf(map),
      map_direct_value_addr: arena === null ? null : (off) => arena_map_direct_value_addr(arena, off),
    });
  }
  const targets = callables.targets();
  let id = FIRST_TEXT_ID;
  for (const [name, address] of spec.functionsOfText) targets.set(name, textTarget(address, id++));
  let next = system.textBase('bpf');
  const linkArch: LinkArch = LINK_ARCHES[arch.name];
  return linkProgram({
    functions: spec.functions,
    maps,
    boundMaps: spec.arena === null ? [] : [spec.arena],
    targets,
    symbols: spec.symbols,
    sleepable: spec.sleepable,
    context: spec.context,
    callBase: callables.callBase,
    arch: linkArch,
    options: jitOptions(arch.name, config, () => callables.returnThunk),
    aux: () => aux.address(),
    place: (size) => {
      const start = fitting(next, BigInt(size));
      next = alignUp(start + BigInt(size), BigInt(TEXT_ALIGN));
      return start;
    },
  });
}

/**
 * Where struct bpf_prog_aux of the main program lies: a page of its own, so that nothing else has its address. Nobody
 * looks into it.
 */
class AuxPage {
  readonly #system: System;
  readonly #name: string;
  /** Null while nobody has asked for it. */
  taken: bigint | null = null;

  constructor(system: System, name: string) {
    this.#system = system;
    this.#name = name;
  }

  /** Takes the page. Throws a MachineRefusal when there is none. */
  address(): bigint {
    if (this.taken !== null) return this.taken;
    const { pages, layout } = this.#system.memory;
    const pa = pages.takeFrames(1, 'struct bpf_prog_aux');
    if (pa === null) throw new MachineRefusal(`the ram is full: no page for prog->aux of ${this.#name}`);
    this.taken = layout.directMap + BigInt(pa - layout.physBase);
    return this.taken;
  }
}

/** Names of all maps that the program has to do with. */
function mapNames({ functions, arena }: BpfSpec): Set<string> {
  const names = functions.flatMap(({ text }) => [...text.maps.values()].map(({ name }) => name));
  return new Set(arena === null ? names : [...names, arena]);
}

function arenaOf({ arena, map_flags }: bpf_map): LinkMap['arena'] {
  return arena === null
    ? null
    : { kern_vm_start: arena.kern_vm_start, user_vm_start: arena.user_vm_start, map_flags };
}

/** Code of a fixture is a kfunc of which nothing is known. */
function textTarget(address: bigint, id: number): LinkCallTarget {
  return {
    address,
    kind: 'kfunc',
    returns: 'scalar',
    args: null,
    non_sleepable: null,
    aux_register: null,
    id,
  };
}

/** Images lie within a chunk of text where they can: their exception tables are read as one piece. */
function fitting(start: bigint, size: bigint): bigint {
  const chunk = BigInt(CHUNK);
  const behind = start - (start % chunk) + chunk;
  return size <= chunk && start + size > behind ? behind : start;
}

/** By slot of the text: the native address of the first instruction that comes from it. */
function slotAddresses({ origins, addrs, image }: LinkedFunction): bigint[] {
  const addresses: bigint[] = [];
  origins.forEach((slot, i) => {
    const offset = addrs[i];
    if (slot === null || offset === undefined || addresses[slot] !== undefined) return;
    addresses[slot] = image + BigInt(offset);
  });
  return addresses;
}
