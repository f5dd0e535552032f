/**
 * One machine, one arena, every page of it: does a fault cost the same after a million others, and how much
 * memory does it take?
 */
import type { Engine } from '../emu/cpu.js';
import type { ArchName } from './guest-code.js';
import { ScratchMachine } from './scratch-fault.js';

/** Pages of an arena of 4 GiB, the largest there is. */
export const ARENA_PAGES = 0x10_0000;
/** The tables of an arena take 8 MiB and a little; with what the machine itself needs it is just below 9 MiB. */
export const SWEEP_RAM = 10 * 2 ** 20;

const PARTS = 10;

export interface SweepResult {
  /** Nanoseconds per fault in the first tenth of the pages. */
  readonly first: number;
  readonly last: number;
  readonly all: number;
}

/** Touches `pages` pages, each for the first time, and nothing between is undone. */
export function sweep(engine: Engine, arch: ArchName, pages: number): SweepResult {
  const machine = new ScratchMachine(engine, arch, pages, { ramBytes: SWEEP_RAM });
  try {
    const spans = Array.from({ length: PARTS }, (_, part): readonly [number, number] => {
      const from = Math.round((pages * part) / PARTS);
      return [from, Math.round((pages * (part + 1)) / PARTS) - from];
    });
    // The first faults of a process are slow whatever they touch: JavaScript is compiled as it runs.
    const warm = Math.min(pages, 16_384);
    machine.touch(warm);
    machine.free(warm);
    const times = spans.map(([first, count]) => {
      const begin = performance.now();
      machine.touch(count, first);
      return performance.now() - begin;
    });
    const each = (part: number): number => ((times[part] ?? 0) * 1e6) / (spans[part]?.[1] ?? 1);
    const total = times.reduce((sum, time) => sum + time, 0);
    return { first: each(0), last: each(PARTS - 1), all: (total * 1e6) / pages };
  } finally {
    machine.close();
  }
}
