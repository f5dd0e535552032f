/** What a program is linked from, and what comes of it. */
import type { ExtableSpec } from '../../arch/arch.js';
import type { bpf_insn } from '../insn.js';
import type { Jit, JitOptions } from '../jit/jit.js';
import type { bpf_line_info } from '../program.js';
import type { BpfText } from '../text/asm.js';

/** A main program or a subprogram, by the name that `call NAME` has. */
export interface LinkFunction {
  readonly name: string;
  readonly text: BpfText;
}

/** What the verifier knows about a pointer that a program gets from outside. */
export type PointerKind =
  /** Not a pointer, or one that may only be cast. */
  | 'scalar'
  /** PTR_TO_BTF_ID, plain or untrusted: loads become BPF_PROBE_MEM. */
  | 'btf_id'
  /** PTR_TO_BTF_ID | PTR_TRUSTED: loads stay plain. */
  | 'trusted'
  /** PTR_TO_MEM: loads and stores stay plain. */
  | 'mem'
  /** PTR_TO_MEM | MEM_RDONLY | PTR_UNTRUSTED, as bpf_rdonly_cast() gives it: loads become BPF_PROBE_MEM. */
  | 'rdonly_untrusted_mem';

/** A function of the kernel that `call NAME` may name. */
export interface LinkCallTarget {
  readonly address: bigint;
  /** Helpers have `call` with a number in the kernel, kfuncs a BTF id; it matters for messages only. */
  readonly kind: 'kfunc' | 'helper';
  /** What R0 is afterwards; `void` leaves it unreadable. bpf_arena_alloc_pages: `scalar`. */
  readonly returns: PointerKind | 'void';
  /** Number of arguments, 0 to 5: registers that must be readable. Null if unknown: none is looked at. */
  readonly args: number | null;
  /**
   * Address that the verifier puts in its place in a context that cannot sleep:
   * bpf_arena_alloc_pages_non_sleepable() and its kin. Null for all others.
   */
  readonly non_sleepable: bigint | null;
  /** The register, 1 to 5, in which the verifier hands it prog->aux unasked (is_kfunc_arg_prog_aux()); null for none. */
  readonly aux_register: number | null;
  /** BTF id of a kfunc, number of a helper. It only enters the tag. */
  readonly id: number;
}

/** An arena as the verifier and the JIT see it. */
export interface LinkArena {
  /** bpf_arena_get_kern_vm_start() */
  readonly kern_vm_start: bigint;
  /** bpf_arena_get_user_vm_start(); 0 while nobody has mapped it and map_extra is 0. */
  readonly user_vm_start: bigint;
  /** map_flags; BPF_F_NO_USER_CONV matters. */
  readonly map_flags: number;
}

/** A map that `map[NAME]` may name. */
export interface LinkMap {
  /** Of struct bpf_map. */
  readonly address: bigint;
  /** Name of the map type's struct in the kernel's BTF (ops->map_btf_id): `bpf_arena`, `bpf_array`. */
  readonly btf_name: string;
  readonly value_size: number;
  readonly arena: LinkArena | null;
  /** ops->map_direct_value_addr(): the value's address, or a negative errno for that offset. Null for types without. */
  readonly map_direct_value_addr: ((off: bigint) => bigint | number) | null;
}

/** What `r1 = NAME ll` may name beside the functions of the program itself. */
export interface LinkSymbol {
  readonly address: bigint;
  readonly kind: PointerKind;
}

/** A field of the context (R1 of a main program) that is more than a scalar. */
export interface LinkContextField {
  /** In bytes. Loads of 8 bytes at this offset are of this kind; all others are scalars. */
  readonly offset: number;
  readonly kind: PointerKind;
}

export interface LinkInput {
  /** The main program, then its subprograms in the order of their numbers. */
  readonly functions: readonly LinkFunction[];
  readonly maps: ReadonlyMap<string, LinkMap>;
  /** Names of maps that belong to the program although no instruction names them (fd_array). */
  readonly boundMaps: readonly string[];
  readonly targets: ReadonlyMap<string, LinkCallTarget>;
  readonly symbols: ReadonlyMap<string, LinkSymbol>;
  /** in_sleepable(): SEC("syscall"), "struct_ops.s/…" and the like. */
  readonly sleepable: boolean;
  readonly context: readonly LinkContextField[];
  /** Address of __bpf_call_base(): calls are relative to it in the instructions. */
  readonly callBase: bigint;
  readonly arch: LinkArch;
  readonly options: JitOptions;
  /** Address of prog->aux of the main program. Asked for only where a kfunc gets it. */
  aux(): bigint;
  /** Where an image of `size` bytes goes, exception table included. Called once for each function, in order. */
  place(size: number, name: string): bigint;
}

/** What the verifier asks the JIT of an architecture. */
export interface LinkArch {
  readonly jit: Jit;
  /** bpf_arch_uaddress_limit(): arm64 TASK_SIZE, x86-64 0. */
  readonly uaddress_limit: bigint;
  /** bpf_jit_supports_far_kfunc_call(): calls of kfuncs keep the id. arm64 yes, x86-64 no. */
  readonly far_kfunc_call: boolean;
  /** Stands for the address of a callback until that is known: MODULES_VADDR. It enters tags of subprograms. */
  readonly MODULES_VADDR: bigint;
  /** bpf_jit_supports_insn(insn, true): false refuses an instruction on arena memory. */
  supports_insn(insn: bpf_insn, options: JitOptions): boolean;
}

/** One function in native code. */
export interface LinkedFunction {
  readonly name: string;
  /** 16 lower-case hexadecimal digits: bpf_prog_calc_tag(). */
  readonly tag: string;
  /** After all rewrites, as the JIT got them. */
  readonly insns: readonly bpf_insn[];
  /** Slot of the text that each of `insns` comes from; null for what the verifier put in front of the function. */
  readonly origins: readonly (number | null)[];
  readonly stack_depth: number;
  readonly image: bigint;
  /** Without the exception table, which the caller packs and puts at extableOffset. */
  readonly code: Uint8Array;
  /** Offset of the native code of each of `insns`, and the end. */
  readonly addrs: readonly number[];
  readonly extable: readonly ExtableSpec[];
  readonly extableOffset: number;
  /** What lies between the code and the exception table, if the JIT says so. */
  readonly gap: Uint8Array | null;
  /** jited_linfo: the first entry is at offset 0. Null without source lines. */
  readonly linfo: readonly bpf_line_info[] | null;
}

export interface LinkedProgram {
  /** The main program first. */
  readonly functions: readonly LinkedFunction[];
  /** prog->aux->arena: the name of its map; null without one. */
  readonly arena: string | null;
}
