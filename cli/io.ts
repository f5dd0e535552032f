/** Where a command reads its surroundings and writes its output; tests put their own in place. */
import pc from 'picocolors';
import type { Colours } from '../vector/report/report-human.js';

export interface Io {
  out(text: string): void;
  err(text: string): void;
  /** Whether standard output is a terminal. */
  readonly isTty: boolean;
  /** Columns of that terminal; null when it is none. */
  readonly columns: number | null;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Exit statuses. */
export const PASSED = 0;
export const FAILED = 1;
export const UNUSABLE = 2;

/** Colours on a terminal only, and never when NO_COLOR is set to anything. */
export function coloursFor(io: Io): Colours {
  return pc.createColors(coloursWanted(io));
}

/** See coloursFor(). */
export function coloursWanted(io: Io): boolean {
  const { NO_COLOR: no, TERM: term } = io.env;
  return io.isTty && (no === undefined || no === '') && term !== 'dumb';
}

/** Input or surroundings that a command cannot work with; the message is complete. Exit status 2. */
export class UsageError extends Error {
  override name = 'UsageError';
}
