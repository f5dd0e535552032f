/** An expectation that did not hold. */
import { hex } from '../../emu/address.js';
import { type ConsoleFormat, PLAIN } from '../../kernel/printk.js';
import type { Expression } from '../bound-expression.js';
import type { Machine } from '../machine.js';
import type { Path, Source } from '../source.js';
import { compareText } from '../text-match.js';

export type FailureKind =
  | 'outcome'
  | 'faults'
  | 'registers'
  | 'memory'
  | 'ptes'
  | 'arenas'
  | 'kfence'
  | 'taint'
  | 'console'
  | 'streams'
  | 'ret'
  | 'text'
  | 'value';

export interface Failure {
  readonly kind: FailureKind;
  /** The expectation, e.g. `step 1 expect.faults[0].address`. */
  readonly where: string;
  readonly line: number;
  readonly column: number;
  readonly expected: string;
  readonly actual: string;
  /** Line by line, for texts and lists. */
  readonly diff: string | null;
  /** What else helps to see why: the console, the last fault. */
  readonly notes: readonly string[];
}

/** `step 1 expect.faults[0].address` for a path into a fixture; steps count from 1. */
export function wherePath(path: Path): string {
  const isStep = path[0] === 'steps' && typeof path[1] === 'number';
  const rest = isStep ? path.slice(2) : path;
  const dotted = rest
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i === 0 ? '' : '.'}${key}`))
    .join('');
  return isStep ? `step ${Number(path[1]) + 1} ${dotted}`.trimEnd() : dotted;
}

/** Collects failures, each with the place of its expectation. */
export class Checks {
  readonly failures: Failure[] = [];

  constructor(
    readonly source: Source,
    readonly machine: Machine,
    /** How expectations write the lines of the kernel log. */
    readonly console: ConsoleFormat = PLAIN,
  ) {}

  fail(
    kind: FailureKind,
    path: Path,
    expected: string,
    actual: string,
    more: { readonly diff?: string | null; readonly notes?: readonly string[] } = {},
  ): void {
    const { line, column } = this.source.valuePlace(path);
    this.failures.push({
      kind,
      where: wherePath(path),
      line,
      column,
      expected,
      actual,
      diff: more.diff ?? null,
      notes: more.notes ?? [],
    });
  }

  /** Compares a number with what an expression says; nothing expected, nothing compared. */
  number(kind: FailureKind, path: Path, expected: Expression | undefined, actual: bigint | null): void {
    if (expected === undefined) return;
    const want = expected.value(this.machine.scope);
    if (want === actual) return;
    this.fail(kind, path, this.shown(want), actual === null ? 'nothing' : this.shown(actual));
  }

  equal(kind: FailureKind, path: Path, expected: string | undefined, actual: string): void {
    if (expected === undefined || expected === actual) return;
    this.fail(kind, path, expected, actual);
  }

  text(kind: FailureKind, path: Path, expected: string | undefined, actual: string): void {
    if (expected === undefined) return;
    const diff = compareText(expected, actual);
    if (diff !== null) this.fail(kind, path, summary(expected), summary(actual), { diff });
  }

  /** A number in hexadecimal, with the name of the place if it is one; small ones also in decimal. */
  shown(value: bigint): string {
    const name = this.machine.nameOf(value);
    if (name !== null) return `${hex(value)} (${name})`;
    const signed = BigInt.asIntN(64, value);
    return signed < 0n && signed > -4096n ? `${hex(value)} (${signed})` : hex(value);
  }
}

/** The first line of a text and how many there are. */
function summary(text: string): string {
  const lines = text.replace(/\n+$/, '').split('\n');
  const first = lines[0] ?? '';
  if (first === '' && lines.length === 1) return 'no text';
  return lines.length === 1 ? first : `${first} … (${lines.length} lines)`;
}
