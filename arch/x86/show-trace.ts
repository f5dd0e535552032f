/**
 * The Call Trace: show_trace_log_lvl() of arch/x86/kernel/dumpstack.c with show_regs_if_on_stack(), and
 * show_stack(), bpf-next merge 8496d9020ff3. The rest of that file is in dumpstack.ts and show-regs.ts.
 * Left out: build ids, and of traces of running code the functions between the entry and who asks for it.
 */
import { toSigned } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { mmuOf } from './mmu.js';
import { type ExceptionName, PT_REGS_SIZE, X86PtRegs } from './regs.js';
import { __show_regs, show_iret_regs } from './show-regs.js';
import type { EntryRegs } from './unwind.js';
import { unwind_start } from './unwind_start.js';
import {
  get_stack_info,
  IRET_FRAME_OFFSET,
  IRET_FRAME_SIZE,
  on_stack,
  pageAlign,
  REGS_IP,
  StackMemory,
  type stack_info,
  stack_type_name,
  type VisitMask,
  wordAlign,
} from './unwind-stacks.js';

/** From dump_stack() to panic(). Which functions these are follows from the source, offsets and sizes are chosen. */
const PANIC_FRAMES: readonly string[] = ['dump_stack_lvl+0x5d/0x80', 'vpanic+0x11e/0x310', 'panic+0x5b/0x60'];

/** Entry code by exception: exc_*() and asm_exc_*(), as published reports print those of page faults. */
const ENTRY_FRAMES: Readonly<Record<ExceptionName, readonly string[]>> = {
  page_fault: ['exc_page_fault+0xdd/0x1d0', 'asm_exc_page_fault+0x26/0x30'],
  // The first offset and size of each are chosen.
  general_protection: ['exc_general_protection+0x1bd/0x3c0', 'asm_exc_general_protection+0x26/0x30'],
  stack_segment: ['exc_stack_segment+0x3f/0x70', 'asm_exc_stack_segment+0x26/0x30'],
  double_fault: ['exc_double_fault+0x7d/0x180', 'asm_exc_double_fault+0x23/0x30'],
};

/**
 * show_stack() of a panic. The handlers are host code: those of them that are always there are listed, then the
 * registers of the exception, and what it came out of. Called outside of an exception, the guest's code follows.
 */
export function show_stack(here: ThisCpu, level: number): void {
  const { regs } = here;
  if (regs instanceof X86PtRegs) {
    show_trace_log_lvl(here, regs, level, [...PANIC_FRAMES, ...ENTRY_FRAMES[regs.exception]]);
    return;
  }
  const mmu = mmuOf(here);
  const caller = mmu.capture();
  show_trace_log_lvl(here, caller, level, PANIC_FRAMES);
  mmu.release();
}

/**
 * The trace that starts from registers. Every word of the stacks that is an address of kernel text is
 * printed, with `? ` where the unwinder does not come by.
 * @param handlers frames of host code that run on the stack with the registers, innermost first: then the
 * registers are part of what is printed
 */
export function show_trace_log_lvl(
  here: ThisCpu,
  regs: X86PtRegs,
  level: number,
  handlers: readonly string[] = [],
): void {
  const { kernel } = here;
  const print = (text: string): void => kernel.printk(here, level, text);
  const memory = new StackMemory(here);
  const visited: VisitMask = { bits: 0 };
  print('Call Trace:');
  const unwinder = unwind_start(here, regs);
  let entryRegs = unwinder.entryRegs;

  // Handlers have the saved registers on the stack behind them.
  const frame = handlers.length > 0 && regs.frame !== 0n ? toSigned(regs.frame) : Number.NaN;
  let begin = handlers;
  let stack = wordAlign(Number.isNaN(frame) ? regs.spSigned : frame);
  while (stack !== 0) {
    let info = get_stack_info(here, stack, visited);
    if (info === null) {
      // Possibly an overflow into the guard page.
      stack = pageAlign(stack);
      info = get_stack_info(here, stack, visited);
      if (info === null) break;
    }
    const name = stack_type_name(info.type);
    if (name !== null) print(` <${name}>`);
    for (const handler of begin) print(` ${handler}`);
    if (begin.length > 0 && !Number.isNaN(frame)) __show_regs(here, regs, 'SHOW_REGS_SHORT', level);
    begin = [];
    // What is on the stack in front of the interrupted code's part; behind user registers there is nothing.
    const own = Number.isNaN(frame) ? stack : regs.user_mode ? info.end : wordAlign(regs.spSigned);
    for (; stack < own && stack < info.end; stack += 8) {
      const addr = memory.word(stack);
      if (addr === null || stack === frame + REGS_IP || !kernel.kernel_text_address(addr)) continue;
      print(` ? ${kernel.sprint_backtrace(addr)}`);
    }
    show_regs_if_on_stack(here, memory, info, entryRegs, level);
    for (; stack < info.end; stack += 8) {
      const addr = memory.word(stack);
      if (addr === null || !kernel.kernel_text_address(addr)) continue;
      // Registers that were just printed have said where they come from.
      const printed = entryRegs !== null && stack === entryRegs.address + REGS_IP;
      if (!printed) {
        const reliable = stack === unwinder.returnAddressSlot;
        print(` ${reliable ? '' : '? '}${kernel.sprint_backtrace(addr)}`);
        if (!reliable) continue;
      }
      unwinder.next();
      entryRegs = unwinder.entryRegs;
      show_regs_if_on_stack(here, memory, info, entryRegs, level);
    }
    if (name !== null) print(` </${name}>`);
    stack = wordAlign(info.next_sp);
  }
}

/** Registers on the next stack have to wait until that is printed. */
function show_regs_if_on_stack(
  here: ThisCpu,
  memory: StackMemory,
  info: stack_info,
  entryRegs: EntryRegs | null,
  level: number,
): void {
  if (entryRegs === null) return;
  const { address, partial } = entryRegs;
  if (!partial && on_stack(info, address, PT_REGS_SIZE)) {
    const regs = readRegs(memory, address, 0);
    if (regs !== null) __show_regs(here, regs, 'SHOW_REGS_SHORT', level);
  } else if (partial && on_stack(info, address + IRET_FRAME_OFFSET, IRET_FRAME_SIZE)) {
    const regs = readRegs(memory, address, IRET_FRAME_OFFSET);
    if (regs !== null) show_iret_regs(here, regs, level);
  }
}

/** struct pt_regs on the stack, from a byte offset on; null where it is not mapped. */
function readRegs(memory: StackMemory, address: number, from: number): X86PtRegs | null {
  const regs = new X86PtRegs();
  for (let offset = from; offset < PT_REGS_SIZE; offset += 8) {
    const word = memory.word(address + offset);
    if (word === null) return null;
    regs.words[offset / 8] = word;
  }
  const pa = memory.physical(address);
  const end = memory.physical(address + PT_REGS_SIZE - 8);
  // Placed where it is: its words are stored as they were. What is not aligned has no place.
  if (from === 0 && address % 8 === 0 && pa >= 0) regs.place(memory.ram, address, pa, end - (end % 4096));
  return regs;
}
