/** Requests that move the machine. */
import type { DebugSession } from '../api.js';
import type { Stop } from '../stop.js';
import type { Desk } from './desk.js';
import type { Arguments } from './requests.js';

type MoveArguments = Arguments<'next'>;

export function answerMoves(desk: Desk): void {
  desk.handle('continue', () =>
    desk.move({ allThreadsContinued: true }, (session) => session.continue(), {
      direction: 'forward',
      resumes: true,
    }),
  );
  desk.handle('reverseContinue', () =>
    desk.move(undefined, (session) => session.continueBack(), { direction: 'back' }),
  );
  desk.handle('next', (args) => forward(desk, (session) => next(session, args)));
  desk.handle('stepIn', (args) =>
    forward(desk, (session) =>
      args.granularity === 'instruction'
        ? session.stepInstruction()
        : session.stepLine(desk.launched.args.steps),
    ),
  );
  desk.handle('stepOut', () => forward(desk, stepOut));
  desk.handle('stepBack', ({ granularity }) =>
    desk.move(
      undefined,
      (session) =>
        granularity === 'instruction'
          ? session.stepInstructionBack()
          : session.stepLineBack(desk.launched.args.steps),
      { direction: 'back' },
    ),
  );
  desk.handle('pause', () => {
    // It may have stopped by itself in the meantime.
    void desk.launched;
    return { after: () => desk.motion.halt() };
  });
}

function forward(desk: Desk, go: (session: DebugSession) => Promise<Stop>) {
  return desk.move(undefined, go, { direction: 'forward' });
}

async function next(session: DebugSession, { granularity }: MoveArguments): Promise<Stop> {
  const { place } = session.position;
  if (place === 'code' || place === 'path' || granularity === 'instruction') return session.stepOver();
  // From one step of the fixture to the next: where one has ended, nothing is to be seen that is not there as well.
  if (place === 'start') {
    const begun = await session.nextFixtureStep();
    if (!isBoundary(begun)) return begun;
  }
  const over = await session.stepOver();
  const ended = over.reason.kind === 'fixture-step' && over.reason.phase === 'ended';
  return ended && isBoundary(over) ? session.nextFixtureStep() : over;
}

/** A boundary of the fixture's steps at which nothing else has stopped. */
function isBoundary({ reason }: Stop): boolean {
  return reason.kind === 'fixture-step' && reason.hit === null;
}

function stepOut(session: DebugSession): Promise<Stop> {
  const { place } = session.position;
  return place === 'code' || place === 'path' ? session.finish() : session.nextFixtureStep();
}
