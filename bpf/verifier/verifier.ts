/**
 * What the verifier does to a program with an arena on its way to the JIT: parts of kernel/bpf/verifier.c,
 * kernel/bpf/cfg.c and kernel/bpf/fixups.c (bpf-next merge 8496d9020ff3).
 *
 * This is for programs that one trusts. What decides about the code that comes out is complete: types of pointers
 * in registers and stack slots on all paths, branches that constants decide, locks and other sections that cannot
 * sleep, stack depth, and all rewrites of such programs. What only keeps bad programs out is done as far as it is
 * cheap: fields of instructions, registers that hold nothing, access through what is no pointer, writes through
 * read-only ones, the stack's limits, locks that are not given back.
 * Left out: ranges of scalars and with them bounds of map values and the end of loops, null checks of what
 * functions return, types of arguments, references, which lock is which, BTF of kernel structures (a pointer that is read from
 * one is a number here), contexts whose fields are rewritten (struct __sk_buff), Spectre, dynptrs, iterators,
 * helpers that are inlined, private stacks. What is out of reach is refused, in words of our own.
 *
 * Subprograms are static functions: they are walked at each call, with the registers and frames of the caller.
 */
import type { bpf_insn } from '../insn.js';
import type { KernelPointer } from './verifier-value.js';

/** A program that the verifier refuses. */
export class VerifierError extends Error {
  override name = 'VerifierError';
  /**
   * @param message as the verifier's log has it, without the newline
   * @param errno negative
   * @param func name of the function, or null when it is about the whole program
   * @param slot slot in that function's text, or null
   */
  constructor(
    message: string,
    readonly errno: number,
    readonly func: string | null,
    readonly slot: number | null,
  ) {
    super(message);
  }
}

/** What a 64-bit immediate with a pseudo source register is. */
export type WideImmediate =
  /** `tname`: the map type's struct in the kernel's BTF. */
  | { readonly kind: 'map'; readonly map: string; readonly tname: string }
  /** Value of an arena: a number. */
  | { readonly kind: 'arena_value' }
  | { readonly kind: 'map_value'; readonly map: string; readonly size: number; readonly off: number }
  | { readonly kind: 'symbol'; readonly type: KernelPointer | 'SCALAR_VALUE' }
  | { readonly kind: 'func'; readonly subprog: number };

/** What a call of a kernel function does. */
export interface KernelCall {
  readonly name: string;
  readonly kfunc: boolean;
  readonly returns: KernelPointer | 'SCALAR_VALUE' | null;
  readonly args: number | null;
  /** arg_prog of struct bpf_insn_aux_data, and what goes into that register; null if it gets no prog->aux. */
  readonly arg_prog: { readonly regno: number; readonly aux: bigint } | null;
}

/** A main program with its subprograms, one behind the other. */
export interface VerifierInput {
  readonly insns: readonly bpf_insn[];
  /** In order of `start`, the slot where each begins; the first is the main program. */
  readonly subprogs: readonly { readonly name: string; readonly start: number }[];
  /** By slot. */
  readonly wide: ReadonlyMap<number, WideImmediate>;
  readonly calls: ReadonlyMap<number, KernelCall>;
  /** prog->aux->arena is set. */
  readonly hasArena: boolean;
  /** BPF_F_NO_USER_CONV of that arena. */
  readonly noUserConv: boolean;
  readonly sleepable: boolean;
  /** Types of 8-byte fields of the context by offset; all others are numbers. */
  readonly context: ReadonlyMap<number, KernelPointer>;
  readonly uaddress_limit: bigint;
  /** bpf_jit_supports_insn(insn, true) */
  supports_insn(insn: bpf_insn): boolean;
}

/** Of the type of the base register of a load or store, what decides about the code. */
export type AccessType = 'plain' | 'PTR_TO_ARENA' | 'PROBE';

/** struct bpf_insn_aux_data, as far as needed. */
export interface InsnAux {
  /** Some path leads here. */
  seen: boolean;
  ptr_type: AccessType;
  /** 64-bit arithmetic on an arena pointer. */
  needs_zext: boolean;
  /** A 32-bit compare-and-exchange of which all 64 bits are used. */
  zext_dst: boolean;
  /** On some path it is called where it must not sleep. */
  non_sleepable: boolean;
}

/** What the checks have found out. */
export interface Verified {
  /** By slot. */
  readonly aux: readonly InsnAux[];
  /** Bytes of stack of each subprogram, a multiple of 8. */
  readonly stack_depth: readonly number[];
}

/** Finds the function of a slot, and refuses programs. */
export class Place {
  constructor(readonly input: Pick<VerifierInput, 'insns' | 'subprogs'>) {}

  /** Number of the function that `slot` belongs to. */
  subprogOf(slot: number): number {
    let found = 0;
    for (const [i, { start }] of this.input.subprogs.entries()) if (start <= slot) found = i;
    return found;
  }

  startOf(subprog: number): number {
    return this.input.subprogs[subprog]?.start ?? this.input.insns.length;
  }

  nameOf(subprog: number): string {
    return this.input.subprogs[subprog]?.name ?? '';
  }

  fail(message: string, errno: number, slot: number): never {
    const subprog = this.subprogOf(slot);
    throw new VerifierError(message, -errno, this.nameOf(subprog), slot - this.startOf(subprog));
  }
}
