/**
 * Oopses: ports of arch/x86/kernel/dumpstack.c, and of __show_regs() in process_64.c, bpf-next merge
 * 8496d9020ff3. The Call Trace is in show-trace.ts.
 *
 * Left out: locks and pausing between CPUs, and kdump.
 */
import { hex16, u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_DEFAULT, KERN_WARNING, SIGSEGV } from '../kernel.js';
import { kasan_non_canonical_hook } from './kasan.js';
import { copy_from_kernel_nofault, copy_from_user_nmi } from './maccess.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { X86_CR4_PKE } from './processor.js';
import { PT_REGS_SIZE, type X86PtRegs } from './regs.js';
import { show_trace_log_lvl } from './show-trace.js';

export type ShowRegsMode = 'SHOW_REGS_SHORT' | 'SHOW_REGS_USER' | 'SHOW_REGS_ALL';

/** Bytes in front of ip and all bytes that the Code line shows. */
const PROLOGUE_SIZE = 42n;
const OPCODE_BUFSIZE = 64;

/** Debug registers as a reset leaves them. */
const DR6_RESERVED = 0xffff0ff0n;
const DR7_FIXED_1 = 0x400n;

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
  function* (here: ThisCpu, flags: boolean, _regs: X86PtRegs, signr: number): Path<void> {
    const { kernel, current, trace } = here;
    kernel.add_taint('D');
    mmuOf(here).irqsDisabled = flags;
    kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
    showSummary(here);
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

/** The executive summary: the registers of the first oops since boot, as far as there are any. */
export function showSummary(here: ThisCpu): void {
  const { exec_summary_regs, firstBug } = machineOf(here);
  if (exec_summary_regs !== null) __show_regs(here, exec_summary_regs, 'SHOW_REGS_ALL', KERN_DEFAULT);
  else if (firstBug !== null) here.kernel.printk(here, KERN_DEFAULT, `RIP: 0010:${firstBug}`);
}

function __die_header(here: ThisCpu, str: string, regs: X86PtRegs, err: number): void {
  if (here.kernel.die_counter === 0) machineOf(here).keepFirstOops(regs);
  printOopsLine(here, str, err);
}

/** The line that counts oopses. */
export function printOopsLine(here: ThisCpu, str: string, err: number): void {
  const { kernel } = here;
  kernel.die_counter += 1;
  const { config } = kernel;
  const code = (err & 0xffff).toString(16).padStart(4, '0');
  const smp = config.SMP ? ' SMP' : '';
  const pagealloc = config.DEBUG_PAGEALLOC ? ' DEBUG_PAGEALLOC' : '';
  const kasan = config.KASAN ? ' KASAN' : '';
  const pti = config.PTI ? ' PTI' : ' NOPTI';
  const options = `${smp}${pagealloc}${kasan}${pti}`;
  kernel.printk(here, KERN_DEFAULT, `Oops: ${str}: ${code} [#${kernel.die_counter}]${options}`);
}

/** True when a notifier wants the oops to be no oops. */
function* __die_body(here: ThisCpu, regs: X86PtRegs): Path<boolean> {
  show_regs(here, regs);
  here.kernel.print_modules(here);
  return yield* here.kernel.notify_die(here, 'DIE_OOPS');
}

export const __die = port(
  '__die',
  ['str', 'regs', 'err'],
  function* (here: ThisCpu, str: string, regs: X86PtRegs, err: number): Path<boolean> {
    __die_header(here, str, regs, err);
    return yield* __die_body(here, regs);
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

/**
 * die() of a general protection fault.
 * @param gp_addr what the instruction addresses if that is not canonical, else 0
 */
export const die_addr = port(
  'die_addr',
  ['str', 'regs', 'err', 'gp_addr'],
  function* (here: ThisCpu, str: string, regs: X86PtRegs, err: number, gp_addr: bigint): Path<void> {
    const flags = oops_begin(here);
    __die_header(here, str, regs, err);
    if (here.kernel.config.KASAN) {
      const wild = yield* here.trace.decide('die_addr', 'gp_addr', gp_addr !== 0n);
      if (wild) kasan_non_canonical_hook(here, gp_addr);
    }
    const sig = (yield* __die_body(here, regs)) ? 0 : SIGSEGV;
    yield* oops_end(here, flags, regs, sig);
  },
);

export function show_regs(here: ThisCpu, regs: X86PtRegs): void {
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
  return copy_from_user_nmi(here, src, OPCODE_BUFSIZE);
}

const hex4 = (value: bigint): string => value.toString(16).padStart(4, '0');
const hex8 = (value: bigint): string => value.toString(16).padStart(8, '0');

/** The part of the registers that the CPU itself saves. */
export function show_iret_regs(here: ThisCpu, regs: X86PtRegs, level: number): void {
  showIretRegs(here, regs, level, '');
}

function showIretRegs(here: ThisCpu, regs: X86PtRegs, level: number, behind: string): void {
  const { kernel } = here;
  kernel.printk(here, level, `RIP: ${hex4(regs.cs)}:${kernel.sprint_symbol(regs.ip)}`);
  show_opcodes(here, regs, level);
  const flags = `EFLAGS: ${hex8(regs.flags)}${behind}`;
  kernel.printk(here, level, `RSP: ${hex4(regs.ss)}:${hex16(regs.sp)} ${flags}`);
}

export function __show_regs(here: ThisCpu, regs: X86PtRegs, mode: ShowRegsMode, level: number): void {
  const print = (text: string): void => here.kernel.printk(here, level, text);
  const none = regs.orig_ax === 0xffff_ffff_ffff_ffffn;
  showIretRegs(here, regs, level, none ? '' : ` ORIG_RAX: ${hex16(regs.orig_ax)}`);
  print(`RAX: ${hex16(regs.ax)} RBX: ${hex16(regs.bx)} RCX: ${hex16(regs.cx)}`);
  print(`RDX: ${hex16(regs.dx)} RSI: ${hex16(regs.si)} RDI: ${hex16(regs.di)}`);
  print(`RBP: ${hex16(regs.bp)} R08: ${hex16(regs.r8)} R09: ${hex16(regs.r9)}`);
  print(`R10: ${hex16(regs.r10)} R11: ${hex16(regs.r11)} R12: ${hex16(regs.r12)}`);
  print(`R13: ${hex16(regs.r13)} R14: ${hex16(regs.r14)} R15: ${hex16(regs.r15)}`);
  if (mode === 'SHOW_REGS_SHORT') return;
  for (const line of liveRegisters(here, regs, mode)) print(line);
}

/** What the CPU holds now, not what was saved. */
function liveRegisters(here: ThisCpu, regs: X86PtRegs, mode: ShowRegsMode): string[] {
  const { cpu } = here;
  const live = (name: string): string => hex16(cpu.read(name));
  const selector = (name: string): string => hex4(cpu.read(name));
  // SWAPGS is not executed at the entry from user mode, so its two bases still stand the other way round.
  const swapped = here.regs?.user_mode === true;
  const gs = live(swapped ? 'kernel_gs_base' : 'gs_base');
  const shadowgs = live(swapped ? 'gs_base' : 'kernel_gs_base');
  if (mode === 'SHOW_REGS_USER') return [`FS:  ${live('fs_base')} GS:  ${shadowgs}`];
  const lines = [
    `FS:  ${live('fs_base')}(${selector('fs')}) GS:${gs}(${selector('gs')}) knlGS:${shadowgs}`,
    `CS:  ${hex4(regs.cs)} DS: ${selector('ds')} ES: ${selector('es')} CR0: ${live('cr0')}`,
    `CR2: ${live('cr2')} CR3: ${live('cr3')} CR4: ${live('cr4')}`,
  ];
  const dr = [0, 1, 2, 3].map((n) => cpu.read(`dr${n}`));
  const dr6 = cpu.read('dr6');
  const dr7 = cpu.read('dr7');
  if (dr.some((value) => value !== 0n) || dr6 !== DR6_RESERVED || dr7 !== DR7_FIXED_1) {
    const [dr0, dr1, dr2, dr3] = dr.map(hex16);
    lines.push(`DR0: ${dr0} DR1: ${dr1} DR2: ${dr2}`, `DR3: ${dr3} DR6: ${hex16(dr6)} DR7: ${hex16(dr7)}`);
  }
  if ((cpu.read('cr4') & X86_CR4_PKE) !== 0n) {
    lines.push(`PKRU: ${hex8(BigInt(machineOf(here).thread(here.current).pkru))}`);
  }
  return lines;
}
