/**
 * The trampoline of a struct_ops member on arm64: prepare_trampoline() of arch/arm64/net/bpf_jit_comp.c
 * (bpf-next merge 8496d9020ff3) with BPF_TRAMP_F_INDIRECT and one fentry program.
 *
 * Left out: the kCFI word, arguments on the stack, structures by value, tracing.
 */
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { A64Emitter, TMP_REG_1 } from '../jit/arm64-context.js';
import {
  A64_ADD_I,
  A64_BTI_JC,
  A64_CBZ,
  A64_FP,
  A64_LR,
  A64_LS_IMM,
  A64_MOV,
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
const PROG = 19;
const START = 20;
const DOUBLEWORD = 3;

/** The words of one trampoline. */
class Code extends A64Emitter {
  readonly words: number[] = [];
  constructor(readonly image: bigint) {
    super();
  }

  override emit(...words: readonly number[]): void {
    this.words.push(...words);
  }

  override get pc(): bigint {
    return this.image + BigInt(this.words.length * AARCH64_INSN_SIZE);
  }

  /** str xt, [sp, #off] */
  store(rt: number, off: number): void {
    this.emit(A64_LS_IMM('store', DOUBLEWORD, rt, A64_SP, off));
  }

  /** ldr xt, [sp, #off] */
  load(rt: number, off: number): void {
    this.emit(A64_LS_IMM('load', DOUBLEWORD, rt, A64_SP, off));
  }
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
  code.emit_a64_mov_i64(TMP_REG_1, BigInt(nr_args));
  code.store(TMP_REG_1, func_meta_off);
  for (let i = 0; i < nr_args; i++) code.store(i, bargs_off + i * 8);
  code.store(PROG, regs_off);
  code.store(START, regs_off + 8);

  if (cookie === 0n) {
    code.store(A64_ZR, run_ctx_off);
  } else {
    code.emit_a64_mov_i64(TMP_REG_1, cookie);
    code.store(TMP_REG_1, run_ctx_off);
  }
  code.emit_addr_mov_i64(PROG, what.prog);
  code.emit(A64_MOV(true, 0, PROG), A64_ADD_I(true, 1, A64_SP, run_ctx_off));
  code.emit_call(what.enter);
  code.emit(A64_MOV(true, START, 0));
  const skip = code.words.length;
  code.emit(0);
  code.emit(A64_ADD_I(true, 0, A64_SP, bargs_off));
  code.emit_call(what.bpf_func);
  if (returns) code.store(0, retval_off);
  code.words[skip] = A64_CBZ(true, 0, code.words.length - skip);
  code.emit(A64_MOV(true, 0, PROG), A64_MOV(true, 1, START), A64_ADD_I(true, 2, A64_SP, run_ctx_off));
  code.emit_call(what.exit);

  code.load(PROG, regs_off);
  code.load(START, regs_off + 8);
  if (returns) code.load(0, retval_off);
  code.emit(A64_MOV(true, A64_SP, A64_FP), A64_POP(A64_FP, A64_LR, A64_SP), A64_RET(A64_LR));
  return new Uint8Array(Uint32Array.from(code.words).buffer);
};
