/** What a session keeps between moves: where it stands, breakpoints, changes. */
import type { Engine } from '../emu/cpu.js';
import type { Disassembler } from '../emu/disassembler.js';
import { portedFunctions } from '../emu/path.js';
import type { Fixture } from '../vector/format/load.js';
import { didYouMean } from '../vector/format/suggest.js';
import type { EntryLevel } from '../vector/machine/machine.js';
import type { SessionBreakpoints, SessionChanges } from './api.js';
import {
  type Breakpoint,
  type BreakpointOptions,
  type BreakpointSpec,
  BreakpointTable,
  breakpointText,
  type Condition,
  WATCH_MAX,
} from './breakpoints.js';
import { applyChange, type Change, type ChangeResult, changeText, type RecordedChange } from './changes.js';
import { Inspector } from './inspect.js';
import { evaluateText, parseTyped, registerName } from './names.js';
import type { Position } from './position.js';
import type { MachineRun } from './run.js';
import { SessionError } from './session-error.js';
import { ViewedSession } from './session-views.js';
import { type Stop, type StopReason, stopText } from './stop.js';

export abstract class SessionState
  extends ViewedSession
  implements SessionBreakpoints, Omit<SessionChanges, 'dropChanges'>
{
  readonly table = new BreakpointTable();
  readonly inspector: Inspector;
  #run: MachineRun;
  #stop: Stop;
  /** pc when it stopped. */
  #stoppedAt = 0n;
  #changes: RecordedChange[] = [];
  #running = false;
  #interrupted = false;
  #closed = false;

  constructor(
    readonly fixture: Fixture,
    readonly engine: Engine,
    run: MachineRun,
    disassembler: Disassembler,
  ) {
    super();
    this.#run = run;
    this.inspector = new Inspector(() => this.#run, disassembler);
    this.#stop = this.#stopFor({ kind: 'start' }, []);
  }

  get run(): MachineRun {
    return this.#run;
  }
  get stop(): Stop {
    return this.#stop;
  }
  get running(): boolean {
    return this.#running;
  }

  get position(): Position {
    const { tick, instructions, place, cpu, steps } = this.#run;
    return { tick, instructions, place, cpu, pc: this.pc, step: steps.at(-1)?.path ?? null };
  }

  interrupt(): void {
    if (this.#running) this.#interrupted = true;
  }

  close(): void {
    this.#closed = true;
    if (this.#running) this.#interrupted = true;
    else this.#run.close();
  }

  // What moves need.

  protected begin(): void {
    if (this.#closed) throw new SessionError('the session is closed');
    if (this.#running) throw new SessionError('the machine is running: interrupt it first');
    this.#running = true;
    this.#interrupted = false;
    this.inspector.remember();
  }

  protected finished(): void {
    this.#running = false;
    if (this.#closed) this.#run.close();
  }

  protected get isInterrupted(): boolean {
    return this.#interrupted;
  }

  /** The reason, when an interrupt has ended a move. */
  protected get interruptedHere(): StopReason | null {
    return this.#interrupted && !this.#run.ended ? { kind: 'interrupted' } : null;
  }

  /** Lets others in; true when one of them wants the move to end. */
  protected async breathe(): Promise<boolean> {
    await new Promise((resolve) => setImmediate(resolve));
    return this.#interrupted;
  }

  protected replaceRun(run: MachineRun): void {
    this.#run = run;
  }

  /** @param hits what was hit on the way; where that has not stopped it, nothing is said of it */
  protected settle(reason: StopReason, hits: ReadonlyMap<number, StopReason> = new Map()): Stop {
    const all = [...hits.values()];
    this.#stop = this.#stopFor(reason, all.includes(reason) ? all.filter((each) => each !== reason) : []);
    this.#stoppedAt = this.pc;
    return this.#stop;
  }

  /** The user has put pc elsewhere: code goes on at an instruction that it has not stopped in front of. */
  protected get isMoved(): boolean {
    return this.#run.place === 'code' && this.pc !== this.#stoppedAt;
  }

  /** What there is where it stands, for moves that ask for a place and not for a reason. */
  protected reasonHere(): StopReason {
    const { at, place, result } = this.#run;
    if (place === 'end' && result !== null) return { kind: 'end', status: result.status };
    if (at === null) return { kind: 'start' };
    switch (at.kind) {
      case 'code':
        return { kind: 'stepped' };
      case 'event':
        return { kind: 'path', event: at.event };
      case 'step':
        return { kind: 'fixture-step', phase: at.phase, hit: null };
    }
  }

  #stopFor(reason: StopReason, others: readonly StopReason[]): Stop {
    const texts = [reason, ...others].map((each) => stopText(each, (address) => this.nameOf(address)));
    const { place } = this.#run;
    const at = place === 'code' ? this.inspector.currentLine() : null;
    const lines = [...texts, ...(at === null ? [] : [at])].filter((line) => line !== '');
    return { reason, others, position: this.position, text: lines.join('\n') };
  }

  // Breakpoints.

  get breakpoints(): readonly Breakpoint[] {
    return this.table.all;
  }

  protected get breakAddresses(): readonly bigint[] {
    return this.table.enabled.flatMap(({ spec }) => (spec.kind === 'address' ? [spec.address] : []));
  }

  get functions(): readonly string[] {
    return portedFunctions();
  }

  addBreakpoint(spec: BreakpointSpec, options: BreakpointOptions = {}): Breakpoint {
    const { temporary = false, condition = null, ignore = 0 } = options;
    const checked = this.#checked(spec);
    checkIgnore(ignore);
    const text = breakpointText(checked, (address) => this.nameOf(address));
    return this.table.add({ spec: checked, temporary, text, condition: this.#condition(condition), ignore });
  }

  setCondition(id: number, expression: string | null): void {
    const entry = this.table.get(id);
    entry.condition = this.#condition(expression);
  }

  setIgnore(id: number, count: number): void {
    const entry = this.table.get(id);
    checkIgnore(count);
    entry.ignore = count;
  }

  #condition(text: string | null): Condition | null {
    return text === null ? null : { text: text.trim(), node: parseTyped(text, this.#run) };
  }

  #checked(spec: BreakpointSpec): BreakpointSpec {
    if (spec.kind === 'fault' && spec.exception !== null) {
      return { ...spec, exception: this.#exceptionNamed(spec.exception) };
    }
    if (spec.kind === 'function' && !this.functions.includes(spec.fn)) {
      throw new SessionError(
        `no ported function is called \`${spec.fn}\`${didYouMean(spec.fn, [...this.functions])}`,
      );
    }
    if (spec.kind === 'watch') {
      const { length } = spec;
      if (!Number.isInteger(length) || length < 1 || length > WATCH_MAX) {
        throw new SessionError(`${length} bytes cannot be watched: a watchpoint is for 1 to ${WATCH_MAX}`);
      }
    }
    if (spec.kind === 'console' && spec.text === '') throw new SessionError('every line has no text in it');
    if (spec.kind === 'fixture-step' && spec.number !== null) {
      const count = this.fixture.data.steps.length;
      if (!Number.isInteger(spec.number) || spec.number < 1 || spec.number > count) {
        throw new SessionError(`there is no step ${spec.number}: the fixture has ${count}`);
      }
    }
    return spec;
  }

  /** The name that events have for what a user calls an exception: `pf` is `#PF`. */
  #exceptionNamed(typed: string): string {
    const { arch } = this.#run.machine;
    const plain = (name: string): string => name.replace(/^#/, '').toLowerCase();
    const name = arch.exceptionNames.find((each) => plain(each) === plain(typed.trim()));
    if (name !== undefined) return name;
    throw new SessionError(
      `there is no exception \`${typed}\` on ${arch.name}${didYouMean(typed, [...arch.exceptionNames])}`,
    );
  }

  removeBreakpoint(id: number): void {
    this.table.remove(id);
  }

  enableBreakpoint(id: number, enabled: boolean): void {
    this.table.get(id).enabled = enabled;
  }

  breakpointAt(place: string): BreakpointSpec {
    const word = place.trim();
    if (word.startsWith('*')) return { kind: 'address', address: evaluateText(word.slice(1), this.#run) };
    if (this.functions.includes(word)) return { kind: 'function', fn: word };
    try {
      return { kind: 'address', address: evaluateText(word, this.#run) };
    } catch (error) {
      if (!(error instanceof SessionError) || !/^[a-z_]\w*$/i.test(word)) throw error;
      const known = [...this.functions, ...this.symbols().map(({ name }) => name)];
      throw new SessionError(`there is no function or symbol \`${word}\`${didYouMean(word, known)}`);
    }
  }

  // Changes.

  get changes(): readonly RecordedChange[] {
    return this.#changes;
  }

  writeRegister(name: string, value: bigint, cpu: number = this.cpu): ChangeResult {
    const known = registerName(this.#run, name);
    return this.#change({ kind: 'register', cpu, name: known, value: BigInt.asUintN(64, value) });
  }

  writeMemory(va: bigint, bytes: Uint8Array): ChangeResult {
    return this.#change({ kind: 'memory', cpu: this.cpu, va, bytes: bytes.slice() });
  }

  writePhysical(pa: number, bytes: Uint8Array): ChangeResult {
    return this.#change({ kind: 'physical', pa, bytes: bytes.slice() });
  }

  writeEntry(va: bigint, level: EntryLevel | null, value: bigint): ChangeResult {
    return this.#change({ kind: 'entry', cpu: this.cpu, va, level, value: BigInt.asUintN(64, value) });
  }

  #change(change: Change): ChangeResult {
    if (this.#running) throw new SessionError('the machine is running: interrupt it first');
    if (this.#run.ended)
      throw new SessionError('the run is over: nothing that is changed would have an effect');
    applyChange(this.#run, change);
    const { tick } = this.#run;
    const dropped = this.#changes.filter((each) => each.tick > tick);
    const recorded = { tick, change };
    this.#changes = [...this.#changes.filter((each) => each.tick <= tick), recorded];
    this.#stop = { ...this.#stop, position: this.position };
    return { recorded, dropped, text: changeText(recorded, dropped, (address) => this.nameOf(address)) };
  }

  /** The tick of the first change that lies ahead; infinite when there is none. */
  protected nextChange(): number {
    return this.#changes.find(({ tick }) => tick > this.#run.tick)?.tick ?? Number.POSITIVE_INFINITY;
  }

  /** Makes the changes of this tick: the run has come to it once more. */
  protected makeChanges(): void {
    for (const { tick, change } of this.#changes) if (tick === this.#run.tick) applyChange(this.#run, change);
  }

  protected forgetChanges(): void {
    this.#changes = [];
  }
}

function checkIgnore(count: number): void {
  if (Number.isSafeInteger(count) && count >= 0) return;
  throw new SessionError(`${count} is no number of hits to pass over: it is 0 or more`);
}
