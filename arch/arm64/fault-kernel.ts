/**
 * Faults of the kernel itself: what may still save it, and in which words it dies.
 *
 * Ported from arch/arm64/mm/fault.c (is_el1_permission_fault, is_spurious_el1_translation_fault,
 * do_tag_recovery, __do_kernel_fault), bpf-next merge 8496d9020ff3. Left out: KASAN's tag report
 * (CONFIG_KASAN_HW_TAGS). pKVM and the EFI runtime services do not exist here: their tests are made, and
 * say no.
 */
import { hex16 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { PAGE_SIZE } from '../kernel.js';
import {
  esr_fsc_is_permission_fault,
  esr_fsc_is_tag_check_fault,
  esr_fsc_is_translation_fault,
  fscIsTranslationFault,
  is_el1_data_abort,
  is_el1_instruction_abort,
  wnr,
} from './esr.js';
import { fixup_exception } from './extable.js';
import { die_kernel_fault } from './fault-report.js';
import { kfenceHandlers, SPURIOUS_WARNING_AT, spuriousWarningHandlers } from './handler-frames.js';
import { is_ttbr0_addr, system_uses_ttbr0_pan } from './memory.js';
import { mmuOf } from './mmu.js';
import { type Arm64PtRegs, NO_HANDLERS, PSR_PAN_BIT } from './regs.js';
import { NO_FAULT } from './walk.js';

const PAGE_SIZE_ADDRESS = BigInt(PAGE_SIZE);
/** SCTLR_EL1.TCF: what a tag check fault of EL1 does; 0 is nothing. */
const SCTLR_EL1_TCF_MASK = 3n << 40n;

/** is_pkvm_initialized() is false on this machine, and S1PTW means nothing without it. */
export const is_pkvm_stage2_abort = false;

/** A permission fault of EL1, or what software PAN makes of one: no tables at all for user addresses. */
export function is_el1_permission_fault(
  here: ThisCpu,
  addr: bigint,
  esr: bigint,
  regs: Arm64PtRegs,
): boolean {
  if (!is_el1_data_abort(esr) && !is_el1_instruction_abort(esr)) return false;
  if (esr_fsc_is_permission_fault(esr)) return true;
  if (is_ttbr0_addr(addr) && system_uses_ttbr0_pan(here.kernel.config)) {
    return esr_fsc_is_translation_fault(esr) && (regs.pstate & PSR_PAN_BIT) !== 0n;
  }
  return false;
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
    if (yield* trace.decide(fn, '!(par & SYS_PAR_EL1_F)', dfsc === NO_FAULT)) {
      yield* trace.decide(fn, 'is_pkvm_stage2_abort(esr)', is_pkvm_stage2_abort);
      return true;
    }
    return yield* trace.decide(fn, '!esr_fsc_is_translation_fault(dfsc)', !fscIsTranslationFault(dfsc));
  },
);

/** Tag checks end with the first fault: SCTLR_EL1.TCF becomes 0, and the instruction is tried again. */
const do_tag_recovery = port(
  'do_tag_recovery',
  ['addr', 'esr', 'regs'],
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* ({ cpu, mmu }: ThisCpu, _addr: bigint, _esr: bigint, _regs: Arm64PtRegs): Path<void> {
    cpu.write('sctlr_el1', cpu.read('sctlr_el1') & ~SCTLR_EL1_TCF_MASK);
    mmu.refresh();
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
      const warns = !is_pkvm_stage2_abort;
      if (yield* trace.decide(fn, 'WARN_RATELIMIT(!is_pkvm_stage2_abort(esr))', warns)) {
        const site = 'arch/arm64/mm/fault.c:417';
        const text = `Ignoring spurious kernel translation fault at virtual address ${hex16(addr)}`;
        if (kernel.___ratelimit(here, site, fn)) {
          regs.handlers = spuriousWarningHandlers;
          kernel.warn(here, site, SPURIOUS_WARNING_AT, text);
          regs.handlers = NO_HANDLERS;
        }
      }
      return;
    }

    const tagCheck = is_el1_mte_sync_tag_check_fault(esr);
    if (yield* trace.decide(fn, 'is_el1_mte_sync_tag_check_fault(esr)', tagCheck)) {
      yield* do_tag_recovery(here, addr, esr, regs);
      return;
    }

    let msg: string;
    const permission = is_el1_permission_fault(here, addr, esr, regs);
    if (yield* trace.decide(fn, 'is_el1_permission_fault(addr, esr, regs)', permission)) {
      if (yield* trace.decide(fn, 'esr & ESR_ELx_WNR', wnr(esr))) msg = 'write to read-only memory';
      else if (yield* trace.decide(fn, 'is_el1_instruction_abort(esr)', fetch)) {
        msg = 'execute from non-executable memory';
      } else msg = 'read from unreadable memory';
    } else if (yield* trace.decide(fn, 'addr < PAGE_SIZE', addr < PAGE_SIZE_ADDRESS)) {
      msg = 'NULL pointer dereference';
    } else if (yield* trace.decide(fn, 'is_pkvm_stage2_abort(esr)', is_pkvm_stage2_abort)) {
      msg = 'access to hypervisor-protected memory';
    } else {
      const translation = esr_fsc_is_translation_fault(esr);
      if (yield* trace.decide(fn, 'esr_fsc_is_translation_fault(esr)', translation)) {
        const write = wnr(esr);
        if (kernel.config.KFENCE) {
          regs.handlers = kfenceHandlers(kernel.config);
          if (yield* kernel.kfence_handle_page_fault(here, addr, write, regs)) return;
          regs.handlers = NO_HANDLERS;
        }
        if (kernel.arena_takes_ret_ip === true) {
          if (yield* kernel.bpf_arena_handle_page_fault(here, addr, write, regs.pc, regs.x(30))) return;
        } else if (yield* kernel.bpf_arena_handle_page_fault(here, addr, write, regs.pc)) return;
      }
      msg = 'paging request';
    }

    if (yield* trace.decide(fn, 'efi_runtime_fixup_exception(regs, msg)', false)) return;
    yield* die_kernel_fault(here, msg, addr, esr, regs);
  },
);
