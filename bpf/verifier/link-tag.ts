/** The tag of a program: bpf_prog_calc_tag() of kernel/bpf/core.c (bpf-next merge 8496d9020ff3). */
import { createHash } from 'node:crypto';
import {
  BPF_LD_IMM64,
  BPF_PSEUDO_MAP_FD,
  BPF_PSEUDO_MAP_VALUE,
  type bpf_insn,
  encodeInsns,
} from '../insn.js';

/**
 * First 8 bytes of the SHA-256 over the instructions, those that differ from load to load (addresses of maps)
 * without their values: 16 lower-case hexadecimal digits.
 */
export function bpf_prog_calc_tag(insns: readonly bpf_insn[]): string {
  let high = false;
  const stable = insns.map((insn) => {
    const isMap =
      insn.code === BPF_LD_IMM64 &&
      (insn.src_reg === BPF_PSEUDO_MAP_FD || insn.src_reg === BPF_PSEUDO_MAP_VALUE);
    const cleared = isMap || high ? { ...insn, imm: 0 } : insn;
    high = isMap;
    return cleared;
  });
  return createHash('sha256').update(encodeInsns(stable)).digest('hex').slice(0, 16);
}
