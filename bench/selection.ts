/** Which processes a pattern asks for. */
import { type Figure, PROCESSES, type Process, SPLITS, type Split } from './figures.js';

export interface Selection {
  /** What has to be measured. */
  readonly processes: readonly Process[];
  /** Ids of the figures that are shown. */
  readonly shown: ReadonlySet<string>;
  readonly splits: readonly Split[];
}

/** Everything, or what matches by section, label or id; with it what it is compared with or made of. */
export function select(pattern: RegExp | null): Selection {
  const matches = (text: string): boolean => pattern === null || pattern.test(text);
  const figures = PROCESSES.flatMap((process): readonly Figure[] => process.figures);
  const wanted = figures.filter(({ id, section, label }) => [id, section, label].some(matches));
  const shown = new Set(wanted.filter(({ part }) => part !== true).map(({ id }) => id));
  for (const { python } of wanted) if (python !== undefined) shown.add(python);

  const inParts = new Set(wanted.filter(({ part }) => part === true).map(({ section }) => section));
  const splits = SPLITS.filter(({ section }) => inParts.has(section));
  const needed = new Set(shown);
  for (const { parts, whole, beyond } of splits) {
    for (const [, id] of [...parts, whole, beyond]) needed.add(id);
  }
  const processes = PROCESSES.filter((process) => process.figures.some(({ id }) => needed.has(id)));
  return { processes, shown, splits };
}
