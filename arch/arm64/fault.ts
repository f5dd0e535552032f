/**
 * The page-fault path of arm64.
 *
 * Ported from arch/arm64/mm/fault.c, bpf-next merge 8496d9020ff3. What it prints is in fault-report.ts,
 * the table of status codes in fault-info.ts. Left out: KASAN's tag reports, GCS, protection keys, software
 * PAN, the per-VMA lock (faults of user code take the mmap lock at once, with the same result), the rate
 * limit of the spurious-fault warning, and counting of perf events. Kprobes, pKVM, APEI, the EFI runtime
 * services, compat alignment fixups and pending signals do not exist here: their tests are made, and say no.
 */
import { hex16 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  BUS_ADRALN,
  BUS_ADRERR,
  BUS_MCEERR_AR,
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_USER,
  FAULT_FLAG_WRITE,
  PAGE_SHIFT,
  PAGE_SIZE,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SIGBUS,
  SIGSEGV,
  VM_EXEC,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_HWPOISON,
  VM_FAULT_HWPOISON_LARGE,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_READ,
  VM_WRITE,
} from '../kernel.js';
import {
  ESR_ELx_CM,
  ESR_ELx_EC,
  ESR_ELx_EC_DABT_LOW,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_EC_MASK,
  ESR_ELx_FnV,
  ESR_ELx_IL,
  ESR_ELx_WNR,
  esr_fsc_is_permission_fault,
  esr_fsc_is_tag_check_fault,
  esr_fsc_is_translation_fault,
  fsc,
  fscIsTranslationFault,
  is_el0_instruction_abort,
  is_el1_data_abort,
  is_el1_instruction_abort,
  is_write_abort,
  wnr,
} from './esr.js';
import { fixup_exception, insn_may_access_user } from './extable.js';
import { type fault_info, faultInfo } from './fault-info.js';
import { die_kernel_fault } from './fault-report.js';
import { is_ttbr0_addr, untagged_addr } from './memory.js';
import { mmuOf } from './mmu.js';
import type { Arm64PtRegs } from './regs.js';
import { arm64_force_sig_fault, arm64_force_sig_mceerr, arm64_notify_die } from './traps.js';
import { NO_FAULT } from './walk.js';

/** A handler of fault_info: 0 when it dealt with the fault, 1 when it did not. */
type FaultFunction = (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs) => Delegate<number>;

const PAGE_SIZE_ADDRESS = BigInt(PAGE_SIZE);
/** Bits of FAR_EL1 that hold the logical tag. */
const MTE_TAG_MASK = 0xfn << 56n;

function esr_to_fault_info(esr: bigint): fault_info {
  return faultInfo(fsc(esr));
}

function is_el1_permission_fault(esr: bigint): boolean {
  return (is_el1_data_abort(esr) || is_el1_instruction_abort(esr)) && esr_fsc_is_permission_fault(esr);
}

function is_el1_mte_sync_tag_check_fault(esr: bigint): boolean {
  return is_el1_data_abort(esr) && esr_fsc_is_tag_check_fault(esr);
}

/**
 * Would the access translate now? AT S1E1R walks the tables as they are at this moment. Any outcome but
 * another translation fault counts as spurious, a permission or access flag fault included.
 */
const is_spurious_el1_translation_fault = port(
  'is_spurious_el1_translation_fault',
  ['addr', 'esr', 'regs'],
  function* (here: ThisCpu, addr: bigint, esr: bigint, _regs: Arm64PtRegs): Path<boolean> {
    const { trace } = here;
    const fn = 'is_spurious_el1_translation_fault';
    const other = !is_el1_data_abort(esr) || !esr_fsc_is_translation_fault(esr);
    const test = '!is_el1_data_abort(esr) || !esr_fsc_is_translation_fault(esr)';
    if (yield* trace.decide(fn, test, other)) return false;
    const dfsc = mmuOf(here).at_s1e1r(addr);
    if (yield* trace.decide(fn, '!(par & SYS_PAR_EL1_F)', dfsc === NO_FAULT)) return true;
    return yield* trace.decide(fn, '!esr_fsc_is_translation_fault(dfsc)', !fscIsTranslationFault(dfsc));
  },
);

function faulthandler_disabled(here: ThisCpu): boolean {
  const { current } = here;
  return current.pagefault_disabled !== 0 || current.preempt_count !== 0 || current.in_interrupt !== 0;
}

/** What the task's signal frame will show: of kernel addresses, user code learns nothing. */
function set_thread_esr(here: ThisCpu, address: bigint, esr: bigint): void {
  const { syndrome } = mmuOf(here);
  syndrome.fault_address = address;
  syndrome.fault_code = esr;
  if (is_ttbr0_addr(address)) return;
  switch (ESR_ELx_EC(esr)) {
    case ESR_ELx_EC_DABT_LOW:
      syndrome.fault_code = (esr & (ESR_ELx_EC_MASK | ESR_ELx_IL | ESR_ELx_CM | ESR_ELx_WNR)) | 0x04n;
      return;
    case ESR_ELx_EC_IABT_LOW:
      syndrome.fault_code = (esr & (ESR_ELx_EC_MASK | ESR_ELx_IL)) | 0x04n;
      return;
    default:
      // The kernel warns; aborts from EL0 have no other class.
      syndrome.fault_code = 0n;
  }
}

/** The report is KASAN's, and tag checking is not modelled: there is nothing to turn off. */
const do_tag_recovery = port(
  'do_tag_recovery',
  ['addr', 'esr', 'regs'],
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* (_here: ThisCpu, _addr: bigint, _esr: bigint, _regs: Arm64PtRegs): Path<void> {
    return;
  },
);

export const __do_kernel_fault = port(
  '__do_kernel_fault',
  ['addr', 'esr', 'regs'],
  function* (here: ThisCpu, addr: bigint, esr: bigint, regs: Arm64PtRegs): Path<void> {
    const { trace, kernel } = here;
    const fn = '__do_kernel_fault';
    const fetch = is_el1_instruction_abort(esr);
    if (yield* trace.decide(fn, '!is_el1_instruction_abort(esr)', !fetch)) {
      if (yield* fixup_exception(here, regs, esr)) return;
    }

    if (yield* is_spurious_el1_translation_fault(here, addr, esr, regs)) {
      yield* trace.decide(fn, 'WARN_RATELIMIT(!is_pkvm_stage2_abort(esr))', true);
      kernel.warn(
        here,
        'arch/arm64/mm/fault.c:417',
        // Chosen: no report that shows this warning was found. The size is a published one.
        '__do_kernel_fault+0x164/0x188',
        `Ignoring spurious kernel translation fault at virtual address ${hex16(addr)}`,
      );
      return;
    }

    const tagCheck = is_el1_mte_sync_tag_check_fault(esr);
    if (yield* trace.decide(fn, 'is_el1_mte_sync_tag_check_fault(esr)', tagCheck)) {
      yield* do_tag_recovery(here, addr, esr, regs);
      return;
    }

    let msg: string;
    const permission = is_el1_permission_fault(esr);
    if (yield* trace.decide(fn, 'is_el1_permission_fault(addr, esr, regs)', permission)) {
      if (yield* trace.decide(fn, 'esr & ESR_ELx_WNR', wnr(esr))) msg = 'write to read-only memory';
      else if (yield* trace.decide(fn, 'is_el1_instruction_abort(esr)', fetch)) {
        msg = 'execute from non-executable memory';
      } else msg = 'read from unreadable memory';
    } else if (yield* trace.decide(fn, 'addr < PAGE_SIZE', addr < PAGE_SIZE_ADDRESS)) {
      msg = 'NULL pointer dereference';
    } else if (yield* trace.decide(fn, 'is_pkvm_stage2_abort(esr)', false)) {
      msg = 'access to hypervisor-protected memory';
    } else {
      const translation = esr_fsc_is_translation_fault(esr);
      if (yield* trace.decide(fn, 'esr_fsc_is_translation_fault(esr)', translation)) {
        const write = wnr(esr);
        if (kernel.config.KFENCE && (yield* kernel.kfence_handle_page_fault(here, addr, write, regs))) return;
        if (yield* kernel.bpf_arena_handle_page_fault(here, addr, write, regs.pc)) return;
      }
      msg = 'paging request';
    }

    if (yield* trace.decide(fn, 'efi_runtime_fixup_exception(regs, msg)', false)) return;
    yield* die_kernel_fault(here, msg, addr, esr, regs);
  },
);

const do_bad_area = port(
  'do_bad_area',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<void> {
    const addr = untagged_addr(far);
    if (yield* here.trace.decide('do_bad_area', 'user_mode(regs)', regs.user_mode)) {
      const inf = esr_to_fault_info(esr);
      set_thread_esr(here, addr, esr);
      yield* arm64_force_sig_fault(here, inf.sig, inf.code, far, inf.name);
    } else {
      yield* __do_kernel_fault(here, addr, esr, regs);
    }
  },
);

const do_page_fault: FaultFunction = port(
  'do_page_fault',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<number> {
    const { trace, kernel } = here;
    const fn = 'do_page_fault';
    const { mm } = here.current;
    const addr = untagged_addr(far);
    let mm_flags = FAULT_FLAG_DEFAULT;

    if (yield* trace.decide(fn, 'kprobe_page_fault(regs, esr)', false)) return 0;
    const atomic = faulthandler_disabled(here) || mm === null;
    if ((yield* trace.decide(fn, 'faulthandler_disabled() || !mm', atomic)) || mm === null) {
      yield* __do_kernel_fault(here, addr, esr, regs);
      return 0;
    }
    if (yield* trace.decide(fn, 'user_mode(regs)', regs.user_mode)) mm_flags |= FAULT_FLAG_USER;

    let vm_flags: number;
    if (yield* trace.decide(fn, 'is_el0_instruction_abort(esr)', is_el0_instruction_abort(esr))) {
      vm_flags = VM_EXEC;
      mm_flags |= FAULT_FLAG_INSTRUCTION;
    } else if (yield* trace.decide(fn, 'is_write_abort(esr)', is_write_abort(esr))) {
      vm_flags = VM_WRITE;
      mm_flags |= FAULT_FLAG_WRITE;
    } else {
      // The CPU has no EPAN: whoever may execute may read.
      vm_flags = VM_READ | VM_WRITE | VM_EXEC;
    }

    const permission = is_ttbr0_addr(addr) && is_el1_permission_fault(esr);
    const uaccess = 'is_ttbr0_addr(addr) && is_el1_permission_fault(addr, esr, regs)';
    if (yield* trace.decide(fn, uaccess, permission)) {
      const fetch = is_el1_instruction_abort(esr);
      if (yield* trace.decide(fn, 'is_el1_instruction_abort(esr)', fetch)) {
        yield* die_kernel_fault(here, 'execution of user memory', addr, esr, regs);
      }
      const allowed = insn_may_access_user(here, regs.pc, esr);
      if (yield* trace.decide(fn, '!insn_may_access_user(regs->pc, esr)', !allowed)) {
        yield* die_kernel_fault(here, 'access to user memory outside uaccess routines', addr, esr, regs);
      }
    }
    yield* trace.decide(fn, 'is_pkvm_stage2_abort(esr)', false);

    let fault: number;
    let si_code = SEGV_MAPERR;
    for (;;) {
      const vma = yield* kernel.lock_mm_and_find_vma(here, mm, addr, regs);
      yield* trace.decide(fn, '!vma', vma === null);
      if (vma === null) {
        fault = 0;
        break;
      }
      const refused = (vma.vm_flags & vm_flags) === 0;
      if (yield* trace.decide(fn, '!(vma->vm_flags & vm_flags)', refused)) {
        fault = 0;
        si_code = SEGV_ACCERR;
        break;
      }
      fault = yield* kernel.handle_mm_fault(here, vma, addr, mm_flags, regs);
      // No signal is ever pending here: one ends the run.
      if (yield* trace.decide(fn, 'fault_signal_pending(fault, regs)', false)) return 0;
      const completed = (fault & VM_FAULT_COMPLETED) !== 0;
      if (yield* trace.decide(fn, 'fault & VM_FAULT_COMPLETED', completed)) return 0;
      if (yield* trace.decide(fn, 'fault & VM_FAULT_RETRY', (fault & VM_FAULT_RETRY) !== 0)) {
        mm_flags |= FAULT_FLAG_TRIED;
        continue;
      }
      const noError = (fault & VM_FAULT_ERROR) === 0;
      if (yield* trace.decide(fn, '!(fault & VM_FAULT_ERROR)', noError)) return 0;
      break;
    }

    // bad_area
    if (yield* trace.decide(fn, '!user_mode(regs)', !regs.user_mode)) {
      yield* __do_kernel_fault(here, addr, esr, regs);
      return 0;
    }
    // pagefault_out_of_memory(): the lab has no OOM killer, the instruction is simply retried.
    if (yield* trace.decide(fn, 'fault & VM_FAULT_OOM', (fault & VM_FAULT_OOM) !== 0)) return 0;

    const inf = esr_to_fault_info(esr);
    set_thread_esr(here, addr, esr);
    const poison = (fault & (VM_FAULT_HWPOISON | VM_FAULT_HWPOISON_LARGE)) !== 0;
    const poisonTest = 'fault & (VM_FAULT_HWPOISON_LARGE | VM_FAULT_HWPOISON)';
    if (yield* trace.decide(fn, 'fault & VM_FAULT_SIGBUS', (fault & VM_FAULT_SIGBUS) !== 0)) {
      yield* arm64_force_sig_fault(here, SIGBUS, BUS_ADRERR, far, inf.name);
    } else if (yield* trace.decide(fn, poisonTest, poison)) {
      // Huge pages of user space are not modelled: the page that is lost is always a small one.
      yield* arm64_force_sig_mceerr(here, BUS_MCEERR_AR, far, PAGE_SHIFT, inf.name);
    } else {
      yield* arm64_force_sig_fault(here, SIGSEGV, si_code, far, inf.name);
    }
    return 0;
  },
);

const do_translation_fault: FaultFunction = port(
  'do_translation_fault',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<number> {
    const user = is_ttbr0_addr(untagged_addr(far));
    if (yield* here.trace.decide('do_translation_fault', 'is_ttbr0_addr(addr)', user)) {
      return yield* do_page_fault(here, far, esr, regs);
    }
    yield* do_bad_area(here, far, esr, regs);
    return 0;
  },
);

const do_alignment_fault: FaultFunction = port(
  'do_alignment_fault',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<number> {
    const test = 'IS_ENABLED(CONFIG_COMPAT_ALIGNMENT_FIXUPS) && compat_user_mode(regs)';
    yield* here.trace.decide('do_alignment_fault', test, false);
    yield* do_bad_area(here, far, esr, regs);
    return 0;
  },
);

const do_bad: FaultFunction = port(
  'do_bad',
  ['far', 'esr', 'regs'],
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* (_here: ThisCpu, _far: bigint, _esr: bigint, _regs: Arm64PtRegs): Path<number> {
    return 1;
  },
);

const do_sea: FaultFunction = port(
  'do_sea',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<number> {
    const { trace } = here;
    const inf = esr_to_fault_info(esr);
    if (yield* trace.decide('do_sea', 'user_mode(regs) && apei_claim_sea(regs) == 0', false)) return 0;
    const notValid = yield* trace.decide('do_sea', 'esr & ESR_ELx_FnV', (esr & ESR_ELx_FnV) !== 0n);
    const siaddr = notValid ? 0n : untagged_addr(far);
    here.kernel.add_taint('M');
    yield* arm64_notify_die(here, inf.name, regs, inf.sig, inf.code, siaddr, esr);
    return 0;
  },
);

const do_tag_check_fault: FaultFunction = port(
  'do_tag_check_fault',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<number> {
    // Without FEAT_MTE_TAGGED_FAR, bits 63:60 of FAR_EL1 are unknown: they become those of the address.
    yield* here.trace.decide('do_tag_check_fault', '!cpus_have_cap(ARM64_MTE_FAR)', true);
    const untagged = BigInt.asUintN(64, BigInt.asIntN(56, far));
    yield* do_bad_area(here, (untagged & ~MTE_TAG_MASK) | (far & MTE_TAG_MASK), esr, regs);
    return 0;
  },
);

function handlerOf(inf: fault_info): FaultFunction {
  switch (inf.fn) {
    case 'do_bad':
      return do_bad;
    case 'do_translation_fault':
      return do_translation_fault;
    case 'do_page_fault':
      return do_page_fault;
    case 'do_sea':
      return do_sea;
    case 'do_tag_check_fault':
      return do_tag_check_fault;
    case 'do_alignment_fault':
      return do_alignment_fault;
  }
}

export const do_mem_abort = port(
  'do_mem_abort',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<void> {
    const inf = esr_to_fault_info(esr);
    if ((yield* handlerOf(inf)(here, far, esr, regs)) === 0) return;
    const addr = untagged_addr(far);
    if (yield* here.trace.decide('do_mem_abort', '!user_mode(regs)', !regs.user_mode)) {
      yield* die_kernel_fault(here, inf.name, addr, esr, regs);
    }
    yield* arm64_notify_die(here, inf.name, regs, inf.sig, inf.code, addr, esr);
  },
);

export const do_sp_pc_abort = port(
  'do_sp_pc_abort',
  ['addr', 'esr', 'regs'],
  function* (here: ThisCpu, addr: bigint, esr: bigint, regs: Arm64PtRegs): Path<void> {
    yield* arm64_notify_die(here, 'SP/PC alignment exception', regs, SIGBUS, BUS_ADRALN, addr, esr);
  },
);
