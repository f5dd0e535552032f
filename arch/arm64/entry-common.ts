/**
 * From the exception vectors to the fault handler.
 *
 * Ported from arch/arm64/kernel/entry-common.c, bpf-next merge 8496d9020ff3. Left out: bookkeeping of
 * entering and leaving (context tracking, lockdep, DAIF, which are not observable here), branch predictor
 * hardening, and every exception class that is neither an abort nor a misaligned pc or sp.
 */
import { type Delegate, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  classOf,
  ESR_ELx_EC,
  ESR_ELx_EC_DABT_CUR,
  ESR_ELx_EC_DABT_LOW,
  ESR_ELx_EC_IABT_CUR,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_EC_PC_ALIGN,
} from './esr.js';
import { do_mem_abort, do_sp_pc_abort } from './fault.js';
import { mmuOf } from './mmu.js';
import type { Arm64PtRegs } from './regs.js';

type Handler = (here: ThisCpu, regs: Arm64PtRegs, esr: bigint) => Delegate<void>;

const el1_abort: Handler = port('el1_abort', ['regs', 'esr'], function* (here, regs, esr) {
  yield* do_mem_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
});

const el1_pc: Handler = port('el1_pc', ['regs', 'esr'], function* (here, regs, esr) {
  yield* do_sp_pc_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
});

const el0_da: Handler = port('el0_da', ['regs', 'esr'], function* (here, regs, esr) {
  yield* do_mem_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
});

const el0_ia: Handler = port('el0_ia', ['regs', 'esr'], function* (here, regs, esr) {
  yield* do_mem_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
});

const el0_pc: Handler = port('el0_pc', ['regs', 'esr'], function* (here, regs, esr) {
  yield* do_sp_pc_abort(here, mmuOf(here).syndrome.far_el1, esr, regs);
});

export const el1h_64_sync_handler = port(
  'el1h_64_sync_handler',
  ['regs'],
  function* (here: ThisCpu, regs: Arm64PtRegs) {
    const esr = mmuOf(here).syndrome.esr_el1;
    const ec = ESR_ELx_EC(esr);
    // The bigint, for people read it in hexadecimal.
    yield* here.trace.decide('el1h_64_sync_handler', 'ESR_ELx_EC(esr)', classOf(esr));
    switch (ec) {
      case ESR_ELx_EC_DABT_CUR:
      case ESR_ELx_EC_IABT_CUR:
        yield* el1_abort(here, regs, esr);
        break;
      case ESR_ELx_EC_PC_ALIGN:
        yield* el1_pc(here, regs, esr);
        break;
      default:
        throw new Error(`exception class ${ec} from EL1 is not modelled`);
    }
  },
);

export const el0t_64_sync_handler = port(
  'el0t_64_sync_handler',
  ['regs'],
  function* (here: ThisCpu, regs: Arm64PtRegs) {
    const esr = mmuOf(here).syndrome.esr_el1;
    const ec = ESR_ELx_EC(esr);
    // The bigint, for people read it in hexadecimal.
    yield* here.trace.decide('el0t_64_sync_handler', 'ESR_ELx_EC(esr)', classOf(esr));
    switch (ec) {
      case ESR_ELx_EC_DABT_LOW:
        yield* el0_da(here, regs, esr);
        break;
      case ESR_ELx_EC_IABT_LOW:
        yield* el0_ia(here, regs, esr);
        break;
      case ESR_ELx_EC_PC_ALIGN:
        yield* el0_pc(here, regs, esr);
        break;
      default:
        throw new Error(`exception class ${ec} from EL0 is not modelled`);
    }
  },
);
