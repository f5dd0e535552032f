/**
 * The ORC unwinder: steps from frame to frame of the current task's stack, by the tables.
 *
 * Ported from arch/x86/kernel/unwind_orc.c, bpf-next merge 8496d9020ff3. Left out: register frames on the
 * stack (exceptions are handled by host code, so only the innermost one exists and walks start there),
 * the other stacks of a CPU, and the return addresses that tracers replace.
 */
import { toSigned } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import type { task_struct } from '../kernel.js';
import type { X86Mmu } from './mmu.js';
import type { IpInfo, OrcTables } from './orc.js';
import { ORC_REG_BP, ORC_REG_PREV_SP, ORC_REG_SP } from './orc.js';
import type { X86PtRegs } from './regs.js';

/** The kernel image, modules and BPF images are in the topmost 2 GiB, so that calls reach each other. */
const TEXT_FLOOR = -0x8000_0000;

/** One walk after the other; a walk in the middle of another needs an unwinder of its own. */
export class Unwinder {
  /** The frame's address, null when it is no possible kernel text. */
  info: IpInfo | null = null;
  /** Stack pointer of the frame: a signed number. */
  sp = 0;
  /** True when there is no further frame. */
  done = true;

  readonly #orc: OrcTables;
  #here: ThisCpu | null = null;
  #mmu: X86Mmu | null = null;
  #regs: X86PtRegs | null = null;
  /** The frame is that of the exception: its address is exact. */
  #signal = false;
  #bp = 0;
  /** Index in ram.words64 of the bp that was read last; -1 while it is the register's. */
  #bpWord = -1;

  /** Frames so far, and what each address was in the walk before: stacks seldom change between faults. */
  #depth = 0;
  readonly #before: IpInfo[] = [];
  /** Frames of the walk before whose addresses `#list` holds. */
  #listed = 0;
  #list: readonly bigint[] = [];
  #generation = 0;

  /** The stack: bounds, and its addresses as bigint, made when first asked for. */
  #task: task_struct | null = null;
  #low = 0;
  #high = 0;
  readonly #addresses: (bigint | undefined)[] = [];

  /** Index in ram.words32 of the page looked at last. */
  #page = Number.NaN;
  #pageWord = 0;
  /** Halves and place of the word read last. */
  #wordLo = 0;
  #wordHi = 0;
  #word = 0;

  constructor(orc: OrcTables) {
    this.#orc = orc;
  }

  /** unwind_start() from the registers of an exception. The first frame is the interrupted code itself. */
  start(here: ThisCpu, mmu: X86Mmu, regs: X86PtRegs): void {
    this.#here = here;
    this.#mmu = mmu;
    this.#regs = regs;
    const { current } = here;
    if (current !== this.#task) {
      this.#task = current;
      this.#low = toSigned(current.stack);
      this.#high = this.#low + current.stackSize;
      this.#addresses.length = 0;
    }
    if (this.#generation !== this.#orc.generation) {
      this.#generation = this.#orc.generation;
      this.#before.length = 0;
      this.#listed = -1;
    }
    // The entry code has just found the page of the frame that it pushed.
    this.#page = regs.framePage;
    this.#pageWord = regs.framePageWord;
    this.#depth = 0;
    this.sp = regs.spSigned;
    this.#bp = regs.bpSigned;
    this.#bpWord = -1;
    this.#signal = true;
    this.done = regs.user_mode;
    this.#arriveAt(regs.ipSigned);
  }

  /** Lowest and highest address of the stack, the latter exclusive. */
  get low(): number {
    return this.#low;
  }
  get high(): number {
    return this.#high;
  }

  #arriveAt(ip: number): void {
    const depth = this.#depth;
    const before = this.#before[depth];
    this.#depth = depth + 1;
    if (before !== undefined && before.at === ip) {
      this.info = before;
      return;
    }
    const info = (ip >= TEXT_FLOOR && ip < 0) || ip === 0 ? this.#orc.info(ip) : null;
    this.info = info;
    if (info === null || depth > this.#before.length) return;
    this.#before[depth] = info;
    if (depth < this.#listed) this.#listed = -1;
  }

  /**
   * The addresses of a whole walk, innermost first; the same array as the last time when the walk came to
   * the same ones. Nobody changes it.
   */
  addresses(here: ThisCpu, mmu: X86Mmu, regs: X86PtRegs): readonly bigint[] {
    this.start(here, mmu, regs);
    let count = 0;
    while (this.#isText()) {
      count += 1;
      this.next();
    }
    if (count !== this.#listed) {
      this.#list = this.#before.slice(0, count).map(({ ip }) => ip);
      this.#listed = count;
    }
    return this.#list;
  }

  /** Is there a frame, and is its address kernel text? */
  #isText(): boolean {
    const { info } = this;
    if (this.done || info === null || this.#here === null) return false;
    return info.known || this.#here.kernel.kernel_text_address(info.ip);
  }

  /** unwind_get_return_address(): the frame's address if it is kernel text, else null. */
  get returnAddress(): bigint | null {
    return this.#isText() ? (this.info?.ip ?? null) : null;
  }

  /** unwind_get_return_address_ptr(): where on the stack the frame's address is; NaN for the first frame. */
  get returnAddressSlot(): number {
    return this.done || this.#signal ? Number.NaN : this.sp - 8;
  }

  get spAddress(): bigint {
    const slot = (this.sp - this.#low) / 8;
    if (!(slot >= 0 && this.sp <= this.#high && Number.isInteger(slot))) {
      return this.#signal ? (this.#regs?.sp ?? 0n) : BigInt.asUintN(64, BigInt(this.sp));
    }
    const known = this.#addresses[slot];
    if (known !== undefined) return known;
    const address = BigInt.asUintN(64, BigInt(this.sp));
    this.#addresses[slot] = address;
    return address;
  }

  get bpValue(): bigint {
    return this.#bpWord < 0 ? (this.#regs?.bp ?? 0n) : (this.#here?.ram.words64[this.#bpWord] ?? 0n);
  }

  /** unwind_next_frame(). False when there is none. */
  next(): boolean {
    if (this.done) return false;
    this.done = !this.#step();
    return !this.done;
  }

  #step(): boolean {
    const { info } = this;
    // Nothing unwinds the code at the bottom: the kernel marks it as the end of the stack.
    if (info === null || info.ip === this.#here?.cpu.sentinel) return false;
    const entry = this.#signal ? info.exact : info.call;
    let cfa: number;
    if (entry.sp_reg === ORC_REG_SP) cfa = this.sp + entry.sp_offset;
    else if (entry.sp_reg === ORC_REG_BP) cfa = this.#bp + entry.sp_offset;
    else return false;
    // Frames lie one above the other: with this no table and no stack makes a walk endless.
    if (!(cfa > this.sp) || !this.#read(cfa - 8)) return false;
    const ip = this.#value();
    this.sp = cfa;
    this.#signal = false;
    if (entry.bp_reg === ORC_REG_PREV_SP) {
      if (!this.#read(cfa + entry.bp_offset)) return false;
      this.#bp = this.#value();
      this.#bpWord = this.#word / 2;
    }
    this.#arriveAt(ip);
    return true;
  }

  /** The word read last as a signed number, inexact when it does not fit one. */
  #value(): number {
    return (this.#wordHi | 0) * 4294967296 + this.#wordLo;
  }

  /** deref_stack_reg(): reads a word of the stack. False outside of it and where it is not mapped. */
  #read(va: number): boolean {
    if (!(va >= this.#low && va + 8 <= this.#high)) return false;
    const offset = va & 0xfff;
    if ((offset & 7) !== 0) return false;
    const page = va - offset;
    const ram = this.#here?.ram;
    if (ram === undefined) return false;
    if (page !== this.#page) {
      const pa = this.#mmu?.physical(page) ?? -1;
      if (pa < 0) return false;
      this.#page = page;
      this.#pageWord = (pa - ram.base) / 4;
    }
    this.#word = this.#pageWord + (offset >> 2);
    this.#wordLo = ram.words32[this.#word] ?? 0;
    this.#wordHi = ram.words32[this.#word + 1] ?? 0;
    return true;
  }

  /** A word of the stack as a whole, null where it is not mapped; for traces that look at every word. */
  wordAt(va: number): bigint | null {
    if (!this.#read(va)) return null;
    return this.#here?.ram.words64[this.#word / 2] ?? null;
  }
}
