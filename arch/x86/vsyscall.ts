/**
 * The vsyscall page as a fault sees it: port of emulate_vsyscall_pf() of arch/x86/entry/vsyscall/vsyscall_64.c,
 * bpf-next merge 8496d9020ff3, with vsyscall=xonly. Left out: the emulated call itself, the rate limit of the
 * message, and the check for an NX CPU.
 */
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_INFO, TaskDead } from '../kernel.js';
import type { X86PtRegs } from './regs.js';
import { X86_PF_USER, X86_PF_WRITE } from './walk.js';

const VSYSCALL_ADDR = 0xffff_ffff_ff60_0000n;
const VSYSCALL_END = VSYSCALL_ADDR + 0x1000n;

export function is_vsyscall_vaddr(vaddr: bigint): boolean {
  return vaddr >= VSYSCALL_ADDR && vaddr < VSYSCALL_END;
}

function warn_bad_vsyscall(here: ThisCpu, regs: X86PtRegs, message: string): void {
  const { comm, pid } = here.current;
  const hex = (value: bigint): string => value.toString(16);
  const text =
    `${comm}[${pid}] ${message} ip:${hex(regs.ip)} cs:${hex(regs.cs)} sp:${hex(regs.sp)}` +
    ` ax:${hex(regs.ax)} si:${hex(regs.si)} di:${hex(regs.di)}`;
  here.kernel.printk(here, KERN_INFO, text);
}

/** Up to the emulated call itself, which ends the run. */
export const emulate_vsyscall_pf = port(
  'emulate_vsyscall_pf',
  ['error_code', 'regs', 'address'],
  function* (here: ThisCpu, error_code: number, regs: X86PtRegs, address: bigint): Path<boolean> {
    const { trace } = here;
    const fn = 'emulate_vsyscall_pf';
    const userRead = (error_code & (X86_PF_WRITE | X86_PF_USER)) === X86_PF_USER;
    const test = '(error_code & (X86_PF_WRITE | X86_PF_USER)) != X86_PF_USER';
    if (yield* trace.decide(fn, test, !userRead)) return false;
    if (yield* trace.decide(fn, 'address != regs->ip', address !== regs.ip)) {
      warn_bad_vsyscall(
        here,
        regs,
        'vsyscall read attempt denied -- look up the vsyscall kernel parameter if you need a workaround',
      );
      return false;
    }
    const pc = regs.ip;
    throw new TaskDead({ kind: 'stopped', why: 'a vsyscall, whose emulation is not modelled', pc });
  },
);
