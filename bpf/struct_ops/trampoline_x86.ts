/**
 * The trampoline of a struct_ops member on x86-64: __arch_prepare_bpf_trampoline() of
 * arch/x86/net/bpf_jit_comp.c (bpf-next merge 8496d9020ff3) with BPF_TRAMP_F_INDIRECT and one fentry program.
 *
 * Left out: kCFI and FineIBT preambles, call-depth accounting, arguments on the stack, structures by value,
 * tracing.
 */
import { toSigned } from '../../emu/address.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { BPF_REG_0, BPF_REG_FP } from '../insn.js';
import {
  add_2mod,
  EMIT_ENDBR,
  emit_insn_suffix,
  emit_mov_imm64,
  emit_mov_reg,
  is_imm8,
  Prog,
} from '../jit/x86-emit.js';
import type { PrepareTrampoline, StructOpsTrampoline } from './struct_ops_trampoline.js';
import { BPF_TRAMP_RUN_CTX_SIZE } from './trampoline.js';

const BPF_REG_1 = 1;
const BPF_REG_2 = 2;
const BPF_REG_3 = 3;
const BPF_REG_6 = 6;
/** Words that registers carry: rdi, rsi, rdx, rcx, r8 are BPF registers, r9 is none. */
const MAX_REGS = 6;
/** Bytes that are counted behind the code, and filled like a hole. */
const BPF_INSN_SAFETY = 64;
const INT3 = 0xcc;
const X86_JE = 0x74;

/** mov [rbp + off], reg */
function storeWord(prog: Prog, off: number, reg: number): void {
  prog.emit(add_2mod(0x48, BPF_REG_FP, reg), 0x89);
  emit_insn_suffix(prog, BPF_REG_FP, reg, off);
}

/** mov reg, [rbp + off] */
function loadWord(prog: Prog, reg: number, off: number): void {
  prog.emit(add_2mod(0x48, BPF_REG_FP, reg), 0x8b);
  emit_insn_suffix(prog, BPF_REG_FP, reg, off);
}

/** lea reg, [rbp + off] */
function addressOf(prog: Prog, reg: number, off: number): void {
  prog.emit(add_2mod(0x48, BPF_REG_FP, reg), 0x8d);
  emit_insn_suffix(prog, BPF_REG_FP, reg, off);
}

/** e8 rel32 (or e9): a distance that does not fit is a MachineRefusal. */
function branch(prog: Prog, image: bigint, opcode: number, target: bigint): void {
  const distance = toSigned(target) - toSigned(image) - (prog.length + 5);
  if (!Number.isSafeInteger(distance) || distance !== (distance | 0)) {
    throw new MachineRefusal(
      `trampoline at 0x${image.toString(16)}: 0x${target.toString(16)} is out of its reach`,
    );
  }
  prog.emitOff32(distance, opcode);
}

/** save_args(): the registers become the array that the program's context points to. */
function save_args(prog: Prog, nr_args: number, regs_off: number): void {
  for (let i = 0; i < nr_args; i++) {
    const off = -regs_off + i * 8;
    if (i < 5) {
      storeWord(prog, off, BPF_REG_1 + i);
    } else {
      // r9
      prog.emit(0x4c, 0x89);
      if (is_imm8(off)) prog.emit(0x4d, off);
      else prog.emitOff32(off, 0x8d);
    }
  }
}

/** invoke_bpf_prog() */
function invoke_bpf_prog(prog: Prog, what: StructOpsTrampoline, regs_off: number, run_ctx_off: number): void {
  const { image } = what;
  emit_mov_imm64(prog, BPF_REG_1, what.cookie ?? 0n);
  storeWord(prog, -run_ctx_off, BPF_REG_1);
  emit_mov_imm64(prog, BPF_REG_1, what.prog);
  addressOf(prog, BPF_REG_2, -run_ctx_off);
  branch(prog, image, 0xe8, what.enter);
  emit_mov_reg(prog, true, BPF_REG_6, BPF_REG_0);

  // test rax, rax; je over the program
  prog.emit(0x48, 0x85, 0xc0, X86_JE, 0);
  const skip = prog.length;
  addressOf(prog, BPF_REG_1, -regs_off);
  branch(prog, image, 0xe8, what.bpf_func);
  if (what.returns) storeWord(prog, -8, BPF_REG_0);
  prog.patch(skip - 1, prog.length - skip);

  emit_mov_imm64(prog, BPF_REG_1, what.prog);
  emit_mov_reg(prog, true, BPF_REG_2, BPF_REG_6);
  addressOf(prog, BPF_REG_3, -run_ctx_off);
  branch(prog, image, 0xe8, what.exit);
}

export const prepareTrampolineX86: PrepareTrampoline = (what, options) => {
  const { nr_args, returns, image } = what;
  if (nr_args > MAX_REGS) throw new MachineRefusal(`${nr_args} arguments: registers carry ${MAX_REGS}`);
  const regs_off = (returns ? 8 : 0) + nr_args * 8;
  const func_meta_off = regs_off + 8;
  const rbx_off = func_meta_off + 8;
  const run_ctx_off = rbx_off + BPF_TRAMP_RUN_CTX_SIZE;
  const stack_size = run_ctx_off;

  const prog = new Prog();
  EMIT_ENDBR(prog, options.branchTracking);
  prog.emit(0x55, 0x48, 0x89, 0xe5);
  if (is_imm8(stack_size)) prog.emit(0x48, 0x83, 0xec, stack_size);
  else prog.emitOff32(stack_size, 0x48, 0x81, 0xec);
  storeWord(prog, -rbx_off, BPF_REG_6);
  emit_mov_imm64(prog, BPF_REG_0, BigInt(nr_args));
  storeWord(prog, -func_meta_off, BPF_REG_0);
  save_args(prog, nr_args, regs_off);
  invoke_bpf_prog(prog, what, regs_off, run_ctx_off);
  if (returns) loadWord(prog, BPF_REG_0, -8);
  loadWord(prog, BPF_REG_6, -rbx_off);
  prog.emit(0xc9);
  if (options.return_thunk !== null) {
    branch(prog, image, 0xe9, options.return_thunk);
  } else {
    prog.emit(0xc3);
    if (options.sls) prog.emit(INT3);
  }
  const code = new Uint8Array(prog.length + BPF_INSN_SAFETY).fill(INT3);
  code.set(prog.bytes);
  return code;
};
