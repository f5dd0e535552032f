/** Takes away from a question what has no part in the answers' being different. */
import type { Arm64Case } from './arm64-case.js';
import type { Case } from './case.js';
import { compare } from './compare.js';
import type { Bench } from './oracle.js';
import { Random } from './random.js';
import type { X86Case } from './x86-case.js';

/** Questions to be asked in this order of MMUs that remember nothing; the answers to the last one differ. */
export type Sequence<C extends Case> = readonly C[];

/** How far back a cause is looked for, in questions. */
const MEMORY = 4096;
/** Attempts to take something away. */
const ATTEMPTS = 4000;

/**
 * The shortest way found to the disagreement over question `index` of a seed. Most need only that question.
 * Null when it does not come back: then more of the questions before it would be needed.
 */
export function minimise<C extends Case>(
  bench: Bench<C>,
  seed: number,
  index: number,
  simpler: (question: C) => Iterable<C>,
): Sequence<C> | null {
  const questions = lastQuestions(bench, seed, index);
  const found = shortestEnd(bench, questions);
  if (found === null) return null;
  let attempts = ATTEMPTS;
  const fails = (sequence: Sequence<C>): boolean => attempts-- > 0 && disagrees(bench, sequence);
  let sequence = dropQuestions(found, fails);
  for (let changed = true; changed && attempts > 0; ) {
    changed = false;
    for (const [place, question] of sequence.entries()) {
      for (const candidate of simpler(question)) {
        const attempt = sequence.with(place, candidate);
        if (!fails(attempt)) continue;
        sequence = attempt;
        changed = true;
        break;
      }
    }
  }
  return sequence;
}

/** Do the answers to the last question of a sequence differ? */
export function disagrees<C extends Case>(bench: Bench<C>, sequence: Sequence<C>): boolean {
  const fresh = bench.afresh();
  return sequence.map((question) => compare(fresh, fresh.deviations, question)).at(-1)?.kind === 'disagree';
}

function lastQuestions<C extends Case>(bench: Bench<C>, seed: number, index: number): C[] {
  const generator = bench.generator(new Random(seed));
  const questions: C[] = [];
  for (let i = 0; i <= index; i++) {
    questions.push(generator.next());
    if (questions.length > 2 * MEMORY) questions.splice(0, MEMORY);
  }
  return questions;
}

function shortestEnd<C extends Case>(bench: Bench<C>, questions: readonly C[]): Sequence<C> | null {
  for (let length = 1; length < 2 * questions.length && length <= MEMORY; length *= 2) {
    const end = questions.slice(-length);
    if (disagrees(bench, end)) return end;
  }
  return null;
}

/** Halves, then quarters and so on down to single questions, as long as the last one still fails. */
function dropQuestions<C extends Case>(
  sequence: Sequence<C>,
  fails: (sequence: Sequence<C>) => boolean,
): Sequence<C> {
  let kept = sequence;
  for (let size = Math.floor(kept.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at + size < kept.length; ) {
      const attempt = [...kept.slice(0, at), ...kept.slice(at + size)];
      if (fails(attempt)) kept = attempt;
      else at += size;
    }
  }
  return kept;
}

/** Without one of the entries, or with bits of one entry cleared. */
function* simplerEntries<C extends Case>(question: C): Iterable<C> {
  for (const [pa, value] of question.entries) {
    yield { ...question, entries: new Map([...question.entries].filter(([other]) => other !== pa)) };
    for (let rest = value; rest !== 0n; rest &= rest - 1n) {
      const lowest = rest & -rest;
      yield { ...question, entries: new Map([...question.entries, [pa, value & ~lowest]]) };
    }
  }
}

const WITHOUT_LOW_BITS = ~0xfffn;

/** Questions with one thing less. What counts as nothing is what a kernel would have. */
export function* simplerX86(question: X86Case): Iterable<X86Case> {
  const { cr0, cr3, cr4, efer, pkru, ac, va } = question;
  if (pkru !== 0) yield { ...question, pkru: 0 };
  for (const bit of [22n, 21n, 20n, 12n]) {
    if (((cr4 >> bit) & 1n) === 1n) yield { ...question, cr4: cr4 & ~(1n << bit) };
  }
  if ((cr0 & (1n << 16n)) === 0n) yield { ...question, cr0: cr0 | (1n << 16n) };
  if ((efer & (1n << 11n)) === 0n) yield { ...question, efer: efer | (1n << 11n) };
  if ((cr3 & 0xfffn) !== 0n) yield { ...question, cr3: cr3 & WITHOUT_LOW_BITS };
  if (ac) yield { ...question, ac: false };
  if ((va & 0xfffn) !== 0n) yield { ...question, va: BigInt.asUintN(64, va & WITHOUT_LOW_BITS) };
  yield* simplerEntries(question);
}

export function* simplerArm64(question: Arm64Case): Iterable<Arm64Case> {
  const { tcr, sctlr, pan, ldtr, va } = question;
  for (const bit of [7n, 23n, 37n, 38n, 39n, 40n, 41n, 42n, 51n, 52n, 55n, 56n]) {
    if (((tcr >> bit) & 1n) === 1n) yield { ...question, tcr: tcr & ~(1n << bit) };
  }
  for (const shift of [0n, 16n]) {
    const sized = (tcr & ~(0x3fn << shift)) | (16n << shift);
    if (sized !== tcr) yield { ...question, tcr: sized };
  }
  if (((tcr >> 32n) & 7n) !== 5n) yield { ...question, tcr: (tcr & ~(7n << 32n)) | (5n << 32n) };
  for (const bit of [19n, 57n]) {
    if (((sctlr >> bit) & 1n) === 1n) yield { ...question, sctlr: sctlr & ~(1n << bit) };
  }
  if (pan) yield { ...question, pan: false };
  if (ldtr) yield { ...question, ldtr: false };
  if ((va & 0xfffn) !== 0n) yield { ...question, va: BigInt.asUintN(64, va & WITHOUT_LOW_BITS) };
  yield* simplerEntries(question);
}
