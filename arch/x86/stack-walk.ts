/**
 * arch_stack_walk() of arch/x86/kernel/stacktrace.c, bpf-next merge 8496d9020ff3, from given registers: what
 * stack_trace_save_regs() sees. Left out: walks of other tasks.
 */
import type { ThisCpu } from '../arch.js';
import type { pt_regs } from '../kernel.js';
import { X86PtRegs } from './regs.js';
import { unwind_start } from './unwind_start.js';

/** Visits the registers' own address, text or not, and the return addresses, as long as the visitor says true. */
export function arch_stack_walk(here: ThisCpu, regs: pt_regs, visit: (addr: bigint) => boolean): void {
  if (!(regs instanceof X86PtRegs) || !visit(regs.ip) || regs.user_mode) return;
  for (const unwinder = unwind_start(here, regs); !unwinder.done; unwinder.next()) {
    const addr = unwinder.returnAddress;
    if (addr === null || !visit(addr)) return;
  }
}
