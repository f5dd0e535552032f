/** Where moves back end that need no look at the machine: what is known of the way to here. */
import type { PathSteps } from './api.js';
import { functionLevel } from './moves.js';
import type { MachineRun, PathMark } from './run.js';

/** The last place before here where guest code goes on; null if there is none. */
export function codeBefore(run: MachineRun, nesting = Number.POSITIVE_INFINITY): number | null {
  for (let i = run.code.length - 1; i >= 0; i--) {
    const span = run.code[i];
    if (span !== undefined && span.from < run.tick && span.nesting <= nesting) {
      return Math.min(span.to, run.tick - 1);
    }
  }
  return null;
}

/** The last step of a path before here that fits. */
export function markBefore(run: MachineRun, fits: (mark: PathMark) => boolean): number | null {
  for (let i = run.marks.length - 1; i >= 0; i--) {
    const mark = run.marks[i];
    if (mark !== undefined && mark.tick < run.tick && fits(mark)) return mark.tick;
  }
  return null;
}

export function pathStepBefore(run: MachineRun, steps: PathSteps): number | null {
  const { events } = run.machine;
  return markBefore(run, ({ event }) => steps === 'all' || events[event]?.type === 'decide');
}

/** The beginning or end of a step of the fixture before here. */
export function boundaryBefore(run: MachineRun): number | null {
  return run.stepMarks.findLast(({ tick }) => tick < run.tick)?.tick ?? null;
}

/** Where the path that is under way was come to from: the instruction, or the step of the fixture. */
export function pathBegin(run: MachineRun): number {
  const span = run.code.findLast(({ nesting, from }) => nesting === run.nesting && from < run.tick);
  const begins = run.stepMarks.findLast(({ tick }) => tick < run.tick)?.tick ?? 0;
  return span !== undefined && span.to > begins ? span.to : begins;
}

/** The step of this path before here that is not deeper in calls, or where the path was come to from. */
export function pathStepOverBefore(run: MachineRun): number {
  const [start] = run.pathRange;
  const { at, nesting } = run;
  if (at?.kind !== 'event') return pathBegin(run);
  const { level } = at;
  const { events } = run.machine;
  const left = at.event.type === 'leave';
  const found = markBefore(run, (mark) => {
    if (mark.nesting !== nesting || mark.level > level || mark.event < start) return false;
    return !left || mark.level < level || events[mark.event]?.type === 'enter';
  });
  return found ?? pathBegin(run);
}

/** The entry of the ported function that the path is in, or where the path was come to from. */
export function functionEntry(run: MachineRun): number {
  const { at } = run;
  // At an entry: that of the function that has called it.
  const level = functionLevel(at) - (at?.kind === 'event' && at.event.type === 'enter' ? 1 : 0);
  const [start] = run.pathRange;
  const { events } = run.machine;
  const found =
    level <= 0
      ? null
      : markBefore(
          run,
          (mark) =>
            mark.nesting === run.nesting &&
            mark.level === level &&
            mark.event >= start &&
            events[mark.event]?.type === 'enter',
        );
  return found ?? pathBegin(run);
}

/** Where the code of the run that is under way began. */
export function runBegin(run: MachineRun): number | null {
  const begins =
    run.stepMarks.findLast(({ tick, phase }) => phase === 'begins' && tick < run.tick)?.tick ?? 0;
  const { nesting, tick } = run;
  return (
    run.code.find((span) => span.nesting === nesting && span.from > begins && span.from < tick)?.from ?? null
  );
}
