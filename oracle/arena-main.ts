/**
 * `npm run arena-oracle`: random use of arenas on real machines, against the model; what `npm test` tries a little of.
 * Exit status: 0 all of it holds, 1 something does not, 2 bad options or no engine.
 */
import { CommanderError } from 'commander';
import fc from 'fast-check';
import { LibraryError } from '../emu/unicorn/library.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ensureEngine } from '../scripts/setup-engine.js';
import { SetupError } from '../scripts/setup-error.js';
import type { Quirk } from './arena-model.js';
import { check } from './arena-property.js';
import { type ArenaTally, arenaJsonReport, arenaTextReport } from './arena-report.js';
import { cases } from './arena-steps.js';
import type { ArchName } from './case.js';
import { parseOptions } from './options.js';

const COUNT = 1000;
const LONGEST = 200;

const log = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

function run(engine: NativeEngine, arch: ArchName, seed: number, numRuns: number): ArenaTally {
  const met = new Map<Quirk, number>();
  let steps = 0;
  const result = fc.check(
    fc.property(cases(LONGEST), (each) => {
      steps += each.steps.length;
      for (const quirk of check(engine, arch, each)) met.set(quirk, (met.get(quirk) ?? 0) + 1);
    }),
    { seed, numRuns },
  );
  const failure = result.failed ? (fc.defaultReportMessage(result) ?? '') : null;
  return { arch, seed, arenas: numRuns, steps, met, failure };
}

async function main(): Promise<number> {
  try {
    const options = parseOptions(
      process.argv.slice(2),
      { out: (text) => process.stdout.write(text), err: log },
      {
        name: 'arena-oracle',
        description: 'Uses arenas at random, on real machines, and compares them with their model.',
        count: COUNT,
        counted: 'arenas on each architecture',
      },
    );
    const { library } = await ensureEngine({ log });
    const engine = new NativeEngine(library, { reuse: true });
    const print = (line: string): void => {
      process.stdout.write(`${line}\n`);
    };
    const tallies = options.arches.map((arch) => {
      const tally = run(engine, arch, options.seed, options.count);
      if (!options.json) arenaTextReport(tally).forEach(print);
      return tally;
    });
    engine.close();
    if (options.json) {
      print(JSON.stringify({ engine: engine.version, architectures: tallies.map(arenaJsonReport) }));
    }
    return tallies.every(({ failure }) => failure === null) ? 0 : 1;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof SetupError || error instanceof LibraryError) {
      log(error.message);
      return 2;
    }
    throw error;
  }
}

process.exitCode = await main();
