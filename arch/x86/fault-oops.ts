/**
 * The end of page faults that nobody resolves: bad_area*(), kernelmode_fixup_or_oops(), page_fault_oops() and
 * do_sigbus() of arch/x86/mm/fault.c, bpf-next merge 8496d9020ff3. The text of an oops is in show-fault.ts.
 *
 * Left out: EFI run-time services (none is ever in flight), the vDSO's fixups (SGX), which part of a page is
 * lost with HWPOISON (si_addr_lsb), and the errata of AMD's K8 family: is_prefetch() and is_errata100() are
 * asked, but the CPU modelled is none of those.
 */
import { hex16 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  BUS_ADRERR,
  BUS_MCEERR_AR,
  KERN_DEFAULT,
  KERN_EMERG,
  KERN_ERR,
  type mm_struct,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SEGV_PKUERR,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
  VM_FAULT_HWPOISON,
  VM_FAULT_HWPOISON_LARGE,
  type vm_area_struct,
} from '../kernel.js';
import { __die, oops_begin, oops_end } from './dumpstack.js';
import { fixup_exception } from './extable.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { never } from './never.js';
import { arch_vma_access_permitted, cpu_has_ospke } from './pkeys.js';
import { TASK_SIZE_MAX, X86_TRAP_PF } from './processor.js';
import type { X86PtRegs } from './regs.js';
import { show_fault_oops, show_signal_msg, show_unhandled_signals } from './show-fault.js';
import { get_stack_guard_info, is_vmalloc_addr, task_stack_end_corrupted } from './stack-guard.js';
import { handle_stack_overflow } from './traps.js';
import { X86_PF_INSTR, X86_PF_PK, X86_PF_PROT, X86_PF_USER, X86_PF_WRITE } from './walk.js';

export const ARCH_DEFAULT_PKEY = 0;

/** WARN_ON_ONCE(): a decision, and the first time that it holds a banner. `at` is what %pS says. */
export function warnOnOnce(
  here: ThisCpu,
  fn: string,
  condition: string,
  value: boolean,
  site: string,
  at: string,
): Delegate<boolean> {
  const test = `WARN_ON_ONCE(${condition})`;
  return value ? warned(here, fn, test, site, at) : here.trace.decide(fn, test, false);
}

function* warned(here: ThisCpu, fn: string, test: string, site: string, at: string): Path<boolean> {
  yield* here.trace.decide(fn, test, true);
  if (here.kernel.once(site)) here.kernel.warn(here, site, at, null);
  return true;
}

export const bad_area_nosemaphore = port(
  'bad_area_nosemaphore',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    yield* __bad_area_nosemaphore(here, regs, error_code, address, ARCH_DEFAULT_PKEY, SEGV_MAPERR);
  },
);

export const __bad_area_nosemaphore = port(
  '__bad_area_nosemaphore',
  ['regs', 'error_code', 'address', 'pkey', 'si_code'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    hw_error_code: number,
    address: bigint,
    pkey: number,
    si_code: number,
  ): Path<void> {
    const { trace } = here;
    const fn = '__bad_area_nosemaphore';
    let error_code = hw_error_code;
    if (yield* trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
      yield* kernelmode_fixup_or_oops(here, regs, error_code, address, SIGSEGV, si_code, pkey);
      return;
    }
    // An access that the CPU makes for itself, while user code runs.
    if (yield* trace.decide(fn, '!(error_code & X86_PF_USER)', (error_code & X86_PF_USER) === 0)) {
      yield* page_fault_oops(here, regs, error_code, address);
      return;
    }
    mmuOf(here).irqsDisabled = false;
    yield* never(here, fn, 'is_prefetch(regs, error_code, address)');
    yield* never(here, fn, 'is_errata100(regs, address)');
    error_code = sanitize_error_code(address, error_code);
    yield* never(here, fn, VDSO_FIXUP);
    if (yield* trace.decide(fn, 'show_unhandled_signals', show_unhandled_signals(here))) {
      show_signal_msg(here, regs, error_code, address);
    }
    set_signal_archinfo(here, address, error_code);
    if (yield* trace.decide(fn, 'si_code == SEGV_PKUERR', si_code === SEGV_PKUERR)) {
      here.kernel.force_sig_fault(here, SIGSEGV, SEGV_PKUERR, address, pkey);
    }
    here.kernel.force_sig_fault(here, SIGSEGV, si_code, address);
  },
);

/** Only SGX enclaves have such fixups. */
const VDSO_FIXUP = 'fixup_vdso_exception(regs, X86_TRAP_PF, error_code, address)';

/** What is in the kernel's half, user space is not to learn. */
function sanitize_error_code(address: bigint, error_code: number): number {
  return address >= TASK_SIZE_MAX ? error_code | X86_PF_PROT : error_code;
}

function set_signal_archinfo(here: ThisCpu, address: bigint, error_code: number): void {
  const thread = machineOf(here).thread(here.current);
  thread.trap_nr = X86_TRAP_PF;
  thread.error_code = error_code | X86_PF_USER;
  thread.cr2 = address;
}

/** The last three arguments are not used. */
export const kernelmode_fixup_or_oops = port(
  'kernelmode_fixup_or_oops',
  ['regs', 'error_code', 'address', 'signal', 'si_code', 'pkey'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    error_code: number,
    address: bigint,
    _signal: number,
    _si_code: number,
    _pkey: number,
  ): Path<void> {
    const fn = 'kernelmode_fixup_or_oops';
    // Nobody calls it with user registers.
    yield* here.trace.decide(fn, 'WARN_ON_ONCE(user_mode(regs))', regs.user_mode);
    if (yield* fixup_exception(here, regs, X86_TRAP_PF, error_code, address)) return;
    yield* never(here, fn, 'is_prefetch(regs, error_code, address)');
    yield* page_fault_oops(here, regs, error_code, address);
  },
);

export const page_fault_oops = port(
  'page_fault_oops',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { trace, kernel } = here;
    const fn = 'page_fault_oops';
    if (!(yield* trace.decide(fn, 'user_mode(regs)', regs.user_mode))) {
      if (kernel.config.VMAP_STACK) {
        const guard = is_vmalloc_addr(address) ? get_stack_guard_info(here, address) : null;
        const test = 'is_vmalloc_addr((void *)address) && get_stack_guard_info((void *)address, &info)';
        yield* trace.decide(fn, test, guard !== null);
        if (guard !== null) yield* handle_stack_overflow(here, regs, address, guard);
      }
      yield* never(here, fn, 'efi_crash_gracefully_on_page_fault(address)');
      if (yield* trace.decide(fn, '!(error_code & X86_PF_PROT)', (error_code & X86_PF_PROT) === 0)) {
        const is_write = (error_code & X86_PF_WRITE) !== 0;
        if (kernel.config.KFENCE) {
          if (yield* kernel.kfence_handle_page_fault(here, address, is_write, regs)) return;
        }
        if (yield* kernel.bpf_arena_handle_page_fault(here, address, is_write, regs.ip)) return;
      }
    }
    const flags = oops_begin(here);
    yield* show_fault_oops(here, regs, error_code, address);
    const corrupted = task_stack_end_corrupted(here);
    if (yield* trace.decide(fn, 'task_stack_end_corrupted(current)', corrupted)) {
      kernel.printk(here, KERN_EMERG, 'Thread overran stack, or stack corrupted');
    }
    const sig = (yield* __die(here, 'Oops', regs, error_code)) ? 0 : SIGKILL;
    kernel.printk(here, KERN_DEFAULT, `CR2: ${hex16(address)}`);
    yield* oops_end(here, flags, regs, sig);
  },
);

/** Did a protection key forbid it? The CPU says so only of pages that are there. */
function bad_area_access_from_pkeys(here: ThisCpu, error_code: number, vma: vm_area_struct): boolean {
  if (!cpu_has_ospke(here)) return false;
  if ((error_code & X86_PF_PK) !== 0) return true;
  const write = (error_code & X86_PF_WRITE) !== 0;
  return !arch_vma_access_permitted(here, vma, write, (error_code & X86_PF_INSTR) !== 0);
}

/** With `mm` null the VMA's own lock is held, else the mmap lock. */
export const bad_area_access_error = port(
  'bad_area_access_error',
  ['regs', 'error_code', 'address', 'mm', 'vma'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    error_code: number,
    address: bigint,
    mm: mm_struct | null,
    vma: vm_area_struct,
  ): Path<void> {
    const fromPkeys = bad_area_access_from_pkeys(here, error_code, vma);
    const test = 'bad_area_access_from_pkeys(error_code, vma)';
    if (yield* here.trace.decide('bad_area_access_error', test, fromPkeys)) {
      yield* __bad_area(here, regs, error_code, address, mm, vma, vma.pkey, SEGV_PKUERR);
    } else {
      yield* __bad_area(here, regs, error_code, address, mm, vma, ARCH_DEFAULT_PKEY, SEGV_ACCERR);
    }
  },
);

const __bad_area = port(
  '__bad_area',
  ['regs', 'error_code', 'address', 'mm', 'vma', 'pkey', 'si_code'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    error_code: number,
    address: bigint,
    mm: mm_struct | null,
    vma: vm_area_struct,
    pkey: number,
    si_code: number,
  ): Path<void> {
    yield* here.trace.decide('__bad_area', 'mm', mm !== null);
    if (mm === null) here.kernel.vma_end_read(here, vma);
    else here.kernel.mmap_read_unlock(here, mm);
    yield* __bad_area_nosemaphore(here, regs, error_code, address, pkey, si_code);
  },
);

export const do_sigbus = port(
  'do_sigbus',
  ['regs', 'error_code', 'address', 'fault'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint, fault: number): Path<void> {
    const { trace, kernel, current } = here;
    const fn = 'do_sigbus';
    if (yield* trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
      yield* kernelmode_fixup_or_oops(here, regs, error_code, address, SIGBUS, BUS_ADRERR, ARCH_DEFAULT_PKEY);
      return;
    }
    yield* never(here, fn, 'is_prefetch(regs, error_code, address)');
    const sanitized = sanitize_error_code(address, error_code);
    yield* never(here, fn, VDSO_FIXUP);
    set_signal_archinfo(here, address, sanitized);
    const poison = (fault & (VM_FAULT_HWPOISON | VM_FAULT_HWPOISON_LARGE)) !== 0;
    if (yield* trace.decide(fn, 'fault & (VM_FAULT_HWPOISON|VM_FAULT_HWPOISON_LARGE)', poison)) {
      const who = `${current.comm}:${current.pid}`;
      const text = `MCE: Killing ${who} due to hardware memory corruption fault at ${address.toString(16)}`;
      kernel.printk(here, KERN_ERR, text);
      kernel.force_sig_fault(here, SIGBUS, BUS_MCEERR_AR, address);
    }
    kernel.force_sig_fault(here, SIGBUS, BUS_ADRERR, address);
  },
);
