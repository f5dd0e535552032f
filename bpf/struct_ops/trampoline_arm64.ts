/**
 * The trampoline of a struct_ops member on arm64: prepare_trampoline() of arch/arm64/net/bpf_jit_comp.c
 * (bpf-next merge 8496d9020ff3) with BPF_TRAMP_F_INDIRECT and one fentry program.
 *
 * Left out: the kCFI word, arguments on the stack, structures by value, tracing.
 */
import { toSigned } from '../../emu/address.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import {
  A64_ADD_I,
  A64_BL,
  A64_BLR,
  A64_BTI_JC,
  A64_CBZ,
  A64_FP,
  A64_LR,
  A64_LS_IMM,
  A64_MOV,
  A64_MOVK,
  A64_MOVN,
  A64_MOVZ,
  A64_POP,
  A64_PUSH,
  A64_RET,
  A64_SP,
  A64_SUB_I,
  A64_ZR,
  AARCH64_INSN_SIZE,
} from '../jit/arm64-insn.js';
import type { PrepareTrampoline } from './struct_ops_trampoline.js';
import { BPF_TRAMP_RUN_CTX_SIZE } from './trampoline.js';

/** Words that registers carry. */
const MAX_REGS = 8;
const TMP = 10;
const PROG = 19;
const START = 20;
const SZ_128M = 0x800_0000;
const DOUBLEWORD = 3;

/** The words of one trampoline. */
class Code {
  readonly words: number[] = [];
  constructor(readonly image: bigint) {}

  emit(...words: readonly number[]): void {
    this.words.push(...words);
  }

  /** str xt, [sp, #off] */
  store(rt: number, off: number): void {
    this.emit(A64_LS_IMM('store', DOUBLEWORD, rt, A64_SP, off));
  }

  /** ldr xt, [sp, #off] */
  load(rt: number, off: number): void {
    this.emit(A64_LS_IMM('load', DOUBLEWORD, rt, A64_SP, off));
  }

  /** emit_addr_mov_i64(): three instructions, for addresses with ones in their upper 16 bits. */
  moveAddress(rd: number, value: bigint): void {
    const block = (shift: bigint): number => Number((value >> shift) & 0xffffn);
    this.emit(
      A64_MOVN(true, rd, ~block(0n) & 0xffff, 0),
      A64_MOVK(true, rd, block(16n), 16),
      A64_MOVK(true, rd, block(32n), 32),
    );
  }

  /** emit_call(): bl where it reaches, else through x10. */
  call(target: bigint): void {
    const distance = toSigned(target) - toSigned(this.image) - this.words.length * AARCH64_INSN_SIZE;
    if (distance >= -SZ_128M && distance < SZ_128M) {
      this.emit(A64_BL(distance / AARCH64_INSN_SIZE));
    } else {
      this.moveAddress(TMP, target);
      this.emit(A64_BLR(TMP));
    }
  }
}

/** emit_a64_mov_i64() of a cookie. */
function moveCookie(code: Code, rd: number, cookie: bigint): void {
  const blocks = [0, 16, 32, 48].map((shift) => ({
    shift,
    bits: Number((cookie >> BigInt(shift)) & 0xffffn),
  }));
  const [first = { shift: 0, bits: 0 }, ...rest] = blocks.filter(({ bits }) => bits !== 0).reverse();
  code.emit(A64_MOVZ(true, rd, first.bits, first.shift));
  for (const { shift, bits } of rest) code.emit(A64_MOVK(true, rd, bits, shift));
}

export const prepareTrampolineArm64: PrepareTrampoline = (what, options) => {
  const { nr_args, returns, cookie = 0n } = what;
  if (nr_args > MAX_REGS) throw new MachineRefusal(`${nr_args} arguments: registers carry ${MAX_REGS}`);
  const run_ctx_off = 0;
  const func_meta_off = BPF_TRAMP_RUN_CTX_SIZE;
  const bargs_off = func_meta_off + 8;
  const retval_off = bargs_off + nr_args * 8;
  const regs_off = retval_off + (returns ? 8 : 0);
  const stack_size = Math.ceil((regs_off + 16) / 16) * 16;

  const code = new Code(what.image);
  if (options.branchTracking) code.emit(A64_BTI_JC);
  code.emit(A64_PUSH(A64_FP, A64_LR, A64_SP), A64_MOV(true, A64_FP, A64_SP));
  code.emit(A64_SUB_I(true, A64_SP, A64_SP, stack_size));
  // store_func_meta(): a value of 32 bits goes through the 32-bit form.
  code.emit(A64_MOVZ(false, TMP, nr_args, 0));
  code.store(TMP, func_meta_off);
  for (let i = 0; i < nr_args; i++) code.store(i, bargs_off + i * 8);
  code.store(PROG, regs_off);
  code.store(START, regs_off + 8);

  if (cookie === 0n) {
    code.store(A64_ZR, run_ctx_off);
  } else {
    moveCookie(code, TMP, cookie);
    code.store(TMP, run_ctx_off);
  }
  code.moveAddress(PROG, what.prog);
  code.emit(A64_MOV(true, 0, PROG), A64_ADD_I(true, 1, A64_SP, run_ctx_off));
  code.call(what.enter);
  code.emit(A64_MOV(true, START, 0));
  const skip = code.words.length;
  code.emit(0);
  code.emit(A64_ADD_I(true, 0, A64_SP, bargs_off));
  code.call(what.bpf_func);
  if (returns) code.store(0, retval_off);
  code.words[skip] = A64_CBZ(true, 0, code.words.length - skip);
  code.emit(A64_MOV(true, 0, PROG), A64_MOV(true, 1, START), A64_ADD_I(true, 2, A64_SP, run_ctx_off));
  code.call(what.exit);

  code.load(PROG, regs_off);
  code.load(START, regs_off + 8);
  if (returns) code.load(0, retval_off);
  code.emit(A64_MOV(true, A64_SP, A64_FP), A64_POP(A64_FP, A64_LR, A64_SP), A64_RET(A64_LR));
  return new Uint8Array(Uint32Array.from(code.words).buffer);
};
