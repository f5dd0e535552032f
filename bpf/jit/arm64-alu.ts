/**
 * Arithmetic and jumps: their part of build_insn() of arch/arm64/net/bpf_jit_comp.c, bpf-next merge
 * 8496d9020ff3. What is left out is said in arm64.ts.
 */
import {
  BPF_ADD,
  BPF_ADDR_PERCPU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_CALL,
  BPF_CLASS,
  BPF_DIV,
  BPF_END,
  BPF_EXIT,
  BPF_JA,
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
  BPF_LSH,
  BPF_MOD,
  BPF_MOV,
  BPF_MUL,
  BPF_NEG,
  BPF_OP,
  BPF_OR,
  BPF_RSH,
  BPF_SRC,
  BPF_SUB,
  BPF_X,
  BPF_XOR,
  type bpf_insn,
  insn_is_cast_user,
} from '../insn.js';
import { A64_BPF_REG_0, is_addsub_imm, type jit_ctx, TMP_REG_1, TMP_REG_2 } from './arm64-context.js';
import {
  A64_ADD,
  A64_ADD_I,
  A64_AND,
  A64_AND_I,
  A64_ASR,
  A64_ASRV,
  A64_B,
  A64_B_,
  A64_CBZ,
  A64_CMN_I,
  A64_CMP,
  A64_CMP_I,
  A64_COND_CC,
  A64_COND_CS,
  A64_COND_EQ,
  A64_COND_GE,
  A64_COND_GT,
  A64_COND_HI,
  A64_COND_LE,
  A64_COND_LS,
  A64_COND_LT,
  A64_COND_NE,
  A64_EOR,
  A64_EOR_I,
  A64_LSL,
  A64_LSLV,
  A64_LSR,
  A64_LSRV,
  A64_MOV,
  A64_MRS_TPIDR_EL1,
  A64_MSUB,
  A64_MUL,
  A64_NEG,
  A64_ORR,
  A64_ORR_I,
  A64_REV16,
  A64_REV32,
  A64_REV64,
  A64_SDIV,
  A64_SUB,
  A64_SUB_I,
  A64_SXTB,
  A64_SXTH,
  A64_SXTW,
  A64_TST,
  A64_TST_I,
  A64_UDIV,
  A64_UXTH,
  A64_UXTW,
} from './arm64-insn.js';

/** Answers that build_insn() has no case for the instruction. */
export const UNKNOWN = 'unknown';
export type Built = undefined | typeof UNKNOWN;

/** BPF_ALU and BPF_ALU64. */
export function build_alu(ctx: jit_ctx, insn: bpf_insn): Built {
  switch (BPF_OP(insn.code)) {
    case BPF_END:
      return build_end(ctx, insn);
    case BPF_NEG: {
      if (BPF_SRC(insn.code) === BPF_X) return UNKNOWN;
      const dst = ctx.reg(insn.dst_reg);
      ctx.emit(A64_NEG(BPF_CLASS(insn.code) === BPF_ALU64, dst, dst));
      return undefined;
    }
    case BPF_MOV:
      if (BPF_SRC(insn.code) === BPF_X) return build_mov(ctx, insn);
      ctx.emit_a64_mov_i(BPF_CLASS(insn.code) === BPF_ALU64, ctx.reg(insn.dst_reg), insn.imm);
      return undefined;
    default:
      return BPF_SRC(insn.code) === BPF_X ? build_alu_x(ctx, insn) : build_alu_k(ctx, insn);
  }
}

/**
 * The kernel emits nothing for an `off` or `imm` that it does not know, because its verifier lets none
 * through; here that is an error, as for END.
 */
function build_mov(ctx: jit_ctx, insn: bpf_insn): Built {
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  const dst = ctx.reg(insn.dst_reg);
  const src = ctx.reg(insn.src_reg);
  if (insn_is_cast_user(insn)) {
    build_cast_user(ctx, dst, src);
    return undefined;
  }
  switch (insn.off) {
    case 0:
      ctx.emit(A64_MOV(is64, dst, src));
      return undefined;
    case 8:
      ctx.emit(A64_SXTB(is64, dst, src));
      return undefined;
    case 16:
      ctx.emit(A64_SXTH(is64, dst, src));
      return undefined;
    case 32:
      if (!is64) return UNKNOWN;
      ctx.emit(A64_SXTW(is64, dst, src));
      return undefined;
    case BPF_ADDR_PERCPU:
      if (!is64) return UNKNOWN;
      if (dst !== src) ctx.emit(A64_MOV(true, dst, src));
      // The kernel runs in EL1 here, without the virtualization host extensions.
      ctx.emit(A64_MRS_TPIDR_EL1(TMP_REG_1));
      ctx.emit(A64_ADD(true, dst, dst, TMP_REG_1));
      return undefined;
    default:
      return UNKNOWN;
  }
}

/** NULL stays NULL; everything else gets the upper half of the user's address. */
function build_cast_user(ctx: jit_ctx, dst: number, src: number): void {
  const user_vm_start =
    ctx.fn.arena?.user_vm_start ??
    ctx.fail('addr_space_cast insn can only be used in a program that has an associated arena');
  ctx.emit(A64_MOV(false, TMP_REG_1, src));
  ctx.emit_a64_mov_i(false, dst, Number(user_vm_start >> 32n) | 0);
  ctx.emit(A64_LSL(true, dst, dst, 32));
  ctx.emit(A64_CBZ(true, TMP_REG_1, 2));
  ctx.emit(A64_ORR(true, TMP_REG_1, dst, TMP_REG_1));
  ctx.emit(A64_MOV(true, dst, TMP_REG_1));
}

function build_end(ctx: jit_ctx, insn: bpf_insn): Built {
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  const dst = ctx.reg(insn.dst_reg);
  const toBe = BPF_SRC(insn.code) === BPF_X;
  if (is64 && toBe) return UNKNOWN;
  const swaps = is64 || toBe;
  switch (insn.imm) {
    case 16:
      if (swaps) ctx.emit(A64_REV16(is64, dst, dst));
      ctx.emit(A64_UXTH(is64, dst, dst));
      return undefined;
    case 32:
      ctx.emit(swaps ? A64_REV32(false, dst, dst) : A64_UXTW(is64, dst, dst));
      return undefined;
    case 64:
      if (swaps) ctx.emit(A64_REV64(dst, dst));
      return undefined;
    default:
      return UNKNOWN;
  }
}

/** Operations that are one instruction of three registers. */
const REGISTERS: ReadonlyMap<number, typeof A64_ADD> = new Map([
  [BPF_ADD, A64_ADD],
  [BPF_SUB, A64_SUB],
  [BPF_AND, A64_AND],
  [BPF_OR, A64_ORR],
  [BPF_XOR, A64_EOR],
  [BPF_MUL, A64_MUL],
  [BPF_LSH, A64_LSLV],
  [BPF_RSH, A64_LSRV],
  [BPF_ARSH, A64_ASRV],
]);

/** Shifts that have their distance in them. */
const SHIFTS: ReadonlyMap<number, typeof A64_LSL> = new Map([
  [BPF_LSH, A64_LSL],
  [BPF_RSH, A64_LSR],
  [BPF_ARSH, A64_ASR],
]);

/** Logical operations with an immediate, as far as it can be encoded. */
const LOGIC: ReadonlyMap<number, typeof A64_AND_I> = new Map([
  [BPF_AND, A64_AND_I],
  [BPF_OR, A64_ORR_I],
  [BPF_XOR, A64_EOR_I],
]);

/** BPF_DIV and BPF_MOD. */
function build_division(ctx: jit_ctx, insn: bpf_insn, is64: boolean, dst: number, by: number): void {
  const divide = insn.off === 0 ? A64_UDIV : A64_SDIV;
  if (BPF_OP(insn.code) === BPF_DIV) {
    ctx.emit(divide(is64, dst, dst, by));
  } else {
    ctx.emit(divide(is64, TMP_REG_1, dst, by));
    ctx.emit(A64_MSUB(is64, dst, dst, TMP_REG_1, by));
  }
}

function build_alu_x(ctx: jit_ctx, insn: bpf_insn): Built {
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  const dst = ctx.reg(insn.dst_reg);
  const src = ctx.reg(insn.src_reg);
  const op = BPF_OP(insn.code);
  if (op === BPF_DIV || op === BPF_MOD) {
    build_division(ctx, insn, is64, dst, src);
    return undefined;
  }
  const encode = REGISTERS.get(op);
  if (encode === undefined) return UNKNOWN;
  ctx.emit(encode(is64, dst, dst, src));
  return undefined;
}

function build_alu_k(ctx: jit_ctx, insn: bpf_insn): Built {
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  const dst = ctx.reg(insn.dst_reg);
  const { imm } = insn;
  const op = BPF_OP(insn.code);
  switch (op) {
    case BPF_ADD:
      ctx.emit_a64_add_i(is64, dst, dst, TMP_REG_1, imm);
      return undefined;
    case BPF_SUB:
      build_sub_k(ctx, is64, dst, imm);
      return undefined;
    case BPF_DIV:
    case BPF_MOD: {
      const by = op === BPF_DIV ? TMP_REG_1 : TMP_REG_2;
      ctx.emit_a64_mov_i(is64, by, imm);
      build_division(ctx, insn, is64, dst, by);
      return undefined;
    }
    default: {
      const shift = SHIFTS.get(op);
      if (shift === undefined) return build_with_k(ctx, op, is64, dst, imm);
      ctx.emit(shift(is64, dst, dst, imm));
      return undefined;
    }
  }
}

/** An immediate where it can be encoded, or else a register with it. */
function build_with_k(ctx: jit_ctx, op: number, is64: boolean, dst: number, imm: number): Built {
  const encode = REGISTERS.get(op);
  if (encode === undefined) return UNKNOWN;
  const a64_insn = LOGIC.get(op)?.(is64, dst, dst, imm) ?? null;
  if (a64_insn !== null) {
    ctx.emit(a64_insn);
  } else {
    ctx.emit_a64_mov_i(is64, TMP_REG_1, imm);
    ctx.emit(encode(is64, dst, dst, TMP_REG_1));
  }
  return undefined;
}

function build_sub_k(ctx: jit_ctx, is64: boolean, dst: number, imm: number): void {
  if (is_addsub_imm(imm)) {
    ctx.emit(A64_SUB_I(is64, dst, dst, imm));
  } else if (is_addsub_imm(-imm | 0)) {
    ctx.emit(A64_ADD_I(is64, dst, dst, -imm));
  } else {
    ctx.emit_a64_mov_i(is64, TMP_REG_1, imm);
    ctx.emit(A64_SUB(is64, dst, dst, TMP_REG_1));
  }
}

/** BPF_JMP and BPF_JMP32. */
export function build_jmp(ctx: jit_ctx, insn: bpf_insn, slot: number): Built {
  const is64 = BPF_CLASS(insn.code) === BPF_JMP;
  const isK = BPF_SRC(insn.code) !== BPF_X;
  switch (BPF_OP(insn.code)) {
    case BPF_JA: {
      if (!isK) return UNKNOWN;
      const jmp_offset = ctx.bpf2a64_offset(slot, is64 ? insn.off : insn.imm);
      ctx.check_imm(26, jmp_offset);
      ctx.emitBranch(() => A64_B(jmp_offset));
      return undefined;
    }
    case BPF_CALL: {
      if (!is64 || !isK) return UNKNOWN;
      const target = ctx.callTarget(insn, slot);
      ctx.emit_call(target);
      // That function is called with AX and answers in it.
      if (target === 0n || target !== ctx.options.arch_bpf_timed_may_goto) {
        ctx.emit(A64_MOV(true, A64_BPF_REG_0, 0));
      }
      return undefined;
    }
    case BPF_EXIT: {
      if (!is64 || !isK) return UNKNOWN;
      if (slot === ctx.fn.insns.length - 1) return undefined;
      const jmp_offset = ctx.epilogue_offset - ctx.idx;
      ctx.check_imm(26, jmp_offset);
      ctx.emitBranch(() => A64_B(jmp_offset));
      return undefined;
    }
    default:
      return build_cond_jmp(ctx, insn, slot, is64, isK);
  }
}

function jmp_cond(op: number): number | null {
  switch (op) {
    case BPF_JEQ:
      return A64_COND_EQ;
    case BPF_JGT:
      return A64_COND_HI;
    case BPF_JLT:
      return A64_COND_CC;
    case BPF_JGE:
      return A64_COND_CS;
    case BPF_JLE:
      return A64_COND_LS;
    case BPF_JSET:
    case BPF_JNE:
      return A64_COND_NE;
    case BPF_JSGT:
      return A64_COND_GT;
    case BPF_JSLT:
      return A64_COND_LT;
    case BPF_JSGE:
      return A64_COND_GE;
    case BPF_JSLE:
      return A64_COND_LE;
    default:
      return null;
  }
}

function build_cond_jmp(ctx: jit_ctx, insn: bpf_insn, slot: number, is64: boolean, isK: boolean): Built {
  const cond = jmp_cond(BPF_OP(insn.code));
  if (cond === null) return UNKNOWN;
  const dst = ctx.reg(insn.dst_reg);
  const isTest = BPF_OP(insn.code) === BPF_JSET;
  if (!isK) {
    const src = ctx.reg(insn.src_reg);
    ctx.emit(isTest ? A64_TST(is64, dst, src) : A64_CMP(is64, dst, src));
  } else if (isTest) {
    build_tst_k(ctx, is64, dst, insn.imm);
  } else {
    build_cmp_k(ctx, is64, dst, insn.imm);
  }
  const jmp_offset = ctx.bpf2a64_offset(slot, insn.off);
  ctx.check_imm(19, jmp_offset);
  ctx.emitBranch(() => A64_B_(cond, jmp_offset));
  return undefined;
}

function build_tst_k(ctx: jit_ctx, is64: boolean, dst: number, imm: number): void {
  const a64_insn = A64_TST_I(is64, dst, imm);
  if (a64_insn !== null) {
    ctx.emit(a64_insn);
  } else {
    ctx.emit_a64_mov_i(is64, TMP_REG_1, imm);
    ctx.emit(A64_TST(is64, dst, TMP_REG_1));
  }
}

function build_cmp_k(ctx: jit_ctx, is64: boolean, dst: number, imm: number): void {
  if (is_addsub_imm(imm)) {
    ctx.emit(A64_CMP_I(is64, dst, imm));
  } else if (is_addsub_imm(-imm | 0)) {
    ctx.emit(A64_CMN_I(is64, dst, -imm));
  } else {
    ctx.emit_a64_mov_i(is64, TMP_REG_1, imm);
    ctx.emit(A64_CMP(is64, dst, TMP_REG_1));
  }
}
