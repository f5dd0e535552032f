/**
 * The loop around guest code: run until something stops it, let the handler decide, go on or end.
 */
import type { Cpu, CpuStop } from './cpu.js';
import type { RunOutcome } from './events.js';
import type { Delegate, Path, Trace } from './path.js';

/** When guest code is stopped although nothing forbids it to go on. */
export interface RunLimits {
  /** Instructions that complete; one that faults counts as well, each time. */
  readonly instructions: number;
  /** Wall-clock milliseconds. A safety net: which instruction it stops at is not reproducible. */
  readonly milliseconds: number;
  /** Retries of one instruction with the same fault address and the same entry before it is a livelock. */
  readonly refaults: number;
}

export const DEFAULT_LIMITS: RunLimits = { instructions: 20_000_000, milliseconds: 20_000, refaults: 16 };

/** How the handler of a stop lets the guest go on, or ends the run. */
export type StopResult =
  | {
      readonly how: 'retry' | 'fixup';
      readonly pc: bigint;
      /** Fault address and the last table entry read: what a retry must change to be progress. */
      readonly address: bigint;
      readonly entry: bigint;
    }
  /** No exception: the guest has called the host, which has done its work. It goes on at `pc`. */
  | { readonly how: 'called'; readonly pc: bigint }
  | { readonly how: 'end'; readonly outcome: RunOutcome };

/** Who stops guest code between instructions without disturbing it: a debugger. */
export interface RunWatch {
  /**
   * Before each start, with pc in its register; registers and memory may be changed here.
   * @returns how many instructions may complete before it is asked again, 1 or more
   */
  before(guest: Guest): Delegate<number>;
  /**
   * After each start, before the stop is handled. Nothing may be changed here.
   * @param executed instructions that completed; 0 where the host has raised an exception before any ran
   */
  after(guest: Guest, stop: CpuStop, executed: number): Delegate<void>;
}

/** Guest code in its surroundings. */
export interface Guest {
  readonly cpu: Cpu;
  readonly trace: Trace;
  /** Name of the program counter among the CPU's registers. */
  readonly pcRegister: string;
  handleStop(stop: CpuStop): Delegate<StopResult>;
  /** Milliseconds since any fixed point; for the wall-clock limit only. */
  now(): number;
}

/** Upper bound of one start, so that the wall-clock limit is looked at now and then. */
const SLICE = 10_000_000;

/** Faults between two looks at the clock. */
const FAULTS_PER_CLOCK_LOOK = 256;

/** A stop that the host asks for instead of the engine. */
export type RaisedStop = Extract<CpuStop, { kind: 'raised' }>;

/**
 * Runs guest code from `pc` to its outcome. The outcome is also the last event.
 * @param raised an exception to be reported at `pc` before anything runs; what the handler makes of it is
 *   real: retried, the instruction runs as if nothing had been
 */
export function* runGuest(
  guest: Guest,
  pc: bigint,
  limits: RunLimits,
  raised: RaisedStop | null = null,
): Path<RunOutcome> {
  const { trace } = guest;
  trace.emit({ type: 'run', cpu: trace.cpu, pc });
  const outcome = yield* runToOutcome(guest, pc, limits, raised);
  trace.emit({ type: 'outcome', cpu: trace.cpu, outcome });
  return outcome;
}

function* runToOutcome(
  guest: Guest,
  start: bigint,
  limits: RunLimits,
  raised: RaisedStop | null,
): Path<RunOutcome> {
  const { cpu, trace } = guest;
  const deadline = guest.now() + limits.milliseconds;
  let pc = start;
  let pending = raised;
  let left = limits.instructions;
  let faults = 0;
  let turns = 0;
  let lastPc = -1n;
  let lastAddress = -1n;
  let lastEntry = -1n;

  for (;;) {
    if (left <= 0) return { kind: 'budget', instructions: limits.instructions };
    let slice = Math.min(left, SLICE);
    if (trace.watch !== null) {
      cpu.write(guest.pcRegister, pc);
      slice = Math.min(slice, yield* trace.watch.before(guest));
      pc = cpu.read(guest.pcRegister);
    }
    let stop: CpuStop;
    if (pending === null) stop = cpu.start(pc, slice);
    else {
      stop = pending;
      cpu.write(guest.pcRegister, pc);
    }
    if (trace.watch !== null) yield* trace.watch.after(guest, stop, pending === null ? cpu.executed : 0);
    if (stop.kind === 'exit') return { kind: 'returned' };
    if (stop.kind === 'count') {
      // Whoever watches may have ended the start earlier.
      left -= trace.watch === null ? slice : cpu.executed;
      pc = cpu.read(guest.pcRegister);
      if (guest.now() > deadline) return { kind: 'deadline', milliseconds: limits.milliseconds };
      continue;
    }

    left -= pending === null ? cpu.executed + 1 : 1;
    pending = null;
    faults += 1;
    const result = yield* guest.handleStop(stop);
    if (result.how === 'end') return result.outcome;
    if (result.how === 'called') {
      pc = result.pc;
      continue;
    }
    if (trace.listening) trace.emit({ type: 'resolved', cpu: trace.cpu, how: result.how, pc: result.pc });
    pc = result.pc;

    if (
      result.how === 'retry' &&
      pc === lastPc &&
      result.address === lastAddress &&
      result.entry === lastEntry
    ) {
      turns += 1;
      if (turns >= limits.refaults) return { kind: 'livelock', pc, address: result.address, turns };
    } else {
      turns = 1;
      lastPc = result.how === 'retry' ? pc : -1n;
      lastAddress = result.address;
      lastEntry = result.entry;
    }
    if (faults % FAULTS_PER_CLOCK_LOOK === 0 && guest.now() > deadline) {
      return { kind: 'deadline', milliseconds: limits.milliseconds };
    }
  }
}
