/** Results for people: a line per fixture, and for each failure what was expected and what came. */
import type { Formatter } from 'picocolors/types.js';
import type { Failure } from '../checks/failure.js';
import { printable } from '../format/fixture-error.js';
import type { FixtureResult } from '../run/result.js';

/** Colours in use; picocolors makes one that does nothing. */
export interface Colours {
  readonly green: Formatter;
  readonly red: Formatter;
  readonly yellow: Formatter;
  readonly dim: Formatter;
  readonly bold: Formatter;
}

export interface HumanOptions {
  readonly colours: Colours;
  readonly timing: boolean;
  /** Columns of the terminal; null where lines may be of any length. */
  readonly columns?: number | null;
}

/** Columns in front of a fixture's name. */
const MARGIN = 9;

/** A name broken at blanks so that it fits the terminal, its further lines under the first. */
function wrapped(name: string, columns: number | null): string {
  const width = Math.max(20, (columns ?? Number.POSITIVE_INFINITY) - MARGIN);
  const lines: string[] = [];
  for (const word of name.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines.join(`\n${' '.repeat(MARGIN)}`);
}

/** The lines about one fixture. What a fixture's author wrote reaches a terminal only as text. */
export function fixtureLines(result: FixtureResult, options: HumanOptions): string[] {
  const { colours, timing, columns = null } = options;
  const time = timing ? colours.dim(`  ${result.milliseconds.toFixed(1)} ms`) : '';
  const arch = (result.arch ?? '').padEnd(6);
  const name = result.name === null ? printable(result.file) : wrapped(printable(result.name), columns);
  switch (result.status) {
    case 'passed':
      return [`${colours.green('✓')} ${colours.dim(arch)} ${name}${time}`];
    case 'failed':
      return [
        `${colours.red('✗')} ${colours.dim(arch)} ${colours.bold(name)}${time}`,
        ...result.failures.flatMap((failure) => failureLines(failure, result.file, colours)),
        '',
      ];
    case 'invalid':
      return [
        `${colours.red('!')} ${colours.dim(arch)} ${colours.bold(name)}`,
        ...result.errors.flatMap((error) =>
          error
            .format()
            .split('\n')
            .map((line) => `    ${printable(line)}`),
        ),
        '',
      ];
  }
}

function failureLines(failure: Failure, file: string, colours: Colours): string[] {
  const place = colours.dim(printable(`${file}:${failure.line}:${failure.column}`));
  const out = [
    `    ${colours.bold(printable(failure.where))}  ${place}`,
    `      expected  ${colours.green(printable(failure.expected))}`,
    `      actual    ${colours.red(printable(failure.actual))}`,
  ];
  if (failure.diff !== null) {
    out.push('      - expected, + actual');
    out.push(...failure.diff.split('\n').map((line) => `      ${coloured(printable(line), colours)}`));
  }
  out.push(...failure.notes.map((note) => `      ${colours.dim(printable(note))}`));
  return out;
}

function coloured(line: string, colours: Colours): string {
  if (line.startsWith('-')) return colours.green(line);
  if (line.startsWith('+')) return colours.red(line);
  return colours.dim(line);
}

/** The last lines: a count per architecture, one for all, and where to look next. */
export function summaryLines(results: readonly FixtureResult[], { colours, timing }: HumanOptions): string[] {
  // Lines about a fixture that did not pass end with an empty one.
  const out: string[] = results.at(-1)?.status === 'passed' ? [''] : [];
  for (const arch of ['x86-64', 'arm64'] as const) {
    const mine = results.filter((result) => result.arch === arch);
    if (mine.length > 0) out.push(`${arch.padEnd(6)}  ${counts(mine, colours)}`);
  }
  const total = timing
    ? colours.dim(`, ${results.reduce((sum, result) => sum + result.milliseconds, 0).toFixed(0)} ms`)
    : '';
  const many = `${results.length} fixture${results.length === 1 ? '' : 's'}`;
  out.push(`${many}: ${counts(results, colours)}${total}`);
  const failed = results.find((result) => result.status === 'failed');
  if (failed !== undefined) {
    out.push('', `What happened, step by step: npx kfault explain ${printable(failed.file)}`);
  }
  return out;
}

function counts(results: readonly FixtureResult[], colours: Colours): string {
  const count = (status: string): number => results.filter((result) => result.status === status).length;
  const passed = count('passed');
  const failed = count('failed');
  const invalid = count('invalid');
  return [
    passed > 0 ? colours.green(`${passed} passed`) : `${passed} passed`,
    failed > 0 ? colours.red(`${failed} failed`) : `${failed} failed`,
    ...(invalid > 0 ? [colours.red(`${invalid} invalid`)] : []),
  ].join(', ');
}
