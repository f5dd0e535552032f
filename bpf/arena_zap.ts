/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3): the user's view of an arena, as far as freeing
 * needs it. Left out: mmap, get_unmapped_area, the VMA operations and the user fault.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { type Path, port } from '../emu/path.js';
import type { bpf_arena } from './arena.js';
import type { BpfEnv } from './env.js';

/** Takes `page_cnt` pages from user address `uaddr` out of every mapping of the arena. May sleep. */
export const zap_pages = port(
  'zap_pages',
  ['env', 'arena', 'uaddr', 'page_cnt'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena, uaddr: bigint, page_cnt: number): Path<void> {
    for (const { vma } of arena.vma_list) {
      yield* env.zap_vma_range(here, vma, uaddr, page_cnt * PAGE_SIZE);
    }
  },
);
