/**
 * What callers of mmap(), mprotect() and mremap() say, and the VM_* bits that come of it:
 * include/uapi/asm-generic/mman-common.h, include/uapi/linux/mman.h, include/linux/mm.h.
 */
import { VM_EXEC, VM_READ, VM_WRITE } from '../arch/kernel.js';

export const PROT_READ = 0x1;
export const PROT_WRITE = 0x2;
export const PROT_EXEC = 0x4;

export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_SHARED_VALIDATE = 0x03;
export const MAP_TYPE = 0x0f;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_GROWSDOWN = 0x100;
export const MAP_POPULATE = 0x8000;
export const MAP_FIXED_NOREPLACE = 0x10_0000;
/** The flags that MAP_SHARED_VALIDATE takes, include/linux/mman.h, as x86 has them. */
export const LEGACY_MAP_MASK = 0x7c07_f9f3;

export const MREMAP_MAYMOVE = 1;
export const MREMAP_FIXED = 2;
export const MREMAP_DONTUNMAP = 4;

export const VM_MAYREAD = 0x10;
export const VM_MAYWRITE = 0x20;
export const VM_MAYEXEC = 0x40;
export const VM_MAYSHARE = 0x80;
export const VM_DONTCOPY = 0x2_0000;
export const VM_DONTEXPAND = 0x4_0000;

/** struct file's f_mode. */
export const FMODE_READ = 0x1;
export const FMODE_WRITE = 0x2;

/** calc_vm_prot_bits() */
export function calc_vm_prot_bits(prot: number): number {
  return (
    ((prot & PROT_READ) !== 0 ? VM_READ : 0) |
    ((prot & PROT_WRITE) !== 0 ? VM_WRITE : 0) |
    ((prot & PROT_EXEC) !== 0 ? VM_EXEC : 0)
  );
}
