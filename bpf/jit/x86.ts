/**
 * The BPF JIT of x86-64: arch/x86/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. This file has
 * emit_prologue(), do_jit() and bpf_int_jit_compile(); their parts are x86-emit.ts, x86-alu.ts,
 * x86-memory.ts, x86-jump.ts and x86-extable.ts.
 *
 * Left out: tail calls and what the prologue does for them, exception callbacks and boundaries, private
 * stacks, arguments on the stack, per-CPU addresses, indirect jumps, programs that were classic BPF,
 * constant blinding, trampolines, kCFI and FineIBT (cfi_mode is CFI_OFF), call depth tracking, and
 * poking. The second compilation of a program with subprograms changes nothing here, for targets are known
 * from the start. What is left out or unknown is refused with a JitError.
 *
 * The JIT checks little, for the verifier has done so. Here jumps to nowhere, registers that do not exist,
 * and arena instructions without an arena are refused too.
 */
import type { ExtableSpec } from '../../arch/arch.js';
import { EFAULT, EINVAL } from '../../kernel/errno.js';
import {
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ATOMIC,
  BPF_CLASS,
  BPF_DW,
  BPF_FETCH,
  BPF_JMP,
  BPF_JMP32,
  BPF_LD,
  BPF_LD_IMM64,
  BPF_OR,
  BPF_PSEUDO_FUNC,
  BPF_REG_AX,
  BPF_STX,
  BPF_W,
  BPF_XOR,
  type bpf_insn,
  isArenaAccess,
} from '../insn.js';
import { type Jit, JitError, type JitFunction } from './jit.js';
import { emitAlu } from './x86-alu.js';
import { EMIT_ENDBR, emit_mov_imm64, emit_nops, Prog, X86_REG_R12 } from './x86-emit.js';
import { extableEntry } from './x86-extable.js';
import { emitJump, type JumpContext, X86_PATCH_SIZE } from './x86-jump.js';
import { type Covered, emitMemory } from './x86-memory.js';

const MAX_PASSES = 20;
/** From this pass on jumps do not shrink any more. */
const PADDING_PASSES = MAX_PASSES - 5;
/** Bytes of a slot's code before the first pass. */
const ESTIMATE = 64;
/** __alignof__(struct exception_table_entry) */
const EXTABLE_ALIGN = 4;

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;

/** What a callee must preserve, with the BPF register that it holds. */
const CALLEE_REGS = [
  { reg: 6, push: [0x53], pop: [0x5b] }, // rbx
  { reg: 7, push: [0x41, 0x55], pop: [0x41, 0x5d] }, // r13
  { reg: 8, push: [0x41, 0x56], pop: [0x41, 0x5e] }, // r14
  { reg: 9, push: [0x41, 0x57], pop: [0x41, 0x5f] }, // r15
] as const;

type CalleeReg = (typeof CALLEE_REGS)[number];

/** detect_reg_usage(): by the register fields of all slots, whatever they mean. */
function detect_reg_usage(insns: readonly bpf_insn[]): CalleeReg[] {
  return CALLEE_REGS.filter(({ reg }) => insns.some((i) => i.dst_reg === reg || i.src_reg === reg));
}

function emit_prologue(prog: Prog, fn: JitFunction, ibt: boolean): void {
  EMIT_ENDBR(prog, ibt);
  emit_nops(prog, X86_PATCH_SIZE); // for a trampoline
  emit_nops(prog, 3); // where tail calls clear rax
  prog.emit(0x55, 0x48, 0x89, 0xe5); // push rbp; mov rbp, rsp
  EMIT_ENDBR(prog, ibt); // X86_TAIL_CALL_OFFSET
  if (fn.stack_depth > 0) prog.emitOff32(roundUp(fn.stack_depth, 8), 0x48, 0x81, 0xec); // sub rsp
}

interface Pass {
  readonly proglen: number;
  readonly code: number[];
  readonly extable: ExtableSpec[];
}

/** One pass over the program. Writes `context.addrs`. */
function do_jit(context: JumpContext, callee_regs_used: readonly CalleeReg[], oldproglen: number): Pass {
  const { fn, place, options, addrs, image } = context;
  const code: number[] = [];
  const extable: ExtableSpec[] = [];
  const prologue = new Prog();
  emit_prologue(prologue, fn, options.branchTracking);
  if (fn.arena !== null) prologue.emit(0x41, 0x54); // push r12
  for (const { push } of callee_regs_used) prologue.emit(...push);
  if (fn.arena !== null) emit_mov_imm64(prologue, X86_REG_R12, fn.arena.kern_vm_start);
  code.push(...prologue.bytes);
  addrs[0] = code.length;
  for (let slot = 0; slot < fn.insns.length; slot++) {
    const insn = fn.insns[slot];
    if (insn === undefined) break;
    const prog = new Prog();
    const covered = emitInsn(prog, insn, slot, context);
    if (covered !== null) {
      const at = place.image + BigInt(code.length + covered.start);
      extable.push(extableEntry(insn, slot, at, covered.end - covered.start, options));
    }
    const proglen = code.length + prog.length;
    if (insn.code === BPF_LD_IMM64) {
      slot += 1;
      addrs[slot] = proglen;
    }
    if (image && (proglen > oldproglen || proglen !== addrs[slot + 1])) {
      throw new JitError('bpf_jit: fatal error', slot, -EFAULT);
    }
    code.push(...prog.bytes);
    addrs[slot + 1] = proglen;
  }
  return { proglen: code.length, code, extable };
}

/** One instruction. Returns what needs an entry of the exception table. */
function emitInsn(prog: Prog, insn: bpf_insn, slot: number, context: JumpContext): Covered | null {
  const { fn, options } = context;
  for (const reg of [insn.dst_reg, insn.src_reg]) {
    if (reg > BPF_REG_AX) throw new JitError(`R${reg} is invalid`, slot, -EINVAL);
  }
  switch (BPF_CLASS(insn.code)) {
    case BPF_ALU:
    case BPF_ALU64:
      if (emitAlu(prog, insn, slot, fn.arena, options.bmi2)) return null;
      break;
    case BPF_JMP:
    case BPF_JMP32:
      if (emitJump(prog, insn, slot, context)) return null;
      break;
    case BPF_LD:
      if (insn.code !== BPF_LD_IMM64) break;
      emitImm64(prog, insn, slot, context);
      return null;
    default: {
      if (fn.arena === null && isArenaAccess(insn)) {
        throw new JitError('access to an arena in a program without one', slot, -EINVAL);
      }
      const covered = emitMemory(prog, insn, slot);
      if (covered !== undefined) return covered;
    }
  }
  const code = insn.code.toString(16).padStart(2, '0');
  throw new JitError(`bpf_jit: unknown opcode ${code}`, slot, -EINVAL);
}

function emitImm64(prog: Prog, insn: bpf_insn, slot: number, { fn, place }: JumpContext): void {
  const high = fn.insns[slot + 1];
  if (high === undefined || high.code !== 0) throw new JitError('invalid bpf_ld_imm64 insn', slot, -EINVAL);
  if (insn.src_reg === BPF_PSEUDO_FUNC) {
    emit_mov_imm64(prog, insn.dst_reg, place.funcAddress(slot));
  } else if (insn.src_reg === 0) {
    emit_mov_imm64(prog, insn.dst_reg, (BigInt(high.imm) << 32n) | BigInt(insn.imm >>> 0));
  } else {
    throw new JitError(`unresolved ld_imm64 with src_reg ${insn.src_reg}`, slot, -EINVAL);
  }
}

/**
 * Compiles a function until its length no longer changes, and once more into the image.
 *
 * What the kernel prints and gives up on (a program then runs in the interpreter, or is refused) is thrown.
 */
export const bpf_int_jit_compile: Jit = (fn, place, options) => {
  const callee_regs_used = detect_reg_usage(fn.insns);
  const addrs = Array.from({ length: fn.insns.length + 1 }, (_, i) => ESTIMATE * (i + 1));
  const emitPops = (prog: Prog): void => {
    for (const { pop } of [...callee_regs_used].reverse()) prog.emit(...pop);
    if (fn.arena !== null) prog.emit(0x41, 0x5c); // pop r12
  };
  let cleanup_addr = ESTIMATE * addrs.length;
  let oldproglen = 0;
  let image = false;
  for (let pass = 0; pass < MAX_PASSES || image; pass++) {
    const jmp_padding = pass >= PADDING_PASSES;
    const seen_exit = false;
    const context = { fn, place, options, addrs, cleanup_addr, seen_exit, jmp_padding, image, emitPops };
    const { proglen, code, extable } = do_jit(context, callee_regs_used, oldproglen);
    cleanup_addr = context.cleanup_addr;
    if (image) {
      if (proglen !== oldproglen) {
        const message = `bpf_jit: proglen=${proglen} != oldproglen=${oldproglen}`;
        throw new JitError(message, null, -EFAULT);
      }
      const extableOffset = roundUp(proglen, EXTABLE_ALIGN);
      return { code: Uint8Array.from(code), addrs, extable, extableOffset };
    }
    if (proglen === oldproglen) image = true;
    oldproglen = proglen;
  }
  throw new JitError(`the image still shrinks after ${MAX_PASSES} passes`, null, -EFAULT);
};

/** Atomics that take a loop, which an exception-table entry cannot step over, are not for arenas. */
export function bpf_jit_supports_insn({ code, imm }: bpf_insn, in_arena: boolean): boolean {
  if (!in_arena) return true;
  if (code !== (BPF_STX | BPF_ATOMIC | BPF_W) && code !== (BPF_STX | BPF_ATOMIC | BPF_DW)) return true;
  return imm !== (BPF_AND | BPF_FETCH) && imm !== (BPF_OR | BPF_FETCH) && imm !== (BPF_XOR | BPF_FETCH);
}

/** 0: the JIT has its own check of addresses, and the verifier need not add one. */
export const bpf_arch_uaddress_limit = (): bigint => 0n;
