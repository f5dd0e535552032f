/** What the tests of both JITs share: instructions, a place, and how the kernel is configured. */
import {
  BPF_ALU,
  BPF_ALU64,
  BPF_ATOMIC,
  BPF_EXIT,
  BPF_JEQ,
  BPF_JGE,
  BPF_JGT,
  BPF_JLE,
  BPF_JLT,
  BPF_JMP,
  BPF_JNE,
  BPF_JSET,
  BPF_JSGE,
  BPF_JSGT,
  BPF_JSLE,
  BPF_JSLT,
  BPF_LD_IMM64,
  BPF_LDX,
  BPF_MOV,
  BPF_PROBE_ATOMIC,
  BPF_ST,
  BPF_STX,
  BPF_X,
  type bpf_insn,
} from '../insn.js';
import type { JitOptions, JitPlace } from './jit.js';

export const USER_VM_START = 0x7f7d_2620_0000n;

export const PLAIN: JitOptions = {
  branchTracking: false,
  pac: false,
  return_thunk: null,
  sls: false,
  bmi2: true,
  lse: true,
  atomicEntries: 'store',
};

/** A place from which nothing is called. */
export const placeAt = (image: bigint): JitPlace => ({
  image,
  callTarget: () => {
    throw new Error('nothing is called');
  },
  funcAddress: () => {
    throw new Error('no function is named');
  },
});

export const raw = (code: number, dst_reg = 0, src_reg = 0, off = 0, imm = 0): bpf_insn => ({
  code,
  dst_reg,
  src_reg,
  off,
  imm,
});

export const alu64 = (op: number, dst: number, src: number): bpf_insn =>
  raw(BPF_ALU64 | BPF_X | op, dst, src);
export const alu32 = (op: number, dst: number, src: number): bpf_insn => raw(BPF_ALU | BPF_X | op, dst, src);
export const alu64k = (op: number, dst: number, imm: number): bpf_insn => raw(BPF_ALU64 | op, dst, 0, 0, imm);
export const alu32k = (op: number, dst: number, imm: number): bpf_insn => raw(BPF_ALU | op, dst, 0, 0, imm);
export const mov = (dst: number, src: number): bpf_insn => alu64(BPF_MOV, dst, src);
export const mov32 = (dst: number, src: number): bpf_insn => alu32(BPF_MOV, dst, src);
export const movK = (dst: number, imm: number): bpf_insn => alu64k(BPF_MOV, dst, imm);
export const castUser = (dst: number, src: number): bpf_insn =>
  raw(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 1, 1 << 16);
export const ldx = (mode: number, size: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_LDX | mode | size, dst, src, off);
export const stx = (mode: number, size: number, dst: number, off: number, src: number): bpf_insn =>
  raw(BPF_STX | mode | size, dst, src, off);
export const st = (mode: number, size: number, dst: number, off: number, imm: number): bpf_insn =>
  raw(BPF_ST | mode | size, dst, 0, off, imm);
export const atomic = (size: number, op: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_STX | BPF_ATOMIC | size, dst, src, off, op);
export const probeAtomic = (size: number, op: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_STX | BPF_PROBE_ATOMIC | size, dst, src, off, op);
/** Both slots. */
export const ldImm64 = (dst: number, value: bigint): bpf_insn[] => [
  raw(BPF_LD_IMM64, dst, 0, 0, Number(BigInt.asIntN(32, value))),
  raw(0, 0, 0, 0, Number(BigInt.asIntN(32, value >> 32n))),
];
/** All conditional jumps, by BPF_OP. */
export const CONDITIONS: readonly number[] = [
  BPF_JEQ,
  BPF_JGT,
  BPF_JGE,
  BPF_JSET,
  BPF_JNE,
  BPF_JSGT,
  BPF_JSGE,
  BPF_JLT,
  BPF_JLE,
  BPF_JSLT,
  BPF_JSLE,
];
export const EXIT = raw(BPF_JMP | BPF_EXIT);
