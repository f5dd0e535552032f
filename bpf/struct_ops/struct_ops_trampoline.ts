/** The code between a kernel function that calls a struct_ops member and the program behind that member. */
import type { JitOptions } from '../jit/jit.js';

/** What one trampoline is made of. All addresses are kernel addresses. */
export interface StructOpsTrampoline {
  /** Where its first byte will be. */
  readonly image: bigint;
  /** Words of arguments, each in a register: up to 6 on x86-64, up to 8 on arm64. */
  readonly nr_args: number;
  /** The member returns something (ret_size > 0): BPF_TRAMP_F_RET_FENTRY_RET. */
  readonly returns: boolean;
  /** struct bpf_prog, which the functions around the program are told. */
  readonly prog: bigint;
  /** Its native code. */
  readonly bpf_func: bigint;
  /** bpf_trampoline_enter(prog) and bpf_trampoline_exit(prog). */
  readonly enter: bigint;
  readonly exit: bigint;
  /** Of the link; 0n for struct_ops. */
  readonly cookie?: bigint;
}

export type TrampolineOptions = Pick<JitOptions, 'branchTracking' | 'return_thunk' | 'sls'>;

/**
 * arch_prepare_bpf_trampoline(): the bytes that the image gets, what is reserved behind the code included.
 * Throws a MachineRefusal when there are more arguments than registers, or a call does not reach its function.
 */
export type PrepareTrampoline = (what: StructOpsTrampoline, options: TrampolineOptions) => Uint8Array;
