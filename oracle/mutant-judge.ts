/** Asks another process whether the oracle notices a mutant; that process may hang, and is replaced then. */
import { type ChildProcess, fork } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { ArchName } from './case.js';
import type { Job } from './mutant-targets.js';
import { applyMutant } from './mutate.js';

/** To the child: a build whose walker is to be judged. */
export interface Question {
  readonly arch: ArchName;
  /** The folder of the build. */
  readonly built: string;
}

/**
 * What became of a mutant: somebody `noticed` a wrong result, all `missed` it, or it `broke`: it does not
 * load, throws, or does not come to an end, which says nothing about how well results are compared.
 */
export type Judgement = 'noticed' | 'missed' | 'broke';

const CHILD = fileURLToPath(new URL('./mutant-child.js', import.meta.url));
/** Rooms that a walker needs. */
const ROOMS = ['arch', 'emu', 'oracle'];
const MILLISECONDS = 20_000;

export class MutantJudge {
  private child: ChildProcess | null = null;
  /** Where the build is now: modules at another place are other modules. */
  private built: string;
  private builds = 0;

  /** @param folder of its own, for builds with mutants in them */
  constructor(
    private readonly folder: string,
    root: string,
    private readonly enginePath: string,
  ) {
    mkdirSync(folder, { recursive: true });
    cpSync(join(root, 'package.json'), join(folder, 'package.json'));
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    this.built = join(folder, '0');
    for (const room of ROOMS) cpSync(join(root, 'dist', room), join(this.built, room), { recursive: true });
  }

  /** Does the oracle notice anything about the walker as it is? Then nothing can be said of mutants. */
  judgeUnchanged(arch: ArchName): Promise<Judgement> {
    return this.ask({ arch, built: this.move() });
  }

  async judge({ target, source, mutant }: Job): Promise<Judgement> {
    const built = this.move();
    const compiled = join(built, target.file.replace(/\.ts$/, '.js'));
    const original = readFileSync(compiled);
    const { outputText } = ts.transpileModule(applyMutant(source, mutant), {
      compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext },
    });
    writeFileSync(compiled, outputText);
    try {
      return await this.ask({ arch: target.arch, built });
    } finally {
      writeFileSync(compiled, original);
    }
  }

  private move(): string {
    this.builds += 1;
    const next = join(this.folder, String(this.builds));
    renameSync(this.built, next);
    this.built = next;
    return next;
  }

  close(): void {
    this.child?.kill('SIGKILL');
    this.child = null;
  }

  private ask(question: Question): Promise<Judgement> {
    this.child ??= fork(CHILD, [this.enginePath], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    const { child } = this;
    return new Promise((resolve) => {
      const done = (judgement: Judgement): void => {
        clearTimeout(timer);
        child.removeAllListeners();
        resolve(judgement);
      };
      // The walk goes round and round, or the process ended.
      const broken = (): void => {
        this.close();
        done('broke');
      };
      const timer = setTimeout(broken, MILLISECONDS);
      child.once('message', (judgement) =>
        done(judgement === 'noticed' || judgement === 'missed' ? judgement : 'broke'),
      );
      child.once('exit', broken);
      child.send(question);
    });
  }
}
