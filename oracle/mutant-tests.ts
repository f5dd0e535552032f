/** Runs the walkers' tests on a copy of the sources with a mutant in it. */
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runCommand } from '../scripts/command.js';
import type { ArchName } from './case.js';
import type { Judgement } from './mutant-judge.js';
import { type Job, UNIT_TESTS } from './mutant-targets.js';
import { applyMutant } from './mutate.js';

/** What the walkers' tests need; the set-up of jest is among the scripts. */
const ROOMS = ['arch', 'emu', 'oracle', 'scripts'];
const FILES = ['package.json', 'jest.config.js'];
/** In the summary: a test has failed. A file that cannot be loaded is not counted there. */
const FAILED = /^Tests: +[0-9]+ failed/m;
/** A mutant may loop for ever. */
const MILLISECONDS = 120_000;

export class TestRunner {
  private readonly env: NodeJS.ProcessEnv;

  constructor(
    private readonly folder: string,
    root: string,
    library: string,
  ) {
    this.env = { ...process.env, KFAULT_UNICORN: library };
    mkdirSync(folder, { recursive: true });
    for (const name of [...ROOMS, ...FILES])
      cpSync(join(root, name), join(folder, name), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  }

  async judge({ target, source, mutant }: Job): Promise<Judgement> {
    const file = join(this.folder, target.file);
    writeFileSync(file, applyMutant(source, mutant));
    try {
      return await this.judgeSources(target.arch);
    } finally {
      writeFileSync(file, source);
    }
  }

  /** What the tests say of the sources as they are; why, when they do not pass, is logged. */
  judgeUnchanged(arch: ArchName, log: (text: string) => void): Promise<Judgement> {
    return this.judgeSources(arch, log);
  }

  private async judgeSources(arch: ArchName, log: (text: string) => void = () => {}): Promise<Judgement> {
    const jest = join('node_modules', 'jest', 'bin', 'jest.js');
    const options = ['--experimental-vm-modules', '--no-warnings'];
    // The configuration's roots are those of the whole project.
    const roots = ROOMS.map((room) => `--roots=${room}`);
    const outcome = await runCommand(
      process.execPath,
      [...options, jest, ...roots, '--runInBand', '--bail', ...UNIT_TESTS[arch]],
      { cwd: this.folder, env: this.env, timeoutMs: MILLISECONDS },
    );
    if (outcome.kind === 'exited' && outcome.status === 0) return 'missed';
    log(outcome.kind === 'exited' ? outcome.output : `jest: ${outcome.kind}`);
    return outcome.kind === 'exited' && FAILED.test(outcome.output) ? 'noticed' : 'broke';
  }
}
