/**
 * Measures the figures of one process in this one: `measure.js ID LIBRARY`, with the id of its first
 * figure. Each figure has a process of its own, as the Python binding has: what one figure teaches the
 * JavaScript engine must not help or harm another. Prints a Measured as JSON.
 */
import { Bench } from 'tinybench';
import { fromNanoseconds, openEngine, PROCESSES } from './figures.js';
import type { Measured } from './report.js';
import type { Subject } from './subject.js';
import { ARENA_PAGES, sweep } from './sweep.js';

/** Nanoseconds for each round: in the median of the runs, and in the fastest one. */
async function nanoseconds(
  subject: Subject,
  time: number,
): Promise<{ readonly median: number; readonly fastest: number }> {
  // A run may take a while: these are only how many there are at least.
  const bench = new Bench({ time, warmupTime: time, iterations: 3, warmupIterations: 1 });
  const isAsync = subject.run.constructor.name === 'AsyncFunction';
  bench.add('subject', () => subject.run(), { async: isAsync, afterEach: () => subject.reset() });
  await bench.run();
  const result = bench.tasks[0]?.result;
  if (result?.state === 'errored') throw result.error;
  if (result?.state !== 'completed') throw new Error(`the measurement ended as ${result?.state}`);
  const { p50, min } = result.latency;
  return { median: (p50 * 1e6) / subject.rounds, fastest: (min * 1e6) / subject.rounds };
}

async function measure(id: string, library: string): Promise<Measured> {
  const found = PROCESSES.find(({ figures }) => figures[0].id === id);
  switch (found?.kind) {
    case 'subject': {
      const engine = openEngine(library, found.reuse);
      const subject = found.make(engine);
      const { median, fastest } = await nanoseconds(subject, found.time);
      subject.close();
      return { values: [fromNanoseconds(found.figures[0].unit, median)], fastest };
    }
    case 'series': {
      const engine = openEngine(library, false);
      const values: number[] = [];
      for (const [i, make] of found.make.entries()) {
        const subject = make(engine);
        const { median } = await nanoseconds(subject, found.time);
        subject.close();
        values.push(fromNanoseconds(found.figures[i]?.unit ?? 'ns', median));
      }
      return { values, fastest: null };
    }
    case 'sweep': {
      const { first, last } = sweep(openEngine(library, false), found.arch, ARENA_PAGES);
      return { values: [first, last, process.resourceUsage().maxRSS / 1024], fastest: null };
    }
    case 'python':
    case 'command':
    case undefined:
      throw new Error(`"${id}" is not measured in a process of this kind`);
  }
}

const [, , id = '', library = ''] = process.argv;
process.stdout.write(`${JSON.stringify(await measure(id, library))}\n`);
