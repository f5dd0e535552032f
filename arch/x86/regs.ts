/**
 * struct pt_regs of x86-64: one image in the kernel's layout, whose bytes also lie on the emulated kernel
 * stack while the exception is handled.
 *
 * Layout from arch/x86/include/asm/ptrace.h, bpf-next merge 8496d9020ff3. Left out: the FRED layout.
 */
import { fromSigned } from '../../emu/address.js';
import type { Cpu, RegisterSet } from '../../emu/cpu.js';
import type { Ram } from '../../emu/ram.js';
import type { pt_regs } from '../kernel.js';

/** sizeof(struct pt_regs) */
export const PT_REGS_SIZE = 168;

export const X86_EFLAGS_IF = 0x200n;
export const X86_EFLAGS_AC = 0x40000n;
const EFLAGS_RF = 0x10000;

export const __KERNEL_CS = 0x10;
export const __KERNEL_DS = 0x18;
export const __USER_CS = 0x33;
export const __USER_DS = 0x2b;

/** Words of the image, by the CPU's register names. `orig_ax` is the error code's place. */
const LAYOUT = [
  'r15',
  'r14',
  'r13',
  'r12',
  'rbp',
  'rbx',
  'r11',
  'r10',
  'r9',
  'r8',
  'rax',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'orig_ax',
  'rip',
  'cs',
  'rflags',
  'rsp',
  'ss',
] as const;

const WORDS = LAYOUT.length;
const ORIG_AX = LAYOUT.indexOf('orig_ax');
const IP = LAYOUT.indexOf('rip');
const CS = LAYOUT.indexOf('cs');
const FLAGS = LAYOUT.indexOf('rflags');
const SP = LAYOUT.indexOf('rsp');
const BP = LAYOUT.indexOf('rbp');
const SS = LAYOUT.indexOf('ss');

/** What an exception saves, in the order of the image; the place of orig_ax is filled with anything. */
export const SAVED_REGISTERS: readonly string[] = LAYOUT.map((name) => (name === 'orig_ax' ? 'rax' : name));

const INDEX = new Map<string, number>(LAYOUT.map((name, index) => [name, index]));

/** Byte offset of a register in pt_regs, by the CPU's name for it (`rdi`, `r8`); undefined for others. */
export function regsOffset(register: string): number | undefined {
  const index = INDEX.get(register);
  return index === undefined || index >= ORIG_AX ? undefined : index * 8;
}

/** General registers by their number in instruction encodings, as the exception table names them. */
export const ENCODED_REGISTERS: readonly string[] = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
];

/** What exc_*() and asm_exc_*() handle. */
export type ExceptionName = 'page_fault' | 'general_protection' | 'stack_segment' | 'double_fault';

export class X86PtRegs implements pt_regs {
  /** The image. Change it through the setters only. */
  readonly words = new BigUint64Array(WORDS);
  /** The same as 32-bit halves, for code without bigint. */
  readonly halves = new Uint32Array(this.words.buffer);
  /** Virtual address of the frame on the kernel stack; 0 when it is on a stack that is not modelled. */
  get frame(): bigint {
    return fromSigned(this.#frame);
  }
  #frame = 0;
  /** Bit n: word n was written since the exception. */
  dirty = 0;
  /** Page of the frame's end as a signed number, NaN when it is on no stack, and its index in ram.words32. */
  framePage = Number.NaN;
  framePageWord = 0;
  /** The exception that saved them, as its handler's name has it. */
  exception: ExceptionName = 'page_fault';
  /** Addresses of the stack walk from these registers, null when there was none yet. */
  stack: readonly bigint[] | null = null;

  #ram: Ram | null = null;
  /** Index in ram.words64 for the words before `#split`, and for the others, both counted from word 0. */
  #first = 0;
  #second = 0;
  #split = 0;

  /** Fills the image the way hardware and the kernel's entry code do. */
  capture(registers: RegisterSet): void {
    const { words, halves } = this;
    words.set(registers.values);
    const user = ((halves[CS * 2] ?? 0) & 3) !== 0;
    this.#setLow(CS, user ? __USER_CS : __KERNEL_CS);
    this.#setLow(SS, user ? __USER_DS : __KERNEL_DS);
    // A fault-class exception saves RF set: SDM volume 3, "Masking Instruction Breakpoints".
    halves[FLAGS * 2] = (halves[FLAGS * 2] ?? 0) | EFLAGS_RF;
    halves[ORIG_AX * 2] = 0xffffffff;
    halves[ORIG_AX * 2 + 1] = 0xffffffff;
    this.#forgetPlace();
  }

  #forgetPlace(): void {
    this.#frame = 0;
    this.dirty = 0;
    this.framePage = Number.NaN;
    this.exception = 'page_fault';
    this.stack = null;
    this.#ram = null;
  }

  #setLow(index: number, value: number): void {
    this.halves[index * 2] = value;
    this.halves[index * 2 + 1] = 0;
  }

  /** The state of another frame, on no stack. */
  copyFrom(other: X86PtRegs): void {
    this.words.set(other.words);
    this.#forgetPlace();
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
      this.framePageWord = (pa - (pa & 0xfff) - ram.base) / 4;
      ram.words64.set(words, this.#first);
    } else {
      this.framePage = frame - (frame & 0xfff) + 4096;
      this.framePageWord = (secondPa - ram.base) / 4;
      ram.words64.set(words.subarray(0, room), this.#first);
      ram.words64.set(words.subarray(room), this.#second + room);
    }
  }

  #get(index: number): bigint {
    return this.words[index] ?? 0n;
  }

  #put(index: number, value: bigint): void {
    const v = BigInt.asUintN(64, value);
    this.words[index] = v;
    this.dirty |= 1 << index;
    this.stack = null;
    if (this.#ram !== null) {
      this.#ram.words64[(index < this.#split ? this.#first : this.#second) + index] = v;
    }
  }

  /** The register at a byte offset, a multiple of 8 below PT_REGS_SIZE. */
  atOffset(offset: number): bigint {
    return this.#get(offset >> 3);
  }
  setAtOffset(offset: number, value: bigint): void {
    this.#put(offset >> 3, value);
  }

  /** By the CPU's name; undefined for what pt_regs does not hold. */
  named(register: string): bigint | undefined {
    const index = INDEX.get(register);
    return index === undefined ? undefined : this.#get(index);
  }

  get r15(): bigint {
    return this.#get(0);
  }
  get r14(): bigint {
    return this.#get(1);
  }
  get r13(): bigint {
    return this.#get(2);
  }
  get r12(): bigint {
    return this.#get(3);
  }
  get bp(): bigint {
    return this.#get(BP);
  }
  get bx(): bigint {
    return this.#get(5);
  }
  get r11(): bigint {
    return this.#get(6);
  }
  get r10(): bigint {
    return this.#get(7);
  }
  get r9(): bigint {
    return this.#get(8);
  }
  get r8(): bigint {
    return this.#get(9);
  }
  get ax(): bigint {
    return this.#get(10);
  }
  set ax(value: bigint) {
    this.#put(10, value);
  }
  get cx(): bigint {
    return this.#get(11);
  }
  set cx(value: bigint) {
    this.#put(11, value);
  }
  get dx(): bigint {
    return this.#get(12);
  }
  set dx(value: bigint) {
    this.#put(12, value);
  }
  get si(): bigint {
    return this.#get(13);
  }
  get di(): bigint {
    return this.#get(14);
  }
  get orig_ax(): bigint {
    return this.#get(ORIG_AX);
  }
  get ip(): bigint {
    return this.#get(IP);
  }
  /** A changed ip makes the exception return go elsewhere. */
  set ip(value: bigint) {
    this.#put(IP, value);
  }
  get cs(): bigint {
    return this.#get(CS);
  }
  get flags(): bigint {
    return this.#get(FLAGS);
  }
  /** The low half of flags as a number. */
  get flagsLow(): number {
    return this.halves[FLAGS * 2] ?? 0;
  }
  get sp(): bigint {
    return this.#get(SP);
  }
  set sp(value: bigint) {
    this.#put(SP, value);
  }
  get ss(): bigint {
    return this.#get(SS);
  }

  get instruction_pointer(): bigint {
    return this.ip;
  }
  get stack_pointer(): bigint {
    return this.sp;
  }
  get user_mode(): boolean {
    return ((this.halves[CS * 2] ?? 0) & 3) !== 0;
  }

  /** ip, sp and bp as signed numbers (see address.ts); inexact when they do not fit one. */
  get ipSigned(): number {
    return this.#signed(IP);
  }
  get spSigned(): number {
    return this.#signed(SP);
  }
  get bpSigned(): number {
    return this.#signed(BP);
  }
  #signed(index: number): number {
    const { halves } = this;
    return ((halves[index * 2 + 1] ?? 0) | 0) * 4294967296 + (halves[index * 2] ?? 0);
  }

  /** True when the exception return goes elsewhere. */
  get ipChanged(): boolean {
    return (this.dirty & (1 << IP)) !== 0;
  }

  /** The exception return: what the kernel changed goes into the CPU. */
  writeBack(cpu: Cpu): void {
    // Selectors come with the privilege. Of the flags nothing is ever changed here.
    let changed = this.dirty & ~((1 << ORIG_AX) | (1 << CS) | (1 << FLAGS) | (1 << SS));
    while (changed !== 0) {
      const index = 31 - Math.clz32(changed);
      changed &= ~(1 << index);
      cpu.write(LAYOUT[index] ?? '', this.#get(index));
    }
    this.dirty = 0;
  }
}
