/**
 * The process that compares mutants with the engine: `node mutant-child.js <library>`, questions and answers
 * by messages. The engine's answers are the same for all mutants and are asked for once.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { openLibrary } from '../emu/unicorn/library.js';
import type { ArchName, Case, Ours, Theirs } from './case.js';
import { compare } from './compare.js';
import type { Question } from './mutant-judge.js';
import { arm64Bench, type Bench, x86Bench } from './oracle.js';
import { Random } from './random.js';

const SEED = 1;
const CASES = 8000;

/** Questions of one architecture, with the engine's answers as far as they are known. */
class Examination<C extends Case> {
  private readonly questions: readonly C[];
  private readonly known = new Map<C, Theirs>();

  constructor(private readonly bench: Bench<C>) {
    const generator = bench.generator(new Random(SEED));
    this.questions = Array.from({ length: CASES }, () => generator.next());
  }

  /** Does a walker answer a question otherwise than the engine does? */
  fails(ours: (question: C) => Ours): boolean {
    const { bench, known } = this;
    const asked = new Set<C>(this.questions);
    const theirs = (question: C): Theirs => {
      if (!asked.has(question)) return bench.theirs(question);
      const answer = known.get(question) ?? bench.theirs(question);
      known.set(question, answer);
      return answer;
    };
    try {
      return this.questions.some(
        (question) => compare({ ours, theirs }, bench.deviations, question).kind === 'disagree',
      );
    } catch {
      return true;
    }
  }
}

async function serve(path: string): Promise<void> {
  const library = openLibrary(path);
  const x86 = new Examination(x86Bench(library));
  const arm64 = new Examination(arm64Bench(library));
  const judge = async (arch: ArchName, built: string): Promise<boolean> => {
    const load = (file: string): Promise<unknown> => import(pathToFileURL(join(built, 'oracle', file)).href);
    if (arch === 'x86-64') {
      const { X86Ours } = (await load('x86-case.js')) as typeof import('./x86-case.js');
      const mutant = new X86Ours();
      return x86.fails((question) => mutant.answer(question));
    }
    const { Arm64Ours } = (await load('arm64-case.js')) as typeof import('./arm64-case.js');
    const mutant = new Arm64Ours();
    return arm64.fails((question) => mutant.answer(question));
  };
  process.on('message', ({ arch, built }: Question) => {
    judge(arch, built).then(
      (noticed) => process.send?.(noticed),
      // A mutant that cannot even be loaded is noticed by everybody.
      () => process.send?.(true),
    );
  });
}

await serve(process.argv[2] ?? '');
