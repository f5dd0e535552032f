/** Every subject of the benchmarks does what its figure says it measures; nothing is timed. */
import { describe, expect, test } from '@jest/globals';
import { range_tree } from '../bpf/arena/range_tree.js';
import type { Cpu, CpuOptions, Engine } from '../emu/cpu.js';
import type { Ram } from '../emu/ram.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { OCCUPANCIES, occupy } from './arena-pages.js';
import { fromNanoseconds, PROCESSES } from './figures.js';
import { sweep } from './sweep.js';

/** An engine that counts what it asks of the machine's walker. */
class CountingEngine implements Engine {
  readonly version: string;
  readonly #engine = new NativeEngine();
  hits = 0;
  misses = 0;

  constructor() {
    this.version = this.#engine.version;
  }
  createRam(base: number, size: number): Ram {
    return this.#engine.createRam(base, size);
  }
  releaseRam(ram: Ram): void {
    this.#engine.releaseRam(ram);
  }
  createCpu(isa: 'x86-64' | 'arm64', ram: Ram, options: CpuOptions): Cpu {
    const { filler } = options;
    return this.#engine.createCpu(isa, ram, {
      ...options,
      filler: {
        get pa() {
          return filler.pa;
        },
        fill: (va, access) => {
          const rights = filler.fill(va, access);
          if (rights === 0) this.misses += 1;
          else this.hits += 1;
          return rights;
        },
      },
    });
  }
}

const ROUNDS = 24;

/** Fills that hit and that miss in one run of ROUNDS rounds; a few hits more go to code and stack. */
function expected(id: string): { readonly hits: number; readonly misses: number } {
  if (/^(arena-pages|range-tree)\//.test(id)) return { hits: 0, misses: 0 };
  if (/^(instructions|call)\//.test(id)) return { hits: 0, misses: 0 };
  if (id.startsWith('tlb-fill/')) return { hits: ROUNDS, misses: 0 };
  if (id.startsWith('oops/')) return { hits: 0, misses: ROUNDS };
  if (id.startsWith('fixtures/')) return { hits: 1, misses: 1 };
  if (id.startsWith('step-back/')) return { hits: 1, misses: 0 };
  // Each page but the last of the bare loop, which is never started again.
  if (id.startsWith('miss-restart/')) return { hits: ROUNDS - 1, misses: ROUNDS };
  return { hits: ROUNDS, misses: ROUNDS };
}

const subjects = PROCESSES.flatMap((process) => {
  if (process.kind === 'subject') return [[process.figures[0].id, process.make] as const];
  // The tables of an arena of 4 GiB take their time: one allocation of each occupancy will do here.
  if (process.kind === 'series') {
    return process.make.flatMap((make, i) => {
      const id = process.figures[i]?.id ?? '';
      return id.startsWith('arena-pages/1/') || id.startsWith('range-tree/') ? [[id, make] as const] : [];
    });
  }
  return [];
});

describe('subjects', () => {
  test.each(subjects)('%s: each of its runs', async (id, make) => {
    const engine = new CountingEngine();
    const subject = make(engine, ROUNDS);
    try {
      for (let run = 0; run < 2; run++) {
        engine.hits = 0;
        engine.misses = 0;
        await subject.run();
        subject.reset();
        const { hits, misses } = expected(id);
        expect(engine.misses).toBe(misses);
        expect(engine.hits).toBeGreaterThanOrEqual(hits);
        expect(engine.hits).toBeLessThanOrEqual(hits + 8);
      }
    } finally {
      subject.close();
    }
  });
});

test.each(['x86-64', 'arm64'] as const)('a sweep over an arena of %s faults on every page', (arch) => {
  const engine = new CountingEngine();
  const pages = 100;
  const { first, last } = sweep(engine, arch, pages);
  // Once to warm up, and once to be measured.
  expect(engine.misses).toBe(2 * pages);
  expect(first).toBeGreaterThan(0);
  expect(last).toBeGreaterThan(0);
});

test.each([
  ['ns', 2, 2],
  ['µs', 2500, 2.5],
  ['ms', 3e6, 3],
  ['M/s', 10, 100],
  ['/s', 1e6, 1000],
] as const)('nanoseconds in %s', (unit, ns, value) => {
  expect(fromNanoseconds(unit, ns)).toBe(value);
});

describe('the free pages of an arena of 4 GiB', () => {
  test.each(OCCUPANCIES)(
    'at %d %% occupancy: so many are taken, and 1,024 can be had in one piece eight times',
    (percent) => {
      const tree = new range_tree();
      tree.range_tree_set(0, 2 ** 20);
      occupy(tree, percent);
      const sizes = tree.ranges().map(([first, last]) => last - first + 1);
      const free = sizes.reduce((sum, size) => sum + size, 0);
      expect(100 - (free / 2 ** 20) * 100).toBeCloseTo(percent, 0);
      expect(sizes.filter((size) => size >= 1024).length).toBe(8);
      // As many ranges as the rarer kind of page has pages, but for the holes.
      const rarer = Math.min(free - 8 * 1024, 2 ** 20 - free);
      expect(sizes.length).toBeGreaterThan(rarer * 0.99);
    },
  );
});

describe('a series', () => {
  const series = PROCESSES.flatMap((process) => (process.kind === 'series' ? [process] : []));
  test('has a figure for each subject, and ids that nobody else has', () => {
    for (const { figures, make } of series) expect(figures.length).toBe(make.length);
    const ids = PROCESSES.flatMap(({ figures }) => figures.map(({ id }) => id));
    expect(new Set(ids).size).toBe(ids.length);
  });
});
