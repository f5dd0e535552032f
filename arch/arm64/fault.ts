/**
 * The page-fault path of arm64.
 *
 * Ported from arch/arm64/mm/fault.c, bpf-next merge 8496d9020ff3. Other parts of the file: what it prints is
 * in fault-report.ts, the table of status codes in fault-info.ts, __do_kernel_fault() in fault-kernel.ts,
 * set_thread_esr() in fault-signal.ts. Left out: counting of perf events, kmap and huge page sizes of poison
 * signals. Kprobes, pKVM, APEI, guarded control stacks, protection keys and compat alignment fixups do not
 * exist here: their tests are made, and say no.
 */
import { Turns } from '../../emu/endless.js';
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
  FAULT_FLAG_VMA_LOCK,
  FAULT_FLAG_WRITE,
  fault_signal_pending,
  faulthandler_disabled,
  type mm_struct,
  PAGE_SHIFT,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SIGBUS,
  SIGSEGV,
  VM_EXEC,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_HWPOISON,
  VM_FAULT_HWPOISON_LARGE,
  VM_FAULT_MAJOR,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_READ,
  VM_WRITE,
  type vm_area_struct,
} from '../kernel.js';
import {
  ESR_ELx_FnV,
  esr_is_data_abort,
  fsc,
  is_el0_instruction_abort,
  is_el1_instruction_abort,
  is_write_abort,
} from './esr.js';
import { insn_may_access_user } from './extable.js';
import { type fault_info, faultInfo } from './fault-info.js';
import { __do_kernel_fault, is_el1_permission_fault, is_pkvm_stage2_abort } from './fault-kernel.js';
import { die_kernel_fault } from './fault-report.js';
import { set_thread_esr } from './fault-signal.js';
import { is_ttbr0_addr, untagged_addr } from './memory.js';
import type { Arm64PtRegs } from './regs.js';
import { arm64_force_sig_fault, arm64_force_sig_mceerr, arm64_notify_die } from './traps.js';

/** A handler of fault_info: 0 when it dealt with the fault, 1 when it did not. */
type FaultFunction = (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs) => Delegate<number>;

const FN = 'do_page_fault';
/** ESR_ELx_GCS, in ISS2. */
const ESR_ELx_GCS = 1n << 40n;
/** Bits of FAR_EL1 that hold the logical tag. */
const MTE_TAG_MASK = 0xfn << 56n;

function esr_to_fault_info(esr: bigint): fault_info {
  return faultInfo(fsc(esr));
}

/** An access to a guarded control stack, as the syndrome says. */
function is_gcs_fault(esr: bigint): boolean {
  return esr_is_data_abort(esr) && (esr & ESR_ELx_GCS) !== 0n;
}

const do_bad_area = port(
  'do_bad_area',
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<void> {
    const addr = untagged_addr(far);
    if (yield* here.trace.decide('do_bad_area', 'user_mode(regs)', regs.user_mode)) {
      const inf = esr_to_fault_info(esr);
      yield* set_thread_esr(here, addr, esr);
      yield* arm64_force_sig_fault(here, inf.sig, inf.code, far, inf.name);
    } else {
      yield* __do_kernel_fault(here, addr, esr, regs);
    }
  },
);

/** What do_page_fault() carries from one of its labels to the next. */
interface PageFault {
  readonly mm: mm_struct;
  readonly addr: bigint;
  readonly esr: bigint;
  readonly regs: Arm64PtRegs;
  /** The mapping must have one of these bits. */
  readonly vm_flags: number;
  mm_flags: number;
  fault: number;
  si_code: number;
}

/** Labels of do_page_fault(); `return` is none. */
type Label = 'lock_mmap' | 'done' | 'bad_area' | 'no_context' | 'return';

/** After a RETRY: does a signal come first? */
function* signalFirst(here: ThisCpu, { fault, regs }: PageFault): Path<boolean> {
  const pending = fault_signal_pending(here, fault, regs);
  return yield* here.trace.decide(FN, 'fault_signal_pending(fault, regs)', pending);
}

function* afterSignal(here: ThisCpu, { regs }: PageFault): Path<Label> {
  return (yield* here.trace.decide(FN, '!user_mode(regs)', !regs.user_mode)) ? 'no_context' : 'return';
}

/** Do the rights of the mapping, its protection key included, forbid the access? */
function* refusedBy(here: ThisCpu, state: PageFault, vma: vm_area_struct): Path<boolean> {
  const refused = (vma.vm_flags & state.vm_flags) === 0;
  if (yield* here.trace.decide(FN, '!(vma->vm_flags & vm_flags)', refused)) {
    state.fault = 0;
    state.si_code = SEGV_ACCERR;
    return true;
  }
  // system_supports_poe() is false: there are no keys.
  return yield* here.trace.decide(FN, 'fault_from_pkey(vma, mm_flags)', false);
}

/** The way without the mmap lock, for user mode only. */
function* underVmaLock(here: ThisCpu, state: PageFault): Path<Label> {
  const { trace, kernel } = here;
  const { mm, addr, regs } = state;
  const vma = yield* kernel.lock_vma_under_rcu(here, mm, addr);
  yield* trace.decide(FN, '!vma', vma === null);
  if (vma === null) return 'lock_mmap';

  // system_supports_gcs() is false.
  yield* trace.decide(FN, 'is_invalid_gcs_access(vma, esr)', false);
  if (yield* refusedBy(here, state, vma)) {
    kernel.vma_end_read(here, vma);
    return 'bad_area';
  }
  state.fault = yield* kernel.handle_mm_fault(here, vma, addr, state.mm_flags | FAULT_FLAG_VMA_LOCK, regs);
  const held = (state.fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) === 0;
  if (yield* trace.decide(FN, '!(fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED))', held)) {
    kernel.vma_end_read(here, vma);
  }
  const final = (state.fault & VM_FAULT_RETRY) === 0;
  if (yield* trace.decide(FN, '!(fault & VM_FAULT_RETRY)', final)) return 'done';
  const major = (state.fault & VM_FAULT_MAJOR) !== 0;
  if (yield* trace.decide(FN, 'fault & VM_FAULT_MAJOR', major)) state.mm_flags |= FAULT_FLAG_TRIED;
  return (yield* signalFirst(here, state)) ? yield* afterSignal(here, state) : 'lock_mmap';
}

/** The way with the mmap lock, again and again until the answer is not RETRY. */
function* underMmapLock(here: ThisCpu, state: PageFault): Path<Label> {
  const { trace, kernel } = here;
  const { mm, addr, regs } = state;
  const turns = new Turns(trace.patience);
  for (;;) {
    const vma = yield* kernel.lock_mm_and_find_vma(here, mm, addr, regs);
    yield* trace.decide(FN, '!vma', vma === null);
    if (vma === null) {
      state.fault = 0;
      state.si_code = SEGV_MAPERR;
      return 'bad_area';
    }
    if (yield* refusedBy(here, state, vma)) {
      kernel.mmap_read_unlock(here, mm);
      return 'bad_area';
    }
    state.fault = yield* kernel.handle_mm_fault(here, vma, addr, state.mm_flags, regs);
    if (yield* signalFirst(here, state)) return yield* afterSignal(here, state);
    const completed = (state.fault & VM_FAULT_COMPLETED) !== 0;
    if (yield* trace.decide(FN, 'fault & VM_FAULT_COMPLETED', completed)) return 'return';
    const retry = (state.fault & VM_FAULT_RETRY) !== 0;
    if (!(yield* trace.decide(FN, 'fault & VM_FAULT_RETRY', retry))) break;
    state.mm_flags |= FAULT_FLAG_TRIED;
    turns.again(addr);
  }
  kernel.mmap_read_unlock(here, mm);
  return 'done';
}

/** What user code gets for an access that cannot be. */
function* userBadArea(here: ThisCpu, state: PageFault, far: bigint): Path<void> {
  const { trace } = here;
  const { addr, esr, fault } = state;
  const oom = (fault & VM_FAULT_OOM) !== 0;
  if (yield* trace.decide(FN, 'fault & VM_FAULT_OOM', oom)) {
    here.kernel.pagefault_out_of_memory(here);
    return;
  }
  const inf = esr_to_fault_info(esr);
  yield* set_thread_esr(here, addr, esr);
  const sigbus = (fault & VM_FAULT_SIGBUS) !== 0;
  if (yield* trace.decide(FN, 'fault & VM_FAULT_SIGBUS', sigbus)) {
    yield* arm64_force_sig_fault(here, SIGBUS, BUS_ADRERR, far, inf.name);
    return;
  }
  const poison = (fault & (VM_FAULT_HWPOISON | VM_FAULT_HWPOISON_LARGE)) !== 0;
  if (yield* trace.decide(FN, 'fault & (VM_FAULT_HWPOISON_LARGE | VM_FAULT_HWPOISON)', poison)) {
    // Huge pages of user space are not modelled: the page that is lost is always a small one.
    yield* arm64_force_sig_mceerr(here, BUS_MCEERR_AR, far, PAGE_SHIFT, inf.name);
    return;
  }
  yield* arm64_force_sig_fault(here, SIGSEGV, state.si_code, far, inf.name);
}

const do_page_fault: FaultFunction = port(
  FN,
  ['far', 'esr', 'regs'],
  function* (here: ThisCpu, far: bigint, esr: bigint, regs: Arm64PtRegs): Path<number> {
    const { trace } = here;
    const { mm } = here.current;
    const addr = untagged_addr(far);
    let mm_flags = FAULT_FLAG_DEFAULT;

    // kprobe_fault_handler() of arm64 always says no; it only moves pc.
    if (yield* trace.decide(FN, 'kprobe_page_fault(regs, esr)', false)) return 0;
    const atomic = faulthandler_disabled(here) || mm === null;
    if ((yield* trace.decide(FN, 'faulthandler_disabled() || !mm', atomic)) || mm === null) {
      yield* __do_kernel_fault(here, addr, esr, regs);
      return 0;
    }
    const user = yield* trace.decide(FN, 'user_mode(regs)', regs.user_mode);
    if (user) mm_flags |= FAULT_FLAG_USER;

    let vm_flags: number;
    if (yield* trace.decide(FN, 'is_el0_instruction_abort(esr)', is_el0_instruction_abort(esr))) {
      vm_flags = VM_EXEC;
      mm_flags |= FAULT_FLAG_INSTRUCTION;
    } else if (yield* trace.decide(FN, 'is_gcs_fault(esr)', is_gcs_fault(esr))) {
      // The guarded control stack is only read by what may write it.
      vm_flags = VM_WRITE;
      mm_flags |= FAULT_FLAG_WRITE;
    } else if (yield* trace.decide(FN, 'is_write_abort(esr)', is_write_abort(esr))) {
      vm_flags = VM_WRITE;
      mm_flags |= FAULT_FLAG_WRITE;
    } else {
      vm_flags = VM_READ | VM_WRITE;
      // FEAT_PAN3: memory that may only be executed can be kept from being read.
      const epan = here.kernel.config.PAN;
      const noEpan = yield* trace.decide(FN, '!alternative_has_cap_unlikely(ARM64_HAS_EPAN)', !epan);
      if (noEpan) vm_flags |= VM_EXEC;
    }

    const permission = is_ttbr0_addr(addr) && is_el1_permission_fault(here, addr, esr, regs);
    const uaccess = 'is_ttbr0_addr(addr) && is_el1_permission_fault(addr, esr, regs)';
    if (yield* trace.decide(FN, uaccess, permission)) {
      const fetch = is_el1_instruction_abort(esr);
      if (yield* trace.decide(FN, 'is_el1_instruction_abort(esr)', fetch)) {
        yield* die_kernel_fault(here, 'execution of user memory', addr, esr, regs);
      }
      const allowed = insn_may_access_user(here, regs.pc, esr);
      if (yield* trace.decide(FN, '!insn_may_access_user(regs->pc, esr)', !allowed)) {
        yield* die_kernel_fault(here, 'access to user memory outside uaccess routines', addr, esr, regs);
      }
    }
    yield* trace.decide(FN, 'is_pkvm_stage2_abort(esr)', is_pkvm_stage2_abort);

    const state: PageFault = {
      mm,
      addr,
      esr,
      regs,
      vm_flags,
      mm_flags,
      fault: 0,
      si_code: SEGV_MAPERR,
    };
    let label: Label = 'lock_mmap';
    if (!(yield* trace.decide(FN, '!(mm_flags & FAULT_FLAG_USER)', !user))) {
      label = yield* underVmaLock(here, state);
    }
    if (label === 'lock_mmap') label = yield* underMmapLock(here, state);
    if (label === 'done') {
      const fine = (state.fault & VM_FAULT_ERROR) === 0;
      if (yield* trace.decide(FN, '!(fault & VM_FAULT_ERROR)', fine)) return 0;
      state.si_code = SEGV_MAPERR;
      label = 'bad_area';
    }
    if (label === 'bad_area') {
      if (yield* trace.decide(FN, '!user_mode(regs)', !user)) label = 'no_context';
      else yield* userBadArea(here, state, far);
    }
    if (label === 'no_context') yield* __do_kernel_fault(here, addr, esr, regs);
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
    // There is no firmware that claims errors.
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
