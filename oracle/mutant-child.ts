/**
 * The process that compares mutants with the engine: `node mutant-child.js <library>`, questions and answers
 * by messages. The engine's answers are the same for all mutants and are asked for once.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { openLibrary } from '../emu/unicorn/library.js';
import type { ArchName, Case, Ours, Theirs } from './case.js';
import { compare } from './compare.js';
import { rawText } from './fixture.js';
import type { Judgement, Question } from './mutant-judge.js';
import { arm64Bench, type Bench, x86Bench } from './oracle.js';
import { Random } from './random.js';

const SEED = 1;
const CASES = 8000;
const MOST_SUBSTITUTES = 40_000;

/** Questions of one architecture, with the engine's answers as far as they are known. */
class Examination<C extends Case> {
  private readonly questions: readonly C[];
  private readonly known = new Map<C, Theirs>();
  private readonly substitutes = new Map<string, Theirs>();

  constructor(private readonly bench: Bench<C>) {
    const generator = bench.generator(new Random(SEED));
    this.questions = Array.from({ length: CASES }, () => generator.next());
  }

  /** Does a walker answer a question otherwise than the engine does? */
  judge(ours: (question: C) => Ours): Judgement {
    const { bench, known } = this;
    const asked = new Set<C>(this.questions);
    const theirs = (question: C): Theirs => {
      if (!asked.has(question)) return this.other(question);
      const answer = known.get(question) ?? bench.theirs(question);
      known.set(question, answer);
      return answer;
    };
    for (const question of this.questions) {
      try {
        if (compare({ ours, theirs }, bench.deviations, question).kind === 'disagree') return 'noticed';
      } catch {
        return 'broke';
      }
    }
    return 'missed';
  }

  /** Of substitutes, which are made anew for each mutant, and are mostly the same again. */
  private other(question: C): Theirs {
    const { bench, substitutes } = this;
    const text = rawText(question);
    const answer = substitutes.get(text) ?? bench.theirs(question);
    if (substitutes.size < MOST_SUBSTITUTES) substitutes.set(text, answer);
    return answer;
  }
}

async function serve(path: string): Promise<void> {
  const library = openLibrary(path);
  const x86 = new Examination(x86Bench(library));
  const arm64 = new Examination(arm64Bench(library));
  const judge = async (arch: ArchName, built: string): Promise<Judgement> => {
    const load = (file: string): Promise<unknown> => import(pathToFileURL(join(built, 'oracle', file)).href);
    if (arch === 'x86-64') {
      const { X86Ours } = (await load('x86-case.js')) as typeof import('./x86-case.js');
      const mutant = new X86Ours();
      return x86.judge((question) => mutant.answer(question));
    }
    const { Arm64Ours } = (await load('arm64-case.js')) as typeof import('./arm64-case.js');
    const mutant = new Arm64Ours();
    return arm64.judge((question) => mutant.answer(question));
  };
  process.on('message', ({ arch, built }: Question) => {
    judge(arch, built).then(
      (judgement) => process.send?.(judgement),
      // It cannot even be loaded.
      () => process.send?.('broke'),
    );
  });
}

await serve(process.argv[2] ?? '');
