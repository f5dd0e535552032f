/** `kfault explain`. */
import type { ConsoleFormat } from '../kernel/printk.js';
import { loadFixture } from '../vector/format/load.js';
import { consoleOfFixture, explainFixture } from '../vector/report/explain-fixture.js';
import { fixtureErrors } from '../vector/run/run-fixture.js';
import { openEngine } from './engine.js';
import { type Io, PASSED, UNUSABLE, UsageError } from './io.js';

export interface ExplainOptions {
  readonly step?: number;
  readonly console?: boolean;
  readonly levels?: boolean;
  readonly time?: boolean;
  readonly caller?: boolean;
}

/** Tells the story of the faults in `file`, or prints its kernel log; returns the exit status. */
export async function explainCommand(file: string, options: ExplainOptions, io: Io): Promise<number> {
  const format = consoleFormat(options);
  const loaded = loadFixture(file);
  if (!loaded.ok) {
    io.err(`${loaded.errors.map((error) => error.format()).join('\n')}\n`);
    return UNUSABLE;
  }
  try {
    const engine = await openEngine(io);
    const which = { step: options.step ?? null };
    const lines =
      format === null
        ? await explainFixture(loaded.fixture, engine, which)
        : await consoleOfFixture(loaded.fixture, engine, { ...which, format });
    io.out(lines.map((line) => `${line}\n`).join(''));
    return PASSED;
  } catch (error) {
    const errors = fixtureErrors(error);
    if (errors === null) throw error;
    io.err(`${errors.map((each) => each.format()).join('\n')}\n`);
    return UNUSABLE;
  }
}

/** How to print the kernel log; null when the story is wanted. */
function consoleFormat({ console, levels, time, caller }: ExplainOptions): ConsoleFormat | null {
  const format = { levels: levels === true, time: time === true, caller: caller === true };
  if (console === true) return format;
  const given = Object.entries(format).find(([, on]) => on)?.[0];
  if (given !== undefined)
    throw new UsageError(`--${given} says how the kernel log is printed: give --console too`);
  return null;
}
