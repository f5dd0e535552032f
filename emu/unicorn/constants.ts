/** Numbers of Unicorn's C interface (unicorn.h, x86.h, arm64.h of 2.1.4), as far as they are used. */

export const UC_ARCH_ARM64 = 2;
export const UC_ARCH_X86 = 4;
export const UC_MODE_ARM = 0;
export const UC_MODE_64 = 8;

export const UC_ERR_OK = 0;
export const UC_ERR_INSN_INVALID = 10;
export const UC_ERR_WRITE_PROT = 12;
export const UC_ERR_READ_PROT = 13;
export const UC_ERR_FETCH_PROT = 14;
export const UC_ERR_EXCEPTION = 21;

export const UC_PROT_READ = 1;
export const UC_PROT_WRITE = 2;
export const UC_PROT_EXEC = 4;
export const UC_PROT_ALL = UC_PROT_READ | UC_PROT_WRITE | UC_PROT_EXEC;

export const UC_HOOK_INTR = 1 << 0;
export const UC_HOOK_INSN = 1 << 1;
export const UC_HOOK_MEM_READ = 1 << 10;
export const UC_HOOK_MEM_WRITE = 1 << 11;
export const UC_MEM_WRITE = 17;
export const UC_HOOK_CODE = 1 << 2;
export const UC_HOOK_TLB_FILL = 1 << 17;

/** `uc_ctl` requests: number, argument count in bits 26.., direction "write" in bit 30. */
const write = (control: number, args: number): number => control | (args << 26) | (1 << 30);
export const UC_CTL_UC_PAGE_SIZE = write(1, 1);
export const UC_CTL_CPU_MODEL = write(7, 1);
export const UC_CTL_TB_FLUSH = write(10, 0);
export const UC_CTL_TLB_FLUSH = write(11, 0);
export const UC_CTL_TLB_TYPE = write(12, 1);
export const UC_CTL_TCG_BUFFER_SIZE = write(13, 1);

export const UC_TLB_CPU = 0;
export const UC_TLB_VIRTUAL = 1;

/** Broadwell: the first model with SMAP, so that STAC/CLAC exist and AC separates TLB entries. */
export const UC_CPU_X86_BROADWELL = 20;
/** Icelake-Server: it has protection keys and five-level paging as well. */
export const UC_CPU_X86_ICELAKE_SERVER = 26;
/** Everything the emulator has: LSE atomics and PAN among it. */
export const UC_CPU_ARM64_MAX = 3;

export const UC_X86_INS_SYSCALL = 699;
export const UC_X86_INS_SYSENTER = 700;
export const UC_ARM64_INS_SYS = 3;

export const UC_X86_REG_CS = 11;
export const UC_X86_REG_DS = 17;
export const UC_X86_REG_ES = 28;
export const UC_X86_REG_FS = 32;
export const UC_X86_REG_GS = 33;
export const UC_X86_REG_RAX = 35;
export const UC_X86_REG_RBP = 36;
export const UC_X86_REG_RBX = 37;
export const UC_X86_REG_RCX = 38;
export const UC_X86_REG_RDI = 39;
export const UC_X86_REG_RDX = 40;
export const UC_X86_REG_RIP = 41;
export const UC_X86_REG_RSI = 43;
export const UC_X86_REG_RSP = 44;
export const UC_X86_REG_SS = 49;
export const UC_X86_REG_CR0 = 50;
export const UC_X86_REG_CR2 = 52;
export const UC_X86_REG_CR3 = 53;
export const UC_X86_REG_CR4 = 54;
export const UC_X86_REG_CR8 = 58;
export const UC_X86_REG_DR0 = 66;
export const UC_X86_REG_R8 = 106;
export const UC_X86_REG_IDTR = 242;
export const UC_X86_REG_GDTR = 243;
export const UC_X86_REG_LDTR = 244;
export const UC_X86_REG_TR = 245;
export const UC_X86_REG_MSR = 248;
export const UC_X86_REG_FS_BASE = 250;
export const UC_X86_REG_GS_BASE = 251;
export const UC_X86_REG_RFLAGS = 253;

export const UC_ARM64_REG_X29 = 1;
export const UC_ARM64_REG_X30 = 2;
export const UC_ARM64_REG_NZCV = 3;
export const UC_ARM64_REG_SP = 4;
export const UC_ARM64_REG_X0 = 199;
export const UC_ARM64_REG_PC = 260;
export const UC_ARM64_REG_PSTATE = 265;
export const UC_ARM64_REG_SP_EL0 = 270;
export const UC_ARM64_REG_SP_EL1 = 271;
export const UC_ARM64_REG_ESR_EL1 = 277;
export const UC_ARM64_REG_FAR_EL1 = 281;
export const UC_ARM64_REG_CP_REG = 290;
