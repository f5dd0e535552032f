/** One fixture from file to result. */
import type { Engine } from '../emu/cpu.js';
import { buildMachine } from './build-machine.js';
import { FixtureError, FixtureErrors } from './fixture-error.js';
import type { Fixture } from './load.js';
import { type FixtureResult, invalidResult } from './result.js';
import { runSteps } from './run-steps.js';

/**
 * Builds a fixture's machine, runs it, checks it and frees it. Mistakes in the fixture are in the result;
 * what is thrown is a defect of kfault or its engine.
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
    const errors = fixtureErrors(error);
    if (errors === null) throw error;
    return invalidResult(file, errors, { name, arch });
  }
}

/** The mistakes of a fixture behind what was thrown, or null when it was something else. */
export function fixtureErrors(error: unknown): readonly FixtureError[] | null {
  if (error instanceof FixtureErrors) return error.errors;
  return error instanceof FixtureError ? [error] : null;
}
