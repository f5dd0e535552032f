/** The fixture: its steps, its text, and what came of it. */

import type { Failure } from '../../../vector/checks/failure.js';
import type { Fixture } from '../../../vector/format/load.js';
import type { FixtureResult } from '../../../vector/run/result.js';
import type { StepView } from '../../views.js';
import { bad, dim, good, hanging, here, type Line, line, type Span, strong, verbatim } from '../lines.js';

export function stepLines(fixture: Fixture, steps: readonly StepView[]): Line[] {
  const { name, arch } = fixture.data;
  return [
    hanging(2, strong(name), dim(` (${arch}, ${fixture.source.file})`)),
    ...steps.flatMap((step) => oneStep(step)),
  ];
}

function oneStep(step: StepView): Line[] {
  const { where, text, behind, state } = step;
  const nested = behind === null ? '' : '  ';
  const mark = state === 'running' ? here('=> ') : '   ';
  return [
    hanging(
      5,
      mark,
      `${nested}${where}: `,
      state === 'running' ? here(text) : text,
      ...(behind === null ? [] : [dim(` behind ${behind}`)]),
      '  ',
      stateSpan(state),
      dim(`  line ${step.line}`),
    ),
    ...step.failures.flatMap((failure) => failureLines(failure).map((each) => indented(each, 5))),
  ];
}

function stateSpan(state: StepView['state']): Span {
  switch (state) {
    case 'waiting':
      return dim('waits');
    case 'running':
      return here('runs');
    case 'passed':
      return good('passed');
    case 'failed':
      return bad('failed');
  }
}

function indented(source: Line, columns: number): Line {
  return {
    ...source,
    spans: [{ text: ' '.repeat(columns), style: 'plain' }, ...source.spans],
    hang: source.hang + columns,
  };
}

export function failureLines(failure: Failure): Line[] {
  const diff = failure.diff?.split('\n') ?? [];
  return [
    line(strong(failure.where), dim(`  line ${failure.line}`)),
    hanging(12, dim('  expected  '), good(failure.expected)),
    hanging(12, dim('  actual    '), bad(failure.actual)),
    ...(diff.length === 0 ? [] : [line(dim('  - expected, + actual'))]),
    ...diff.map((row) => verbatim('  ', diffSpan(row))),
    ...failure.notes.map((note) => hanging(4, dim(`  ${note}`))),
  ];
}

function diffSpan(row: string): Span {
  if (row.startsWith('-')) return good(row);
  return row.startsWith('+') ? bad(row) : dim(row);
}

/** What the fixture came to, at the end. */
export function resultLines(result: FixtureResult): Line[] {
  return [
    ...result.failures.flatMap(failureLines),
    ...result.errors.map((error) => hanging(2, bad(error.format()))),
  ];
}

/** Lines of the fixture's file around one, counted from 1. */
export function sourceLines(fixture: Fixture, from: number, count: number, mark: number | null): Line[] {
  const { lines } = fixture.source;
  const first = Math.max(1, from);
  return lines.slice(first - 1, first - 1 + count).map((text, i) => {
    const number = first + i;
    return verbatim(number === mark ? here('=>') : '  ', dim(`${String(number).padStart(4)} `), text);
  });
}
