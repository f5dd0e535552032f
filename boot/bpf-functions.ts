/**
 * Functions of the kernel that BPF programs call, and what they are for the verifier. Their bodies are the ports in
 * bpf/; kernel code of a fixture can call them as well. Sizes are chosen.
 */

import {
  bpf_arena_alloc_pages,
  bpf_arena_alloc_pages_non_sleepable,
  bpf_arena_alloc_pages_sleepable,
  bpf_arena_free_pages,
  bpf_arena_free_pages_non_sleepable,
  bpf_arena_reserve_pages,
} from '../bpf/arena/arena_pages.js';
import type { bpf_map } from '../bpf/arena/arena_struct.js';
import type { BpfEnv } from '../bpf/env.js';
import { argS32, argU32, type KfuncSizes, kfuncs, returnInt } from '../bpf/kfunc.js';
import { MAY_GOTO_FUNCTIONS } from '../bpf/may_goto.js';
import { LOCK_KFUNCS } from '../bpf/rqspinlock_kfuncs.js';
import { STREAM_AUX_REGISTERS, STREAM_KFUNCS } from '../bpf/stream/stream_kfuncs.js';
import { trampolineFunctions } from '../bpf/struct_ops/trampoline.js';
import type { LinkCallTarget } from '../bpf/verifier/link.js';
import type { Path } from '../emu/path.js';
import type { HostBody, HostFunction } from './host-functions.js';
import type { MapPointers } from './map-pointers.js';
import { SCHED_EXT_FUNCTIONS } from './sched-ext-functions.js';

/** What the verifier knows of a function that programs may call by name. */
export interface KfuncDescription {
  readonly returns: LinkCallTarget['returns'];
  readonly args: number | null;
  /** Name of what takes its place where the program cannot sleep. */
  readonly non_sleepable?: string;
  /** The register of a parameter that programs do not see: `struct bpf_prog_aux *aux`. */
  readonly aux_register?: number;
  /** Number of a helper (BPF_FUNC_*); left out for kfuncs. */
  readonly helper?: number;
}

/** What programs may call, by name. */
export const KFUNCS: Readonly<Record<string, KfuncDescription>> = {
  bpf_arena_alloc_pages: {
    returns: 'scalar',
    args: 5,
    non_sleepable: 'bpf_arena_alloc_pages_non_sleepable',
  },
  bpf_arena_free_pages: { returns: 'void', args: 3, non_sleepable: 'bpf_arena_free_pages_non_sleepable' },
  bpf_arena_reserve_pages: { returns: 'scalar', args: 3 },
  bpf_stream_vprintk: { returns: 'scalar', args: 4, aux_register: STREAM_AUX_REGISTERS.bpf_stream_vprintk },
  bpf_stream_print_stack: {
    returns: 'scalar',
    args: 1,
    aux_register: STREAM_AUX_REGISTERS.bpf_stream_print_stack,
  },
  bpf_res_spin_lock: { returns: 'scalar', args: 1 },
  bpf_res_spin_unlock: { returns: 'void', args: 1 },
  bpf_res_spin_lock_irqsave: { returns: 'scalar', args: 2 },
  bpf_res_spin_unlock_irqrestore: { returns: 'void', args: 2 },
  bpf_spin_lock: { returns: 'void', args: 1, helper: 93 },
  bpf_spin_unlock: { returns: 'void', args: 1, helper: 94 },
  bpf_rcu_read_lock: { returns: 'void', args: 0 },
  bpf_rcu_read_unlock: { returns: 'void', args: 0 },
  bpf_preempt_disable: { returns: 'void', args: 0 },
  bpf_preempt_enable: { returns: 'void', args: 0 },
};

/** What the bodies work on. */
export interface BpfFunctionParts {
  readonly env: BpfEnv;
  readonly maps: MapPointers;
}

type Allocate = typeof bpf_arena_alloc_pages;
type Free = typeof bpf_arena_free_pages;

const ARENA_FUNCTIONS = {
  bpf_arena_alloc_pages: 0x60,
  bpf_arena_alloc_pages_non_sleepable: 0x60,
  bpf_arena_alloc_pages_sleepable: 0x60,
  bpf_arena_free_pages: 0x50,
  bpf_arena_free_pages_non_sleepable: 0x50,
  bpf_arena_reserve_pages: 0x70,
};

/** The kfuncs of kernel/bpf/arena.c, and what they are exchanged for. */
export function arenaFunctions({ env, maps }: BpfFunctionParts): HostFunction[] {
  const allocate = (name: string, port: Allocate): HostBody =>
    function* (here, args): Path<bigint> {
      const map: bpf_map = maps.at(args[0] ?? 0n);
      return yield* env.calls.during(map, name, () =>
        port(here, env, map, args[1] ?? 0n, argU32(args, 2), argS32(args, 3), args[4] ?? 0n),
      );
    };
  const free = (name: string, port: Free): HostBody =>
    function* (here, args): Path<bigint> {
      const map: bpf_map = maps.at(args[0] ?? 0n);
      yield* env.calls.during(map, name, () => port(here, env, map, args[1] ?? 0n, argU32(args, 2)));
      return 0n;
    };
  const reserve: HostBody = function* (here, args): Path<bigint> {
    const map = maps.at(args[0] ?? 0n);
    const ret = yield* env.calls.during(map, 'bpf_arena_reserve_pages', () =>
      bpf_arena_reserve_pages(here, env, map, args[1] ?? 0n, argU32(args, 2)),
    );
    return returnInt(ret);
  };
  return kfuncs(ARENA_FUNCTIONS, {
    bpf_arena_alloc_pages: allocate('bpf_arena_alloc_pages', bpf_arena_alloc_pages),
    bpf_arena_alloc_pages_non_sleepable: allocate(
      'bpf_arena_alloc_pages_non_sleepable',
      bpf_arena_alloc_pages_non_sleepable,
    ),
    bpf_arena_alloc_pages_sleepable: allocate(
      'bpf_arena_alloc_pages_sleepable',
      bpf_arena_alloc_pages_sleepable,
    ),
    bpf_arena_free_pages: free('bpf_arena_free_pages', bpf_arena_free_pages),
    bpf_arena_free_pages_non_sleepable: free(
      'bpf_arena_free_pages_non_sleepable',
      bpf_arena_free_pages_non_sleepable,
    ),
    bpf_arena_reserve_pages: reserve,
  });
}

const SECTION_FUNCTIONS = {
  bpf_rcu_read_lock: 0x20,
  bpf_rcu_read_unlock: 0x20,
  bpf_preempt_disable: 0x20,
  bpf_preempt_enable: 0x20,
};

/** Sections that cannot sleep. What they keep off is not modelled; the verifier counts them. */
export function sectionFunctions(): HostFunction[] {
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* nothing(): Path<bigint> {
    return 0n;
  }
  return kfuncs(SECTION_FUNCTIONS, {
    bpf_rcu_read_lock: nothing,
    bpf_rcu_read_unlock: nothing,
    bpf_preempt_disable: nothing,
    bpf_preempt_enable: nothing,
  });
}

/** Names of all functions that guest code can call: what BpfCallables offers. */
export const BPF_FUNCTIONS: readonly string[] = [
  ARENA_FUNCTIONS,
  Object.fromEntries(trampolineFunctions().map(({ name, size }) => [name, size])),
  STREAM_KFUNCS,
  LOCK_KFUNCS,
  MAY_GOTO_FUNCTIONS,
  SECTION_FUNCTIONS,
  SCHED_EXT_FUNCTIONS,
].flatMap((group: KfuncSizes) => Object.keys(group));
