/**
 * Atomics: emit_atomic_ld_st(), emit_lse_atomic() and emit_ll_sc_atomic() of
 * arch/arm64/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. What is left out is said in arm64.ts.
 *
 * Differs: the kernel chooses by the imm only when it comes to an operation of a byte or a half word and would
 * make it one of a word; its verifier lets none through, and here it is an error.
 */
import {
  BPF_ADD,
  BPF_AND,
  BPF_CMPXCHG,
  BPF_DW,
  BPF_FETCH,
  BPF_LOAD_ACQ,
  BPF_MODE,
  BPF_OR,
  BPF_PROBE_ATOMIC,
  BPF_SIZE,
  BPF_STORE_REL,
  BPF_W,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import type { Built } from './arm64-alu.js';
import {
  A64_BPF_REG_0,
  A64_BPF_REG_AX,
  type jit_ctx,
  TMP_REG_1,
  TMP_REG_2,
  TMP_REG_3,
} from './arm64-context.js';
import {
  A64_ADD,
  A64_AND,
  A64_CASAL,
  A64_CBNZ,
  A64_DMB_ISH,
  A64_EOR,
  A64_LD_OP_AL,
  A64_LDAR,
  A64_LDXR,
  A64_MOV,
  A64_MVN,
  A64_ORR,
  A64_ST_OP,
  A64_STLR,
  A64_STLXR,
  A64_STXR,
  LDADD,
  LDCLR,
  LDEOR,
  LDSET,
  SWP,
} from './arm64-insn.js';
import { add_exception_handler, type Faulting, ldstSize } from './arm64-memory.js';

const hex2 = (value: number): string => (value >>> 0).toString(16).padStart(2, '0');

const isArena = (insn: bpf_insn): boolean => BPF_MODE(insn.code) === BPF_PROBE_ATOMIC;

/** BPF_STX | BPF_ATOMIC and BPF_STX | BPF_PROBE_ATOMIC. */
export function build_atomic(ctx: jit_ctx, insn: bpf_insn): Built {
  const { imm } = insn;
  if (imm === BPF_LOAD_ACQ || imm === BPF_STORE_REL) {
    emit_atomic_ld_st(ctx, insn, imm);
  } else if (BPF_SIZE(insn.code) !== BPF_W && BPF_SIZE(insn.code) !== BPF_DW) {
    return ctx.fail(`bpf_jit: unknown atomic opcode ${hex2(insn.code)}`);
  } else if (ctx.options.lse) {
    emit_lse_atomic(ctx, insn);
  } else {
    emit_ll_sc_atomic(ctx, insn);
  }
  add_exception_handler(ctx, insn, faultingAtomic(ctx, insn));
  return undefined;
}

/** What entries of arena atomics say: all that a store says, or what the later fix made of them. */
function faultingAtomic(ctx: jit_ctx, insn: bpf_insn): Faulting {
  const dst = ctx.reg(insn.dst_reg);
  const src = ctx.reg(insn.src_reg);
  switch (ctx.options.atomicEntries) {
    case 'store':
      return { clear: null, address: dst };
    case 'by-kind':
      if (insn.imm === BPF_LOAD_ACQ) return { clear: dst, address: src };
      if (insn.imm === BPF_CMPXCHG) return { clear: A64_BPF_REG_0, address: dst, write: true };
      if (insn.imm !== BPF_STORE_REL && (insn.imm & BPF_FETCH) !== 0) {
        return { clear: src, address: dst, write: true };
      }
      return { clear: null, address: dst };
  }
}

/** Register with the address: the base itself, or TMP_REG_1 with what has to be added. */
function emitAddress(ctx: jit_ctx, insn: bpf_insn, base: number): number {
  let reg = base;
  if (insn.off !== 0) {
    ctx.emit_a64_add_i(true, TMP_REG_1, reg, TMP_REG_1, insn.off);
    reg = TMP_REG_1;
  }
  if (isArena(insn)) {
    ctx.emit_arena_address(TMP_REG_1, reg);
    reg = TMP_REG_1;
  }
  return reg;
}

function emit_atomic_ld_st(
  ctx: jit_ctx,
  insn: bpf_insn,
  imm: typeof BPF_LOAD_ACQ | typeof BPF_STORE_REL,
): void {
  const dst = ctx.reg(insn.dst_reg);
  const src = ctx.reg(insn.src_reg);
  const size = ldstSize(insn.code);
  switch (imm) {
    case BPF_LOAD_ACQ:
      ctx.emit(A64_LDAR(size, dst, emitAddress(ctx, insn, src)));
      break;
    case BPF_STORE_REL:
      ctx.emit(A64_STLR(size, src, emitAddress(ctx, insn, dst)));
      break;
  }
}

function emit_lse_atomic(ctx: jit_ctx, insn: bpf_insn): void {
  const src = ctx.reg(insn.src_reg);
  const isdw = BPF_SIZE(insn.code) === BPF_DW;
  const reg = emitAddress(ctx, insn, ctx.reg(insn.dst_reg));
  switch (insn.imm) {
    case BPF_ADD:
      ctx.emit(A64_ST_OP(LDADD, isdw, reg, src));
      break;
    case BPF_AND:
      ctx.emit(A64_MVN(isdw, TMP_REG_2, src));
      ctx.emit(A64_ST_OP(LDCLR, isdw, reg, TMP_REG_2));
      break;
    case BPF_OR:
      ctx.emit(A64_ST_OP(LDSET, isdw, reg, src));
      break;
    case BPF_XOR:
      ctx.emit(A64_ST_OP(LDEOR, isdw, reg, src));
      break;
    case BPF_ADD | BPF_FETCH:
      ctx.emit(A64_LD_OP_AL(LDADD, isdw, src, reg, src));
      break;
    case BPF_AND | BPF_FETCH:
      ctx.emit(A64_MVN(isdw, TMP_REG_2, src));
      ctx.emit(A64_LD_OP_AL(LDCLR, isdw, src, reg, TMP_REG_2));
      break;
    case BPF_OR | BPF_FETCH:
      ctx.emit(A64_LD_OP_AL(LDSET, isdw, src, reg, src));
      break;
    case BPF_XOR | BPF_FETCH:
      ctx.emit(A64_LD_OP_AL(LDEOR, isdw, src, reg, src));
      break;
    case BPF_XCHG:
      ctx.emit(A64_LD_OP_AL(SWP, isdw, src, reg, src));
      break;
    case BPF_CMPXCHG:
      ctx.emit(A64_CASAL(isdw, src, reg, A64_BPF_REG_0));
      break;
    default:
      ctx.fail(`bpf_jit: unknown atomic op code ${hex2(insn.imm)}`);
  }
}

/** The operation of a load-and-store loop, or null for another kind of atomic. */
function loopOp(imm: number) {
  switch (imm & ~BPF_FETCH) {
    case BPF_ADD:
      return A64_ADD;
    case BPF_AND:
      return A64_AND;
    case BPF_OR:
      return A64_ORR;
    case BPF_XOR:
      return A64_EOR;
    default:
      return null;
  }
}

function emit_ll_sc_atomic(ctx: jit_ctx, insn: bpf_insn): void {
  // A loop has two instructions that fault, and an entry knows one.
  if (isArena(insn)) ctx.fail(`bpf_jit: unknown atomic opcode ${hex2(insn.code)}`);
  const src = ctx.reg(insn.src_reg);
  const isdw = BPF_SIZE(insn.code) === BPF_DW;
  const reg = emitAddress(ctx, insn, ctx.reg(insn.dst_reg));
  const op = loopOp(insn.imm);
  if (op !== null && (insn.imm & BPF_FETCH) === 0) {
    ctx.emit(A64_LDXR(isdw, TMP_REG_2, reg));
    ctx.emit(op(isdw, TMP_REG_2, TMP_REG_2, src));
    ctx.emit(A64_STXR(isdw, TMP_REG_2, reg, TMP_REG_3));
    ctx.emit(A64_CBNZ(false, TMP_REG_3, -3));
  } else if (op !== null) {
    ctx.emit(A64_MOV(isdw, A64_BPF_REG_AX, src));
    ctx.emit(A64_LDXR(isdw, src, reg));
    ctx.emit(op(isdw, TMP_REG_2, src, A64_BPF_REG_AX));
    ctx.emit(A64_STLXR(isdw, TMP_REG_2, reg, TMP_REG_3));
    ctx.emit(A64_CBNZ(false, TMP_REG_3, -3));
    ctx.emit(A64_DMB_ISH);
  } else if (insn.imm === BPF_XCHG) {
    ctx.emit(A64_MOV(isdw, TMP_REG_2, src));
    ctx.emit(A64_LDXR(isdw, src, reg));
    ctx.emit(A64_STLXR(isdw, TMP_REG_2, reg, TMP_REG_3));
    ctx.emit(A64_CBNZ(false, TMP_REG_3, -2));
    ctx.emit(A64_DMB_ISH);
  } else if (insn.imm === BPF_CMPXCHG) {
    ctx.emit(A64_MOV(isdw, TMP_REG_2, A64_BPF_REG_0));
    ctx.emit(A64_LDXR(isdw, A64_BPF_REG_0, reg));
    ctx.emit(A64_EOR(isdw, TMP_REG_3, A64_BPF_REG_0, TMP_REG_2));
    ctx.emit(A64_CBNZ(isdw, TMP_REG_3, 4));
    ctx.emit(A64_STLXR(isdw, src, reg, TMP_REG_3));
    ctx.emit(A64_CBNZ(false, TMP_REG_3, -4));
    ctx.emit(A64_DMB_ISH);
  } else {
    ctx.fail(`bpf_jit: unknown atomic op code ${hex2(insn.imm)}`);
  }
}
