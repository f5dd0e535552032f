/** Where a session stands and why, as it is told behind each move. */
import type { SessionViews } from '../../api.js';
import type { Position } from '../../position.js';
import type { Stop } from '../../stop.js';
import type { StepView } from '../../views.js';
import { bad, dim, good, hanging, here, type Line, line } from '../lines.js';
import { pathTrail } from './path.js';
import { resultLines } from './steps.js';

export type WhereView = Pick<
  SessionViews,
  'disassemble' | 'path' | 'fixtureSteps' | 'currentStep' | 'result' | 'pc' | 'cpu' | 'cpus'
>;

/** The reason, the place, and what there is to see at once. */
export function stopLines(stop: Stop, session: WhereView): Line[] {
  const text = stop.text === '' ? [] : stop.text.split('\n').map((row) => stopRow(row, stop));
  return [...text, ...placeLines(stop.position, session)];
}

function stopRow(row: string, { reason }: Stop): Line {
  if (row.startsWith('=> ')) return hanging(5, here('=>'), row.slice(2));
  if (reason.kind === 'end') return hanging(2, reason.status === 'passed' ? good(row) : bad(row));
  return hanging(2, row);
}

function placeLines(position: Position, session: WhereView): Line[] {
  switch (position.place) {
    case 'code': {
      const bpf = session.disassemble(session.pc, 1)[0]?.bpf ?? null;
      return bpf === null ? [] : [hanging(5, dim(`   ; ${bpf}`))];
    }
    case 'path':
      return pathTrail(session.path());
    case 'start':
    case 'between':
      return nextStep(session);
    case 'end':
      return session.result === null ? [] : resultLines(session.result);
  }
}

function nextStep(session: WhereView): Line[] {
  const running = session.currentStep();
  const steps = session.fixtureSteps();
  const step = running ?? steps.find(({ state }) => state === 'waiting') ?? steps.at(-1);
  if (step === undefined) return [];
  const what = step.state === 'running' ? 'Now' : step.state === 'waiting' ? 'Next' : `Step ${step.state}`;
  return [stepLine(what, step)];
}

function stepLine(what: string, step: StepView): Line {
  return hanging(2, dim(`${what}: `), `${step.where}, ${step.text}`, dim(` (line ${step.line})`));
}

/** `info program`: numbers that say where in the run one is. */
export function positionLines(
  position: Position,
  task: SessionViews['task'],
  cpus: number,
  step: StepView | null,
): Line[] {
  const { tick, instructions, place, cpu } = position;
  return [
    line(
      `Tick ${tick}, behind ${instructions} instruction${instructions === 1 ? '' : 's'}, ${PLACES[place]}.`,
    ),
    line(`CPU ${cpu} of ${cpus}, task ${task.comm} with pid ${task.pid}, in ${task.mode} mode.`),
    ...(step === null ? [] : [stepLine('Step', step)]),
  ];
}

const PLACES: Readonly<Record<Position['place'], string>> = {
  start: 'at the start',
  between: 'between steps of the fixture',
  code: 'in guest code',
  path: 'in the kernel’s path',
  end: 'at the end',
};
