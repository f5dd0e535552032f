/** The JIT of each architecture, and how the configuration of the kernel shows in its code. */
import type { Arch } from '../arch/arch.js';
import type { KernelConfig } from '../arch/kernel-config.js';
import * as arm64 from '../bpf/jit/arm64.js';
import type { JitOptions } from '../bpf/jit/jit.js';
import * as x86 from '../bpf/jit/x86.js';
import type { LinkArch } from '../bpf/verifier/link.js';

/** What the verifier asks of the JIT. */
export const LINK_ARCHES: Readonly<Record<Arch['name'], LinkArch>> = {
  'x86-64': {
    jit: x86.bpf_int_jit_compile,
    uaddress_limit: x86.bpf_arch_uaddress_limit(),
    far_kfunc_call: false,
    MODULES_VADDR: 0xffff_ffff_c000_0000n,
    supports_insn: (insn) => x86.bpf_jit_supports_insn(insn, true),
  },
  arm64: {
    jit: arm64.bpf_int_jit_compile,
    uaddress_limit: arm64.bpf_arch_uaddress_limit(),
    far_kfunc_call: true,
    MODULES_VADDR: 0xffff_8000_0000_0000n,
    supports_insn: (insn, options) => arm64.bpf_jit_supports_insn(insn, true, options),
  },
};

/** @param thunk address of __x86_return_thunk(), asked for when the configuration has it */
export function jitOptions(arch: Arch['name'], config: KernelConfig, thunk: () => bigint): JitOptions {
  const isX86 = arch === 'x86-64';
  return {
    branchTracking: isX86 ? config.IBT : config.BTI,
    pac: config.PAC,
    return_thunk: config.RETHUNK && isX86 ? thunk() : null,
    sls: config.SLS,
    bmi2: config.BMI2,
    lse: config.LSE,
    atomicEntries: config.bpf_atomics === 'merge' ? 'store' : 'by-kind',
  };
}
