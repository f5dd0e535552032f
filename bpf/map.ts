/**
 * Port of map_create() of kernel/bpf/syscall.c (bpf-next merge 8496d9020ff3): what BPF_MAP_CREATE checks
 * before the map type is asked.
 *
 * Left out: the attribute's tail and BTF, tokens, security hooks, file descriptors, and what other map
 * types do: a map of another type is a bare description, good for being refused.
 */
import type { ThisCpu } from '../arch/arch.js';
import { type Path, port } from '../emu/path.js';
import { EINVAL, EPERM } from '../kernel/errno.js';
import { arena_map_alloc, BPF_MAP_TYPE_ARENA, type bpf_map, type MapAttr } from './arena.js';
import type { BpfEnv } from './env.js';

export const BPF_MAP_TYPE_BLOOM_FILTER = 30;
/** __MAX_BPF_MAP_TYPE: the types end with BPF_MAP_TYPE_INSN_ARRAY. */
export const __MAX_BPF_MAP_TYPE = 35;

export const BPF_F_NUMA_NODE = 1 << 2;
export const BPF_F_RDONLY = 1 << 3;
export const BPF_F_WRONLY = 1 << 4;
export const BPF_F_TOKEN_FD = 1 << 16;

/** The command's attributes. */
export interface MapCreateAttr extends MapAttr {
  readonly map_type: number;
  /** Looked at with BPF_F_NUMA_NODE only. */
  readonly numa_node?: number;
}

/** Makes a map, or a negative errno. `capable`: the caller has CAP_BPF. */
export const map_create = port(
  'map_create',
  ['env', 'attr', 'capable'],
  function* (here: ThisCpu, env: BpfEnv, given: MapCreateAttr, capable: boolean): Path<bpf_map | number> {
    const { trace } = here;
    const fn = 'map_create';
    const attr = { ...given, map_flags: given.map_flags & ~BPF_F_TOKEN_FD };
    const { map_type, map_flags } = attr;

    const takesExtra = map_type === BPF_MAP_TYPE_BLOOM_FILTER || map_type === BPF_MAP_TYPE_ARENA;
    const extra = !takesExtra && attr.map_extra !== 0n;
    if (
      yield* trace.decide(
        fn,
        'attr->map_type != BPF_MAP_TYPE_BLOOM_FILTER && != BPF_MAP_TYPE_ARENA && attr->map_extra',
        extra,
      )
    ) {
      return -EINVAL;
    }

    const both = (map_flags & BPF_F_RDONLY) !== 0 && (map_flags & BPF_F_WRONLY) !== 0;
    if (yield* trace.decide(fn, 'bpf_get_file_flag(attr->map_flags) < 0', both)) return -EINVAL;

    const node = (map_flags & BPF_F_NUMA_NODE) === 0 ? -1 : (attr.numa_node ?? 0);
    const badNode = node !== -1 && node >>> 0 >= env.nr_node_ids;
    if (yield* trace.decide(fn, 'numa_node >= nr_node_ids || !node_online(numa_node)', badNode))
      return -EINVAL;

    const unknown = map_type >= __MAX_BPF_MAP_TYPE;
    if (yield* trace.decide(fn, 'map_type >= ARRAY_SIZE(bpf_map_types)', unknown)) return -EINVAL;

    if (yield* trace.decide(fn, '!bpf_token_capable(token, CAP_BPF)', !capable)) return -EPERM;

    if (map_type === BPF_MAP_TYPE_ARENA) return yield* arena_map_alloc(here, env, attr);
    const { key_size, value_size, max_entries, map_extra, name } = attr;
    return { map_type, key_size, value_size, max_entries, map_flags, map_extra, name, arena: null };
  },
);
