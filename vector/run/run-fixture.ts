/** One fixture from file to result. */
import { type Engine, EngineError } from '../../emu/cpu.js';
import { buildMachine } from '../build/build-machine.js';
import { FixtureError, FixtureErrors } from '../format/fixture-error.js';
import type { Fixture } from '../format/load.js';
import type { Machine } from '../machine/machine.js';
import { type FixtureResult, invalidResult } from './result.js';
import { runSteps, type StepsResult } from './run-steps.js';

/**
 * Builds a fixture's machine, runs it, checks it and frees it. Mistakes in the fixture and failures of the
 * engine are in the result; what is thrown is a defect of kfault.
 */
export async function runFixture(fixture: Fixture, engine: Engine): Promise<FixtureResult> {
  const begin = performance.now();
  try {
    const { machine } = await buildMachine(fixture, engine);
    try {
      return stepsResult(fixture, machine, runSteps(fixture, machine), performance.now() - begin);
    } finally {
      machine.close();
    }
  } catch (error) {
    const result = failureResult(fixture, error);
    if (result === null) throw error;
    return result;
  }
}

/** The result of a fixture whose steps have run. */
export function stepsResult(
  { source, data }: Fixture,
  machine: Machine,
  { failures, spans }: StepsResult,
  milliseconds: number,
): FixtureResult {
  return {
    file: source.file,
    name: data.name,
    arch: data.arch,
    status: failures.length === 0 ? 'passed' : 'failed',
    failures,
    errors: [],
    events: machine.events,
    spans,
    milliseconds,
  };
}

/** The result of a fixture that could not be run; null when what was thrown is a defect of kfault. */
export function failureResult(fixture: Fixture, error: unknown): FixtureResult | null {
  const errors = error instanceof EngineError ? [engineFailure(fixture, error)] : fixtureErrors(error);
  if (errors === null) return null;
  const { name, arch } = fixture.data;
  return invalidResult(fixture.source.file, errors, { name, arch });
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
