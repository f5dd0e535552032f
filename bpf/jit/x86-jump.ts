/**
 * Jumps, calls and the return of the x86-64 JIT: those cases of do_jit(), emit_patch() and emit_return() in
 * arch/x86/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: indirect jumps (BPF_JA with a register), tail calls, the accounting of call depth, and the
 * barrier before the return of what has been classic BPF.
 */
import { u64 } from '../../emu/address.js';
import { EFAULT, EINVAL } from '../../kernel/errno.js';
import {
  BPF_CALL,
  BPF_CLASS,
  BPF_EXIT,
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
  BPF_OP,
  BPF_SRC,
  BPF_X,
  type bpf_insn,
} from '../insn.js';
import { JitError, type JitFunction, type JitOptions, type JitPlace } from './jit.js';
import {
  add_1reg,
  add_2reg,
  emit_nops,
  is_imm8,
  is_imm8_jmp_offset,
  is_simm32,
  maybe_emit_1mod,
  maybe_emit_mod,
  type Prog,
} from './x86-emit.js';

/** X86_PATCH_SIZE: a call or jump with a distance of 32 bits, and the nop in its place. */
export const X86_PATCH_SIZE = 5;

/** struct jit_context, and what a pass knows. */
export interface JumpContext {
  readonly fn: JitFunction;
  readonly place: JitPlace;
  readonly options: JitOptions;
  /**
   * By slot: where its code begins. From this pass up to the current slot, from the last one behind it; at
   * first an estimate.
   */
  readonly addrs: number[];
  /** Offset of the epilogue, which is where the first BPF_EXIT stands. */
  cleanup_addr: number;
  seen_exit: boolean;
  /** Whether what has shrunk is filled with nops. */
  readonly jmp_padding: boolean;
  /** Whether this pass writes the image; before that nothing is where it will be. */
  readonly image: boolean;
  /** Pops what the prologue has pushed. */
  emitPops(prog: Prog): void;
}

/**
 * An instruction of BPF_JMP or BPF_JMP32. False: there is none with this code.
 * @throws JitError for a jump to nowhere, or a call that does not reach
 */
export function emitJump(prog: Prog, insn: bpf_insn, slot: number, context: JumpContext): boolean {
  const op = BPF_OP(insn.code);
  switch (op) {
    case BPF_JA:
      if (BPF_SRC(insn.code) === BPF_X) {
        if (BPF_CLASS(insn.code) === BPF_JMP32) return false;
        throw new JitError('indirect jumps are not modelled', slot, -EINVAL);
      }
      emitGoto(prog, insn, slot, context);
      return true;
    case BPF_CALL:
      if (insn.code !== (BPF_JMP | BPF_CALL)) return false;
      emit_call(prog, context.place.callTarget(slot), slot, context);
      return true;
    case BPF_EXIT:
      if (insn.code !== (BPF_JMP | BPF_EXIT)) return false;
      emitExit(prog, slot, context);
      return true;
    default: {
      const jmp_cond = condition(op);
      if (jmp_cond === undefined) return false;
      emitCompare(prog, insn);
      emit_cond_jmp(prog, jmp_cond, insn, slot, context);
      return true;
    }
  }
}

/** Opcode of the short form; the near one is 0x0f and 0x10 more. */
function condition(op: number): number | undefined {
  switch (op) {
    case BPF_JEQ:
      return 0x74;
    case BPF_JSET:
    case BPF_JNE:
      return 0x75;
    case BPF_JGT:
      return 0x77;
    case BPF_JLT:
      return 0x72;
    case BPF_JGE:
      return 0x73;
    case BPF_JLE:
      return 0x76;
    case BPF_JSGT:
      return 0x7f;
    case BPF_JSLT:
      return 0x7c;
    case BPF_JSGE:
      return 0x7d;
    case BPF_JSLE:
      return 0x7e;
    default:
      return undefined;
  }
}

function emitCompare(prog: Prog, insn: bpf_insn): void {
  const { dst_reg, src_reg, imm } = insn;
  const is64 = BPF_CLASS(insn.code) === BPF_JMP;
  const set = BPF_OP(insn.code) === BPF_JSET;
  if (BPF_SRC(insn.code) === BPF_X) {
    maybe_emit_mod(prog, dst_reg, src_reg, is64);
    prog.emit(set ? 0x85 : 0x39, add_2reg(0xc0, dst_reg, src_reg));
  } else if (set) {
    maybe_emit_1mod(prog, dst_reg, is64);
    prog.emitOff32(imm, 0xf7, add_1reg(0xc0, dst_reg));
  } else if (imm === 0) {
    maybe_emit_mod(prog, dst_reg, dst_reg, is64);
    prog.emit(0x85, add_2reg(0xc0, dst_reg, dst_reg));
  } else {
    maybe_emit_1mod(prog, dst_reg, is64);
    if (is_imm8(imm)) prog.emit(0x83, add_1reg(0xf8, dst_reg), imm);
    else prog.emitOff32(imm, 0x81, add_1reg(0xf8, dst_reg));
  }
}

const at = (addrs: readonly number[], index: number): number => addrs[index] ?? 0;

/** From the end of the slot's code to the beginning of the slot `delta` behind it, by the last pass. */
function distance(slot: number, delta: number, { fn, addrs }: JumpContext): number {
  const target = slot + 1 + delta;
  const inside = target >= 0 && target < fn.insns.length;
  if (!inside || fn.insns[target - 1]?.code === BPF_LD_IMM64) {
    throw new JitError(`jump to slot ${target}, where no instruction begins`, slot, -EINVAL);
  }
  return at(addrs, target) - at(addrs, slot + 1);
}

/** INSN_SZ_DIFF: by how much this slot's code is shorter than in the last pass. */
const INSN_SZ_DIFF = (prog: Prog, slot: number, { addrs }: JumpContext): number =>
  at(addrs, slot + 1) - at(addrs, slot) - prog.length;

function pad(prog: Prog, nops: number, allowed: readonly number[], what: string, slot: number): void {
  if (!allowed.includes(nops)) {
    throw new JitError(`unexpected ${what} padding: ${nops} bytes`, slot, -EFAULT);
  }
  emit_nops(prog, nops);
}

function emit_cond_jmp(
  prog: Prog,
  jmp_cond: number,
  insn: bpf_insn,
  slot: number,
  context: JumpContext,
): void {
  const jmp_offset = distance(slot, insn.off, context);
  if (is_imm8_jmp_offset(jmp_offset)) {
    if (context.jmp_padding) pad(prog, INSN_SZ_DIFF(prog, slot, context) - 2, [0, 4], 'jmp_cond', slot);
    prog.emit(jmp_cond, jmp_offset);
  } else {
    prog.emitOff32(jmp_offset, 0x0f, jmp_cond + 0x10);
  }
}

function emitGoto(prog: Prog, insn: bpf_insn, slot: number, context: JumpContext): void {
  const delta = BPF_CLASS(insn.code) === BPF_JMP ? insn.off : insn.imm;
  // A jump to itself, as dead code is replaced with: always the short form.
  const jmp_offset = delta === -1 ? -2 : distance(slot, delta, context);
  if (jmp_offset !== 0) {
    emit_jmp(prog, jmp_offset, slot, context);
  } else if (context.jmp_padding) {
    pad(prog, INSN_SZ_DIFF(prog, slot, context), [0, 2, 5], 'nop jump', slot);
  }
}

function emit_jmp(prog: Prog, jmp_offset: number, slot: number, context: JumpContext): void {
  if (is_imm8_jmp_offset(jmp_offset)) {
    if (context.jmp_padding) pad(prog, INSN_SZ_DIFF(prog, slot, context) - 2, [0, 3], 'jump', slot);
    prog.emit(0xeb, jmp_offset);
  } else {
    prog.emitOff32(jmp_offset, 0xe9);
  }
}

/** emit_patch(): an opcode, and where it goes relative to its end. */
function emit_patch(prog: Prog, func: bigint, opcode: number, slot: number, context: JumpContext): void {
  const ip = context.place.image + BigInt(at(context.addrs, slot) + prog.length);
  const offset = BigInt.asIntN(64, u64(func - (ip + BigInt(X86_PATCH_SIZE))));
  if (context.image && !is_simm32(offset)) {
    const target = u64(func).toString(16).padStart(16, '0');
    throw new JitError(`Target call ${target} is out of range`, slot, -EINVAL);
  }
  prog.emitOff32(Number(BigInt.asIntN(32, offset)), opcode);
}

function emit_call(prog: Prog, func: bigint, slot: number, context: JumpContext): void {
  emit_patch(prog, func, 0xe8, slot, context);
}

/** The first BPF_EXIT is the epilogue, the others jump to it. */
function emitExit(prog: Prog, slot: number, context: JumpContext): void {
  if (context.seen_exit) {
    emit_jmp(prog, context.cleanup_addr - at(context.addrs, slot + 1), slot, context);
    return;
  }
  context.seen_exit = true;
  context.cleanup_addr = at(context.addrs, slot);
  context.emitPops(prog);
  prog.emit(0xc9); // leave
  emit_return(prog, slot, context);
}

function emit_return(prog: Prog, slot: number, context: JumpContext): void {
  const { return_thunk, sls } = context.options;
  if (return_thunk !== null) {
    emit_patch(prog, return_thunk, 0xe9, slot, context);
  } else {
    prog.emit(0xc3);
    if (sls) prog.emit(0xcc);
  }
}
