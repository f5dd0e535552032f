/**
 * What a scheduler of sched_ext does with its arena, as kernel functions that the code of a fixture can call. The struct
 * scx_sched * that they take is the address of the table of operations (kdata). Sizes are chosen.
 */
import type { BpfEnv } from '../bpf/env.js';
import { argS32, argU32, kfuncs, returnInt } from '../bpf/kfunc.js';
import {
  bpf_scx_reg_cid,
  scx_arena_alloc,
  scx_arena_free,
  scx_arena_pool_destroy,
  scx_arena_pool_init,
  scx_kaddr_to_arena,
  scx_sched,
  scx_set_cmask_scratch_alloc,
  scx_set_cmask_scratch_free,
} from '../bpf/struct_ops/sched_ext_arena.js';
import type { CmaskLayout } from '../bpf/struct_ops/sched_ext_cmask.js';
import { hex } from '../emu/address.js';
import type { Path } from '../emu/path.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import type { HostFunction } from './host-functions.js';

/** sizeof of the header tells the two layouts of struct scx_cmask apart. */
const OLDER_HEADER = 8;

/** Sizes are chosen. */
export const SCHED_EXT_FUNCTIONS = {
  bpf_scx_reg_cid: 0x90,
  scx_arena_alloc: 0xd0,
  scx_arena_free: 0x40,
  scx_arena_pool_destroy: 0x80,
  scx_kaddr_to_arena: 0x30,
  scx_set_cmask_scratch_alloc: 0xe0,
  scx_set_cmask_scratch: 0x20,
  scx_set_cmask_scratch_free: 0x70,
};

export function schedExtFunctions(env: BpfEnv): HostFunction[] {
  const schedulers = new Map<bigint, scx_sched>();
  const at = (pointer: bigint): scx_sched => {
    const sch = schedulers.get(pointer);
    if (sch !== undefined) return sch;
    throw new GuestRefusal(
      `no scheduler is registered with the table at ${hex(pointer)}: bpf_scx_reg_cid() does it`,
    );
  };
  return kfuncs(SCHED_EXT_FUNCTIONS, {
    *bpf_scx_reg_cid(here, [kdata = 0n]): Path<bigint> {
      const map = yield* bpf_scx_reg_cid(here, env, kdata);
      if (typeof map === 'number') return returnInt(map);
      const sch = new scx_sched(map);
      const err = yield* scx_arena_pool_init(here, env, sch);
      if (err === 0) schedulers.set(kdata, sch);
      return returnInt(err);
    },
    *scx_arena_alloc(here, args): Path<bigint> {
      return yield* scx_arena_alloc(here, env, at(args[0] ?? 0n), args[1] ?? 0n);
    },
    // biome-ignore lint/correctness/useYield: it decides nothing
    *scx_arena_free(here, args): Path<bigint> {
      scx_arena_free(here, at(args[0] ?? 0n), args[1] ?? 0n, args[2] ?? 0n);
      return 0n;
    },
    *scx_arena_pool_destroy(here, [sch = 0n]): Path<bigint> {
      yield* scx_arena_pool_destroy(here, at(sch));
      return 0n;
    },
    // biome-ignore lint/correctness/useYield: it decides nothing
    *scx_kaddr_to_arena(_here, [sch = 0n, kern_va = 0n]): Path<bigint> {
      return scx_kaddr_to_arena(at(sch), kern_va);
    },
    /** struct scx_sched *, bytes of the header of struct scx_cmask (8 or 16), possible CPUs. */
    *scx_set_cmask_scratch_alloc(here, args): Path<bigint> {
      const sch = at(args[0] ?? 0n);
      return returnInt(yield* scx_set_cmask_scratch_alloc(here, env, sch, layoutOf(args), argU32(args, 2)));
    },
    /** struct scx_sched *, CPU: the address of its cmask. In the kernel it is a per-CPU variable. */
    // biome-ignore lint/correctness/useYield: it decides nothing
    *scx_set_cmask_scratch(_here, args): Path<bigint> {
      return at(args[0] ?? 0n).set_cmask_scratch[argU32(args, 1)] ?? 0n;
    },
    /** The same arguments: the masks go back to the pool. */
    // biome-ignore lint/correctness/useYield: it decides nothing
    *scx_set_cmask_scratch_free(here, args): Path<bigint> {
      scx_set_cmask_scratch_free(here, at(args[0] ?? 0n), layoutOf(args), argU32(args, 2));
      return 0n;
    },
  });
}

/** The layout of struct scx_cmask, by the bytes of its header. */
function layoutOf(args: readonly bigint[]): CmaskLayout {
  return argS32(args, 1) === OLDER_HEADER ? 'older' : 'newer';
}
