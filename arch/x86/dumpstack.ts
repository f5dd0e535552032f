/**
 * Oopses: port of arch/x86/kernel/dumpstack.c, bpf-next merge 8496d9020ff3. Of that file, the registers and the
 * Code line are in show-regs.ts, the Call Trace in show-trace.ts.
 *
 * Left out: locks and pausing between CPUs, and kdump.
 */
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_DEFAULT, KERN_WARNING, SIGSEGV } from '../kernel.js';
import { kasan_non_canonical_hook } from './kasan.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import type { X86PtRegs } from './regs.js';
import { __show_regs } from './show-regs.js';
import { show_trace_log_lvl } from './show-trace.js';

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
