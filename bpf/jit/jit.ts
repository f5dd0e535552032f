/** What the JITs of the architectures have in common: what they are given, and what they make of it. */
import type { ExtableSpec } from '../../arch/arch.js';
import type { bpf_insn } from '../insn.js';

/** A main program or a subprogram, after the verifier's rewrites. */
export interface JitFunction {
  readonly insns: readonly bpf_insn[];
  readonly is_subprog: boolean;
  /** Bytes of stack below the frame pointer, not rounded. */
  readonly stack_depth: number;
  /** Null for a program without an arena. */
  readonly arena: JitArena | null;
}

export interface JitArena {
  /** bpf_arena_get_kern_vm_start() */
  readonly kern_vm_start: bigint;
  /** bpf_arena_get_user_vm_start() */
  readonly user_vm_start: bigint;
}

/** Where the image goes, and what it calls. */
export interface JitPlace {
  /** Address of the first native byte. */
  readonly image: bigint;
  /** Address that the BPF_CALL at slot `insn` calls. */
  callTarget(insn: number): bigint;
  /** Address of the function that the BPF_PSEUDO_FUNC at slot `insn` names. */
  funcAddress(insn: number): bigint;
}

/** How the modelled kernel and CPU are configured, as far as code shows it. */
export interface JitOptions {
  /** x86-64: endbr64 at the start. arm64: bti. */
  readonly branchTracking: boolean;
  /** arm64: paciasp and autiasp. */
  readonly pac: boolean;
  /** x86-64: returns jump here (x86_return_thunk); null for a plain ret. */
  readonly return_thunk: bigint | null;
  /** x86-64: CONFIG_MITIGATION_SLS, int3 behind a return. */
  readonly sls: boolean;
  /** x86-64: shlx and its kin are there. */
  readonly bmi2: boolean;
  /** arm64: FEAT_LSE. */
  readonly lse: boolean;
  /** arm64: FEAT_SB, what a speculation barrier is; without it dsb and isb. */
  readonly sb?: boolean;
  /** arm64: address of arch_bpf_timed_may_goto(): a call to it leaves R0 alone. */
  readonly arch_bpf_timed_may_goto?: bigint;
  /** arm64: address of dummy_tramp(), where the unused PLT behind a program points; 0 by default. */
  readonly dummy_tramp?: bigint;
  /**
   * Which entries arena atomics get. `store`: as at the merge, all look like stores. `by-kind`: the later
   * fix, by which loads are loads and what is fetched is cleared.
   */
  readonly atomicEntries: 'store' | 'by-kind';
}

/** Native code of one function. */
export interface JitedFunction {
  readonly code: Uint8Array;
  /**
   * Offset of the first native byte of each BPF slot, and the end of the last one's code: one more than
   * there are slots. The prologue lies before the first.
   */
  readonly addrs: readonly number[];
  /** Entries in the order of their instructions. */
  readonly extable: readonly ExtableSpec[];
  /** Where the exception table begins, in bytes from the start of the image. */
  readonly extableOffset: number;
  /** What lies between the code and the exception table, if anything that can be told. */
  readonly gap?: Uint8Array;
}

/** Code that the JIT of the kernel refuses, with what it says. */
export class JitError extends Error {
  override name = 'JitError';
  /**
   * @param insn slot, or null when it is about the whole function
   * @param func name of the function; null from a JIT, which does not know it
   */
  constructor(
    message: string,
    readonly insn: number | null,
    /** Negative. */
    readonly errno: number,
    readonly func: string | null = null,
  ) {
    super(message);
  }
}

/** bpf_int_jit_compile() of one function. Throws a JitError. */
export type Jit = (fn: JitFunction, place: JitPlace, options: JitOptions) => JitedFunction;
