/**
 * A small interpreter of BPF, for tests: what a JIT makes of a program must come to the same.
 *
 * Written after Documentation/bpf/standardization/instruction-set.rst: arithmetic of both widths with the rules
 * for division by zero, byte swaps, sign extensions, jumps, loads, stores, atomics, and the modes that the
 * verifier makes of them for arenas. Calls are not among it.
 */
import {
  BPF_ADD,
  BPF_ADDR_SPACE_CAST,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_ATOMIC,
  BPF_CLASS,
  BPF_CMPXCHG,
  BPF_DIV,
  BPF_END,
  BPF_EXIT,
  BPF_FETCH,
  BPF_JA,
  BPF_JEQ,
  BPF_JGE,
  BPF_JGT,
  BPF_JLE,
  BPF_JLT,
  BPF_JMP,
  BPF_JMP32,
  BPF_JNE,
  BPF_JSET,
  BPF_JSGE,
  BPF_JSGT,
  BPF_JSLE,
  BPF_JSLT,
  BPF_LD_IMM64,
  BPF_LDX,
  BPF_LOAD_ACQ,
  BPF_LSH,
  BPF_MEMSX,
  BPF_MOD,
  BPF_MODE,
  BPF_MOV,
  BPF_MUL,
  BPF_NEG,
  BPF_OP,
  BPF_OR,
  BPF_PROBE_ATOMIC,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_PROBE_MEMSX,
  BPF_RSH,
  BPF_SIZE,
  BPF_SRC,
  BPF_ST,
  BPF_STORE_REL,
  BPF_STX,
  BPF_SUB,
  BPF_X,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import type { JitArena } from './jit.js';

/** Where loads and stores go. Little endian. */
export interface InterpreterMemory {
  /** Zero-extended. */
  load(address: bigint, bytes: number): bigint;
  store(address: bigint, bytes: number, value: bigint): void;
}

export interface InterpreterInput {
  /** R0 to R10, and possibly AX; what is missing is 0. Unsigned. */
  readonly registers?: readonly bigint[];
  readonly memory?: InterpreterMemory;
  readonly arena?: JitArena | null;
  /** Instructions after which a program counts as endless, 100000 by default. */
  readonly limit?: number;
}

/** What a program did that this interpreter does not know. */
export class InterpreterError extends Error {
  override name = 'InterpreterError';
}

const MASK32 = 0xffff_ffffn;
const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);

const NO_MEMORY: InterpreterMemory = {
  load(address) {
    throw new InterpreterError(`load from 0x${address.toString(16)}`);
  },
  store(address) {
    throw new InterpreterError(`store to 0x${address.toString(16)}`);
  },
};

/** Runs until exit. Returns R0 to R9 as they are then, unsigned. */
export function interpret(insns: readonly bpf_insn[], input: InterpreterInput = {}): bigint[] {
  const machine = new Interpreter(insns, input);
  return machine.run(input.limit ?? 100_000).slice(0, 10);
}

class Interpreter {
  readonly #r: bigint[];
  readonly #memory: InterpreterMemory;
  readonly #arena: JitArena | null;
  #pc = 0;

  constructor(
    readonly insns: readonly bpf_insn[],
    { registers = [], memory = NO_MEMORY, arena = null }: InterpreterInput,
  ) {
    this.#r = Array.from({ length: 12 }, (_, i) => registers[i] ?? 0n);
    this.#memory = memory;
    this.#arena = arena;
  }

  run(limit: number): bigint[] {
    for (let count = 0; count < limit; count++) {
      const insn = this.insns[this.#pc];
      if (insn === undefined) throw new InterpreterError(`jump to slot ${this.#pc}`);
      this.#pc++;
      if (this.#step(insn)) return this.#r;
    }
    throw new InterpreterError(`no exit within ${limit} instructions`);
  }

  #reg(number: number): bigint {
    const value = this.#r[number];
    if (value === undefined) throw new InterpreterError(`R${number}`);
    return value;
  }

  #unknown({ code, off, imm }: bpf_insn): never {
    throw new InterpreterError(`instruction ${code.toString(16)} off ${off} imm ${imm}`);
  }

  /** True at exit. */
  #step(insn: bpf_insn): boolean {
    switch (BPF_CLASS(insn.code)) {
      case BPF_ALU:
      case BPF_ALU64:
        this.#r[insn.dst_reg] = this.#alu(insn);
        return false;
      case BPF_JMP:
      case BPF_JMP32:
        return this.#jump(insn);
      case BPF_LDX:
        this.#load(insn);
        return false;
      case BPF_ST:
        this.#store(insn, u64(BigInt(insn.imm)));
        return false;
      case BPF_STX: {
        const mode = BPF_MODE(insn.code);
        if (mode === BPF_ATOMIC || mode === BPF_PROBE_ATOMIC) this.#atomic(insn);
        else this.#store(insn, this.#reg(insn.src_reg));
        return false;
      }
      default: {
        if (insn.code !== BPF_LD_IMM64) return this.#unknown(insn);
        const high = this.insns[this.#pc]?.imm ?? 0;
        this.#pc++;
        this.#r[insn.dst_reg] = (BigInt(high >>> 0) << 32n) | BigInt(insn.imm >>> 0);
        return false;
      }
    }
  }

  #alu(insn: bpf_insn): bigint {
    const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
    const bits = is64 ? 64 : 32;
    const operand = BPF_SRC(insn.code) === BPF_X ? this.#reg(insn.src_reg) : BigInt(insn.imm);
    const a = BigInt.asUintN(bits, this.#reg(insn.dst_reg));
    const b = BigInt.asUintN(bits, operand);
    const result = this.#result(insn, bits, a, b);
    // A swap of 64 bits may be of class BPF_ALU.
    return BPF_OP(insn.code) === BPF_END ? result : BigInt.asUintN(bits, result);
  }

  #result(insn: bpf_insn, bits: number, a: bigint, b: bigint): bigint {
    const shift = b & BigInt(bits - 1);
    switch (BPF_OP(insn.code)) {
      case BPF_ADD:
        return a + b;
      case BPF_SUB:
        return a - b;
      case BPF_MUL:
        return a * b;
      case BPF_DIV:
        return insn.off === 1 ? quotient(BigInt.asIntN(bits, a), BigInt.asIntN(bits, b)) : quotient(a, b);
      case BPF_MOD:
        return insn.off === 1 ? remainder(BigInt.asIntN(bits, a), BigInt.asIntN(bits, b)) : remainder(a, b);
      case BPF_OR:
        return a | b;
      case BPF_AND:
        return a & b;
      case BPF_XOR:
        return a ^ b;
      case BPF_LSH:
        return a << shift;
      case BPF_RSH:
        return a >> shift;
      case BPF_ARSH:
        return BigInt.asIntN(bits, a) >> shift;
      case BPF_NEG:
        return -a;
      case BPF_MOV:
        return this.#move(insn, bits, b);
      case BPF_END:
        return this.#end(insn, a);
      default:
        return this.#unknown(insn);
    }
  }

  #move(insn: bpf_insn, bits: number, value: bigint): bigint {
    if (BPF_SRC(insn.code) !== BPF_X || insn.off === 0) return value;
    if (bits === 64 && insn.off === BPF_ADDR_SPACE_CAST) {
      const low = value & MASK32;
      const high = (this.#arena?.user_vm_start ?? 0n) & ~MASK32;
      if (insn.imm !== 1 << 16) return this.#unknown(insn);
      return low === 0n ? 0n : high | low;
    }
    if (insn.off === 8 || insn.off === 16 || (insn.off === 32 && bits === 64)) {
      return BigInt.asIntN(insn.off, value);
    }
    return this.#unknown(insn);
  }

  #end(insn: bpf_insn, a: bigint): bigint {
    const { imm } = insn;
    // Both widths of the class work on the whole register.
    const value = BigInt.asUintN(imm, BPF_CLASS(insn.code) === BPF_ALU ? this.#reg(insn.dst_reg) : a);
    const swaps = BPF_CLASS(insn.code) === BPF_ALU64 || BPF_SRC(insn.code) === BPF_X;
    return swaps ? byteSwap(value, imm / 8) : value;
  }

  #jump(insn: bpf_insn): boolean {
    const is64 = BPF_CLASS(insn.code) === BPF_JMP;
    const op = BPF_OP(insn.code);
    if (op === BPF_EXIT && is64) return true;
    if (op === BPF_JA) {
      this.#pc += is64 ? insn.off : insn.imm;
      return false;
    }
    const bits = is64 ? 64 : 32;
    const operand = BPF_SRC(insn.code) === BPF_X ? this.#reg(insn.src_reg) : BigInt(insn.imm);
    const a = BigInt.asUintN(bits, this.#reg(insn.dst_reg));
    const b = BigInt.asUintN(bits, operand);
    const taken = holds(op, a, b, BigInt.asIntN(bits, a), BigInt.asIntN(bits, b));
    if (taken === null) return this.#unknown(insn);
    if (taken) this.#pc += insn.off;
    return false;
  }

  #address(insn: bpf_insn, base: number): bigint {
    const mode = BPF_MODE(insn.code);
    const isArena =
      mode === BPF_PROBE_MEM32 ||
      (mode === BPF_PROBE_MEM32SX && BPF_CLASS(insn.code) === BPF_LDX) ||
      mode === BPF_PROBE_ATOMIC;
    const start = isArena ? (this.#arena?.kern_vm_start ?? 0n) : 0n;
    return u64(start + this.#reg(base) + BigInt(insn.off));
  }

  #load(insn: bpf_insn): void {
    const bytes = sizeOf(insn.code);
    const value = this.#memory.load(this.#address(insn, insn.src_reg), bytes);
    const mode = BPF_MODE(insn.code);
    const isSigned = mode === BPF_MEMSX || mode === BPF_PROBE_MEMSX || mode === BPF_PROBE_MEM32SX;
    this.#r[insn.dst_reg] = isSigned ? u64(BigInt.asIntN(bytes * 8, value)) : value;
  }

  #store(insn: bpf_insn, value: bigint): void {
    const bytes = sizeOf(insn.code);
    this.#memory.store(this.#address(insn, insn.dst_reg), bytes, BigInt.asUintN(bytes * 8, value));
  }

  #atomic(insn: bpf_insn): void {
    const { imm, dst_reg, src_reg } = insn;
    const bytes = sizeOf(insn.code);
    const bits = bytes * 8;
    if (imm === BPF_LOAD_ACQ) {
      this.#r[dst_reg] = this.#memory.load(this.#address(insn, src_reg), bytes);
      return;
    }
    if (imm === BPF_STORE_REL) {
      this.#store(insn, this.#reg(src_reg));
      return;
    }
    const address = this.#address(insn, dst_reg);
    const old = this.#memory.load(address, bytes);
    const src = BigInt.asUintN(bits, this.#reg(src_reg));
    if (imm === BPF_CMPXCHG) {
      if (old === BigInt.asUintN(bits, this.#reg(0))) this.#memory.store(address, bytes, src);
      this.#r[0] = old;
      return;
    }
    this.#memory.store(address, bytes, BigInt.asUintN(bits, combined(insn, old, src)));
    if ((imm & BPF_FETCH) !== 0) this.#r[src_reg] = old;
  }
}

function combined(insn: bpf_insn, old: bigint, src: bigint): bigint {
  if (insn.imm === BPF_XCHG) return src;
  switch (insn.imm & ~BPF_FETCH) {
    case BPF_ADD:
      return old + src;
    case BPF_AND:
      return old & src;
    case BPF_OR:
      return old | src;
    case BPF_XOR:
      return old ^ src;
    default:
      throw new InterpreterError(`atomic 0x${insn.imm.toString(16)}`);
  }
}

const quotient = (a: bigint, b: bigint): bigint => (b === 0n ? 0n : a / b);
const remainder = (a: bigint, b: bigint): bigint => (b === 0n ? a : a % b);

function byteSwap(value: bigint, bytes: number): bigint {
  let swapped = 0n;
  for (let i = 0n; i < bytes; i++) swapped = (swapped << 8n) | ((value >> (8n * i)) & 0xffn);
  return swapped;
}

function sizeOf(code: number): number {
  return [4, 2, 1, 8][BPF_SIZE(code) >> 3] ?? 0;
}

/** Whether a jump is taken: operands unsigned and signed. Null for what is no condition. */
function holds(op: number, a: bigint, b: bigint, sa: bigint, sb: bigint): boolean | null {
  switch (op) {
    case BPF_JEQ:
      return a === b;
    case BPF_JNE:
      return a !== b;
    case BPF_JGT:
      return a > b;
    case BPF_JGE:
      return a >= b;
    case BPF_JLT:
      return a < b;
    case BPF_JLE:
      return a <= b;
    case BPF_JSET:
      return (a & b) !== 0n;
    case BPF_JSGT:
      return sa > sb;
    case BPF_JSGE:
      return sa >= sb;
    case BPF_JSLT:
      return sa < sb;
    case BPF_JSLE:
      return sa <= sb;
    default:
      return null;
  }
}
