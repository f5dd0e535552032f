/** What gdb's ways of going on are among the moves of a session, and what it is told of each stop. */
import { hex } from '../../emu/address.js';
import type { FaultEvent } from '../../emu/events.js';
import type { DebugSession } from '../api.js';
import { hitIds, namedAddress, type Stop, type StopReason } from '../stop.js';
import { hexWord } from './hex.js';
import type { Target } from './registers.js';

/** Which faults stop gdb: all, those that the kernel does not recover from, none. */
export type FaultStops = 'all' | 'unrecovered' | 'none';

/** What `stepi` steps through when the kernel handles a fault: nothing, its decisions, or entries and returns, too. */
export type PathStepping = 'off' | 'decisions' | 'all';

/** gdb's own numbers. */
export const SIGINT = 0x02;
const SIGTRAP = 0x05;
export const SIGSEGV = 0x0b;

export interface Resumed {
  /** The stop reply. */
  readonly reply: string;
  /** For the user, in front of it. */
  readonly notes: readonly string[];
}

type WatchKind = 'watch' | 'rwatch' | 'awatch';

interface Why {
  readonly signal: number;
  readonly detail: string;
}

const TRAPPED: Why = { signal: SIGTRAP, detail: '' };

/** A breakpoint or watchpoint of gdb's: the number after `Z`, address, and length. */
export interface Placed {
  readonly type: number;
  readonly address: bigint;
  readonly length: number;
}

export class RunControl {
  faultStops: FaultStops = 'all';
  pathStepping: PathStepping = 'off';
  /** Signals that the user does not want to hear of (QPassSignals). */
  passed: ReadonlySet<number> = new Set();
  /** What the debugger has said that it knows (qSupported). */
  features: ReadonlySet<string> = new Set();
  /** Why it stands where it stands: the signal, and what stop replies say besides. */
  #why: Why = TRAPPED;
  #interrupted = false;
  readonly #session: DebugSession;
  readonly #target: Target;
  /** By key of a breakpoint of gdb's: the session's. */
  readonly #placed = new Map<string, { readonly id: number; readonly placed: Placed }>();
  readonly #faults: number;
  /** Where the first instruction is about to run; what lies before is no place for gdb. */
  #first = 0;
  /** Lines of the console that were shown. */
  #shown = 0;
  /** What is said at the next stop. */
  #notes: string[] = [];

  constructor(session: DebugSession, target: Target) {
    this.#session = session;
    this.#target = target;
    this.#faults = session.addBreakpoint({ kind: 'fault', exception: null }).id;
  }

  /** Breakpoint number of the session's that stands for fault stops: it is not the user's. */
  get faultBreakpoint(): number {
    return this.#faults;
  }

  /** The stop reply, with pc and sp, which spares gdb a question: as they are now, the user may have changed them. */
  get reply(): string {
    const { pc, sp } = this.#target;
    const session = this.#session;
    const word = (number: number, value: bigint): string =>
      `${hexOf(BigInt(number), 2)}:${hexWord(value, 8)};`;
    const thread = `thread:${hexOf(BigInt(session.cpu + 1))};`;
    const { signal, detail } = this.#why;
    return `T${hexOf(BigInt(signal), 2)}${word(pc, session.pc)}${word(sp, session.sp)}${thread}${detail}`;
  }

  /** To the first instruction that runs: before it there are no registers worth a look. For once, to begin with. */
  async toFirstInstruction(): Promise<void> {
    this.#arm('none');
    await this.#session.stepInstruction();
    this.#first = this.#session.position.tick;
    this.#begins();
  }

  /** From the beginning, as the fixture has it: what was changed is forgotten. */
  async restart(): Promise<void> {
    await this.#session.dropChanges();
    // Past whatever there is on the way.
    await this.#session.toTick(this.#first);
    this.#begins();
  }

  #begins(): void {
    this.#shown = this.#session.consoleLines().length;
    this.#notes = [];
    this.#why = TRAPPED;
  }

  /** The debugger has gone: what it has set goes with it. The machine stays where it stands. */
  forget(): void {
    for (const { id } of this.#session.breakpoints) {
      if (id !== this.#faults) this.#session.removeBreakpoint(id);
    }
    this.#placed.clear();
    this.#notes = [];
    this.faultStops = 'all';
    this.pathStepping = 'off';
    this.passed = new Set();
    this.features = new Set();
  }

  interrupt(): void {
    this.#interrupted = true;
    this.#session.interrupt();
  }

  /** Shown with the next stop. */
  note(text: string): void {
    this.#notes.push(text);
  }

  insert(placed: Placed): void {
    const key = keyOf(placed);
    if (this.#placed.has(key)) return;
    const { type, address, length } = placed;
    const access = ACCESS[type];
    const { id } = this.#session.addBreakpoint(
      access === undefined ? { kind: 'address', address } : { kind: 'watch', address, length, access },
    );
    this.#placed.set(key, { id, placed });
  }

  remove(placed: Placed): void {
    const key = keyOf(placed);
    const found = this.#placed.get(key);
    if (found === undefined) return;
    this.#session.removeBreakpoint(found.id);
    this.#placed.delete(key);
  }

  /** `id` of the session's is one of gdb's. */
  isPlaced(id: number): boolean {
    return this.#placedBy(id) !== undefined;
  }

  #placedBy(id: number): Placed | undefined {
    return [...this.#placed.values()].find((each) => each.id === id)?.placed;
  }

  /** At the end: gdb is told that the program has exited, 0 when the fixture has passed. It lets go of it then. */
  continue(): Promise<Resumed> {
    const { position, result } = this.#session;
    if (position.place === 'end') {
      return Promise.resolve({
        reply: result?.status === 'passed' ? 'W00' : 'W01',
        notes: this.#notes.splice(0),
      });
    }
    return this.#run('forward', () => this.#onwards());
  }

  step(): Promise<Resumed> {
    return this.#run('forward', () => this.#step());
  }

  /** Steps as long as pc is in a range; at least once. */
  stepRange(start: bigint, end: bigint): Promise<Resumed> {
    return this.#run('forward', async () => {
      for (;;) {
        const stop = await this.#step();
        const { kind } = stop.reason;
        if (kind !== 'stepped' && kind !== 'resolved') return stop;
        // It may have come just when a step was done.
        if (this.#interrupted) return { ...stop, reason: { kind: 'interrupted' } };
        const { pc, place } = stop.position;
        if (place !== 'code' || pc < start || pc >= end) return stop;
      }
    });
  }

  continueBack(): Promise<Resumed> {
    return this.#run('back', async () => {
      // For the session a watchpoint is hit behind the instruction, for gdb when it goes back in front of it.
      const stop = await this.#session.continueBack({ hitHere: true });
      // gdb for arm64 goes back over the instruction by itself.
      if (stop.reason.kind !== 'watchpoint' || this.#session.arch === 'arm64') return stop;
      return this.#before(stop);
    });
  }

  stepBack(): Promise<Resumed> {
    return this.#run('back', () => {
      const session = this.#session;
      const { pathStepping } = this;
      return pathStepping !== 'off' && session.position.place === 'path'
        ? session.stepPathBack(pathStepping)
        : session.stepInstructionBack();
    });
  }

  get #stops(): FaultStops {
    return this.passed.has(SIGSEGV) ? 'none' : this.faultStops;
  }

  #arm(stops: FaultStops): void {
    this.#session.enableBreakpoint(this.#faults, stops !== 'none');
  }

  async #run(direction: 'forward' | 'back', move: () => Promise<Stop>): Promise<Resumed> {
    const session = this.#session;
    this.#interrupted = false;
    this.#arm(this.#stops);
    const notes = this.#notes.splice(0);
    if (direction === 'forward' && session.position.place === 'end') {
      this.#why = { signal: SIGTRAP, detail: 'replaylog:end:;' };
      return { reply: this.reply, notes };
    }
    let stop = await move();
    if (direction === 'back' && stop.position.tick < this.#first) {
      const { reason } = stop;
      stop = await session.toTick(this.#first);
      stop = { ...stop, reason: reason.kind === 'interrupted' ? reason : { kind: 'history-begin' } };
    }
    if (direction === 'forward') notes.push(...this.#console());
    else this.#shown = session.consoleLines().length;
    const note = this.#noteOf(stop);
    if (note !== null) notes.push(note);
    this.#why = this.#whyOf(stop);
    return { reply: this.reply, notes };
  }

  #console(): string[] {
    const lines = this.#session.consoleLines();
    // A change may have made the run another one.
    const fresh = lines.slice(Math.min(this.#shown, lines.length));
    this.#shown = lines.length;
    return [...fresh];
  }

  async #onwards(): Promise<Stop> {
    const session = this.#session;
    for (;;) {
      const stop = await session.continue();
      // gdb for arm64 expects to be in front of the instruction, and steps over it before it looks.
      if (stop.reason.kind === 'watchpoint' && session.arch === 'arm64' && stop.position.place === 'code') {
        return this.#before(stop);
      }
      if (stop.reason.kind !== 'fault' || !this.#isOurs(stop)) return stop;
      const decided = await this.#atFault(stop);
      if (decided.stop !== null) return decided.stop;
    }
  }

  /** Nothing that the user has set was hit at a fault. */
  #isOurs(stop: Stop): boolean {
    return hitIds(stop).every((id) => id === this.#faults);
  }

  /** At a fault: the stop to report, or null when it goes on behind it. */
  async #atFault(fault: Stop): Promise<{ readonly stop: Stop | null }> {
    if (this.#stops === 'all' || this.#interrupted) return { stop: fault };
    const session = this.#session;
    // Faults while this one is handled are seen when it turns out that it is not recovered from.
    this.#arm('none');
    const behind = await session.finishFault();
    this.#arm(this.#stops);
    if (behind.reason.kind === 'resolved') return { stop: null };
    if (this.#stops === 'none' || isHit(behind.reason) || this.#interrupted) return { stop: behind };
    await session.toTick(fault.position.tick);
    return { stop: { ...session.stop, reason: fault.reason, text: fault.text } };
  }

  async #step(): Promise<Stop> {
    const session = this.#session;
    const { place, pc } = session.position;
    if (place === 'path' && this.pathStepping !== 'off') return session.stepPath(this.pathStepping);
    if (place !== 'path') return this.#stepFrom(await session.stepInstruction(), pc);
    this.#arm('none');
    const behind = await session.finishFault();
    this.#arm(this.#stops);
    return this.#stepFrom(behind, pc);
  }

  /** The instruction at `pc` is done when it is: a fault that is recovered from is gone through. */
  async #stepFrom(first: Stop, pc: bigint): Promise<Stop> {
    const session = this.#session;
    let stop = first;
    while (!this.#interrupted) {
      if (stop.reason.kind === 'fault' && this.#isOurs(stop)) {
        if (this.pathStepping !== 'off') return stop;
        const { stop: reported } = await this.#atFault(stop);
        if (reported !== null) return reported;
        stop = session.stop;
      }
      const again =
        stop.reason.kind === 'resolved' && session.position.place === 'code' && session.position.pc === pc;
      if (!again) return stop;
      stop = await session.stepInstruction();
    }
    return stop;
  }

  /** From where a watchpoint was seen, back to the instruction or the step of the path that did it. */
  async #before(stop: Stop): Promise<Stop> {
    const session = this.#session;
    const before =
      stop.position.place === 'code'
        ? await session.stepInstructionBack()
        : await session.toTick(stop.position.tick - 1);
    return this.#interrupted
      ? before
      : { ...before, reason: stop.reason, others: stop.others, text: stop.text };
  }

  #whyOf(stop: Stop): Why {
    const { reason, position } = stop;
    switch (reason.kind) {
      case 'breakpoint': {
        const type = this.#placedBy(reason.hit.id)?.type;
        const why = type === undefined ? null : type === 1 ? 'hwbreak' : 'swbreak';
        // Not for those who have not asked for it.
        return why !== null && this.features.has(`${why}+`)
          ? { signal: SIGTRAP, detail: `${why}:;` }
          : TRAPPED;
      }
      case 'watchpoint': {
        const name = WATCH[this.#placedBy(reason.hit.id)?.type ?? 0];
        if (name === undefined) return TRAPPED;
        return { signal: SIGTRAP, detail: `${name}:${hexOf(reason.hit.address)};` };
      }
      case 'fault':
        return { signal: this.#stops === 'all' || this.#isOurs(stop) ? SIGSEGV : SIGTRAP, detail: '' };
      case 'interrupted':
        return { signal: SIGINT, detail: '' };
      case 'history-begin':
        return { signal: SIGTRAP, detail: 'replaylog:begin:;' };
      default:
        return position.place === 'end' ? { signal: SIGTRAP, detail: 'replaylog:end:;' } : TRAPPED;
    }
  }

  /** What gdb has no words for. */
  #noteOf(stop: Stop): string | null {
    const { reason, text } = stop;
    switch (reason.kind) {
      case 'stepped':
      case 'interrupted':
      case 'history-begin':
      case 'start':
        return null;
      case 'breakpoint':
      case 'watchpoint':
        return hitIds(stop).every((id) => this.isPlaced(id)) ? null : text;
      case 'resolved':
        return reason.event === null ? null : (text.split('\n', 1)[0] ?? null);
      case 'fault':
        return faultText(reason.event, (address) => this.#session.nameOf(address));
      default: {
        // The breakpoint for fault stops is not the user's.
        const own = `Catchpoint ${this.#faults}: `;
        return text
          .split('\n')
          .filter((row) => !row.startsWith(own))
          .join('\n');
      }
    }
  }
}

const ACCESS: Readonly<Record<number, 'write' | 'read' | 'access'>> = { 2: 'write', 3: 'read', 4: 'access' };
const WATCH: Readonly<Record<number, WatchKind>> = { 2: 'watch', 3: 'rwatch', 4: 'awatch' };

function keyOf({ type, address, length }: Placed): string {
  // Software and hardware breakpoints are the same here, and yet gdb may have both at one place.
  return `${type}:${address}:${length}`;
}

function hexOf(value: bigint, digits = 1): string {
  return value.toString(16).padStart(digits, '0');
}

function isHit(reason: StopReason): boolean {
  return 'hit' in reason && reason.hit !== null;
}

/** `#PF at write_cmask+0x4: write of a.page(3)+0x10, error code 0x2`. */
function faultText(event: FaultEvent, nameOf: (address: bigint) => string | null): string {
  const at = (address: bigint): string => namedAddress(address, nameOf);
  return `${event.exception}: ${event.access} of ${at(event.address)} at ${at(event.pc)}, code ${hex(event.code)}`;
}
