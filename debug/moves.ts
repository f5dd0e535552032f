/** Where each move forwards ends, besides breakpoints and the end of the run. */
import type { Event, FaultEvent, ResolvedEvent } from '../emu/events.js';
import { isPrimitive } from '../emu/events.js';
import type { PathSteps } from './api.js';
import type { At, MachineRun } from './run.js';
import type { StopReason } from './stop.js';

/** The end of a move: made where it begins, and asked at each place from there on. */
export interface Move {
  readonly everyInstruction?: boolean;
  readonly addresses?: readonly bigint[];
  check(at: At, run: MachineRun): StopReason | null;
  notice?(event: Event): void;
}

const STEPPED: StopReason = { kind: 'stepped' };

/** A boundary of the fixture's steps, as a reason. */
function boundary(at: At): StopReason | null {
  return at.kind === 'step' ? { kind: 'fixture-step', phase: at.phase, hit: null } : null;
}

/** The end of a step of the fixture that is not in the middle of what the move began in. */
function outerEnd(at: At, run: MachineRun, nesting: number): StopReason | null {
  return at.kind === 'step' && at.phase === 'ended' && run.nesting < nesting ? boundary(at) : null;
}

export function stepInstruction(run: MachineRun): Move {
  switch (run.place) {
    case 'code':
      return intoInstruction();
    case 'path':
      return finishFault(run);
    case 'start':
    case 'between':
    case 'end':
      return { check: (at) => (at.kind === 'code' ? STEPPED : null) };
  }
}

function intoInstruction(): Move {
  let fault: FaultEvent | null = null;
  return {
    everyInstruction: true,
    check: (at) => {
      if (at.kind === 'code') return STEPPED;
      if (at.kind === 'step') return boundary(at);
      return fault === null ? { kind: 'path', event: at.event } : { kind: 'fault', hit: null, event: fault };
    },
    notice: (event) => {
      if (event.type === 'fault') fault = event;
    },
  };
}

/** @param calls where the call at pc returns to, and the stack pointer then at least; null when it is none */
export function stepOver(run: MachineRun, calls: { readonly to: bigint; readonly sp: bigint } | null): Move {
  const { nesting, instructions } = run;
  switch (run.place) {
    case 'path':
      return overPath(run);
    case 'start':
    case 'between':
    case 'end': {
      const { at: from } = run;
      if (from?.kind === 'step' && from.phase === 'begins') return overStep(from.path);
      return { check: (at) => (at.kind === 'step' && at.phase === 'begins' ? boundary(at) : null) };
    }
    case 'code': {
      if (calls !== null) return toReturn(nesting, calls.to, calls.sp, STEPPED);
      const pc = run.pcOf(run.cpu);
      return {
        everyInstruction: true,
        check: (at, now) => {
          if (at.kind !== 'code') return outerEnd(at, now, nesting);
          if (now.nesting > nesting) return null;
          return now.instructions > instructions || now.pcOf(at.cpu) !== pc ? STEPPED : null;
        },
      };
    }
  }
}

/** On to an address in a frame of the stack that is not deeper than `sp`. */
export function toReturn(nesting: number, to: bigint, sp: bigint, reason: StopReason): Move {
  return {
    addresses: [to],
    check: (at, now) => {
      if (at.kind !== 'code') return outerEnd(at, now, nesting);
      return now.nesting <= nesting && now.pcOf(at.cpu) === to && now.spOf(at.cpu) >= sp ? reason : null;
    },
  };
}

/** On to the end of the step of the fixture whose code runs, past the steps in the middle of it. */
export function toEndOfStep(nesting: number): Move {
  return { check: (at, now) => outerEnd(at, now, nesting) };
}

/** On to the end of a step of the fixture, past those in the middle of it. */
function overStep(path: readonly (string | number)[]): Move {
  return {
    check: (at) => (at.kind === 'step' && at.phase === 'ended' && at.path === path ? boundary(at) : null),
  };
}

function overPath(run: MachineRun): Move {
  const { nesting, at: from } = run;
  if (from?.kind === 'step' && from.phase === 'begins') return overStep(from.path);
  if (from?.kind !== 'event') return finishFault(run);
  const { level } = from;
  const entered = from.event.type === 'enter';
  const out = finishFault(run);
  return {
    check: (at, now) => {
      if (at.kind !== 'event') return out.check(at, now);
      if (now.nesting !== nesting || at.level > level) return null;
      if (entered && at.level === level && at.event.type !== 'leave') return null;
      return { kind: 'path', event: at.event };
    },
    notice: (event) => out.notice?.(event),
  };
}

export function stepPath(steps: PathSteps): Move {
  return {
    check: (at) =>
      at.kind === 'event' && (steps === 'all' || at.event.type === 'decide')
        ? { kind: 'path', event: at.event }
        : null,
  };
}

export function finishFault(run: MachineRun): Move {
  const { nesting } = run;
  let resolved: ResolvedEvent | null = null;
  return {
    check: (at, now) => {
      if (at.kind !== 'code') return at.kind === 'step' && now.nesting > nesting ? null : ended(at);
      if (now.nesting > nesting) return null;
      return { kind: 'resolved', event: resolved, pc: now.pcOf(at.cpu) };
    },
    notice: (event) => {
      if (event.type === 'resolved') resolved = event;
    },
  };
}

/** The end of a step of the fixture's own list. */
function ended(at: At): StopReason | null {
  return at.kind === 'step' && at.phase === 'ended' && at.path.length === 2 ? boundary(at) : null;
}

/** On to the return of the ported function that the path is in. */
export function finishFunction(run: MachineRun): Move {
  const { nesting, at: from } = run;
  const level = functionLevel(from);
  if (level === 0) return finishFault(run);
  const out = finishFault(run);
  return {
    check: (at, now) => {
      if (at.kind !== 'event') return out.check(at, now);
      if (now.nesting !== nesting || at.level > level || at.event.type !== 'leave') return null;
      const { fn, value } = at.event;
      return { kind: 'finished', fn, value: isPrimitive(value) ? value : 'object' };
    },
    notice: (event) => out.notice?.(event),
  };
}

/** Level of the function that a step of a path stands in: behind its return, of the one that has called it. */
export function functionLevel(at: At | null): number {
  if (at?.kind !== 'event') return 0;
  return at.event.type === 'leave' ? at.level - 1 : at.level;
}

export function nextFixtureStep(): Move {
  return { check: boundary };
}

/** On to an address. */
export function until(address: bigint): Move {
  return {
    addresses: [address],
    check: (at, now) => (at.kind === 'code' && now.pcOf(at.cpu) === address ? STEPPED : null),
  };
}

export const onwards: Move = { check: () => null };
