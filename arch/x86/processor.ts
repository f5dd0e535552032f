/**
 * Numbers that many files need: arch/x86/include/asm/{trapnr,page_64_types,vsyscall}.h and
 * uapi/asm/processor-flags.h, bpf-next merge 8496d9020ff3.
 */

/** Exception vectors. */
export const X86_TRAP_DF = 8;
export const X86_TRAP_SS = 12;
export const X86_TRAP_GP = 13;
export const X86_TRAP_PF = 14;

export const X86_CR4_SMEP = 1n << 20n;
export const X86_CR4_SMAP = 1n << 21n;
export const X86_CR4_PKE = 1n << 22n;

/** With four levels: 2^47 - 4096. */
export const TASK_SIZE_MAX = 0x7fff_ffff_f000n;

/** The page of the vsyscalls; the only one above user space that user code may ask for. */
export const VSYSCALL_ADDR = 0xffff_ffff_ff60_0000n;
