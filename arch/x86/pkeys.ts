/** Protection keys of user pages: arch/x86/include/asm/{pkru,mmu_context}.h, bpf-next merge 8496d9020ff3. */
import type { ThisCpu } from '../arch.js';
import type { vm_area_struct } from '../kernel.js';
import { machineOf } from './machine.js';

const PKRU_AD_BIT = 1;
const PKRU_WD_BIT = 2;
const PKRU_BITS_PER_PKEY = 2;

/** cpu_feature_enabled(X86_FEATURE_OSPKE) */
export function cpu_has_ospke(here: ThisCpu): boolean {
  return here.kernel.config.PKE;
}

/** Are the current task's rights those of a mapping's key? Of the current address space, not a foreign one. */
export function arch_vma_access_permitted(
  here: ThisCpu,
  vma: vm_area_struct,
  write: boolean,
  execute: boolean,
): boolean {
  // Keys never affect fetches.
  if (execute || !cpu_has_ospke(here)) return true;
  const bits = machineOf(here).thread(here.current).pkru >>> (vma.pkey * PKRU_BITS_PER_PKEY);
  if ((bits & PKRU_AD_BIT) !== 0) return false;
  return !write || (bits & PKRU_WD_BIT) === 0;
}
