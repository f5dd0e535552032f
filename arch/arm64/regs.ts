/**
 * struct pt_regs of arm64: one image in the kernel's layout, whose bytes also lie on the emulated kernel
 * stack while the exception is handled.
 *
 * Layout from arch/arm64/include/asm/ptrace.h and stacktrace/frame.h, bpf-next merge 8496d9020ff3. Left
 * out: AArch32 views of it.
 */
import { fromSigned } from '../../emu/address.js';
import type { RegisterSet } from '../../emu/cpu.js';
import type { Ram } from '../../emu/ram.js';
import type { pt_regs } from '../kernel.js';

/** sizeof(struct pt_regs) */
export const PT_REGS_SIZE = 0x140;
export const S_STACKFRAME = 0x128;

/** Types of a metadata frame record, the word behind two zero words. */
export const FRAME_META_TYPE_NONE = 0;
export const FRAME_META_TYPE_FINAL = 1;
export const FRAME_META_TYPE_PT_REGS = 2;

export const PSR_MODE_EL0t = 0x0n;
export const PSR_MODE_EL1h = 0x5n;
export const PSR_I_BIT = 1n << 7n;
export const PSR_PAN_BIT = 1n << 22n;
export const PSR_UAO_BIT = 1n << 23n;

const WORDS = PT_REGS_SIZE / 8;
const SP = 0xf8 / 8;
const PC = 0x100 / 8;
const PSTATE = 0x108 / 8;
/** Of the lower half of pstate. */
const PSR_BTYPE_MASK = 0xc00;
const ORIG_X0 = 0x110 / 8;
/** s32 syscallno in the low half, u32 pmr in the high half. */
const SYSCALLNO_AND_PMR = 0x118 / 8;
const SDEI_TTBR1 = 0x120 / 8;
const STACKFRAME_FP = S_STACKFRAME / 8;
const STACKFRAME_LR = STACKFRAME_FP + 1;
const STACKFRAME_TYPE = STACKFRAME_FP + 2;

const FINAL = BigInt(FRAME_META_TYPE_FINAL);
const PT_REGS = BigInt(FRAME_META_TYPE_PT_REGS);

/** NO_SYSCALL */
const NO_SYSCALL = 0xffff_ffffn;

export const NO_HANDLERS: readonly string[] = [];

/** Registers that an exception saves, in the order of the image. One engine call reads them all. */
export const SAVED_REGISTERS: readonly string[] = [
  ...Array.from({ length: 31 }, (_, n) => `x${n}`),
  'sp',
  'pc',
  'pstate',
];

export class Arm64PtRegs implements pt_regs {
  /** The image. Change it through the setters only. */
  readonly words = new BigUint64Array(WORDS);
  /** The same as 32-bit halves, for code without bigint. */
  readonly halves = new Uint32Array(this.words.buffer);
  /** Virtual address of the frame on the kernel stack. */
  get frame(): bigint {
    return fromSigned(this.#frame);
  }
  #frame = 0;
  /** Bit n: x<n> was written since the exception. Bit 31: sp was. */
  dirty = 0;
  /** Page of the frame's end as a signed number, NaN when it is on no stack, and its index in ram.words64. */
  framePage = Number.NaN;
  framePageWord = 0;
  /** Frames of the handlers that run for these registers, innermost first, for a panic that shows them. */
  handlers: readonly string[] = NO_HANDLERS;
  /** Addresses of the stack walk from these registers, null when there was none yet. */
  stack: readonly bigint[] | null = null;

  #ram: Ram | null = null;
  /** Index in ram.words64 of the words before `#split`, and of word 0 if the others were contiguous. */
  #first = 0;
  #second = 0;
  #split = 0;

  /**
   * Fills the image with what the registers hold (SAVED_REGISTERS); the rest as kernel_entry leaves it.
   * The image has no place on a stack yet.
   */
  capture(registers: RegisterSet): void {
    const { words } = this;
    words.set(registers.values);
    // The engine's CPU has FEAT_BTI, this machine has not: PSTATE.BTYPE is RES0.
    this.halves[2 * PSTATE] = (this.halves[2 * PSTATE] ?? 0) & ~PSR_BTYPE_MASK;
    const user = this.user_mode;
    words[ORIG_X0] = user ? (words[0] ?? 0n) : 0n;
    words[SYSCALLNO_AND_PMR] = NO_SYSCALL;
    words[SDEI_TTBR1] = 0n;
    words[STACKFRAME_FP] = 0n;
    words[STACKFRAME_LR] = 0n;
    words[STACKFRAME_TYPE] = user ? FINAL : PT_REGS;
    this.dirty = 0;
    this.framePage = Number.NaN;
    this.stack = null;
    this.handlers = NO_HANDLERS;
    this.#ram = null;
  }

  /**
   * Puts the image onto the stack; from then on changes go there, too.
   *
   * @param frame virtual address as a signed number
   * @param pa physical address of the frame's first byte
   * @param secondPa physical address of the next page, where a frame that crosses a page goes on
   */
  place(ram: Ram, frame: number, pa: number, secondPa: number): void {
    const { words } = this;
    const room = (4096 - (pa % 4096)) / 8;
    this.#frame = frame;
    this.#ram = ram;
    this.#first = (pa - ram.base) / 8;
    this.#split = Math.min(room, WORDS);
    this.#second = (secondPa - ram.base) / 8 - this.#split;
    if (room >= WORDS) {
      this.framePage = frame - (frame & 0xfff);
      this.framePageWord = (pa - (pa & 0xfff) - ram.base) / 8;
      ram.words64.set(words, this.#first);
    } else {
      this.framePage = frame - (frame & 0xfff) + 4096;
      this.framePageWord = (secondPa - ram.base) / 8;
      ram.words64.set(words.subarray(0, room), this.#first);
      ram.words64.set(words.subarray(room), this.#second + room);
    }
  }

  #put(index: number, value: bigint): void {
    const v = BigInt.asUintN(64, value);
    this.words[index] = v;
    this.stack = null;
    if (this.#ram !== null) {
      this.#ram.words64[(index < this.#split ? this.#first : this.#second) + index] = v;
    }
  }

  /** regs->regs[n], n from 0 to 30. */
  x(n: number): bigint {
    return this.words[n] ?? 0n;
  }

  /** x0 to x30 by the CPU's name; undefined for others. */
  named(register: string): bigint | undefined {
    const n = /^x([0-9]|[12][0-9]|30)$/.exec(register)?.[1];
    return n === undefined ? undefined : this.x(Number(n));
  }

  /** Register n as a signed number (see address.ts); wrong when it does not fit one. */
  xSigned(n: number): number {
    const { halves } = this;
    return ((halves[n * 2 + 1] ?? 0) | 0) * 4294967296 + (halves[n * 2] ?? 0);
  }

  /** pt_regs_read_reg(): 31 is the zero register. */
  pt_regs_read_reg(n: number): bigint {
    return n === 31 ? 0n : this.x(n);
  }

  /** pt_regs_write_reg(): 31 is the zero register. */
  pt_regs_write_reg(n: number, value: bigint): void {
    if (n === 31) return;
    this.#put(n, value);
    this.dirty |= 1 << n;
  }

  get sp(): bigint {
    return this.words[SP] ?? 0n;
  }
  set sp(value: bigint) {
    this.#put(SP, value);
    this.dirty |= 1 << 31;
  }

  get pc(): bigint {
    return this.words[PC] ?? 0n;
  }
  /** A changed pc makes the exception return go elsewhere. */
  set pc(value: bigint) {
    this.#put(PC, value);
  }

  /** pc as a signed number. */
  get pcSigned(): number {
    return this.xSigned(PC);
  }
  /** Halves of pc. */
  get pcLow(): number {
    return this.halves[PC * 2] ?? 0;
  }
  get pcHigh(): number {
    return this.halves[PC * 2 + 1] ?? 0;
  }
  /** sp as a signed number. */
  get spSigned(): number {
    return this.xSigned(SP);
  }

  get pstate(): bigint {
    return this.words[PSTATE] ?? 0n;
  }

  /** Sets or clears a bit of the saved state that only software looks at: the CPU keeps its own. */
  setPstateBit(bit: bigint, on: boolean): void {
    this.#put(PSTATE, on ? this.pstate | bit : this.pstate & ~bit);
  }

  /** The low half of pstate as a number. */
  get pstateBits(): number {
    return this.halves[PSTATE * 2] ?? 0;
  }

  get instruction_pointer(): bigint {
    return this.pc;
  }
  get stack_pointer(): bigint {
    return this.sp;
  }
  get user_mode(): boolean {
    return (this.pstateBits & 0xf) === 0;
  }
}
