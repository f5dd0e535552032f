/** `kfault run`. */
import type { Engine } from '../emu/cpu.js';
import { discoverFixtures } from '../vector/format/discover.js';
import { type Fixture, loadFixture } from '../vector/format/load.js';
import { fixtureLines, summaryLines } from '../vector/report/report-human.js';
import { jsonReport } from '../vector/report/report-json.js';
import { exitStatus, type FixtureResult, invalidResult } from '../vector/run/result.js';
import { runFixture } from '../vector/run/run-fixture.js';
import { openEngine } from './engine.js';
import { coloursFor, type Io, UsageError } from './io.js';

export interface RunOptions {
  readonly arch?: 'x86-64' | 'arm64';
  readonly filter?: string;
  readonly json?: boolean;
  readonly failFast?: boolean;
  readonly timing?: boolean;
}

/** Runs the fixtures in `paths`; returns the exit status. */
export async function runCommand(paths: readonly string[], options: RunOptions, io: Io): Promise<number> {
  const wanted = selection(options);
  const { files, errors } = discoverFixtures(paths.length === 0 ? ['fixtures'] : paths);
  const human = { colours: coloursFor(io), timing: options.timing === true, columns: io.columns };
  const results: FixtureResult[] = [];
  const add = (result: FixtureResult): boolean => {
    results.push(result);
    if (options.json !== true) io.out(`${fixtureLines(result, human).join('\n')}\n`);
    return options.failFast === true && result.status !== 'passed';
  };

  let stopped = errors.some((error) => add(invalidResult(error.file, [error])));
  // Opened for the first fixture that runs: bad input is reported without an engine.
  let engine: Engine | null = null;
  for (const file of files) {
    if (stopped) break;
    const loaded = loadFixture(file);
    if (!loaded.ok) {
      stopped = add(invalidResult(file, loaded.errors));
    } else if (wanted(loaded.fixture)) {
      engine ??= await openEngine(io);
      stopped = add(await runFixture(loaded.fixture, engine));
    }
  }
  if (results.length === 0) throw new UsageError('no fixture matches: nothing was run');
  if (options.json === true) io.out(jsonReport(results, human));
  else io.out(`${summaryLines(results, human).join('\n')}\n`);
  return exitStatus(results);
}

function selection({ arch, filter }: RunOptions): (fixture: Fixture) => boolean {
  let pattern: RegExp | null = null;
  try {
    pattern = filter === undefined ? null : new RegExp(filter, 'i');
  } catch (error) {
    throw new UsageError(`--filter: ${error instanceof Error ? error.message : String(error)}`);
  }
  return ({ data, source }) =>
    (arch === undefined || data.arch === arch) &&
    (pattern === null || pattern.test(data.name) || pattern.test(source.file));
}
