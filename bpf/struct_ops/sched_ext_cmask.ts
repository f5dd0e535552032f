/**
 * struct scx_cmask, a bitmap of CPUs by topology: kernel/sched/ext/types.h and cid.c, in the two layouts that it
 * had about the time of bpf-next merge 8496d9020ff3. What the kernel stores is a list here: host code may do the
 * stores, or say what guest code has to.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { hex, u64 } from '../../emu/address.js';
import { GuestRefusal } from '../../kernel/guest-refusal.js';

/** Older: base, nr_bits, bits[]. Newer: base, nr_cids, alloc_words, padding, bits[]. */
export type CmaskLayout = 'older' | 'newer';

/** Offset of bits[] in bytes. */
export function cmaskHeader(layout: CmaskLayout): 8 | 16 {
  return layout === 'older' ? 8 : 16;
}

/** SCX_CMASK_NR_WORDS(): words of bits[] for `nr_cids` wherever they begin; one more than they need. */
export function SCX_CMASK_NR_WORDS(nr_cids: number): number {
  return Math.floor((nr_cids + 63) / 64) + 1;
}

/** struct_size(): bytes of a cmask with room for `nr_cids`. */
export function cmaskSize(layout: CmaskLayout, nr_cids: number): number {
  return cmaskHeader(layout) + SCX_CMASK_NR_WORDS(nr_cids) * 8;
}

/** A store of the kernel into a cmask. */
export interface CmaskStore {
  /** From the start of the cmask, in bytes. */
  readonly offset: number;
  readonly size: 4 | 8;
  readonly value: bigint;
}

/** scx_cmask_init(): header, and all words 0. */
export function scx_cmask_init(layout: CmaskLayout, base: number, nr_cids: number): CmaskStore[] {
  const words = SCX_CMASK_NR_WORDS(nr_cids);
  const header = cmaskHeader(layout);
  const stores: CmaskStore[] = [
    { offset: 0, size: 4, value: BigInt(base) },
    { offset: 4, size: 4, value: BigInt(nr_cids) },
  ];
  if (layout === 'newer') stores.push({ offset: 8, size: 4, value: BigInt(words) });
  for (let i = 0; i < words; i++) stores.push({ offset: header + i * 8, size: 8, value: 0n });
  return stores;
}

/**
 * Does the stores at a kernel address, which its caller has just got from the pool. Throws a GuestRefusal where nothing
 * is mapped, because somebody has freed the pages of the pool below it: the kernel's store would fault there, and what
 * host code stores raises no fault.
 */
export function storeCmask(here: ThisCpu, at: bigint, stores: readonly CmaskStore[]): void {
  for (const { offset, size, value } of stores) {
    const va = u64(at + BigInt(offset));
    const pa = here.mmu.peek(va);
    if (pa < 0) {
      throw new GuestRefusal(
        `${hex(va)}, in a cmask of the pool, is not mapped: the kernel's store faults there, but those of this function ` +
          'are host code, which raises no fault. Get the address of scx_arena_alloc() and store from kernel text instead',
      );
    }
    if (size === 8) here.ram.writeU64(pa, value);
    else here.ram.words32[(pa - here.ram.base) / 4] = Number(value);
  }
}
