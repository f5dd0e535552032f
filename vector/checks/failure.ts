/** An expectation that did not hold. */
import { hex } from '../../emu/address.js';
import { type ConsoleFormat, PLAIN } from '../../kernel/printk.js';
import type { Expression } from '../format/bound-expression.js';
import type { Path, Source } from '../format/source.js';
import type { Machine } from '../machine/machine.js';
import { compareText, differInBlankEnd, textLines } from './text-match.js';

export type FailureKind =
  | 'outcome'
  | 'faults'
  | 'registers'
  | 'memory'
  | 'ptes'
  | 'arenas'
  | 'pages'
  | 'happened'
  | 'kfence'
  | 'taint'
  | 'console'
  | 'streams'
  | 'ret'
  | 'returns'
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

const BLANK_END =
  'Only blank lines at the end differ. YAML drops those of a block with |, and keeps them with |+; in a list they are "".';

/** Lines of a list that are shown in a note. */
const SHOWN = 40;

/** The first lines of a list for a note, and how many more there are. */
export function listShown(lines: readonly string[]): string[] {
  if (lines.length <= SHOWN) return [...lines];
  return [...lines.slice(0, SHOWN), `… ${lines.length - SHOWN} more`];
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

  /**
   * Compares a number with what an expression says; nothing expected, nothing compared.
   * @param bits of the value, so that negative ones are shown as such
   */
  number(
    kind: FailureKind,
    path: Path,
    expected: Expression | undefined,
    actual: bigint | null,
    bits: 32 | 64 = 64,
  ): void {
    if (expected === undefined) return;
    const want = expected.value(this.machine.scope);
    if (want === actual) return;
    this.fail(kind, path, this.shown(want, bits), actual === null ? 'nothing' : this.shown(actual, bits));
  }

  /** The same for how many there are of something: decimal. */
  count(
    kind: FailureKind,
    path: Path,
    expected: Expression | undefined,
    actual: number,
    notes: readonly string[] = [],
  ): void {
    const want = expected?.value(this.machine.scope);
    if (want === undefined || want === BigInt(actual)) return;
    this.fail(kind, path, String(BigInt.asIntN(64, want)), String(actual), { notes });
  }

  equal(
    kind: FailureKind,
    path: Path,
    expected: string | undefined,
    actual: string,
    notes: readonly string[] = [],
  ): void {
    if (expected === undefined || expected === actual) return;
    this.fail(kind, path, quotedBlanks(expected), quotedBlanks(actual), { notes });
  }

  text(kind: FailureKind, path: Path, expected: string | undefined, actual: string): void {
    if (expected === undefined) return;
    const diff = compareText(expected, actual);
    if (diff === null) return;
    const notes = differInBlankEnd(expected, actual) ? [BLANK_END] : [];
    this.fail(kind, path, summary(expected), summary(actual), { diff, notes });
  }

  /** A number in hexadecimal, with the name of the place if it is one; small ones also in decimal. */
  shown(value: bigint, bits: 32 | 64 = 64): string {
    const name = this.machine.nameOf(value);
    if (name !== null) return `${hex(value)} (${name})`;
    const signed = value >> BigInt(bits) === 0n ? BigInt.asIntN(bits, value) : value;
    return signed < 0n && signed > -4096n ? `${hex(value)} (${signed})` : hex(value);
  }
}

/** The first line of a text and how many there are. */
function summary(text: string): string {
  const lines = textLines(text);
  const [first] = lines;
  if (first === undefined) return 'no text';
  if (lines.length > 1) return `${first} … (${lines.length} lines)`;
  return first === '' ? 'a blank line' : first;
}

/** A word or two in quotes, where blanks at an end would not be seen. */
function quotedBlanks(text: string): string {
  return text === text.trim() && text !== '' ? text : `"${text}"`;
}
