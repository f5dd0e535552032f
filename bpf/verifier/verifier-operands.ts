/**
 * Arithmetic on what registers may hold: check_alu_op(), adjust_reg_min_max_vals() and adjust_ptr_min_max_vals() of
 * kernel/bpf/verifier.c (bpf-next merge 8496d9020ff3). Of scalars, only constants are followed.
 */
import { EACCES, EINVAL } from '../../kernel/errno.js';
import * as I from '../insn.js';
import { bpf_alu_string } from '../text/disasm.js';
import type { Place } from './verifier.js';
import { aluConstant } from './verifier-alu.js';
import { type Range, reg_type_str, setOf, type Value, type Variant } from './verifier-value.js';

const SCALAR: Variant = { type: 'SCALAR_VALUE', value: null };

export interface AluResult {
  readonly value: Value;
  /** 64-bit arithmetic with an arena pointer: only its low half may be computed. */
  readonly needs_zext: boolean;
}

/** @param dst what the destination held; not looked at by moves */
export function aluResult(place: Place, slot: number, insn: I.bpf_insn, dst: Value, src: Value): AluResult {
  const op = I.BPF_OP(insn.code);
  const wide = I.BPF_CLASS(insn.code) === I.BPF_ALU64;
  if (op === I.BPF_MOV) return { value: setOf(src.map((v) => moved(insn, v))), needs_zext: false };
  if (op === I.BPF_NEG || op === I.BPF_END) {
    const value = setOf(dst.map((v) => (op === I.BPF_NEG ? computed(insn, v, v) : SCALAR)));
    return { value, needs_zext: false };
  }
  check_alu_immediate(place, slot, insn);
  const results: Variant[] = [];
  let needs_zext = false;
  for (const a of dst) {
    for (const b of src) {
      const result = adjust_reg_min_max_vals(place, slot, insn, a, b);
      results.push(result);
      if (a.type === 'PTR_TO_ARENA' || b.type === 'PTR_TO_ARENA') needs_zext = needs_zext || wide;
    }
  }
  return { value: setOf(results), needs_zext };
}

/** Divisors and numbers of bits that an instruction has in itself. */
function check_alu_immediate(place: Place, slot: number, { code, imm }: I.bpf_insn): void {
  if (I.BPF_SRC(code) !== I.BPF_K) return;
  const op = I.BPF_OP(code);
  if ((op === I.BPF_DIV || op === I.BPF_MOD) && imm === 0) place.fail('div by zero', EINVAL, slot);
  if (op !== I.BPF_LSH && op !== I.BPF_RSH && op !== I.BPF_ARSH) return;
  const size = I.BPF_CLASS(code) === I.BPF_ALU64 ? 64 : 32;
  if (imm < 0 || imm >= size) place.fail(`invalid shift ${imm}`, EINVAL, slot);
}

/** Only whole registers keep what they point to. */
function moved(insn: I.bpf_insn, v: Variant): Variant {
  const whole = I.BPF_CLASS(insn.code) === I.BPF_ALU64 && insn.off === 0;
  if (v.type !== 'SCALAR_VALUE') return whole ? v : SCALAR;
  if (v.value === null || typeof v.value === 'bigint') return computed(insn, v, v);
  if (whole) return v;
  return insn.off === 0 ? { type: 'SCALAR_VALUE', value: lowHalf(v.value) } : SCALAR;
}

/** Of numbers that have the same upper half. */
function lowHalf({ min, max }: Range): Range {
  return { min: BigInt.asUintN(32, min), max: BigInt.asUintN(32, max) };
}

function computed({ code, off }: I.bpf_insn, a: Variant, b: Variant): Variant {
  const known =
    a.type === 'SCALAR_VALUE' &&
    b.type === 'SCALAR_VALUE' &&
    typeof a.value === 'bigint' &&
    typeof b.value === 'bigint';
  return { type: 'SCALAR_VALUE', value: known ? aluConstant(code, off, a.value, b.value) : null };
}

function adjust_reg_min_max_vals(
  place: Place,
  slot: number,
  insn: I.bpf_insn,
  a: Variant,
  b: Variant,
): Variant {
  // Anything is allowed with an arena pointer, and gives one.
  if (a.type === 'PTR_TO_ARENA') return a;
  if (b.type === 'PTR_TO_ARENA') return b;
  const op = I.BPF_OP(insn.code);
  const name = bpf_alu_string[op] ?? '?';
  const aScalar = a.type === 'SCALAR_VALUE';
  const bScalar = b.type === 'SCALAR_VALUE';
  if (aScalar && bScalar) return computed(insn, a, b);
  if (!aScalar && !bScalar) {
    if (op === I.BPF_SUB) return SCALAR;
    return place.fail(`R${insn.dst_reg} pointer ${name} pointer prohibited`, EACCES, slot);
  }
  const [pointer, number] = aScalar ? [b, a] : [a, b];
  return adjust_ptr_min_max_vals(place, slot, insn, pointer, number, aScalar);
}

function adjust_ptr_min_max_vals(
  place: Place,
  slot: number,
  insn: I.bpf_insn,
  pointer: Variant,
  number: Variant,
  scalarFirst: boolean,
): Variant {
  const { code, dst_reg } = insn;
  const op = I.BPF_OP(code);
  const refuse = (message: string): never => place.fail(`R${dst_reg} ${message}`, EACCES, slot);
  if (I.BPF_CLASS(code) !== I.BPF_ALU64) {
    return op === I.BPF_SUB ? SCALAR : refuse('32-bit pointer arithmetic prohibited');
  }
  if (op !== I.BPF_ADD && op !== I.BPF_SUB) {
    const bitwise = op === I.BPF_AND || op === I.BPF_OR || op === I.BPF_XOR;
    const name = bpf_alu_string[op] ?? '?';
    return refuse(
      bitwise
        ? `bitwise operator ${name} on pointer prohibited`
        : `pointer arithmetic with ${name} operator prohibited`,
    );
  }
  if (scalarFirst && op === I.BPF_SUB) return refuse('tried to subtract pointer from scalar');
  const value = number.type === 'SCALAR_VALUE' && typeof number.value === 'bigint' ? number.value : null;
  const delta = value === null ? null : Number(BigInt.asIntN(64, op === I.BPF_ADD ? value : -value));
  switch (pointer.type) {
    case 'PTR_TO_CTX':
    case 'PTR_TO_STACK':
    case 'PTR_TO_MAP_VALUE':
      return { ...pointer, off: delta === null || pointer.off === null ? null : pointer.off + delta };
    case 'PTR_TO_BTF_ID':
    case 'PTR_TRUSTED':
    case 'PTR_TO_MEM':
    case 'RDONLY_UNTRUSTED_MEM':
      return pointer;
    case 'CONST_PTR_TO_MAP':
      if (delta === 0) return pointer;
      return refuse(`pointer arithmetic on ${reg_type_str(pointer)} prohibited`);
    case 'NOT_INIT':
    case 'SCALAR_VALUE':
    case 'PTR_TO_ARENA':
    case 'PTR_TO_FUNC':
      return refuse(`pointer arithmetic on ${reg_type_str(pointer)} prohibited`);
  }
}
