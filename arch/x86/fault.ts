/**
 * The page-fault handler, port of arch/x86/mm/fault.c, bpf-next merge 8496d9020ff3.
 *
 * The text of an oops is in show-fault.ts. Left out: 32-bit code, KVM's asynchronous page faults, mmiotrace
 * and kprobes (never active here), EFI run-time services, SGX, protection keys, shadow stacks, the VMA lock
 * (the mmap lock is taken instead), errata of old CPUs (their tests are there and say no), and accounting.
 */
import { hex16 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  BUS_ADRERR,
  BUS_MCEERR_AR,
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_USER,
  FAULT_FLAG_WRITE,
  KERN_DEFAULT,
  KERN_EMERG,
  KERN_ERR,
  type mm_struct,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
  TaskDead,
  VM_EXEC,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_HWPOISON,
  VM_FAULT_HWPOISON_LARGE,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
  VM_READ,
  VM_WRITE,
  type vm_area_struct,
} from '../kernel.js';
import { BUG } from './bug.js';
import { __die, oops_begin, oops_end } from './dumpstack.js';
import { fixup_exception, TASK_SIZE_MAX, X86_TRAP_PF } from './extable.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import {
  entryPa,
  p4d_present,
  pmd_leaf,
  pmd_present,
  pte_exec,
  pte_present,
  pte_write,
  pud_leaf,
  pud_present,
  tablePa,
} from './pgtable.js';
import { X86_EFLAGS_AC, X86_EFLAGS_IF, type X86PtRegs } from './regs.js';
import { pgtable_bad, show_fault_oops, show_signal_msg } from './show-fault.js';
import { get_stack_guard_info, is_vmalloc_addr, task_stack_end_corrupted } from './stack-guard.js';
import { handle_stack_overflow } from './traps.js';
import { emulate_vsyscall_pf, is_vsyscall_vaddr } from './vsyscall.js';
import {
  X86_PF_INSTR,
  X86_PF_PK,
  X86_PF_PROT,
  X86_PF_RSVD,
  X86_PF_SGX,
  X86_PF_SHSTK,
  X86_PF_USER,
  X86_PF_WRITE,
} from './walk.js';

function fault_in_kernel_space(address: bigint): boolean {
  return address >= TASK_SIZE_MAX && !is_vsyscall_vaddr(address);
}

/** WARN_ON_ONCE() of a test that does not hold in this kernel as it is modelled, unless something is wrong. */
function warnOnOnce(here: ThisCpu, site: string, at: string, condition: boolean): void {
  if (condition && here.kernel.once(site)) here.kernel.warn(here, site, at, null);
}

/** force_sig_fault() and force_sig_pkuerr(): the end of what is modelled of a user task. */
export function force_sig_fault(signo: number, code: number, address: bigint): never {
  throw new TaskDead({ kind: 'signal', signo, code, address });
}

/** `address` is CR2, read before anything else can fault. */
export const exc_page_fault = port(
  'exc_page_fault',
  ['regs', 'error_code'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number): Path<void> {
    const mmu = mmuOf(here);
    const address = mmu.cr2;
    if (yield* here.trace.decide('exc_page_fault', 'kvm_handle_async_pf(regs, (u32)address)', false)) return;
    yield* handle_page_fault(here, regs, error_code, address);
  },
);

export const handle_page_fault = port(
  'handle_page_fault',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { trace } = here;
    if (yield* trace.decide('handle_page_fault', 'kmmio_fault(regs, address)', false)) return;
    const kernelSpace = fault_in_kernel_space(address);
    if (yield* trace.decide('handle_page_fault', 'fault_in_kernel_space(address)', kernelSpace)) {
      yield* do_kern_addr_fault(here, regs, error_code, address);
    } else {
      yield* do_user_addr_fault(here, regs, error_code, address);
    }
    mmuOf(here).irqsDisabled = true;
  },
);

export const do_kern_addr_fault = port(
  'do_kern_addr_fault',
  ['regs', 'hw_error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, hw_error_code: number, address: bigint): Path<void> {
    const { trace } = here;
    const fn = 'do_kern_addr_fault';
    const pk = (hw_error_code & X86_PF_PK) !== 0;
    yield* trace.decide(fn, 'WARN_ON_ONCE(hw_error_code & X86_PF_PK)', pk);
    warnOnOnce(here, 'arch/x86/mm/fault.c:1153', 'exc_page_fault+0x1a2/0x1d0', pk);
    if (yield* trace.decide(fn, 'is_f00f_bug(regs, hw_error_code, address)', false)) return;
    if (yield* spurious_kernel_fault(here, hw_error_code, address)) return;
    if (yield* trace.decide(fn, 'WARN_ON_ONCE(kprobe_page_fault(regs, X86_TRAP_PF))', false)) return;
    yield* bad_area_nosemaphore(here, regs, hw_error_code, address);
  },
);

function spurious_kernel_fault_check(error_code: number, pte: bigint): boolean {
  if ((error_code & X86_PF_WRITE) !== 0 && !pte_write(pte)) return false;
  if ((error_code & X86_PF_INSTR) !== 0 && !pte_exec(pte)) return false;
  return true;
}

/** Looks at init_mm, not at CR3: a stale TLB entry may have fewer rights than the tables. */
export const spurious_kernel_fault = port(
  'spurious_kernel_fault',
  ['error_code', 'address'],
  function* (here: ThisCpu, error_code: number, address: bigint): Path<boolean> {
    const { trace, ram } = here;
    const fn = 'spurious_kernel_fault';
    const candidate =
      error_code === (X86_PF_WRITE | X86_PF_PROT) || error_code === (X86_PF_INSTR | X86_PF_PROT);
    const other = 'error_code != (X86_PF_WRITE | X86_PF_PROT) && error_code != (X86_PF_INSTR | X86_PF_PROT)';
    if (yield* trace.decide(fn, other, !candidate)) return false;

    const read = (pa: number): bigint => (ram.contains(pa, 8) ? ram.readU64(pa) : 0n);
    // pgd_present() is always true with four levels: the entry is looked at as a P4D.
    const p4d = read(entryPa('p4d', here.kernel.init_mm.pgd, address));
    if (yield* trace.decide(fn, '!p4d_present(*p4d)', !p4d_present(p4d))) return false;
    const pud = read(entryPa('pud', tablePa(p4d), address));
    if (yield* trace.decide(fn, '!pud_present(*pud)', !pud_present(pud))) return false;
    if (yield* trace.decide(fn, 'pud_leaf(*pud)', pud_leaf(pud))) {
      return yield* trace.decide(
        fn,
        'spurious_kernel_fault_check(error_code, (pte_t *) pud)',
        spurious_kernel_fault_check(error_code, pud),
      );
    }
    const pmd = read(entryPa('pmd', tablePa(pud), address));
    if (yield* trace.decide(fn, '!pmd_present(*pmd)', !pmd_present(pmd))) return false;
    const pmdAllows = spurious_kernel_fault_check(error_code, pmd);
    const pmdCheck = 'spurious_kernel_fault_check(error_code, (pte_t *) pmd)';
    if (yield* trace.decide(fn, 'pmd_leaf(*pmd)', pmd_leaf(pmd))) {
      return yield* trace.decide(fn, pmdCheck, pmdAllows);
    }
    const pte = read(entryPa('pte', tablePa(pmd), address));
    if (yield* trace.decide(fn, '!pte_present(*pte)', !pte_present(pte))) return false;
    const allows = spurious_kernel_fault_check(error_code, pte);
    if (!(yield* trace.decide(fn, 'spurious_kernel_fault_check(error_code, pte)', allows))) return false;
    if (
      !(yield* trace.decide(fn, pmdCheck, pmdAllows)) &&
      here.kernel.once('arch/x86/mm/fault.c:spurious_kernel_fault')
    ) {
      const text = 'PMD has incorrect permission bits';
      here.kernel.warn(here, 'arch/x86/mm/fault.c:1060', 'exc_page_fault+0x18e/0x1d0', text);
    }
    return pmdAllows;
  },
);

export const bad_area_nosemaphore = port(
  'bad_area_nosemaphore',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    yield* __bad_area_nosemaphore(here, regs, error_code, address, 0, SEGV_MAPERR);
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
    if (yield* trace.decide(fn, 'is_prefetch(regs, error_code, address)', false)) return;
    if (yield* trace.decide(fn, 'is_errata100(regs, address)', false)) return;
    error_code = sanitize_error_code(address, error_code);
    const vdso = 'fixup_vdso_exception(regs, X86_TRAP_PF, error_code, address)';
    if (yield* trace.decide(fn, vdso, false)) return;
    show_signal_msg(here, regs, error_code, address);
    set_signal_archinfo(here, address, error_code);
    force_sig_fault(SIGSEGV, si_code, address);
  },
);

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
    const { trace } = here;
    const fn = 'kernelmode_fixup_or_oops';
    const user = regs.user_mode;
    yield* trace.decide(fn, 'WARN_ON_ONCE(user_mode(regs))', user);
    warnOnOnce(here, 'arch/x86/mm/fault.c:724', 'kernelmode_fixup_or_oops.constprop.0+0x5c/0x70', user);
    if (yield* fixup_exception(here, regs, X86_TRAP_PF, error_code, address)) return;
    if (yield* trace.decide(fn, 'is_prefetch(regs, error_code, address)', false)) return;
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

export const do_user_addr_fault = port(
  'do_user_addr_fault',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const { trace, kernel, current } = here;
    const fn = 'do_user_addr_fault';
    const { mm } = current;
    const has = (bit: number): boolean => (error_code & bit) !== 0;
    let flags = FAULT_FLAG_DEFAULT;

    const kernelExecutes = (error_code & (X86_PF_USER | X86_PF_INSTR)) === X86_PF_INSTR;
    const executes = '(error_code & (X86_PF_USER | X86_PF_INSTR)) == X86_PF_INSTR';
    if (yield* trace.decide(fn, executes, kernelExecutes)) {
      if (yield* trace.decide(fn, 'is_errata93(regs, address)', false)) return;
      yield* page_fault_oops(here, regs, error_code, address);
      return;
    }
    if (yield* trace.decide(fn, 'WARN_ON_ONCE(kprobe_page_fault(regs, X86_TRAP_PF))', false)) return;
    if (yield* trace.decide(fn, 'error_code & X86_PF_RSVD', has(X86_PF_RSVD))) {
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
    const irqsWereOff = (regs.flags & X86_EFLAGS_IF) === 0n;
    if (yield* trace.decide(fn, 'WARN_ON_ONCE(!(regs->flags & X86_EFLAGS_IF))', irqsWereOff)) {
      warnOnOnce(here, 'arch/x86/mm/fault.c:1272', 'exc_page_fault+0x1b4/0x1d0', irqsWereOff);
      yield* bad_area_nosemaphore(here, regs, error_code, address);
      return;
    }
    mmuOf(here).irqsDisabled = false;

    if (has(X86_PF_SHSTK) || has(X86_PF_WRITE)) flags |= FAULT_FLAG_WRITE;
    if (has(X86_PF_INSTR)) flags |= FAULT_FLAG_INSTRUCTION;
    // From the registers: the error code tells about the access, not about the mode.
    if (regs.user_mode) flags |= FAULT_FLAG_USER;

    if (yield* trace.decide(fn, 'is_vsyscall_vaddr(address)', is_vsyscall_vaddr(address))) {
      if (yield* emulate_vsyscall_pf(here, error_code, regs, address)) return;
    }
    yield* withMmapLock(here, mm, regs, error_code, address, flags);
  },
);

/** do_user_addr_fault() from its label `retry` on. */
function* withMmapLock(
  here: ThisCpu,
  mm: mm_struct,
  regs: X86PtRegs,
  error_code: number,
  address: bigint,
  first: number,
): Path<void> {
  const { trace, kernel } = here;
  const fn = 'do_user_addr_fault';
  let flags = first;
  let fault: number;
  for (;;) {
    const vma = yield* kernel.lock_mm_and_find_vma(here, mm, address, regs);
    yield* trace.decide(fn, '!vma', vma === null);
    if (vma === null) {
      yield* bad_area_nosemaphore(here, regs, error_code, address);
      return;
    }
    if (yield* trace.decide(fn, 'access_error(error_code, vma)', access_error(error_code, vma))) {
      yield* bad_area_access_error(here, regs, error_code, address);
      return;
    }
    fault = yield* kernel.handle_mm_fault(here, vma, address, flags, regs);
    // No signal is ever pending here: one ends the run.
    if (yield* trace.decide(fn, 'fault_signal_pending(fault, regs)', false)) return;
    const completed = (fault & VM_FAULT_COMPLETED) !== 0;
    if (yield* trace.decide(fn, 'fault & VM_FAULT_COMPLETED', completed)) return;
    if (!(yield* trace.decide(fn, 'fault & VM_FAULT_RETRY', (fault & VM_FAULT_RETRY) !== 0))) break;
    flags |= FAULT_FLAG_TRIED;
  }
  const noError = (fault & VM_FAULT_ERROR) === 0;
  if (yield* trace.decide(fn, '!(fault & VM_FAULT_ERROR)', noError)) return;
  const fatal = 'fatal_signal_pending(current) && !user_mode(regs)';
  if (yield* trace.decide(fn, fatal, false)) return;
  if (yield* trace.decide(fn, 'fault & VM_FAULT_OOM', (fault & VM_FAULT_OOM) !== 0)) {
    if (yield* trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
      yield* kernelmode_fixup_or_oops(here, regs, error_code, address, SIGSEGV, SEGV_MAPERR, 0);
    }
    // Else pagefault_out_of_memory(): the instruction is executed again.
    return;
  }
  const sigbus = (fault & (VM_FAULT_SIGBUS | VM_FAULT_HWPOISON | VM_FAULT_HWPOISON_LARGE)) !== 0;
  const sigbusTest = 'fault & (VM_FAULT_SIGBUS|VM_FAULT_HWPOISON|VM_FAULT_HWPOISON_LARGE)';
  if (yield* trace.decide(fn, sigbusTest, sigbus)) {
    yield* do_sigbus(here, regs, error_code, address, fault);
  } else if (yield* trace.decide(fn, 'fault & VM_FAULT_SIGSEGV', (fault & VM_FAULT_SIGSEGV) !== 0)) {
    yield* bad_area_nosemaphore(here, regs, error_code, address);
  } else {
    BUG(fn, `handle_mm_fault() returned 0x${fault.toString(16)}`, regs.ip);
  }
}

function faulthandler_disabled(here: ThisCpu): boolean {
  const { pagefault_disabled, preempt_count, in_interrupt } = here.current;
  return pagefault_disabled > 0 || preempt_count !== 0 || in_interrupt > 0;
}

/** 1: the VMA does not allow the access. Protection keys and shadow stacks are not modelled. */
function access_error(error_code: number, vma: vm_area_struct): boolean {
  if ((error_code & (X86_PF_PK | X86_PF_SGX)) !== 0) return true;
  if ((error_code & X86_PF_WRITE) !== 0) return (vma.vm_flags & VM_WRITE) === 0;
  if ((error_code & X86_PF_PROT) !== 0) return true;
  return (vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)) === 0;
}

export const bad_area_access_error = port(
  'bad_area_access_error',
  ['regs', 'error_code', 'address'],
  function* (here: ThisCpu, regs: X86PtRegs, error_code: number, address: bigint): Path<void> {
    const keys = 'bad_area_access_from_pkeys(error_code, vma)';
    yield* here.trace.decide('bad_area_access_error', keys, false);
    yield* __bad_area(here, regs, error_code, address, 0, SEGV_ACCERR);
  },
);

export const __bad_area = port(
  '__bad_area',
  ['regs', 'error_code', 'address', 'pkey', 'si_code'],
  function* (
    here: ThisCpu,
    regs: X86PtRegs,
    error_code: number,
    address: bigint,
    pkey: number,
    si_code: number,
  ): Path<void> {
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
      yield* kernelmode_fixup_or_oops(here, regs, error_code, address, SIGBUS, BUS_ADRERR, 0);
      return;
    }
    if (yield* trace.decide(fn, 'is_prefetch(regs, error_code, address)', false)) return;
    const sanitized = sanitize_error_code(address, error_code);
    const vdso = 'fixup_vdso_exception(regs, X86_TRAP_PF, error_code, address)';
    if (yield* trace.decide(fn, vdso, false)) return;
    set_signal_archinfo(here, address, sanitized);
    const poison = (fault & (VM_FAULT_HWPOISON | VM_FAULT_HWPOISON_LARGE)) !== 0;
    if (yield* trace.decide(fn, 'fault & (VM_FAULT_HWPOISON|VM_FAULT_HWPOISON_LARGE)', poison)) {
      const who = `${current.comm}:${current.pid}`;
      const text = `MCE: Killing ${who} due to hardware memory corruption fault at ${address.toString(16)}`;
      kernel.printk(here, KERN_ERR, text);
      // force_sig_mceerr(); which part of the page is lost (si_addr_lsb) is not in the outcome.
      force_sig_fault(SIGBUS, BUS_MCEERR_AR, address);
    }
    force_sig_fault(SIGBUS, BUS_ADRERR, address);
  },
);
