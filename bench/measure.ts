/**
 * Measures one figure in this process and prints nanoseconds per round. Each figure has a process of its
 * own, as the Python binding has: what one figure teaches the JavaScript engine must not help or harm
 * another.
 */
import { Bench } from 'tinybench';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { FIGURES, ROUNDS } from './figures.js';

const [, , name = '', library] = process.argv;
const make = FIGURES.get(name);
if (make === undefined) throw new Error(`there is no figure "${name}"`);
const subject = make(new NativeEngine(library));
const bench = new Bench({ time: 500, warmupTime: 500 });
bench.add(name, () => subject.run(), { afterEach: () => subject.reset() });
await bench.run();
subject.close();
const result = bench.tasks[0]?.result;
if (result?.state !== 'completed') throw new Error(`${name}: ${result?.state}`);
process.stdout.write(`${(result.latency.p50 * 1e6) / ROUNDS}\n`);
