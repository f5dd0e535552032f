/**
 * Oopses and signals.
 *
 * Ported from arch/arm64/kernel/traps.c, bpf-next merge 8496d9020ff3. Left out: undefined instructions
 * and BRK, stack overflow details that need per-CPU stacks (see panic_bad_stack), kdump, die notifiers,
 * and the log line for signals, which show_unhandled_signals (off by default) turns on.
 */
import { hex16 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  KERN_DEFAULT,
  KERN_EMERG,
  KERN_WARNING,
  SI_KERNEL,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
  TaskDead,
} from '../kernel.js';
import { esr_get_class_string } from './esr.js';
import { is_ttbr1_addr } from './memory.js';
import { mmuOf } from './mmu.js';
import { __show_regs } from './process.js';
import type { Arm64PtRegs } from './regs.js';
import { dump_backtrace } from './stacktrace.js';

/** The instructions up to pc. Only kernel addresses are looked at: a jump to NULL prints no line. */
function dump_kernel_instr(here: ThisCpu, regs: Arm64PtRegs): void {
  const { pc } = regs;
  if (!is_ttbr1_addr(pc)) return;
  let line = 'Code: ';
  for (let i = -4; i < 1; i++) {
    const pa = here.mmu.peek(BigInt.asUintN(64, pc + BigInt(i * 4)));
    const word = pa < 0 ? null : here.ram.words32[(pa - here.ram.base) / 4];
    const text = word === null || word === undefined ? '????????' : word.toString(16).padStart(8, '0');
    line += i === 0 ? `(${text}) ` : `${text} `;
  }
  here.kernel.printk(here, KERN_EMERG, line);
}

const __die = port(
  '__die',
  ['str', 'err', 'regs'],
  // biome-ignore lint/correctness/useYield: no notifier is registered that could decide
  function* (here: ThisCpu, str: string, err: bigint, regs: Arm64PtRegs): Path<void> {
    const { kernel } = here;
    kernel.die_counter += 1;
    const smp = kernel.config.SMP ? ' SMP' : '';
    kernel.printk(here, KERN_EMERG, `Internal error: ${str}: ${hex16(err)} [#${kernel.die_counter}] ${smp}`);
    kernel.print_modules(here);
    __show_regs(here, regs);
    dump_backtrace(here, regs, KERN_DEFAULT);
    if (!regs.user_mode) dump_kernel_instr(here, regs);
  },
);

export const die = port(
  'die',
  ['str', 'regs', 'err'],
  function* (here: ThisCpu, str: string, regs: Arm64PtRegs, err: bigint): Path<never> {
    const { kernel, trace } = here;
    yield* __die(here, str, err, regs);
    kernel.add_taint('D');
    kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
    const inInterrupt = here.current.in_interrupt !== 0;
    if (yield* trace.decide('die', 'in_interrupt()', inInterrupt)) {
      kernel.panic(here, `${str}: Fatal exception in interrupt`);
    }
    if (yield* trace.decide('die', 'panic_on_oops', kernel.config.panic_on_oops)) {
      kernel.panic(here, `${str}: Fatal exception`);
    }
    return kernel.make_task_dead(here, SIGSEGV);
  },
);

/** Ends the run: the task has the signal. `far` keeps its tag, as si_addr does in the kernel. */
export const arm64_force_sig_fault = port(
  'arm64_force_sig_fault',
  ['signo', 'code', 'far', 'str'],
  // biome-ignore lint/correctness/useYield: it only ends
  function* (_here: ThisCpu, signo: number, code: number, far: bigint, _str: string): Path<never> {
    // force_sig(SIGKILL) carries neither a code of its own nor an address.
    throw new TaskDead(
      signo === SIGKILL
        ? { kind: 'signal', signo, code: SI_KERNEL, address: 0n }
        : { kind: 'signal', signo, code, address: far },
    );
  },
);

/** The same for memory that is lost; `lsb` is the shift of the page, which the outcome does not show. */
export const arm64_force_sig_mceerr = port(
  'arm64_force_sig_mceerr',
  ['code', 'far', 'lsb', 'str'],
  // biome-ignore lint/correctness/useYield: it only ends
  function* (_here: ThisCpu, code: number, far: bigint, _lsb: number, _str: string): Path<never> {
    throw new TaskDead({ kind: 'signal', signo: SIGBUS, code, address: far });
  },
);

export const arm64_notify_die = port(
  'arm64_notify_die',
  ['str', 'regs', 'signo', 'code', 'far', 'err'],
  function* (
    here: ThisCpu,
    str: string,
    regs: Arm64PtRegs,
    signo: number,
    code: number,
    far: bigint,
    err: bigint,
  ): Path<never> {
    if (yield* here.trace.decide('arm64_notify_die', 'user_mode(regs)', regs.user_mode)) {
      const { syndrome } = mmuOf(here);
      syndrome.fault_address = 0n;
      syndrome.fault_code = err;
      return yield* arm64_force_sig_fault(here, signo, code, far, str);
    }
    return yield* die(here, str, regs, err);
  },
);

/**
 * The exception found no room on the kernel stack. Prints what is known here: the interrupt and overflow
 * stacks are not modelled, and their lines are left out.
 */
export const panic_bad_stack = port(
  'panic_bad_stack',
  ['regs', 'esr', 'far'],
  function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint, far: bigint): Path<never> {
    const { kernel, current } = here;
    const line = (text: string): void => kernel.printk(here, KERN_EMERG, text);
    const top = current.stack + BigInt(current.stackSize);
    line('Insufficient stack space to handle exception!');
    line(`ESR: 0x${hex16(esr)} -- ${esr_get_class_string(esr)}`);
    line(`FAR: 0x${hex16(far)}`);
    line(`Task stack:     [0x${hex16(current.stack)}..0x${hex16(top)}]`);
    __show_regs(here, regs);
    return kernel.panic(here, 'kernel stack overflow');
  },
);
