/**
 * The BPF JIT of arm64. Ported from arch/arm64/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3; the rest of
 * it is in arm64-context.ts (emitting, immediates, calls), arm64-frame.ts (prologue, epilogue, PLT),
 * arm64-alu.ts (arithmetic and jumps), arm64-memory.ts and arm64-atomic.ts (memory and the exception table);
 * the encodings are in arm64-insn.ts.
 *
 * Left out: tail calls, indirect jumps, arguments on the stack, private stacks, exception boundaries and
 * callbacks, programs that were classic BPF (with their mitigation of branch history injection), the kCFI word
 * before the entry, constant blinding, helpers that are inlined (a call is a call), trampolines, big endian.
 * Operands that the verifier keeps from the kernel's JIT, and for which that would emit nothing or something
 * else, are errors here.
 *
 * The image is written as often as in the kernel: a function that calls subprograms is compiled once before
 * their addresses are known, and what its shorter second code leaves of the first stays behind it.
 */
import {
  BPF_ALU,
  BPF_ALU64,
  BPF_ATOMIC,
  BPF_CALL,
  BPF_CLASS,
  BPF_DW,
  BPF_JMP,
  BPF_JMP32,
  BPF_LD,
  BPF_LD_IMM64,
  BPF_LDX,
  BPF_MODE,
  BPF_NOSPEC,
  BPF_PROBE_ATOMIC,
  BPF_PSEUDO_CALL,
  BPF_PSEUDO_FUNC,
  BPF_ST,
  BPF_STX,
  BPF_W,
  bpf_atomic_is_load_store,
  type bpf_insn,
} from '../insn.js';
import { type Built, build_alu, build_jmp, UNKNOWN } from './arm64-alu.js';
import { build_atomic } from './arm64-atomic.js';
import { jit_ctx } from './arm64-context.js';
import { build_epilogue, build_plt, build_prologue, PLT_TARGET_SIZE } from './arm64-frame.js';
import { A64_DSB_NSH, A64_ISB, A64_SB, AARCH64_BREAK_FAULT, AARCH64_INSN_SIZE } from './arm64-insn.js';
import { build_ldx, build_st, build_stx } from './arm64-memory.js';
import type { Jit, JitedFunction, JitFunction, JitOptions, JitPlace } from './jit.js';

function build_ld_imm64(ctx: jit_ctx, insn: bpf_insn, slot: number): Built {
  const insn1 = ctx.fn.insns[slot + 1];
  if (insn.code !== BPF_LD_IMM64) return UNKNOWN;
  if (insn1 === undefined || insn1.code !== 0) return ctx.fail('invalid bpf_ld_imm64 insn');
  const dst = ctx.reg(insn.dst_reg);
  if (insn.src_reg === BPF_PSEUDO_FUNC) {
    ctx.emit_addr_mov_i64(dst, ctx.place.funcAddress(slot));
  } else {
    if (insn.src_reg !== 0) ctx.fail(`unresolved ld_imm64 with src_reg ${insn.src_reg}`);
    const high = BigInt.asUintN(32, BigInt(insn1.imm));
    ctx.emit_a64_mov_i64(dst, (high << 32n) | BigInt.asUintN(32, BigInt(insn.imm)));
  }
  return undefined;
}

function build_nospec(ctx: jit_ctx): void {
  if (ctx.options.sb === true) {
    ctx.emit(A64_SB);
  } else {
    ctx.emit(A64_DSB_NSH);
    ctx.emit(A64_ISB);
  }
}

function build_insn(ctx: jit_ctx, insn: bpf_insn, slot: number): Built {
  const mode = BPF_MODE(insn.code);
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      return build_alu(ctx, insn);
    case BPF_JMP:
    case BPF_JMP32:
      return build_jmp(ctx, insn, slot);
    case BPF_LD:
      return build_ld_imm64(ctx, insn, slot);
    case BPF_LDX:
      return build_ldx(ctx, insn);
    case BPF_ST:
      if (insn.code !== (BPF_ST | BPF_NOSPEC)) return build_st(ctx, insn);
      build_nospec(ctx);
      return undefined;
    case BPF_STX:
      if (mode === BPF_ATOMIC || mode === BPF_PROBE_ATOMIC) return build_atomic(ctx, insn);
      return build_stx(ctx, insn);
    default:
      return UNKNOWN;
  }
}

function build_body(ctx: jit_ctx): void {
  const { insns } = ctx.fn;
  let second = false;
  for (const [slot, insn] of insns.entries()) {
    ctx.offset[slot] = ctx.idx;
    if (second) {
      second = false;
      continue;
    }
    ctx.slot = slot;
    const built = ctx.encoding(() => build_insn(ctx, insn, slot));
    if (built === UNKNOWN) ctx.fail(`bpf_jit: unknown opcode ${insn.code.toString(16).padStart(2, '0')}`);
    second = BPF_CLASS(insn.code) === BPF_LD;
  }
  ctx.slot = null;
  ctx.offset[insns.length] = ctx.idx;
}

/** Pass 1: how long the code is when every call is an indirect one. */
function estimate(ctx: jit_ctx): number {
  ctx.idx = 0;
  build_prologue(ctx);
  build_body(ctx);
  ctx.epilogue_offset = ctx.idx;
  build_epilogue(ctx);
  build_plt(ctx);
  return ctx.idx;
}

/** Passes 2 and 3: where everything is, then the code. */
function compile(ctx: jit_ctx, words: Uint32Array, subprogramsKnown: boolean): void {
  ctx.image = { words, subprogramsKnown };
  ctx.idx = 0;
  ctx.extable = [];
  ctx.write = true;
  build_prologue(ctx);
  const body_idx = ctx.idx;
  ctx.write = false;
  build_body(ctx);
  ctx.epilogue_offset = ctx.idx;
  ctx.idx = body_idx;
  ctx.write = true;
  build_body(ctx);
  build_epilogue(ctx);
  build_plt(ctx);
}

const isPseudoCall = ({ code, src_reg }: bpf_insn): boolean =>
  code === (BPF_JMP | BPF_CALL) && src_reg === BPF_PSEUDO_CALL;

/**
 * bpf_int_jit_compile(). `code` ends where the kernel's symbol ends, with the branch of the PLT; `gap` has the
 * PLT's target and what fills the rest.
 * @throws JitError for what the JIT does not know, with the kernel's message where it has one
 */
export const bpf_int_jit_compile: Jit = (
  fn: JitFunction,
  place: JitPlace,
  options: JitOptions,
): JitedFunction => {
  const ctx = new jit_ctx(fn, place, options);
  const words = estimate(ctx);
  const extableOffset = words * AARCH64_INSN_SIZE + PLT_TARGET_SIZE;
  const image = new Uint32Array(extableOffset / AARCH64_INSN_SIZE).fill(AARCH64_BREAK_FAULT);
  if (fn.insns.some(isPseudoCall)) compile(ctx, image, false);
  compile(ctx, image, true);
  const bytes = new Uint8Array(image.length * AARCH64_INSN_SIZE);
  const view = new DataView(bytes.buffer);
  image.forEach((word, i) => {
    view.setUint32(i * AARCH64_INSN_SIZE, word, true);
  });
  const end = ctx.idx * AARCH64_INSN_SIZE;
  return {
    code: bytes.slice(0, end),
    addrs: ctx.offset.map((offset) => offset * AARCH64_INSN_SIZE),
    extable: ctx.extable,
    extableOffset,
    gap: bytes.slice(end),
  };
};

/** Arena atomics of words and double words, but for loads and stores, need FEAT_LSE. */
export function bpf_jit_supports_insn(
  insn: bpf_insn,
  in_arena: boolean,
  { lse }: Pick<JitOptions, 'lse'>,
): boolean {
  const { code } = insn;
  if (!in_arena || bpf_atomic_is_load_store(insn)) return true;
  const isWord = code === (BPF_STX | BPF_ATOMIC | BPF_W) || code === (BPF_STX | BPF_ATOMIC | BPF_DW);
  return lse || !isWord;
}

/** TASK_SIZE of a 64-bit task with 48 bits of virtual addresses. */
export const bpf_arch_uaddress_limit = (): bigint => 1n << 48n;
