/**
 * Port of map_create() of kernel/bpf/syscall.c (bpf-next merge 8496d9020ff3) with what __sys_bpf() looks at
 * before it: everything that BPF_MAP_CREATE checks around the map type's own map_alloc.
 *
 * Left out: bytes behind the attributes, tokens (BPF_F_TOKEN_FD is taken off, the token is none that helps), security hooks, file
 * descriptors and ids, types of BTF (no type has a size, and an arena's value has none, so whoever gives one
 * is refused as by the kernel), exclusive maps, and what other map types do: a map of another type is a bare
 * description, good for being refused.
 */
import type { ThisCpu } from '../arch/arch.js';
import { type Path, port } from '../emu/path.js';
import { EINVAL, EPERM } from '../kernel/errno.js';
import { arena_map_alloc, arena_map_free } from './arena/arena.js';
import { BPF_MAP_TYPE_ARENA, type bpf_map, type MapAttr } from './arena/arena_struct.js';
import { BPF_F_RDONLY, BPF_F_WRONLY } from './arena/map_file.js';
import type { BpfEnv } from './env.js';

export const BPF_MAP_TYPE_BLOOM_FILTER = 30;
export const BPF_MAP_TYPE_STRUCT_OPS = 26;
/** __MAX_BPF_MAP_TYPE: the types end with BPF_MAP_TYPE_INSN_ARRAY. */
export const __MAX_BPF_MAP_TYPE = 35;

export const BPF_F_NUMA_NODE = 1 << 2;
export const BPF_F_TOKEN_FD = 1 << 16;

/** The command's attributes. */
export interface MapCreateAttr extends MapAttr {
  readonly map_type: number;
  /** Looked at with BPF_F_NUMA_NODE only. */
  readonly numa_node?: number | undefined;
  /** Index of a network device to offload to; 0 if left out. */
  readonly map_ifindex?: number | undefined;
  readonly btf_key_type_id?: number | undefined;
  readonly btf_value_type_id?: number | undefined;
  readonly btf_vmlinux_value_type_id?: number | undefined;
}

/** What the caller may do. */
export interface MapCaller {
  readonly CAP_BPF: boolean;
}

/** bpf_obj_name_cpy(): at most 15 characters of `[A-Za-z0-9_.]`. */
function isObjName(name: string): boolean {
  return name.length < 16 && /^[A-Za-z0-9_.]*$/.test(name);
}

/** Checks of the attributes alone: 0 or -EINVAL. */
function* checkAttr(here: ThisCpu, env: BpfEnv, attr: MapCreateAttr): Path<number> {
  const { trace } = here;
  const fn = 'map_create';
  const { map_type, map_flags } = attr;
  const key = attr.btf_key_type_id ?? 0;
  const value = attr.btf_value_type_id ?? 0;
  if (
    yield* trace.decide(fn, 'attr->btf_vmlinux_value_type_id', (attr.btf_vmlinux_value_type_id ?? 0) !== 0)
  ) {
    const wrong = map_type !== BPF_MAP_TYPE_STRUCT_OPS || key !== 0 || value !== 0;
    const test =
      'attr->map_type != BPF_MAP_TYPE_STRUCT_OPS || attr->btf_key_type_id || attr->btf_value_type_id';
    if (yield* trace.decide(fn, test, wrong)) return -EINVAL;
  } else if (
    yield* trace.decide(fn, 'attr->btf_key_type_id && !attr->btf_value_type_id', key !== 0 && value === 0)
  ) {
    return -EINVAL;
  }

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
  if (yield* trace.decide(fn, 'numa_node >= nr_node_ids || !node_online(numa_node)', badNode)) return -EINVAL;

  // BPF_MAP_TYPE_UNSPEC has no operations.
  const unknown = map_type >= __MAX_BPF_MAP_TYPE || map_type === 0;
  return (yield* trace.decide(fn, 'map_type >= ARRAY_SIZE(bpf_map_types) || !ops', unknown)) ? -EINVAL : 0;
}

/** Makes a map, or a negative errno. */
export const map_create = port(
  'map_create',
  ['env', 'attr', 'caller'],
  function* (here: ThisCpu, env: BpfEnv, given: MapCreateAttr, caller: MapCaller): Path<bpf_map | number> {
    const { trace } = here;
    const fn = 'map_create';
    const attr = { ...given, map_flags: given.map_flags & ~BPF_F_TOKEN_FD };
    const { map_type, map_flags } = attr;
    const wrong = yield* checkAttr(here, env, attr);
    if (wrong !== 0) return wrong;

    // The sysctl is on, as distributions have it; off, the check behind it refuses the same callers.
    const test = 'sysctl_unprivileged_bpf_disabled && !bpf_token_capable(token, CAP_BPF)';
    if (yield* trace.decide(fn, test, !caller.CAP_BPF)) return -EPERM;
    yield* trace.decide(fn, '!bpf_token_capable(token, CAP_BPF)', false);

    if (yield* trace.decide(fn, 'attr->map_ifindex', (attr.map_ifindex ?? 0) !== 0)) {
      // bpf_map_offload_map_alloc(): whoever has CAP_BPF is root, and devices take arrays and hash tables only.
      return -EINVAL;
    }
    if (map_type !== BPF_MAP_TYPE_ARENA) {
      const { key_size, value_size, max_entries, map_extra, name } = attr;
      return { map_type, key_size, value_size, max_entries, map_flags, map_extra, name, arena: null };
    }
    const map = yield* arena_map_alloc(here, env, attr);
    if (typeof map === 'number') return map;
    const badName = !isObjName(attr.name);
    const failed =
      (yield* trace.decide(fn, 'bpf_obj_name_cpy(map->name, attr->map_name) < 0', badName)) ||
      (yield* trace.decide(
        fn,
        'map_check_btf(map, token, btf, key, value)',
        (attr.btf_value_type_id ?? 0) !== 0,
      ));
    if (!failed) return map;
    yield* arena_map_free(here, env, map);
    return -EINVAL;
  },
);
