/** The x86-64 side of the native CPU: long mode, CPL 0 and 3, exceptions, invlpg. */
import { EngineError, EXCEPTION_SYSCALL, EXCEPTION_SYSENTER, type Privilege } from '../cpu.js';
import { NativeBuffer } from './bindings.js';
import { applyPrivilege, CC_OP_EFLAGS, type X86Layout } from './calibration.js';
import {
  UC_X86_INS_SYSCALL,
  UC_X86_INS_SYSENTER,
  UC_X86_REG_CR0,
  UC_X86_REG_CR4,
  UC_X86_REG_CS,
  UC_X86_REG_MSR,
  UC_X86_REG_RAX,
  UC_X86_REG_RFLAGS,
  UC_X86_REG_SS,
} from './constants.js';
import {
  type ExceptionStop,
  type HookStop,
  type IsaPart,
  type Raise,
  type SentinelPage,
  type SpecialRegister,
  sentinelLayout,
} from './isa-part.js';
import type { EngineState } from './live-state.js';
import type { RawEngine, SavedContext } from './raw-engine.js';
import { X86_REGISTERS } from './x86-registers.js';

const HLT = 0xf4;
const UD2 = [0x0f, 0x0b];
/** invlpg [rax] */
const INVLPG = [0x0f, 0x01, 0x38];

/** Long mode as the kernel runs in it: PE, MP, ET, NE, WP, AM, PG. */
const CR0 = 0x80050033n;
/** PAE, OSFXSR, OSXMMEXCPT. SMEP and SMAP are for whoever sets up the machine. */
const CR4 = 0x620n;
const MSR_EFER = 0xc0000080;
/** SCE, LME, LMA, NXE. */
const EFER = 0xd01n;
const RFLAGS = 0x2n;

const CF = 0x001;
const PF = 0x004;
const AF = 0x010;
const ZF = 0x040;
const SF = 0x080;
const OF = 0x800;
const ARITHMETIC_FLAGS = CF | PF | AF | ZF | SF | OF;

/** Vectors that leave rip at the instruction; the others are traps: #DB of a single step, #BP, `int n`. */
const FAULTS = new Set([0, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21]);

export function x86SentinelPage(offset: number): SentinelPage {
  if (offset > 4096 - UD2.length) {
    throw new EngineError('the sentinel must leave room for two bytes in its page');
  }
  const { bytes } = new NativeBuffer(4096);
  const layout = sentinelLayout(offset);
  bytes.fill(HLT);
  bytes.set(INVLPG, layout.flush);
  bytes.set(UD2, offset);
  return { bytes, ...layout };
}

export class X86Part implements IsaPart {
  readonly registers = X86_REGISTERS;
  readonly sentinelStep = 0n;
  readonly haltStep = 1n;
  readonly special: ReadonlyMap<string, SpecialRegister>;

  private readonly context: SavedContext;
  private readonly flushContext: SavedContext;
  /** Offset in the live state of the byte with the CPL in its two lowest bits; null when none is just that. */
  private readonly cplAt: number | null;

  constructor(
    private readonly engine: RawEngine,
    private readonly layout: X86Layout,
    private readonly state: EngineState,
    private readonly raise: Raise,
  ) {
    this.special = new Map([
      ['cs', { write: (value) => this.keepSelector('cs', UC_X86_REG_CS, value) }],
      ['ss', { write: (value) => this.keepSelector('ss', UC_X86_REG_SS, value) }],
    ]);
    const cpl = layout.privilege.find(({ mask, kernel, user }) => mask === 3 && kernel === 0 && user === 3);
    this.cplAt = cpl?.offset ?? null;
    this.context = engine.allocateContext();
    this.flushContext = engine.allocateContext();

    engine.write(UC_X86_REG_CR4, CR4);
    const efer = new NativeBuffer(16);
    efer.view.setUint32(0, MSR_EFER, true);
    efer.view.setBigUint64(8, EFER, true);
    engine.writeStructure(UC_X86_REG_MSR, efer);
    engine.write(UC_X86_REG_CR0, CR0);
    engine.write(UC_X86_REG_RFLAGS, RFLAGS);
    this.setPrivilege('kernel');
    engine.saveContext(this.flushContext);

    this.hookSyscall(UC_X86_INS_SYSCALL, EXCEPTION_SYSCALL);
    this.hookSyscall(UC_X86_INS_SYSENTER, EXCEPTION_SYSENTER);
  }

  /** Asked for in the middle of TLB fills, so the library is not called if that can be helped. */
  privilege(): Privilege {
    const { cplAt, state } = this;
    if (cplAt === null) return (this.engine.read(UC_X86_REG_CS) & 3n) === 3n ? 'user' : 'kernel';
    state.refresh();
    const word = state.words[cplAt >> 2] ?? 0;
    return ((word >>> ((cplAt & 3) * 8)) & 3) === 3 ? 'user' : 'kernel';
  }

  /**
   * Only an iretq changes the CPL; writing CS does not. So the bytes in which a context before and one
   * after an iretq differ are put into the present one. Everything else stays, vector registers too.
   */
  setPrivilege(privilege: Privilege): void {
    const { engine, context } = this;
    engine.saveContext(context);
    applyPrivilege(context.bytes, this.layout.privilege, privilege);
    engine.restoreContext(context);
  }

  describeException(number: number): ExceptionStop {
    return { stop: { kind: 'exception', number }, completed: !FAULTS.has(number) };
  }

  describeFetchAt(): null {
    return null;
  }

  /**
   * Puts CF, AF and OF right. The engine keeps flags as the last operation and its operand. In a counted
   * run it computes them before each instruction and stores them in the operand's place; but when that
   * instruction asks for a translation or faults, it goes back to the operation it had noted before,
   * and takes the flags for an operand. ZF, SF and PF come from the result and stay right. So an operand
   * that looks like flags, and agrees with those three, is the flags. A true operand is only there when
   * the operation was the last of its translated block, which is nearly always a jump. Flags that come
   * out right all the same are written too: the next instruction may change the operand as if it were
   * the flags, and the operation must not be applied to that. Flags that are kept as flags are right.
   */
  readonly repair = (): void => {
    const { engine, state, layout } = this;
    state.refresh();
    const { words } = state;
    if (words[layout.ccOp >> 2] === CC_OP_EFLAGS) return;
    const operand = words[layout.ccSource >> 2] ?? 0;
    const high = words[(layout.ccSource >> 2) + 1] ?? 0;
    if (high !== 0 || (operand & ~ARITHMETIC_FLAGS) !== 0) return;
    const rflags = Number(engine.read(UC_X86_REG_RFLAGS));
    const computed = rflags & ARITHMETIC_FLAGS;
    const sameResult = ((computed ^ operand) & (ZF | SF | PF)) === 0;
    // popcnt has ZF alone, and its operand is the result: read as one, its flags say the opposite.
    const popcnt = (computed ^ operand) === ZF && (computed & operand) === 0;
    if (sameResult || popcnt) {
      engine.write(UC_X86_REG_RFLAGS, BigInt((rflags & ~ARITHMETIC_FLAGS) | operand));
    }
  };

  /** The library never delivers the exception, so the next one would count as a double fault. */
  afterException(): void {
    const { engine, context } = this;
    engine.saveContext(context);
    context.view.setInt32(this.layout.oldException, -1, true);
    engine.restoreContext(context);
  }

  prepareFlushPage(va: bigint): void {
    this.engine.restoreContext(this.flushContext);
    this.engine.write(UC_X86_REG_RAX, va);
  }

  private hookSyscall(insn: number, number: number): void {
    const stop: HookStop = { stop: { kind: 'exception', number }, pc: null, completed: true };
    this.engine.hook({ kind: 'syscall', fn: () => this.raise(stop) }, insn);
  }

  private keepSelector(name: string, id: number, value: bigint): void {
    if (value === this.engine.read(id)) return;
    throw new EngineError(`${name} cannot be written: it goes with the privilege, see setPrivilege`);
  }
}
