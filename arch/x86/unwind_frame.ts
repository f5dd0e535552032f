/**
 * The frame-pointer unwinder, CONFIG_UNWINDER_FRAME_POINTER: follows RBP from frame to frame.
 *
 * Ported from arch/x86/kernel/unwind_frame.c, bpf-next merge 8496d9020ff3. Left out: walks that start
 * without registers or in other tasks, 32 bits, and the return addresses that tracers replace. Code that
 * the host called ends at the sentinel, where a kernel thread has the frame of ret_from_fork() instead.
 *
 * It is no part of a recovered fault (arch_bpf_stack_walk() needs ORC), so its values are bigint.
 */
import { fromSigned, hex16, toSigned, u64 } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { KERN_DEFAULT } from '../kernel.js';
import { machineOf } from './machine.js';
import { PT_REGS_SIZE, type X86PtRegs } from './regs.js';
import type { EntryRegs, TraceUnwinder } from './unwind.js';
import {
  get_stack_info,
  on_stack,
  REGS_BP,
  REGS_CS,
  REGS_IP,
  REGS_SP,
  STACK_TYPE_UNKNOWN,
  StackMemory,
  type stack_info,
  task_pt_regs,
  type VisitMask,
  warnOnce,
  wordAlign,
} from './unwind-stacks.js';

/** A saved RBP and the return address above it. */
const FRAME_HEADER_SIZE = 16;

export class FrameUnwinder implements TraceUnwinder {
  done = false;
  readonly #here: ThisCpu;
  readonly #memory: StackMemory;
  #info: stack_info | null = null;
  readonly #mask: VisitMask = { bits: 0 };
  /** The frame's header; unused while the frame is `#regs`. */
  #bp = 0n;
  /** Address of the frame's pt_regs. */
  #regs: bigint | null = null;
  /** RBP of a call through a null pointer. */
  #nextBp = 0n;
  #ip = 0n;
  #gotIrq = true;
  /** The first frame, for the dump; null before it. */
  #origSp: bigint | null = null;

  /** unwind_start() from the registers of an exception: stands at the first frame on their stack. */
  constructor(here: ThisCpu, regs: X86PtRegs) {
    this.#here = here;
    this.#memory = new StackMemory(here);
    if (regs.user_mode) {
      this.done = true;
      return;
    }
    const firstFrame = regs.sp;
    let { bp } = regs;
    if (regs.ip === 0n) {
      // As if the function behind the null pointer had pushed RBP.
      this.#nextBp = bp;
      bp = u64(regs.sp - 8n);
    }
    this.#switchTo(toSigned(bp));
    this.#update(bp);
    const first = toSigned(firstFrame);
    while (!this.done && !(this.#isOnStack(first, 8) && (this.#nextBp !== 0n || this.#bp >= firstFrame))) {
      this.next();
    }
  }

  get returnAddress(): bigint | null {
    return !this.done && this.#here.kernel.kernel_text_address(this.#ip) ? this.#ip : null;
  }

  get returnAddressSlot(): number {
    return this.done ? Number.NaN : toSigned(this.#returnAddressPlace());
  }

  get entryRegs(): EntryRegs | null {
    return this.done || this.#regs === null ? null : { address: toSigned(this.#regs), partial: false };
  }

  next(): boolean {
    if (this.done) return false;
    if (this.#regs !== null && this.#isUserMode(this.#regs)) return this.#end();
    if (this.#isLastTaskFrame()) {
      const regs = fromSigned(task_pt_regs(this.#here));
      // What a kernel thread has there says nothing.
      if (!this.#isUserMode(regs)) return this.#end();
      this.#regs = regs;
      this.#bp = 0n;
      this.#ip = 0n;
      return true;
    }
    if (this.#regs === null && this.#ip === this.#here.cpu.sentinel) return this.#end();
    let nextBp: bigint;
    if (this.#nextBp !== 0n) {
      nextBp = this.#nextBp;
      this.#nextBp = 0n;
    } else {
      nextBp = this.#word(this.#regs === null ? this.#bp : this.#regs + BigInt(REGS_BP));
    }
    if (this.#update(nextBp)) return true;
    this.#complain(nextBp);
    return this.#end();
  }

  #end(): false {
    this.#info = null;
    this.done = true;
    return false;
  }

  /** A word of a stack; 0 where nothing is mapped. */
  #word(at: bigint): bigint {
    return this.#memory.word(toSigned(u64(at))) ?? 0n;
  }

  #isOnStack(at: number, size: number): boolean {
    return this.#info !== null && on_stack(this.#info, at, size);
  }

  #switchTo(at: number): boolean {
    this.#info = get_stack_info(this.#here, at, this.#mask);
    if (this.#info === null) this.done = true;
    return this.#info !== null;
  }

  #isUserMode(regs: bigint): boolean {
    return (this.#word(regs + BigInt(REGS_CS)) & 3n) !== 0n;
  }

  #returnAddressPlace(): bigint {
    return u64(this.#regs === null ? this.#bp + 8n : this.#regs + BigInt(REGS_IP));
  }

  /**
   * is_last_task_frame(): the next thing on the stack is the registers of the entry from user mode. Code that
   * the host called has the whole stack, and its frames may lie there.
   */
  #isLastTaskFrame(): boolean {
    const { stack, stackSize } = this.#here.current;
    if (this.#word(stack + BigInt(stackSize) - 8n) === this.#here.cpu.sentinel) return false;
    const last = fromSigned(task_pt_regs(this.#here) - FRAME_HEADER_SIZE);
    const bp = this.#bp;
    if (bp === last) return true;
    // GCC may have realigned the stack and pushed the return address once more.
    if (bp === last - 8n) return this.#word(bp + 8n) === this.#word(last + 8n);
    // An ftrace handler: rbp and parent, then rbp, function and parent again.
    return (
      bp === last - 24n &&
      this.#word(bp) === this.#word(bp + 16n) &&
      this.#word(bp + 8n) === this.#word(bp + 32n)
    );
  }

  /** update_stack_state(): moves to the frame that `nextBp` leads to; false when it does not lead to any. */
  #update(nextBp: bigint): boolean {
    const prevType = this.#info?.type ?? STACK_TYPE_UNKNOWN;
    const prevEnd =
      this.#regs === null ? this.#bp + BigInt(FRAME_HEADER_SIZE) : this.#regs + BigInt(PT_REGS_SIZE);
    // Entry code leaves the address of pt_regs in RBP, marked by the lowest bit.
    const encoded = (nextBp & 1n) !== 0n;
    const frame = nextBp & ~1n;
    if (encoded) this.#gotIrq = true;
    const size = encoded ? PT_REGS_SIZE : FRAME_HEADER_SIZE;
    while (!this.#isOnStack(toSigned(frame), size)) {
      const next = this.#info?.next_sp ?? 0;
      if (!this.#switchTo(next)) return false;
    }
    if (this.#origSp !== null && this.#info?.type === prevType && frame < prevEnd) return false;
    this.#regs = encoded ? frame : null;
    this.#bp = encoded ? 0n : frame;
    const user = this.#regs !== null && this.#isUserMode(this.#regs);
    this.#ip = user ? 0n : this.#word(this.#returnAddressPlace());
    this.#origSp ??= frame;
    return true;
  }

  /** Says once since boot that the chain is broken, unless an exception in entry code explains it. */
  #complain(nextBp: bigint): void {
    const { kernel, current } = this.#here;
    if (this.#gotIrq && machineOf(this.#here).orc.isEntryCode(toSigned(this.#ip))) return;
    const bottom = BigInt(task_pt_regs(this.#here));
    if (this.#regs !== null) {
      const sp = BigInt(toSigned(this.#word(this.#regs + BigInt(REGS_SP))) || 0);
      if (sp >= bottom - 24n && sp < bottom) return;
    }
    const who = `${current.comm}:${current.pid}`;
    const value = kernel.hashed_pointer(nextBp);
    if (this.#regs === null) {
      const at = kernel.hashed_pointer(this.#bp);
      const text = `kernel stack frame pointer at ${at} in ${who} has bad value ${value}`;
      warnOnce(this.#here, 'unwind_frame.c frame pointer', text);
    } else {
      const at = kernel.hashed_pointer(this.#regs);
      const text = `kernel stack regs at ${at} in ${who} has bad 'bp' value ${value}`;
      warnOnce(this.#here, 'unwind_frame.c regs', text);
    }
    this.#dump();
  }

  /** unwind_dump(): every word of the stacks, runs of zeros as one line. Once since boot. */
  #dump(): void {
    const here = this.#here;
    const { kernel } = here;
    if (!kernel.once('arch/x86/kernel: unwind_dump')) return;
    const print = (text: string): void => kernel.printk(here, KERN_DEFAULT, text);
    const type = this.#info?.type ?? STACK_TYPE_UNKNOWN;
    const next = kernel.hashed_pointer(fromSigned(this.#info?.next_sp ?? 0));
    print(`unwind stack type:${type} next_sp:${next} mask:0x${this.#mask.bits.toString(16)} graph_idx:0`);
    const visited: VisitMask = { bits: 0 };
    let zero = false;
    let sp = wordAlign(toSigned(this.#origSp ?? 0n));
    while (sp !== 0) {
      const info = get_stack_info(here, sp, visited);
      if (info === null) break;
      for (; sp < info.end; sp += 8) {
        const word = this.#memory.word(sp) ?? 0n;
        const wasZero = zero;
        zero = word === 0n;
        const at = `${kernel.hashed_pointer(fromSigned(sp))}: ${hex16(word)}`;
        if (!zero) print(`${at} (${kernel.sprint_backtrace(word)})`);
        else if (!wasZero) print(`${at} ...`);
      }
      sp = wordAlign(info.next_sp);
    }
  }
}
