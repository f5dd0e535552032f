/**
 * The steps of a stack walk by frame records.
 *
 * Ported from arch/arm64/kernel/stacktrace.c and include/asm/stacktrace/common.h, bpf-next merge
 * 8496d9020ff3. Left out: interrupt, overflow, SDEI and EFI stacks (the task's is the only one).
 *
 * Addresses are signed numbers (see emu/address.ts): the walk is part of every recovered fault.
 */
import type { Ram } from '../../emu/ram.js';
import type { task_struct } from '../kernel.js';
import type { Arm64Mmu } from './mmu.js';
import {
  type Arm64PtRegs,
  FRAME_META_TYPE_FINAL,
  FRAME_META_TYPE_PT_REGS,
  PT_REGS_SIZE,
  S_STACKFRAME,
} from './regs.js';

const TWO_32 = 4294967296;
const FRAME_RECORD_SIZE = 16;
const FRAME_META_SIZE = 24;

/** XPACLRI: the address without a pointer authentication code. */
export function stripPac(address: bigint): bigint {
  return (address >> 55n) & 1n ? address | (0xffffn << 48n) : address & ~(0x7fn << 48n);
}

/** stripPac() of an address's high half. */
function stripPacHigh(high: number): number {
  return (high & (1 << 23)) !== 0 ? (high | 0xffff0000) >>> 0 : (high & ~(0x7f << 16)) >>> 0;
}

/** One walk after the other. What visitors see is bigint; what is computed with, signed numbers and halves. */
export class Unwinder {
  /** pc came out of a pt_regs, not out of a frame record. */
  fromRegs = true;
  /** Halves of the frame's pc. */
  #ipLow = 0;
  #ipHigh = 0;
  /** Index in ram.words64 of the frame's x29; -1 while it is the register's. */
  #bpWord = -1;
  /** x29 as a number; not exact, but then out of every stack's range, when it does not fit one. */
  #fp = 0;
  /** What is left of the task's stack: it only shrinks. */
  #low = 0;
  #high = 0;
  /** The page last looked at. */
  #page = Number.NaN;
  #pageWord = 0;

  /** Halves of the addresses that the last whole walk came to, two for each, and the addresses. */
  readonly #before: number[] = [];
  #list: readonly bigint[] = [];

  #regs: Arm64PtRegs | null = null;
  readonly #mmu: Arm64Mmu;
  readonly #ram: Ram;

  constructor(mmu: Arm64Mmu, ram: Ram) {
    this.#mmu = mmu;
    this.#ram = ram;
  }

  /** @param low lowest address that a frame may have; -Infinity for the whole stack */
  start(current: task_struct, regs: Arm64PtRegs, low: number): void {
    const stack = this.#mmu.stackOf(current);
    this.#regs = regs;
    this.#ipLow = regs.pcLow;
    this.#ipHigh = regs.pcHigh;
    this.#bpWord = -1;
    this.#fp = regs.xSigned(29);
    this.fromRegs = true;
    this.#low = Math.max(low, stack);
    this.#high = stack + current.stackSize;
    // The entry code has just found the page of the frame that it pushed.
    this.#page = regs.framePage;
    this.#pageWord = regs.framePageWord;
  }

  /** The frame to report: its pc and x29. */
  get ip(): bigint {
    return (BigInt(this.#ipHigh) << 32n) | BigInt(this.#ipLow);
  }
  get bp(): bigint {
    return this.#bpWord < 0 ? (this.#regs?.x(29) ?? 0n) : (this.#ram.words64[this.#bpWord] ?? 0n);
  }

  /**
   * The addresses of a whole walk, innermost first; the same array as the last time when the walk came to
   * the same ones. Nobody changes it.
   */
  addresses(current: task_struct, regs: Arm64PtRegs, low: number): readonly bigint[] {
    const before = this.#before;
    this.start(current, regs, low);
    let same = true;
    let at = 0;
    do {
      if (before[at] !== this.#ipLow || before[at + 1] !== this.#ipHigh) {
        same = false;
        before[at] = this.#ipLow;
        before[at + 1] = this.#ipHigh;
      }
      at += 2;
    } while (this.next());
    if (same && at === before.length) return this.#list;
    before.length = at;
    const list: bigint[] = [];
    for (let i = 0; i < at; i += 2) list.push((BigInt(before[i + 1] ?? 0) << 32n) | BigInt(before[i] ?? 0));
    this.#list = list;
    return list;
  }

  /** Index of the word at `address` in ram.words64, or -1 when it does not translate. */
  #word(address: number): number {
    const offset = address & 0xfff;
    const page = address - offset;
    if (page !== this.#page) {
      const pa = this.#mmu.physical(page);
      if (pa < 0) return -1;
      this.#page = page;
      this.#pageWord = (pa - this.#ram.base) / 8;
    }
    return this.#pageWord + (offset >> 3);
  }

  #fits(address: number, size: number): boolean {
    return address >= this.#low && address + size <= this.#high && (address & 7) === 0;
  }

  /** Goes one frame outwards. False at the end of the stack and at anything that is not a frame. */
  next(): boolean {
    const fp = this.#fp;
    if (!this.#fits(fp, FRAME_RECORD_SIZE)) return false;
    const { words32 } = this.#ram;
    const at = this.#word(fp);
    const lrAt = this.#word(fp + 8);
    if (at < 0 || lrAt < 0) return false;
    const fpLow = words32[at * 2] ?? 0;
    const fpHigh = words32[at * 2 + 1] ?? 0;
    const lrLow = words32[lrAt * 2] ?? 0;
    const lrHigh = words32[lrAt * 2 + 1] ?? 0;
    if ((fpLow | fpHigh | lrLow | lrHigh) === 0) return this.#meta(fp);
    this.#low = fp + FRAME_RECORD_SIZE;
    this.#fp = (fpHigh | 0) * TWO_32 + fpLow;
    this.#bpWord = at;
    this.#ipLow = lrLow;
    this.#ipHigh = stripPacHigh(lrHigh);
    this.fromRegs = false;
    return true;
  }

  /** A record of two zeros describes something else than a call. */
  #meta(fp: number): boolean {
    if (!this.#fits(fp, FRAME_META_SIZE)) return false;
    const { words32 } = this.#ram;
    const typeAt = this.#word(fp + 16);
    const type = typeAt < 0 ? FRAME_META_TYPE_FINAL : (words32[typeAt * 2] ?? 0);
    if (type !== FRAME_META_TYPE_PT_REGS) return false;
    const regs = fp - S_STACKFRAME;
    if (!this.#fits(regs, PT_REGS_SIZE)) return false;
    const pcAt = this.#word(regs + 0x100);
    const x29At = this.#word(regs + 29 * 8);
    if (pcAt < 0 || x29At < 0) return false;
    this.#low = regs + PT_REGS_SIZE;
    this.#bpWord = x29At;
    this.#fp = ((words32[x29At * 2 + 1] ?? 0) | 0) * TWO_32 + (words32[x29At * 2] ?? 0);
    this.#ipLow = words32[pcAt * 2] ?? 0;
    this.#ipHigh = stripPacHigh(words32[pcAt * 2 + 1] ?? 0);
    this.fromRegs = true;
    return true;
  }
}
