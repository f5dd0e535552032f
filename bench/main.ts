/**
 * `npm run bench`: what kfault costs, layer by layer, beside what the engine alone costs. Absolute times
 * depend on the machine and on what else it does; the ratios are measured in one run, turn by turn.
 * docs/performance.md says what each number means.
 */
import { execFile } from 'node:child_process';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CommanderError } from 'commander';
import { ensureEngine, packageRoot } from '../scripts/setup-engine.js';
import { openEngine, type Process } from './figures.js';
import { type BenchOptions, parseOptions } from './options.js';
import { PythonBinding } from './python-binding.js';
import { type FigureTurns, jsonReport, type Measured, type Surroundings, textReport } from './report.js';
import { select } from './selection.js';

const MEASURE = fileURLToPath(new URL('./measure.js', import.meta.url));
/** The same in the build whose paths can be stopped in, beside which the straight one stands. */
const MEASURE_STOPS = fileURLToPath(new URL('../../bench/measure.js', import.meta.url));
const PYTHON_SECONDS = 0.5;
const execute = promisify(execFile);

async function bench({ json, only, turns }: BenchOptions): Promise<number> {
  const log = (line: string): boolean => process.stderr.write(`${line}\n`);
  const selection = select(only);
  if (selection.processes.length === 0) {
    log(`no figure matches ${only?.source}: nothing was measured`);
    return 2;
  }
  const { library } = await ensureEngine({ log });
  const python = await PythonBinding.unpack(library);
  if (python === null) log('No wheel beside the library: there is no Python binding to compare with.');
  const measured = new Map<string, FigureTurns>();
  try {
    for (let turn = 1; turn <= turns; turn++) {
      log(`turn ${turn} of ${turns}`);
      for (const process of selection.processes) {
        note(measured, process, await measure(process, library, python));
      }
    }
  } finally {
    await python?.remove();
  }
  const processor = cpus()[0]?.model ?? 'unknown processor';
  const { version: engine } = openEngine(library, false);
  const surroundings: Surroundings = { node: process.version, engine, processor, turns };
  const lines = json
    ? [jsonReport(selection, measured, surroundings)]
    : textReport(selection, measured, surroundings);
  process.stdout.write(`${lines.join('\n')}\n`);
  return 0;
}

function note(all: Map<string, FigureTurns>, { figures }: Process, { values, fastest }: Measured): void {
  for (const [i, { id }] of figures.entries()) {
    const value = values[i];
    if (value === undefined) continue;
    const before = all.get(id);
    all.set(id, {
      values: [...(before?.values ?? []), value],
      fastest: [...(before?.fastest ?? []), ...(fastest === null ? [] : [fastest])],
    });
  }
}

async function measure(
  measurement: Process,
  library: string,
  python: PythonBinding | null,
): Promise<Measured> {
  const node = process.execPath;
  switch (measurement.kind) {
    case 'subject':
    case 'series':
    case 'sweep': {
      const script = measurement.kind === 'subject' && measurement.stops ? MEASURE_STOPS : MEASURE;
      const { stdout } = await execute(node, [script, measurement.figures[0].id, library]);
      return JSON.parse(stdout) as Measured;
    }
    case 'python': {
      const [script = '', ...args] = measurement.args;
      const values = python === null ? [] : [await python.measure(script, args, PYTHON_SECONDS)];
      return { values, fastest: null };
    }
    case 'command': {
      const root = packageRoot();
      const begin = performance.now();
      await execute(node, [join(root, 'cli', 'kfault.mjs'), ...measurement.args], { cwd: root });
      return { values: [performance.now() - begin], fastest: null };
    }
  }
}

try {
  const output = {
    out: (text: string) => process.stdout.write(text),
    err: (text: string) => process.stderr.write(text),
  };
  process.exitCode = await bench(parseOptions(process.argv.slice(2), output));
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  process.exitCode = error.exitCode === 0 ? 0 : 2;
}
