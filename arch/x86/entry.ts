/**
 * From an engine stop to the kernel's exception handler and back: what hardware does when it delivers an
 * exception (Intel SDM volume 3, "Interrupt and Exception Handling"), and what arch/x86/entry/entry_64.S
 * and the DEFINE_IDTENTRY macros do around the C function.
 *
 * Left out: the entry stack and the copy to the task stack for exceptions from user mode (the frame is put
 * where it ends up), IST stacks (a double fault's frame is on no stack of the ram), SWAPGS as an instruction (setup.ts
 * swaps the bases when the host changes the mode; dumps look at them as if the entry had done so).
 */
import { fromSigned, hex, toSigned } from '../../emu/address.js';
import {
  ACCESS_READ,
  type AccessCode,
  accessType,
  type CpuStop,
  EXCEPTION_BUS,
  EXCEPTION_SYSCALL,
  EXCEPTION_SYSENTER,
} from '../../emu/cpu.js';
import type { AccessType } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';
import type { Resumption, ThisCpu, Translation } from '../arch.js';
import { exc_page_fault } from './fault.js';
import { registersOf } from './instruction-at.js';
import { mmuOf, type X86Mmu } from './mmu.js';
import { X86_TRAP_DF, X86_TRAP_GP, X86_TRAP_PF, X86_TRAP_SS } from './processor.js';
import { PT_REGS_SIZE, X86_EFLAGS_AC, type X86PtRegs } from './regs.js';
import { exc_double_fault, exc_general_protection, exc_stack_segment } from './traps.js';
import { X86_PF_INSTR, X86_PF_PROT, X86_PF_USER, X86_PF_WRITE } from './walk.js';

const AC = Number(X86_EFLAGS_AC);

/** X86_TRAP_UD: the engine has a stop of its own for it. */
const INVALID_OPCODE = 6;

/** Vectors with a handler here. */
const MODELLED: readonly number[] = [X86_TRAP_DF, X86_TRAP_SS, X86_TRAP_GP, X86_TRAP_PF];

/** The error codes of page faults that happen, as events show them. */
const ERROR_CODES: readonly bigint[] = Array.from({ length: 32 }, (_, code) => BigInt(code));

/** Exceptions by vector, SDM volume 3, table "Protected-Mode Exceptions and Interrupts". */
const VECTORS: readonly string[] = [
  '#DE divide error',
  '#DB debug exception',
  'NMI',
  '#BP breakpoint (int3)',
  '#OF overflow',
  '#BR bound range exceeded',
  '#UD invalid opcode',
  '#NM device not available',
  '#DF double fault',
  'coprocessor segment overrun',
  '#TS invalid TSS',
  '#NP segment not present',
  '#SS stack segment fault',
  '#GP general protection fault',
  '#PF page fault',
  'reserved',
  '#MF x87 floating-point error',
  '#AC alignment check',
  '#MC machine check',
  '#XM SIMD floating-point exception',
];

/** The mnemonics. */
export const exceptionNames: readonly string[] = VECTORS.map(mnemonic).filter((name) =>
  /^(#|NMI)/.test(name),
);

function mnemonic(vector: string): string {
  return vector.split(' ', 1)[0] ?? '';
}

export function handleStop(here: ThisCpu, stop: CpuStop): Delegate<Resumption> {
  const { trace } = here;
  switch (stop.kind) {
    case 'miss':
      return takeMiss(here, stop.va, stop.access);
    case 'exception':
      return trace.immediate(stopped(here, describeException(stop.number)));
    case 'invalid-instruction':
      return trace.immediate(stopped(here, describeException(INVALID_OPCODE)));
    case 'halt':
      return trace.immediate(stopped(here, 'hlt: no interrupt will ever come'));
    case 'raised':
      return takeRaised(here, stop.number, Number(BigInt.asUintN(32, stop.syndrome)), stop.address);
    case 'cache-op':
    case 'exit':
    case 'count':
      throw new Error(`a stop of kind ${stop.kind} is no exception of x86-64`);
  }
}

function describeException(number: number): string {
  switch (number) {
    case EXCEPTION_SYSCALL:
      return 'syscall: system calls are not modelled';
    case EXCEPTION_SYSENTER:
      return 'sysenter: system calls are not modelled';
    case EXCEPTION_BUS:
      return 'access to a page whose physical address is outside of the ram';
    case X86_TRAP_SS:
    case X86_TRAP_GP:
      return `exception ${number} (${VECTORS[number]}) is modelled for non-canonical addresses only`;
    default:
      return `exception ${number} (${VECTORS[number] ?? 'interrupt'}) is not modelled`;
  }
}

function stopped(here: ThisCpu, why: string): Resumption {
  return { how: 'end', outcome: { kind: 'stopped', why, pc: here.cpu.read('rip') } };
}

function* takeMiss(here: ThisCpu, va: bigint, asked: AccessCode): Path<Resumption> {
  const mmu = mmuOf(here);
  const outer = here.regs;
  const outerIrqs = mmu.irqsDisabled;
  const regs = mmu.capture();
  mmu.user = regs.user_mode;
  here.regs = regs;
  // An interrupt gate: the handler starts with interrupts off.
  mmu.irqsDisabled = true;
  try {
    if (!mmu.isCanonical(va)) return yield* takeNonCanonical(here, mmu, regs, va, accessType(asked));
    const walk = raisePageFault(here, mmu, regs, va, hardwareAccess(here, mmu, regs, va, asked));
    if (walk.ok) {
      return stopped(here, `the engine refused an access to ${hex(va)} that the page tables allow`);
    }
    const pushed = pushFrame(here, mmu, regs);
    if (pushed !== null) return yield* takeDoubleFault(here, mmu, regs, pushed);
    yield* exc_page_fault(here, regs, walk.code);
    if (regs.user_mode) yield* here.kernel.exit_to_user_mode_loop(here, regs);
    return resume(here, regs, va, walk.levels[walk.levels.length - 1]?.entry ?? 0n);
  } finally {
    here.regs = outer;
    mmu.irqsDisabled = outerIrqs;
    mmu.release();
  }
}

/** An exception that the host asks for: nothing is walked, what is reported is what hardware would report. */
function* takeRaised(here: ThisCpu, vector: number, error_code: number, cr2: bigint): Path<Resumption> {
  if (!MODELLED.includes(vector)) return stopped(here, describeException(vector));
  const mmu = mmuOf(here);
  const outer = here.regs;
  const outerIrqs = mmu.irqsDisabled;
  const regs = mmu.capture();
  mmu.user = regs.user_mode;
  here.regs = regs;
  mmu.irqsDisabled = true;
  try {
    return yield* raise(here, mmu, regs, vector, error_code, cr2);
  } finally {
    here.regs = outer;
    mmu.irqsDisabled = outerIrqs;
    mmu.release();
  }
}

function* raise(
  here: ThisCpu,
  mmu: X86Mmu,
  regs: X86PtRegs,
  vector: number,
  error_code: number,
  cr2: bigint,
): Path<Resumption> {
  const { trace } = here;
  const access = accessOf(error_code);
  let entry = 0n;
  if (vector === X86_TRAP_PF) {
    const user = (error_code & X86_PF_USER) !== 0;
    const walk = mmu.explain(cr2, access, user, (regs.flagsLow & AC) !== 0);
    emitWalk(here, cr2, access, user, {
      ...walk,
      verdict: 'reported because the host asks for it',
      at: null,
    });
    entry = walk.levels[walk.levels.length - 1]?.entry ?? 0n;
    mmu.setCr2(cr2);
    mmu.unpin(cr2);
    if ((error_code & X86_PF_PROT) !== 0) here.cpu.flushTlbPage(cr2);
  }
  const address = mmu.cr2;
  const exception = mnemonic(VECTORS[vector] ?? '');
  const code = BigInt(error_code);
  trace.emit({ type: 'fault', cpu: trace.cpu, exception, pc: regs.ip, address, code, access });
  if (vector === X86_TRAP_DF) {
    yield* exc_double_fault(here, regs, error_code, address);
    return resume(here, regs, address, entry);
  }
  const pushed = pushFrame(here, mmu, regs);
  if (pushed !== null) return yield* takeDoubleFault(here, mmu, regs, pushed);
  if (vector === X86_TRAP_PF) yield* exc_page_fault(here, regs, error_code);
  else if (vector === X86_TRAP_SS) yield* exc_stack_segment(here, regs, error_code);
  else yield* exc_general_protection(here, regs, error_code);
  if (regs.user_mode) yield* here.kernel.exit_to_user_mode_loop(here, regs);
  return resume(here, regs, address, entry);
}

function accessOf(error_code: number): AccessType {
  if ((error_code & X86_PF_INSTR) !== 0) return 'fetch';
  return (error_code & X86_PF_WRITE) !== 0 ? 'write' : 'read';
}

/** What hardware calls the access: the engine asks for the read of a read-modify-write first. */
function hardwareAccess(
  here: ThisCpu,
  mmu: X86Mmu,
  regs: X86PtRegs,
  va: bigint,
  asked: AccessCode,
): AccessType {
  if (asked !== ACCESS_READ) return accessType(asked);
  const insn = mmu.faulting.at(regs.ipSigned);
  return insn?.isWriteAt(va, registersOf(here, regs)) === true ? 'write' : 'read';
}

/** What the CPU does before it pushes anything. Only a walk that failed raises the fault. */
export function raisePageFault(
  here: Pick<ThisCpu, 'cpu' | 'trace'>,
  mmu: X86Mmu,
  regs: X86PtRegs,
  va: bigint,
  access: AccessType,
): Translation {
  const { trace } = here;
  const user = regs.user_mode;
  const walk = mmu.explain(va, access, user, (regs.flagsLow & AC) !== 0);
  emitWalk(here, va, access, user, walk);
  if (walk.ok) return walk;
  mmu.setCr2(va);
  // A page fault drops what the TLB holds for the address: the retry walks again. The engine can hold a
  // translation only if there was one, and a call of it is not for nothing.
  mmu.unpin(va);
  if ((walk.code & X86_PF_PROT) !== 0) here.cpu.flushTlbPage(va);
  if (!trace.listening) return walk;
  trace.emit({
    type: 'fault',
    cpu: trace.cpu,
    exception: '#PF',
    pc: regs.ip,
    address: va,
    code: ERROR_CODES[walk.code] ?? BigInt(walk.code),
    access,
  });
  return walk;
}

function emitWalk(
  here: Pick<ThisCpu, 'trace'>,
  va: bigint,
  access: AccessType,
  user: boolean,
  walk: Translation,
): void {
  const { trace } = here;
  if (!trace.listening) return;
  const { levels, verdict, at } = walk;
  trace.emit({ type: 'walk', cpu: trace.cpu, va, access, user, levels, verdict, at });
}

/** #SS when the access goes through the stack segment, else #GP; both with error code 0, and CR2 stays. */
function* takeNonCanonical(
  here: ThisCpu,
  mmu: X86Mmu,
  regs: X86PtRegs,
  va: bigint,
  asked: AccessType,
): Path<Resumption> {
  const { trace } = here;
  const user = regs.user_mode;
  const insn = asked === 'fetch' ? null : mmu.faulting.at(regs.ipSigned);
  const registers = registersOf(here, regs);
  const write = asked === 'read' && insn?.isWriteAt(va, registers) === true;
  const access = write ? 'write' : asked;
  const stackSegment = insn?.usesStackSegmentAt(va, registers) === true;
  emitWalk(here, va, access, user, mmu.explain(va, access, user, false));
  trace.emit({
    type: 'fault',
    cpu: trace.cpu,
    exception: stackSegment ? '#SS' : '#GP',
    pc: regs.ip,
    address: va,
    code: 0n,
    access,
  });
  const pushed = pushFrame(here, mmu, regs);
  if (pushed !== null) return yield* takeDoubleFault(here, mmu, regs, pushed);
  if (stackSegment) yield* exc_stack_segment(here, regs, 0);
  else yield* exc_general_protection(here, regs, 0);
  return resume(here, regs, va, 0n);
}

/**
 * Pushes the frame of an exception, and the rest of pt_regs as the entry code does. From user mode onto
 * the task's stack, from kernel mode onto the stack in use.
 * @returns null, or the address of the push that failed: then nothing was written
 */
function pushFrame(here: ThisCpu, mmu: X86Mmu, regs: X86PtRegs): number | null {
  const { current, ram } = here;
  const top = regs.user_mode ? toSigned(current.stack) + current.stackSize : alignedStack(regs);
  if (!(mmu.isCanonicalNumber(top - 8) && mmu.isCanonicalNumber(top - PT_REGS_SIZE))) return Number.NaN;
  const last = mmu.supervisorWrite(top - 8);
  if (last < 0) return top - 8;
  const frame = top - PT_REGS_SIZE;
  const offset = (frame >>> 0) & 0xfff;
  if (offset + PT_REGS_SIZE <= 4096) {
    regs.place(ram, frame, last + 8 - PT_REGS_SIZE, 0);
    return null;
  }
  const boundary = frame - offset + 4096;
  const first = mmu.supervisorWrite(frame);
  if (first < 0) return boundary - 8;
  regs.place(ram, frame, first, last - (last % 4096));
  return null;
}

/** 64-bit mode aligns the stack pointer to 16 bytes before it pushes. */
function alignedStack(regs: X86PtRegs): number {
  const sp = regs.spSigned;
  return sp - ((sp >>> 0) & 15);
}

/**
 * The stack cannot take the frame. A push that is not translated is a page fault of its own, so CR2 says
 * which; one at a non-canonical address (NaN) leaves CR2 as it is.
 */
function* takeDoubleFault(here: ThisCpu, mmu: X86Mmu, regs: X86PtRegs, push: number): Path<Resumption> {
  const { trace } = here;
  if (!Number.isNaN(push)) {
    const address = fromSigned(push);
    mmu.setCr2(address);
    emitWalk(here, address, 'write', false, mmu.explain(address, 'write', false, false));
  }
  const address = mmu.cr2;
  trace.emit({
    type: 'fault',
    cpu: trace.cpu,
    exception: '#DF',
    pc: regs.ip,
    address,
    code: 0n,
    access: 'write',
  });
  yield* exc_double_fault(here, regs, 0, address);
  return resume(here, regs, address, 0n);
}

/** iretq: the guest goes on with what the handler left in the frame. */
function resume(here: ThisCpu, regs: X86PtRegs, address: bigint, entry: bigint): Resumption {
  const how = regs.ipChanged ? 'fixup' : 'retry';
  if (regs.dirty !== 0) regs.writeBack(here.cpu);
  return { how, pc: regs.ip, address, entry };
}
