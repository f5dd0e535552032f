/**
 * From a stop of the engine to the exception that hardware would take, and back.
 *
 * Arm ARM (DDI 0487), D1.3 "Exceptions", D24.2.40 "ESR_EL1"; the frame as kernel_entry of
 * arch/arm64/kernel/entry.S builds it (bpf-next merge 8496d9020ff3).
 */
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  accessType,
  type CpuStop,
  EXCEPTION_BUS,
  EXCEPTION_PC_ALIGNMENT,
} from '../../emu/cpu.js';
import type { Path } from '../../emu/path.js';
import type { Resumption, ThisCpu } from '../arch.js';
import { esr_get_class_string } from './class-string.js';
import { el0t_64_sync_handler, el1h_64_sync_handler } from './entry-common.js';
import {
  abortEsr,
  ESR_ELx_EC,
  ESR_ELx_EC_DABT_CUR,
  ESR_ELx_EC_DABT_LOW,
  ESR_ELx_EC_IABT_CUR,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_EC_PC_ALIGN,
  ESR_ELx_EC_SP_ALIGN,
  ESR_ELx_EC_UNKNOWN,
  FSC_ALIGNMENT,
  plainEsr,
  wnr,
} from './esr.js';
import { type Arm64InstructionFacts, classify } from './instruction.js';
import { system_uses_ttbr0_pan } from './memory.js';
import { type Arm64Mmu, mmuOf, PSTATE_PAN, PSTATE_UAO } from './mmu.js';
import { type Arm64PtRegs, PT_REGS_SIZE } from './regs.js';
import { panic_bad_stack } from './traps.js';
import { swpanEntry, swpanExit } from './uaccess-ttbr0.js';
import { NO_FAULT } from './walk.js';

/** Exception numbers of the engine that are no EXCEPTION_* constant (qemu/target/arm/cpu.h). */
const EXCP_SWI = 2;
const EXCP_DATA_ABORT = 4;
const EXCP_BKPT = 7;
const EXCP_SMC = 13;

/**
 * The engine does not check sp (SCTLR_EL1.SA), so that kernel code gets as far as an exception with it. The entry
 * code of the kernel could not save a register then.
 */
const MISALIGNED_SP =
  'sp is not a multiple of 16: hardware raises SP alignment faults, which the engine cannot';

/** A synchronous exception in the making. */
interface Syndrome {
  /** `Data Abort`, `Instruction Abort`, `PC Alignment`, `SP Alignment`, or the kernel's name of the class. */
  readonly exception: string;
  readonly far: bigint;
  readonly esr: bigint;
  readonly access: AccessCode;
  /** Last table entry that the walk read, 0 if it read none. */
  readonly entry: bigint;
}

/** See Arch.handleStop. */
export function* handleStop(here: ThisCpu, stop: CpuStop): Path<Resumption> {
  const mmu = mmuOf(here);
  const outer = here.regs;
  const regs = mmu.enterException();
  mmu.user = regs.user_mode;
  try {
    // EL0 must not wait for interrupts (SCTLR_EL1.nTWI = 0), which is what the engine does at the sentinel.
    if (regs.pc === here.cpu.sentinel) return { how: 'end', outcome: { kind: 'returned' } };
    // Guest code may have written TTBR0_EL1 itself.
    const swPan = system_uses_ttbr0_pan(here.kernel.config);
    if (swPan) mmu.refresh();
    const syndrome = syndromeOf(here, mmu, regs, stop);
    if ('how' in syndrome) return syndrome;

    const { pc } = regs;
    const { far, esr } = syndrome;
    raise(here, mmu, pc, syndrome);
    here.regs = regs;
    const ttbr0 = swPan ? swpanEntry(here, regs) : 0n;
    if (!regs.user_mode && (regs.spSigned & 15) !== 0) return stopped(MISALIGNED_SP, pc);
    if (!pushFrame(here, mmu, regs)) yield* panic_bad_stack(here, regs, esr, far);
    else if (regs.user_mode) yield* el0t_64_sync_handler(here, regs);
    else yield* el1h_64_sync_handler(here, regs);
    if (regs.dirty !== 0) writeBack(here, regs);
    if (swPan) swpanExit(here, ttbr0);
    return { how: regs.pc === pc ? 'retry' : 'fixup', pc: regs.pc, address: far, entry: syndrome.entry };
  } finally {
    here.regs = outer;
    mmu.leaveException();
  }
}

/** The exception that a stop is, or how the guest goes on without one. */
function syndromeOf(here: ThisCpu, mmu: Arm64Mmu, regs: Arm64PtRegs, stop: CpuStop): Syndrome | Resumption {
  switch (stop.kind) {
    case 'miss':
      return memoryAbort(here, mmu, regs, stop.va, stop.access) ?? goOn(regs, stop.va);
    case 'cache-op': {
      const syndrome = cacheMaintenanceAbort(here, mmu, regs, stop.va, stop.write);
      if (syndrome !== null) return syndrome;
      // The instruction has no effect that could be seen here: it is done.
      return { how: 'fixup', pc: BigInt.asUintN(64, regs.pc + 4n), address: stop.va, entry: 0n };
    }
    case 'exception':
      return engineException(mmu, regs, stop.number);
    case 'invalid-instruction':
      return undefinedInstruction(mmu, regs);
    case 'halt':
      return stopped('wfi', regs.pc - 4n);
    case 'raised':
      return raisedException(stop.syndrome, stop.address);
    case 'exit':
    case 'count':
      throw new Error(`a stop of kind ${stop.kind} is no exception`);
  }
}

/** An exception as the host asks for it: nothing was walked. */
function raisedException(esr: bigint, far: bigint): Syndrome {
  const syndrome = (exception: string, access: AccessCode): Syndrome => ({
    exception,
    far,
    esr,
    access,
    entry: 0n,
  });
  switch (ESR_ELx_EC(esr)) {
    case ESR_ELx_EC_DABT_LOW:
    case ESR_ELx_EC_DABT_CUR:
      return syndrome('Data Abort', wnr(esr) ? ACCESS_WRITE : ACCESS_READ);
    case ESR_ELx_EC_IABT_LOW:
    case ESR_ELx_EC_IABT_CUR:
      return syndrome('Instruction Abort', ACCESS_FETCH);
    case ESR_ELx_EC_PC_ALIGN:
      return syndrome('PC Alignment', ACCESS_FETCH);
    case ESR_ELx_EC_SP_ALIGN:
      return syndrome('SP Alignment', ACCESS_READ);
    default:
      return syndrome(esr_get_class_string(esr), ACCESS_FETCH);
  }
}

/**
 * An instruction that this CPU does not have, or not at this level. FAR_EL1 is UNKNOWN then; chosen is pc.
 * What the kernel would emulate ends the run, because that is not modelled.
 */
function undefinedInstruction(mmu: Arm64Mmu, regs: Arm64PtRegs): Syndrome | Resumption {
  const { pc } = regs;
  const word = mmu.instructionAt(regs.pcSigned) ?? 0;
  // MRS of an identification register: op0 = 3, op1 = 0, CRn = 0.
  if (regs.user_mode && word >>> 12 === 0xd5380) return stopped('mrs of an identification register', pc);
  // MSR SSBS, #imm
  if (!regs.user_mode && (word & ~0x100) >>> 0 === 0xd503_403f) return stopped('msr ssbs', pc);
  const esr = plainEsr(ESR_ELx_EC_UNKNOWN);
  return { exception: esr_get_class_string(esr), far: pc, esr, access: ACCESS_FETCH, entry: 0n };
}

function stopped(why: string, pc: bigint): Resumption {
  return { how: 'end', outcome: { kind: 'stopped', why, pc: BigInt.asUintN(64, pc) } };
}

/** The engine was refused a translation that now exists. Trying again is all there is to do. */
function goOn(regs: Arm64PtRegs, address: bigint): Resumption {
  return { how: 'retry', pc: regs.pc, address, entry: 0n };
}

function engineException(mmu: Arm64Mmu, regs: Arm64PtRegs, number: number): Syndrome | Resumption {
  switch (number) {
    case EXCEPTION_PC_ALIGNMENT:
      return {
        exception: 'PC Alignment',
        far: regs.pc,
        esr: plainEsr(ESR_ELx_EC_PC_ALIGN),
        access: ACCESS_FETCH,
        entry: 0n,
      };
    case EXCP_DATA_ABORT: {
      const word = mmu.instructionAt(regs.pcSigned);
      const syndrome = word === null ? null : alignmentAbort(regs, word, classify(word));
      return syndrome ?? stopped('data abort of the engine', regs.pc);
    }
    case EXCP_SWI:
      return stopped('svc', regs.pc - 4n);
    case EXCP_SMC:
      return stopped('smc', regs.pc - 4n);
    case EXCP_BKPT:
      return stopped('brk', regs.pc);
    case EXCEPTION_BUS:
      return stopped('a physical address outside the ram', regs.pc);
    default:
      return stopped(`exception ${number} of the engine`, regs.pc);
  }
}

/**
 * Exclusives, atomics, acquires and releases must be aligned to their size whatever the memory type (no
 * FEAT_LSE2), and that is looked at before the address is translated. Null when `word` is aligned.
 */
function alignmentAbort(regs: Arm64PtRegs, word: number, facts: Arm64InstructionFacts): Syndrome | null {
  if (facts.alignment === 1) return null;
  const rn = (word >>> 5) & 31;
  const base = rn === 31 ? regs.sp : regs.x(rn);
  // Of these, only LDAPUR and STLUR have an offset: simm9 at 20:12.
  const offset = ((word >>> 24) & 0x3f) === 0x19 ? (word << 11) >> 23 : 0;
  const far = BigInt.asUintN(64, base + BigInt(offset));
  if (Number(far & 0xfn) % facts.alignment === 0) return null;
  const write = facts.isStoreExclusive || facts.kind === 'store-release';
  return {
    exception: 'Data Abort',
    far,
    esr: abortEsr({ fetch: false, user: regs.user_mode, write, cacheMaintenance: false }, FSC_ALIGNMENT),
    access: write ? ACCESS_WRITE : ACCESS_READ,
    entry: 0n,
  };
}

/** What a refused translation means, or null when nothing stands against the access. */
function memoryAbort(
  here: ThisCpu,
  mmu: Arm64Mmu,
  regs: Arm64PtRegs,
  va: bigint,
  asked: AccessCode,
): Syndrome | null {
  const user = regs.user_mode;
  let unprivileged = user;
  let access = asked;
  let far = va;
  let atomic = false;
  if (asked !== ACCESS_FETCH) {
    const word = mmu.instructionAt(regs.pcSigned);
    if (word !== null) {
      const facts = classify(word);
      if (facts.kind !== 'none') {
        const misaligned = alignmentAbort(regs, word, facts);
        if (misaligned !== null) return misaligned;
        ({ isAtomic: atomic } = facts);
        // The engine does a store-exclusive as compare and swap, and asks to read first.
        if (facts.isStoreExclusive) access = ACCESS_WRITE;
        if (facts.isUnprivileged && (regs.pstateBits & PSTATE_UAO) === 0) unprivileged = true;
        // The engine reports the start of the block; hardware the address in the register.
        if (facts.isDcZva) far = regs.pt_regs_read_reg(word & 31);
      }
    }
  }
  const pan = !unprivileged && (regs.pstateBits & PSTATE_PAN) !== 0;
  let fault: number;
  if (atomic) {
    // An atomic reads first: WnR is 1 only for what the write alone was refused.
    access = ACCESS_READ;
    fault = mmu.faultOf(va, ACCESS_READ, unprivileged, pan);
    if (fault === NO_FAULT) {
      access = ACCESS_WRITE;
      fault = mmu.faultOf(va, ACCESS_WRITE, unprivileged, pan);
    }
  } else {
    fault = mmu.faultOf(va, access, unprivileged, pan);
  }
  if (fault === NO_FAULT) return null;
  const event = mmu.walkEvent(va, access, unprivileged, pan, fault);
  here.trace.emit(event);
  const fetch = access === ACCESS_FETCH;
  return {
    exception: fetch ? 'Instruction Abort' : 'Data Abort',
    far,
    esr: abortEsr({ fetch, user, write: access === ACCESS_WRITE, cacheMaintenance: false }, fault),
    access,
    entry: event.levels[event.levels.length - 1]?.entry ?? 0n,
  };
}

/** Cache maintenance by address; what it needs is `maintenanceFaultOf`'s to know. */
function cacheMaintenanceAbort(
  here: ThisCpu,
  mmu: Arm64Mmu,
  regs: Arm64PtRegs,
  va: bigint,
  write: boolean,
): Syndrome | null {
  const user = regs.user_mode;
  const fault = mmu.maintenanceFaultOf(va, user, write);
  if (fault === NO_FAULT) return null;
  const event = mmu.walkEvent(va, write ? ACCESS_WRITE : ACCESS_READ, user, false, fault);
  here.trace.emit(event);
  return {
    exception: 'Data Abort',
    far: va,
    esr: abortEsr({ fetch: false, user, write: true, cacheMaintenance: true }, fault),
    access: ACCESS_WRITE,
    entry: event.levels[event.levels.length - 1]?.entry ?? 0n,
  };
}

/** Takes the exception to EL1. */
function raise(here: ThisCpu, mmu: Arm64Mmu, pc: bigint, { exception, far, esr, access }: Syndrome): void {
  const { trace } = here;
  mmu.setSyndrome(far, esr);
  if (!trace.listening) return;
  trace.emit({
    type: 'fault',
    cpu: trace.cpu,
    exception,
    pc,
    address: far,
    code: esr,
    access: accessType(access),
  });
}

/** The exception return: what the kernel changed goes into the CPU. */
function writeBack({ cpu }: ThisCpu, regs: Arm64PtRegs): void {
  for (let n = 0; n < 31; n++) {
    if (((regs.dirty >>> n) & 1) === 1) cpu.write(`x${n}`, regs.x(n));
  }
  if (regs.dirty < 0) cpu.write('sp', regs.sp);
}

/**
 * Puts the registers onto the kernel stack, below sp from EL1, at its top from EL0. False when they do
 * not fit there: sp, which is aligned, has run over the end of the stack (the test of kernel_ventry, by the
 * distance from the stack's start), or points to what cannot be written. Real hardware would fault on the latter
 * again and again until it ends on the overflow stack.
 */
function pushFrame(here: ThisCpu, mmu: Arm64Mmu, regs: Arm64PtRegs): boolean {
  const { current } = here;
  const stack = mmu.stackOf(current);
  const user = regs.user_mode;
  const at = (user ? stack + current.stackSize : regs.spSigned) - PT_REGS_SIZE;
  if (at < stack && at >= stack - current.stackSize) return false;
  const first = mmu.writable(at);
  const second = (at & 0xfff) + PT_REGS_SIZE > 4096 ? mmu.writable(at + PT_REGS_SIZE - 8) : 0;
  if (first < 0 || second < 0) return false;
  regs.place(here.ram, at, first, second - (second % 4096));
  return true;
}
