/** One question to both MMUs, and what is made of answers that differ. */
import { type Case, difference, type Entries, type Ours, type Theirs } from './case.js';

/** Somebody who answers. */
export interface Answers<C extends Case> {
  ours(question: C): Ours;
  theirs(question: C): Theirs;
}

/**
 * A way in which the engine's MMU is no such CPU as kfault's. It is believed only where it explains the
 * difference to the last bit: a deviation says which question would get the same answer from both and how
 * the answers to the two questions belong together, or what exactly the engine answers instead.
 */
export interface Deviation<C extends Case> {
  readonly name: string;
  /** What the engine does. */
  readonly engine: string;
  /** The section that says that kfault is right, or that both are. */
  readonly manual: string;
  /** A question without what the engine lacks; null when this one does not touch that. */
  readonly instead?: (question: C, ours: Ours) => Substitute<C> | null;
  /** The answer that the engine gives, from the one that it should give; null when this is not such a case. */
  readonly answers?: (question: C, ours: Ours) => Ours | null;
}

export interface Substitute<C extends Case> {
  readonly question: C;
  /** Does our answer to the question itself follow from our answer to the substitute? */
  readonly follows: (ours: Ours, substitute: Ours) => boolean;
}

export type Verdict =
  | { readonly kind: 'agree'; readonly ours: Ours }
  | { readonly kind: 'deviation'; readonly ours: Ours; readonly names: readonly string[] }
  | { readonly kind: 'disagree'; readonly ours: Ours; readonly what: string };

/** Asks both. */
export function compare<C extends Case>(
  answers: Answers<C>,
  deviations: readonly Deviation<C>[],
  question: C,
): Verdict {
  const ours = answers.ours(question);
  if (ours.flaw !== null) return { kind: 'disagree', ours, what: ours.flaw };
  const theirs = answers.theirs(question);
  const what = objection(ours, theirs);
  if (what === null) return { kind: 'agree', ours };
  const names = explain(answers, deviations, question, ours, theirs);
  return names === null ? { kind: 'disagree', ours, what } : { kind: 'deviation', ours, names };
}

/** What is wrong with our answer if the engine's is right. */
function objection(ours: Ours, theirs: Theirs): string | null {
  const what = difference(ours, theirs);
  if (what !== null) return what;
  const careless = ours.granted & ~theirs.silent;
  return ours.pa !== null && careless !== 0
    ? `a fill grants rights (${careless}) whose use would have to write into the tables`
    : null;
}

/** The deviations that explain the difference together, or null. */
function explain<C extends Case>(
  answers: Answers<C>,
  deviations: readonly Deviation<C>[],
  question: C,
  ours: Ours,
  theirs: Theirs,
): readonly string[] | null {
  const names: string[] = [];
  let asked = question;
  let answer = ours;
  let other = theirs;
  for (const { name, instead } of deviations) {
    const substitute = instead?.(asked, answer) ?? null;
    if (substitute === null) continue;
    const next = answers.ours(substitute.question);
    if (next.flaw !== null || !substitute.follows(answer, next)) return null;
    names.push(name);
    asked = substitute.question;
    answer = next;
    other = answers.theirs(asked);
    if (objection(answer, other) === null) return names;
  }
  for (const { name, answers: instead } of deviations) {
    const expected = instead?.(asked, answer) ?? null;
    if (expected === null) continue;
    names.push(name);
    answer = expected;
    if (objection(answer, other) === null) return names;
  }
  return null;
}

/** True when two of our answers are the same. */
export function sameAnswer(a: Ours, b: Ours): boolean {
  return difference(a, b) === null && a.granted === b.granted;
}

/** `entries` with some replaced. */
export function withEntries(entries: Entries, changes: Entries): Entries {
  return new Map([...entries, ...changes]);
}
