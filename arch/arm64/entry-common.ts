/**
 * From the exception vectors to the handlers.
 *
 * Ported from arch/arm64/kernel/entry-common.c, bpf-next merge 8496d9020ff3. Left out: bookkeeping of
 * entering and leaving (context tracking, lockdep, DAIF, which are not observable here), branch predictor
 * hardening, and the work of debug exceptions, emulated instructions, floating point and guarded control
 * stacks: these classes end the run.
 */
import { hex16 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { KERN_CRIT, TaskDead } from '../kernel.js';
import { esr_get_class_string } from './class-string.js';
import {
  classOf,
  ESR_ELx_EC,
  ESR_ELx_EC_DABT_CUR,
  ESR_ELx_EC_DABT_LOW,
  ESR_ELx_EC_IABT_CUR,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_EC_PC_ALIGN,
  ESR_ELx_EC_SP_ALIGN,
  ESR_ELx_EC_UNKNOWN,
} from './esr.js';
import { do_mem_abort, do_sp_pc_abort } from './fault.js';
import { mmuOf } from './mmu.js';
import { __show_regs } from './process.js';
import type { Arm64PtRegs } from './regs.js';
import { bad_el0_sync, die, force_signal_inject, ILL_ILLOPC, ILL_ILLOPN } from './traps.js';

/** Classes that go elsewhere than to the fault path, arch/arm64/include/asm/esr.h. */
const ESR_ELx_EC_WFx = 0x01;
const ESR_ELx_EC_FP_ASIMD = 0x07;
const ESR_ELx_EC_BTI = 0x0d;
const ESR_ELx_EC_SVC64 = 0x15;
const ESR_ELx_EC_SYS64 = 0x18;
const ESR_ELx_EC_SVE = 0x19;
const ESR_ELx_EC_FPAC = 0x1c;
const ESR_ELx_EC_SME = 0x1d;
const ESR_ELx_EC_MOPS = 0x27;
const ESR_ELx_EC_FP_EXC64 = 0x2c;
const ESR_ELx_EC_GCS = 0x2d;
const ESR_ELx_EC_BREAKPT_LOW = 0x30;
const ESR_ELx_EC_BREAKPT_CUR = 0x31;
const ESR_ELx_EC_SOFTSTP_LOW = 0x32;
const ESR_ELx_EC_SOFTSTP_CUR = 0x33;
const ESR_ELx_EC_WATCHPT_LOW = 0x34;
const ESR_ELx_EC_WATCHPT_CUR = 0x35;
const ESR_ELx_EC_BRK64 = 0x3c;
/** Why bad_el0_sync() is called. */
const BAD_SYNC = 0;

type Handler = (here: ThisCpu, regs: Arm64PtRegs, esr: bigint) => Delegate<void>;

/** A handler that brings FAR_EL1 to do_mem_abort(). */
const abort = (fn: string): Handler =>
  port(fn, ['regs', 'esr'], function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint): Path<void> {
    yield* do_mem_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
  });

/** The same for a misaligned pc. */
const misalignedPc = (fn: string): Handler =>
  port(fn, ['regs', 'esr'], function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint): Path<void> {
    yield* do_sp_pc_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
  });

/** A handler that does nothing but die(). */
const deadly = (fn: string, str: string): Handler =>
  port(fn, ['regs', 'esr'], function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint): Path<void> {
    yield* die(here, str, regs, esr);
  });

/** A handler that does nothing but SIGILL. */
const illegal = (fn: string, code: number, tells: boolean): Handler =>
  port(fn, ['regs', 'esr'], function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint): Path<void> {
    yield* force_signal_inject(here, regs, code, tells ? esr : 0n);
  });

const el1_abort = abort('el1_abort');
const el1_pc = misalignedPc('el1_pc');
const el1_undef = deadly('el1_undef', 'Oops - Undefined instruction');
const el1_bti = deadly('el1_bti', 'Oops - BTI');
const el1_gcs = deadly('el1_gcs', 'Oops - GCS');
const el1_fpac = deadly('el1_fpac', 'Oops - FPAC');

const el0_da = abort('el0_da');
const el0_ia = abort('el0_ia');
const el0_pc = misalignedPc('el0_pc');
const el0_sp: Handler = port('el0_sp', ['regs', 'esr'], function* (here, regs, esr) {
  yield* do_sp_pc_abort(here, regs.sp, esr, regs);
});
const el0_undef = illegal('el0_undef', ILL_ILLOPC, false);
const el0_bti = illegal('el0_bti', ILL_ILLOPC, false);
const el0_fpac = illegal('el0_fpac', ILL_ILLOPN, true);
const el0_inv: Handler = port('el0_inv', ['regs', 'esr'], function* (here, regs, esr) {
  yield* bad_el0_sync(here, regs, BAD_SYNC, esr);
});

/** Exceptions that the kernel handles and the laboratory does not. */
function notModelled(regs: Arm64PtRegs, esr: bigint): never {
  const why = `${esr_get_class_string(esr)} (ESR 0x${hex16(esr)}): this class of exception is not modelled`;
  throw new TaskDead({ kind: 'stopped', why, pc: regs.pc });
}

/** Chosen, but for the last one and the sizes: no report of it was found. */
const UNHANDLED_FRAMES: readonly string[] = [
  '__panic_unhandled+0x60/0x60',
  'el1h_64_sync_handler+0x94/0x108',
  'el1h_64_sync+0x6c/0x70',
];

const __panic_unhandled = port(
  '__panic_unhandled',
  ['regs', 'vector', 'esr'],
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* (here: ThisCpu, regs: Arm64PtRegs, vector: string, esr: bigint): Path<never> {
    const what = `${vector} exception on CPU${here.cpu.id}, ESR 0x${hex16(esr)}`;
    here.kernel.printk(here, KERN_CRIT, `Unhandled ${what} -- ${esr_get_class_string(esr)}`);
    __show_regs(here, regs);
    regs.handlers = UNHANDLED_FRAMES;
    return here.kernel.panic(here, 'Unhandled exception');
  },
);

export const el1h_64_sync_handler = port(
  'el1h_64_sync_handler',
  ['regs'],
  function* (here: ThisCpu, regs: Arm64PtRegs) {
    const esr = mmuOf(here).syndrome.esr_el1;
    // The bigint, for people read it in hexadecimal.
    yield* here.trace.decide('el1h_64_sync_handler', 'ESR_ELx_EC(esr)', classOf(esr));
    switch (ESR_ELx_EC(esr)) {
      case ESR_ELx_EC_DABT_CUR:
      case ESR_ELx_EC_IABT_CUR:
        yield* el1_abort(here, regs, esr);
        break;
      case ESR_ELx_EC_PC_ALIGN:
        yield* el1_pc(here, regs, esr);
        break;
      case ESR_ELx_EC_SYS64:
      case ESR_ELx_EC_UNKNOWN:
        yield* el1_undef(here, regs, esr);
        break;
      case ESR_ELx_EC_BTI:
        yield* el1_bti(here, regs, esr);
        break;
      case ESR_ELx_EC_GCS:
        yield* el1_gcs(here, regs, esr);
        break;
      case ESR_ELx_EC_FPAC:
        yield* el1_fpac(here, regs, esr);
        break;
      case ESR_ELx_EC_MOPS:
      case ESR_ELx_EC_BREAKPT_CUR:
      case ESR_ELx_EC_SOFTSTP_CUR:
      case ESR_ELx_EC_WATCHPT_CUR:
      case ESR_ELx_EC_BRK64:
        return notModelled(regs, esr);
      default:
        yield* __panic_unhandled(here, regs, '64-bit el1h sync', esr);
    }
  },
);

export const el0t_64_sync_handler = port(
  'el0t_64_sync_handler',
  ['regs'],
  function* (here: ThisCpu, regs: Arm64PtRegs) {
    const esr = mmuOf(here).syndrome.esr_el1;
    yield* here.trace.decide('el0t_64_sync_handler', 'ESR_ELx_EC(esr)', classOf(esr));
    switch (ESR_ELx_EC(esr)) {
      case ESR_ELx_EC_DABT_LOW:
        yield* el0_da(here, regs, esr);
        break;
      case ESR_ELx_EC_IABT_LOW:
        yield* el0_ia(here, regs, esr);
        break;
      case ESR_ELx_EC_PC_ALIGN:
        yield* el0_pc(here, regs, esr);
        break;
      case ESR_ELx_EC_SP_ALIGN:
        yield* el0_sp(here, regs, esr);
        break;
      case ESR_ELx_EC_UNKNOWN:
        yield* el0_undef(here, regs, esr);
        break;
      case ESR_ELx_EC_BTI:
        yield* el0_bti(here, regs, esr);
        break;
      case ESR_ELx_EC_FPAC:
        yield* el0_fpac(here, regs, esr);
        break;
      case ESR_ELx_EC_SVC64:
      case ESR_ELx_EC_WFx:
      case ESR_ELx_EC_SYS64:
      case ESR_ELx_EC_FP_ASIMD:
      case ESR_ELx_EC_FP_EXC64:
      case ESR_ELx_EC_SVE:
      case ESR_ELx_EC_SME:
      case ESR_ELx_EC_MOPS:
      case ESR_ELx_EC_GCS:
      case ESR_ELx_EC_BREAKPT_LOW:
      case ESR_ELx_EC_SOFTSTP_LOW:
      case ESR_ELx_EC_WATCHPT_LOW:
      case ESR_ELx_EC_BRK64:
        return notModelled(regs, esr);
      default:
        yield* el0_inv(here, regs, esr);
    }
    yield* here.kernel.exit_to_user_mode_loop(here, regs);
  },
);
