/**
 * Oopses: ports of arch/x86/kernel/dumpstack.c, and of __show_regs() in process_64.c, bpf-next merge
 * 8496d9020ff3.
 *
 * Left out: locks and pausing between CPUs, kdump, die notifiers (none is registered), partial register
 * frames, and all stacks but the task's.
 */
import { hex16, u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_DEFAULT, KERN_WARNING, SIGSEGV } from '../kernel.js';
import { TASK_SIZE_MAX } from './extable.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { PT_REGS_SIZE, type X86PtRegs } from './regs.js';
import { get_stack_info } from './stack-guard.js';

export type ShowRegsMode = 'SHOW_REGS_SHORT' | 'SHOW_REGS_USER' | 'SHOW_REGS_ALL';

/** Bytes in front of ip and all bytes that the Code line shows. */
const PROLOGUE_SIZE = 42n;
const OPCODE_BUFSIZE = 64;
const PAGE = 0xfffn;

/** @returns the interrupt state for oops_end() to restore: true when they were disabled */
export function oops_begin(here: ThisCpu): boolean {
  const mmu = mmuOf(here);
  const flags = mmu.irqsDisabled;
  mmu.irqsDisabled = true;
  return flags;
}

/** Ends the oops; returns only with `signr` 0. */
export const oops_end = port(
  'oops_end',
  ['flags', 'regs', 'signr'],
  function* (here: ThisCpu, flags: boolean, regs: X86PtRegs, signr: number): Path<void> {
    const { kernel, current, trace } = here;
    kernel.add_taint('D');
    mmuOf(here).irqsDisabled = flags;
    kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
    __show_regs(here, machineOf(here).exec_summary_regs ?? regs, 'SHOW_REGS_ALL', KERN_DEFAULT);
    if (yield* trace.decide('oops_end', '!signr', signr === 0)) return;
    if (yield* trace.decide('oops_end', 'in_interrupt()', current.in_interrupt > 0)) {
      kernel.panic(here, 'Fatal exception in interrupt');
    }
    if (yield* trace.decide('oops_end', 'panic_on_oops', kernel.config.panic_on_oops)) {
      kernel.panic(here, 'Fatal exception');
    }
    kernel.make_task_dead(here, signr);
  },
);

function __die_header(here: ThisCpu, str: string, regs: X86PtRegs, err: number): void {
  const { kernel } = here;
  if (kernel.die_counter === 0) machineOf(here).keepFirstOops(regs);
  kernel.die_counter += 1;
  const code = (err & 0xffff).toString(16).padStart(4, '0');
  const smp = kernel.config.SMP ? ' SMP' : '';
  const pti = kernel.config.PTI ? ' PTI' : ' NOPTI';
  kernel.printk(here, KERN_DEFAULT, `Oops: ${str}: ${code} [#${kernel.die_counter}]${smp}${pti}`);
}

/** True when a notifier wants the oops to be no oops. */
function __die_body(here: ThisCpu, regs: X86PtRegs): boolean {
  show_regs(here, regs);
  here.kernel.print_modules(here);
  return false;
}

export const __die = port(
  '__die',
  ['str', 'regs', 'err'],
  // biome-ignore lint/correctness/useYield: no notifier is registered that could decide
  function* (here: ThisCpu, str: string, regs: X86PtRegs, err: number): Path<boolean> {
    __die_header(here, str, regs, err);
    return __die_body(here, regs);
  },
);

export const die = port(
  'die',
  ['str', 'regs', 'err'],
  function* (here: ThisCpu, str: string, regs: X86PtRegs, err: number): Path<void> {
    const flags = oops_begin(here);
    const sig = (yield* __die(here, str, regs, err)) ? 0 : SIGSEGV;
    yield* oops_end(here, flags, regs, sig);
  },
);

/** die() of a general protection fault. KASAN's line about the address is not printed: there is no KASAN. */
export const die_addr = port(
  'die_addr',
  ['str', 'regs', 'err', 'gp_addr'],
  function* (here: ThisCpu, str: string, regs: X86PtRegs, err: number, _gp_addr: bigint): Path<void> {
    const flags = oops_begin(here);
    const sig = (yield* __die(here, str, regs, err)) ? 0 : SIGSEGV;
    yield* oops_end(here, flags, regs, sig);
  },
);

function show_regs(here: ThisCpu, regs: X86PtRegs): void {
  here.kernel.dump_stack_print_info(here, KERN_DEFAULT);
  __show_regs(here, regs, regs.user_mode ? 'SHOW_REGS_USER' : 'SHOW_REGS_ALL', KERN_DEFAULT);
  if (!regs.user_mode) show_trace_log_lvl(here, regs, KERN_DEFAULT);
}

/** The Code line: 64 bytes, 42 of them in front of ip. All or nothing. */
export function show_opcodes(here: ThisCpu, regs: X86PtRegs, level: number): void {
  const { kernel } = here;
  const prologue = u64(regs.ip - PROLOGUE_SIZE);
  const opcodes = copy_code(here, regs, prologue);
  if (opcodes === 'not ours') return;
  if (opcodes === null) {
    const at = prologue.toString(16);
    kernel.printk(here, level, `Code: Unable to access opcode bytes at 0x${at}.`);
    return;
  }
  const words = [...opcodes].map((byte, i) => {
    const digits = byte.toString(16).padStart(2, '0');
    return i === Number(PROLOGUE_SIZE) ? `<${digits}>` : digits;
  });
  kernel.printk(here, level, `Code: ${words.join(' ')}`);
}

/** Bytes; null when they cannot be read; `not ours` for user registers that are not the current task's. */
function copy_code(here: ThisCpu, regs: X86PtRegs, src: bigint): Uint8Array | null | 'not ours' {
  if (!regs.user_mode) return copy_from_kernel_nofault(here, src, OPCODE_BUFSIZE);
  const { stack, stackSize } = here.current;
  if (regs.frame !== stack + BigInt(stackSize - PT_REGS_SIZE)) return 'not ours';
  const end = src + BigInt(OPCODE_BUFSIZE);
  // The bytes are read without faulting pages in.
  if (end > TASK_SIZE_MAX) return null;
  const mmu = mmuOf(here);
  return readPages(here, src, OPCODE_BUFSIZE, (page) => mmu.explain(page, 'read', true, false).ok);
}

/**
 * mm/maccess.c. The range is refused by its first address, without touching memory: user addresses, the
 * vsyscall page, non-canonical ones. Otherwise a page that is not there faults, and CR2 keeps that.
 */
function copy_from_kernel_nofault(here: ThisCpu, src: bigint, size: number): Uint8Array | null {
  const mmu = mmuOf(here);
  const vsyscall = (src & ~PAGE) === 0xffff_ffff_ff60_0000n;
  if (src < TASK_SIZE_MAX + 4096n || vsyscall || BigInt.asIntN(48, src) !== BigInt.asIntN(64, src))
    return null;
  return readPages(here, src, size, (page, from) => {
    if (mmu.explain(page, 'read', false, false).ok) return true;
    mmu.setCr2(from);
    return false;
  });
}

/** `readable` is asked for each page, with the first byte wanted from it. */
function readPages(
  here: ThisCpu,
  src: bigint,
  size: number,
  readable: (page: bigint, from: bigint) => boolean,
): Uint8Array | null {
  const bytes = new Uint8Array(size);
  let done = 0;
  while (done < size) {
    const from = u64(src + BigInt(done));
    const length = Math.min(size - done, 4096 - Number(from & PAGE));
    if (!readable(from & ~PAGE, from)) return null;
    const pa = mmuOf(here).peek(from);
    if (pa < 0) return null;
    bytes.set(here.ram.read(pa, length), done);
    done += length;
  }
  return bytes;
}

const hex4 = (value: bigint): string => value.toString(16).padStart(4, '0');
const hex8 = (value: bigint): string => value.toString(16).padStart(8, '0');

export function __show_regs(here: ThisCpu, regs: X86PtRegs, mode: ShowRegsMode, level: number): void {
  const { kernel, cpu } = here;
  const print = (text: string): void => kernel.printk(here, level, text);
  print(`RIP: ${hex4(regs.cs)}:${kernel.sprint_symbol(regs.ip)}`);
  show_opcodes(here, regs, level);
  const orig = regs.orig_ax === 0xffff_ffff_ffff_ffffn ? '' : ` ORIG_RAX: ${hex16(regs.orig_ax)}`;
  print(`RSP: ${hex4(regs.ss)}:${hex16(regs.sp)} EFLAGS: ${hex8(regs.flags)}${orig}`);
  print(`RAX: ${hex16(regs.ax)} RBX: ${hex16(regs.bx)} RCX: ${hex16(regs.cx)}`);
  print(`RDX: ${hex16(regs.dx)} RSI: ${hex16(regs.si)} RDI: ${hex16(regs.di)}`);
  print(`RBP: ${hex16(regs.bp)} R08: ${hex16(regs.r8)} R09: ${hex16(regs.r9)}`);
  print(`R10: ${hex16(regs.r10)} R11: ${hex16(regs.r11)} R12: ${hex16(regs.r12)}`);
  print(`R13: ${hex16(regs.r13)} R14: ${hex16(regs.r14)} R15: ${hex16(regs.r15)}`);
  if (mode === 'SHOW_REGS_SHORT') return;

  // From here on what the CPU holds now, not what was saved.
  const live = (name: string): string => hex16(cpu.read(name));
  if (mode === 'SHOW_REGS_USER') {
    print(`FS:  ${live('fs_base')} GS:  ${live('kernel_gs_base')}`);
    return;
  }
  const selector = (name: string): string => hex4(cpu.read(name));
  print(
    `FS:  ${live('fs_base')}(${selector('fs')}) GS:${live('gs_base')}(${selector('gs')}) knlGS:${live('kernel_gs_base')}`,
  );
  print(`CS:  ${hex4(regs.cs)} DS: ${selector('ds')} ES: ${selector('es')} CR0: ${live('cr0')}`);
  print(`CR2: ${live('cr2')} CR3: ${live('cr3')} CR4: ${live('cr4')}`);
  const dr = [0, 1, 2, 3].map((n) => cpu.read(`dr${n}`));
  const dr6 = cpu.read('dr6');
  const dr7 = cpu.read('dr7');
  if (dr.every((value) => value === 0n) && dr6 === 0xffff0ff0n && dr7 === 0x400n) return;
  print(`DR0: ${hex16(dr[0] ?? 0n)} DR1: ${hex16(dr[1] ?? 0n)} DR2: ${hex16(dr[2] ?? 0n)}`);
  print(`DR3: ${hex16(dr[3] ?? 0n)} DR6: ${hex16(dr6)} DR7: ${hex16(dr7)}`);
}

/**
 * The Call Trace of a trace that starts from registers: every word of the stack that is an address of
 * kernel text, with `? ` where the unwinder did not come by.
 */
export function show_trace_log_lvl(here: ThisCpu, regs: X86PtRegs, level: number): void {
  const { kernel } = here;
  const print = (text: string): void => kernel.printk(here, level, text);
  print('Call Trace:');
  const { unwinder } = machineOf(here);
  unwinder.start(here, mmuOf(here), regs);
  // The interrupted code itself is in the RIP line.
  unwinder.next();

  let stack = u64((regs.sp + 7n) & ~7n);
  let info = get_stack_info(here, stack);
  if (info === null) {
    // Possibly an overflow into the guard page.
    stack = u64((stack + PAGE) & ~PAGE);
    info = get_stack_info(here, stack);
    if (info === null) return;
  }
  print(` <${info.name}>`);
  const slots = Number(info.end - stack) / 8;
  const first = unwinder.high - slots * 8;
  for (let slot = 0; slot < slots; slot++) {
    const va = first + slot * 8;
    const addr = unwinder.wordAt(va);
    if (addr === null || !kernel.kernel_text_address(addr)) continue;
    const reliable = va === unwinder.returnAddressSlot;
    print(` ${reliable ? '' : '? '}${kernel.sprint_backtrace(addr)}`);
    if (reliable) unwinder.next();
  }
  print(` </${info.name}>`);
}
