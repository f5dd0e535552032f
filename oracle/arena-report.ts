/** What the oracle of arenas found, for people and for machines. */
import { QUIRKS, type Quirk } from './arena-model.js';
import type { ArchName } from './case.js';

/** One architecture. */
export interface ArenaTally {
  readonly arch: ArchName;
  readonly seed: number;
  readonly arenas: number;
  readonly steps: number;
  /** How many of the arenas met a quirk. */
  readonly met: ReadonlyMap<Quirk, number>;
  /** The smallest case in which something does not hold, as fast-check tells it; null when all holds. */
  readonly failure: string | null;
}

const QUIRK_NAMES = Object.keys(QUIRKS) as Quirk[];
const WIDTH = 7;

export function arenaTextReport({ arch, seed, arenas, steps, met, failure }: ArenaTally): string[] {
  if (failure !== null) return [`${arch}: seed ${seed}`, failure];
  return [
    `${arch}: seed ${seed}, ${arenas} arenas, ${steps} steps: all as the model has it`,
    ...QUIRK_NAMES.map((quirk) => `  ${String(met.get(quirk) ?? 0).padStart(WIDTH)}  ${quirk}`),
  ];
}

/** Of a run that failed there are no counts: it ends with the first arena in which something does not hold. */
export function arenaJsonReport({ arch, seed, arenas, steps, met, failure }: ArenaTally): unknown {
  if (failure !== null) return { arch, seed, failure };
  return {
    arch,
    seed,
    arenas,
    steps,
    quirks: Object.fromEntries(QUIRK_NAMES.map((quirk) => [quirk, met.get(quirk) ?? 0])),
    failure,
  };
}
