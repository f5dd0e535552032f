/** Moves by lines, as an editor shows them: instructions, decisions of a path, steps of the fixture. */
import type { PathSteps } from './api.js';
import { boundaryBefore, codeBefore, markBefore, pathBegin, pathStepBefore } from './history.js';
import { finishFault, type Move, stepInstruction } from './moves.js';
import type { At, MachineRun } from './run.js';
import type { StopReason } from './stop.js';

/** See SessionMoves.stepLine(). */
export function stepLine(run: MachineRun, steps: PathSteps): Move {
  switch (run.place) {
    case 'code':
      return stepInstruction(run);
    case 'path':
      return withinPath(run, steps);
    case 'start':
    case 'between':
    case 'end':
      return intoStep(run, steps);
  }
}

function pathStep(at: At, steps: PathSteps): StopReason | null {
  if (at.kind !== 'event' || (steps === 'decisions' && at.event.type !== 'decide')) return null;
  return { kind: 'path', event: at.event };
}

function withinPath(run: MachineRun, steps: PathSteps): Move {
  const out = finishFault(run);
  return {
    check: (at, now) => pathStep(at, steps) ?? out.check(at, now),
    notice: (event) => out.notice?.(event),
  };
}

/** The first instruction or decision of the step, or the next step. */
function intoStep(run: MachineRun, steps: PathSteps): Move {
  // At the start the first step has not begun; nothing is to be seen where it begins.
  let first = run.place === 'start';
  return {
    check: (at) => {
      if (at.kind === 'code') return { kind: 'stepped' };
      if (at.kind === 'event') return pathStep(at, steps);
      const skipped = first;
      first = false;
      return skipped ? null : { kind: 'fixture-step', phase: at.phase, hit: null };
    },
  };
}

/** See SessionMoves.stepLineBack(): the tick, or null for the start. */
export function lineBefore(run: MachineRun, steps: PathSteps): number | null {
  if (run.place === 'path') {
    const { events } = run.machine;
    const [start] = run.pathRange;
    const before = markBefore(
      run,
      ({ event, nesting }) =>
        event >= start && nesting === run.nesting && (steps === 'all' || events[event]?.type === 'decide'),
    );
    return before ?? pathBegin(run);
  }
  const code = codeBefore(run);
  const boundary = boundaryBefore(run);
  // From where code goes on, the way back leads over the fault; else the last thing was what it was.
  const path = run.place === 'code' ? null : pathStepBefore(run, steps);
  const latest = Math.max(code ?? 0, boundary ?? 0, path ?? 0);
  return latest === 0 ? null : latest;
}
