/**
 * Oopses, signals, and the exceptions that are nothing else.
 *
 * Ported from arch/arm64/kernel/traps.c, bpf-next merge 8496d9020ff3. Left out: emulation of instructions
 * (SSBS, MRS, MOPS, AArch32), BRK, kdump, and names of files in the line for signals, because user memory
 * is anonymous here.
 */
import { hex16 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_DEFAULT, KERN_EMERG, KERN_INFO, KERN_WARNING, SIGBUS, SIGKILL, SIGSEGV } from '../kernel.js';
import { esr_get_class_string } from './class-string.js';
import { is_ttbr1_addr } from './memory.js';
import { mmuOf } from './mmu.js';
import { irqStack, overflowStack, type Stack } from './per-cpu-stacks.js';
import { __show_regs } from './process.js';
import type { Arm64PtRegs } from './regs.js';
import { dump_backtrace } from './stacktrace.js';

export const SIGILL = 4;
export const ILL_ILLOPC = 1;
export const ILL_ILLOPN = 2;

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

/** True when a notifier stopped it: then nobody is killed. */
const __die = port(
  '__die',
  ['str', 'err', 'regs'],
  function* (here: ThisCpu, str: string, err: bigint, regs: Arm64PtRegs): Path<boolean> {
    const { kernel } = here;
    kernel.die_counter += 1;
    const smp = kernel.config.SMP ? ' SMP' : '';
    kernel.printk(here, KERN_EMERG, `Internal error: ${str}: ${hex16(err)} [#${kernel.die_counter}] ${smp}`);
    const stop = yield* kernel.notify_die(here, 'DIE_OOPS');
    if (yield* here.trace.decide('__die', 'ret == NOTIFY_STOP', stop)) return true;
    kernel.print_modules(here);
    __show_regs(here, regs);
    dump_backtrace(here, regs, KERN_DEFAULT);
    if (yield* here.trace.decide('__die', 'user_mode(regs)', regs.user_mode)) return false;
    dump_kernel_instr(here, regs);
    return false;
  },
);

export const die = port(
  'die',
  ['str', 'regs', 'err'],
  function* (here: ThisCpu, str: string, regs: Arm64PtRegs, err: bigint): Path<void> {
    const { kernel, trace } = here;
    const stopped = yield* __die(here, str, err, regs);
    kernel.add_taint('D');
    kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
    const inInterrupt = here.current.in_interrupt !== 0;
    if (yield* trace.decide('die', 'in_interrupt()', inInterrupt)) {
      kernel.panic(here, `${str}: Fatal exception in interrupt`);
    }
    if (yield* trace.decide('die', 'panic_on_oops', kernel.config.panic_on_oops)) {
      kernel.panic(here, `${str}: Fatal exception`);
    }
    if (yield* trace.decide('die', 'ret != NOTIFY_STOP', !stopped)) kernel.make_task_dead(here, SIGSEGV);
  },
);

/** What the log says of a signal that nobody handles, when sysctl debug.exception-trace asks for it. */
function arm64_show_signal(here: ThisCpu, str: string): void {
  const { kernel, current } = here;
  if (kernel.config.show_unhandled_signals !== true || !kernel.unhandled_signal(current)) return;
  if (!kernel.___ratelimit(here, 'arm64_show_signal', 'arm64_show_signal')) return;
  const { fault_code } = mmuOf(here).syndrome;
  const esr = fault_code === 0n ? '' : `${esr_get_class_string(fault_code)}, ESR 0x${hex16(fault_code)}, `;
  kernel.printk(here, KERN_INFO, `${current.comm}[${current.pid}]: unhandled exception: ${esr}${str}`);
  const { regs } = here;
  if (regs !== null) __show_regs(here, regs as Arm64PtRegs);
}

/** Ends the run: the task has the signal. `far` keeps its tag, as si_addr does in the kernel. */
export const arm64_force_sig_fault = port(
  'arm64_force_sig_fault',
  ['signo', 'code', 'far', 'str'],
  function* (here: ThisCpu, signo: number, code: number, far: bigint, str: string): Path<never> {
    arm64_show_signal(here, str);
    const kill = yield* here.trace.decide('arm64_force_sig_fault', 'signo == SIGKILL', signo === SIGKILL);
    if (kill) return here.kernel.force_sig(here, SIGKILL);
    return here.kernel.force_sig_fault(here, signo, code, far);
  },
);

/** The same for memory that is lost; `lsb` is the shift of the page, which the outcome does not show. */
export const arm64_force_sig_mceerr = port(
  'arm64_force_sig_mceerr',
  ['code', 'far', 'lsb', 'str'],
  // biome-ignore lint/correctness/useYield: it only ends
  function* (here: ThisCpu, code: number, far: bigint, _lsb: number, str: string): Path<never> {
    arm64_show_signal(here, str);
    return here.kernel.force_sig_fault(here, SIGBUS, code, far);
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
  ): Path<void> {
    if (yield* here.trace.decide('arm64_notify_die', 'user_mode(regs)', regs.user_mode)) {
      setThreadFault(here, err);
      yield* arm64_force_sig_fault(here, signo, code, far, str);
    } else yield* die(here, str, regs, err);
  },
);

/** The task learns the syndrome, and no address. */
function setThreadFault(here: ThisCpu, code: bigint): void {
  const { syndrome } = mmuOf(here);
  syndrome.fault_address = 0n;
  syndrome.fault_code = code;
}

/** Undefined instruction, BTI and FPAC of user code: SIGILL. */
export const force_signal_inject = port(
  'force_signal_inject',
  ['signal', 'code', 'address', 'err'],
  function* (here: ThisCpu, regs: Arm64PtRegs, code: number, err: bigint): Path<void> {
    yield* arm64_notify_die(here, 'undefined instruction', regs, SIGILL, code, regs.pc, err);
  },
);

/** An exception from EL0 that nothing handles. */
export const bad_el0_sync = port(
  'bad_el0_sync',
  ['regs', 'reason', 'esr'],
  function* (here: ThisCpu, regs: Arm64PtRegs, _reason: number, esr: bigint): Path<void> {
    setThreadFault(here, esr);
    yield* arm64_force_sig_fault(here, SIGILL, ILL_ILLOPC, regs.pc, 'Bad EL0 synchronous exception');
  },
);

/** As a published report prints them. nmi_panic() does not return: its return address is the next function. */
const BAD_STACK_FRAMES: readonly string[] = [
  'add_taint+0x0/0xbc',
  'panic_bad_stack+0x108/0x120',
  'handle_bad_stack+0x34/0x40',
  '__bad_stack+0x80/0x84',
];

/** The exception found no room on the kernel stack. */
export const panic_bad_stack = port(
  'panic_bad_stack',
  ['regs', 'esr', 'far'],
  function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint, far: bigint): Path<never> {
    const { kernel, current } = here;
    const line = (text: string): void => kernel.printk(here, KERN_EMERG, text);
    const range = ({ start, size }: Stack): string => `[0x${hex16(start)}..0x${hex16(start + BigInt(size))}]`;
    line('Insufficient stack space to handle exception!');
    line(`ESR: 0x${hex16(esr)} -- ${esr_get_class_string(esr)}`);
    line(`FAR: 0x${hex16(far)}`);
    line(`Task stack:     ${range({ start: current.stack, size: current.stackSize })}`);
    line(`IRQ stack:      ${range(irqStack(here.cpu.id))}`);
    line(`Overflow stack: ${range(overflowStack(here.cpu.id))}`);
    __show_regs(here, regs);
    regs.handlers = BAD_STACK_FRAMES;
    return kernel.panic(here, 'kernel stack overflow');
  },
);
