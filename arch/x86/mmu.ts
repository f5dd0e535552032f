/**
 * The memory management unit of one CPU: answers the engine's TLB fills, explains refused ones, keeps
 * pinned (stale) translations, and holds what an exception leaves in the CPU and in per-CPU variables.
 */
import { fromSigned, toSigned } from '../../emu/address.js';
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessCode,
  type Cpu,
  PERM_WRITE,
  permFor,
  type RegisterSet,
} from '../../emu/cpu.js';
import type { AccessType } from '../../emu/events.js';
import type { Trace } from '../../emu/path.js';
import type { Ram } from '../../emu/ram.js';
import type { Mmu, ThisCpu, Translation } from '../arch.js';
import { FaultingInstructions } from './instruction-at.js';
import { SAVED_REGISTERS, X86PtRegs } from './regs.js';
import { ALLOWED, Control, type Refusal, verdictOf, WALKED, type WalkEnd, Walker } from './walk.js';
import type { EntriesRead } from './way.js';

/** Physical address bits of the CPU modelled; Unicorn's own walker has 40. */
export const MAXPHYADDR = 46;

/** Translation.code of an address that is refused before the walk: no page fault, but #GP or #SS. */
export const NOT_CANONICAL = -1;

const EFLAGS_AC = 0x40000;

/** Bits of entries that hardware sets. */
const A = 1 << 5;
const D = 1 << 6;

const NOT_ATTACHED = 'the walker has no CPU yet: attach() comes first';

/** Explanation of an address that is not canonical. */
const REFUSED: Translation = {
  ok: false,
  pa: 0,
  perms: 0,
  levels: [],
  verdict: 'not canonical',
  at: null,
  code: NOT_CANONICAL,
};

/** A translation that outlives its table entries. */
interface Pin {
  readonly pa: number;
  readonly rights: number;
  readonly executable: boolean;
  readonly dirty: boolean;
  /** It also outlives a load of CR3. */
  readonly global: boolean;
  readonly entries: EntriesRead;
}

/** What a CPU has beside MAXPHYADDR. Five levels and protection keys are switched on in CR4. */
export interface MmuFeatures {
  /** Pages of 1 GiB; true by default. */
  readonly gbpages?: boolean;
}

/** A stack of a CPU beside its tasks': its `enum stack_type`, and where it is (`end` is exclusive), as signed numbers. */
export interface DeclaredStack {
  readonly type: number;
  readonly begin: number;
  readonly end: number;
}

export class X86Mmu implements Mmu {
  pa = 0;
  user = false;
  /** CR2, as the last page fault of this CPU left it. */
  cr2 = 0n;
  /** local_irq_disable() state of the handler that runs on this CPU. */
  irqsDisabled = false;
  /** Exceptions being handled on this CPU, one inside the other. */
  nesting = 0;
  /** Stacks beside those of tasks, as far as somebody declared them (unwind-stacks.ts). */
  stacks: readonly DeclaredStack[] = [];

  #faulting: FaultingInstructions | null = null;
  readonly #ram: Ram;
  readonly #control: Control;
  readonly #walker: Walker;
  #cpu: Cpu | null = null;
  #trace: Trace | null = null;
  #live: RegisterSet | null = null;
  #saved: RegisterSet | null = null;
  #cr2Register: RegisterSet | null = null;
  readonly #frames: X86PtRegs[] = [];
  readonly #pins = new Map<number, Pin>();

  /** @throws RangeError when no CPU has so many physical address bits */
  constructor(ram: Ram, maxphyaddr = MAXPHYADDR, { gbpages = true }: MmuFeatures = {}) {
    if (!Number.isInteger(maxphyaddr) || maxphyaddr < 36 || maxphyaddr > 52) {
      throw new RangeError(`MAXPHYADDR is ${maxphyaddr}: x86-64 CPUs have 36 to 52 physical address bits`);
    }
    this.#ram = ram;
    this.#control = new Control(maxphyaddr, gbpages);
    this.#walker = new Walker(ram, this.#control);
  }

  attach(cpu: Cpu, trace: Trace): void {
    this.#cpu = cpu;
    this.#trace = trace;
    this.#live = cpu.registerSet(['cs', 'rflags']);
    this.#saved = cpu.registerSet(SAVED_REGISTERS);
    this.#cr2Register = cpu.registerSet(['cr2']);
  }

  refresh(): void {
    const cpu = this.#attached();
    this.#control.update(cpu.read('cr0'), cpu.read('cr3'), cpu.read('cr4'), cpu.read('efer'));
    this.cr2 = cpu.read('cr2');
    // An engine whose CPU has no protection keys has no such register, and no CR4.PKE.
    if (cpu.registerNames.includes('pkru')) this.#control.pkru = Number(cpu.read('pkru') & 0xffff_ffffn);
  }

  /** Is an address one of the 48 (with five levels 57) bits that are translated, sign-extended? */
  isCanonical(va: bigint): boolean {
    return this.#control.isCanonical(walkable(va));
  }
  /** The same of a signed number; NaN is not canonical. */
  isCanonicalNumber(va: number): boolean {
    return this.#control.isCanonical(va);
  }

  /** PKRU, of an engine that does not offer it as a register: AD and WD of the 16 keys. */
  set pkru(value: number) {
    this.#control.pkru = value;
  }

  #attached(): Cpu {
    if (this.#cpu === null) throw new Error(NOT_ATTACHED);
    return this.#cpu;
  }

  /** A page fault happened at `va`. Costs an engine call: guest code and whoever prints registers see it. */
  setCr2(va: bigint): void {
    this.cr2 = va;
    const register = this.#cr2Register;
    if (register === null) throw new Error(NOT_ATTACHED);
    register.values[0] = va;
    register.store();
  }

  /** What decodes the instructions that fault on this CPU. */
  get faulting(): FaultingInstructions {
    this.#faulting ??= new FaultingInstructions(this.#ram, this);
    return this.#faulting;
  }

  fill(page: number | bigint, access: AccessCode): number {
    // What is no number is beyond 2^53: canonical with five levels only, and exact as a page's address.
    const va = typeof page === 'number' ? page : Number(page);
    if (!this.#control.isCanonical(va)) return 0;
    const walker = this.#walker;
    if (this.#pins.size !== 0) {
      const pin = this.#pinned(va);
      if (pin !== null) {
        if (access !== ACCESS_WRITE || pin.dirty) return this.#answerPinned(pin, access);
        // A write through an entry that is not yet marked dirty walks the tables again.
        this.#pins.delete(Math.floor(va / 4096));
      }
    }
    if (walker.walk(va) !== WALKED) return 0;
    const perms = this.#usableNow(access);
    if ((perms & permFor(access)) === 0) return 0;
    const write = access === ACCESS_WRITE;
    if (!walker.accessed || (write && !walker.dirty)) this.#mark(write);
    this.pa = walker.pa;
    return walker.dirty || write ? perms : perms & ~PERM_WRITE;
  }

  /**
   * Rights of the page just walked, in the mode the CPU is in now. Guest code may have changed the mode
   * (iretq, stac) without a fetch that is asked for: the code that it went to may be in the TLB. So the CPU
   * is asked; for its flags, which cost a call of the engine, where they matter.
   */
  #usableNow(access: AccessCode): number {
    const walker = this.#walker;
    if (this.user) return walker.usable(true, false);
    if (access !== ACCESS_FETCH && !walker.isUserPage && this.#cpu?.privilege() !== 'user') {
      return walker.usable(false, false);
    }
    const live = this.#live;
    if (live === null) return walker.usable(false, false);
    live.load();
    if (((live.values[0] ?? 0n) & 3n) !== 0n) this.user = true;
    return walker.usable(this.user, (Number(live.values[1] ?? 0n) & EFLAGS_AC) !== 0);
  }

  /** Sets A in every entry of the walk, and D in the leaf for a write. */
  #mark(write: boolean): void {
    const walker = this.#walker;
    const { first, last } = walker;
    for (let place = first; place <= last; place++) {
      const bits = write && place === last ? A | D : A;
      const low = walker.entryLo[place] ?? 0;
      if ((low & bits) === bits) continue;
      const pa = walker.entryPa[place] ?? 0;
      const old = this.#ram.readU64(pa);
      const value = old | BigInt(bits);
      this.#ram.writeU64(pa, value);
      walker.entryLo[place] = low | bits;
      // What is remembered was read before. Software may put exactly that back.
      if (place !== last) walker.forget();
      const trace = this.#trace;
      if (trace === null || !trace.listening) continue;
      const level = walker.nameOf(place);
      trace.emit({ type: 'pte-write', cpu: trace.cpu, by: 'hardware', level, pa, old, value, changed: true });
    }
  }

  /** Physical address of a signed address, whatever the rights; -1 when it does not translate. */
  physical(va: number): number {
    if (!this.#control.isCanonical(va) || this.#walker.walk(va) !== WALKED) return -1;
    const pa = this.#walker.pa;
    return this.#ram.contains(pa, 4096) ? pa + ((va >>> 0) & 0xfff) : -1;
  }

  /** physical() as the TLB translates: a pinned page answers as it was. For code that has been fetched. */
  fetched(va: number): number {
    const pin = this.#pins.size === 0 ? null : this.#pinned(va);
    if (pin === null) return this.physical(va);
    return this.#ram.contains(pin.pa, 4096) ? pin.pa + ((va >>> 0) & 0xfff) : -1;
  }

  peek(va: bigint): number {
    const address = walkable(va);
    const pa = this.physical(address);
    return pa < 0 ? -1 : pa - (pa % 4096) + pageOffset(va, address);
  }

  /** May a supervisor write be made there? Returns the physical address, or -1. */
  supervisorWrite(va: number): number {
    const walker = this.#walker;
    if (!this.#control.isCanonical(va) || walker.walk(va) !== WALKED) return -1;
    // Pushes of an exception are implicit accesses: EFLAGS.AC does not help them.
    if (walker.refusal(ACCESS_WRITE, false, false) !== ALLOWED) return -1;
    return this.#ram.contains(walker.pa, 4096) ? walker.pa + ((va >>> 0) & 0xfff) : -1;
  }

  translate(va: bigint, access: AccessType, user: boolean): Translation {
    const flags = user || this.#live === null ? 0 : this.#liveFlags(this.#live);
    return this.explain(va, access, user, (flags & EFLAGS_AC) !== 0);
  }

  #liveFlags(live: RegisterSet): number {
    live.load();
    return Number(live.values[1] ?? 0n);
  }

  /**
   * translate() with EFLAGS.AC given. A pinned page answers as the TLB would. An implicit access (to a
   * descriptor table, or the push of an exception) is one of no user, with AC clear.
   */
  explain(va: bigint, access: AccessType, user: boolean, ac: boolean): Translation {
    const address = walkable(va);
    if (!this.#control.isCanonical(address)) return REFUSED;
    const code = accessCode(access);
    const walker = this.#walker;
    const pinned = this.#pins.size !== 0 ? this.#pinned(address) : null;
    const stale = pinned !== null && (access !== 'write' || pinned.dirty);
    let end: WalkEnd = WALKED;
    if (stale) this.#load(pinned);
    else end = walker.walk(address);
    const refusal: Refusal = end === WALKED ? walker.refusal(code, user, ac) : ALLOWED;
    const ok = end === WALKED && refusal === ALLOWED;
    const verdict = verdictOf(end, refusal);
    return {
      ok,
      pa: ok ? walker.pa + pageOffset(va, address) : 0,
      perms: ok ? walker.usable(user, ac) : 0,
      levels: walker.levels(this.#ram.words64),
      verdict: stale ? `${verdict} (stale TLB entry)` : verdict,
      at: ok || end !== WALKED ? walker.nameOf(walker.last) : walker.decidingLevel(refusal),
      code: ok ? 0 : walker.errorCode(end, code, user),
    };
  }

  #pinned(va: number): Pin | null {
    return this.#pins.get(Math.floor(va / 4096)) ?? null;
  }

  /** Makes a pinned translation the walker's last one. */
  #load(pin: Pin): void {
    const walker = this.#walker;
    walker.pa = pin.pa;
    walker.rights = pin.rights;
    walker.executable = pin.executable;
    walker.dirty = pin.dirty;
    walker.accessed = true;
    walker.setEntries(pin.entries);
  }

  #answerPinned(pin: Pin, access: AccessCode): number {
    this.#load(pin);
    const perms = this.#usableNow(access);
    if ((perms & permFor(access)) === 0) return 0;
    this.pa = pin.pa;
    return pin.dirty ? perms : perms & ~PERM_WRITE;
  }

  pin(va: bigint): boolean {
    const address = walkable(va);
    const walker = this.#walker;
    const control = this.#control;
    if (!control.isCanonical(address) || walker.walk(address) !== WALKED) return false;
    // An entry comes into the TLB by being used.
    if (!walker.accessed) this.#mark(false);
    this.#pins.set(Math.floor(address / 4096), {
      pa: walker.pa,
      rights: walker.rights,
      executable: walker.executable,
      dirty: walker.dirty,
      global: control.pge && walker.isGlobal,
      entries: walker.copyEntries(),
    });
    return true;
  }

  unpin(va: bigint | null): void {
    if (this.#pins.size === 0) return;
    if (va === null) this.#pins.clear();
    else this.#pins.delete(Math.floor(walkable(va) / 4096));
  }

  /**
   * What a load of CR3 does to pinned pages: global ones (G in the leaf, CR4.PGE set) stay. `refresh` reads
   * the new root. SDM volume 3, "Operations that Invalidate TLBs and Paging-Structure Caches".
   */
  loadedCr3(): void {
    for (const [page, { global }] of this.#pins) if (!global) this.#pins.delete(page);
  }

  /** Addresses of the pinned pages. */
  pinnedPages(): bigint[] {
    return [...this.#pins.keys()].map((page) => fromSigned(page * 4096));
  }

  /** Takes the registers of an exception: one engine call. Give the frame back with `release`. */
  capture(): X86PtRegs {
    const saved = this.#saved;
    if (saved === null) throw new Error(NOT_ATTACHED);
    saved.load();
    let regs = this.#frames[this.nesting];
    if (regs === undefined) {
      regs = new X86PtRegs();
      this.#frames[this.nesting] = regs;
    }
    this.nesting += 1;
    regs.capture(saved);
    return regs;
  }

  /** Ends the handling of the exception whose frame was captured last. */
  release(): void {
    this.nesting -= 1;
  }
}

/** An address as the walker takes it: a signed number, beyond 2^53 that of its page, which is exact. */
function walkable(va: bigint): number {
  const address = toSigned(va);
  return Number.isNaN(address) ? Number(BigInt.asIntN(64, va & ~0xfffn)) : address;
}

/** Offset in its page of an address, given in both forms. */
function pageOffset(va: bigint, address: number): number {
  return Number.isSafeInteger(address) ? (address >>> 0) & 0xfff : Number(va & 0xfffn);
}

function accessCode(access: AccessType): AccessCode {
  return access === 'read' ? ACCESS_READ : access === 'write' ? ACCESS_WRITE : ACCESS_FETCH;
}

/** The Mmu of a CPU as this architecture made it. */
export function mmuOf(here: ThisCpu): X86Mmu {
  if (!(here.mmu instanceof X86Mmu)) throw new Error('this CPU was not set up as an x86-64 CPU');
  return here.mmu;
}
