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
 * the answers to the two questions belong together, or what exactly the engine answers instead. Where the
 * two agree it is asked as well: a walker with the engine's defect would agree with it.
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
  /** Goes with `answers`: does our answer avoid what the engine does? Null when this is not such a case. */
  readonly avoided?: (question: C, ours: Ours) => boolean | null;
}

export interface Substitute<C extends Case> {
  readonly question: C;
  /** Does our answer to the question itself follow from our answer to the substitute? */
  readonly follows: (ours: Ours, substitute: Ours) => boolean;
}

export type Verdict = {
  readonly ours: Ours;
  /** Deviations that had a part in the question, and by which our answer is right. */
  readonly checked: readonly string[];
} & (
  | { readonly kind: 'agree' }
  /** `names`: the deviations without which the answers would differ. */
  | { readonly kind: 'deviation'; readonly names: readonly string[] }
  | { readonly kind: 'disagree'; readonly what: string }
);

/** Asks both. */
export function compare<C extends Case>(
  answers: Answers<C>,
  deviations: readonly Deviation<C>[],
  question: C,
): Verdict {
  const ours = answers.ours(question);
  const checked: string[] = [];
  const disagree = (what: string): Verdict => ({ kind: 'disagree', ours, checked, what });
  if (ours.flaw !== null) return disagree(ours.flaw);
  const what = objection(ours, answers.theirs(question));

  const names: string[] = [];
  let asked = question;
  let answer = ours;
  let open = what;
  let engineAsked = true;
  for (const { name, instead } of deviations) {
    const substitute = instead?.(asked, answer) ?? null;
    if (substitute === null) continue;
    const next = answers.ours(substitute.question);
    if (next.flaw !== null) return disagree(next.flaw);
    if (!substitute.follows(answer, next)) return disagree(what ?? `${name}: kfault does as the engine does`);
    checked.push(name);
    asked = substitute.question;
    answer = next;
    engineAsked = open !== null;
    if (open === null) continue;
    names.push(name);
    open = objection(answer, answers.theirs(asked));
  }
  // That both answered the first question alike says nothing about what the engine lacks.
  if (!engineAsked) open = objection(answer, answers.theirs(asked));

  for (const { name, avoided } of deviations) {
    const right = avoided?.(asked, answer) ?? null;
    if (right === false) return disagree(what ?? `${name}: kfault does as the engine does`);
    if (right === true) checked.push(name);
  }
  for (const { name, answers: instead } of deviations) {
    if (open === null) break;
    const expected = instead?.(asked, answer) ?? null;
    if (expected === null) continue;
    names.push(name);
    if (!checked.includes(name)) checked.push(name);
    answer = expected;
    open = objection(answer, answers.theirs(asked));
  }
  if (open !== null) return disagree(what ?? open);
  return what === null ? { kind: 'agree', ours, checked } : { kind: 'deviation', ours, checked, names };
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

/** True when two of our answers are the same. */
export function sameAnswer(a: Ours, b: Ours): boolean {
  return difference(a, b) === null && a.granted === b.granted;
}

/** `entries` with some replaced. */
export function withEntries(entries: Entries, changes: Entries): Entries {
  return new Map([...entries, ...changes]);
}
