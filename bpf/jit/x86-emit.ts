/**
 * Bytes of x86-64 instructions as the BPF JIT writes them: the registers, prefixes and moves of
 * arch/x86/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3.
 */
import { u64 } from '../../emu/address.js';
import { EINVAL } from '../../kernel/errno.js';
import { BPF_REG_AX, BPF_REG_FP } from '../insn.js';
import { JitError } from './jit.js';

const MAX_BPF_JIT_REG = BPF_REG_AX + 1;
/** r11, the JIT's own scratch register. */
export const AUX_REG = MAX_BPF_JIT_REG + 1;
/** r12: bpf_arena_get_kern_vm_start() while a program with an arena runs. */
export const X86_REG_R12 = MAX_BPF_JIT_REG + 3;

interface Register {
  /** Low three bits of its number; the fourth goes into a REX prefix. */
  readonly hex: number;
  readonly ereg: boolean;
  readonly name: string;
}

/** reg2hex[], is_ereg() and reg2pt_regs[], by number of the BPF register. */
const REGISTERS: ReadonlyMap<number, Register> = new Map([
  [0, { hex: 0, ereg: false, name: 'rax' }],
  [1, { hex: 7, ereg: false, name: 'rdi' }],
  [2, { hex: 6, ereg: false, name: 'rsi' }],
  [3, { hex: 2, ereg: false, name: 'rdx' }],
  [4, { hex: 1, ereg: false, name: 'rcx' }],
  [5, { hex: 0, ereg: true, name: 'r8' }],
  [6, { hex: 3, ereg: false, name: 'rbx' }],
  [7, { hex: 5, ereg: true, name: 'r13' }],
  [8, { hex: 6, ereg: true, name: 'r14' }],
  [9, { hex: 7, ereg: true, name: 'r15' }],
  [BPF_REG_FP, { hex: 5, ereg: false, name: 'rbp' }],
  [BPF_REG_AX, { hex: 2, ereg: true, name: 'r10' }],
  [AUX_REG, { hex: 3, ereg: true, name: 'r11' }],
  [X86_REG_R12, { hex: 4, ereg: true, name: 'r12' }],
]);

function register(reg: number): Register {
  const found = REGISTERS.get(reg);
  if (found === undefined) throw new JitError(`R${reg} is invalid`, null, -EINVAL);
  return found;
}

export const reg2hex = (reg: number): number => register(reg).hex;

/** Name of the x86 register, as arch/x86 knows it: `rdi`. */
export const registerName = (reg: number): string => register(reg).name;

/** Whether it is one of r8 to r15, which need a bit of a REX prefix. */
export const is_ereg = (reg: number): boolean => register(reg).ereg;

/** Whether its lowest byte needs a REX prefix: those above, and dil, sil, bpl. */
export const is_ereg_8l = (reg: number): boolean =>
  is_ereg(reg) || reg === 1 || reg === 2 || reg === BPF_REG_FP;

export const is_axreg = (reg: number): boolean => reg === 0;

export const is_imm8 = (value: number): boolean => value >= -128 && value <= 127;

/** Four bytes less than is_imm8(): with more, the sizes of jumps may swing for ever. */
export const is_imm8_jmp_offset = (value: number): boolean => value >= -128 && value <= 123;

export const is_simm32 = (value: bigint): boolean => value === BigInt.asIntN(32, value);
export const is_uimm32 = (value: bigint): boolean => value === BigInt.asUintN(32, value);

/** REX with B for the register in ModRM.rm. */
export const add_1mod = (byte: number, reg: number): number => byte | (is_ereg(reg) ? 1 : 0);

/** REX with B for `rm` and R for `reg`. */
export const add_2mod = (byte: number, rm: number, reg: number): number =>
  add_1mod(byte, rm) | (is_ereg(reg) ? 4 : 0);

/** And X for the index. */
export const add_3mod = (byte: number, rm: number, reg: number, index: number): number =>
  add_2mod(byte, rm, reg) | (is_ereg(index) ? 2 : 0);

export const add_1reg = (byte: number, rm: number): number => byte + reg2hex(rm);

export const add_2reg = (byte: number, rm: number, reg: number): number =>
  byte + reg2hex(rm) + (reg2hex(reg) << 3);

/** Code of one BPF instruction, or of the prologue. */
export class Prog {
  readonly bytes: number[] = [];

  get length(): number {
    return this.bytes.length;
  }

  /** EMIT1() to EMIT5(): of each value the low byte. */
  emit(...bytes: readonly number[]): void {
    for (const byte of bytes) this.bytes.push(byte & 0xff);
  }

  /** The lowest `size` bytes of a 32-bit value, little endian. */
  emitImm(value: number, size: number): void {
    for (let i = 0; i < size; i++) this.bytes.push((value >> (8 * i)) & 0xff);
  }

  /** EMIT1_off32() to EMIT4_off32(): bytes, and then a 32-bit value. */
  emitOff32(value: number, ...bytes: readonly number[]): void {
    this.emit(...bytes);
    this.emitImm(value, 4);
  }

  /** Writes over a byte that has been emitted. */
  patch(at: number, byte: number): void {
    this.bytes[at] = byte & 0xff;
  }
}

/** x86_nops[], those that the JIT asks for. */
const X86_NOPS: ReadonlyMap<number, readonly number[]> = new Map([
  [0, []],
  [2, [0x66, 0x90]],
  [3, [0x0f, 0x1f, 0x00]],
  [4, [0x0f, 0x1f, 0x40, 0x00]],
  [5, [0x0f, 0x1f, 0x44, 0x00, 0x00]],
]);

/** @param len 0, or 2 to 5: there are no others between the instructions of the JIT */
export function emit_nops(prog: Prog, len: number): void {
  const nop = X86_NOPS.get(len);
  if (nop === undefined) throw new RangeError(`no nop of ${len} bytes`);
  prog.emit(...nop);
}

/** CONFIG_X86_KERNEL_IBT: endbr64. */
export function EMIT_ENDBR(prog: Prog, ibt: boolean): void {
  if (ibt) prog.emit(0xf3, 0x0f, 0x1e, 0xfa);
}

export function EMIT_LFENCE(prog: Prog): void {
  prog.emit(0x0f, 0xae, 0xe8);
}

/** 64-bit move; none when both are the same. */
export function EMIT_mov(prog: Prog, dst_reg: number, src_reg: number): void {
  if (dst_reg !== src_reg) {
    prog.emit(add_2mod(0x48, dst_reg, src_reg), 0x89, add_2reg(0xc0, dst_reg, src_reg));
  }
}

/** A REX prefix where one is needed. */
export function maybe_emit_mod(prog: Prog, dst_reg: number, src_reg: number, is64: boolean): void {
  if (is64) prog.emit(add_2mod(0x48, dst_reg, src_reg));
  else if (is_ereg(dst_reg) || is_ereg(src_reg)) prog.emit(add_2mod(0x40, dst_reg, src_reg));
}

export function maybe_emit_1mod(prog: Prog, reg: number, is64: boolean): void {
  if (is64) prog.emit(add_1mod(0x48, reg));
  else if (is_ereg(reg)) prog.emit(add_1mod(0x40, reg));
}

export function emit_mov_imm32(prog: Prog, sign_propagate: boolean, dst_reg: number, imm32: number): void {
  const imm = imm32 | 0;
  if (sign_propagate && imm < 0) {
    prog.emitOff32(imm, add_1mod(0x48, dst_reg), 0xc7, add_1reg(0xc0, dst_reg));
  } else if (imm === 0) {
    maybe_emit_mod(prog, dst_reg, dst_reg, false);
    prog.emit(0x31, add_2reg(0xc0, dst_reg, dst_reg));
  } else {
    maybe_emit_1mod(prog, dst_reg, false);
    prog.emitOff32(imm, add_1reg(0xb8, dst_reg));
  }
}

/** The shortest move of a 64-bit value. */
export function emit_mov_imm64(prog: Prog, dst_reg: number, value: bigint): void {
  const imm64 = u64(value);
  const low = Number(BigInt.asIntN(32, imm64));
  if (is_uimm32(imm64)) {
    emit_mov_imm32(prog, false, dst_reg, low);
  } else if (is_simm32(BigInt.asIntN(64, imm64))) {
    emit_mov_imm32(prog, true, dst_reg, low);
  } else {
    prog.emit(add_1mod(0x48, dst_reg), add_1reg(0xb8, dst_reg));
    prog.emitImm(low, 4);
    prog.emitImm(Number(BigInt.asIntN(32, imm64 >> 32n)), 4);
  }
}

/** With 32 bits there is always a move, for it clears the upper half. */
export function emit_mov_reg(prog: Prog, is64: boolean, dst_reg: number, src_reg: number): void {
  if (is64) {
    EMIT_mov(prog, dst_reg, src_reg);
  } else {
    maybe_emit_mod(prog, dst_reg, src_reg, false);
    prog.emit(0x89, add_2reg(0xc0, dst_reg, src_reg));
  }
}

/** ModRM and displacement of *(ptr_reg + off); a displacement of zero is written too. */
export function emit_insn_suffix(prog: Prog, ptr_reg: number, val_reg: number, off: number): void {
  if (is_imm8(off)) prog.emit(add_2reg(0x40, ptr_reg, val_reg), off);
  else prog.emitOff32(off, add_2reg(0x80, ptr_reg, val_reg));
}

/** The same of *(ptr_reg + index_reg + off). */
export function emit_insn_suffix_SIB(
  prog: Prog,
  ptr_reg: number,
  val_reg: number,
  index_reg: number,
  off: number,
): void {
  const sib = add_2reg(0, ptr_reg, index_reg);
  // 4 in ModRM.rm: a SIB byte follows.
  if (is_imm8(off)) prog.emit(add_2reg(0x44, 0, val_reg), sib, off);
  else prog.emitOff32(off, add_2reg(0x84, 0, val_reg), sib);
}
