/** `kfault explain`. */
import { explainFixture } from '../vector/explain-fixture.js';
import { loadFixture } from '../vector/load.js';
import { fixtureErrors } from '../vector/run-fixture.js';
import { openEngine } from './engine.js';
import { type Io, PASSED, UNUSABLE } from './io.js';

export interface ExplainOptions {
  readonly step?: number;
}

/** Tells the story of the faults in `file`; returns the exit status. */
export async function explainCommand(file: string, options: ExplainOptions, io: Io): Promise<number> {
  const loaded = loadFixture(file);
  if (!loaded.ok) {
    io.err(`${loaded.errors.map((error) => error.format()).join('\n')}\n`);
    return UNUSABLE;
  }
  try {
    const engine = await openEngine(io);
    const lines = await explainFixture(loaded.fixture, engine, { step: options.step ?? null });
    io.out(`${lines.join('\n')}\n`);
    return PASSED;
  } catch (error) {
    const errors = fixtureErrors(error);
    if (errors === null) throw error;
    io.err(`${errors.map((each) => each.format()).join('\n')}\n`);
    return UNUSABLE;
  }
}
