/**
 * Port of the file of a map, kernel/bpf/syscall.c (bpf-next merge 8496d9020ff3): bpf_get_unmapped_area()
 * and bpf_map_mmap(). Left out: the count of writable mappings (nobody freezes an arena), and mapping of
 * other types: a map that is no arena has no map_mmap here.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { VM_SHARED, VM_WRITE } from '../../arch/kernel.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import { EACCES, EINVAL, ENOTSUPP, EPERM } from '../../kernel/errno.js';
import type { file, UserMm, Vma } from '../../mm/mmap.js';
import { mm_get_unmapped_area } from '../../mm/mmap_area.js';
import { FMODE_READ, FMODE_WRITE, VM_MAYEXEC, VM_MAYWRITE } from '../../mm/mmap_flags.js';
import type { BpfEnv } from '../env.js';
import { arena_get_unmapped_area, arena_map_mmap } from './arena_mmap.js';
import type { bpf_map } from './arena_struct.js';

export const BPF_F_RDONLY = 1 << 3;
export const BPF_F_WRONLY = 1 << 4;
export const BPF_F_RDONLY_PROG = 1 << 7;

/** What a file descriptor of a map stands for: an anonymous inode, whose pages may not be executed. */
export class BpfMapFile implements file {
  readonly name: string;
  readonly f_mode: number;
  readonly noexec = true;

  constructor(
    readonly env: BpfEnv,
    readonly map: bpf_map,
  ) {
    this.name = `bpf-map ${map.name}`;
    const { map_flags } = map;
    this.f_mode =
      ((map_flags & BPF_F_WRONLY) === 0 ? FMODE_READ : 0) |
      ((map_flags & BPF_F_RDONLY) === 0 ? FMODE_WRITE : 0);
  }

  get_unmapped_area(
    here: ThisCpu,
    mm: UserMm,
    addr: bigint,
    len: bigint,
    pgoff: bigint,
    flags: number,
  ): Delegate<bigint> {
    const { arena } = this.map;
    if (arena === null) return mm_get_unmapped_area(here, mm, addr, len, flags);
    return arena_get_unmapped_area(here, this.env, arena, mm, addr, len, pgoff, flags);
  }

  mmap(here: ThisCpu, vma: Vma): Delegate<number> {
    return bpf_map_mmap(here, this.env, this.map, vma);
  }
}

/** file->private_data of a map's file; null for any other. */
export function mapOfFile(of: file | null): bpf_map | null {
  return of instanceof BpfMapFile ? of.map : null;
}

/** 0, -ENOTSUPP, -EINVAL, -EPERM, -EACCES, or what the map type says. */
const bpf_map_mmap = port(
  'bpf_map_mmap',
  ['env', 'map', 'vma'],
  function* (here: ThisCpu, env: BpfEnv, map: bpf_map, vma: Vma): Path<number> {
    const { trace } = here;
    const fn = 'bpf_map_mmap';
    const { arena } = map;
    const test = '!map->ops->map_mmap || !IS_ERR_OR_NULL(map->record)';
    if ((yield* trace.decide(fn, test, arena === null)) || arena === null) return -ENOTSUPP;
    const shared = (vma.vm_flags & VM_SHARED) !== 0;
    if (yield* trace.decide(fn, '!(vma->vm_flags & VM_SHARED)', !shared)) return -EINVAL;
    const writable = (vma.vm_flags & VM_WRITE) !== 0;
    if (yield* trace.decide(fn, 'vma->vm_flags & VM_WRITE', writable)) {
      if (yield* trace.decide(fn, 'map->frozen', map.frozen === true)) return -EPERM;
      const readOnly = (map.map_flags & BPF_F_RDONLY_PROG) !== 0;
      if (yield* trace.decide(fn, 'map->map_flags & BPF_F_RDONLY_PROG', readOnly)) return -EACCES;
    }
    vma.vm_flags &= ~VM_MAYEXEC;
    if (!writable) vma.vm_flags &= ~VM_MAYWRITE;
    return yield* arena_map_mmap(here, env, arena, vma);
  },
);
