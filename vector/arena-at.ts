/** An arena at a chosen address: the area allocator takes the lowest hole, so the holes below are filled. */
import type { System } from '../boot/system.js';
import { KERN_VM_SZ } from '../bpf/arena.js';
import { VM_NO_GUARD, VM_SPARSE, VM_USERMAP, type vm_struct } from '../mm/vmalloc.js';

/** A filler never covers more than an arena needs: it must fit the hole that it was found in. */
const FILLER_MAX = BigInt(KERN_VM_SZ);

/**
 * Runs `create` while the lowest hole for an arena begins at `at`.
 * @returns what `create` returned, or null when no arena fits at `at`; then it was not called
 */
export function withArenaAt<T>({ memory }: System, at: bigint, create: () => T): T | null {
  const { vmalloc } = memory;
  const fillers: vm_struct[] = [];
  try {
    for (;;) {
      const probe = vmalloc.take(KERN_VM_SZ, VM_SPARSE | VM_USERMAP, {});
      if (probe === null) return null;
      vmalloc.release(probe);
      if (probe.addr === at) return create();
      if (probe.addr > at) return null;
      const gap = at - probe.addr;
      const size = Number(gap < FILLER_MAX ? gap : FILLER_MAX);
      const filler = vmalloc.take(size, VM_NO_GUARD, { at: probe.addr });
      if (filler === null) return null;
      fillers.push(filler);
    }
  } finally {
    for (const filler of fillers) vmalloc.release(filler);
  }
}
