/** What the tests of the arm64 JIT share: instructions, a place, and how the kernel is configured. */
import { packExtable } from '../../arch/arm64/extable.js';
import { BPF_ALU64, BPF_EXIT, BPF_JMP, BPF_LD_IMM64, BPF_MOV, BPF_X, type bpf_insn } from '../insn.js';
import { bpf_int_jit_compile } from './arm64.js';
import type { JitedFunction, JitFunction, JitOptions, JitPlace } from './jit.js';

export const KERN_VM_START = 0xffff_8000_8500_9000n;
export const USER_VM_START = 0x7f7d_2620_0000n;
export const ARENA = { kern_vm_start: KERN_VM_START, user_vm_start: USER_VM_START };
export const IMAGE = 0xffff_8000_8100_0000n;

export const PLAIN: JitOptions = {
  branchTracking: false,
  pac: false,
  return_thunk: null,
  sls: false,
  bmi2: false,
  lse: true,
  atomicEntries: 'store',
};
export const BTI_PAC: JitOptions = { ...PLAIN, branchTracking: true, pac: true };

const NOWHERE: JitPlace = {
  image: IMAGE,
  callTarget: () => {
    throw new Error('nothing is called');
  },
  funcAddress: () => {
    throw new Error('no function is named');
  },
};

export const raw = (code: number, dst_reg = 0, src_reg = 0, off = 0, imm = 0): bpf_insn => ({
  code,
  dst_reg,
  src_reg,
  off,
  imm,
});

export const EXIT = raw(BPF_JMP | BPF_EXIT);
export const mov = (dst: number, src: number): bpf_insn => raw(BPF_ALU64 | BPF_MOV | BPF_X, dst, src);
export const movK = (dst: number, imm: number): bpf_insn => raw(BPF_ALU64 | BPF_MOV, dst, 0, 0, imm);
/** Both slots. */
export const ldImm64 = (dst: number, value: bigint): bpf_insn[] => [
  raw(BPF_LD_IMM64, dst, 0, 0, Number(BigInt.asIntN(32, value))),
  raw(0, 0, 0, 0, Number(BigInt.asIntN(32, value >> 32n))),
];

export interface Compilation {
  readonly fn?: Partial<JitFunction>;
  readonly place?: Partial<JitPlace>;
  readonly options?: Partial<JitOptions>;
}

/** A main program with the arena, no stack, on a kernel without BTI and PAC, unless told otherwise. */
export function compile(insns: readonly bpf_insn[], { fn, place, options }: Compilation = {}): JitedFunction {
  return bpf_int_jit_compile(
    { insns, is_subprog: false, stack_depth: 0, arena: ARENA, ...fn },
    { ...NOWHERE, ...place },
    { ...PLAIN, ...options },
  );
}

export function wordsOf(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(i * 4, true));
}

/** Words as the kernel's dumps have them. */
export const hexOf = (bytes: Uint8Array): string =>
  wordsOf(bytes)
    .map((word) => word.toString(16).padStart(8, '0'))
    .join(' ');

/** Code of the instructions alone, an exit behind them. */
export function body(insns: readonly bpf_insn[], how: Compilation = {}): Uint8Array {
  const { code, addrs } = compile([...insns, EXIT], how);
  return code.subarray(addrs[0], addrs[insns.length]);
}

/** The exception table as it lies behind the code. */
export function extableHex({ extable, extableOffset }: JitedFunction): string[] {
  return extable.map((entry, i) => hexOf(packExtable(entry, IMAGE + BigInt(extableOffset + i * 12))));
}
