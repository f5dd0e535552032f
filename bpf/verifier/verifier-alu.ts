/**
 * Arithmetic and comparisons of known constants, as far as the verifier has to know them: offsets into the stack, and
 * branches that are never taken. What cannot be told is null.
 */
import * as I from '../insn.js';
import type { Range, Variant } from './verifier-value.js';

const u = (bits: number, n: bigint): bigint => BigInt.asUintN(bits, n);
const s = (bits: number, n: bigint): bigint => BigInt.asIntN(bits, n);

/** Result as 64 bits without a sign; 32-bit operations clear the upper half. `off` as in the instruction. */
export function aluConstant(code: number, off: number, a: bigint, b: bigint): bigint | null {
  const bits = I.BPF_CLASS(code) === I.BPF_ALU64 ? 64 : 32;
  const x = u(bits, a);
  const y = u(bits, b);
  const shift = y & BigInt(bits - 1);
  switch (I.BPF_OP(code)) {
    case I.BPF_ADD:
      return u(bits, x + y);
    case I.BPF_SUB:
      return u(bits, x - y);
    case I.BPF_MUL:
      return u(bits, x * y);
    case I.BPF_OR:
      return x | y;
    case I.BPF_AND:
      return x & y;
    case I.BPF_XOR:
      return x ^ y;
    case I.BPF_LSH:
      return u(bits, x << shift);
    case I.BPF_RSH:
      return x >> shift;
    case I.BPF_ARSH:
      return u(bits, s(bits, x) >> shift);
    case I.BPF_NEG:
      return u(bits, -x);
    case I.BPF_MOV:
      return off === 0 ? y : u(bits, s(off, y));
    case I.BPF_DIV:
      return off !== 0 ? null : y === 0n ? 0n : x / y;
    case I.BPF_MOD:
      return off !== 0 ? null : y === 0n ? x : x % y;
    default:
      return null;
  }
}

/** Whether the jump is taken. */
function compare(code: number, a: bigint, b: bigint): boolean {
  const bits = I.BPF_CLASS(code) === I.BPF_JMP ? 64 : 32;
  const x = u(bits, a);
  const y = u(bits, b);
  switch (I.BPF_OP(code)) {
    case I.BPF_JEQ:
      return x === y;
    case I.BPF_JNE:
      return x !== y;
    case I.BPF_JGT:
      return x > y;
    case I.BPF_JGE:
      return x >= y;
    case I.BPF_JLT:
      return x < y;
    case I.BPF_JLE:
      return x <= y;
    case I.BPF_JSGT:
      return s(bits, x) > s(bits, y);
    case I.BPF_JSGE:
      return s(bits, x) >= s(bits, y);
    case I.BPF_JSLT:
      return s(bits, x) < s(bits, y);
    case I.BPF_JSLE:
      return s(bits, x) <= s(bits, y);
    default:
      return (x & y) !== 0n;
  }
}

const rangeOf = (value: bigint | Range): Range =>
  typeof value === 'bigint' ? { min: value, max: value } : value;

/** Whether the jump is taken for all numbers of two ranges that cross no sign; null if not for all. */
function compareRanges(code: number, a: Range, b: Range): boolean | null {
  const op = I.BPF_OP(code);
  if (op === I.BPF_JSET) return null;
  if (op === I.BPF_JEQ || op === I.BPF_JNE) {
    const cls = I.BPF_CLASS(code);
    const apart = compare(cls | I.BPF_JLT, a.max, b.min) || compare(cls | I.BPF_JGT, a.min, b.max);
    return apart ? op === I.BPF_JNE : null;
  }
  const first = compare(code, a.min, b.min);
  const same = [compare(code, a.min, b.max), compare(code, a.max, b.min), compare(code, a.max, b.max)].every(
    (taken) => taken === first,
  );
  return same ? first : null;
}

/** reg_not_null() */
function reg_not_null(variant: Variant): boolean {
  return (
    variant.type === 'PTR_TO_MAP_VALUE' ||
    variant.type === 'CONST_PTR_TO_MAP' ||
    variant.type === 'PTR_TRUSTED' ||
    variant.type === 'PTR_TO_MEM'
  );
}

/** is_branch_taken(): null when both ways are possible. */
export function is_branch_taken(code: number, a: Variant, b: Variant): boolean | null {
  if (a.type === 'SCALAR_VALUE' && b.type === 'SCALAR_VALUE') {
    if (a.value === null || b.value === null) return null;
    if (typeof a.value === 'bigint' && typeof b.value === 'bigint') return compare(code, a.value, b.value);
    return compareRanges(code, rangeOf(a.value), rangeOf(b.value));
  }
  if (I.BPF_CLASS(code) !== I.BPF_JMP) return null;
  const [pointer, number] = a.type === 'SCALAR_VALUE' ? [b, a] : [a, b];
  if (number.type !== 'SCALAR_VALUE' || number.value !== 0n || !reg_not_null(pointer)) return null;
  if (I.BPF_OP(code) === I.BPF_JEQ) return false;
  return I.BPF_OP(code) === I.BPF_JNE ? true : null;
}
