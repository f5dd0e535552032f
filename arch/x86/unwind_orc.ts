/**
 * The ORC unwinder: steps from frame to frame of the current task, by the tables.
 *
 * Ported from arch/x86/kernel/unwind_orc.c, bpf-next merge 8496d9020ff3. Left out: walks that start without
 * registers or in other tasks, and the return addresses that tracers replace.
 */
import { fromSigned, toSigned } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import type { task_struct } from '../kernel.js';
import type { X86Mmu } from './mmu.js';
import type { IpInfo, OrcTables } from './orc.js';
import {
  ORC_REG_BP,
  ORC_REG_BP_INDIRECT,
  ORC_REG_DI,
  ORC_REG_DX,
  ORC_REG_PREV_SP,
  ORC_REG_R10,
  ORC_REG_R13,
  ORC_REG_SP,
  ORC_REG_SP_INDIRECT,
  ORC_REG_UNDEFINED,
  ORC_TYPE_CALL,
  ORC_TYPE_END_OF_STACK,
  ORC_TYPE_REGS,
  ORC_TYPE_UNDEFINED,
  type OrcEntry,
  orc_fp_entry,
} from './orc-entry.js';
import { PT_REGS_SIZE, type X86PtRegs } from './regs.js';
import type { EntryRegs, TraceUnwinder } from './unwind.js';
import {
  get_stack_info,
  IRET_FRAME_OFFSET,
  IRET_FRAME_SIZE,
  pageAlign,
  REGS_BP,
  REGS_CS,
  REGS_IP,
  REGS_SP,
  STACK_TYPE_TASK,
  STACK_TYPE_UNKNOWN,
  StackMemory,
  type VisitMask,
  warnOnce,
} from './unwind-stacks.js';

/** The kernel image, modules and BPF images are in the topmost 2 GiB, so that calls reach each other. */
const TEXT_FLOOR = -0x8000_0000;

/** Byte offsets in pt_regs of the registers that a realigned stack is found through. */
const REGISTER_OFFSETS = { dx: 0x60, di: 0x70, r10: 0x38, r13: 0x10 } as const;
type RegisterName = keyof typeof REGISTER_OFFSETS;

/** One walk after the other; a walk in the middle of another needs an unwinder of its own. */
export class Unwinder implements TraceUnwinder {
  /** The frame's address, null when it is no possible kernel text. */
  info: IpInfo | null = null;
  /** Stack pointer of the frame: a signed number. */
  sp = 0;
  done = true;

  readonly #orc: OrcTables;
  #here: ThisCpu | null = null;
  #mmu: X86Mmu | null = null;
  /** Registers of the exception, which the walk starts from. */
  #regs: X86PtRegs | null = null;
  /** Some of the fields below that only few walks need are not as they are at the start of one. */
  #touched = true;
  /** state->regs, full_regs and prev_regs of interrupted frames further out; NaN for none. */
  #regsAt = Number.NaN;
  #fullRegs = false;
  #prevRegsAt = Number.NaN;
  /** The frame is an interrupted one: its address is exact. */
  #signal = false;
  /** The walk is not to be trusted any more: it has gone through code without tables. */
  #error = false;
  /** The frame's address when there is no `info`. */
  #ip = 0;
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

  /** The task's stack, and its addresses as bigint, made when first asked for. */
  #task: task_struct | null = null;
  #taskLow = 0;
  #taskHigh = 0;
  readonly #addresses: (bigint | undefined)[] = [];
  /** The stack that the frame is on. */
  #type = STACK_TYPE_UNKNOWN;
  #low = 0;
  #high = 0;
  /** Once `#touched`: stack pointer of the frame furthest out on this stack. */
  #floor = 0;
  readonly #visited: VisitMask = { bits: 0 };

  /** The page looked at last, and its index in ram.words32. */
  #page = Number.NaN;
  #pageWord = 0;
  /** Halves and place of the word read last; the place is -1 when it is not aligned. */
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
      this.#taskLow = toSigned(current.stack);
      this.#taskHigh = this.#taskLow + current.stackSize;
      this.#addresses.length = 0;
      this.#touched = true;
    }
    if (this.#touched) this.#reset();
    if (this.#generation !== this.#orc.generation) {
      this.#generation = this.#orc.generation;
      this.#before.length = 0;
      this.#listed = -1;
    }
    // The entry code has just found the page of the frame that it pushed.
    this.#page = regs.framePage;
    this.#pageWord = regs.framePageWord;
    this.#depth = 0;
    const sp = regs.spSigned;
    this.sp = sp;
    this.#bp = regs.bpSigned;
    this.#bpWord = -1;
    this.#signal = true;
    this.done = regs.user_mode || !((sp >= this.#low && sp < this.#high) || this.#startElsewhere(sp));
    this.#arriveAt(regs.ipSigned);
  }

  #reset(): void {
    this.#touched = false;
    this.#error = false;
    this.#regsAt = Number.NaN;
    this.#fullRegs = true;
    this.#prevRegsAt = Number.NaN;
    this.#type = STACK_TYPE_TASK;
    this.#low = this.#taskLow;
    this.#high = this.#taskHigh;
    this.#visited.bits = 1 << STACK_TYPE_TASK;
  }

  /** From now on the walk is none of the simple ones. */
  #touch(): void {
    if (this.#touched) return;
    this.#touched = true;
    this.#floor = this.sp;
  }

  /** The frame is the one that the walk started at. */
  get #first(): boolean {
    return this.#depth === 1;
  }

  /** On another stack of the CPU, or in the guard page of one. */
  #startElsewhere(sp: number): boolean {
    this.#touch();
    this.#visited.bits = 0;
    if (this.#switchTo(sp)) return true;
    this.#error = true;
    return this.#switchTo(pageAlign(sp));
  }

  #switchTo(va: number): boolean {
    if (this.#here === null) return false;
    this.#touch();
    const info = get_stack_info(this.#here, va, this.#visited);
    this.#type = info?.type ?? STACK_TYPE_UNKNOWN;
    this.#low = info?.begin ?? 0;
    this.#high = info?.end ?? 0;
    return info !== null;
  }

  #arriveAt(ip: number): void {
    const depth = this.#depth;
    const before = this.#before[depth];
    this.#depth = depth + 1;
    if (before !== undefined && before.at === ip) {
      this.info = before;
      return;
    }
    const here = this.#here;
    const text = here !== null && ((ip >= TEXT_FLOOR && ip < 0) || ip === 0);
    const info = text ? this.#orc.info(ip, here.kernel) : null;
    this.info = info;
    if (info === null) this.#ip = ip;
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

  get returnAddress(): bigint | null {
    return this.#isText() ? (this.info?.ip ?? null) : null;
  }

  get returnAddressSlot(): number {
    if (this.done || this.#first) return Number.NaN;
    return Number.isNaN(this.#regsAt) ? this.sp - 8 : this.#regsAt + REGS_IP;
  }

  get entryRegs(): EntryRegs | null {
    if (this.done || Number.isNaN(this.#regsAt)) return null;
    return { address: this.#regsAt, partial: !this.#fullRegs };
  }

  get spAddress(): bigint {
    const slot = (this.sp - this.#taskLow) / 8;
    if (!(slot >= 0 && this.sp <= this.#taskHigh && Number.isInteger(slot))) {
      return this.#first ? (this.#regs?.sp ?? 0n) : fromSigned(this.sp);
    }
    const known = this.#addresses[slot];
    if (known !== undefined) return known;
    const address = fromSigned(this.sp);
    this.#addresses[slot] = address;
    return address;
  }

  get bpValue(): bigint {
    if (this.#bpWord >= 0) return this.#here?.ram.words64[this.#bpWord] ?? 0n;
    return this.#bpWord === -1 ? (this.#regs?.bp ?? 0n) : fromSigned(this.#bp);
  }

  next(): boolean {
    if (this.done) return false;
    this.done = !this.#step();
    return !this.done;
  }

  /** A call between functions on the task's stack; whatever else there is, #stepSlowly() sees to. */
  #step(): boolean {
    const { info } = this;
    const entry = info === null ? null : this.#signal ? info.exact : info.call;
    if (entry === null || entry.type !== ORC_TYPE_CALL || this.#touched) return this.#stepSlowly(entry);
    const cfa = (entry.sp_reg === ORC_REG_SP ? this.sp : this.#bp) + entry.sp_offset;
    if (entry.sp_reg !== ORC_REG_SP && entry.sp_reg !== ORC_REG_BP) return this.#stepSlowly(entry);
    if (!(cfa > this.sp) || !this.#readAligned(cfa - 8)) return this.#stepSlowly(entry);
    const ip = this.#value();
    if (entry.bp_reg !== ORC_REG_UNDEFINED) {
      if (entry.bp_reg !== ORC_REG_PREV_SP) return this.#stepSlowly(entry);
      if (!this.#readAligned(cfa + entry.bp_offset)) return this.#stepSlowly(entry);
      this.#bp = this.#value();
      this.#bpWord = this.#word / 2;
    }
    this.sp = cfa;
    this.#signal = false;
    this.#arriveAt(ip);
    return true;
  }

  /** unwind_next_frame() as a whole. */
  #stepSlowly(found: OrcEntry | null): boolean {
    if (found?.type === ORC_TYPE_END_OF_STACK || found?.type === ORC_TYPE_UNDEFINED) return false;
    this.#touch();
    if (this.#isUserMode()) return false;
    let entry = found;
    if (entry === null) {
      // The code at the bottom is entry code, which says that the stack ends there.
      if (this.info !== null && this.info.ip === this.#here?.cpu.sentinel) return false;
      entry = orc_fp_entry;
      this.#error = true;
    }
    const frame = this.#frameOf(entry);
    if (Number.isNaN(frame)) return false;
    return entry.type === ORC_TYPE_CALL ? this.#stepCall(entry, frame) : this.#stepRegs(entry, frame);
  }

  #stepCall(entry: OrcEntry, cfa: number): boolean {
    const type = this.#type;
    if (!this.#read(cfa - 8)) return false;
    const ip = this.#value();
    this.#regsAt = Number.NaN;
    this.#prevRegsAt = Number.NaN;
    return this.#findBp(entry, cfa) && this.#moveTo(entry, ip, cfa, type);
  }

  #stepRegs(entry: OrcEntry, frame: number): boolean {
    const type = this.#type;
    const full = entry.type === ORC_TYPE_REGS;
    if (!this.#canRead(frame, full ? PT_REGS_SIZE : IRET_FRAME_SIZE)) {
      const what = full ? 'registers' : 'iret registers';
      this.#warn(what, `can't access ${what}`);
      return false;
    }
    const regsAt = full ? frame : frame - IRET_FRAME_OFFSET;
    if (!this.#read(regsAt + REGS_IP)) return false;
    const ip = this.#value();
    if (!this.#read(regsAt + REGS_SP)) return false;
    const sp = this.#value();
    if (full) this.#prevRegsAt = Number.NaN;
    else if (this.#fullRegs) this.#prevRegsAt = this.#first ? this.#framePlace() : this.#regsAt;
    this.#regsAt = regsAt;
    this.#fullRegs = full;
    return this.#findBp(entry, frame) && this.#moveTo(entry, ip, sp, type);
  }

  #moveTo(entry: OrcEntry, ip: number, sp: number, type: number): boolean {
    if (!this.#goesOutwards(sp, type)) return false;
    this.sp = sp;
    this.#signal = entry.signal;
    this.#arriveAt(ip);
    return true;
  }

  /**
   * Frames lie one above the other. The kernel compares with the frame before, as long as both are on the
   * same stack; here with all of them, and the end of a stack counts as part of it: there are stacks that
   * would make the kernel's walk endless.
   */
  #goesOutwards(sp: number, type: number): boolean {
    if (this.#type !== type) {
      this.#floor = sp;
      return true;
    }
    if (sp > this.#floor && sp <= this.#high) {
      this.#floor = sp;
      return true;
    }
    if (sp < this.#low || sp > this.#high) return true;
    if (sp < this.#high) this.#warn('wrong direction', 'stack going in the wrong direction?');
    return false;
  }

  /** orc_warn_current(), which names the frame that was left. */
  #warn(site: string, text: string): void {
    const here = this.#here;
    if (here === null || this.#error) return;
    const left = here.kernel.sprint_backtrace(this.info?.ip ?? fromSigned(this.#ip));
    warnOnce(here, `unwind_orc.c ${site}`, `${text} at ${left}`);
  }

  /** Where the registers that the walk started from are; NaN when they are on no stack. */
  #framePlace(): number {
    const frame = this.#regs?.frame ?? 0n;
    return frame === 0n ? Number.NaN : toSigned(frame);
  }

  #findBp(entry: OrcEntry, frame: number): boolean {
    switch (entry.bp_reg) {
      case ORC_REG_PREV_SP:
        return this.#readBp(frame + entry.bp_offset);
      case ORC_REG_BP:
        return this.#readBp(this.#bp + entry.bp_offset);
      default: {
        if (Number.isNaN(this.#regsAt)) return true;
        const regsAt = this.#fullRegs ? this.#regsAt : this.#prevRegsAt;
        return Number.isNaN(regsAt) || this.#readBp(regsAt + REGS_BP);
      }
    }
  }

  #isUserMode(): boolean {
    return !Number.isNaN(this.#regsAt) && this.#read(this.#regsAt + REGS_CS) && (this.#wordLo & 3) !== 0;
  }

  /** The caller's frame, or where the registers begin; NaN when it cannot be found. */
  #frameOf({ sp_reg, sp_offset }: OrcEntry): number {
    switch (sp_reg) {
      case ORC_REG_SP:
        return this.sp + sp_offset;
      case ORC_REG_BP:
        return this.#bp + sp_offset;
      case ORC_REG_SP_INDIRECT:
        return this.#read(this.sp) ? this.#value() + sp_offset : Number.NaN;
      case ORC_REG_BP_INDIRECT:
        return this.#read(this.#bp + sp_offset) ? this.#value() : Number.NaN;
      case ORC_REG_R10:
        return this.#register('r10', 'R10');
      case ORC_REG_R13:
        return this.#register('r13', 'R13');
      case ORC_REG_DI:
        return this.#register('di', 'RDI');
      case ORC_REG_DX:
        return this.#register('dx', 'DX');
      default:
        return Number.NaN;
    }
  }

  /** get_reg() */
  #register(name: RegisterName, printed: string): number {
    if (this.#first) return toSigned(this.#regs?.[name] ?? 0n);
    const regsAt = this.#fullRegs ? this.#regsAt : this.#prevRegsAt;
    if (!Number.isNaN(this.#regsAt) && this.#read(regsAt + REGISTER_OFFSETS[name])) return this.#value();
    this.#warn(name, `missing ${printed} value`);
    return Number.NaN;
  }

  /** The word read last as a signed number, inexact when it does not fit one. */
  #value(): number {
    return (this.#wordHi | 0) * 4294967296 + this.#wordLo;
  }

  #readBp(va: number): boolean {
    if (!this.#read(va)) return false;
    this.#bp = this.#value();
    this.#bpWord = this.#word < 0 ? -2 : this.#word / 2;
    return true;
  }

  /** stack_access_ok(): the bytes lie on the stack, or on another one that was not visited yet. */
  #canRead(va: number, size: number): boolean {
    if (va >= this.#low && va + size <= this.#high) return true;
    return this.#switchTo(va) && va + size <= this.#high;
  }

  /** deref_stack_reg(): reads a word of the stack. False outside of it and where it is not mapped. */
  #read(va: number): boolean {
    if (!this.#canRead(va, 8)) return false;
    return (va & 7) === 0 ? this.#readAligned(va) : this.#readUnaligned(va);
  }

  /** The same for the stack that the frame is on, and words that are aligned. */
  #readAligned(va: number): boolean {
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

  #readUnaligned(va: number): boolean {
    const word = this.#here === null ? null : new StackMemory(this.#here).word(va);
    if (word === null) return false;
    this.#word = -1;
    this.#wordLo = Number(word & 0xffff_ffffn);
    this.#wordHi = Number(word >> 32n);
    return true;
  }
}
