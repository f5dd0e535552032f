/**
 * Rewrites of a program that has been checked: port of kernel/bpf/fixups.c (bpf-next merge 8496d9020ff3):
 * dead code, modes of loads and stores, casts between address spaces, 32-bit arithmetic on arena pointers, divisions,
 * the check for user addresses, may_goto, calls.
 *
 * Left out: what programs of this kind have no use for (verifier.ts).
 */
import { EOPNOTSUPP } from '../../kernel/errno.js';
import * as I from '../insn.js';
import { BPF_MAX_TIMED_LOOPS } from '../may_goto.js';
import { type InsnAux, type KernelCall, Place, type Verified, type VerifierInput } from './verifier.js';
import { isJump } from './verifier-cfg.js';
import { divisionPatch } from './verifier-division.js';
import { type Callee, layOut, type Op, op, opsOf, patchOps, removeOp } from './verifier-ops.js';

/** A function as it is compiled. */
export interface RewrittenFunction {
  /** Number of the function in the program as it was loaded. */
  readonly subprog: number;
  readonly insns: readonly I.bpf_insn[];
  /** By slot of `insns`: slot of the program as it was loaded, or null. */
  readonly origins: readonly (number | null)[];
  /** By slot of `insns`: what it calls, or whose address it loads. */
  readonly callees: ReadonlyMap<number, Callee>;
  /** Slots of `insns` where source lines begin, and the slot of the program that had the line. */
  readonly lines: ReadonlyMap<number, number>;
  /** Bytes below the frame pointer. */
  readonly stack_depth: number;
}

const make = (code: number, dst_reg: number, src_reg: number, off: number, imm: number): I.bpf_insn => ({
  code,
  dst_reg,
  src_reg,
  off,
  imm,
});

/** Functions that nothing calls are dropped. Throws a VerifierError. */
export function fixups(
  input: VerifierInput,
  verified: Verified,
  lines: ReadonlySet<number>,
): RewrittenFunction[] {
  const place = new Place(input);
  const functions = opsOf(input, place, lines);
  const result: RewrittenFunction[] = [];
  for (const [subprog, ops] of functions.entries()) {
    const rewriter = new Rewriter(input, verified, place, ops, verified.stack_depth[subprog] ?? 0);
    rewriter.rewrite();
    if (ops.length === 0) continue;
    result.push({
      subprog,
      insns: layOut(ops, place),
      origins: ops.map(({ origin }) => origin),
      callees: new Map(ops.flatMap(({ callee }, i) => (callee === null ? [] : [[i, callee] as const]))),
      lines: new Map(ops.flatMap(({ line }, i) => (line === null ? [] : [[i, line] as const]))),
      stack_depth: rewriter.stack_depth,
    });
  }
  return result;
}

class Rewriter {
  /** Grows by the slots of may_goto. */
  stack_depth: number;

  constructor(
    readonly input: VerifierInput,
    readonly verified: Verified,
    readonly place: Place,
    readonly ops: Op[],
    stack_depth: number,
  ) {
    this.stack_depth = stack_depth;
  }

  rewrite(): void {
    this.#hard_wire_dead_code_branches();
    this.#remove_dead_code();
    this.#remove_nops();
    for (const one of this.ops) this.#convert_ctx_access(one);
    this.#do_misc_fixups();
    this.#subreg_zext();
  }

  #aux({ origin }: Op): InsnAux | null {
    return origin === null ? null : (this.verified.aux[origin] ?? null);
  }

  #seen(one: Op | null | undefined): boolean {
    return one !== null && one !== undefined && this.#aux(one)?.seen === true;
  }

  /** bpf_opt_hard_wire_dead_code_branches() */
  #hard_wire_dead_code_branches(): void {
    for (const [i, one] of this.ops.entries()) {
      const next = this.ops[i + 1];
      const { code } = one.insn;
      if (!isJump(one.insn) || I.BPF_OP(code) === I.BPF_JA) continue;
      if (this.#seen(next) && this.#seen(one.target)) continue;
      if (this.#seen(next)) one.target = next ?? null;
      one.insn = make(I.BPF_JMP | I.BPF_JA, 0, 0, 0, 0);
    }
  }

  /** bpf_opt_remove_dead_code() */
  #remove_dead_code(): void {
    for (let i = 0; i < this.ops.length; ) {
      if (this.#seen(this.ops[i])) i += 1;
      else removeOp(this.ops, i);
    }
  }

  /** bpf_opt_remove_nops() */
  #remove_nops(): void {
    for (let i = 0; i < this.ops.length; i += 1) {
      const one = this.ops[i];
      if (one === undefined) continue;
      const { code } = one.insn;
      const may_goto = code === (I.BPF_JMP | I.BPF_JCOND);
      if ((!may_goto && code !== (I.BPF_JMP | I.BPF_JA)) || one.target !== this.ops[i + 1]) continue;
      removeOp(this.ops, i);
      // What stood in front of a may_goto may jump nowhere now.
      i -= may_goto && i > 0 ? 2 : 1;
    }
  }

  /** bpf_convert_ctx_accesses() */
  #convert_ctx_access(one: Op): void {
    const { insn } = one;
    const { code } = insn;
    const [cls, mode, size] = [I.BPF_CLASS(code), I.BPF_MODE(code), I.BPF_SIZE(code)];
    if (cls !== I.BPF_LDX && cls !== I.BPF_ST && cls !== I.BPF_STX) return;
    const type = this.#aux(one)?.ptr_type ?? 'plain';
    if (type === 'PTR_TO_ARENA') one.insn = { ...insn, code: cls | this.#arenaMode(one, mode) | size };
    if (type === 'PROBE' && cls === I.BPF_LDX) {
      one.insn = { ...insn, code: cls | (mode === I.BPF_MEM ? I.BPF_PROBE_MEM : I.BPF_PROBE_MEMSX) | size };
    }
  }

  #arenaMode({ insn, origin }: Op, mode: number): number {
    if (mode === I.BPF_ATOMIC) return I.BPF_PROBE_ATOMIC;
    if (mode !== I.BPF_MEMSX) return I.BPF_PROBE_MEM32;
    if (!this.input.supports_insn(insn)) {
      this.place.fail('sign extending loads from arena are not supported yet', EOPNOTSUPP, origin ?? 0);
    }
    return I.BPF_PROBE_MEM32SX;
  }

  /** bpf_do_misc_fixups() */
  #do_misc_fixups(): void {
    let extra = 0;
    for (let i = 0; i < this.ops.length; i += 1) {
      const one = this.ops[i];
      if (one === undefined) continue;
      const patch = this.#fixup(one);
      if (patch === null) continue;
      if (one.insn.code === (I.BPF_JMP | I.BPF_JCOND)) extra = 16;
      patchOps(this.ops, i, patch);
      i += patch.length - 1;
    }
    if (extra === 0) return;
    this.stack_depth += extra;
    const store = (off: number, imm: number): Op =>
      op(make(I.BPF_ST | I.BPF_MEM | I.BPF_DW, I.BPF_REG_FP, 0, off, imm), null);
    const first = this.ops[0];
    const init = [store(-this.stack_depth, BPF_MAX_TIMED_LOOPS), store(-this.stack_depth + 8, 0)];
    // The first source line begins with the function; jumps to its first instruction stay with that.
    if (init[0] !== undefined && first !== undefined) {
      init[0].line = first.line;
      first.line = null;
    }
    this.ops.unshift(...init);
  }

  /** What takes the place of an instruction; null if it stays, changed or not. */
  #fixup(one: Op): readonly Op[] | null {
    const { insn } = one;
    const { code, off, imm } = insn;
    if (code === (I.BPF_ALU64 | I.BPF_MOV | I.BPF_X) && imm !== 0) {
      if ((off === I.BPF_ADDR_SPACE_CAST && imm === 1) || this.input.noUserConv) {
        one.insn = { ...insn, code: I.BPF_ALU | I.BPF_MOV | I.BPF_X, off: 0, imm: 0 };
      }
      return null;
    }
    if (this.#aux(one)?.needs_zext === true) {
      one.insn = { ...insn, code: I.BPF_ALU | I.BPF_OP(code) | I.BPF_SRC(code) };
    }
    const division = divisionPatch(one);
    if (division !== null) return division;
    const mode = I.BPF_MODE(code);
    const probes = mode === I.BPF_PROBE_MEM || mode === I.BPF_PROBE_MEMSX;
    if (I.BPF_CLASS(code) === I.BPF_LDX && probes) return this.#uaddressPatch(one);
    if (code === (I.BPF_JMP | I.BPF_JCOND)) return this.#mayGotoPatch(one);
    if (one.callee?.kind === 'kernel') {
      one.callee = { ...one.callee, non_sleepable: this.#aux(one)?.non_sleepable === true };
      return this.#argProgPatch(one, this.input.calls.get(one.callee.slot)?.arg_prog ?? null);
    }
    return null;
  }

  /** fixup_kfunc_call(): some kfuncs are told which program calls. */
  #argProgPatch(one: Op, arg_prog: KernelCall['arg_prog']): readonly Op[] | null {
    if (arg_prog === null) return null;
    const { regno, aux } = arg_prog;
    const half = (value: bigint): number => Number(BigInt.asIntN(32, value));
    return [
      op(make(I.BPF_LD_IMM64, regno, 0, 0, half(aux)), one.origin),
      op(make(0, 0, 0, 0, half(aux >> 32n)), one.origin),
      one,
    ];
  }

  /** A user address must not be read: there the load gives 0. */
  #uaddressPatch(one: Op): readonly Op[] | null {
    const limit = this.input.uaddress_limit;
    if (limit === 0n) return null;
    const { dst_reg, src_reg, off } = one.insn;
    const AX = I.BPF_REG_AX;
    const from = one.origin;
    const patch = [op(make(I.BPF_ALU64 | I.BPF_MOV | I.BPF_X, AX, src_reg, 0, 0), from)];
    if (off !== 0) patch.push(op(make(I.BPF_ALU64 | I.BPF_ADD | I.BPF_K, AX, 0, 0, off), from));
    patch.push(
      op(make(I.BPF_ALU64 | I.BPF_RSH | I.BPF_K, AX, 0, 0, 32), from),
      op(make(I.BPF_JMP | I.BPF_JLE | I.BPF_K, AX, 0, 2, Number(BigInt.asIntN(32, limit >> 32n))), from),
      one,
      op(make(I.BPF_JMP | I.BPF_JA, 0, 0, 1, 0), from),
      op(make(I.BPF_ALU64 | I.BPF_MOV | I.BPF_K, dst_reg, 0, 0, 0), from),
    );
    return patch;
  }

  /** The count lies at depth-16, the time of the first iteration at depth-8. */
  #mayGotoPatch(one: Op): readonly Op[] {
    const { AX, FP } = { AX: I.BPF_REG_AX, FP: I.BPF_REG_FP };
    const count = -this.stack_depth - 16;
    const from = one.origin;
    const leave = op(make(I.BPF_JMP | I.BPF_JEQ | I.BPF_K, AX, 0, 0, 0), from);
    leave.target = one.target;
    const call = make(I.BPF_JMP | I.BPF_CALL, 0, 0, 0, 0);
    return [
      op(make(I.BPF_LDX | I.BPF_MEM | I.BPF_DW, AX, FP, count, 0), from),
      leave,
      op(make(I.BPF_ALU64 | I.BPF_SUB | I.BPF_K, AX, 0, 0, 1), from),
      op(make(I.BPF_JMP | I.BPF_JNE | I.BPF_K, AX, 0, 2, 0), from),
      op(make(I.BPF_ALU64 | I.BPF_MOV | I.BPF_K, AX, 0, 0, count), from),
      op(call, from, { kind: 'timed_may_goto' }),
      op(make(I.BPF_STX | I.BPF_MEM | I.BPF_DW, FP, AX, count, 0), from),
    ];
  }

  /** bpf_opt_subreg_zext_lo32_rnd_hi32(): no JIT here asks for more than compare-and-exchange needs. */
  #subreg_zext(): void {
    for (let i = 0; i < this.ops.length; i += 1) {
      const one = this.ops[i];
      if (one === undefined || one.insn.code !== (I.BPF_STX | I.BPF_ATOMIC | I.BPF_W)) continue;
      if (one.insn.imm !== I.BPF_CMPXCHG || this.#aux(one)?.zext_dst !== true) continue;
      const zext = make(I.BPF_ALU | I.BPF_MOV | I.BPF_X, I.BPF_REG_0, I.BPF_REG_0, 0, 1);
      patchOps(this.ops, i, [one, op(zext, one.origin)]);
      i += 1;
    }
  }
}
