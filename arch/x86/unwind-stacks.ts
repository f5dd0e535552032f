/**
 * The stacks that code of the current task may be on: enum stack_type and struct stack_info of
 * arch/x86/include/asm/stacktrace.h, get_stack_info() and its parts of arch/x86/kernel/dumpstack.c and
 * dumpstack_64.c, bpf-next merge 8496d9020ff3.
 *
 * The machine itself has task stacks only. Others are known when they are declared (declareStack()).
 *
 * Addresses are signed numbers (see emu/address.ts).
 */
import { toSigned } from '../../emu/address.js';
import type { Ram } from '../../emu/ram.js';
import type { ThisCpu } from '../arch.js';
import { KERN_WARNING } from '../kernel.js';
import { type DeclaredStack, mmuOf, type X86Mmu } from './mmu.js';
import { PT_REGS_SIZE } from './regs.js';

/** offsetof(struct pt_regs, …) */
export const REGS_BP = 0x20;
export const REGS_IP = 0x80;
export const REGS_CS = 0x88;
export const REGS_SP = 0x98;
/** What hardware pushes: from ip to the end. */
export const IRET_FRAME_OFFSET = REGS_IP;
export const IRET_FRAME_SIZE = PT_REGS_SIZE - IRET_FRAME_OFFSET;

/** enum stack_type. The numbers are printed. */
export const STACK_TYPE_UNKNOWN = 0;
export const STACK_TYPE_TASK = 1;
const STACK_TYPE_ENTRY = 4;
const STACK_TYPE_EXCEPTION = 5;

/** stack_type_name() by type; a type that has no name prints no line. Those of exceptions come last. */
const NAMES = [
  null,
  'TASK',
  'IRQ',
  'SOFTIRQ',
  'ENTRY_TRAMPOLINE',
  '#DF',
  'NMI',
  '#DB',
  '#MC',
  '#VC',
  '#VC2',
] as const;

export type StackName = Exclude<(typeof NAMES)[number], null>;

export interface stack_info {
  readonly type: number;
  readonly begin: number;
  /** Exclusive. */
  readonly end: number;
  /** Where the code that was interrupted, or that switched stacks, had its stack pointer; 0 for nowhere. */
  readonly next_sp: number;
}

/** stack_type_name() */
export function stack_type_name(type: number): StackName | null {
  return NAMES[type] ?? null;
}

/** on_stack(): do `len` bytes at `addr` lie on the stack? */
export function on_stack(info: stack_info, addr: number, len: number): boolean {
  return addr >= info.begin && addr < info.end && addr + len <= info.end;
}

/**
 * Makes a range of mapped memory a stack of this CPU. As in the kernel, its end says where it was switched
 * from: exception stacks hold pt_regs there, the others the stack pointer as their last word.
 *
 * @param begin multiple of 8
 */
export function declareStack(here: ThisCpu, name: StackName, begin: bigint, size: number): void {
  const type = NAMES.indexOf(name);
  const stack: DeclaredStack = { type, begin: toSigned(begin), end: toSigned(begin) + size };
  const mmu = mmuOf(here);
  mmu.stacks = [...mmu.stacks.filter((other) => other.type !== type), stack];
}

/** Words of the stacks of a CPU. */
export class StackMemory {
  readonly ram: Ram;
  readonly #mmu: X86Mmu;

  constructor(here: ThisCpu) {
    this.ram = here.ram;
    this.#mmu = mmuOf(here);
  }

  /** Physical address of a byte, -1 where nothing is mapped. */
  physical(va: number): number {
    return this.#mmu.physical(va);
  }

  /** The word at an address, aligned or not; null where it is not mapped. */
  word(va: number): bigint | null {
    if (!Number.isSafeInteger(va)) return null;
    const offset = (va >>> 0) & 0xfff;
    const pa = this.physical(va);
    if (pa < 0) return null;
    if (offset % 8 === 0) return this.ram.readU64(pa);
    const bytes = new Uint8Array(8);
    const room = Math.min(8, 4096 - offset);
    bytes.set(this.ram.read(pa, room));
    if (room < 8) {
      const rest = this.physical(va + room);
      if (rest < 0) return null;
      bytes.set(this.ram.read(rest, 8 - room), room);
    }
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  /** The same as a signed number; NaN where it is not mapped or no signed number. */
  signed(va: number): number {
    const word = this.word(va);
    return word === null ? Number.NaN : toSigned(word);
  }
}

/** get_stack_info_noinstr(): the stack that holds the address, null when none does. */
export function get_stack_info_noinstr(here: ThisCpu, addr: number): stack_info | null {
  const { stack, stackSize } = here.current;
  const begin = toSigned(stack);
  if (addr >= begin && addr < begin + stackSize) {
    return { type: STACK_TYPE_TASK, begin, end: begin + stackSize, next_sp: 0 };
  }
  for (const other of mmuOf(here).stacks) {
    if (addr >= other.begin && addr < other.end) return { ...other, next_sp: nextSp(here, other) };
  }
  return null;
}

function nextSp(here: ThisCpu, { type, end }: DeclaredStack): number {
  if (type === STACK_TYPE_ENTRY) return 0;
  const saved = type >= STACK_TYPE_EXCEPTION ? end - PT_REGS_SIZE + REGS_SP : end - 8;
  const sp = new StackMemory(here).signed(saved);
  return Number.isNaN(sp) ? 0 : sp;
}

/** get_stack_info()'s memory of the stacks that a walk has been on: bit n for type n. */
export interface VisitMask {
  bits: number;
}

/** get_stack_info(): the stack that holds the address. None is visited twice. */
export function get_stack_info(here: ThisCpu, addr: number, mask: VisitMask): stack_info | null {
  const info = addr === 0 ? null : get_stack_info_noinstr(here, addr);
  if (info === null) return null;
  const bit = 1 << info.type;
  if ((mask.bits & bit) !== 0) {
    warnOnce(here, 'stack recursion', `stack recursion on stack type ${info.type}`);
    return null;
  }
  mask.bits |= bit;
  return info;
}

/** printk_deferred_once() of a warning; `site` tells one place from the others. */
export function warnOnce(here: ThisCpu, site: string, text: string): void {
  const { kernel } = here;
  if (kernel.once(`arch/x86/kernel: ${site}`)) kernel.printk(here, KERN_WARNING, `WARNING: ${text}`);
}

/** PAGE_ALIGN() */
export function pageAlign(va: number): number {
  return Math.ceil(va / 4096) * 4096;
}

/** PTR_ALIGN() to words. */
export function wordAlign(va: number): number {
  return Math.ceil(va / 8) * 8;
}

/** task_pt_regs(): where an exception or a system call from user mode leaves the registers. */
export function task_pt_regs(here: ThisCpu): number {
  const { stack, stackSize } = here.current;
  return toSigned(stack) + stackSize - PT_REGS_SIZE;
}
