/** Many questions for both MMUs of an architecture, and what came of them. */
import type { UnicornLibrary } from '../emu/unicorn/library.js';
import { type Arm64Case, Arm64Ours, Arm64Theirs } from './arm64-case.js';
import { ARM64_DEVIATIONS } from './arm64-deviations.js';
import { Arm64Generator } from './arm64-generate.js';
import type { ArchName, Case, Ours } from './case.js';
import { type Answers, compare, type Deviation } from './compare.js';
import { Random } from './random.js';
import { type X86Case, X86Ours, X86Theirs } from './x86-case.js';
import { X86_DEVIATIONS } from './x86-deviations.js';
import { X86Generator } from './x86-generate.js';

/** Both MMUs of one architecture. */
export interface Bench<C extends Case> extends Answers<C> {
  readonly arch: ArchName;
  readonly deviations: readonly Deviation<C>[];
  /** What is not asked, because the engine knows nothing of it. */
  readonly limits: readonly string[];
  generator(random: Random): { next(): C };
  /** The same, with an MMU of ours that remembers nothing. */
  afresh(): Bench<C>;
  close(): void;
}

export function x86Bench(library: UnicornLibrary): Bench<X86Case> {
  const engine = new X86Theirs(library);
  const bench = (): Bench<X86Case> => {
    const kfault = new X86Ours();
    return {
      arch: 'x86-64',
      deviations: X86_DEVIATIONS,
      limits: [],
      generator: (random) => new X86Generator(random),
      ours: (question) => kfault.answer(question),
      theirs: (question) => engine.answer(question),
      afresh: bench,
      close: () => engine.close(),
    };
  };
  return bench();
}

export function arm64Bench(library: UnicornLibrary): Bench<Arm64Case> {
  const engine = new Arm64Theirs(library);
  const bench = (): Bench<Arm64Case> => {
    const kfault = new Arm64Ours();
    return {
      arch: 'arm64',
      deviations: ARM64_DEVIATIONS,
      limits: ['TCR_EL1.T0SZ and T1SZ of 40 to 48, which FEAT_TTST allows: the engine does not have it'],
      generator: (random) => new Arm64Generator(random),
      ours: (question) => kfault.answer(question),
      theirs: (question) => engine.answer(question),
      afresh: bench,
      close: () => engine.close(),
    };
  };
  return bench();
}

export interface Disagreement<C extends Case> {
  /** Which question it was, from 0 on. */
  readonly index: number;
  readonly question: C;
  readonly ours: Ours;
  readonly what: string;
}

export interface Tally<C extends Case> {
  readonly arch: ArchName;
  readonly seed: number;
  cases: number;
  /** How often the accesses came to what, by name. */
  readonly outcomes: Map<string, number>;
  /** How often a deviation had a part in the question, by name. */
  readonly checked: Map<string, number>;
  /** How often the answers would have differed without it, by name. */
  readonly needed: Map<string, number>;
  readonly disagreements: Disagreement<C>[];
}

export interface Limits {
  readonly count: number;
  /** Stop at this many disagreements. */
  readonly enough: number;
}

/** Asks `count` random questions. The same seed asks the same ones. */
export function ask<C extends Case>(bench: Bench<C>, seed: number, { count, enough }: Limits): Tally<C> {
  const generator = bench.generator(new Random(seed));
  const tally: Tally<C> = {
    arch: bench.arch,
    seed,
    cases: 0,
    outcomes: new Map(),
    checked: new Map(bench.deviations.map(({ name }) => [name, 0])),
    needed: new Map(bench.deviations.map(({ name }) => [name, 0])),
    disagreements: [],
  };
  const note = (counts: Map<string, number>, name: string): void => {
    counts.set(name, (counts.get(name) ?? 0) + 1);
  };
  for (let index = 0; index < count && tally.disagreements.length < enough; index++) {
    const question = generator.next();
    const verdict = compare(bench, bench.deviations, question);
    tally.cases += 1;
    note(tally.outcomes, outcomeName(bench.arch, verdict.ours));
    for (const name of verdict.checked) note(tally.checked, name);
    switch (verdict.kind) {
      case 'agree':
        break;
      case 'deviation':
        for (const name of verdict.names) note(tally.needed, name);
        break;
      case 'disagree':
        tally.disagreements.push({ index, question, ours: verdict.ours, what: verdict.what });
        break;
    }
  }
  return tally;
}

const FAULT_KINDS: ReadonlyMap<number, string> = new Map([
  [0x00, 'address size'],
  [0x04, 'translation'],
  [0x08, 'access flag'],
  [0x0c, 'permission'],
  [0x14, 'external abort on walk'],
]);

/** What an access came to, for counting: the kind of fault and the level of the entry that decided. */
export function outcomeName(arch: ArchName, { pa, code, levels }: Ours): string {
  const level = levels.at(-1)?.level ?? 'none';
  if (pa !== null) return `translates, leaf ${level}`;
  if (arch === 'arm64') {
    if (code === 0x10) return 'external abort';
    return `${FAULT_KINDS.get(code & 0x3c) ?? `fault 0x${code.toString(16)}`}, level ${code & 3}`;
  }
  if (code < 0) return 'not canonical';
  if ((code & 1) === 0) return `not present, ${level}`;
  if ((code & 8) !== 0) return `reserved bit, ${level}`;
  const who = (code & 4) !== 0 ? 'user' : 'supervisor';
  const what = (code & 2) !== 0 ? 'write' : (code & 16) !== 0 ? 'fetch' : 'read';
  return `refused ${(code & 32) !== 0 ? 'by key, ' : ''}${who} ${what}, leaf ${level}`;
}
