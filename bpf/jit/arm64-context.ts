/**
 * What one compilation knows and how it emits: struct jit_ctx, register map, immediates and calls of
 * arch/arm64/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. What is left out is said in arm64.ts.
 */
import type { ExtableSpec } from '../../arch/arch.js';
import { EINVAL } from '../../kernel/errno.js';
import { BPF_PSEUDO_CALL, type bpf_insn } from '../insn.js';
import {
  A64_ADD,
  A64_ADD_I,
  A64_BL,
  A64_BLR,
  A64_MOVK,
  A64_MOVN,
  A64_MOVZ,
  A64_SUB_I,
  AARCH64_INSN_SIZE,
  InsnError,
} from './arm64-insn.js';
import { JitError, type JitFunction, type JitOptions, type JitPlace } from './jit.js';

/** R0 to R10 and AX. */
const bpf2a64: readonly number[] = [8, 0, 1, 2, 3, 4, 19, 20, 21, 22, 25, 9];

export const A64_BPF_REG_0 = 8;
export const A64_BPF_REG_FP = 25;
export const A64_BPF_REG_AX = 9;
export const TMP_REG_1 = 10;
export const TMP_REG_2 = 11;
export const TMP_REG_3 = 12;
export const TCCNT_PTR = 26;
export const ARENA_VM_START = 28;

const SZ_128M = 1n << 27n;

/** Whether the value is an immediate of 12 bits, possibly shifted by 12. `imm` is taken as u32. */
export function is_addsub_imm(imm: number): boolean {
  return (imm & ~0xfff) === 0 || (imm & ~0xfff000) === 0;
}

/** Whether a load or store of `1 << scale` bytes takes the offset as an immediate. */
export function is_lsi_offset(offset: number, scale: number): boolean {
  return offset >= 0 && offset <= 0xfff << scale && (offset & ((1 << scale) - 1)) === 0;
}

/** The image as it is being written, shared by all compilations of a function. */
export interface JitImage {
  readonly words: Uint32Array;
  /** False in the compilation that comes before the addresses of subprograms are known. */
  readonly subprogramsKnown: boolean;
}

/** What programs and trampolines emit alike: moves of immediates, and calls. */
export abstract class A64Emitter {
  abstract emit(insn: number): void;

  /** Address of the next instruction. */
  abstract get pc(): bigint;

  /** False while that is not known: calls go through a register then, as those that are far. */
  get placed(): boolean {
    return true;
  }

  emit_a64_mov_i(is64: boolean, reg: number, val: number): void {
    const hi = (val >>> 16) & 0xffff;
    const lo = val & 0xffff;
    if ((hi & 0x8000) === 0) {
      this.emit(A64_MOVZ(is64, reg, lo, 0));
      if (hi !== 0) this.emit(A64_MOVK(is64, reg, hi, 16));
    } else if (hi === 0xffff) {
      this.emit(A64_MOVN(is64, reg, ~lo & 0xffff, 0));
    } else {
      this.emit(A64_MOVN(is64, reg, ~hi & 0xffff, 16));
      if (lo !== 0xffff) this.emit(A64_MOVK(is64, reg, lo, 0));
    }
  }

  emit_a64_mov_i64(reg: number, val: bigint): void {
    if (val >> 32n === 0n) {
      this.emit_a64_mov_i(false, reg, Number(val) | 0);
      return;
    }
    const blocks = [0, 16, 32, 48].map((shift) => ({
      shift,
      bits: Number((val >> BigInt(shift)) & 0xffffn),
    }));
    const differing = (trivial: number): number => blocks.filter(({ bits }) => bits !== trivial).length;
    const inverse = differing(0xffff) < differing(0);
    const trivial = inverse ? 0xffff : 0;
    const rest = blocks.filter(({ bits }) => bits !== trivial).reverse();
    // All ones: even the lowest block is trivial, and one instruction is needed all the same.
    const [first = { shift: 0, bits: trivial }, ...others] = rest;
    if (inverse) this.emit(A64_MOVN(true, reg, ~first.bits & 0xffff, first.shift));
    else this.emit(A64_MOVZ(true, reg, first.bits, first.shift));
    for (const { shift, bits } of others) this.emit(A64_MOVK(true, reg, bits, shift));
  }

  /** Always three instructions: an address of the kernel has ones above bit 47. */
  emit_addr_mov_i64(reg: number, val: bigint): void {
    const block = (shift: bigint): number => Number((val >> shift) & 0xffffn);
    this.emit(A64_MOVN(true, reg, ~block(0n) & 0xffff, 0));
    this.emit(A64_MOVK(true, reg, block(16n), 16));
    this.emit(A64_MOVK(true, reg, block(32n), 32));
  }

  emit_call(target: bigint): void {
    const distance = BigInt.asIntN(64, target - this.pc);
    const far = distance < -SZ_128M || distance >= SZ_128M;
    if (!this.placed || target === 0n || far) {
      this.emit_addr_mov_i64(TMP_REG_1, target);
      this.emit(A64_BLR(TMP_REG_1));
    } else {
      if ((distance & 3n) !== 0n) {
        throw new InsnError('label_imm_common: A64 instructions must be word aligned');
      }
      this.emit(A64_BL(Number(distance) / AARCH64_INSN_SIZE));
    }
  }
}

export class jit_ctx extends A64Emitter {
  /** Index of the next instruction in words of 32 bits. */
  idx = 0;
  epilogue_offset = 0;
  /** In words, as the previous body left it. */
  readonly offset: number[];
  readonly used_callee_reg: number[] = [];
  fp_used = false;
  stack_size = 0;
  /** Instructions go into the image; set by turns when there is one. */
  write = false;
  image: JitImage | null = null;
  extable: ExtableSpec[] = [];
  /** BPF slot that is being compiled, for messages. */
  slot: number | null = null;

  constructor(
    readonly fn: JitFunction,
    readonly place: JitPlace,
    readonly options: JitOptions,
  ) {
    super();
    this.offset = new Array<number>(fn.insns.length + 1).fill(0);
  }

  override emit(insn: number): void {
    if (this.image !== null && this.write) this.image.words[this.idx] = insn;
    this.idx++;
  }

  /** A branch, whose distance is right in the pass that writes only. */
  emitBranch(encode: () => number): void {
    this.emit(this.write ? encode() : 0);
  }

  /** Throws what the kernel would print. */
  fail(message: string, errno = -EINVAL): never {
    throw new JitError(message, this.slot, errno);
  }

  /** Runs what encodes instructions; operands without an encoding become a JitError. */
  encoding<T>(build: () => T): T {
    try {
      return build();
    } catch (error) {
      if (error instanceof InsnError) this.fail(error.message);
      throw error;
    }
  }

  /** Register of a BPF register. */
  reg(bpf: number): number {
    const a64 = bpf2a64[bpf];
    if (a64 === undefined) return this.fail(`R${bpf} is invalid`);
    return a64;
  }

  check_imm(bits: number, imm: number): void {
    if ((imm > 0 && imm >> bits !== 0) || (imm < 0 && ~imm >> bits !== 0)) {
      const slot = String(this.slot).padStart(2);
      this.fail(`bpf_jit: [${slot}] imm=${imm}(0x${(imm >>> 0).toString(16)}) out of range`);
    }
  }

  emit_a64_add_i(is64: boolean, dst: number, src: number, tmp: number, imm: number): void {
    if (is_addsub_imm(imm)) {
      this.emit(A64_ADD_I(is64, dst, src, imm));
    } else if (is_addsub_imm(-imm | 0)) {
      this.emit(A64_SUB_I(is64, dst, src, -imm));
    } else {
      this.emit_a64_mov_i(is64, tmp, imm);
      this.emit(A64_ADD(is64, dst, src, tmp));
    }
  }

  override get pc(): bigint {
    return this.place.image + BigInt(this.idx * AARCH64_INSN_SIZE);
  }

  override get placed(): boolean {
    return this.image !== null;
  }

  /** tmp = register + base of the arena */
  emit_arena_address(tmp: number, reg: number): void {
    if (this.fn.arena === null) this.fail('access to an arena in a program without one');
    this.emit(A64_ADD(true, tmp, reg, ARENA_VM_START));
  }

  /** bpf_jit_get_func_addr(): 0 for a subprogram whose address is not known yet. */
  callTarget(insn: bpf_insn, slot: number): bigint {
    if (insn.src_reg === BPF_PSEUDO_CALL && this.image?.subprogramsKnown !== true) return 0n;
    return this.place.callTarget(slot);
  }

  /** Distance in words of a jump `off` slots behind the one after `slot`, from the branch at its end. */
  bpf2a64_offset(slot: number, off: number): number {
    const next = slot + 1;
    const to = this.offset[next + off];
    const end = this.offset[next];
    const target = this.fn.insns[next + off];
    if (to === undefined || end === undefined || target === undefined) {
      return this.fail(`jump out of range from insn ${slot} to ${next + off}`);
    }
    // The second half of an LD_IMM64.
    if (target.code === 0) this.fail(`jump into the middle of ldimm64 insn ${next + off - 1}`);
    return to - (end - 1);
  }
}
