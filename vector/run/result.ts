/** What running a fixture came to. */
import type { Event } from '../../emu/events.js';
import type { Failure } from '../checks/failure.js';
import type { FixtureError } from '../format/fixture-error.js';
import type { StepSpan } from './run-steps.js';

/** passed: all expectations hold. failed: one does not. invalid: the fixture could not be run. */
export type Status = 'passed' | 'failed' | 'invalid';

export interface FixtureResult {
  readonly file: string;
  /** Null when the file could not be read so far. */
  readonly name: string | null;
  readonly arch: 'x86-64' | 'arm64' | null;
  readonly status: Status;
  readonly failures: readonly Failure[];
  readonly errors: readonly FixtureError[];
  readonly events: readonly Event[];
  /** Events of each step, as indexes into `events`. */
  readonly spans: readonly StepSpan[];
  /** Wall-clock time; not part of what is checked. */
  readonly milliseconds: number;
}

/** 0 all passed, 1 one failed, 2 one is invalid. */
export function exitStatus(results: readonly FixtureResult[]): 0 | 1 | 2 {
  if (results.some((result) => result.status === 'invalid')) return 2;
  return results.some((result) => result.status === 'failed') ? 1 : 0;
}

/** A result for input that never became a fixture. */
export function invalidResult(
  file: string,
  errors: readonly FixtureError[],
  known: { readonly name: string; readonly arch: 'x86-64' | 'arm64' } | null = null,
): FixtureResult {
  return {
    file,
    name: known?.name ?? null,
    arch: known?.arch ?? null,
    status: 'invalid',
    failures: [],
    errors,
    events: [],
    spans: [],
    milliseconds: 0,
  };
}
