/**
 * `npm run oracle`: kfault's page-table walks against those of the engine's own MMU, over random tables.
 * Exit status: 0 they agree, 1 they do not, 2 bad options or no engine.
 */
import { CommanderError } from 'commander';
import { CalibrationError } from '../emu/unicorn/calibration.js';
import { LibraryError, openLibrary } from '../emu/unicorn/library.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ensureEngine } from '../scripts/setup-engine.js';
import { SetupError } from '../scripts/setup-error.js';
import { ARM64_STAGE, arm64Scene } from './arm64-fixture.js';
import type { Case } from './case.js';
import { rawText, type Scene, type Stage } from './fixture.js';
import { minimise, simplerArm64, simplerX86 } from './minimise.js';
import { type OracleOptions, parseOptions } from './options.js';
import { arm64Bench, ask, type Bench, type Tally, x86Bench } from './oracle.js';
import { jsonReport, type Printed, textReport } from './report.js';
import { reproduce } from './reproduce.js';
import { X86_STAGE, x86Scene } from './x86-fixture.js';

/** So many disagreements are enough to stop, and so many are printed. */
const ENOUGH = 50;
const PRINTED = 3;

const log = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

/** How the questions of an architecture become small, and fixtures. */
interface Telling<C extends Case> {
  readonly simpler: (question: C) => Iterable<C>;
  readonly stage: Stage;
  readonly scene: (question: C) => Scene | null;
}

interface Found {
  readonly agree: boolean;
  readonly text: readonly string[];
  readonly json: unknown;
}

async function oracle(options: OracleOptions): Promise<number> {
  const { library: path } = await ensureEngine({ log });
  const library = openLibrary(path);
  const found: Found[] = [];
  for (const arch of options.arches) {
    found.push(
      arch === 'x86-64'
        ? await run(x86Bench(library), options, path, {
            ...{ simpler: simplerX86, stage: X86_STAGE, scene: x86Scene },
          })
        : await run(arm64Bench(library), options, path, {
            ...{ simpler: simplerArm64, stage: ARM64_STAGE, scene: arm64Scene },
          }),
    );
  }
  const lines = options.json
    ? [JSON.stringify({ engine: library.version, architectures: found.map(({ json }) => json) })]
    : found.flatMap(({ text }) => [...text, '']);
  process.stdout.write(`${lines.join('\n')}\n`);
  return found.every(({ agree }) => agree) ? 0 : 1;
}

async function run<C extends Case>(
  bench: Bench<C>,
  { seed, count }: OracleOptions,
  path: string,
  telling: Telling<C>,
): Promise<Found> {
  try {
    const tally = ask(bench, seed, { count, enough: ENOUGH });
    const printed = await tell(bench, tally, path, telling);
    return {
      agree: tally.disagreements.length === 0,
      text: textReport(bench, tally, printed),
      json: jsonReport(tally, printed),
    };
  } finally {
    bench.close();
  }
}

async function tell<C extends Case>(
  bench: Bench<C>,
  { seed, disagreements }: Tally<C>,
  path: string,
  { simpler, stage, scene }: Telling<C>,
): Promise<Printed[]> {
  const printed: Printed[] = [];
  for (const { index, question, what } of disagreements.slice(0, PRINTED)) {
    const sequence = minimise(bench, seed, index, simpler) ?? [question];
    const scenes = sequence.map(scene).filter((each) => each !== null);
    const last = sequence.at(-1) ?? question;
    const fixture =
      scenes.length < sequence.length
        ? null
        : (
            await reproduce(
              new NativeEngine(path, { reuse: true }),
              stage,
              `oracle, seed ${seed}, case ${index}: ${what}`.slice(0, 200),
              scenes,
            )
          ).text;
    printed.push({ index, what, questions: sequence.length, fixture, raw: rawText(last) });
  }
  return printed;
}

async function main(): Promise<number> {
  try {
    const options = parseOptions(process.argv.slice(2), {
      out: (text) => process.stdout.write(text),
      err: (text) => process.stderr.write(text),
    });
    return await oracle(options);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof SetupError || error instanceof LibraryError || error instanceof CalibrationError) {
      log(error.message);
      return 2;
    }
    throw error;
  }
}

process.exitCode = await main();
