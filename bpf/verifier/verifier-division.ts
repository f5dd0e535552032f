/**
 * Divisions that no operand can make fault: part of bpf_do_misc_fixups() of kernel/bpf/fixups.c (bpf-next merge
 * 8496d9020ff3). Division by 0 gives 0, the remainder of it the dividend; by -1 with a sign, the negative and 0.
 */
import * as I from '../insn.js';
import { type Op, op } from './verifier-ops.js';

/** What takes the place of a division; null for what is none, or needs nothing. */
export function divisionPatch(one: Op): readonly Op[] | null {
  const { code, off, imm } = one.insn;
  const opcode = I.BPF_OP(code);
  const cls = I.BPF_CLASS(code);
  if ((cls !== I.BPF_ALU && cls !== I.BPF_ALU64) || (opcode !== I.BPF_DIV && opcode !== I.BPF_MOD))
    return null;
  const isSigned = off === 1;
  if (I.BPF_SRC(code) === I.BPF_K) return isSigned && imm === -1 ? byMinusOne(one) : null;
  if (isSigned) return opcode === I.BPF_DIV ? signedDivision(one) : signedRemainder(one);
  return opcode === I.BPF_DIV ? division(one) : remainder(one);
}

type Maker = (code: number, dst_reg: number, src_reg: number, off: number, imm: number) => Op;

/** Instructions for the place of `one`, and the classes of its width. */
function parts(one: Op): { make: Maker; alu: number; jmp: number; wide: boolean; dst: number; src: number } {
  const { code, dst_reg: dst, src_reg: src } = one.insn;
  const wide = I.BPF_CLASS(code) === I.BPF_ALU64;
  return {
    make: (c, dst_reg, src_reg, off, imm) => op({ code: c, dst_reg, src_reg, off, imm }, one.origin),
    alu: wide ? I.BPF_ALU64 : I.BPF_ALU,
    jmp: wide ? I.BPF_JMP : I.BPF_JMP32,
    wide,
    dst,
    src,
  };
}

const JA = I.BPF_JMP | I.BPF_JA;
const AX = I.BPF_REG_AX;

/** Clears the upper half of what was left alone. */
function narrow({ make, wide, dst }: ReturnType<typeof parts>): Op[] {
  return wide ? [] : [make(JA, 0, 0, 1, 0), make(I.BPF_ALU | I.BPF_MOV | I.BPF_X, dst, dst, 0, 0)];
}

function byMinusOne(one: Op): readonly Op[] {
  const { make, alu, dst } = parts(one);
  return I.BPF_OP(one.insn.code) === I.BPF_DIV
    ? [make(alu | I.BPF_NEG | I.BPF_K, dst, 0, 0, 0)]
    : [make(I.BPF_ALU | I.BPF_MOV | I.BPF_K, dst, 0, 0, 0)];
}

/** AX is the divisor + 1: 0 and 1 are the two that need care. */
function divisorPlusOne({ make, alu, src }: ReturnType<typeof parts>): Op[] {
  return [
    make(I.BPF_ALU64 | I.BPF_MOV | I.BPF_X, AX, src, 0, 0),
    make(alu | I.BPF_ADD | I.BPF_K, AX, 0, 0, 1),
  ];
}

function signedDivision(one: Op): readonly Op[] {
  const p = parts(one);
  const { make, alu, jmp, dst } = p;
  return [
    ...divisorPlusOne(p),
    make(jmp | I.BPF_JGT | I.BPF_K, AX, 0, 4, 1),
    make(jmp | I.BPF_JEQ | I.BPF_K, AX, 0, 1, 0),
    make(alu | I.BPF_MOV | I.BPF_K, dst, 0, 0, 0),
    make(alu | I.BPF_NEG | I.BPF_K, dst, 0, 0, 0),
    make(JA, 0, 0, 1, 0),
    one,
  ];
}

function signedRemainder(one: Op): readonly Op[] {
  const p = parts(one);
  const { make, jmp, wide, dst } = p;
  return [
    ...divisorPlusOne(p),
    make(jmp | I.BPF_JGT | I.BPF_K, AX, 0, 3, 1),
    make(jmp | I.BPF_JEQ | I.BPF_K, AX, 0, 3 + (wide ? 0 : 1), 1),
    make(I.BPF_ALU | I.BPF_MOV | I.BPF_K, dst, 0, 0, 0),
    make(JA, 0, 0, 1, 0),
    one,
    ...narrow(p),
  ];
}

function division(one: Op): readonly Op[] {
  const { make, jmp, dst, src } = parts(one);
  return [
    make(jmp | I.BPF_JNE | I.BPF_K, src, 0, 2, 0),
    make(I.BPF_ALU | I.BPF_XOR | I.BPF_X, dst, dst, 0, 0),
    make(JA, 0, 0, 1, 0),
    one,
  ];
}

function remainder(one: Op): readonly Op[] {
  const p = parts(one);
  const { make, jmp, wide, src } = p;
  return [make(jmp | I.BPF_JEQ | I.BPF_K, src, 0, 1 + (wide ? 0 : 1), 0), one, ...narrow(p)];
}
