/**
 * Port of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3), part 6: zap_pages(), in the form of the merge
 * and in that of 80b89d0226a0.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { type Path, port } from '../../emu/path.js';
import { mutex_lock, mutex_unlock } from '../../kernel/mutex.js';
import { find_vma, Vma } from '../../mm/mmap.js';
import { mmap_read_lock, mmap_read_unlock } from '../../mm/mmap_lock.js';
import type { BpfEnv } from '../env.js';
import type { bpf_arena } from './arena_struct.js';
import { mapOfFile } from './map_file.js';

/** Takes `page_cnt` pages from user address `uaddr` out of every mapping of the arena. May sleep. */
export const zap_pages = port(
  'zap_pages',
  ['env', 'arena', 'uaddr', 'page_cnt'],
  function* (here: ThisCpu, env: BpfEnv, arena: bpf_arena, uaddr: bigint, page_cnt: number): Path<void> {
    if (env.variant !== 'v4') return yield* zapUnderMmapLock(here, env, arena, uaddr, page_cnt);
    // Nothing keeps the address spaces from changing meanwhile.
    mutex_lock(here, arena.lock);
    for (const { vma } of arena.vma_list) {
      yield* env.zap_vma_range(here, vma, uaddr, page_cnt * PAGE_SIZE);
    }
    mutex_unlock(here, arena.lock);
  },
);

/** The later form: each mapping is looked up again under its address space's lock. */
function* zapUnderMmapLock(
  here: ThisCpu,
  env: BpfEnv,
  arena: bpf_arena,
  uaddr: bigint,
  page_cnt: number,
): Path<void> {
  const { trace } = here;
  mutex_lock(here, arena.zap_mutex);
  mutex_lock(here, arena.lock);
  arena.zap_gen += 1;
  const my_gen = arena.zap_gen;
  for (;;) {
    const vml = arena.vma_list.find(({ zap_gen }) => zap_gen < my_gen);
    if (vml === undefined) break;
    vml.zap_gen = my_gen;
    const { vma } = vml;
    mutex_unlock(here, arena.lock);
    if (vma instanceof Vma) {
      const mm = vma.vm_mm;
      const { vm_start } = vma;
      mmap_read_lock(here, mm);
      const found = find_vma(mm, vm_start);
      const same = found !== null && found.vm_start === vm_start && mapOfFile(found.vm_file) === arena.map;
      const test = 'vma && vma->vm_start == vm_start && vma->vm_file->private_data == &arena->map';
      if ((yield* trace.decide('zap_pages', test, same)) && found !== null) {
        yield* env.zap_vma_range(here, found, uaddr, page_cnt * PAGE_SIZE);
      }
      mmap_read_unlock(mm);
    }
    mutex_lock(here, arena.lock);
  }
  mutex_unlock(here, arena.lock);
  mutex_unlock(here, arena.zap_mutex);
}
