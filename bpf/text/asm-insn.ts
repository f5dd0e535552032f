/** One instruction of BPF text. Encodings: include/uapi/linux/bpf.h, include/uapi/linux/bpf_common.h. */

import * as I from '../insn.js';
import type { Cursor, Register } from './asm-cursor.js';

/** An instruction whose names are not looked up yet. */
export interface ParsedInsn {
  readonly insns: readonly I.bpf_insn[];
  /** Where a jump goes: a label, or slots from the next instruction; in which field the distance goes. */
  readonly target?: { readonly to: string | bigint; readonly field: 'off' | 'imm'; readonly column: number };
  readonly call?: string;
  readonly map?: { readonly name: string; readonly offset: number | null };
  readonly symbol?: string;
}

const ALU: readonly (readonly [text: string, op: number, off: number])[] = [
  ['s>>=', I.BPF_ARSH, 0],
  ['s/=', I.BPF_DIV, 1],
  ['s%=', I.BPF_MOD, 1],
  ['<<=', I.BPF_LSH, 0],
  ['>>=', I.BPF_RSH, 0],
  ['+=', I.BPF_ADD, 0],
  ['-=', I.BPF_SUB, 0],
  ['*=', I.BPF_MUL, 0],
  ['/=', I.BPF_DIV, 0],
  ['%=', I.BPF_MOD, 0],
  ['|=', I.BPF_OR, 0],
  ['&=', I.BPF_AND, 0],
  ['^=', I.BPF_XOR, 0],
];

const JMP: readonly (readonly [text: string, op: number])[] = [
  ['s>=', I.BPF_JSGE],
  ['s<=', I.BPF_JSLE],
  ['s>', I.BPF_JSGT],
  ['s<', I.BPF_JSLT],
  ['==', I.BPF_JEQ],
  ['!=', I.BPF_JNE],
  ['>=', I.BPF_JGE],
  ['<=', I.BPF_JLE],
  ['>', I.BPF_JGT],
  ['<', I.BPF_JLT],
  ['&', I.BPF_JSET],
];

const ATOMIC: Readonly<Record<string, number>> = {
  add: I.BPF_ADD,
  and: I.BPF_AND,
  or: I.BPF_OR,
  xor: I.BPF_XOR,
};

const SIZES: Readonly<Record<string, number>> = {
  8: I.BPF_B,
  16: I.BPF_H,
  32: I.BPF_W,
  64: I.BPF_DW,
};

/** A name as symbols, labels, functions and maps have it. */
const NAME = /^[A-Za-z_.$][\w.$]*/;

function insn(code: number, dst_reg: number, src_reg: number, off: number, imm: number): I.bpf_insn {
  return { code, dst_reg, src_reg, off, imm };
}

const one = (...fields: Parameters<typeof insn>): ParsedInsn => ({ insns: [insn(...fields)] });

/** Parses the whole line. Throws a LineError. */
export function parseInsn(line: Cursor): ParsedInsn {
  const parsed = statement(line);
  line.end();
  return parsed;
}

function statement(line: Cursor): ParsedInsn {
  if (line.eatWord('.insn')) return raw(line);
  if (line.eatWord('exit')) return one(I.BPF_JMP | I.BPF_EXIT, 0, 0, 0, 0);
  if (line.eatWord('goto')) return jump(line, insn(I.BPF_JMP | I.BPF_JA, 0, 0, 0, 0), 'off');
  if (line.eatWord('gotol')) return jump(line, insn(I.BPF_JMP32 | I.BPF_JA, 0, 0, 0, 0), 'imm');
  if (line.eatWord('may_goto')) return jump(line, insn(I.BPF_JMP | I.BPF_JCOND, 0, 0, 0, 0), 'off');
  if (line.eatWord('if')) return condition(line);
  if (line.eatWord('call')) return call(line);
  if (line.eatWord('lock')) return lock(line);
  if (line.eatWord('store_release')) return storeRelease(line);
  if (line.eat('*')) return store(line);
  const dst = line.maybeRegister();
  if (dst === null) line.fail(`${JSON.stringify(line.rest)} is no BPF instruction`);
  if (line.match(/^=(?!=)/) !== null) return assignment(line, dst);
  for (const [text, op, off] of ALU) if (line.eat(text)) return alu(line, dst, op, off);
  return line.fail('expected = or an operator such as +=');
}

function raw(line: Cursor): ParsedInsn {
  const field = (what: string, bits: number, unsigned: boolean): number => {
    const value = line.number(what, bits, unsigned, [',']);
    return Number(unsigned ? BigInt.asUintN(bits, value) : value);
  };
  const next = (): void => line.expect(',');
  const code = field('code', 8, true);
  next();
  const dst = field('dst', 4, true);
  next();
  const src = field('src', 4, true);
  next();
  const off = field('off', 16, false);
  next();
  return one(code, dst, src, off, Number(line.number('imm', 32, true, [','])));
}

function jump(line: Cursor, base: I.bpf_insn, field: 'off' | 'imm'): ParsedInsn {
  const column = line.column;
  line.match(/^pc(?=[+-])/);
  if (/^[+-]/.test(line.rest)) {
    return { insns: [base], target: { to: line.number('distance', 32, false, []), field, column } };
  }
  const label = line.match(NAME);
  if (label === null) line.fail('expected a label, or a distance with its sign such as +2');
  return { insns: [base], target: { to: label[0], field, column } };
}

function condition(line: Cursor): ParsedInsn {
  const dst = line.register();
  const found = JMP.find(([text]) => line.eat(text));
  if (found === undefined) line.fail('expected a comparison such as == or s>');
  const code = (dst.wide ? I.BPF_JMP : I.BPF_JMP32) | found[1];
  const src = sameWidth(line, dst);
  // The log prints immediates of jumps as 32 bits without a sign.
  const imm = src === null ? Number(line.number('immediate', 32, true, [' goto', '\tgoto'])) : 0;
  if (!line.eatWord('goto')) line.fail('expected goto');
  const base =
    src === null ? insn(code | I.BPF_K, dst.number, 0, 0, imm) : insn(code | I.BPF_X, dst.number, src, 0, 0);
  return jump(line, base, 'off');
}

/** A register as wide as `dst`, or null where there is no register. */
function sameWidth(line: Cursor, dst: Register): number | null {
  const src = line.maybeRegister();
  if (src === null) return null;
  if (src.wide !== dst.wide) line.fail('both registers must be r, or both w', src.column);
  return src.number;
}

function call(line: Cursor): ParsedInsn {
  const code = I.BPF_JMP | I.BPF_CALL;
  if (line.match(/^pc(?=[+-])/) !== null) {
    return one(code, 0, I.BPF_PSEUDO_CALL, 0, Number(line.number('distance', 32, false, [])));
  }
  const name = line.match(NAME);
  if (name === null) {
    return one(code, 0, 0, 0, Number(line.number('helper', 32, false, [])));
  }
  line.match(/^#-?\d+/);
  return { insns: [insn(code, 0, 0, 0, 0)], call: name[0] };
}

interface Place {
  readonly size: number;
  readonly bits: number;
  readonly signed: boolean;
  readonly reg: number;
  readonly off: number;
}

/** `(u32 *)(r1 + 8)` */
function place(line: Cursor): Place {
  line.expect('(');
  const column = line.column;
  const type = line.match(/^([us])(8|16|32|64)(?!\w)/);
  if (type === null) line.fail('expected a type: u8, u16, u32, u64, s8, s16 or s32');
  const bits = Number(type[2]);
  const signed = type[1] === 's';
  if (signed && bits === 64) line.fail('s64: 64 bits have nothing to extend, u64', column);
  line.expect('*');
  line.expect(')');
  line.expect('(');
  const { reg, off } = address(line, [')']);
  line.expect(')');
  return { size: SIZES[bits] ?? 0, bits, signed, reg, off };
}

/** `r1 + 8`, `r1 - 8`, `r1 +8`, `r1` */
function address(line: Cursor, stops: readonly string[]): { readonly reg: number; readonly off: number } {
  const reg = line.wideRegister();
  const sign = line.match(/^[+-]/)?.[0];
  if (sign === undefined) return { reg, off: 0 };
  const column = line.column;
  const value = line.number('offset', 32, false, stops);
  const off = Number(sign === '-' ? -value : value);
  if (off < -0x8000 || off > 0x7fff) line.fail(`offset ${off} does not fit 16 bits with a sign`, column);
  return { reg, off };
}

/** A place that is not sign-extended, of 32 or 64 bits unless `narrow`. */
function atomicPlace(line: Cursor, narrow: boolean): Place {
  const column = line.column;
  const at = place(line);
  if (at.signed) line.fail('atomic instructions have types u8 to u64', column);
  if (!narrow && at.bits < 32) line.fail(`u${at.bits}: this atomic instruction has u32 and u64`, column);
  return at;
}

/** The value operand; w goes with 32 bits and less. */
function valueRegister(line: Cursor, bits: number): number {
  const reg = line.register();
  if (!reg.wide && bits === 64) line.fail(`w${reg.number}: 64 bits are in r${reg.number}`, reg.column);
  return reg.number;
}

function lock(line: Cursor): ParsedInsn {
  line.expect('*');
  const { size, bits, reg, off } = atomicPlace(line, false);
  const found = ALU.find(([text, op]) => Object.values(ATOMIC).includes(op) && line.eat(text));
  if (found === undefined) line.fail('expected +=, |=, &= or ^=');
  return one(I.BPF_STX | I.BPF_ATOMIC | size, reg, valueRegister(line, bits), off, found[1]);
}

function storeRelease(line: Cursor): ParsedInsn {
  line.expect('(');
  const { size, bits, reg, off } = atomicPlace(line, true);
  line.expect(',');
  const src = valueRegister(line, bits);
  line.expect(')');
  return one(I.BPF_STX | I.BPF_ATOMIC | size, reg, src, off, I.BPF_STORE_REL);
}

function store(line: Cursor): ParsedInsn {
  const column = line.column;
  const { size, bits, signed, reg, off } = place(line);
  if (signed) line.fail('stores have types u8 to u64', column);
  line.expect('=');
  if (/^[rw]\d/.test(line.rest)) {
    return one(I.BPF_STX | I.BPF_MEM | size, reg, valueRegister(line, bits), off, 0);
  }
  return one(I.BPF_ST | I.BPF_MEM | size, reg, 0, off, Number(line.number('immediate', 32, bits < 64, [])));
}

function alu(line: Cursor, dst: Register, op: number, off: number): ParsedInsn {
  const base = (dst.wide ? I.BPF_ALU64 : I.BPF_ALU) | op;
  const src = sameWidth(line, dst);
  if (src !== null) return one(base | I.BPF_X, dst.number, src, off, 0);
  const imm = Number(line.number('immediate', 32, !dst.wide, []));
  return one(base | I.BPF_K, dst.number, 0, off, imm);
}

/** What stands behind `rD =`. */
function assignment(line: Cursor, dst: Register): ParsedInsn {
  const column = line.column;
  const d = dst.number;
  const base = (dst.wide ? I.BPF_ALU64 : I.BPF_ALU) | I.BPF_MOV;
  if (/^-[rw]\d/.test(line.rest)) {
    line.expect('-');
    const src = line.register();
    if (src.number !== d || src.wide !== dst.wide) line.fail('a register is negated in place', src.column);
    return one((dst.wide ? I.BPF_ALU64 : I.BPF_ALU) | I.BPF_NEG, d, 0, 0, 0);
  }
  const extended = line.match(/^\(s(8|16|32)\)/);
  if (extended !== null) {
    const src = sameWidth(line, dst);
    if (src === null) line.fail('expected a register');
    if (extended[1] === '32' && !dst.wide) line.fail('(s32) extends to 64 bits: r', column);
    return one(base | I.BPF_X, d, src, Number(extended[1]), 0);
  }
  const swap = line.match(/^(be|le|bswap)(16|32|64)(?!\w)/);
  if (swap !== null) {
    const src = line.register();
    if (!dst.wide || !src.wide || src.number !== d)
      line.fail('bytes of an r register are swapped in place', column);
    const kind =
      swap[1] === 'bswap' ? I.BPF_ALU64 : swap[1] === 'be' ? I.BPF_ALU | I.BPF_X : I.BPF_ALU | I.BPF_K;
    return one(kind | I.BPF_END, d, 0, 0, Number(swap[2]));
  }
  if (line.eatWord('addr_space_cast')) return cast(line, dst);
  if (/^map\[/.test(line.rest)) return mapAddress(line, dst);
  if (line.eat('*')) return load(line, dst, column);
  const atomic = atomicResult(line, dst);
  if (atomic !== null) return atomic;
  const src = sameWidth(line, dst);
  if (src !== null) return one(base | I.BPF_X, d, src, 0, 0);
  if (/\sll$/.test(line.rest)) return wideImmediate(line, dst);
  const imm = Number(line.number('immediate', 32, !dst.wide, []));
  return one(base | I.BPF_K, d, 0, 0, imm);
}

function needWide(line: Cursor, dst: Register): void {
  if (!dst.wide) line.fail(`w${dst.number}: the result takes 64 bits, r${dst.number}`, dst.column);
}

function cast(line: Cursor, dst: Register): ParsedInsn {
  needWide(line, dst);
  line.expect('(');
  const src = line.wideRegister();
  line.expect(',');
  const to = Number(BigInt.asUintN(16, line.number('address space', 16, true, [','])));
  line.expect(',');
  const from = Number(BigInt.asUintN(16, line.number('address space', 16, true, [')'])));
  line.expect(')');
  const imm = (to << 16) | from;
  return one(I.BPF_ALU64 | I.BPF_MOV | I.BPF_X, dst.number, src, I.BPF_ADDR_SPACE_CAST, imm);
}

function ldImm64(dst: number, src: number, value: bigint): I.bpf_insn[] {
  const low = Number(BigInt.asIntN(32, value));
  const high = Number(BigInt.asIntN(32, value >> 32n));
  return [insn(I.BPF_LD_IMM64, dst, src, 0, low), insn(0, 0, 0, 0, high)];
}

function mapAddress(line: Cursor, dst: Register): ParsedInsn {
  needWide(line, dst);
  line.expect('map[');
  const name = line.match(NAME);
  if (name === null) line.fail('expected the name of a map');
  line.expect(']');
  if (!line.eat('[')) {
    return {
      insns: ldImm64(dst.number, I.BPF_PSEUDO_MAP_FD, 0n),
      map: { name: name[0], offset: null },
    };
  }
  if (line.match(/^0(?=\s*\])/) === null) line.fail('only the value at [0] has an address');
  line.expect(']');
  const offset = line.eat('+') ? BigInt.asUintN(32, line.number('offset', 32, true, [])) : 0n;
  return {
    insns: ldImm64(dst.number, I.BPF_PSEUDO_MAP_VALUE, offset << 32n),
    map: { name: name[0], offset: Number(offset) },
  };
}

function wideImmediate(line: Cursor, dst: Register): ParsedInsn {
  needWide(line, dst);
  const column = line.column;
  const value = line.maybeNumber([' ll', '\tll']);
  if (value !== null) {
    if (value < -(1n << 63n) || value >= 1n << 64n) line.fail(`${value} does not fit 64 bits`, column);
    line.expect('ll');
    return { insns: ldImm64(dst.number, 0, value) };
  }
  const name = line.match(NAME);
  if (name === null || !line.eatWord('ll')) line.fail('this has no value and is no name', column);
  return { insns: ldImm64(dst.number, 0, 0n), symbol: name[0] };
}

function load(line: Cursor, dst: Register, column: number): ParsedInsn {
  const { size, bits, signed, reg, off } = place(line);
  if (!dst.wide && (signed || bits === 64)) {
    line.fail(`${signed ? 's' : 'u'}${bits} fills 64 bits: r${dst.number}`, column);
  }
  return one(I.BPF_LDX | (signed ? I.BPF_MEMSX : I.BPF_MEM) | size, dst.number, reg, off, 0);
}

/** Atomics that give a value back, as LLVM and as the kernel write them. */
function atomicResult(line: Cursor, dst: Register): ParsedInsn | null {
  const start = line.column;
  if (line.match(/^load_acquire(?=\s*\()/) !== null) {
    line.expect('(');
    const { size, bits, reg, off } = atomicPlace(line, true);
    line.expect(')');
    if (!dst.wide && bits === 64) line.fail(`u64 fills 64 bits: r${dst.number}`, start);
    return one(I.BPF_STX | I.BPF_ATOMIC | size, dst.number, reg, off, I.BPF_LOAD_ACQ);
  }
  const kernel = line.match(/^atomic(?:64)?_(fetch_add|fetch_and|fetch_or|fetch_xor|cmpxchg|xchg)(?=\s*\()/);
  if (kernel !== null) {
    line.expect('(');
    const at = atomicPlace(line, false);
    line.expect(',');
    return operands(line, dst, kernel[1] ?? '', at, start);
  }
  const llvm = line.match(/^(cmpxchg|xchg)(?:32)?_(32|64)(?=\s*\()/);
  if (llvm === null) return null;
  line.expect('(');
  const { reg, off } = address(line, [',']);
  line.expect(',');
  const bits = Number(llvm[2]);
  return operands(line, dst, llvm[1] ?? '', { size: SIZES[bits] ?? 0, bits, signed: false, reg, off }, start);
}

function operands(line: Cursor, dst: Register, name: string, at: Place, start: number): ParsedInsn {
  const code = I.BPF_STX | I.BPF_ATOMIC | at.size;
  if (!dst.wide && at.bits === 64) line.fail(`64 bits are in r${dst.number}`, dst.column);
  if (name === 'cmpxchg') {
    const expected = line.register();
    if (dst.number !== 0 || expected.number !== 0)
      line.fail('cmpxchg compares with r0 and returns r0', start);
    line.expect(',');
    const src = valueRegister(line, at.bits);
    line.expect(')');
    return one(code, at.reg, src, at.off, I.BPF_CMPXCHG);
  }
  const src = valueRegister(line, at.bits);
  if (src !== dst.number) line.fail('the old value comes back in the register of the new one', start);
  line.expect(')');
  const op = ATOMIC[name.replace('fetch_', '')];
  return one(code, at.reg, src, at.off, op === undefined ? I.BPF_XCHG : op | I.BPF_FETCH);
}
