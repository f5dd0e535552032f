/**
 * Stack walks by frame records.
 *
 * Ported from arch/arm64/kernel/stacktrace.c and include/asm/stacktrace/common.h, bpf-next merge
 * 8496d9020ff3. The handlers of an exception have no frames here, so a walk starts at the registers of the
 * exception, as if it had just come out of them. Left out: interrupt, overflow, SDEI and EFI stacks (the
 * task's is the only one), function graph tracing, kretprobes, and blocked tasks.
 *
 * Addresses are signed numbers (see emu/address.ts): the walk is part of every recovered fault.
 */
import type { Ram } from '../../emu/ram.js';
import type { StackVisitor, ThisCpu } from '../arch.js';
import { type Arm64Mmu, mmuOf } from './mmu.js';
import {
  Arm64PtRegs,
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

/** Where a walk stands. What visitors see is bigint; what is computed with, signed numbers. */
class Unwinder {
  /** The frame to report: its pc and x29. */
  ip: bigint;
  bp: bigint;
  /** `bp` as a number; not exact, but then out of every stack's range, when it does not fit one. */
  #fp: number;
  /** pc came out of a pt_regs, not out of a frame record. */
  fromRegs = true;
  /** What is left of the task's stack: it only shrinks. */
  #low: number;
  readonly #high: number;
  /** The page last looked at. */
  #page = Number.NaN;
  #pageWord = 0;

  readonly #mmu: Arm64Mmu;
  readonly #ram: Ram;

  /** @param low lowest address that a frame may have; -Infinity for the whole stack */
  constructor(here: ThisCpu, regs: Arm64PtRegs, low: number) {
    const { current } = here;
    this.#mmu = mmuOf(here);
    this.#ram = here.ram;
    const stack = this.#mmu.stackOf(current);
    this.ip = regs.pc;
    this.bp = regs.x(29);
    this.#fp = regs.xSigned(29);
    this.#low = Math.max(low, stack);
    this.#high = stack + current.stackSize;
  }

  /** Index of the word at `address` in ram.words64, or -1 when it does not translate. */
  #word(address: number): number {
    const offset = (address >>> 0) & 0xfff;
    const page = address - offset;
    if (page !== this.#page) {
      const pa = this.#mmu.physical(page);
      if (pa < 0) return -1;
      this.#page = page;
      this.#pageWord = (pa - this.#ram.base) / 8;
    }
    return this.#pageWord + offset / 8;
  }

  #fits(address: number, size: number): boolean {
    return address % 8 === 0 && address >= this.#low && address + size <= this.#high;
  }

  /** Goes one frame outwards. False at the end of the stack and at anything that is not a frame. */
  next(): boolean {
    const fp = this.#fp;
    if (!this.#fits(fp, FRAME_RECORD_SIZE)) return false;
    const { words32, words64 } = this.#ram;
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
    this.bp = words64[at] ?? 0n;
    const lr = words64[lrAt] ?? 0n;
    // Only an address with neither form of top bits can have a code to strip.
    this.ip = lrHigh >>> 16 === 0xffff || lrHigh >>> 16 === 0 ? lr : stripPac(lr);
    this.fromRegs = false;
    return true;
  }

  /** A record of two zeros describes something else than a call. */
  #meta(fp: number): boolean {
    if (!this.#fits(fp, FRAME_META_SIZE)) return false;
    const { words32, words64 } = this.#ram;
    const typeAt = this.#word(fp + 16);
    const type = typeAt < 0 ? FRAME_META_TYPE_FINAL : (words32[typeAt * 2] ?? 0);
    if (type !== FRAME_META_TYPE_PT_REGS) return false;
    const regs = fp - S_STACKFRAME;
    if (!this.#fits(regs, PT_REGS_SIZE)) return false;
    const pcAt = this.#word(regs + 0x100);
    const x29At = this.#word(regs + 29 * 8);
    if (pcAt < 0 || x29At < 0) return false;
    this.#low = regs + PT_REGS_SIZE;
    this.bp = words64[x29At] ?? 0n;
    this.#fp = ((words32[x29At * 2 + 1] ?? 0) | 0) * TWO_32 + (words32[x29At * 2] ?? 0);
    this.ip = stripPac(words64[pcAt] ?? 0n);
    this.fromRegs = true;
    return true;
  }
}

/**
 * The walk that finds the BPF program behind a fault: from the registers of the exception outwards. lr is
 * never used, so that the caller of a function without a frame record of its own is not visited. A walk
 * outside of an exception, and one from user mode, has nothing to visit.
 */
export function arch_bpf_stack_walk(here: ThisCpu, visit: StackVisitor): void {
  const { regs } = here;
  if (!(regs instanceof Arm64PtRegs) || regs.user_mode) return;
  // The handlers' own walk has consumed the stack up to the end of the exception's frame.
  const unwinder = new Unwinder(here, regs, regs.spSigned);
  do {
    if (!visit(unwinder.ip, 0n, unwinder.bp)) return;
  } while (unwinder.next());
}

/** Prints the frames behind `regs`; nothing for registers of user code. */
export function dump_backtrace(here: ThisCpu, regs: Arm64PtRegs, loglvl: number): void {
  if (regs.user_mode) return;
  const { kernel } = here;
  kernel.printk(here, loglvl, 'Call trace:');
  const unwinder = new Unwinder(here, regs, Number.NEGATIVE_INFINITY);
  do {
    const source = unwinder.fromRegs ? ' (P)' : '';
    kernel.printk(here, loglvl, ` ${kernel.sprint_symbol(unwinder.ip)}${source}`);
  } while (unwinder.next());
}
