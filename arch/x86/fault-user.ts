/**
 * Page faults at user addresses: do_user_addr_fault() of arch/x86/mm/fault.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: SGX, shadow stacks (no mapping here is one), accounting and statistics; is_errata93() is asked,
 * but the CPU modelled is no K8.
 */
import { Turns } from '../../emu/endless.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  BUS_ADRERR,
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_USER,
  FAULT_FLAG_VMA_LOCK,
  FAULT_FLAG_WRITE,
  fault_signal_pending,
  faulthandler_disabled,
  type mm_struct,
  SEGV_MAPERR,
  SIGBUS,
  SIGSEGV,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_HWPOISON,
  VM_FAULT_HWPOISON_LARGE,
  VM_FAULT_MAJOR,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
} from '../kernel.js';
import { access_error } from './access-error.js';
import { BUG } from './bug.js';
import {
  ARCH_DEFAULT_PKEY,
  bad_area_access_error,
  bad_area_nosemaphore,
  do_sigbus,
  kernelmode_fixup_or_oops,
  page_fault_oops,
  warnOnOnce,
} from './fault-oops.js';
import { mmuOf } from './mmu.js';
import { never } from './never.js';
import { X86_EFLAGS_AC, X86_EFLAGS_IF, type X86PtRegs } from './regs.js';
import { pgtable_bad } from './show-fault.js';
import { emulate_vsyscall_pf, is_vsyscall_vaddr } from './vsyscall.js';
import { X86_PF_INSTR, X86_PF_RSVD, X86_PF_SHSTK, X86_PF_USER, X86_PF_WRITE } from './walk.js';

const fn = 'do_user_addr_fault';

/** Where it warns and where it has its BUG(), as %pS says it. Offsets, the size and the lines are chosen. */
const IF_SITE = 'do_user_addr_fault+0x5c4/0x6a0';
const BUG_AT = 'do_user_addr_fault+0x69c/0x6a0';

export const do_user_addr_fault = port(
  'do_user_addr_fault',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { trace, kernel, current } = here;
    const { mm } = current;
    const has = (bit: number): boolean => (error_code & bit) !== 0;

    const kernelExecutes = (error_code & (X86_PF_USER | X86_PF_INSTR)) === X86_PF_INSTR;
    const executes = '(error_code & (X86_PF_USER | X86_PF_INSTR)) == X86_PF_INSTR';
    if (yield* trace.decide(fn, executes, kernelExecutes)) {
      yield* never(here, fn, 'is_errata93(regs, address)');
      yield* page_fault_oops(here, regs, error_code, address);
      return;
    }
    yield* never(here, fn, 'WARN_ON_ONCE(kprobe_page_fault(regs, X86_TRAP_PF))');
    if (yield* trace.decide(fn, 'error_code & X86_PF_RSVD', has(X86_PF_RSVD))) {
      // Comes back when a die notifier has stopped the oops, and then the fault goes on as any other.
      yield* pgtable_bad(here, regs, error_code, address);
    }
    const smap = kernel.config.SMAP && !has(X86_PF_USER) && (regs.flags & X86_EFLAGS_AC) === 0n;
    const smapTest =
      'cpu_feature_enabled(X86_FEATURE_SMAP) && !(error_code & X86_PF_USER) && !(regs->flags & X86_EFLAGS_AC)';
    if (yield* trace.decide(fn, smapTest, smap)) {
      yield* page_fault_oops(here, regs, error_code, address);
      return;
    }
    const noContext = faulthandler_disabled(here) || mm === null;
    yield* trace.decide(fn, 'faulthandler_disabled() || !mm', noContext);
    if (noContext || mm === null) {
      yield* bad_area_nosemaphore(here, regs, error_code, address);
      return;
    }
    const irqsOff = (regs.flags & X86_EFLAGS_IF) === 0n;
    const site = 'arch/x86/mm/fault.c:1272';
    if (yield* warnOnOnce(here, fn, '!(regs->flags & X86_EFLAGS_IF)', irqsOff, site, IF_SITE)) {
      yield* bad_area_nosemaphore(here, regs, error_code, address);
      return;
    }
    mmuOf(here).irqsDisabled = false;

    if (yield* trace.decide(fn, 'is_vsyscall_vaddr(address)', is_vsyscall_vaddr(address))) {
      if (yield* emulate_vsyscall_pf(here, error_code, regs, address)) return;
    }
    const fault = yield* handledFault(here, mm, regs, error_code, address, faultFlags(regs, error_code));
    if (fault !== null) yield* conclude(here, regs, error_code, address, fault);
  },
);

/** FAULT_FLAG_*; the mode comes from the registers, because the error code tells about the access only. */
function faultFlags(regs: X86PtRegs, error_code: number): number {
  let flags = FAULT_FLAG_DEFAULT;
  if ((error_code & (X86_PF_SHSTK | X86_PF_WRITE)) !== 0) flags |= FAULT_FLAG_WRITE;
  if ((error_code & X86_PF_INSTR) !== 0) flags |= FAULT_FLAG_INSTRUCTION;
  if (regs.user_mode) flags |= FAULT_FLAG_USER;
  return flags;
}

/**
 * From the lookup of the VMA to the label `done`.
 * @returns VM_FAULT_* bits, or null when do_user_addr_fault() has returned before
 */
function* handledFault(
  here: ThisCpu,
  mm: mm_struct,
  regs: X86PtRegs,
  error_code: number,
  address: bigint,
  first: number,
): Path<number | null> {
  const { trace, kernel } = here;
  let flags = first;

  const user = (flags & FAULT_FLAG_USER) !== 0;
  if (!(yield* trace.decide(fn, '!(flags & FAULT_FLAG_USER)', !user))) {
    const vma = yield* kernel.lock_vma_under_rcu(here, mm, address);
    yield* trace.decide(fn, '!vma', vma === null);
    if (vma !== null) {
      if (yield* trace.decide(fn, 'access_error(error_code, vma)', access_error(here, error_code, vma))) {
        yield* bad_area_access_error(here, regs, error_code, address, null, vma);
        return null;
      }
      const fault = yield* kernel.handle_mm_fault(here, vma, address, flags | FAULT_FLAG_VMA_LOCK, regs);
      const released = (fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) !== 0;
      const keeps = '!(fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED))';
      if (yield* trace.decide(fn, keeps, !released)) kernel.vma_end_read(here, vma);
      if (yield* trace.decide(fn, '!(fault & VM_FAULT_RETRY)', (fault & VM_FAULT_RETRY) === 0)) return fault;
      if (yield* trace.decide(fn, 'fault & VM_FAULT_MAJOR', (fault & VM_FAULT_MAJOR) !== 0)) {
        flags |= FAULT_FLAG_TRIED;
      }
      if (yield* signalFirst(here, fault, regs, error_code, address)) return null;
    }
  }

  const turns = new Turns(trace.patience);
  for (;;) {
    const vma = yield* kernel.lock_mm_and_find_vma(here, mm, address, regs);
    yield* trace.decide(fn, '!vma', vma === null);
    if (vma === null) {
      yield* bad_area_nosemaphore(here, regs, error_code, address);
      return null;
    }
    if (yield* trace.decide(fn, 'access_error(error_code, vma)', access_error(here, error_code, vma))) {
      yield* bad_area_access_error(here, regs, error_code, address, mm, vma);
      return null;
    }
    const fault = yield* kernel.handle_mm_fault(here, vma, address, flags, regs);
    if (yield* signalFirst(here, fault, regs, error_code, address)) return null;
    const completed = (fault & VM_FAULT_COMPLETED) !== 0;
    if (yield* trace.decide(fn, 'fault & VM_FAULT_COMPLETED', completed)) return null;
    if (!(yield* trace.decide(fn, 'fault & VM_FAULT_RETRY', (fault & VM_FAULT_RETRY) !== 0))) {
      kernel.mmap_read_unlock(here, mm);
      return fault;
    }
    flags |= FAULT_FLAG_TRIED;
    turns.again(address);
  }
}

/** True when the fault ends here, because a signal is to be answered first. */
function* signalFirst(
  here: ThisCpu,
  fault: number,
  regs: X86PtRegs,
  error_code: number,
  address: bigint,
): Path<boolean> {
  const { trace } = here;
  const pending = fault_signal_pending(here, fault, regs);
  if (!(yield* trace.decide(fn, 'fault_signal_pending(fault, regs)', pending))) return false;
  if (yield* trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
    yield* kernelmode_fixup_or_oops(here, regs, error_code, address, SIGBUS, BUS_ADRERR, ARCH_DEFAULT_PKEY);
  }
  return true;
}

/** From the label `done` on. */
function* conclude(
  here: ThisCpu,
  regs: X86PtRegs,
  error_code: number,
  address: bigint,
  fault: number,
): Path<void> {
  const { trace, kernel, current } = here;
  const noError = (fault & VM_FAULT_ERROR) === 0;
  if (yield* trace.decide(fn, '!(fault & VM_FAULT_ERROR)', noError)) return;
  const dying = current.signal_pending === 'fatal' && !regs.user_mode;
  if (yield* trace.decide(fn, 'fatal_signal_pending(current) && !user_mode(regs)', dying)) {
    yield* kernelmode_fixup_or_oops(here, regs, error_code, address, 0, 0, ARCH_DEFAULT_PKEY);
    return;
  }
  if (yield* trace.decide(fn, 'fault & VM_FAULT_OOM', (fault & VM_FAULT_OOM) !== 0)) {
    if (yield* trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
      yield* kernelmode_fixup_or_oops(
        here,
        regs,
        error_code,
        address,
        SIGSEGV,
        SEGV_MAPERR,
        ARCH_DEFAULT_PKEY,
      );
    } else kernel.pagefault_out_of_memory(here);
    return;
  }
  const sigbus = (fault & (VM_FAULT_SIGBUS | VM_FAULT_HWPOISON | VM_FAULT_HWPOISON_LARGE)) !== 0;
  const sigbusTest = 'fault & (VM_FAULT_SIGBUS|VM_FAULT_HWPOISON|VM_FAULT_HWPOISON_LARGE)';
  if (yield* trace.decide(fn, sigbusTest, sigbus)) {
    yield* do_sigbus(here, regs, error_code, address, fault);
  } else if (yield* trace.decide(fn, 'fault & VM_FAULT_SIGSEGV', (fault & VM_FAULT_SIGSEGV) !== 0)) {
    yield* bad_area_nosemaphore(here, regs, error_code, address);
  } else {
    BUG(here, 'arch/x86/mm/fault.c:1433', BUG_AT);
  }
}
