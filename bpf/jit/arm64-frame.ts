/**
 * Prologue, epilogue and PLT of arch/arm64/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. What is left out
 * is said in arm64.ts.
 */
import { BPF_REG_FP } from '../insn.js';
import {
  A64_BPF_REG_0,
  A64_BPF_REG_FP,
  ARENA_VM_START,
  type jit_ctx,
  TCCNT_PTR,
  TMP_REG_1,
} from './arm64-context.js';
import {
  A64_ADD_I,
  A64_AUTIASP,
  A64_BR,
  A64_BTI_J,
  A64_BTI_JC,
  A64_FP,
  A64_LDR64LIT,
  A64_LR,
  A64_MOV,
  A64_NOP,
  A64_PACIASP,
  A64_POP,
  A64_PUSH,
  A64_RET,
  A64_SP,
  A64_SUB_I,
  A64_ZR,
  AARCH64_INSN_SIZE,
} from './arm64-insn.js';

/** offsetof(struct bpf_plt, target) */
const PLT_TARGET_OFFSET = 8;
/** Bytes of the target behind a PLT. */
export const PLT_TARGET_SIZE = 8;

const round_up = (value: number, to: number): number => Math.ceil(value / to) * to;

/** The scan knows fields, not meanings: register numbers in any instruction count, used or not. */
function find_used_callee_regs(ctx: jit_ctx): void {
  const { insns, arena } = ctx.fn;
  const used = new Set(insns.flatMap(({ dst_reg, src_reg }) => [dst_reg, src_reg]));
  ctx.fp_used = used.has(BPF_REG_FP);
  const saved = [6, 7, 8, 9, BPF_REG_FP].filter((reg) => used.has(reg)).map((reg) => ctx.reg(reg));
  if (arena !== null) saved.push(ARENA_VM_START);
  ctx.used_callee_reg.splice(0, Number.POSITIVE_INFINITY, ...saved);
}

/** Two by two; the last one may be alone. */
function calleePairs(ctx: jit_ctx): (readonly [number, number])[] {
  const regs = ctx.used_callee_reg;
  const pairs: (readonly [number, number])[] = [];
  for (let i = 0; i < regs.length; i += 2) pairs.push([regs[i] ?? A64_ZR, regs[i + 1] ?? A64_ZR]);
  return pairs;
}

export function build_prologue(ctx: jit_ctx): void {
  const { fn, options } = ctx;
  if (options.branchTracking) ctx.emit(A64_BTI_JC);
  ctx.emit(A64_MOV(true, 9, A64_LR));
  ctx.emit(A64_NOP);
  if (options.pac) ctx.emit(A64_PACIASP);
  ctx.emit(A64_PUSH(A64_FP, A64_LR, A64_SP));
  ctx.emit(A64_MOV(true, A64_FP, A64_SP));
  if (fn.is_subprog) {
    ctx.emit(A64_PUSH(TCCNT_PTR, TCCNT_PTR, A64_SP));
  } else {
    ctx.emit(A64_PUSH(A64_ZR, TCCNT_PTR, A64_SP));
    ctx.emit(A64_MOV(true, TCCNT_PTR, A64_SP));
    if (options.branchTracking) ctx.emit(A64_BTI_J);
  }
  find_used_callee_regs(ctx);
  for (const [reg1, reg2] of calleePairs(ctx)) ctx.emit(A64_PUSH(reg1, reg2, A64_SP));
  if (ctx.fp_used) ctx.emit(A64_MOV(true, A64_BPF_REG_FP, A64_SP));
  ctx.stack_size = round_up(fn.stack_depth, 16);
  if (ctx.stack_size !== 0) ctx.emit(A64_SUB_I(true, A64_SP, A64_SP, ctx.stack_size));
  if (fn.arena !== null) ctx.emit_a64_mov_i64(ARENA_VM_START, fn.arena.kern_vm_start);
}

export function build_epilogue(ctx: jit_ctx): void {
  if (ctx.stack_size !== 0) ctx.emit(A64_ADD_I(true, A64_SP, A64_SP, ctx.stack_size));
  for (const [reg1, reg2] of calleePairs(ctx).reverse()) ctx.emit(A64_POP(reg1, reg2, A64_SP));
  ctx.emit(A64_POP(A64_ZR, TCCNT_PTR, A64_SP));
  ctx.emit(A64_POP(A64_FP, A64_LR, A64_SP));
  ctx.emit(A64_MOV(true, 0, A64_BPF_REG_0));
  if (ctx.options.pac) ctx.emit(A64_AUTIASP);
  ctx.emit(A64_RET(A64_LR));
}

/** Its target is aligned to 8 bytes and belongs to the image, not to the program. */
export function build_plt(ctx: jit_ctx): void {
  if ((ctx.idx + PLT_TARGET_OFFSET / AARCH64_INSN_SIZE) % 2 !== 0) ctx.emit(A64_NOP);
  ctx.emit(A64_LDR64LIT(TMP_REG_1, PLT_TARGET_OFFSET));
  ctx.emit(A64_BR(TMP_REG_1));
  if (ctx.image !== null) {
    const target = ctx.options.dummy_tramp ?? 0n;
    ctx.image.words[ctx.idx] = Number(target & 0xffff_ffffn);
    ctx.image.words[ctx.idx + 1] = Number((target >> 32n) & 0xffff_ffffn);
  }
}
