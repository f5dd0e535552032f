/**
 * Loads, stores and the exception table: their part of build_insn(), and add_exception_handler(), of
 * arch/arm64/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. What is left out is said in arm64.ts.
 *
 * An arena access goes to x28 plus the register with the 32-bit address. The offset is added to that sum
 * in 64 bits.
 */
import {
  BPF_B,
  BPF_CLASS,
  BPF_DW,
  BPF_H,
  BPF_LDX,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MODE,
  BPF_PROBE_MEM,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_PROBE_MEMSX,
  BPF_SIZE,
  BPF_W,
  type bpf_insn,
  isArenaAccess,
} from '../insn.js';
import { type Built, UNKNOWN } from './arm64-alu.js';
import {
  A64_BPF_REG_FP,
  is_lsi_offset,
  type jit_ctx,
  TMP_REG_1,
  TMP_REG_2,
  TMP_REG_3,
} from './arm64-context.js';
import {
  A64_LS_IMM,
  A64_LS_REG,
  A64_SP,
  AARCH64_INSN_SIZE,
  type LdstKind,
  type LdstSize,
} from './arm64-insn.js';

/** log2 of the bytes of an access. */
export function ldstSize(code: number): LdstSize {
  switch (BPF_SIZE(code)) {
    case BPF_B:
      return 0;
    case BPF_H:
      return 1;
    case BPF_W:
      return 2;
    default:
      return 3;
  }
}

/**
 * The access itself. The frame pointer is reached from the stack pointer, which lies below it, so that small
 * negative offsets become immediates; where they do not, the frame pointer itself is the base.
 */
function emitAccess(
  ctx: jit_ctx,
  kind: LdstKind,
  code: number,
  rt: number,
  base: number,
  off: number,
  tmp: number,
): void {
  const size = ldstSize(code);
  const isFp = base === A64_BPF_REG_FP;
  const off_adj = isFp ? off + ctx.stack_size : off;
  if (is_lsi_offset(off_adj, size)) {
    ctx.emit(A64_LS_IMM(kind, size, rt, isFp ? A64_SP : base, off_adj));
  } else {
    ctx.emit_a64_mov_i(true, tmp, off);
    ctx.emit(A64_LS_REG(kind, size, rt, base, tmp));
  }
}

/** BPF_LDX */
export function build_ldx(ctx: jit_ctx, insn: bpf_insn): Built {
  const mode = BPF_MODE(insn.code);
  const isArena = mode === BPF_PROBE_MEM32 || mode === BPF_PROBE_MEM32SX;
  const sign_extend = mode === BPF_MEMSX || mode === BPF_PROBE_MEMSX || mode === BPF_PROBE_MEM32SX;
  if (!isArena && !sign_extend && mode !== BPF_MEM && mode !== BPF_PROBE_MEM) return UNKNOWN;
  if (sign_extend && BPF_SIZE(insn.code) === BPF_DW) return UNKNOWN;
  const dst = ctx.reg(insn.dst_reg);
  let src = ctx.reg(insn.src_reg);
  if (isArena) {
    ctx.emit_arena_address(TMP_REG_2, src);
    src = TMP_REG_2;
  }
  emitAccess(ctx, sign_extend ? 'load_signed' : 'load', insn.code, dst, src, insn.off, TMP_REG_1);
  add_exception_handler(ctx, insn);
  return undefined;
}

/** BPF_ST, but for the speculation barrier. */
export function build_st(ctx: jit_ctx, insn: bpf_insn): Built {
  const mode = BPF_MODE(insn.code);
  if (mode !== BPF_MEM && mode !== BPF_PROBE_MEM32) return UNKNOWN;
  let dst = ctx.reg(insn.dst_reg);
  if (mode === BPF_PROBE_MEM32) {
    ctx.emit_arena_address(TMP_REG_3, dst);
    dst = TMP_REG_3;
  }
  ctx.emit_a64_mov_i(true, TMP_REG_1, insn.imm);
  emitAccess(ctx, 'store', insn.code, TMP_REG_1, dst, insn.off, TMP_REG_2);
  add_exception_handler(ctx, insn);
  return undefined;
}

/** BPF_STX, but for atomics. */
export function build_stx(ctx: jit_ctx, insn: bpf_insn): Built {
  const mode = BPF_MODE(insn.code);
  if (mode !== BPF_MEM && mode !== BPF_PROBE_MEM32) return UNKNOWN;
  let dst = ctx.reg(insn.dst_reg);
  const src = ctx.reg(insn.src_reg);
  if (mode === BPF_PROBE_MEM32) {
    ctx.emit_arena_address(TMP_REG_2, dst);
    dst = TMP_REG_2;
  }
  emitAccess(ctx, 'store', insn.code, src, dst, insn.off, TMP_REG_1);
  add_exception_handler(ctx, insn);
  return undefined;
}

/** What an entry says about the access: where its address comes from, and what becomes 0 instead of it. */
export interface Faulting {
  /** Register to clear, null for none. */
  readonly clear: number | null;
  /** Register with the 32-bit address of an arena access. */
  readonly address: number;
  /** Clears a register and is a write all the same. */
  readonly write?: boolean;
}

/** Only loads clear a register, and have their address in the source. */
function faultingAsLoadOrStore(ctx: jit_ctx, insn: bpf_insn): Faulting {
  const isLoad = BPF_CLASS(insn.code) === BPF_LDX;
  return isLoad
    ? { clear: ctx.reg(insn.dst_reg), address: ctx.reg(insn.src_reg) }
    : { clear: null, address: ctx.reg(insn.dst_reg) };
}

/** An entry for the last instruction emitted, if the access may fault. */
export function add_exception_handler(
  ctx: jit_ctx,
  insn: bpf_insn,
  faulting: Faulting = faultingAsLoadOrStore(ctx, insn),
): void {
  if (ctx.image === null || !ctx.write) return;
  const mode = BPF_MODE(insn.code);
  const isArena = isArenaAccess(insn);
  const isProbe = BPF_CLASS(insn.code) === BPF_LDX && (mode === BPF_PROBE_MEM || mode === BPF_PROBE_MEMSX);
  if (!isArena && !isProbe) return;
  const { clear, address, write } = faulting;
  ctx.extable.push({
    insn: ctx.pc - BigInt(AARCH64_INSN_SIZE),
    fixup: 0n,
    type: 'BPF',
    length: AARCH64_INSN_SIZE,
    clear: clear === null ? null : `x${clear}`,
    arena: isArena ? { register: `x${address}`, offset: insn.off } : null,
    data: write === true ? { write: 'true' } : {},
  });
}
