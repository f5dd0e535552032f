/**
 * `npm run bench`: what a fault costs, beside what the engine alone costs. Absolute times depend on the
 * machine and on what else it does; the ratios are measured in one run, turn by turn, and hold.
 */
import { Bench } from 'tinybench';
import type { Arch } from '../arch/arch.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { ensureEngine } from '../scripts/setup-engine.js';
import { BareLoop } from './bare-loop.js';
import { PythonLoop } from './python-loop.js';
import { ScratchFaults } from './scratch-fault.js';

/** Faults of one measured iteration, and pages of the arena. */
const FAULTS = 4096;
const TURNS = 3;

const ARCHES: readonly Arch['name'][] = ['x86-64', 'arm64'];
const BARE = 'bare miss-stop-restart, koffi';
const PYTHON = "bare miss-stop-restart, the wheel's Python binding";
const fullyHandled = (arch: string): string => `fully handled scratch fault, ${arch}`;

async function main(): Promise<void> {
  const { library } = await ensureEngine({ log: (line) => process.stderr.write(`${line}\n`) });
  const engine = new NativeEngine(library);
  const python = await PythonLoop.unpack(library);
  const bare = new BareLoop(engine);
  const machines = ARCHES.map((arch) => ({ arch, faults: new ScratchFaults(engine, arch, FAULTS) }));
  const figures = new Map<string, number[]>();
  const note = (name: string, ns: number): void => {
    figures.set(name, [...(figures.get(name) ?? []), ns]);
  };
  try {
    for (let turn = 0; turn < TURNS; turn++) {
      const bench = new Bench({ time: 400, warmupTime: turn === 0 ? 400 : 50 });
      bench.add(BARE, () => bare.run(FAULTS));
      for (const { arch, faults } of machines) {
        bench.add(fullyHandled(arch), () => faults.run(FAULTS), { afterEach: () => faults.reset(FAULTS) });
      }
      await bench.run();
      for (const { name, result } of bench.tasks) {
        if (result.state !== 'completed') throw new Error(`${name}: ${result.state}`);
        note(name, (result.latency.p50 * 1e6) / FAULTS);
      }
      if (python !== null) note(PYTHON, await python.measure());
    }
  } finally {
    for (const { faults } of machines) faults.close();
    bare.close();
    await python?.remove();
  }
  print(figures);
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
