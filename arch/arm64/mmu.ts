/**
 * The memory management unit of one CPU: answers the engine's TLB fills, explains refused ones, and keeps
 * pinned (stale) translations. What else the architecture has to remember of a CPU, exceptions, rides
 * along.
 */
import { pageOf, toSigned } from '../../emu/address.js';
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  accessType,
  type Cpu,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
  permFor,
  type RegisterSet,
} from '../../emu/cpu.js';
import type { AccessType, WalkEvent, WalkLevel } from '../../emu/events.js';
import type { Trace } from '../../emu/path.js';
import type { Ram } from '../../emu/ram.js';
import type { Mmu, ThisCpu, Translation } from '../arch.js';
import type { task_struct } from '../kernel.js';
import { ESR_ELx_FSC_FAULT, ESR_ELx_FSC_PERM } from './esr.js';
import { faultInfo } from './fault-info.js';
import { classify } from './instruction.js';
import { Arm64PtRegs, SAVED_REGISTERS } from './regs.js';
import { UnprivilegedCode } from './unprivileged-code.js';
import { Unwinder } from './unwind.js';
import { LEVEL_NAMES, NO_FAULT, Walker } from './walk.js';
import { decodeControl, initialControl } from './walk-control.js';
import { ATTR_AF, ATTR_DBM, ATTR_EL0, ATTR_RDONLY, ATTR_UXN } from './walk-rights.js';

const PSTATE_EL_BITS = 0xf;
/** PSR_PAN_BIT and PSR_UAO_BIT as the engine's 32-bit PSTATE has them. */
export const PSTATE_PAN = 1 << 22;
export const PSTATE_UAO = 1 << 23;

const TWO_48 = 2 ** 48;

const NOT_ATTACHED = 'the walker has no CPU yet: attach() comes first';

/** A translation that outlives its table entries. */
interface Pin {
  /** Root table of its half when it was made: the same page in another address space is another entry. */
  readonly root: number;
  readonly pa: number;
  readonly attr: number;
  /** Level of the leaf. */
  readonly level: number;
  readonly levels: readonly WalkLevel[];
}

/** Architectural state that an exception to EL1 leaves behind, and struct thread_struct's copy of it. */
export interface Syndrome {
  far_el1: bigint;
  esr_el1: bigint;
  /** current->thread.fault_address and fault_code, as set_thread_esr() left them. */
  fault_address: bigint;
  fault_code: bigint;
}

export class Arm64Mmu implements Mmu {
  pa = 0;
  user = false;
  readonly syndrome: Syndrome = { far_el1: 0n, esr_el1: 0n, fault_address: 0n, fault_code: 0n };
  readonly #control = initialControl();
  readonly #walker: Walker;
  /** For looks at other addresses while a walk is being answered: the instruction at pc, the stack. */
  readonly #sideWalker: Walker;
  readonly #ram: Ram;
  #cpu: Cpu | null = null;
  #trace: Trace | null = null;
  #live: RegisterSet | null = null;
  #saved: RegisterSet | null = null;
  #syndromeRegisters: RegisterSet | null = null;
  /** Saved registers by depth of nesting, used again and again. */
  readonly #frames: Arm64PtRegs[] = [];
  #depth = 0;
  #stackTask: task_struct | null = null;
  #stack = 0;
  /** The data address last located: a fault asks for the same one again and again. */
  readonly #located = { va: 0n, address: 0 };
  readonly #pins = new Map<number, Pin>();
  #lastPin: Pin | null = null;
  readonly unwinder: Unwinder;
  /** What is known of LDTR and STTR in the code that runs. */
  readonly unprivilegedCode: UnprivilegedCode;

  constructor(ram: Ram) {
    this.#ram = ram;
    this.unwinder = new Unwinder(this, ram);
    this.unprivilegedCode = new UnprivilegedCode(ram);
    this.#walker = new Walker(ram, this.#control);
    this.#sideWalker = new Walker(ram, this.#control);
  }

  attach(cpu: Cpu, trace: Trace): void {
    this.#cpu = cpu;
    this.#trace = trace;
    this.#live = cpu.registerSet(['pc', 'pstate']);
    this.#saved = cpu.registerSet(SAVED_REGISTERS);
    this.#syndromeRegisters = cpu.registerSet(['far_el1', 'esr_el1']);
  }

  /** Saves the registers for an exception; `leaveException` gives the object back. */
  enterException(): Arm64PtRegs {
    if (this.#saved === null) throw new Error(NOT_ATTACHED);
    let regs = this.#frames[this.#depth];
    if (regs === undefined) {
      regs = new Arm64PtRegs();
      this.#frames.push(regs);
    }
    this.#depth += 1;
    this.#saved.load();
    regs.capture(this.#saved);
    return regs;
  }

  /** Lowest address of a task's kernel stack as a signed number. */
  stackOf(task: task_struct): number {
    if (task !== this.#stackTask) {
      this.#stackTask = task;
      this.#stack = toSigned(task.stack);
    }
    return this.#stack;
  }

  /** See Mmu.codeChanged. */
  codeChanged(): void {
    this.unprivilegedCode.changed();
  }

  leaveException(): void {
    this.#depth -= 1;
  }

  /** Sets FAR_EL1 and ESR_EL1, for the handlers and for whoever reads the registers. */
  setSyndrome(far: bigint, esr: bigint): void {
    this.syndrome.far_el1 = far;
    this.syndrome.esr_el1 = esr;
    const registers = this.#syndromeRegisters;
    if (registers === null) return;
    registers.values[0] = far;
    registers.values[1] = esr;
    registers.store();
  }

  /** Throws a ControlRegisterError for a granule, a size or a mode that is not modelled. */
  refresh(): void {
    const cpu = this.#attached();
    decodeControl(this.#control, {
      tcr_el1: cpu.read('tcr_el1'),
      sctlr_el1: cpu.read('sctlr_el1'),
      ttbr0_el1: cpu.read('ttbr0_el1'),
      ttbr1_el1: cpu.read('ttbr1_el1'),
    });
    this.#located.va = 0n;
    this.#located.address = 0;
  }

  #attached(): Cpu {
    if (this.#cpu === null) throw new Error(NOT_ATTACHED);
    return this.#cpu;
  }

  /**
   * The address that translation looks at, as a signed number: without its tag where the top byte is
   * ignored. NaN when it is out of range of every half.
   */
  #locate(va: bigint): number {
    if (va !== this.#located.va) {
      this.#located.va = va;
      this.#located.address = this.#convert(va, false);
    }
    return this.#located.address;
  }

  #locateFor(va: bigint, access: AccessCode): number {
    return access === ACCESS_FETCH ? this.#convert(va, true) : this.#locate(va);
  }

  #convert(va: bigint, fetch: boolean): number {
    const plain = toSigned(va);
    if (plain >= -TWO_48 && plain < TWO_48) return plain;
    const { tbi0, tbi1, tbid0, tbid1 } = this.#control;
    const high = ((va >> 55n) & 1n) === 1n;
    if (!(high ? tbi1 : tbi0) || (fetch && (high ? tbid1 : tbid0))) return Number.NaN;
    const untagged = Number(BigInt.asIntN(56, va));
    return untagged >= -TWO_48 && untagged < TWO_48 ? untagged : Number.NaN;
  }

  /** Is the half closed to accesses with the rights of EL0? */
  #e0pd(address: number): boolean {
    return address < 0 ? this.#control.e0pd1 : this.#control.e0pd0;
  }

  fill(va: number | bigint, access: AccessCode): number {
    // A number carries no tag; if it is out of range, the walk refuses it.
    const address = typeof va === 'number' ? va : this.#locateFor(va, access);
    const walker = this.#walker;
    const pinned = this.#pins.size !== 0 ? this.#pinned(address) : null;
    if (pinned !== null) {
      walker.pa = pinned.pa;
      walker.attr = pinned.attr;
    } else if (walker.walk(address) !== NO_FAULT) {
      return 0;
    }

    let unprivileged = this.user;
    let pan = false;
    const { attr } = walker;
    // Pages that EL0 may use are where the mode matters, and all of them where code is seen that uses the
    // rights of EL0 or goes there. What mode it is guest code may have changed: msr pan, eret.
    if (!unprivileged && ((attr & (ATTR_EL0 | ATTR_UXN)) !== ATTR_UXN || this.unprivilegedCode.possible)) {
      const pstate = this.#readPstate();
      pan = (pstate & PSTATE_PAN) !== 0;
      if ((pstate & PSTATE_EL_BITS) === 0) this.user = unprivileged = true;
      else if (access !== ACCESS_FETCH) unprivileged = this.#isUnprivilegedAccess(pstate);
    }

    if (unprivileged && this.#e0pd(address)) return 0;
    let granted = walker.accessible ? walker.usable(unprivileged, pan) : 0;
    if ((granted & permFor(access)) === 0 || walker.present() !== NO_FAULT) return 0;
    if (pinned === null && this.#control.ha) this.#updateFlags(access);
    this.pa = walker.pa;
    // What hardware still has to mark as dirty must be asked for again; so must the first fetch.
    if ((walker.attr & ATTR_RDONLY) !== 0) granted &= ~PERM_WRITE;
    if (access === ACCESS_FETCH) this.unprivilegedCode.note(walker.pa);
    else granted &= ~PERM_EXEC;
    return granted;
  }

  #readPstate(): number {
    const live = this.#live;
    if (live === null) return 0;
    live.load();
    return Number(live.values[1] ?? 0n);
  }

  /** After #readPstate(): is the instruction at pc an LDTR or STTR whose UAO does not make it a plain one? */
  #isUnprivilegedAccess(pstate: number): boolean {
    if ((pstate & PSTATE_UAO) !== 0) return false;
    const word = this.instructionAt(this.#convert(this.#live?.values[0] ?? 0n, true));
    return word !== null && classify(word).isUnprivileged;
  }

  /** Hardware management of the access flag and the dirty state: writes the leaf when that changes it. */
  #updateFlags(access: AccessCode): void {
    const walker = this.#walker;
    const { attr, level } = walker;
    const control = this.#control;
    const setAf = (attr & ATTR_AF) === 0;
    const clean =
      control.hd && access === ACCESS_WRITE && (attr & (ATTR_DBM | ATTR_RDONLY)) === (ATTR_DBM | ATTR_RDONLY);
    if (!setAf && !clean) return;
    const pa = walker.entryPa[level] ?? 0;
    const old = this.#ram.readU64(pa);
    const value = (old | (setAf ? 1n << 10n : 0n)) & ~(clean ? 1n << 7n : 0n);
    this.#ram.writeU64(pa, value);
    if (clean) walker.attr &= ~ATTR_RDONLY;
    const trace = this.#trace;
    trace?.emit({
      type: 'pte-write',
      cpu: trace.cpu,
      by: 'hardware',
      level: LEVEL_NAMES[level] ?? 'pte',
      pa,
      old,
      value,
      changed: true,
    });
  }

  /** Physical address of an in-range signed address, whatever the rights; -1 when it does not translate. */
  physical(va: number): number {
    const walker = this.#sideWalker;
    if (walker.walk(va) !== NO_FAULT || walker.present() !== NO_FAULT) return -1;
    return walker.pa + ((va >>> 0) & 0xfff);
  }

  /** The same, and -1 as well where EL1 with PAN must not write. */
  writable(va: number): number {
    const pa = this.physical(va);
    return pa >= 0 && this.#sideWalker.check(ACCESS_WRITE, false, true) === NO_FAULT ? pa : -1;
  }

  peek(va: bigint): number {
    return this.physical(this.#locate(va));
  }

  /** The instruction word at an in-range signed address, or null when nothing can be read there. */
  instructionAt(pc: number): number | null {
    const pa = this.physical(pc);
    if (pa < 0 || pa % 4 !== 0) return null;
    return this.#ram.words32[(pa - this.#ram.base) / 4] ?? null;
  }

  /**
   * Fault status code of an access, NO_FAULT when it succeeds. Pinned pages answer as the TLB would.
   * What was read stays available (`walkedLevels`, `walkEvent`) until the next walk.
   *
   * @param anyRights asks for a translation only
   */
  faultOf(va: bigint, access: AccessCode, unprivileged: boolean, pan: boolean, anyRights = false): number {
    const fault = this.#leafOf(this.#locateFor(va, access), unprivileged);
    if (fault !== NO_FAULT || anyRights) return fault;
    const walker = this.#walker;
    const refusal = walker.check(access, unprivileged, pan);
    return refusal === NO_FAULT ? walker.present() : refusal;
  }

  /**
   * The same for cache maintenance by address. From EL1 only DC IVAC needs a right, to write; EL0 needs to
   * read. PAN does not count (AccessDescriptor.pan is not set for AccessType_DC and _IC). A clear access
   * flag does not fault, which is implementation defined.
   *
   * @param invalidate DC IVAC
   */
  maintenanceFaultOf(va: bigint, user: boolean, invalidate: boolean): number {
    const fault = this.#leafOf(this.#locate(va), user);
    if (fault !== NO_FAULT) return fault;
    const walker = this.#walker;
    const needed = (invalidate ? PERM_WRITE : 0) | (user ? PERM_READ : 0);
    const allowed = (walker.usable(user, false) & needed) === needed;
    return allowed ? NO_FAULT : ESR_ELx_FSC_PERM + walker.level;
  }

  /** Leaves the leaf for an address in the walker: the one of the tables, or the pinned one. */
  #leafOf(address: number, unprivileged: boolean): number {
    const walker = this.#walker;
    this.#lastPin = null;
    if (unprivileged && this.#e0pd(address)) return walker.refuse(ESR_ELx_FSC_FAULT);
    const pinned = this.#pins.size !== 0 ? this.#pinned(address) : null;
    if (pinned === null) return walker.walk(address);
    this.#lastPin = pinned;
    walker.pa = pinned.pa;
    walker.attr = pinned.attr;
    walker.depth = pinned.levels.length;
    walker.level = pinned.level;
    return NO_FAULT;
  }

  /** The entries behind the last `faultOf`, root first: as they are, or as they were for a pinned page. */
  walkedLevels(): readonly WalkLevel[] {
    return this.#lastPin?.levels ?? this.#walker.levels();
  }

  /** The event of the last `faultOf`, with the arguments that it had and what it came to. */
  walkEvent(va: bigint, access: AccessCode, unprivileged: boolean, pan: boolean, fault: number): WalkEvent {
    const levels = this.walkedLevels();
    return {
      type: 'walk',
      cpu: this.#trace?.cpu ?? 0,
      va,
      access: accessType(access),
      user: unprivileged,
      levels,
      verdict: this.#verdict(va, access, unprivileged, pan, fault),
      at: levels[levels.length - 1]?.level ?? null,
    };
  }

  #verdict(va: bigint, access: AccessCode, unprivileged: boolean, pan: boolean, fault: number): string {
    if (fault === NO_FAULT) return this.#lastPin === null ? 'translates' : 'translates (stale TLB entry)';
    const walker = this.#walker;
    let text = faultInfo(fault).name;
    if (walker.depth === 0 && fault === ESR_ELx_FSC_FAULT) text += `: ${this.#whyNoWalk(va, access)}`;
    if ((fault & 0x3c) === ESR_ELx_FSC_PERM) text += `: ${walker.objection(access, unprivileged, pan)}`;
    return this.#lastPin === null ? text : `${text} (stale TLB entry)`;
  }

  /** What kept an address from being looked up. */
  #whyNoWalk(va: bigint, access: AccessCode): string {
    const { limit0, limit1, epd0, epd1 } = this.#control;
    const address = this.#locateFor(va, access);
    if (!(address < 0 ? address >= -limit1 : address < limit0))
      return 'the address is out of range of its half';
    const half = address < 0 ? 1 : 0;
    return (half === 1 ? epd1 : epd0)
      ? `EPD${half}=1: no walks through TTBR${half}_EL1`
      : `E0PD${half}=1: no access for EL0 through TTBR${half}_EL1`;
  }

  /**
   * AT S1E1R: would a privileged read of `va` translate by the tables as they are now? PAN does not count,
   * and it translates only, so that nobody asks whether there is memory behind it.
   *
   * @returns NO_FAULT, or the fault status code that PAR_EL1.FST would hold
   */
  at_s1e1r(va: bigint): number {
    const fault = this.#walker.walk(this.#locate(va));
    return fault === NO_FAULT ? this.#walker.check(ACCESS_READ, false, false) : fault;
  }

  translate(va: bigint, access: AccessType, user: boolean): Translation {
    const code = access === 'read' ? ACCESS_READ : access === 'write' ? ACCESS_WRITE : ACCESS_FETCH;
    const pan = !user && (this.#readPstate() & PSTATE_PAN) !== 0;
    const fault = this.faultOf(va, code, user, pan);
    const ok = fault === NO_FAULT;
    const levels = this.walkedLevels();
    return {
      ok,
      pa: ok ? this.#walker.pa + Number(va & 0xfffn) : 0,
      perms: ok ? this.#walker.usable(user, pan) : 0,
      levels,
      verdict: this.#verdict(va, code, user, pan, fault),
      at: levels[levels.length - 1]?.level ?? null,
      code: ok ? 0 : fault,
    };
  }

  #pinned(address: number): Pin | null {
    const page = Math.floor(address / 4096) * 4096;
    const pin = this.#pins.get(page);
    if (pin === undefined) return null;
    const { ttbr0, ttbr1 } = this.#control;
    return pin.root === (address < 0 ? ttbr1 : ttbr0) ? pin : null;
  }

  pin(va: bigint): boolean {
    const address = this.#locate(pageOf(va));
    const walker = this.#walker;
    if (walker.walk(address) !== NO_FAULT || walker.present() !== NO_FAULT) return false;
    // A leaf whose access flag is clear is not cached, unless hardware sets it.
    if ((walker.attr & ATTR_AF) === 0 && !this.#control.ha) return false;
    const { ttbr0, ttbr1 } = this.#control;
    this.#pins.set(address, {
      root: address < 0 ? ttbr1 : ttbr0,
      pa: walker.pa,
      attr: walker.attr,
      level: walker.level,
      levels: walker.levels(),
    });
    return true;
  }

  unpin(va: bigint | null): void {
    if (this.#pins.size === 0) return;
    if (va === null) this.#pins.clear();
    else this.#pins.delete(this.#locate(pageOf(va)));
  }
}

/** The Mmu of a CPU as this architecture made it. */
export function mmuOf(here: ThisCpu): Arm64Mmu {
  if (!(here.mmu instanceof Arm64Mmu)) throw new Error('this CPU was not set up as an arm64 CPU');
  return here.mmu;
}
