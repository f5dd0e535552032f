/** One fixture from file to result. */
import { type Engine, EngineError } from '../../emu/cpu.js';
import { buildMachine } from '../build/build-machine.js';
import { FixtureError, FixtureErrors } from '../format/fixture-error.js';
import type { Fixture } from '../format/load.js';
import { type FixtureResult, invalidResult } from './result.js';
import { runSteps } from './run-steps.js';

/**
 * Builds a fixture's machine, runs it, checks it and frees it. Mistakes in the fixture and failures of the
 * engine are in the result; what is thrown is a defect of kfault.
 */
export async function runFixture(fixture: Fixture, engine: Engine): Promise<FixtureResult> {
  const { file } = fixture.source;
  const { name, arch } = fixture.data;
  const begin = performance.now();
  try {
    const { machine } = await buildMachine(fixture, engine);
    try {
      const { failures, spans } = runSteps(fixture, machine);
      return {
        file,
        name,
        arch,
        status: failures.length === 0 ? 'passed' : 'failed',
        failures,
        errors: [],
        events: machine.events,
        spans,
        milliseconds: performance.now() - begin,
      };
    } finally {
      machine.close();
    }
  } catch (error) {
    const errors = error instanceof EngineError ? [engineFailure(fixture, error)] : fixtureErrors(error);
    if (errors === null) throw error;
    return invalidResult(file, errors, { name, arch });
  }
}

/** The engine gave up: nobody's mistake in the fixture, and no reason not to run the next one. */
function engineFailure({ source }: Fixture, error: EngineError): FixtureError {
  return source.error(null, `the engine failed: ${error.message}`);
}

/** The mistakes of a fixture behind what was thrown, or null when it was something else. */
export function fixtureErrors(error: unknown): readonly FixtureError[] | null {
  if (error instanceof FixtureErrors) return error.errors;
  return error instanceof FixtureError ? [error] : null;
}
