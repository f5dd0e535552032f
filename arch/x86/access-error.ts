/** access_error() of arch/x86/mm/fault.c, bpf-next merge 8496d9020ff3. */
import type { ThisCpu } from '../arch.js';
import { VM_EXEC, VM_READ, VM_WRITE, type vm_area_struct } from '../kernel.js';
import { arch_vma_access_permitted } from './pkeys.js';
import { X86_PF_INSTR, X86_PF_PK, X86_PF_PROT, X86_PF_SGX, X86_PF_SHSTK, X86_PF_WRITE } from './walk.js';

/** Does the VMA forbid the access? */
export function access_error(here: ThisCpu, error_code: number, vma: vm_area_struct): boolean {
  const has = (bit: number): boolean => (error_code & bit) !== 0;
  const { vm_flags } = vma;
  if (has(X86_PF_PK)) return true;
  if (has(X86_PF_SGX)) return true;
  if (!arch_vma_access_permitted(here, vma, has(X86_PF_WRITE), has(X86_PF_INSTR))) return true;
  // A shadow-stack access outside of a shadow stack.
  if (has(X86_PF_SHSTK)) return true;
  if (has(X86_PF_WRITE)) return (vm_flags & VM_WRITE) === 0;
  if (has(X86_PF_PROT)) return true;
  return (vm_flags & (VM_READ | VM_WRITE | VM_EXEC)) === 0;
}
