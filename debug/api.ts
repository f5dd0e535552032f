/** What a session offers to the faces: terminal, GDB remote protocol, Debug Adapter Protocol. */
import type { AccessType, Event } from '../emu/events.js';
import type { Fixture } from '../vector/format/load.js';
import type { EntryLevel } from '../vector/machine/machine.js';
import type { FixtureResult } from '../vector/run/result.js';
import type { Breakpoint, BreakpointOptions, BreakpointSpec } from './breakpoints.js';
import type { ChangeResult, RecordedChange } from './changes.js';
import type { Position } from './position.js';
import type { Stop } from './stop.js';
import type {
  ArenaPagesView,
  CodeLineView,
  FrameView,
  InstructionView,
  KfencePoolView,
  PathView,
  RangeView,
  RegisterView,
  StepView,
  StreamView,
  SymbolView,
  VmaView,
  WalkView,
} from './views.js';

export { SessionError } from './session-error.js';

/** Where paths are stopped at by `stepPath`. */
export type PathSteps = 'decisions' | 'all';

/**
 * Moves through the run. Each move ends with a stop, also at breakpoints, watchpoints and the end on the way. A move
 * that is asked for while another one is under way throws a SessionError.
 */
export interface SessionMoves {
  /**
   * One instruction. When it faults, stops where the exception was taken, at the beginning of the path. In a path:
   * on to where guest code goes on. Between steps of the fixture: on to the first instruction of the next one.
   */
  stepInstruction(): Promise<Stop>;
  /**
   * The same without going into anything: a call runs until it returns, a fault until it is resolved and the
   * instruction has completed or the code goes on elsewhere. In a path, a call of a ported function runs until it
   * returns.
   */
  stepOver(): Promise<Stop>;
  /** On to the next decision of a path, or with `all` also to the next entry or return; through guest code. */
  stepPath(steps?: PathSteps): Promise<Stop>;
  /**
   * One line, as an editor shows them: in guest code an instruction; in a path the next decision (with `all` also an
   * entry or return), but not further than to where guest code goes on; between steps of the fixture the first
   * instruction or decision of the next one, or the next boundary.
   */
  stepLine(steps?: PathSteps): Promise<Stop>;
  /** On to where guest code goes on behind the fault, or the run ends. Throws outside of a path. */
  finishFault(): Promise<Stop>;
  /** On to where the function returns: the ported one in a path, else the one that pc is in. */
  finish(): Promise<Stop>;
  continue(): Promise<Stop>;
  /** On to an address in guest code, as if a temporary breakpoint were there. */
  until(address: bigint): Promise<Stop>;
  /** On to the next beginning or end of a step of the fixture. */
  nextFixtureStep(): Promise<Stop>;

  /** Back by one instruction; from the first one of a run, or in a path, to where guest code stood before. */
  stepInstructionBack(): Promise<Stop>;
  /** Back over calls and faults. */
  stepOverBack(): Promise<Stop>;
  /** Back to the decision before (with `all`: entry or return, too). */
  stepPathBack(steps?: PathSteps): Promise<Stop>;
  /** Back by one line: in guest code over faults, in a path not further than to the instruction that led into it. */
  stepLineBack(steps?: PathSteps): Promise<Stop>;
  /** Back to the instruction that led into this path, before it is executed. Throws outside of a path. */
  finishFaultBack(): Promise<Stop>;
  /** Back to the call of the function; in a path, to its entry, and from there to that of its caller. */
  finishBack(): Promise<Stop>;
  /**
   * Back to the last breakpoint or watchpoint hit on the way here, or to the start. With `hitHere`, also where it
   * stands already, when the instruction before has hit a watchpoint: for whoever goes back in front of that one.
   */
  continueBack(options?: { readonly hitHere?: boolean }): Promise<Stop>;
  nextFixtureStepBack(): Promise<Stop>;

  toStart(): Promise<Stop>;
  /** To the end of the run, past everything. */
  toEnd(): Promise<Stop>;
  /** To a tick that the session has shown, past everything; beyond the end: to the end. */
  toTick(tick: number): Promise<Stop>;
  /** Stops the move under way as soon as possible. Does nothing when the machine stands still. */
  interrupt(): void;
  /** A move is under way. */
  readonly running: boolean;
}

/** What is seen while the machine stands still. Every call reads anew; nothing has side effects on the machine. */
export interface SessionViews {
  readonly arch: 'x86-64' | 'arm64';
  /** The CPU that a view is of unless told otherwise: the one that runs, or ran last. */
  readonly cpu: number;
  readonly cpus: number;
  readonly pc: bigint;
  readonly sp: bigint;
  /** The task that runs: `comm`, pid; and how the code runs. */
  readonly task: { readonly comm: string; readonly pid: number; readonly mode: 'kernel' | 'user' };

  registers(cpu?: number): readonly RegisterView[];
  /** Throws a SessionError for a name that the CPU does not have. */
  register(name: string, cpu?: number): bigint;
  /** Null when a byte is not mapped. Through the tables of the current context, whatever the rights. */
  readMemory(va: bigint, length: number): Uint8Array | null;
  /** As many bytes as are mapped from `va` on: at most `length`, 0 when the first is not. */
  readMapped(va: bigint, length: number): Uint8Array;
  /** Null outside of the ram. */
  readPhysical(pa: number, length: number): Uint8Array | null;
  readonly ram: { readonly base: number; readonly size: number };

  /**
   * Instructions around an address: `before` of them before it, as far as code of a known function goes, and `count`
   * from it on. Fewer where memory ends.
   */
  disassemble(address: bigint, count: number, before?: number): readonly InstructionView[];
  /** Lines of the fixture's file that are instructions, with their addresses. */
  codeLines(): readonly CodeLineView[];
  callStack(): readonly FrameView[];
  /** The walk of an address as hardware would do it now. `user` is as the code runs unless told. */
  walk(va: bigint, access?: AccessType, user?: boolean): WalkView;
  /** The path that is under way, or else the last one of the run. */
  path(): PathView;
  vmas(): readonly VmaView[];
  /** The kernel's address space by ranges: direct map, vmalloc, text, … ascending. */
  kernelLayout(): readonly RangeView[];
  arenas(): readonly ArenaPagesView[];
  /** Null when the machine has no KFENCE. */
  kfence(): KfencePoolView | null;
  /** Lines of the console so far, written as the fixture's key `console` says. */
  consoleLines(): readonly string[];
  streams(): readonly StreamView[];
  /** The steps of the fixture so far, with those in the middle of others, and the ones that wait. */
  fixtureSteps(): readonly StepView[];
  /** The one under way, or null. */
  currentStep(): StepView | null;
  /** Events of the run so far. */
  readonly events: readonly Event[];
  /** The result of the fixture once the end has been reached, and as long as the session stands there. */
  readonly result: FixtureResult | null;
  /** Name of an address, e.g. `write_cmask+0x4`, `a.page(3)`; null if none. */
  nameOf(address: bigint): string | null;
  /** Everything that has a name and an address, ascending. */
  symbols(): readonly SymbolView[];
  /**
   * The value of an expression as fixtures write them (`a.page(3)`, `write_cmask.store`, `0x1000 + 8`), an unsigned
   * 64-bit number. Besides: `$name` is a register, `$pc` and `$sp` on both architectures; `*(u32 *)ADDRESS` what
   * stands in memory, `&NAME` is `NAME`; `/`, `%`, comparisons, `&&`, `||` and `!` are as in C, with 1 and 0. Throws a
   * SessionError that says what is wrong.
   */
  evaluate(expression: string): bigint;
}

export interface SessionBreakpoints {
  readonly breakpoints: readonly Breakpoint[];
  /**
   * Sets a breakpoint or watchpoint. Throws a SessionError for a function that is not ported, a length out of range,
   * and so on.
   */
  addBreakpoint(spec: BreakpointSpec, options?: BreakpointOptions): Breakpoint;
  /**
   * From now on it is a hit only where `expression` is not zero; null: always. Where it has no value at a hit, the
   * session stops, and the stop says why. Throws a SessionError for what is no expression.
   */
  setCondition(id: number, expression: string | null): void;
  /** The next `count` hits do not stop the session, forwards. Throws a SessionError for what is no count. */
  setIgnore(id: number, count: number): void;
  /** Throws a SessionError when there is none with this number. */
  removeBreakpoint(id: number): void;
  enableBreakpoint(id: number, enabled: boolean): void;
  /**
   * What a word of the user's means as a place: a ported kernel function, or a symbol or expression for an address.
   * A name that is both is the ported function; `*` before it asks for the address.
   */
  breakpointAt(place: string): BreakpointSpec;
  /** Names of ported functions, sorted. */
  readonly functions: readonly string[];
}

/** Changes of what stands still. Each throws a SessionError for what is not there. */
export interface SessionChanges {
  readonly changes: readonly RecordedChange[];
  /**
   * In a path, general registers are those that the exception has saved: what is written there, the code goes on
   * with.
   */
  writeRegister(name: string, value: bigint, cpu?: number): ChangeResult;
  writeMemory(va: bigint, bytes: Uint8Array): ChangeResult;
  writePhysical(pa: number, bytes: Uint8Array): ChangeResult;
  /** Stores a table entry, of a level or of the page, and drops the page from the TLB. */
  writeEntry(va: bigint, level: EntryLevel | null, value: bigint): ChangeResult;
  /** Forgets all changes and goes to the start. */
  dropChanges(): Promise<Stop>;
}

/** A debugging session over the run of one fixture. */
export interface DebugSession extends SessionMoves, SessionViews, SessionBreakpoints, SessionChanges {
  readonly fixture: Fixture;
  readonly position: Position;
  /** Why it stands where it stands. */
  readonly stop: Stop;
  /** Frees the machine. Idempotent. */
  close(): void;
}
