/** The tag of a program: bpf_prog_calc_tag() of kernel/bpf/core.c (bpf-next merge 8496d9020ff3). */
import { createHash } from 'node:crypto';
import {
  BPF_LD_IMM64,
  BPF_PSEUDO_MAP_FD,
  BPF_PSEUDO_MAP_VALUE,
  type bpf_insn,
  encodeInsns,
} from '../insn.js';

/** The instructions, both halves of those 64-bit immediates 0 whose pseudo source register is one of `pseudo`. */
export function withoutImmediates(insns: readonly bpf_insn[], pseudo: readonly number[]): bpf_insn[] {
  let high = false;
  return insns.map((insn) => {
    const isLow = insn.code === BPF_LD_IMM64 && pseudo.includes(insn.src_reg);
    const cleared = isLow || high ? { ...insn, imm: 0 } : insn;
    high = isLow;
    return cleared;
  });
}

/**
 * First 8 bytes of the SHA-256 over the instructions, those that differ from load to load (addresses of maps)
 * without their values: 16 lower-case hexadecimal digits.
 */
export function bpf_prog_calc_tag(insns: readonly bpf_insn[]): string {
  const stable = withoutImmediates(insns, [BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE]);
  return createHash('sha256').update(encodeInsns(stable)).digest('hex').slice(0, 16);
}
