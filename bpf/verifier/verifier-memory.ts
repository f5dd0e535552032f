/**
 * Loads and stores: check_mem_access() and save_aux_ptr_type() of kernel/bpf/verifier.c (bpf-next merge
 * 8496d9020ff3).
 */
import { EACCES, EINVAL } from '../../kernel/errno.js';
import type { AccessType, Place, VerifierInput } from './verifier.js';
import { MAX_BPF_STACK } from './verifier-cfg.js';
import {
  type Frame,
  has,
  isScalar,
  joinStates,
  reg_type_str,
  type State,
  setOf,
  slotValue,
  UNKNOWN,
  type Value,
  type Variant,
} from './verifier-value.js';

/** One access as an instruction makes it. */
export interface Access {
  readonly slot: number;
  /** Base register, and what it may hold. */
  readonly regno: number;
  readonly base: Value;
  readonly off: number;
  /** In bytes. */
  readonly size: number;
  readonly kind: 'read' | 'write' | 'atomic';
  /** What a write stores; null for what is not followed. */
  readonly stored: Value | null;
}

export interface Accessed {
  readonly state: State;
  /** What a read gives. */
  readonly value: Value;
  readonly ptr_type: AccessType;
}

export function withSlot(state: State, frame: number, off: number, value: Value): State {
  const frames = state.frames.map((old, i): Frame => {
    if (i !== frame) return old;
    const slots = new Map(old.slots);
    if (isScalar(value) && value.some((v) => v.type === 'SCALAR_VALUE' && v.value === null))
      slots.delete(off);
    else slots.set(off, value);
    return { ...old, slots };
  });
  return { ...state, frames };
}

/** What is left of a slot that is written in part, or by somebody else. */
const scrubbed = (state: State, frame: number, off: number): State => withSlot(state, frame, off, UNKNOWN);

/** Checks and carries out accesses; keeps the stack depth of each function. */
export class Memory {
  constructor(
    readonly input: VerifierInput,
    readonly place: Place,
    /** By subprogram, in bytes. */
    readonly stack_depth: number[],
  ) {}

  check_mem_access(state: State, access: Access): Accessed {
    const { base, slot } = access;
    // A store through one of several pointers: each slot has what it had, or what one of them made of it.
    let after: State | null = null;
    const values: Variant[] = [];
    for (const variant of base) {
      const one = this.#access(state, access, variant);
      after = after === null ? one.state : joinStates(after, one.state);
      values.push(...one.value);
    }
    return {
      state: after ?? state,
      value: setOf(values),
      ptr_type: this.#ptrType(base, access.kind, slot),
    };
  }

  /** save_aux_ptr_type() over all paths. */
  #ptrType(base: Value, kind: Access['kind'], slot: number): AccessType {
    const classes = new Set(base.map((variant) => classOf(variant)));
    if (classes.size > 1) {
      // Loads through trusted and untrusted pointers mix; the exception table is for the worst of them.
      const only = (...allowed: string[]): boolean => [...classes].every((c) => allowed.includes(c));
      const mixes = only('mem', 'other') || (kind === 'read' && only('mem', 'trusted', 'untrusted'));
      if (!mixes) this.place.fail('same insn cannot be used with different pointers', EINVAL, slot);
    }
    if (classes.has('arena')) return 'PTR_TO_ARENA';
    return classes.has('untrusted') && kind === 'read' ? 'PROBE' : 'plain';
  }

  #access(state: State, access: Access, variant: Variant): { readonly state: State; readonly value: Value } {
    const { slot, regno, off, size, kind } = access;
    const nothing = { state, value: UNKNOWN };
    const refuse = (message: string): never => this.place.fail(message, EACCES, slot);
    switch (variant.type) {
      case 'PTR_TO_ARENA':
      case 'PTR_TO_MEM':
        return nothing;
      case 'PTR_TO_BTF_ID':
      case 'PTR_TRUSTED':
        return kind === 'read' ? nothing : refuse('only read is supported');
      case 'RDONLY_UNTRUSTED_MEM':
        if (kind === 'read') return nothing;
        return refuse(`R${regno} cannot write into ${reg_type_str(variant)}`);
      case 'PTR_TO_CTX': {
        if (kind === 'atomic') return refuse(`BPF_ATOMIC stores into R${regno} ctx is not allowed`);
        if (variant.off === null)
          return refuse(`R${regno}: an offset into the context that varies is not followed here`);
        const type = size === 8 && kind === 'read' ? this.input.context.get(variant.off + off) : undefined;
        return type === undefined ? nothing : { state, value: [{ type }] };
      }
      case 'PTR_TO_MAP_VALUE': {
        const at = variant.off === null ? null : variant.off + off;
        if (at !== null && (at < 0 || at + size > variant.size)) {
          refuse(`invalid access to map value, value_size=${variant.size} off=${at} size=${size}`);
        }
        return nothing;
      }
      case 'CONST_PTR_TO_MAP':
        this.#check_ptr_to_map_access(access, variant.tname);
        return nothing;
      case 'PTR_TO_STACK':
        return this.#stack(state, access, variant.frame, variant.off);
      case 'NOT_INIT':
        return refuse(`R${regno} !read_ok`);
      case 'SCALAR_VALUE':
      case 'PTR_TO_FUNC':
        return refuse(`R${regno} invalid mem access '${reg_type_str(variant)}'`);
    }
  }

  #check_ptr_to_map_access({ slot, regno, off, kind }: Access, tname: string): void {
    if (off < 0) this.place.fail(`R${regno} is ${tname} invalid negative access: off=${off}`, EACCES, slot);
    if (kind !== 'read') this.place.fail(`only read from ${tname} is supported`, EACCES, slot);
  }

  #stack(
    state: State,
    access: Access,
    frame: number,
    base: number | null,
  ): { readonly state: State; readonly value: Value } {
    const { slot, regno, size, kind, stored } = access;
    const verb = kind === 'read' ? 'read from' : 'write to';
    if (base === null) {
      this.place.fail(`R${regno}: an offset into the stack that varies is not followed here`, EACCES, slot);
    }
    const off = base + access.off;
    if (off % size !== 0) {
      const message = `misaligned stack access off ${tnum_strn(base)}+${access.off} size ${size}`;
      this.place.fail(message, EACCES, slot);
    }
    if (off < -MAX_BPF_STACK || off + size > 0) {
      this.place.fail(`invalid ${verb} stack R${regno} off=${off} size=${size}`, EACCES, slot);
    }
    this.grow(state, frame, off);
    const aligned = size === 8;
    // What is aligned lies in one slot.
    const at = Math.floor(off / 8) * 8;
    const owner = state.frames[frame];
    const held = owner === undefined ? UNKNOWN : slotValue(owner, at);
    if (kind === 'read') {
      if (aligned) return { state, value: held };
      if (!isScalar(held)) this.place.fail('invalid size of register fill', EACCES, slot);
      return { state, value: UNKNOWN };
    }
    if (kind === 'atomic' && !isScalar(held)) {
      this.place.fail('atomic access to a spilled pointer is not followed here', EACCES, slot);
    }
    if (kind === 'write' && stored !== null) {
      // check_stack_write_fixed_off()
      if (!aligned && !isScalar(stored)) this.place.fail('invalid size of register spill', EACCES, slot);
      if (frame !== state.frames.length - 1 && has(stored, 'PTR_TO_STACK')) {
        const message = 'cannot spill pointers to stack into stack frame of the caller';
        this.place.fail(message, EINVAL, slot);
      }
      if (aligned) return { state: withSlot(state, frame, at, stored), value: UNKNOWN };
    }
    return { state: scrubbed(state, frame, at), value: UNKNOWN };
  }

  /** grow_stack_state(): `off` bytes of that frame are in use. */
  grow(state: State, frame: number, off: number): void {
    const subprog = state.frames[frame]?.subprog ?? 0;
    const size = Math.ceil(-off / 8) * 8;
    this.stack_depth[subprog] = Math.max(this.stack_depth[subprog] ?? 0, size);
  }

  /**
   * The stack behind a call of a kernel function that got pointers into it: the slot that each points to is
   * written, and numbers from there on are unknown. Spilled pointers behind it stay: a buffer ends in front of them.
   */
  afterCall(state: State, args: readonly Value[], slot: number): State {
    let after = state;
    for (const variant of args.flat()) {
      if (variant.type !== 'PTR_TO_STACK') continue;
      const { frame, off } = variant;
      if (off === null)
        this.place.fail('an offset into the stack that varies is not followed here', EACCES, slot);
      if (off < -MAX_BPF_STACK) this.place.fail(`invalid write to stack R10 off=${off} size=0`, EACCES, slot);
      if (off >= 0) continue;
      this.grow(state, frame, off);
      const first = Math.floor(off / 8) * 8;
      after = scrubbed(after, frame, first);
      for (const [at, value] of after.frames[frame]?.slots ?? []) {
        if (at > first && isScalar(value)) after = scrubbed(after, frame, at);
      }
    }
    return after;
  }
}

/** tnum_strn() of a constant. */
function tnum_strn(value: number): string {
  const unsigned = BigInt.asUintN(64, BigInt(value));
  return unsigned <= 0xffffn ? String(unsigned) : `0x${unsigned.toString(16)}`;
}

/** Types that one instruction may not mix. */
function classOf({ type }: Variant): 'arena' | 'ctx' | 'untrusted' | 'trusted' | 'mem' | 'other' {
  switch (type) {
    case 'PTR_TO_ARENA':
      return 'arena';
    case 'PTR_TO_CTX':
      return 'ctx';
    case 'PTR_TO_BTF_ID':
    case 'RDONLY_UNTRUSTED_MEM':
      return 'untrusted';
    case 'PTR_TRUSTED':
      return 'trusted';
    case 'PTR_TO_MEM':
      return 'mem';
    default:
      return 'other';
  }
}
