/**
 * What a task learns of its fault: thread.fault_address and thread.fault_code, which its signal frame shows.
 *
 * Ported from set_thread_esr() of arch/arm64/mm/fault.c, bpf-next merge 8496d9020ff3.
 */
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  classOf,
  ESR_ELx_CM,
  ESR_ELx_EC,
  ESR_ELx_EC_DABT_LOW,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_EC_MASK,
  ESR_ELx_FSC_FAULT,
  ESR_ELx_IL,
  ESR_ELx_WNR,
} from './esr.js';
import { is_ttbr0_addr } from './memory.js';
import { mmuOf } from './mmu.js';

const LEVEL_0_TRANSLATION = BigInt(ESR_ELx_FSC_FAULT);

/** Of kernel addresses user code learns nothing: every fault there looks like a level 0 translation fault. */
export const set_thread_esr = port(
  'set_thread_esr',
  ['address', 'esr'],
  function* (here: ThisCpu, address: bigint, esr: bigint): Path<void> {
    const { syndrome } = mmuOf(here);
    const fn = 'set_thread_esr';
    syndrome.fault_address = address;
    let code = esr;
    const kernel = !is_ttbr0_addr(address);
    if (yield* here.trace.decide(fn, '!is_ttbr0_addr(current->thread.fault_address)', kernel)) {
      yield* here.trace.decide(fn, 'ESR_ELx_EC(esr)', classOf(esr));
      switch (ESR_ELx_EC(esr)) {
        case ESR_ELx_EC_DABT_LOW:
          code = (esr & (ESR_ELx_EC_MASK | ESR_ELx_IL | ESR_ELx_CM | ESR_ELx_WNR)) | LEVEL_0_TRANSLATION;
          break;
        case ESR_ELx_EC_IABT_LOW:
          code = (esr & (ESR_ELx_EC_MASK | ESR_ELx_IL)) | LEVEL_0_TRANSLATION;
          break;
        default: {
          // Line and offset are chosen: the vectors bring nothing else here, and no report of it was found.
          const text = `ESR 0x${esr.toString(16)} is not DABT or IABT from EL0`;
          here.kernel.warn(here, 'arch/arm64/mm/fault.c:516', 'set_thread_esr+0xa8/0xb8', text);
          code = 0n;
        }
      }
    }
    syndrome.fault_code = code;
  },
);
