/**
 * The steps of a stack walk by frame records.
 *
 * Ported from arch/arm64/kernel/stacktrace.c and include/asm/stacktrace/common.h, bpf-next merge
 * 8496d9020ff3. Left out: SDEI and EFI stacks, function graph tracing and kretprobes.
 *
 * Addresses are signed numbers (see emu/address.ts): the walk is part of every recovered fault.
 */
import type { Ram } from '../../emu/ram.js';
import type { task_struct } from '../kernel.js';
import type { Arm64Mmu } from './mmu.js';
import {
  type Arm64PtRegs,
  FRAME_META_TYPE_FINAL,
  FRAME_META_TYPE_NONE,
  FRAME_META_TYPE_PT_REGS,
  PT_REGS_SIZE,
  S_STACKFRAME,
} from './regs.js';

const TWO_32 = 4294967296;
const FRAME_RECORD_SIZE = 16;
const FRAME_META_SIZE = 24;
const S_X29 = 29 * 8;
const S_PC = 0x100;

/** XPACLRI: the address without a pointer authentication code. */
export function stripPac(address: bigint): bigint {
  return (address >> 55n) & 1n ? address | (0xffffn << 48n) : address & ~(0x7fn << 48n);
}

/** stripPac() of an address's high half. */
function stripPacHigh(high: number): number {
  return (high & (1 << 23)) !== 0 ? (high | 0xffff0000) >>> 0 : (high & ~(0x7f << 16)) >>> 0;
}

/** A stack beside the task's that a walk may come through: signed numbers, the end exclusive. */
export interface StackRange {
  readonly low: number;
  readonly high: number;
}

/** enum kunwind_source: how a pc was found, by the letter that traces print. */
export type KunwindSource = '' | 'P';

/** The end of a walk that the kernel warns of: WARN_ON_ONCE(tsk == current) in stacktrace.c. */
export type BrokenChain = 'final record in the middle' | 'unknown metadata';

const NO_STACKS: readonly StackRange[] = [];

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
  /** What is left of the stack that the walk is on: it only shrinks. */
  #low = 0;
  #high = 0;
  /** Stacks that it may go on to; who leaves one does not come back. */
  #others: readonly StackRange[] = NO_STACKS;
  /** End of the task's stack. */
  #top = 0;
  /** Why the walk ended, when the kernel warns of that. */
  broken: BrokenChain | null = null;
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

  /**
   * @param low lowest address that a frame may have; -Infinity for the whole stack
   * @param others stacks of the CPU, which only code that cannot be preempted may be on
   */
  start(current: task_struct, regs: Arm64PtRegs, low: number, others = NO_STACKS): void {
    const stack = this.#mmu.stackOf(current);
    this.#regs = regs;
    this.#ipLow = regs.pcLow;
    this.#ipHigh = regs.pcHigh;
    this.#bpWord = -1;
    this.#fp = regs.xSigned(29);
    this.fromRegs = true;
    this.#low = Math.max(low, stack);
    this.#high = stack + current.stackSize;
    this.#top = this.#high;
    if (this.#others !== others) this.#others = others;
    if (this.broken !== null) this.broken = null;
    // The entry code has just found the page of the frame that it pushed.
    this.#page = regs.framePage;
    this.#pageWord = regs.framePageWord;
  }

  get source(): KunwindSource {
    return this.fromRegs ? 'P' : '';
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

  /** The bytes lie in what is left of this stack. */
  #fits(address: number, size: number): boolean {
    return address >= this.#low && address + size <= this.#high && (address & 7) === 0;
  }

  /** unwind_find_stack(): on to the other stack that the record is on. The one that was left is gone. */
  #switchTo(record: number): boolean {
    const other = this.#others.find(({ low, high }) => record >= low && record + FRAME_RECORD_SIZE <= high);
    if (other === undefined || (record & 7) !== 0) return false;
    this.#low = other.low;
    this.#high = other.high;
    this.#others = this.#others.filter((stack) => stack !== other);
    return true;
  }

  /** Goes one frame outwards. False at the end of the stack and at anything that is not a frame. */
  next(): boolean {
    const fp = this.#fp;
    if (!this.#fits(fp, FRAME_RECORD_SIZE) && !this.#switchTo(fp)) return false;
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

  /** kunwind_next_frame_record_meta(): a record of two zeros describes something else than a call. */
  #meta(fp: number): boolean {
    if (!this.#fits(fp, FRAME_META_SIZE)) return false;
    const { words32 } = this.#ram;
    const typeAt = this.#word(fp + 16);
    if (typeAt < 0) return false;
    // A 64-bit type: what is above the known ones is unknown.
    const type = (words32[typeAt * 2 + 1] ?? 0) === 0 ? (words32[typeAt * 2] ?? 0) : FRAME_META_TYPE_NONE;
    switch (type) {
      case FRAME_META_TYPE_FINAL:
        if (fp !== this.#top - PT_REGS_SIZE + S_STACKFRAME) this.broken = 'final record in the middle';
        return false;
      case FRAME_META_TYPE_PT_REGS:
        return this.#nextRegsPc(fp - S_STACKFRAME);
      default:
        this.broken = 'unknown metadata';
        return false;
    }
  }

  /** kunwind_next_regs_pc(): on to the code that an exception interrupted. */
  #nextRegsPc(regs: number): boolean {
    if (!this.#fits(regs, PT_REGS_SIZE)) return false;
    const { words32 } = this.#ram;
    const pcAt = this.#word(regs + S_PC);
    const x29At = this.#word(regs + S_X29);
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
