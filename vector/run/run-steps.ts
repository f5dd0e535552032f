/** Runs the steps of a fixture on its machine and checks what each of them expects. */

import { UseAfterFree } from '../../bpf/arena/arena_work.js';
import type { Event, RunOutcome } from '../../emu/events.js';
import { type Delegate, drain, type Path as Running } from '../../emu/path.js';
import { RamError } from '../../emu/ram.js';
import type { RaisedStop } from '../../emu/run.js';
import { GuestRefusal } from '../../kernel/guest-refusal.js';
import type { ConsoleFormat } from '../../kernel/printk.js';
import { LockError } from '../../kernel/rqspinlock.js';
import { GFP_KERNEL } from '../../mm/slab-cache.js';
import { isRefusal } from '../build/data-pages.js';
import { checkHappened } from '../checks/check-happened.js';
import { checkEnd, checkRun, checkTexts } from '../checks/check-run.js';
import { checkState, requireRegister, wantedBytes } from '../checks/check-state.js';
import { Checks, type Failure } from '../checks/failure.js';
import type { Expression } from '../format/bound-expression.js';
import { errnoText } from '../format/errno-text.js';
import type { Fixture } from '../format/load.js';
import type { HappenedExpect } from '../format/schema-arena.js';
import type { OutcomeExpect, StateExpect } from '../format/schema-expect.js';
import {
  type AllocStep,
  type CallStep,
  type DebugfsStep,
  type KfenceStep,
  type MeanwhileData,
  type PagesStep,
  type PteStep,
  type Raise,
  type ReadStep,
  type SlabStep,
  type Step,
  type StreamReadStep,
  stepsOf,
  type TestRunStep,
  type TlbStep,
  type UserStep,
  VECTORS,
  type WriteStep,
} from '../format/schema-steps.js';
import type { Path } from '../format/source.js';
import { CallEnded } from '../machine/host-call.js';
import { type KfenceMachine, type Machine, type SlabCall, StepRefusal } from '../machine/machine.js';
import { Meanwhile } from './meanwhile.js';
import { isSyscall, syscall } from './run-arena-steps.js';
import { streamRead, testRun } from './run-bpf-steps.js';

/** include/linux/err.h */
const MAX_ERRNO = 4095;

/** Events of one step: from `start` up to `end` (exclusive) of the machine's events. */
export interface StepSpan {
  readonly step: Step;
  readonly start: number;
  readonly end: number;
  /** The decision behind which it ran, of a step in the middle of another one; null for others. */
  readonly behind: string | null;
  /** Steps that ran in the middle of it: their events are among its own. */
  readonly inner: readonly StepSpan[];
}

/** A step's own events, without those of steps in the middle of it. */
export function ownEvents(
  events: readonly Event[],
  { start, end, inner }: Pick<StepSpan, 'start' | 'end' | 'inner'>,
): Event[] {
  const parts: (readonly Event[])[] = [];
  let from = start;
  for (const span of inner) {
    parts.push(events.slice(from, span.start));
    from = span.end;
  }
  parts.push(events.slice(from, end));
  // Not spread into a call: a step can have more events than a call can have arguments.
  return parts.flat();
}

/** What is expected of a step that calls the kernel from outside guest code, or of any other that runs no code. */
type CalledExpect = StateExpect &
  HappenedExpect & { readonly outcome?: OutcomeExpect | undefined; readonly ret?: Expression | undefined };

export interface StepsResult {
  readonly failures: readonly Failure[];
  readonly spans: readonly StepSpan[];
}

/** Who wants to know where steps begin and end, and may stop there. */
export interface StepObserver {
  /** @param failures what has failed so far; it grows */
  begins(step: Step, path: Path, behind: string | null, failures: readonly Failure[]): Delegate<void>;
  /** Its expectations have been looked at. */
  ends(span: StepSpan, path: Path): Delegate<void>;
}

/**
 * Runs all steps in order, whether or not expectations hold; what must hold at the end is checked last.
 * Throws a FixtureError for what only the machine can refuse: an unknown register, an unmapped address.
 */
export function runSteps(fixture: Fixture, machine: Machine): StepsResult {
  return drain(stepsPath(fixture, machine));
}

/** The same as a path that can be stopped in: at the ends of steps, in guest code, and in the kernel's paths. */
export function* stepsPath(
  fixture: Fixture,
  machine: Machine,
  observer: StepObserver | null = null,
): Running<StepsResult> {
  const runner = new StepRunner(fixture, machine, observer);
  const spans: StepSpan[] = [];
  for (const [i, step] of fixture.data.steps.entries()) spans.push(yield* runner.step(step, ['steps', i]));
  const { expect } = fixture.data;
  if (expect !== undefined) {
    try {
      runner.expectState(expect, ['expect'], 0, machine.events);
    } catch (error) {
      throw mistake(fixture, ['expect'], error);
    }
  }
  return { failures: runner.checks.failures, spans };
}

/**
 * What was thrown at a place of the fixture: what the machine's memory management throws there (page tables bent by
 * the fixture, ram used up, an arena that is gone) is the fixture's mistake.
 */
function mistake({ source }: Fixture, path: Path, error: unknown): unknown {
  const isFixtures =
    error instanceof StepRefusal ||
    error instanceof GuestRefusal ||
    error instanceof UseAfterFree ||
    error instanceof RamError ||
    error instanceof LockError ||
    isRefusal(error);
  return isFixtures ? source.at(path, error.message) : error;
}

/** How a fixture writes the lines of the kernel log. */
export function consoleFormat({ data }: Fixture): ConsoleFormat {
  const { levels = false, time = false, caller = false } = data.console ?? {};
  return { levels, time, caller };
}

class StepRunner {
  readonly checks: Checks;
  /** Steps under way, one in the middle of the other: the spans of those in their middle so far. */
  readonly #underWay: StepSpan[][] = [];

  constructor(
    readonly fixture: Fixture,
    readonly machine: Machine,
    readonly observer: StepObserver | null,
  ) {
    this.checks = new Checks(fixture.source, machine, consoleFormat(fixture));
  }

  /** Runs a step and checks what it expects. */
  *step(step: Step, path: Path, behind: string | null = null): Running<StepSpan> {
    const { machine, fixture, observer } = this;
    if (observer !== null) yield* observer.begins(step, path, behind, this.checks.failures);
    const start = machine.events.length;
    const inner: StepSpan[] = [];
    this.#underWay.push(inner);
    try {
      yield* this.#watched(step, path, start);
    } catch (error) {
      throw mistake(fixture, path, error);
    }
    this.#underWay.pop();
    const span = { step, start, end: machine.events.length, behind, inner };
    this.#underWay.at(-1)?.push(span);
    if (observer !== null) yield* observer.ends(span, path);
    return span;
  }

  /** Runs a step while its places are waited for; whoever waited before does not hear of it. */
  *#watched(step: Step, path: Path, start: number): Running<void> {
    const { machine, fixture } = this;
    const cpu = step.cpu ?? 0;
    const places = 'meanwhile' in step ? (step.meanwhile ?? []) : [];
    const meanwhile = new Meanwhile(places, (index) => this.#place(places, index, path));
    const before = machine.watch(cpu, places.length === 0 ? null : (fn, test) => meanwhile.decided(fn, test));
    try {
      yield* this.#failing(step, path, start);
    } finally {
      before();
    }
    const missed = meanwhile.missed(fixture.source, path);
    if (missed !== null) throw missed;
  }

  /** Runs the steps that wait for a decision. */
  *#place(places: readonly MeanwhileData[], index: number, path: Path): Running<void> {
    const place = places[index];
    if (place === undefined) return;
    for (const [i, each] of stepsOf(place).entries()) {
      const at = [...path, 'meanwhile', index, 'steps', i];
      yield* this.step(each, at, `${place.at.fn}: ${place.at.test}`);
    }
  }

  /** Runs a step in which something is to fail. */
  #failing(step: Step, path: Path, start: number): Delegate<void> {
    const { machine, fixture } = this;
    const inject = 'inject' in step ? (step.inject ?? null) : null;
    return machine.arenas.failing(
      inject,
      () => this.#toItsEnd(step, path, start),
      (what) => {
        throw fixture.source.error(
          fixture.source.keyPlace([...path, 'inject', what]),
          `\`${what}\` was to fail in this step, but it was not tried (often enough)`,
        );
      },
    );
  }

  /** The events of the step under way since `start`, without those of steps in its middle. */
  #events(start: number): Event[] {
    const { events } = this.machine;
    return ownEvents(events, { start, end: events.length, inner: this.#underWay.at(-1) ?? [] });
  }

  /** Runs a step also where the kernel does not come back from what it calls. */
  *#toItsEnd(step: Step, path: Path, start: number): Running<void> {
    try {
      yield* this.run(step, path, start);
    } catch (thrown) {
      if (!(thrown instanceof CallEnded)) throw thrown;
      const expect: CalledExpect | undefined = 'expect' in step ? step.expect : undefined;
      const at = [...path, 'expect'];
      checkEnd(this.checks, expect?.outcome, at, thrown.outcome, this.#events(start));
      this.checks.number('ret', [...at, 'ret'], expect?.ret, null);
      this.#expectAfter(expect, path, step.cpu ?? 0, start);
    }
  }

  *run(step: Step, path: Path, start: number): Running<void> {
    const { machine } = this;
    const cpu = step.cpu ?? 0;
    if (step.advance !== undefined) machine.advance(Math.round(step.advance * 1_000_000));
    if ('call' in step || 'user' in step) yield* this.#code(step, path, cpu, start);
    else if ('test_run' in step) yield* this.#testRun(step, path, cpu, start);
    else if ('kfunc' in step) yield* this.#kfunc(step, path, cpu, start);
    else if ('kernel' in step) {
      yield* machine.runDeferred(cpu);
      this.#expectStep(step.expect, path, cpu, start);
    } else if ('stream_read' in step) yield* this.#streamRead(step, path, cpu, start);
    else if ('write' in step) this.#write(step, path, cpu, start);
    else if ('read' in step) this.#read(step, path, cpu, start);
    else if ('pte' in step) this.#pte(step, path, cpu, start);
    else if ('tlb' in step) this.#tlb(step, path, cpu, start);
    else if ('slab' in step) yield* this.#slab(step, path, cpu, start);
    else if ('kfence' in step) this.#kfence(step, path, cpu, start);
    else if ('debugfs' in step) this.#debugfs(step, path, cpu, start);
    else if ('check' in step) this.expectState(step.check, [...path, 'check'], cpu, machine.events);
    else if ('exit' in step) {
      yield* machine.arenas.exit(cpu, step.exit);
      this.#expectStep(step.expect, path, cpu, start);
    } else if (isSyscall(step)) {
      const ret = yield* syscall(machine, cpu, step);
      this.#answer(step.expect?.ret, path, ret);
      this.#expectStep(step.expect, path, cpu, start);
    } else {
      yield* machine.destroyArena(cpu, step.destroy);
      this.#expectStep(step.expect, path, cpu, start);
    }
  }

  /** What a system call answers: what is expected, or anything but an errno. */
  #answer(expected: Expression | undefined, path: Path, ret: bigint): void {
    const at = [...path, 'expect', 'ret'];
    this.checks.number('ret', at, expected, ret);
    const err = Number(BigInt.asIntN(64, ret));
    if (expected !== undefined || err >= 0 || err < -MAX_ERRNO) return;
    this.checks.fail('ret', at, 'no error', errnoText(err));
  }

  expectState(expect: StateExpect, path: Path, cpu: number, events: readonly Event[]): void {
    checkState(this.checks, expect, path, cpu);
    checkTexts(this.checks, expect, path, events);
  }

  #expectStep(expect: CalledExpect | undefined, path: Path, cpu: number, start: number): void {
    if (expect === undefined) return;
    const came: RunOutcome = { kind: 'returned' };
    checkEnd(this.checks, expect.outcome, [...path, 'expect'], came, this.#events(start));
    this.#expectAfter(expect, path, cpu, start);
  }

  /** What must hold behind a call, however it ended. */
  #expectAfter(expect: CalledExpect | undefined, path: Path, cpu: number, start: number): void {
    if (expect === undefined) return;
    const events = this.#events(start);
    this.expectState(expect, [...path, 'expect'], cpu, events);
    checkHappened(this.checks, expect, [...path, 'expect'], cpu, events);
  }

  *#code(step: CallStep | UserStep, path: Path, cpu: number, start: number): Running<void> {
    const { machine } = this;
    const registers = new Map<string, bigint>();
    for (const [name, value] of Object.entries(step.registers ?? {})) {
      const at = [...path, 'registers', name];
      requireRegister(this.checks, name, at);
      if (name === machine.arch.pcRegister) {
        const { source } = this.fixture;
        const key = 'call' in step ? 'call' : 'user';
        throw source.error(
          source.keyPlace(at),
          `\`${name}\` is where the step begins: the key ${key} says it`,
        );
      }
      registers.set(name, value.value(machine.scope));
    }
    const raised = this.#raised(step.raise);
    const run = (): Delegate<RunOutcome> =>
      'call' in step
        ? machine.call(
            cpu,
            step.call.value(machine.scope),
            registers,
            {
              in_interrupt: step.context?.in_interrupt ?? 0,
              pagefault_disabled: step.context?.pagefault_disabled ?? 0,
              preempt_count: step.context?.preempt_count ?? 0,
              irqs_disabled: step.context?.irqs_disabled ?? false,
            },
            raised,
          )
        : machine.user(cpu, step.user.value(machine.scope), registers, raised, step.process ?? null);
    const allocations = 'call' in step ? (step.allocations ?? []) : [];
    const outcome = yield* machine.kfence === null ? run() : machine.kfence.during(allocations, [], run);
    const events = this.#events(start);
    checkRun(this.checks, step.expect, [...path, 'expect'], outcome, events);
    if (step.expect === undefined) return;
    checkState(this.checks, step.expect, [...path, 'expect'], cpu);
    checkHappened(this.checks, step.expect, [...path, 'expect'], cpu, events);
  }

  *#testRun(step: TestRunStep, path: Path, cpu: number, start: number): Running<void> {
    const { machine } = this;
    const outcome = yield* testRun(machine, cpu, step);
    const { expect } = step;
    const events = this.#events(start);
    checkRun(this.checks, expect, [...path, 'expect'], outcome, events);
    if (expect === undefined) return;
    const returned = outcome.kind === 'returned' ? machine.bpf.returned(cpu) : null;
    this.checks.number('returns', [...path, 'expect', 'returns'], expect.returns, returned, 32);
    checkState(this.checks, expect, [...path, 'expect'], cpu);
    checkHappened(this.checks, expect, [...path, 'expect'], cpu, events);
  }

  #raised(raise: Raise): RaisedStop | null {
    if (raise === undefined) return null;
    const { scope } = this.machine;
    const value = (expression: Expression | undefined): bigint => expression?.value(scope) ?? 0n;
    return 'exception' in raise
      ? {
          kind: 'raised',
          number: VECTORS[raise.exception],
          syndrome: value(raise.error_code),
          address: value(raise.address),
        }
      : { kind: 'raised', number: 0, syndrome: value(raise.esr), address: value(raise.far) };
  }

  /** Only steps of a fixture with the key kfence get here. */
  get #guards(): KfenceMachine {
    const { kfence } = this.machine;
    if (kfence === null) throw new StepRefusal('this machine has no KFENCE');
    return kfence;
  }

  *#slab(step: SlabStep, path: Path, cpu: number, start: number): Running<void> {
    const { scope } = this.machine;
    const { cache, size, gfp, ptr } = step.args ?? {};
    const kfence = this.#guards;
    const call: SlabCall = {
      fn: step.slab,
      cache: cache ?? null,
      size: size?.value(scope) ?? null,
      gfp: gfp === undefined ? GFP_KERNEL : Number(BigInt.asUintN(32, gfp.value(scope))),
      ptr: ptr?.value(scope) ?? null,
    };
    const callers = (step.callers ?? []).map((caller) => caller.value(scope));
    const ret = yield* kfence.during(step.allocations ?? [], callers, () => kfence.slabCall(cpu, call));
    this.checks.number('ret', [...path, 'expect', 'ret'], step.expect?.ret, ret);
    this.#expectStep(step.expect, path, cpu, start);
  }

  #kfence(step: KfenceStep, path: Path, cpu: number, start: number): void {
    const ret = this.#guards.setSampleInterval(cpu, step.kfence.sample_interval);
    this.checks.number('ret', [...path, 'expect', 'ret'], step.expect?.ret, BigInt.asUintN(64, BigInt(ret)));
    this.#expectStep(step.expect, path, cpu, start);
  }

  #debugfs(step: DebugfsStep, path: Path, cpu: number, start: number): void {
    const text = this.#guards.debugfs(cpu, step.debugfs);
    this.checks.number('ret', [...path, 'expect', 'ret'], step.expect?.ret, BigInt(text.length));
    this.checks.text('text', [...path, 'expect', 'text'], step.expect?.text, text);
    this.#expectStep(step.expect, path, cpu, start);
  }

  *#kfunc(step: AllocStep | PagesStep, path: Path, cpu: number, start: number): Running<void> {
    const { scope } = this.machine;
    const value = (expression: Expression | undefined, otherwise: bigint): bigint =>
      expression === undefined ? otherwise : expression.value(scope);
    const { args } = step;
    const isPages = 'ptr' in args;
    const ret = yield* this.machine.pagesCall(cpu, {
      fn: step.kfunc,
      arena: args.map,
      address: value(isPages ? args.ptr : args.addr, 0n),
      page_cnt: value(args.page_cnt, 1n),
      node_id: value(isPages ? undefined : args.node_id, BigInt.asUintN(64, -1n)),
      flags: value(isPages ? undefined : args.flags, 0n),
    });
    this.checks.number('ret', [...path, 'expect', 'ret'], step.expect?.ret, ret);
    this.#expectStep(step.expect, path, cpu, start);
  }

  *#streamRead(step: StreamReadStep, path: Path, cpu: number, start: number): Running<void> {
    const result = yield* streamRead(this.machine, cpu, step);
    this.checks.number('ret', [...path, 'expect', 'ret'], step.expect?.ret, result.ret);
    this.checks.text('text', [...path, 'expect', 'text'], step.expect?.text, result.text);
    this.#expectStep(step.expect, path, cpu, start);
  }

  #write(step: WriteStep, path: Path, cpu: number, start: number): void {
    const [, bytes] = wantedBytes(this.checks, step.write);
    const at = step.write.at.value(this.machine.scope);
    if (!this.machine.writeMemory(cpu, at, bytes)) {
      throw step.write.at.error(`${this.checks.shown(at)} is not mapped: nothing can be written there`);
    }
    this.#expectStep(step.expect, path, cpu, start);
  }

  #read(step: ReadStep, path: Path, cpu: number, start: number): void {
    const at = step.read.at.value(this.machine.scope);
    const bytes = this.machine.readMemory(cpu, at, step.read.size ?? 8);
    if (bytes === null) {
      throw step.read.at.error(`${this.checks.shown(at)} is not mapped: nothing can be read there`);
    }
    const value = bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    this.checks.number('value', [...path, 'expect', 'value'], step.expect?.value, value);
    this.#expectStep(step.expect, path, cpu, start);
  }

  #pte(step: PteStep, path: Path, cpu: number, start: number): void {
    const { va, level, value } = step.pte;
    const at = va.value(this.machine.scope);
    if (!this.machine.writeEntry(cpu, at, level ?? null, value.value(this.machine.scope))) {
      const wanted = level === undefined ? 'entry' : `entry at level ${level}`;
      throw va.error(`${this.checks.shown(at)} has no ${wanted}: the tables end above it`);
    }
    this.#expectStep(step.expect, path, cpu, start);
  }

  #tlb(step: TlbStep, path: Path, cpu: number, start: number): void {
    const { scope } = this.machine;
    if ('keep' in step.tlb) {
      const va = step.tlb.keep.value(scope);
      if (!this.machine.keepTlb(cpu, va)) {
        throw step.tlb.keep.error(
          `${this.checks.shown(va)} does not translate now: there is nothing that a TLB could keep`,
        );
      }
    } else {
      this.machine.flushTlb(cpu, step.tlb.flush === 'all' ? null : step.tlb.flush.value(scope));
    }
    this.#expectStep(step.expect, path, cpu, start);
  }
}
