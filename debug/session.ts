/** A debugging session over the run of one fixture. */
import type { Engine } from '../emu/cpu.js';
import { loadDisassembler } from '../emu/disassembler.js';
import type { Event } from '../emu/events.js';
import type { Fixture } from '../vector/format/load.js';
import type { DebugSession, PathSteps } from './api.js';
import {
  boundaryBefore,
  codeBefore,
  functionEntry,
  pathBegin,
  pathStepBefore,
  pathStepOverBefore,
  runBegin,
} from './history.js';
import { lineBefore, stepLine } from './line-moves.js';
import {
  finishFault,
  finishFunction,
  type Move,
  nextFixtureStep,
  onwards,
  stepInstruction,
  stepOver,
  stepPath,
  toEndOfStep,
  toReturn,
  until,
} from './moves.js';
import { type At, type Goal, MachineRun, toTick } from './run.js';
import { SessionError } from './session-error.js';
import { SessionState } from './session-state.js';
import type { Stop, StopReason } from './stop.js';
import { Watching } from './watching.js';

export * from './api.js';
export type { Breakpoint, BreakpointOptions, BreakpointSpec } from './breakpoints.js';
export type { Change, ChangeResult, RecordedChange } from './changes.js';
export type { Place, Position } from './position.js';
export { type Stop, type StopReason, stepText, stopText, valueText } from './stop.js';
export type * from './views.js';

/**
 * Builds the machine of a fixture and stops before its first step. Throws a FixtureError or FixtureErrors for what
 * the machine refuses. The engine should be one that reuses: a move back builds the machine anew.
 */
export async function openSession(fixture: Fixture, engine: Engine): Promise<DebugSession> {
  const disassembler = await loadDisassembler();
  return new Session(fixture, engine, await MachineRun.build(fixture, engine), disassembler);
}

/** Something that was come to on the way to here. */
interface Found {
  readonly tick: number;
  readonly reason: StopReason;
  readonly hits: ReadonlyMap<number, StopReason>;
}

class Session extends SessionState implements DebugSession {
  stepInstruction(): Promise<Stop> {
    return this.#forward(() => stepInstruction(this.run));
  }

  stepOver(): Promise<Stop> {
    return this.#forward(() =>
      stepOver(this.run, this.run.place === 'code' ? this.inspector.callAtPc() : null),
    );
  }

  stepPath(steps: PathSteps = 'decisions'): Promise<Stop> {
    return this.#forward(() => stepPath(steps));
  }

  stepLine(steps: PathSteps = 'decisions'): Promise<Stop> {
    return this.#forward(() => stepLine(this.run, steps));
  }

  finishFault(): Promise<Stop> {
    return this.#forward(() => {
      this.#needsPath();
      return finishFault(this.run);
    });
  }

  finish(): Promise<Stop> {
    return this.#forward(() => {
      const { run } = this;
      if (run.place === 'path') return finishFunction(run);
      if (run.place !== 'code') throw new SessionError('nothing runs here that could be finished');
      const name = this.inspector.functionAt(this.pc);
      const outer = this.inspector.caller();
      // The outermost function returns to the host: the step of the fixture is over then.
      if (outer === null) return toEndOfStep(run.nesting);
      return toReturn(run.nesting, outer.to, outer.sp, { kind: 'finished', fn: name, value: undefined });
    });
  }

  continue(): Promise<Stop> {
    return this.#forward(() => onwards);
  }

  until(address: bigint): Promise<Stop> {
    return this.#forward(() => until(address));
  }

  nextFixtureStep(): Promise<Stop> {
    return this.#forward(nextFixtureStep);
  }

  stepInstructionBack(): Promise<Stop> {
    return this.#back(() => codeBefore(this.run));
  }

  stepOverBack(): Promise<Stop> {
    return this.#exclusive(async () => {
      const { run } = this;
      if (run.place === 'path') return this.#goBack(pathStepOverBefore(run));
      if (run.place !== 'code') return this.#goBack(boundaryBefore(run));
      const before = codeBefore(run, run.nesting);
      const { pc, sp } = this;
      const stop = await this.#goBack(before);
      // What returned to where we stood was called: back to the call, which is in front of there.
      if (before === null || !this.inspector.returnsAtPc()) return stop;
      const calls = this.inspector.callsBefore(pc);
      const { nesting } = run;
      const found = await this.#lastOf(before, {
        addresses: calls,
        check: (at, now) =>
          at.kind === 'code' &&
          now.nesting === nesting &&
          calls.includes(now.pcOf(at.cpu)) &&
          now.spOf(at.cpu) === sp
            ? { kind: 'stepped' }
            : null,
      });
      return found === null ? this.#goBack(before) : this.#goBack(found.tick);
    });
  }

  stepPathBack(steps: PathSteps = 'decisions'): Promise<Stop> {
    return this.#back(() => pathStepBefore(this.run, steps));
  }

  stepLineBack(steps: PathSteps = 'decisions'): Promise<Stop> {
    return this.#back(() => lineBefore(this.run, steps));
  }

  finishFaultBack(): Promise<Stop> {
    return this.#back(() => {
      this.#needsPath();
      return pathBegin(this.run);
    });
  }

  finishBack(): Promise<Stop> {
    return this.#exclusive(async () => {
      const { run } = this;
      if (run.place === 'path') return this.#goBack(functionEntry(run));
      if (run.place !== 'code') throw new SessionError('nothing runs here that was called');
      const outer = this.inspector.caller();
      // The outermost function is called by the host.
      if (outer === null) return this.#goBack(runBegin(run));
      const { nesting, tick } = run;
      const calls = this.inspector.callsBefore(outer.to);
      const found = await this.#lastOf(tick, {
        addresses: calls,
        check: (at, now) =>
          at.kind === 'code' &&
          now.nesting === nesting &&
          calls.includes(now.pcOf(at.cpu)) &&
          now.spOf(at.cpu) >= outer.sp
            ? { kind: 'stepped' }
            : null,
      });
      return this.#goBack(found?.tick ?? runBegin(this.run));
    });
  }

  continueBack({ hitHere = false }: { readonly hitHere?: boolean } = {}): Promise<Stop> {
    return this.#exclusive(async () => {
      const found = await this.#lastOf(this.run.tick, onwards, hitHere);
      if (found === null) return this.#goBack(null);
      await this.#replay(found.tick);
      if (this.isInterrupted) return this.settle({ kind: 'interrupted' });
      this.table.stopped(found.hits.keys());
      return this.settle(found.reason, found.hits);
    });
  }

  nextFixtureStepBack(): Promise<Stop> {
    return this.#back(() => boundaryBefore(this.run));
  }

  toStart(): Promise<Stop> {
    return this.toTick(0);
  }

  toEnd(): Promise<Stop> {
    return this.toTick(Number.POSITIVE_INFINITY);
  }

  toTick(tick: number): Promise<Stop> {
    return this.#exclusive(async () => {
      if (Number.isNaN(tick) || tick < 0) throw new SessionError(`${tick} is no tick: they count from 0`);
      if (tick < this.run.tick) await this.#replay(tick);
      else await this.#advance(toTick(tick), null);
      return this.settle(this.interruptedHere ?? this.reasonHere());
    });
  }

  dropChanges(): Promise<Stop> {
    return this.#exclusive(async () => {
      this.forgetChanges();
      await this.#replay(0);
      return this.settle({ kind: 'start' });
    });
  }

  get #tells(): boolean {
    return this.inspector.here.cpu.tellAccesses !== undefined;
  }

  #needsPath(): void {
    if (this.run.place === 'path') return;
    throw new SessionError('no fault is being handled here');
  }

  /** Runs on until a move ends, or something else stops it. */
  #forward(begin: () => Move): Promise<Stop> {
    return this.#exclusive(async () => {
      if (this.run.ended) throw new SessionError('the run is over: it only goes back from here');
      const move = begin();
      const watching = new Watching(this.table.enabled, this.#tells, 'forwards');
      watching.refresh(this.run);
      const here = this.isMoved ? checkMoved(watching, this.run) : null;
      const reason = here ?? (await this.#advance(goalOf(watching, move), watching));
      const hits = watching.takeHits();
      this.table.stopped(hits.keys());
      return this.settle(reason ?? this.interruptedHere ?? this.reasonHere(), hits);
    });
  }

  #back(where: () => number | null): Promise<Stop> {
    return this.#exclusive(() => this.#goBack(where()));
  }

  /** Goes to an earlier tick; null is the start, where there was nothing on the way. */
  async #goBack(tick: number | null): Promise<Stop> {
    await this.#replay(tick ?? 0);
    return this.settle(
      this.interruptedHere ?? (tick === null ? { kind: 'history-begin' } : this.reasonHere()),
    );
  }

  /**
   * The last place before a tick at which a move or a breakpoint would stop. Leaves the session at that tick.
   * @param hitHere a watchpoint that is hit at the tick itself counts, too
   */
  async #lastOf(tick: number, move: Move, hitHere = false): Promise<Found | null> {
    const watching = new Watching(move === onwards ? this.table.enabled : [], this.#tells, 'backwards');
    const goal = goalOf(watching, move);
    let found: Found | null = null;
    let pending: StopReason | null = null;
    await this.#restart(watching);
    await this.#advance(
      {
        ...goal,
        tick,
        check: (at, now) => {
          const here = goal.check(at, now);
          const reason = pending ?? here;
          pending = null;
          const hits = watching.takeHits();
          const counts = now.tick < tick || (hitHere && reason?.kind === 'watchpoint');
          if (reason !== null && counts) found = { tick: now.tick, reason, hits };
          return null;
        },
        notice: (event, now) => {
          const reason = goal.notice(event, now);
          pending ??= reason;
          return null;
        },
        ran: (stop, now) => {
          const reason = goal.ran?.(stop, now) ?? null;
          pending ??= reason;
          return null;
        },
      },
      watching,
    );
    return found;
  }

  /** The same machine once more, at the start, with the changes that were made there. */
  async #restart(watching: Watching | null): Promise<void> {
    this.run.close();
    this.replaceRun(await MachineRun.build(this.fixture, this.engine));
    this.makeChanges();
    watching?.refresh(this.run);
  }

  async #replay(tick: number): Promise<void> {
    if (tick === this.run.tick && tick !== 0) return;
    await this.#restart(null);
    await this.#advance(toTick(tick), null);
  }

  /** Runs to a goal, and makes the changes on the way. */
  async #advance(goal: Goal, watching: Watching | null): Promise<StopReason | null> {
    const { run } = this;
    for (;;) {
      const change = this.nextChange();
      const tick = Math.min(goal.tick, change);
      let reason = await run.go({ ...goal, tick }, () => this.breathe());
      if (run.tick === change && !run.ended) {
        const pc = run.pcOf(run.cpu);
        this.makeChanges();
        watching?.refresh(run);
        if (run.pcOf(run.cpu) !== pc) reason = checkMoved(goal, run) ?? reason;
      }
      if (reason !== null || run.ended || this.isInterrupted || run.tick >= goal.tick) return reason;
    }
  }

  async #exclusive(work: () => Promise<Stop>): Promise<Stop> {
    this.begin();
    try {
      return await work();
    } finally {
      this.finished();
    }
  }
}

/** What stops it where a change of pc has put it. */
function checkMoved(goal: Pick<Goal, 'check'>, run: MachineRun): StopReason | null {
  return run.at?.kind === 'code' ? goal.check({ ...run.at, retried: false }, run) : null;
}

function goalOf(watching: Watching, move: Move): Goal {
  return {
    tick: Number.POSITIVE_INFINITY,
    everyInstruction: watching.everyInstruction || move.everyInstruction === true,
    addresses: [...watching.addresses, ...(move.addresses ?? [])],
    check: (at: At, run: MachineRun) => watching.check(at, run) ?? move.check(at, run),
    notice: (event: Event, run: MachineRun) => {
      move.notice?.(event);
      return watching.notice(event, run);
    },
    starting: (cpu, run) => watching.starting(cpu, run),
    ran: (stop, run) => watching.ran(stop, run),
  };
}
