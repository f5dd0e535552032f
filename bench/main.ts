/**
 * `npm run bench`: what a fault costs, beside what the engine alone costs. Absolute times depend on the
 * machine and on what else it does; the ratios are measured in one run, turn by turn.
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { ensureEngine } from '../scripts/setup-engine.js';
import { FIGURES } from './figures.js';
import { PythonLoop } from './python-loop.js';

const TURNS = 5;
const PYTHON = "bare miss-stop-restart, the wheel's Python binding";
const MEASURE = fileURLToPath(new URL('./measure.js', import.meta.url));

async function main(): Promise<void> {
  const { library } = await ensureEngine({ log: (line) => process.stderr.write(`${line}\n`) });
  const python = await PythonLoop.unpack(library);
  const figures = new Map<string, number[]>();
  const note = (name: string, ns: number): void => {
    figures.set(name, [...(figures.get(name) ?? []), ns]);
  };
  try {
    for (let turn = 0; turn < TURNS; turn++) {
      for (const name of FIGURES.keys()) note(name, await measure(name, library));
      if (python !== null) note(PYTHON, await python.measure());
    }
  } finally {
    await python?.remove();
  }
  print(figures);
}

async function measure(name: string, library: string): Promise<number> {
  const { stdout } = await promisify(execFile)(process.execPath, [MEASURE, name, library]);
  return Number(stdout);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

function print(figures: ReadonlyMap<string, readonly number[]>): void {
  const width = Math.max(...[...figures.keys()].map((name) => name.length));
  const python = figures.get(PYTHON);
  const out: string[] = [`${'ns each'.padStart(width + 10)}   of Python's`];
  for (const [name, values] of figures) {
    const ns = median(values);
    const ratio = python === undefined ? '' : (ns / median(python)).toFixed(2).padStart(14);
    out.push(`${name.padEnd(width)}  ${ns.toFixed(0).padStart(8)}${ratio}`);
  }
  if (python === undefined) out.push('No wheel beside the library: nothing to compare with.');
  process.stdout.write(`${out.join('\n')}\n`);
}

await main();
