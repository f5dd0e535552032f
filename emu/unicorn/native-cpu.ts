/** One CPU on the native Unicorn engine: what both architectures have in common. */
import {
  ACCESS_FETCH,
  type AccessListener,
  type Cpu,
  type CpuOptions,
  type CpuStop,
  EngineError,
  EXCEPTION_BUS,
  type PhysicalRange,
  type Privilege,
  type RegisterSet,
  type TlbFiller,
} from '../cpu.js';
import type { Ram } from '../ram.js';
import { Arm64Part, arm64SentinelPage } from './arm64-part.js';
import { UC_ERR_EXCEPTION, UC_ERR_INSN_INVALID, UC_ERR_OK } from './constants.js';
import { CpuRegisters } from './cpu-registers.js';
import { addressKey, type PageKey, pageKey, TlbAnswers } from './fill.js';
import type { HookStop, IsaPart, SentinelPage } from './isa-part.js';
import type { UnicornLibrary } from './library.js';
import { EngineState } from './live-state.js';
import { type Isa, RawEngine, type SavedContext } from './raw-engine.js';
import { WatchHooks } from './watch-hooks.js';
import { X86Part, x86SentinelPage } from './x86-part.js';

const EXIT: CpuStop = Object.freeze({ kind: 'exit' });
const COUNT: CpuStop = Object.freeze({ kind: 'count' });
const HALT: CpuStop = Object.freeze({ kind: 'halt' });
const INVALID: CpuStop = Object.freeze({ kind: 'invalid-instruction' });
const BUS: CpuStop = Object.freeze({ kind: 'exception', number: EXCEPTION_BUS });

/** The longest instruction of either architecture, in bytes. */
const LONGEST_INSTRUCTION = 15n;
const PAGE = 0xfffn;
const NONE = -1;

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);

export class NativeCpu implements Cpu {
  readonly id: number;
  readonly sentinel: bigint;
  readonly registerNames: readonly string[];

  private readonly engine: RawEngine;
  private readonly part: IsaPart;
  private readonly answers: TlbAnswers;
  private readonly registers: CpuRegisters;
  private readonly watch: WatchHooks;
  private readonly context: SavedContext;
  /** The engine's structure, in place: two of its values are given by no call of the library. */
  private readonly structure: Uint32Array;
  private readonly structureQuads: BigUint64Array;
  /** Indices of those values, in `structure` and `structureQuads`. */
  private readonly counterAt: number;
  private readonly addressAt: number;
  private readonly sentinelPage: SentinelPage;
  private readonly sentinelBase: bigint;
  private readonly until: bigint;
  /** The same for the library: a signed number, if it can be. */
  private readonly untilKey: PageKey;

  /** Registers and privilege of a CPU that nobody has used yet. */
  private readonly initial: SavedContext;

  private state: 'idle' | 'running' | 'closed' = 'idle';
  /** True when there may be translated code: there is none before the first run. */
  private hasTranslated = false;
  /** True once a run has failed for a reason of the engine's or of a callback: for good. */
  private hasFailed = false;
  private exceptionNumber = NONE;
  private hookStop: HookStop | null = null;
  /** The limit that the run under way began with. */
  private limited = 0;
  /** What `begun` was when a hook stopped the run: the engine may count one more before it stops. */
  private hookBegun = 0;
  private executedCount = 0;

  /**
   * @param keep takes the CPU when it is closed, to hand it out again; true when it did
   * @throws EngineError when the engine cannot be opened or the ram cannot be mapped
   */
  constructor(
    library: UnicornLibrary,
    readonly isa: Isa,
    readonly ram: Ram,
    options: CpuOptions,
    private readonly keep: (cpu: NativeCpu) => boolean = () => false,
  ) {
    this.id = options.id;
    this.sentinel = u64(options.sentinel);
    this.sentinelBase = this.sentinel & ~PAGE;
    const offset = Number(this.sentinel & PAGE);
    this.sentinelPage = isa === 'x86-64' ? x86SentinelPage(offset) : arm64SentinelPage(offset);
    this.until = this.sentinelBase | BigInt(this.sentinelPage.until);
    const sentinelPa = physicalPageOutside(ram);

    this.untilKey = addressKey(this.until);
    this.answers = new TlbAnswers(
      options.filler,
      ram,
      pageKey(this.sentinel),
      sentinelPa,
      library.slots.tlbEntry,
    );
    this.engine = new RawEngine(library.bindings, isa, [
      { pa: ram.base, bytes: ram.bytes },
      { pa: sentinelPa, bytes: this.sentinelPage.bytes },
    ]);
    const layout = isa === 'x86-64' ? library.x86 : library.arm64;
    this.watch = new WatchHooks(
      this.engine,
      () => this.begun(),
      (instructions) => this.limit(instructions),
    );
    this.structure = library.slots.engine.at(this.engine.handle);
    this.structureQuads = new BigUint64Array(this.structure.buffer);
    this.counterAt = layout.emuCounter >> 2;
    this.addressAt = layout.invalidAddr >> 3;
    try {
      const live = new EngineState(this.engine, layout.live, layout.registers, this.engine.allocateContext());
      this.engine.hook({ kind: 'fill', fn: this.answers.answer });
      this.engine.hook({
        kind: 'interrupt',
        fn: (_uc, number) => {
          this.exceptionNumber = number;
          this.stopFromHook();
        },
      });
      const raise = (stop: HookStop): void => {
        this.hookStop = stop;
        this.stopFromHook();
      };
      this.part =
        isa === 'x86-64'
          ? new X86Part(this.engine, library.x86, live, raise)
          : new Arm64Part(this.engine, this.answers, raise, library.slots.systemRegister);
      if (this.part.repair !== null) this.answers.afterData = () => this.repairUnlessFirst();
      this.registers = new CpuRegisters(this.engine, this.part, live, layout.registers, {
        ensureOpen: () => this.ensureOpen(),
        ensureIdle: () => this.ensureIdle(),
      });
      this.context = this.engine.allocateContext();
      this.initial = this.engine.allocateContext();
      this.engine.saveContext(this.initial);
    } catch (error) {
      this.engine.close();
      throw error;
    }
    this.registerNames = this.registers.names;
  }

  /**
   * Instructions that the last start completed; one that only began is not counted. Each element of a
   * repeated string instruction counts as one.
   */
  get executed(): number {
    return this.executedCount;
  }

  read(register: string): bigint {
    return this.registers.read(register);
  }

  write(register: string, value: bigint): void {
    this.registers.write(register, value);
  }

  registerSet(names: readonly string[]): RegisterSet {
    return this.registers.set(names);
  }

  privilege(): Privilege {
    this.ensureOpen();
    return this.part.privilege();
  }

  setPrivilege(privilege: Privilege): void {
    this.ensureIdle();
    this.part.setPrivilege(privilege);
  }

  start(pc: bigint, count: number): CpuStop {
    this.ensureIdle();
    if (!Number.isSafeInteger(count) || count < 1) {
      throw new EngineError(`a start of ${count} instructions: the count is a whole number from 1 on`);
    }
    this.state = 'running';
    try {
      const rc = this.run(pc, count);
      return this.conclude(rc, count);
    } catch (error) {
      this.hasFailed = true;
      throw error;
    } finally {
      this.state = 'idle';
    }
  }

  flushTlbPage(va: bigint): void {
    this.ensureIdle();
    const page = u64(va) & ~PAGE;
    if (this.hasTaggedAlias(page)) this.flushTlb();
    else this.dropPage(page);
  }

  flushTlb(): void {
    this.ensureIdle();
    this.answers.tagged.clear();
    this.engine.flushTlb();
  }

  flushCode(): void {
    this.ensureIdle();
    this.dropCode();
  }

  private dropCode(): void {
    if (!this.hasTranslated) return;
    this.engine.flushCode();
    this.hasTranslated = false;
  }

  close(): void {
    if (this.state === 'closed') return;
    if (this.state === 'running') throw new EngineError(`CPU ${this.id} is running and cannot be closed`);
    this.state = 'closed';
    if (this.hasFailed || !this.keep(this)) this.free();
  }

  /** Frees the engine of a closed CPU. */
  free(): void {
    this.engine.close();
  }

  /**
   * Makes a closed CPU one that nobody has used yet: registers, privilege, TLB, translated code. Whoever
   * had it before must have forgotten it.
   * @throws EngineError when the engine fails; the CPU is of no use then
   */
  reopen(filler: TlbFiller): void {
    this.answers.restart(filler);
    this.engine.restoreContext(this.initial);
    this.engine.flushTlb();
    this.dropCode();
    this.executedCount = 0;
    this.state = 'idle';
    this.breakAt([]);
    this.tellAccesses([], () => false);
  }

  /** One run of the engine; everything that callbacks leave behind is of this run. */
  private run(pc: bigint, count: number): number {
    this.answers.reset();
    this.hasTranslated = true;
    this.exceptionNumber = NONE;
    this.hookStop = null;
    this.watch.reset();
    this.limited = count;
    const rc = this.engine.start(pc, this.untilKey, count);
    const faulted = rc === UC_ERR_EXCEPTION || this.exceptionNumber !== NONE;
    if (faulted) this.repairUnlessFirst();
    const { thrown } = this.answers;
    if (thrown !== null) throw thrown.error;
    this.watch.rethrow();
    return rc;
  }

  /** The first instruction of a start finds the engine's state settled. */
  private repairUnlessFirst(): void {
    if (this.begun() > 1) this.part.repair?.();
  }

  /** Sets the limit of the run under way, which stands behind the counter. */
  private limit(instructions: number): void {
    const { structure, counterAt } = this;
    const [low, high] = [counterAt + 2, counterAt + 3];
    if ((structure[low] ?? 0) + (structure[high] ?? 0) * 0x100000000 !== this.limited) {
      throw new EngineError('the limit of instructions is not where it was: this library is not supported');
    }
    structure[low] = instructions >>> 0;
    structure[high] = Math.floor(instructions / 0x100000000);
  }

  private stopFromHook(): void {
    this.hookBegun = this.begun();
    this.engine.stop();
  }

  breakAt(addresses: readonly bigint[]): void {
    this.ensureIdle();
    if (this.watch.breakAt(addresses)) this.dropCode();
  }

  tellAccesses(ranges: readonly PhysicalRange[], tell: AccessListener): void {
    this.ensureIdle();
    if (this.watch.tellAccesses(ranges, tell)) this.dropCode();
  }

  /** Instructions begun in the last run; one more than the limit when the limit ended it. */
  private begun(): number {
    const { structure, counterAt } = this;
    return (structure[counterAt] ?? 0) + (structure[counterAt + 1] ?? 0) * 0x100000000;
  }

  /** Why the run ended. `before` instructions were executed in an earlier part of the same start. */
  private conclude(rc: number, count: number, before = 0): CpuStop {
    const begun = this.begun();
    const { completed } = this.watch;
    // An instruction that was to be the last may still raise something.
    if (completed !== null && rc === UC_ERR_OK && this.exceptionNumber === NONE && this.hookStop === null) {
      this.executedCount = before + completed;
      return this.pc() === this.sentinel ? EXIT : COUNT;
    }
    if (this.exceptionNumber !== NONE) return this.concludeException(before + this.hookBegun);
    if (this.hookStop !== null) return this.concludeHook(this.hookStop, before + this.hookBegun);
    switch (rc) {
      case UC_ERR_EXCEPTION:
        return this.concludeRefusal(begun, count, before);
      case UC_ERR_INSN_INVALID:
        this.executedCount = before + begun - 1;
        return this.pc() === this.sentinel ? EXIT : INVALID;
      case UC_ERR_OK:
        return this.concludeReturn(begun, count, before);
      default:
        this.engine.check(rc, `running at 0x${this.pc().toString(16)}`);
        throw new EngineError(`running: ${rc}`);
    }
  }

  private concludeException(begun: number): CpuStop {
    const { stop, completed } = this.part.describeException(this.exceptionNumber);
    this.part.afterException();
    this.executedCount = completed ? begun : begun - 1;
    return stop;
  }

  private concludeHook({ stop, pc, completed }: HookStop, begun: number): CpuStop {
    this.executedCount = completed ? begun : begun - 1;
    if (pc !== null) this.setPc(pc);
    return stop;
  }

  private concludeRefusal(begun: number, count: number, before: number): CpuStop {
    const { refused, outside } = this.answers;
    if (refused === ACCESS_FETCH) return this.concludeFetch(begun, count, before, outside);
    this.executedCount = before + begun - 1;
    if (refused === 0) {
      // The engine gave up of itself.
      const misaligned = this.part.describeFetchAt(this.pc());
      if (misaligned !== null) return misaligned;
      throw new EngineError(`the engine stopped at 0x${this.pc().toString(16)} without saying why`);
    }
    return outside ? BUS : { kind: 'miss', va: this.invalidAddress(), access: refused };
  }

  /** A refused fetch comes before the instruction counts as begun. */
  private concludeFetch(executed: number, count: number, before: number, outside: boolean): CpuStop {
    this.executedCount = before + executed;
    const pc = this.pc();
    if (executed >= count) return pc === this.sentinel ? EXIT : COUNT;
    // What was not translated has called no hook, and goes on from here as from the first of a start.
    if (this.executedCount > 0 && this.watch.breaksAt(pc)) return COUNT;
    const va = this.invalidAddress();
    if (va !== pc && (pc & ~PAGE) !== (va & ~PAGE)) {
      return this.runToPageEnd(pc, va & ~PAGE, count - executed, before + executed, outside);
    }
    const misaligned = this.part.describeFetchAt(pc);
    if (misaligned !== null) return misaligned;
    return outside ? BUS : { kind: 'miss', va, access: ACCESS_FETCH };
  }

  /**
   * The engine translates a whole block before it executes any of it. When a block runs from one page
   * into one that does not translate, nothing of it has been executed, and pc is its start. So the
   * block is run once more with a page of halts as its second page, up to the instruction that really
   * needs that page, unless something else stops it earlier.
   */
  private runToPageEnd(pc: bigint, next: bigint, count: number, before: number, outside: boolean): CpuStop {
    let reached = false;
    const remove = this.engine.hookCode(
      (address, size) => {
        const left = BigInt.asIntN(64, next - BigInt(address));
        // The size of an instruction that cannot be decoded is a large number.
        if (left > 0n && BigInt(size) <= left) return;
        reached = true;
        this.engine.stop();
      },
      u64(next - LONGEST_INSTRUCTION),
      next,
    );
    try {
      this.answers.detour = pageKey(next);
      const rc = this.run(pc, count);
      if (!reached) return this.conclude(rc, count, before);
      this.executedCount = before + this.begun() - 1;
      return outside ? BUS : { kind: 'miss', va: next, access: ACCESS_FETCH };
    } finally {
      this.answers.detour = null;
      remove();
      this.dropPage(next);
    }
  }

  private concludeReturn(begun: number, count: number, before: number): CpuStop {
    const pc = this.pc();
    if (begun > count) {
      this.executedCount = before + count;
      return pc === this.sentinel ? EXIT : COUNT;
    }
    const { sentinelStep, haltStep } = this.part;
    if (pc === u64(this.sentinel + sentinelStep)) {
      this.executedCount = before + begun - 1;
      this.setPc(this.sentinel);
      return EXIT;
    }
    const at = u64(pc - haltStep);
    if (pc !== this.until && (at & ~PAGE) !== this.sentinelBase) {
      this.executedCount = before + begun;
      return HALT;
    }
    // Somewhere else in the sentinel's page: there is nothing.
    const va = pc === this.until ? pc : at;
    this.executedCount = before + (pc === this.until ? begun : begun - 1);
    this.setPc(va);
    return { kind: 'miss', va, access: ACCESS_FETCH };
  }

  /** Drops one page from the engine's TLB by executing the architecture's instruction for it. */
  private dropPage(page: bigint): void {
    const { engine, context, part } = this;
    this.hasTranslated = true;
    engine.saveContext(context);
    part.prepareFlushPage(page);
    const rc = engine.start(this.sentinelBase | BigInt(this.sentinelPage.flush), this.untilKey, 1);
    engine.restoreContext(context);
    engine.check(rc, `flushing the page 0x${page.toString(16)}`);
  }

  /** True when the TLB may hold the page under an address with a tag, which one flush would leave. */
  private hasTaggedAlias(page: bigint): boolean {
    const untagged = page & 0x00fffffffffff000n;
    for (const tagged of this.answers.tagged) {
      if ((u64(tagged) & 0x00fffffffffff000n) === untagged) return true;
    }
    return false;
  }

  /** The first byte that did not translate in the last run. */
  private invalidAddress(): bigint {
    return this.structureQuads[this.addressAt] ?? 0n;
  }

  private pc(): bigint {
    return this.engine.read(this.part.registers.pc.id);
  }

  private setPc(pc: bigint): void {
    this.engine.write(this.part.registers.pc.id, pc);
  }

  private ensureOpen(): void {
    if (this.state === 'closed') throw new EngineError(`CPU ${this.id} is closed`);
  }

  private ensureIdle(): void {
    this.ensureOpen();
    if (this.state === 'running') throw new EngineError(`CPU ${this.id} is running`);
  }
}

/** A physical page that is not in the ram, for the sentinel's code. */
function physicalPageOutside(ram: Ram): number {
  const candidate = 2 ** 40;
  return ram.end <= candidate || ram.base >= candidate + 4096 ? candidate : ram.end;
}
