/**
 * Types of registers and stack slots on all paths: do_check() of kernel/bpf/verifier.c (bpf-next merge 8496d9020ff3)
 * as a fixpoint over joined states. verifier.ts says what is left out.
 */
import { E2BIG, EACCES, EINVAL } from '../../kernel/errno.js';
import * as I from '../insn.js';
import { type InsnAux, type KernelCall, Place, type Verified, type VerifierInput } from './verifier.js';
import { is_branch_taken } from './verifier-alu.js';
import { isCall, isExit, isGoto, isSubprogCall, jumpTarget, MAX_CALL_FRAMES } from './verifier-cfg.js';
import {
  check_resource_leak,
  checkCallWithLock,
  type Held,
  heldAfter,
  holdsNothing,
  NOTHING_HELD,
} from './verifier-locks.js';
import { Memory } from './verifier-memory.js';
import { aluResult } from './verifier-operands.js';
import {
  constant,
  type Frame,
  has,
  joinStates,
  NOT_INIT,
  type State,
  sameState,
  setOf,
  UNKNOWN,
  type Value,
  type Variant,
} from './verifier-value.js';

/** BPF_COMPLEXITY_LIMIT_INSNS */
const LIMIT_INSNS = 1_000_000;

const BYTES: Readonly<Record<number, number>> = { [I.BPF_B]: 1, [I.BPF_H]: 2, [I.BPF_W]: 4, [I.BPF_DW]: 8 };

interface Edge {
  readonly slot: number;
  readonly state: State;
}

/** Throws a VerifierError. */
export function do_check(input: VerifierInput): Verified {
  return new Checker(input).run();
}

class Checker {
  readonly #place: Place;
  readonly #aux: InsnAux[];
  readonly #memory: Memory;
  readonly #stack_depth: number[];
  #processed = 0;

  constructor(readonly input: VerifierInput) {
    this.#place = new Place(input);
    this.#aux = input.insns.map(() => ({
      seen: false,
      ptr_type: 'plain',
      needs_zext: false,
      zext_dst: false,
      non_sleepable: false,
    }));
    this.#stack_depth = input.subprogs.map(() => 0);
    this.#memory = new Memory(input, this.#place, this.#stack_depth);
  }

  run(): Verified {
    const regs = entryRegs(0, [[{ type: 'PTR_TO_CTX', off: 0 }]]);
    this.#function({ frames: [{ subprog: 0, regs, slots: new Map() }], held: NOTHING_HELD, r0_defs: [] });
    return { aux: this.#aux, stack_depth: this.#stack_depth };
  }

  /** Walks the innermost frame's function; the states behind its exits, one for each of what is held, with its frame. */
  #function(entry: State): readonly State[] {
    const subprog = entry.frames.at(-1)?.subprog ?? 0;
    const states = new States();
    const exits = new Map<string, State>();
    states.reach({ slot: this.#place.startOf(subprog), state: entry });
    for (let next = states.next(); next !== null; next = states.next()) {
      for (const edge of this.#insn(next.slot, next.state)) {
        const { key } = edge.state.held;
        const old = exits.get(key);
        if (edge.slot >= 0) states.reach(edge);
        else exits.set(key, old === undefined ? edge.state : joinStates(old, edge.state));
      }
    }
    if (exits.size === 0 && subprog === 0) {
      this.#place.fail(`infinite loop detected at insn ${states.last}`, EINVAL, states.last);
    }
    return [...exits.values()];
  }

  /** One instruction: where it leads. Slot -1 is the caller. */
  #insn(slot: number, state: State): Edge[] {
    const insn = this.input.insns[slot];
    const aux = this.#aux[slot];
    if (insn === undefined || aux === undefined) return [];
    this.#processed += 1;
    if (this.#processed > LIMIT_INSNS) {
      this.#place.fail(`BPF program is too large. Processed ${this.#processed} insn`, E2BIG, slot);
    }
    aux.seen = true;
    const next = (after: State): Edge[] => [{ slot: slot + 1, state: after }];
    switch (I.BPF_CLASS(insn.code)) {
      case I.BPF_ALU:
      case I.BPF_ALU64:
        return next(this.#alu(slot, insn, aux, state));
      case I.BPF_LD:
        return this.#ld(slot, insn, state);
      case I.BPF_LDX:
        return next(this.#ldx(slot, insn, aux, state));
      case I.BPF_ST:
      case I.BPF_STX:
        return next(this.#store(slot, insn, aux, state));
      default:
        return this.#jump(slot, insn, aux, state);
    }
  }

  /** check_reg_arg() of a source: what it may hold. `wide`: all 64 bits are used. */
  #read(slot: number, state: State, r: number, wide: boolean): Value {
    const value = state.frames.at(-1)?.regs[r] ?? NOT_INIT;
    if (has(value, 'NOT_INIT')) this.#place.fail(`R${r} !read_ok`, EACCES, slot);
    if (r === 0 && wide) {
      for (const def of state.r0_defs) {
        const aux = this.#aux[def];
        if (aux !== undefined) aux.zext_dst = true;
      }
    }
    return value;
  }

  /** check_reg_arg() of a destination. */
  #write(slot: number, state: State, r: number, value: Value): State {
    if (r === 10) this.#place.fail('frame pointer is read only', EACCES, slot);
    return { ...withReg(state, r, value), r0_defs: r === 0 ? [] : state.r0_defs };
  }

  #alu(slot: number, insn: I.bpf_insn, aux: InsnAux, state: State): State {
    const { code, dst_reg, src_reg, off, imm } = insn;
    const wide = I.BPF_CLASS(code) === I.BPF_ALU64;
    const op = I.BPF_OP(code);
    const unary = op === I.BPF_NEG || op === I.BPF_END;
    const register = I.BPF_SRC(code) === I.BPF_X && !unary;
    const isCast = code === (I.BPF_ALU64 | I.BPF_MOV | I.BPF_X) && off === I.BPF_ADDR_SPACE_CAST;
    if (isCast && !this.input.hasArena) {
      const message = 'addr_space_cast insn can only be used in a program that has an associated arena';
      this.#place.fail(message, EINVAL, slot);
    }
    const src = register ? this.#read(slot, state, src_reg, wide) : constant(BigInt(imm));
    const dst =
      op === I.BPF_MOV
        ? NOT_INIT
        : this.#read(slot, state, dst_reg, wide || (op === I.BPF_END && imm === 64));
    if (isCast) return this.#write(slot, state, dst_reg, imm === 1 ? [{ type: 'PTR_TO_ARENA' }] : UNKNOWN);
    const { value, needs_zext } = aluResult(this.#place, slot, insn, dst, src);
    if (needs_zext) aux.needs_zext = true;
    return this.#write(slot, state, dst_reg, value);
  }

  #ld(slot: number, insn: I.bpf_insn, state: State): Edge[] {
    if (insn.code !== I.BPF_LD_IMM64) {
      this.#place.fail('BPF_LD_[ABS|IND] instructions not allowed for this program type', EINVAL, slot);
    }
    const high = this.#aux[slot + 1];
    if (high !== undefined) high.seen = true;
    return [{ slot: slot + 2, state: this.#write(slot, state, insn.dst_reg, this.#wide(slot, insn)) }];
  }

  #wide(slot: number, insn: I.bpf_insn): Value {
    const wide = this.input.wide.get(slot);
    if (wide === undefined) {
      const high = this.input.insns[slot + 1]?.imm ?? 0;
      return constant((BigInt(high) << 32n) | BigInt(insn.imm >>> 0));
    }
    switch (wide.kind) {
      case 'map':
        return [{ type: 'CONST_PTR_TO_MAP', map: wide.map, tname: wide.tname }];
      case 'arena_value':
        return UNKNOWN;
      case 'map_value':
        return [{ type: 'PTR_TO_MAP_VALUE', map: wide.map, size: wide.size, off: wide.off }];
      case 'symbol':
        return wide.type === 'SCALAR_VALUE' ? UNKNOWN : [{ type: wide.type }];
      case 'func':
        return [{ type: 'PTR_TO_FUNC', subprog: wide.subprog }];
    }
  }

  #ldx(slot: number, insn: I.bpf_insn, aux: InsnAux, state: State): State {
    const mode = I.BPF_MODE(insn.code);
    const base = this.#read(slot, state, insn.src_reg, true);
    const size = BYTES[I.BPF_SIZE(insn.code)] ?? 8;
    const access = {
      slot,
      regno: insn.src_reg,
      base,
      off: insn.off,
      size,
      kind: 'read',
      stored: null,
    } as const;
    const done = this.#memory.check_mem_access(state, access);
    aux.ptr_type = done.ptr_type;
    return this.#write(slot, done.state, insn.dst_reg, mode === I.BPF_MEM ? done.value : UNKNOWN);
  }

  #store(slot: number, insn: I.bpf_insn, aux: InsnAux, state: State): State {
    const size = BYTES[I.BPF_SIZE(insn.code)] ?? 8;
    const isStx = I.BPF_CLASS(insn.code) === I.BPF_STX;
    if (I.BPF_MODE(insn.code) === I.BPF_ATOMIC) return this.#atomic(slot, insn, aux, state, size);
    const stored = isStx ? this.#read(slot, state, insn.src_reg, size === 8) : constant(BigInt(insn.imm));
    const base = this.#read(slot, state, insn.dst_reg, true);
    const access = { slot, regno: insn.dst_reg, base, off: insn.off, size, kind: 'write', stored } as const;
    const done = this.#memory.check_mem_access(state, access);
    aux.ptr_type = done.ptr_type;
    return done.state;
  }

  /** check_atomic() */
  #atomic(slot: number, insn: I.bpf_insn, aux: InsnAux, state: State, size: number): State {
    const { dst_reg, src_reg, off, imm } = insn;
    const isLoad = imm === I.BPF_LOAD_ACQ;
    const isStore = imm === I.BPF_STORE_REL;
    if (!isLoad && !isStore && size < 4) this.#place.fail('invalid atomic operand size', EINVAL, slot);
    if (!isLoad && !isStore && !isRmw(imm)) {
      this.#place.fail(
        `BPF_ATOMIC uses invalid atomic opcode ${(imm >>> 0).toString(16).padStart(2, '0')}`,
        EINVAL,
        slot,
      );
    }
    const regno = isLoad ? src_reg : dst_reg;
    const source = isLoad ? null : this.#read(slot, state, src_reg, size === 8);
    if (imm === I.BPF_CMPXCHG) this.#read(slot, state, 0, size === 8);
    const base = this.#read(slot, state, regno, true);
    if (has(base, 'PTR_TO_ARENA') && !this.input.supports_insn(insn)) {
      this.#place.fail(
        `BPF_ATOMIC ${isLoad ? 'loads from' : 'stores into'} R${regno} arena is not allowed`,
        EACCES,
        slot,
      );
    }
    const stored = isStore ? source : null;
    const kind = isLoad ? 'read' : isStore ? 'write' : 'atomic';
    const done = this.#memory.check_mem_access(state, { slot, regno, base, off, size, kind, stored });
    aux.ptr_type = done.ptr_type;
    if (isStore) return done.state;
    if (isLoad) return this.#write(slot, done.state, dst_reg, done.value);
    if (imm === I.BPF_CMPXCHG) {
      const after = this.#write(slot, done.state, 0, UNKNOWN);
      return size === 4 ? { ...after, r0_defs: [slot] } : after;
    }
    return (imm & I.BPF_FETCH) !== 0 ? this.#write(slot, done.state, src_reg, UNKNOWN) : done.state;
  }

  #jump(slot: number, insn: I.bpf_insn, aux: InsnAux, state: State): Edge[] {
    if (isExit(insn)) {
      // A static subprogram may return nothing; then its caller must not look at R0. It may also keep its locks.
      if (state.frames.length === 1) {
        check_resource_leak(this.#place, slot, state.held);
        this.#read(slot, state, 0, true);
      }
      return [{ slot: -1, state }];
    }
    if (isSubprogCall(insn)) return this.#callSubprog(slot, insn, state);
    if (isCall(insn)) return this.#callKernel(slot, aux, state);
    const target = jumpTarget(insn, slot);
    if (isGoto(insn)) return [{ slot: target, state }];
    if (I.BPF_OP(insn.code) === I.BPF_JCOND) {
      return [
        { slot: slot + 1, state },
        { slot: target, state },
      ];
    }
    return this.#condition(slot, insn, state, target);
  }

  #condition(slot: number, insn: I.bpf_insn, state: State, target: number): Edge[] {
    const wide = I.BPF_CLASS(insn.code) === I.BPF_JMP;
    const register = I.BPF_SRC(insn.code) === I.BPF_X;
    const src = register ? this.#read(slot, state, insn.src_reg, wide) : constant(BigInt(insn.imm));
    const dst = this.#read(slot, state, insn.dst_reg, wide);
    const edge = (taken: boolean): Edge[] => {
      const possible = (a: Variant, b: Variant): boolean => is_branch_taken(insn.code, a, b) !== !taken;
      const left = dst.filter((a) => src.some((b) => possible(a, b)));
      const right = src.filter((b) => dst.some((a) => possible(a, b)));
      if (left.length === 0) return [];
      const equal = wide && I.BPF_OP(insn.code) === (taken ? I.BPF_JEQ : I.BPF_JNE);
      let after = withReg(state, insn.dst_reg, equal ? setOf(left.map((v) => pinned(v, right))) : left);
      if (register)
        after = withReg(after, insn.src_reg, equal ? setOf(right.map((v) => pinned(v, left))) : right);
      return [{ slot: taken ? target : slot + 1, state: after }];
    };
    return [...edge(false), ...edge(true)];
  }

  #callSubprog(slot: number, insn: I.bpf_insn, state: State): Edge[] {
    const caller = state.frames.at(-1);
    if (caller === undefined) return [];
    const subprog = this.#place.subprogOf(slot + 1 + insn.imm);
    if (state.frames.length >= MAX_CALL_FRAMES) {
      this.#place.fail(`the call stack of ${state.frames.length + 1} frames is too deep`, E2BIG, slot);
    }
    return this.#enter(slot, subprog, caller.regs.slice(1, 6), state).map((exit) => {
      const returned = exit.frames.at(-1)?.regs[0] ?? NOT_INIT;
      const back: State = { ...exit, frames: exit.frames.slice(0, -1) };
      if (returned.some((v) => v.type === 'PTR_TO_STACK' && v.frame === back.frames.length)) {
        this.#place.fail('cannot return stack pointer to the caller', EINVAL, slot);
      }
      return { slot: slot + 1, state: withReg(withoutArguments(back), 0, returned) };
    });
  }

  #enter(slot: number, subprog: number, args: readonly Value[], state: State): readonly State[] {
    const running = state.frames.at(-1)?.subprog ?? 0;
    if (state.frames.some((frame) => frame.subprog === subprog)) {
      const [from, to] = [this.#place.nameOf(running), this.#place.nameOf(subprog)];
      this.#place.fail(`recursive call from ${from}() to ${to}()`, EINVAL, slot);
    }
    const frame: Frame = {
      subprog,
      regs: entryRegs(state.frames.length, args),
      slots: new Map(),
    };
    return this.#function({ ...state, frames: [...state.frames, frame], r0_defs: [] });
  }

  #callKernel(slot: number, aux: InsnAux, state: State): Edge[] {
    const call = this.input.calls.get(slot);
    if (call === undefined) this.#place.fail('a call by number has no known function here', EINVAL, slot);
    checkCallWithLock(this.#place, slot, call, state.held);
    // in_sleepable_context()
    if (!this.input.sleepable || !holdsNothing(state.held)) aux.non_sleepable = true;
    const args: Value[] = [];
    for (let r = 1; r <= 5; r += 1) {
      const value = state.frames.at(-1)?.regs[r] ?? NOT_INIT;
      if (call.args === null ? !has(value, 'NOT_INIT') : r <= call.args)
        args.push(this.#read(slot, state, r, true));
    }
    let after = this.#memory.afterCall(state, args, slot);
    for (const variant of args.flat()) {
      if (variant.type === 'PTR_TO_FUNC') this.#callback(slot, variant.subprog, after);
    }
    after = { ...withoutArguments(after), r0_defs: [] };
    const returned = returnValue(call);
    return heldAfter(this.#place, slot, call, state.held).map(({ held, r0 }) => ({
      slot: slot + 1,
      state: withReg({ ...after, held }, 0, r0 ?? returned),
    }));
  }

  /** A function that a kernel function calls; what with is not known. */
  #callback(slot: number, subprog: number, state: State): void {
    for (const exit of this.#enter(slot, subprog, Array(5).fill(UNKNOWN), state)) {
      const returned = exit.frames.at(-1)?.regs[0] ?? UNKNOWN;
      if (returned.some(({ type }) => type !== 'SCALAR_VALUE')) {
        this.#place.fail('R0 not a scalar value', EACCES, slot);
      }
      if (exit.held.key !== state.held.key) {
        this.#place.fail('a callback that takes or gives back a lock is not followed here', EINVAL, slot);
      }
    }
  }
}

/** What is known at each slot, and where that has changed. */
class States {
  /** By slot, then by what is held. */
  readonly #states = new Map<number, Map<string, State>>();
  readonly #open: { readonly slot: number; readonly held: Held }[] = [];

  reach({ slot, state }: Edge): void {
    const { held } = state;
    const here = this.#states.get(slot) ?? new Map<string, State>();
    this.#states.set(slot, here);
    const old = here.get(held.key);
    const joined = old === undefined ? state : joinStates(old, state);
    if (old !== undefined && sameState(old, joined)) return;
    here.set(held.key, joined);
    const isOpen = this.#open.some((other) => other.slot === slot && other.held.key === held.key);
    if (!isOpen) this.#open.push({ slot, held });
  }

  /**
   * In the order of slots, most of what leads to an instruction is there when its turn comes. What holds less goes
   * first, so that a loop that takes more each time is left, too.
   */
  next(): Edge | null {
    let first = 0;
    for (const [i, { slot, held }] of this.#open.entries()) {
      const best = this.#open[first];
      const less = held.count - (best?.held.count ?? 0);
      if (less < 0 || (less === 0 && slot < (best?.slot ?? 0))) first = i;
    }
    const [found] = this.#open.splice(first, 1);
    const state = found === undefined ? undefined : this.#states.get(found.slot)?.get(found.held.key);
    return found === undefined || state === undefined ? null : { slot: found.slot, state };
  }

  /** The highest slot that was reached. */
  get last(): number {
    return Math.max(...this.#states.keys());
  }
}

function isRmw(imm: number): boolean {
  if (imm === I.BPF_XCHG || imm === I.BPF_CMPXCHG) return true;
  return [I.BPF_ADD, I.BPF_AND, I.BPF_OR, I.BPF_XOR].includes(imm & ~I.BPF_FETCH);
}

function returnValue({ returns }: KernelCall): Value {
  if (returns === null) return NOT_INIT;
  return returns === 'SCALAR_VALUE' ? UNKNOWN : [{ type: returns }];
}

/** What `v` is where it equals one of `others`. */
function pinned(v: Variant, others: readonly Variant[]): Variant {
  const [other] = others;
  const known = others.length === 1 && other?.type === 'SCALAR_VALUE' && other.value !== null;
  return known && v.type === 'SCALAR_VALUE' && v.value === null ? other : v;
}

function entryRegs(frame: number, args: readonly Value[]): Value[] {
  const regs: Value[] = Array(11).fill(NOT_INIT);
  args.forEach((value, i) => {
    regs[i + 1] = value;
  });
  regs[10] = [{ type: 'PTR_TO_STACK', frame, off: 0 }];
  return regs;
}

function withReg(state: State, r: number, value: Value): State {
  const last = state.frames.length - 1;
  const frames = state.frames.map((frame, i) =>
    i === last ? { ...frame, regs: frame.regs.with(r, value) } : frame,
  );
  return { ...state, frames };
}

/** R1 to R5 hold nothing behind a call. */
function withoutArguments(state: State): State {
  let after = state;
  for (let r = 1; r <= 5; r += 1) after = withReg(after, r, NOT_INIT);
  return after;
}
