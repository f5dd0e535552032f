/** What the kernel and programs have printed. */
import type { StreamView } from '../../views.js';
import { dim, type Line, line, strong, verbatim } from '../lines.js';

/** Lines of text that are shown of what was printed on the way to a stop. */
const NEWS_MAX = 6;

export function consoleView(lines: readonly string[], last: number | null): Line[] {
  if (lines.length === 0) return [line(dim('Nothing was printed to the console.'))];
  const shown = last === null ? lines : lines.slice(-last);
  return shown.map((text) => verbatim(text));
}

export function streamLines(streams: readonly StreamView[], program: string | null): Line[] {
  const wanted = streams.filter((stream) => program === null || stream.program === program);
  const filled = wanted.filter(({ text }) => text !== '');
  if (filled.length === 0) {
    return [
      line(
        dim(program === null ? 'No program has written to its streams.' : `${program} has written nothing.`),
      ),
    ];
  }
  return filled.flatMap(({ program: owner, stream, text }) => [
    line(strong(`${owner} ${stream}:`)),
    ...text
      .replace(/\n$/, '')
      .split('\n')
      .map((row) => verbatim(row)),
  ]);
}

/** What there was at the stop before. */
export interface Printed {
  readonly console: readonly string[];
  readonly streams: readonly StreamView[];
}

/** What has been printed since: a few lines of it, and where the rest is. */
export function newsLines(before: Printed, now: Printed): Line[] {
  const out = news('console', now.console.slice(before.console.length), 'console');
  for (const { program, stream, text } of now.streams) {
    const old = before.streams.find((each) => each.program === program && each.stream === stream)?.text ?? '';
    if (text === old || !text.startsWith(old)) continue;
    const rows = text.slice(old.length).replace(/\n$/, '').split('\n');
    out.push(...news(`${program} ${stream}`, rows, 'streams'));
  }
  return out;
}

function news(source: string, rows: readonly string[], command: string): Line[] {
  const shown = rows.length > NEWS_MAX + 1 ? rows.slice(0, NEWS_MAX) : rows;
  const left = rows.length - shown.length;
  return [
    ...shown.map((row) => verbatim(dim(`${source}| `), row)),
    ...(left > 0 ? [line(dim(`${source}| … ${left} more lines (${command})`))] : []),
  ];
}
