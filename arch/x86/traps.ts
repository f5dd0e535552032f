/**
 * The exceptions beside page faults: port of arch/x86/kernel/traps.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: exceptions that no access raises, emulated instructions (UMIP, IOPL, ENQCMD), LASS, ESPFIX, the
 * vDSO's fixups, and the file name in a user task's line.
 */
import { hex } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_EMERG, KERN_INFO, SIGBUS, SIGSEGV } from '../kernel.js';
import { die, die_addr } from './dumpstack.js';
import { fixup_exception } from './extable.js';
import { insn_decode_kernel, insn_get_addr_ref } from './insn-eval.js';
import { MAX_INSTRUCTION_LENGTH } from './instruction.js';
import { registersOf } from './instruction-at.js';
import { copy_from_kernel_nofault } from './maccess.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { never } from './never.js';
import { X86_TRAP_DF, X86_TRAP_GP, X86_TRAP_SS } from './processor.js';
import { printk_ratelimit } from './ratelimit.js';
import { X86_EFLAGS_IF, type X86PtRegs } from './regs.js';
import { show_unhandled_signals } from './show-fault.js';
import { get_stack_guard_info, type stack_info } from './stack-guard.js';

const GPFSTR = 'general protection fault';
const NON_CANONICAL = 'probably for non-canonical address';

function cond_local_irq_enable(here: ThisCpu, regs: X86PtRegs): void {
  if ((regs.flags & X86_EFLAGS_IF) !== 0n) mmuOf(here).irqsDisabled = false;
}

function setTrap(here: ThisCpu, trapnr: number, error_code: number): void {
  const thread = machineOf(here).thread(here.current);
  thread.error_code = error_code;
  thread.trap_nr = trapnr;
}

/** The line about a user task that gets a signal for an exception. */
function show_signal(here: ThisCpu, type: string, desc: string, regs: X86PtRegs, error_code: number): void {
  if (!show_unhandled_signals(here) || !here.kernel.unhandled_signal(here.current)) return;
  if (!printk_ratelimit(here, 'show_signal')) return;
  const { comm, pid } = here.current;
  const text =
    `traps: ${comm}[${pid}] ${type}${desc} ip:${regs.ip.toString(16)} sp:${regs.sp.toString(16)}` +
    ` error:${error_code.toString(16)}`;
  here.kernel.printk(here, KERN_INFO, text);
}

interface KernelExcHint {
  readonly help: string;
  readonly addr: bigint;
}

/** get_kernel_exc_address(): what the operand tells about the reason; null when it tells nothing. */
function get_kernel_exc_address(here: ThisCpu, regs: X86PtRegs): KernelExcHint | null {
  const bytes = copy_from_kernel_nofault(here, regs.ip, MAX_INSTRUCTION_LENGTH);
  const decoded = mmuOf(here).faulting.at(regs.ipSigned);
  if (bytes === null || decoded === null) return null;
  const insn = insn_decode_kernel(bytes, decoded.length);
  const addr = insn_get_addr_ref(insn, registersOf(here, regs));
  if (addr === null || addr === 0xffff_ffff_ffff_ffffn) return null;
  // ~__VIRTUAL_MASK: what is above is canonical again.
  if (addr >= 0xffff_8000_0000_0000n) return { help: 'maybe for address', addr };
  if (addr + BigInt(insn.opnd_bytes) - 1n > 0x7fff_ffff_ffffn) return { help: NON_CANONICAL, addr };
  if (addr < 4096n) return { help: 'kernel NULL pointer dereference', addr };
  return { help: 'maybe for address', addr };
}

const gp_try_fixup_and_notify = port(
  'gp_try_fixup_and_notify',
  ['regs', 'trapnr', 'error_code', 'str', 'address'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    trapnr: number,
    error_code: number,
    _str: string,
    address: bigint,
  ): Path<boolean> {
    const fn = 'gp_try_fixup_and_notify';
    if (yield* fixup_exception(here, regs, trapnr, error_code, address)) return true;
    setTrap(here, trapnr, error_code);
    const kprobe = '!preemptible() && kprobe_running() && kprobe_fault_handler(regs, trapnr)';
    yield* never(here, fn, kprobe);
    return yield* here.kernel.notify_die(here, 'DIE_GPF');
  },
);

export const exc_general_protection = port(
  'exc_general_protection',
  ['regs', 'error_code'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number): Path<void> {
    const { trace } = here;
    const fn = 'exc_general_protection';
    regs.exception = 'general_protection';
    cond_local_irq_enable(here, regs);
    if (yield* trace.decide(fn, 'user_mode(regs)', regs.user_mode)) {
      setTrap(here, X86_TRAP_GP, error_code);
      show_signal(here, '', GPFSTR, regs, error_code);
      here.kernel.force_sig(here, SIGSEGV);
    }
    // The fixup is told no address: CR2 says nothing about this exception.
    if (yield* gp_try_fixup_and_notify(here, regs, X86_TRAP_GP, error_code, GPFSTR, 0n)) return;
    let desc = GPFSTR;
    let gp_addr = 0n;
    if (yield* trace.decide(fn, 'error_code', error_code)) {
      desc = `segment-related ${GPFSTR}`;
    } else {
      const hint = get_kernel_exc_address(here, regs);
      yield* trace.decide(fn, 'hint != EXC_NO_HINT', hint !== null);
      if (hint !== null) {
        desc = `${GPFSTR}, ${hint.help} ${hex(hint.addr)}`;
        if (hint.help === NON_CANONICAL) gp_addr = hint.addr;
      }
    }
    // KASAN wants to know of non-canonical addresses only.
    yield* die_addr(here, desc, regs, error_code, gp_addr);
  },
);

/** 0: the exception is dealt with. -1: user code gets a signal. */
const do_trap_no_signal = port(
  'do_trap_no_signal',
  ['trapnr', 'str', 'regs', 'error_code'],
  function* (here: ThisCpu, trapnr: number, str: string, regs: X86PtRegs, error_code: number): Path<number> {
    const fn = 'do_trap_no_signal';
    if (yield* here.trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
      if (yield* fixup_exception(here, regs, trapnr, error_code, 0n)) return 0;
      setTrap(here, trapnr, error_code);
      yield* die(here, str, regs, error_code);
    } else {
      yield* never(here, fn, 'fixup_vdso_exception(regs, trapnr, error_code, 0)');
    }
    setTrap(here, trapnr, error_code);
    return -1;
  },
);

const do_trap = port(
  'do_trap',
  ['trapnr', 'signr', 'str', 'regs', 'error_code'],
  function* (
    here: ThisCpu,
    trapnr: number,
    signr: number,
    str: string,
    regs: X86PtRegs,
    error_code: number,
  ): Path<void> {
    if ((yield* do_trap_no_signal(here, trapnr, str, regs, error_code)) === 0) return;
    show_signal(here, 'trap ', str, regs, error_code);
    here.kernel.force_sig(here, signr);
  },
);

const do_error_trap = port(
  'do_error_trap',
  ['regs', 'error_code', 'str', 'trapnr', 'signr'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    error_code: number,
    str: string,
    trapnr: number,
    signr: number,
  ): Path<void> {
    if (yield* here.kernel.notify_die(here, 'DIE_TRAP')) return;
    cond_local_irq_enable(here, regs);
    yield* do_trap(here, trapnr, signr, str, regs, error_code);
  },
);

export const exc_stack_segment = port(
  'exc_stack_segment',
  ['regs', 'error_code'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number): Path<void> {
    regs.exception = 'stack_segment';
    yield* do_error_trap(here, regs, error_code, 'stack segment', X86_TRAP_SS, SIGBUS);
  },
);

/** Runs on the stack of #DF; ends the task, or the machine when it was in an interrupt. */
export const handle_stack_overflow = port(
  'handle_stack_overflow',
  ['regs', 'fault_address', 'info'],
  function* (here: ThisCpu, regs: X86PtRegs, fault_address: bigint, info: stack_info): Path<void> {
    const { kernel } = here;
    const p = (pointer: bigint): string => kernel.hashed_pointer(pointer);
    const at = `${p(fault_address)} (stack is ${p(info.begin)}..${p(info.end)})`;
    kernel.printk(here, KERN_EMERG, `BUG: ${info.name} stack guard page was hit at ${at}`);
    yield* die(here, 'stack guard page', regs, 0);
    kernel.panic(here, `${info.name} stack guard hit`);
  },
);

export const exc_double_fault = port(
  'exc_double_fault',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { trace, current, kernel } = here;
    regs.exception = 'double_fault';
    // irqentry_nmi_enter(): what follows counts as interrupt context.
    current.in_interrupt += 1;
    try {
      // What a notifier says does not matter.
      yield* kernel.notify_die(here, 'DIE_TRAP');
      setTrap(here, X86_TRAP_DF, error_code);
      if (kernel.config.VMAP_STACK) {
        const guard = get_stack_guard_info(here, address);
        const test = 'get_stack_guard_info((void *)address, &info)';
        yield* trace.decide('exc_double_fault', test, guard !== null);
        if (guard !== null) yield* handle_stack_overflow(here, regs, address, guard);
      }
      const text = `traps: PANIC: double fault, error_code: 0x${error_code.toString(16)}`;
      kernel.printk(here, KERN_EMERG, text);
      yield* die(here, 'double fault', regs, error_code);
      kernel.panic(here, 'Machine halted.');
    } finally {
      current.in_interrupt -= 1;
    }
  },
);
