/** Names that every expression knows: the kernel's own constants. */
import type { Arch } from '../../arch/arch.js';
import * as arm64 from '../../arch/arm64/extable.js';
import {
  BUS_ADRALN,
  BUS_ADRERR,
  BUS_MCEERR_AR,
  BUS_OBJERR,
  PAGE_SHIFT,
  PAGE_SIZE,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SEGV_PKUERR,
  SI_KERNEL,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
} from '../../arch/kernel.js';
import { EX_TYPE as X86_EX_TYPE } from '../../arch/x86/extable-format.js';
import { BPF_F_MMAPABLE, BPF_F_NO_USER_CONV, BPF_F_SEGV_ON_FAULT } from '../../bpf/arena/arena_struct.js';
import * as errnos from '../../kernel/errno.js';
import * as slab from '../../mm/slab-cache.js';

const COMMON: Readonly<Record<string, bigint>> = {
  NULL: 0n,
  PAGE_SIZE: BigInt(PAGE_SIZE),
  PAGE_SHIFT: BigInt(PAGE_SHIFT),
  PAGE_MASK: ~BigInt(PAGE_SIZE - 1),
  SZ_4G: 1n << 32n,
  // kernel/bpf/arena.c: round_up(1 << 16, PAGE_SIZE << 1)
  GUARD_SZ: 0x10000n,
  // include/uapi/linux/bpf.h
  BPF_F_MMAPABLE: BigInt(BPF_F_MMAPABLE),
  BPF_F_SEGV_ON_FAULT: BigInt(BPF_F_SEGV_ON_FAULT),
  BPF_F_NO_USER_CONV: BigInt(BPF_F_NO_USER_CONV),
  BPF_STDOUT: 1n,
  BPF_STDERR: 2n,
  NUMA_NO_NODE: -1n,
  // include/uapi/asm-generic/signal.h, siginfo.h
  SIGILL: 4n,
  ILL_ILLOPC: 1n,
  SIGBUS: BigInt(SIGBUS),
  SIGKILL: BigInt(SIGKILL),
  SIGSEGV: BigInt(SIGSEGV),
  SEGV_MAPERR: BigInt(SEGV_MAPERR),
  SEGV_ACCERR: BigInt(SEGV_ACCERR),
  SEGV_PKUERR: BigInt(SEGV_PKUERR),
  BUS_ADRALN: BigInt(BUS_ADRALN),
  BUS_ADRERR: BigInt(BUS_ADRERR),
  BUS_OBJERR: BigInt(BUS_OBJERR),
  BUS_MCEERR_AR: BigInt(BUS_MCEERR_AR),
  SI_KERNEL: BigInt(SI_KERNEL),
  // arch/x86/include/asm/trap_pf.h
  X86_PF_PROT: 1n << 0n,
  X86_PF_WRITE: 1n << 1n,
  X86_PF_USER: 1n << 2n,
  X86_PF_RSVD: 1n << 3n,
  X86_PF_INSTR: 1n << 4n,
  X86_PF_PK: 1n << 5n,
  X86_PF_SHSTK: 1n << 6n,
  X86_PF_SGX: 1n << 15n,
  X86_PF_RMP: 1n << 31n,
  // include/linux/gfp_types.h
  GFP_KERNEL: BigInt(slab.GFP_KERNEL),
  GFP_ATOMIC: BigInt(slab.GFP_ATOMIC),
  __GFP_ZERO: BigInt(slab.__GFP_ZERO),
  __GFP_DMA: BigInt(slab.__GFP_DMA),
  __GFP_DMA32: BigInt(slab.__GFP_DMA32),
  __GFP_THISNODE: BigInt(slab.__GFP_THISNODE),
  ZERO_SIZE_PTR: slab.ZERO_SIZE_PTR,
  // arch/x86/include/uapi/asm/vsyscall.h
  VSYSCALL_ADDR: -10n << 20n,
  // arch/arm64/include/asm/esr.h
  ESR_ELx_WNR: 1n << 6n,
  ESR_ELx_CM: 1n << 8n,
};

/** EX_TYPE_* of each architecture: the same names do not mean the same numbers. */
const EX_TYPES: Readonly<Record<Arch['name'], Readonly<Record<string, number>>>> = {
  'x86-64': Object.fromEntries(
    Object.entries(X86_EX_TYPE).map(([name, value]) => [`EX_TYPE_${name}`, value]),
  ),
  arm64: {
    EX_TYPE_NONE: arm64.EX_TYPE_NONE,
    EX_TYPE_BPF: arm64.EX_TYPE_BPF,
    EX_TYPE_UACCESS_ERR_ZERO: arm64.EX_TYPE_UACCESS_ERR_ZERO,
    EX_TYPE_KACCESS_ERR_ZERO: arm64.EX_TYPE_KACCESS_ERR_ZERO,
    EX_TYPE_UACCESS_CPY: arm64.EX_TYPE_UACCESS_CPY,
    EX_TYPE_LOAD_UNALIGNED_ZEROPAD: arm64.EX_TYPE_LOAD_UNALIGNED_ZEROPAD,
  },
};

function constantsFor(arch: Arch['name']): ReadonlyMap<string, bigint> {
  return new Map([
    ...Object.entries(COMMON),
    ...Object.entries({ ...errnos, ...EX_TYPES[arch] }).flatMap(([name, value]): [string, bigint][] =>
      typeof value === 'number' ? [[name, BigInt(value)]] : [],
    ),
  ]);
}

/** Constants by name. Errnos are positive, as in C: `-EBUSY`. */
export const CONSTANTS: Readonly<Record<Arch['name'], ReadonlyMap<string, bigint>>> = {
  'x86-64': constantsFor('x86-64'),
  arm64: constantsFor('arm64'),
};

/** Page protections, whose values depend on architecture and configuration. */
export const PROTECTIONS = [
  'PAGE_KERNEL',
  'PAGE_KERNEL_RO',
  'PAGE_KERNEL_ROX',
  'PAGE_KERNEL_EXEC',
  'PAGE_LINEAR',
  'PAGE_SHARED',
  'PAGE_SHARED_EXEC',
  'PAGE_READONLY',
  'PAGE_READONLY_EXEC',
] as const;

/** Places of the address space. */
export const PLACES = ['PAGE_OFFSET', 'PHYS_OFFSET', 'VMALLOC_START', 'VMALLOC_END', 'TASK_SIZE'] as const;
