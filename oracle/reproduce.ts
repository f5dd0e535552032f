/** Runs the fixtures that the oracle prints, so that they say how their runs end. */
import type { Engine } from '../emu/cpu.js';
import { parseFixture } from '../vector/format/load.js';
import { Source } from '../vector/format/source.js';
import type { FixtureResult } from '../vector/run/result.js';
import { runFixture } from '../vector/run/run-fixture.js';
import { fixtureText, type Scene, type Stage } from './fixture.js';

/** How a run that makes one access may end, the likely ends first. */
function ends({ fault, user }: Scene): string[] {
  const rest = ['returned', 'oops', 'signal', 'livelock', 'stopped', 'panic', 'budget'];
  return [...new Set([fault === null ? 'returned' : user ? 'signal' : 'oops', ...rest])];
}

/** Runs a fixture from its text. */
export async function runText(text: string, engine: Engine): Promise<FixtureResult> {
  const loaded = parseFixture(new Source('oracle.yaml', text));
  if (!loaded.ok) {
    throw new Error(
      `the oracle printed a bad fixture:\n${loaded.errors.map((e) => e.format()).join('\n')}\n${text}`,
    );
  }
  return runFixture(loaded.fixture, engine);
}

export interface Reproduction {
  readonly text: string;
  /** Does kfault as a machine answer as its MMU alone did? */
  readonly passes: boolean;
}

/** The fixture of some accesses, with the ends that their runs come to. */
export async function reproduce(
  engine: Engine,
  stage: Stage,
  title: string,
  scenes: readonly Scene[],
): Promise<Reproduction> {
  const outcomes: string[] = [];
  let passes = true;
  for (let count = 1; count <= scenes.length; count++) {
    const part = scenes.slice(0, count);
    const end = await endOf(engine, stage, title, part, outcomes);
    passes &&= end !== null;
    outcomes.push(end ?? 'oops');
  }
  return { text: fixtureText(stage, title, scenes, outcomes), passes };
}

/** How the run of the last scene ends; null when it does something else than expected. */
async function endOf(
  engine: Engine,
  stage: Stage,
  title: string,
  scenes: readonly Scene[],
  before: readonly string[],
): Promise<string | null> {
  const last = scenes.at(-1);
  for (const outcome of last === undefined ? [] : ends(last)) {
    const { status } = await runText(fixtureText(stage, title, scenes, [...before, outcome]), engine);
    if (status === 'passed') return outcome;
  }
  return null;
}
