/** What the oracle found, for people and for machines. */
import type { Case } from './case.js';
import type { Bench, Tally } from './oracle.js';

/** A disagreement as it is printed. */
export interface Printed {
  readonly index: number;
  readonly what: string;
  /** Questions after which the answers differ: 1, or more where kfault's memory of walks has a part in it. */
  readonly questions: number;
  /** YAML; null where no machine can have the question. */
  readonly fixture: string | null;
  /** The last question. */
  readonly raw: string;
}

const WIDTH = 8;

function sorted(counts: ReadonlyMap<string, number>): [string, number][] {
  return [...counts].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
}

export function textReport<C extends Case>(
  bench: Bench<C>,
  { arch, seed, cases, outcomes, checked, needed, disagreements }: Tally<C>,
  printed: readonly Printed[],
): string[] {
  const share = (count: number): string => `${((100 * count) / cases).toFixed(1).padStart(5)} %`;
  const lines = [
    `${arch}: ${cases} cases from seed ${seed}, each compared in physical address, rights, fault, fault address and table writes`,
  ];
  for (const [name, count] of sorted(outcomes)) {
    lines.push(`${String(count).padStart(WIDTH)} ${share(count)}  ${name}`);
  }
  lines.push(
    '  what the engine does differently, cases checked for it and cases whose answers differ by it:',
  );
  const count = (counts: ReadonlyMap<string, number>, name: string): string =>
    String(counts.get(name) ?? 0).padStart(WIDTH);
  for (const { name, engine, manual } of bench.deviations) {
    lines.push(`${count(checked, name)} ${count(needed, name)}  ${name}: ${engine}`);
    lines.push(`${''.padStart(2 * WIDTH + 1)}  (${manual})`);
  }
  for (const limit of bench.limits) lines.push(`  not asked: ${limit}`);
  lines.push(`  disagreements: ${disagreements.length}`);
  for (const { index, what, questions, fixture, raw } of printed) {
    lines.push('', `case ${index} of seed ${seed}: ${what}`);
    if (questions > 1)
      lines.push(`It takes the ${questions - 1} question(s) before it: kfault remembers walks.`);
    lines.push(`the last question: ${raw}`);
    lines.push(
      fixture === null ? 'No machine can have it, so there is no fixture.' : `as a fixture:\n${fixture}`,
    );
  }
  return lines;
}

export function jsonReport<C extends Case>(
  { arch, seed, cases, outcomes, checked, needed, disagreements }: Tally<C>,
  printed: readonly Printed[],
): unknown {
  return {
    arch,
    seed,
    cases,
    outcomes: Object.fromEntries(sorted(outcomes)),
    deviations: Object.fromEntries(
      [...checked].map(([name, count]) => [name, { checked: count, needed: needed.get(name) ?? 0 }]),
    ),
    disagreements: disagreements.length,
    printed,
  };
}
