/**
 * Registers and the Code line of an oops: __show_regs() of arch/x86/kernel/process_64.c, show_iret_regs(),
 * show_opcodes() and copy_code() of dumpstack.c, bpf-next merge 8496d9020ff3.
 */
import { hex16, u64 } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { copy_from_kernel_nofault, copy_from_user_nmi } from './maccess.js';
import { machineOf } from './machine.js';
import { X86_CR4_PKE } from './processor.js';
import { PT_REGS_SIZE, type X86PtRegs } from './regs.js';

type ShowRegsMode = 'SHOW_REGS_SHORT' | 'SHOW_REGS_USER' | 'SHOW_REGS_ALL';

/** Bytes in front of ip and all bytes that the Code line shows. */
const PROLOGUE_SIZE = 42n;
const OPCODE_BUFSIZE = 64;

/** Debug registers as a reset leaves them. */
const DR6_RESERVED = 0xffff0ff0n;
const DR7_FIXED_1 = 0x400n;

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

/**
 * The part of the registers that the CPU itself saves.
 * @param behind what stands in the same line behind the flags
 */
export function show_iret_regs(here: ThisCpu, regs: X86PtRegs, level: number, behind = ''): void {
  const { kernel } = here;
  kernel.printk(here, level, `RIP: ${hex4(regs.cs)}:${kernel.sprint_symbol(regs.ip)}`);
  show_opcodes(here, regs, level);
  const flags = `EFLAGS: ${hex8(regs.flags)}${behind}`;
  kernel.printk(here, level, `RSP: ${hex4(regs.ss)}:${hex16(regs.sp)} ${flags}`);
}

export function __show_regs(here: ThisCpu, regs: X86PtRegs, mode: ShowRegsMode, level: number): void {
  const print = (text: string): void => here.kernel.printk(here, level, text);
  const none = regs.orig_ax === 0xffff_ffff_ffff_ffffn;
  show_iret_regs(here, regs, level, none ? '' : ` ORIG_RAX: ${hex16(regs.orig_ax)}`);
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
