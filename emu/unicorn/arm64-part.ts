/** The arm64 side of the native CPU: EL1 and EL0, exceptions, cache maintenance, TLBI. */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type CpuStop,
  EngineError,
  EXCEPTION_PC_ALIGNMENT,
  type Privilege,
} from '../cpu.js';
import {
  ARM64_REGISTERS,
  PSTATE_EL_MASK,
  PSTATE_EL1H,
  PSTATE_MODE_MASK,
  systemRegister,
} from './arm64-registers.js';
import { NativeBuffer, type NativeSlots } from './bindings.js';
import {
  UC_ARM64_INS_SYS,
  UC_ARM64_REG_PC,
  UC_ARM64_REG_PSTATE,
  UC_ARM64_REG_SP,
  UC_ARM64_REG_SP_EL0,
  UC_ARM64_REG_SP_EL1,
  UC_ARM64_REG_X0,
} from './constants.js';
import { pageKey, type TlbAnswers } from './fill.js';
import {
  type ExceptionStop,
  type IsaPart,
  type Raise,
  type SentinelPage,
  type SpecialRegister,
  sentinelLayout,
} from './isa-part.js';
import type { RawEngine, SavedContext } from './raw-engine.js';
import type { StructureRegister } from './register-table.js';

const WFI = 0xd503207f;
/** tlbi vaae1, x0: one page of EL1&0, every ASID. */
const TLBI_VAAE1_X0 = 0xd5088760;

/** EL2 and EL3 as firmware leaves them: non-secure, and EL1 is AArch64. */
const SCR_EL3 = systemRegister(3, 6, 1, 1, 0);
const SCR_RW_NS = 0x401n;
const HCR_EL2 = systemRegister(3, 4, 1, 1, 0);
const HCR_RW = 1n << 31n;
/** FP and SIMD instructions are not trapped. */
const CPACR_EL1 = systemRegister(3, 0, 1, 0, 2);
const CPACR_FPEN = 3n << 20n;
const CONTEXTIDR_EL1 = systemRegister(3, 0, 13, 0, 1);

/** The library's exception numbers (qemu/target/arm/cpu.h). */
const EXCP_UDEF = 1;
const EXCP_SWI = 2;
const EXCP_SMC = 13;

export function arm64SentinelPage(offset: number): SentinelPage {
  if (offset % 4 !== 0) throw new EngineError('the sentinel must be a multiple of 4');
  const { bytes, view } = new NativeBuffer(4096);
  const layout = sentinelLayout(offset);
  for (let at = 0; at < 4096; at += 4) view.setUint32(at, WFI, true);
  view.setUint32(layout.flush, TLBI_VAAE1_X0, true);
  return { bytes, ...layout };
}

/** Fields of a SYS instruction, packed: op1, CRm, op2 for CRn = 7. */
const cacheOp = (op1: number, crm: number, op2: number): number => (op1 << 8) | (crm << 4) | op2;
/** Cache maintenance by address (Arm ARM, C5.3), and whether it needs write permission. */
const CACHE_OPS: ReadonlyMap<number, { readonly name: string; readonly write: boolean }> = new Map([
  [cacheOp(0, 6, 1), { name: 'dc ivac', write: true }],
  [cacheOp(3, 5, 1), { name: 'ic ivau', write: false }],
  [cacheOp(3, 10, 1), { name: 'dc cvac', write: false }],
  [cacheOp(3, 11, 1), { name: 'dc cvau', write: false }],
  [cacheOp(3, 12, 1), { name: 'dc cvap', write: false }],
  [cacheOp(3, 13, 1), { name: 'dc cvadp', write: false }],
  [cacheOp(3, 14, 1), { name: 'dc civac', write: false }],
]);

export class Arm64Part implements IsaPart {
  readonly registers = ARM64_REGISTERS;
  readonly sentinelStep = 4n;
  readonly haltStep = 4n;
  readonly repair = null;
  readonly special: ReadonlyMap<string, SpecialRegister>;

  private readonly flushContext: SavedContext;
  private readonly structure = new NativeBuffer(32);

  constructor(
    private readonly engine: RawEngine,
    private readonly answers: TlbAnswers,
    private readonly raise: Raise,
    private readonly encodings: NativeSlots,
  ) {
    this.special = new Map<string, SpecialRegister>([
      ['pstate', { write: (value) => this.writePstate(value) }],
      ['current_el', { read: () => this.pstate() & PSTATE_EL_MASK, write: refuseCurrentEl }],
      ['sp_el0', this.bankedSp(UC_ARM64_REG_SP_EL0, () => !this.onKernelStack())],
      ['sp_el1', this.bankedSp(UC_ARM64_REG_SP_EL1, () => this.onKernelStack())],
    ]);
    this.writeSystem(SCR_EL3, SCR_RW_NS);
    this.writeSystem(HCR_EL2, HCR_RW);
    this.writeSystem(CPACR_EL1, CPACR_FPEN);
    this.rebuildFlags();
    this.flushContext = engine.allocateContext();
    engine.saveContext(this.flushContext);
    engine.hook({ kind: 'sys', fn: (_uc, _register, encoding) => this.onSys(encoding) }, UC_ARM64_INS_SYS);
  }

  privilege(): Privilege {
    return (this.pstate() & PSTATE_EL_MASK) === 0n ? 'user' : 'kernel';
  }

  /** Like an exception entry or return, the level left keeps its stack pointer in its bank; sp stays. */
  setPrivilege(privilege: Privilege): void {
    if (privilege === this.privilege()) return;
    const { engine } = this;
    const bank = this.onKernelStack() ? UC_ARM64_REG_SP_EL1 : UC_ARM64_REG_SP_EL0;
    engine.write(bank, engine.read(UC_ARM64_REG_SP));
    const mode = privilege === 'kernel' ? PSTATE_EL1H : 0n;
    engine.write(UC_ARM64_REG_PSTATE, (this.pstate() & ~PSTATE_MODE_MASK) | mode);
    this.rebuildFlags();
  }

  describeException(number: number): ExceptionStop {
    const misaligned = this.describeFetchAt(this.engine.read(UC_ARM64_REG_PC));
    if (misaligned !== null) return { stop: misaligned, completed: false };
    if (number === EXCP_UDEF) return { stop: { kind: 'invalid-instruction' }, completed: false };
    return { stop: { kind: 'exception', number }, completed: number === EXCP_SWI || number === EXCP_SMC };
  }

  describeFetchAt(pc: bigint): CpuStop | null {
    return (pc & 3n) === 0n ? null : { kind: 'exception', number: EXCEPTION_PC_ALIGNMENT };
  }

  afterException(): void {
    // Nothing stays behind on this architecture.
  }

  prepareFlushPage(va: bigint): void {
    this.engine.restoreContext(this.flushContext);
    // The operand is VA[55:12] in bits 43:0; the rest would be ASID and TTL.
    this.engine.write(UC_ARM64_REG_X0, (va >> 12n) & 0xfffffffffffn);
  }

  private pstate(): bigint {
    return this.engine.read(UC_ARM64_REG_PSTATE);
  }

  /** True while sp is SP_EL1. */
  private onKernelStack(): boolean {
    return (this.pstate() & PSTATE_MODE_MASK) === PSTATE_EL1H;
  }

  private writePstate(value: bigint): void {
    if (((value ^ this.pstate()) & PSTATE_MODE_MASK) !== 0n) {
      throw new EngineError('pstate cannot be written with another exception level, see setPrivilege');
    }
    this.engine.write(UC_ARM64_REG_PSTATE, value);
    this.rebuildFlags();
  }

  /** What the engine derives from pstate (EL, PAN) is only derived anew when a system register is written. */
  private rebuildFlags(): void {
    CONTEXTIDR_EL1.prepare(this.structure.view);
    this.engine.readStructure(CONTEXTIDR_EL1.id, this.structure);
    this.engine.writeStructure(CONTEXTIDR_EL1.id, this.structure);
  }

  private writeSystem(register: StructureRegister, value: bigint): void {
    register.prepare(this.structure.view);
    this.structure.view.setBigUint64(register.offset, value, true);
    this.engine.writeStructure(register.id, this.structure);
  }

  /** A banked stack pointer is in sp itself while its level uses it. */
  private bankedSp(bank: number, live: () => boolean): SpecialRegister {
    const place = (): number => (live() ? UC_ARM64_REG_SP : bank);
    return {
      read: () => this.engine.read(place()),
      write: (value) => this.engine.write(place(), value),
    };
  }

  /**
   * The engine executes cache maintenance without asking for a translation, so it is asked for here.
   * @returns nonzero to leave the instruction out
   */
  private onSys(encoding: number): number {
    // { u32 crn, crm, op0, op1, op2, padding; u64 value }
    const [crn, crm = 0, , op1 = 0, op2 = 0, , low = 0, high = 0] = this.encodings.at(encoding);
    if (crn !== 7) return 0;
    const op = CACHE_OPS.get(cacheOp(op1, crm, op2));
    // EL1's operations are undefined at EL0; the engine says so itself.
    if (op === undefined || (op1 === 0 && this.privilege() === 'user')) return 0;
    const va = (BigInt(high) << 32n) | BigInt(low);
    if (this.answers.ask(pageKey(va), op.write ? ACCESS_WRITE : ACCESS_READ) !== 0) return 0;
    const pc = this.engine.read(UC_ARM64_REG_PC);
    this.raise({ stop: { kind: 'cache-op', va, write: op.write }, pc, completed: false });
    return 1;
  }
}

function refuseCurrentEl(): never {
  throw new EngineError('current_el cannot be written, see setPrivilege');
}
