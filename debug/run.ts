/**
 * One life of a fixture's machine, from the start to wherever it is run: what is ticked, where it can stop, and what
 * is known of the way behind it. Going back is another life, run to an earlier tick.
 */
import type { CpuStop, Engine } from '../emu/cpu.js';
import type { DecideEvent, EnterEvent, Event, LeaveEvent } from '../emu/events.js';
import type { Delegate, Step as PathStep, Path as Running } from '../emu/path.js';
import type { Guest, RunWatch } from '../emu/run.js';
import type { Image } from '../vector/build/assemble-text.js';
import { buildMachine } from '../vector/build/build-machine.js';
import type { Failure } from '../vector/checks/failure.js';
import type { Fixture } from '../vector/format/load.js';
import { Names } from '../vector/format/names.js';
import type { Step } from '../vector/format/schema-steps.js';
import type { SystemMachine } from '../vector/machine/system-machine.js';
import type { FixtureResult } from '../vector/run/result.js';
import { failureResult, stepsResult } from '../vector/run/run-fixture.js';
import { type StepObserver, type StepSpan, type StepsResult, stepsPath } from '../vector/run/run-steps.js';
import type { Place } from './position.js';
import type { StopReason } from './stop.js';

export type PathEvent = EnterEvent | DecideEvent | LeaveEvent;

/** A place where a run can stop. */
export type At =
  /** Guest code goes on. `retried`: the instruction has been here and faulted. */
  | { readonly kind: 'code'; readonly cpu: number; readonly retried: boolean }
  /** `level`: calls of ported functions that are open, with the one that is entered or returns. */
  | { readonly kind: 'event'; readonly event: PathEvent; readonly level: number }
  | {
      readonly kind: 'step';
      readonly phase: 'begins' | 'ended';
      readonly path: readonly (string | number)[];
    };

/** What a run is to stop for. */
export interface Goal {
  /** The tick at which it stops whatever there is; infinite for none. */
  readonly tick: number;
  /** Every instruction is a place; else those at `addresses` are, and where code begins. */
  readonly everyInstruction: boolean;
  readonly addresses: readonly bigint[];
  /** Asked at each place; null: on. */
  check(at: At, run: MachineRun): StopReason | null;
  /** Before guest code starts on a CPU, and after it: what the latter says stops the run at the next place. */
  starting?(cpu: number, run: MachineRun): void;
  ran?(stop: CpuStop, run: MachineRun): StopReason | null;
  /** Told each event; what it says stops the run at the next place, or at this one if it is a path's step. */
  notice(event: Event, run: MachineRun): StopReason | null;
}

/** A goal that is nothing but a tick. */
export function toTick(tick: number): Goal {
  return { tick, everyInstruction: false, addresses: [], check: () => null, notice: () => null };
}

/** Ticks at which guest code could be stopped, one by one: `from` to `to`, both included. */
export interface CodeSpan {
  readonly from: number;
  to: number;
  /** See MachineRun.nesting. */
  readonly nesting: number;
  readonly cpu: number;
}

/** A step of a path that was gone through. */
export interface PathMark {
  readonly tick: number;
  readonly level: number;
  readonly nesting: number;
  /** Its index among the machine's events. */
  readonly event: number;
}

export interface StepMark {
  readonly tick: number;
  readonly phase: 'begins' | 'ended';
  readonly path: readonly (string | number)[];
}

/** A step of the fixture that has begun. */
export interface StepRecord {
  readonly step: Step;
  readonly path: readonly (string | number)[];
  readonly behind: string | null;
  /** How many failures there were before it, and behind it; null while it is under way. */
  readonly before: number;
  after: number | null;
}

/** A run of guest code, or a call into the kernel from outside. */
interface Frame {
  readonly kind: 'run' | 'call';
  readonly cpu: number;
  /** Calls of ported functions that are open in it. */
  level: number;
  /** The instruction that faulted is tried again. */
  retried: boolean;
  /** Index of the first event behind what ran last in it: where its path begins. */
  pathStart: number;
}

/** Milliseconds that a run goes on without letting others in: whoever wants to interrupt it, say. */
const BREATH = 15;
/** Instructions between two looks at the clock: the most, the fewest, and to begin with. */
const BREATH_INSTRUCTIONS = 2_000_000;
const BREATH_INSTRUCTIONS_MIN = 1000;
const BREATH_INSTRUCTIONS_FIRST = 20_000;

export class MachineRun implements RunWatch, StepObserver {
  readonly machine: SystemMachine;
  tick = 0;
  instructions = 0;
  place: Place = 'start';
  cpu = 0;
  /** The step of a path at which it stands. */
  at: At | null = null;
  readonly code: CodeSpan[] = [];
  readonly marks: PathMark[] = [];
  readonly stepMarks: StepMark[] = [];
  readonly steps: StepRecord[] = [];
  failures: readonly Failure[] = [];
  result: FixtureResult | null = null;

  readonly #path: Iterator<PathStep, StepsResult, void>;
  readonly #begin = performance.now();
  #names: Names | null = null;
  #goal: Goal = toTick(0);
  /** Why it is to stop, or stands still. */
  #reason: StopReason | null = null;
  #breathing = false;
  /** Not per move: one short move behind the other would never let anybody in. */
  #lastBreath = performance.now();
  /** Instructions between two looks at the clock: fewer where they take long, because their accesses are told. */
  #stride = BREATH_INSTRUCTIONS_FIRST;
  #strideBegin = 0;
  /** What is under way, the innermost last; the first is the fixture itself. */
  readonly #frames: Frame[] = [{ kind: 'call', cpu: 0, level: 0, retried: false, pathStart: 0 }];
  #lastPath: readonly [start: number, end: number] = [0, 0];
  /** A call into the kernel has just ended: an outcome behind it is its own. */
  #callEnded = false;
  #closed = false;

  /** Builds a machine that stands at tick 0. Throws what buildMachine() throws. */
  static async build(fixture: Fixture, engine: Engine): Promise<MachineRun> {
    const { machine, images } = await buildMachine(fixture, engine);
    return new MachineRun(fixture, machine, images);
  }

  private constructor(
    readonly fixture: Fixture,
    machine: SystemMachine,
    readonly images: readonly Image[],
  ) {
    this.machine = machine;
    const { length } = machine.events;
    this.#frame.pathStart = length;
    this.#lastPath = [length, length];
    const sink = { emit: (event: Event) => this.#emit(event) };
    for (const { trace } of machine.system.cpus) {
      trace.sink = sink;
      trace.watch = this;
      // However long a user thinks: no limit of time applies.
      trace.patience = { ...trace.patience, now: () => 0 };
    }
    this.#path = stepsPath(fixture, machine, this)[Symbol.iterator]();
  }

  /** Names that expressions of the fixture may use, whether or not they have a value now. */
  get names(): Names {
    this.#names ??= new Names(this.fixture.data);
    return this.#names;
  }

  /** Where code on a CPU goes on; in a path, where the exception says. */
  pcOf(cpu: number): bigint {
    return this.register(cpu, this.machine.arch.pcRegister);
  }

  spOf(cpu: number): bigint {
    return this.register(cpu, this.machine.registerNames.includes('rsp') ? 'rsp' : 'sp');
  }

  /** A register; in a path, a general one is that of the code that is handled. */
  register(cpu: number, name: string): bigint {
    const here = this.machine.system.here(cpu);
    const saved = here.regs === null ? undefined : here.arch.savedRegister(here.regs, name);
    if (saved !== undefined) return saved;
    return this.nesting === 1 ? this.machine.readRegister(cpu, name) : here.cpu.read(name);
  }

  get ended(): boolean {
    return this.place === 'end';
  }

  /** Calls of ported functions that are open, since code ran last. */
  get level(): number {
    return this.#frame.level;
  }

  /** Runs of guest code under way, one inside the other. */
  get depth(): number {
    return this.#frames.reduce((sum, { kind }) => sum + (kind === 'run' ? 1 : 0), 0);
  }

  /** Guest code of a CPU is under way, or was left for a path: its registers are those of code. */
  hasCode(cpu: number): boolean {
    return this.#frames.some((frame) => frame.kind === 'run' && frame.cpu === cpu);
  }

  /** Runs and calls into the kernel under way, one inside the other. */
  get nesting(): number {
    return this.#frames.length;
  }

  get #frame(): Frame {
    const frame = this.#frames.at(-1);
    if (frame === undefined) throw new Error('there is always a frame');
    return frame;
  }

  /**
   * Runs on until the goal stops it, or the end.
   * @param breathe called now and then; true ends the run where it is
   * @returns why it stopped; null at the goal's tick, at the end, and when `breathe` said so
   */
  async go(goal: Goal, breathe: () => Promise<boolean>): Promise<StopReason | null> {
    if (this.ended || this.tick >= goal.tick) return null;
    this.#goal = goal;
    this.#reason = null;
    for (const { cpu } of this.machine.system.cpus) {
      cpu.breakAt?.(goal.everyInstruction ? [] : goal.addresses);
      cpu.tellAccesses?.([], () => false);
    }
    for (;;) {
      if (this.#isOutOfBreath) {
        if (await breathe()) return null;
        this.#lastBreath = performance.now();
      }
      this.#resume();
      if (!this.#breathing) return this.#reason;
      this.#breathing = false;
    }
  }

  get #isOutOfBreath(): boolean {
    return performance.now() - this.#lastBreath > BREATH;
  }

  #adaptStride(): void {
    const took = performance.now() - this.#strideBegin;
    if (took > BREATH) this.#stride = Math.max(BREATH_INSTRUCTIONS_MIN, Math.floor(this.#stride / 4));
    else if (took < BREATH / 8) this.#stride = Math.min(BREATH_INSTRUCTIONS, this.#stride * 2);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.machine.close();
  }

  #resume(): void {
    for (const { trace } of this.machine.system.cpus) trace.pausing = false;
    try {
      const turn = this.#path.next();
      if (turn.done !== true) return;
      this.#end(stepsResult(this.fixture, this.machine, turn.value, performance.now() - this.#begin));
    } catch (error) {
      const result = failureResult(this.fixture, error);
      if (result === null) throw error;
      this.#end(result);
    }
  }

  #end(result: FixtureResult): void {
    this.tick += 1;
    this.place = 'end';
    this.at = null;
    this.result = result;
    this.#reason = { kind: 'end', status: result.status };
    this.#breathing = false;
  }

  /** A place: true when the run is to stop here. */
  #stopAt(at: At): boolean {
    this.at = at;
    const reason = this.#goal.check(at, this);
    this.#reason ??= reason;
    return this.#reason !== null || this.tick >= this.#goal.tick;
  }

  #emit(event: Event): void {
    this.machine.log.emit(event);
    switch (event.type) {
      case 'enter':
      case 'decide':
      case 'leave':
        this.#pathEvent(event);
        return;
      case 'run':
        this.#push('run', event.cpu);
        break;
      case 'host-call':
        if (event.phase === 'start') this.#push('call', event.cpu);
        else this.#pop();
        break;
      case 'outcome':
        if (!this.#callEnded) this.#pop();
        break;
      case 'resolved':
        // The kernel may have died in the middle of its path.
        this.#frame.level = 0;
        this.#frame.retried = event.how === 'retry';
        break;
      default:
        break;
    }
    this.#callEnded = event.type === 'host-call' && event.phase === 'end';
    this.#notice(event);
  }

  /** Everything is told, also behind what stops the run: a place may be a hit of several breakpoints. */
  #notice(event: Event): void {
    const reason = this.#goal.notice(event, this);
    this.#reason ??= reason;
  }

  #push(kind: Frame['kind'], cpu: number): void {
    this.#frames.push({ kind, cpu, level: 0, retried: false, pathStart: this.machine.events.length });
  }

  #pop(): void {
    this.#keepPath();
    this.#frames.pop();
  }

  /** Code is about to run, or to end: what the kernel did before is over. */
  #keepPath(): void {
    const frame = this.#frame;
    const { length } = this.machine.events;
    const lastMark = this.marks.at(-1)?.event ?? -1;
    if (lastMark >= frame.pathStart) this.#lastPath = [frame.pathStart, length];
    frame.pathStart = length;
  }

  /** Events of the path that is under way, or else of the last one: first and behind the last. */
  get pathRange(): readonly [start: number, end: number] {
    return this.place === 'path' ? [this.#frame.pathStart, this.machine.events.length] : this.#lastPath;
  }

  #pathEvent(event: PathEvent): void {
    const { cpu } = event;
    this.cpu = cpu;
    this.tick += 1;
    this.place = 'path';
    const frame = this.#frame;
    const level = event.type === 'enter' ? frame.level + 1 : frame.level;
    frame.level = event.type === 'leave' ? Math.max(0, level - 1) : level;
    this.#callEnded = false;
    this.marks.push({ tick: this.tick, level, nesting: this.nesting, event: this.machine.events.length - 1 });
    this.#notice(event);
    if (this.#stopAt({ kind: 'event', event, level })) this.machine.system.here(cpu).trace.pausing = true;
  }

  *before(guest: Guest): Running<number> {
    const { cpu } = guest.trace;
    this.#keepPath();
    const { retried } = this.#frame;
    this.#frame.retried = false;
    this.cpu = cpu;
    const last = this.code.at(-1);
    if (this.place !== 'code' || last === undefined || last.to !== this.tick || last.cpu !== cpu) {
      // Code is come to from elsewhere: that is a place of its own.
      this.tick += 1;
      this.code.push({ from: this.tick, to: this.tick, nesting: this.nesting, cpu });
    }
    this.place = 'code';
    if (this.#stopAt({ kind: 'code', cpu, retried })) {
      yield* guest.trace.pause(undefined);
    } else if (this.#isOutOfBreath) {
      this.#breathing = true;
      yield* guest.trace.pause(undefined);
    }
    this.#goal.starting?.(cpu, this);
    const { everyInstruction, addresses } = this.#goal;
    // An engine that cannot break by itself goes step by step.
    if (everyInstruction || (addresses.length > 0 && guest.cpu.breakAt === undefined)) return 1;
    this.#strideBegin = performance.now();
    return Math.max(1, Math.min(this.#goal.tick - this.tick, this.#stride));
  }

  after(guest: Guest, stop: CpuStop, executed: number): Delegate<void> {
    this.instructions += executed;
    this.tick += executed;
    if (executed === this.#stride) this.#adaptStride();
    const span = this.code.at(-1);
    if (span !== undefined) {
      // Where an instruction stands that stopped can be stopped at, but nothing is executed at the sentinel.
      const over = stop.kind !== 'count' && guest.cpu.read(guest.pcRegister) === guest.cpu.sentinel;
      span.to = (stop.kind === 'exit' || over) && executed > 0 ? this.tick - 1 : this.tick;
    }
    if (stop.kind !== 'count') this.place = 'path';
    const reason = this.#goal.ran?.(stop, this) ?? null;
    this.#reason ??= reason;
    return guest.trace.immediate(undefined);
  }

  begins(
    step: Step,
    path: readonly (string | number)[],
    behind: string | null,
    failures: readonly Failure[],
  ): Delegate<void> {
    this.failures = failures;
    this.steps.push({ step, path, behind, before: failures.length, after: null });
    return this.#boundary('begins', path);
  }

  ends(_span: StepSpan, path: readonly (string | number)[]): Delegate<void> {
    const record = this.steps.findLast((each) => each.path === path);
    if (record !== undefined) record.after = this.failures.length;
    return this.#boundary('ended', path);
  }

  #boundary(phase: 'begins' | 'ended', path: readonly (string | number)[]): Delegate<void> {
    this.tick += 1;
    // A step in the middle of a path leaves the path where it is.
    if (this.depth === 0 && this.level === 0) this.place = 'between';
    this.stepMarks.push({ tick: this.tick, phase, path });
    const { trace } = this.machine.system.here(this.cpu);
    return this.#stopAt({ kind: 'step', phase, path }) ? trace.pause(undefined) : trace.immediate(undefined);
  }
}
