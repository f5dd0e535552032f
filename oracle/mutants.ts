/**
 * `npm run mutants`: does anything notice a mistake in a walker? Each mutant of the walkers' sources is
 * compared with the engine's own MMU; where that notices nothing, the walkers' tests are run on it; and what
 * they do not notice either may be known to change nothing. Arguments are parts of what is to be mutated, of
 * names like `arch/x86/walk.ts#remember`; all without. Exit status: 0 all were noticed, or are known to
 * change nothing, 1 some were not, 2 it could not be done.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensureEngine, packageRoot } from '../scripts/setup-engine.js';
import type { ArchName } from './case.js';
import { EQUIVALENT } from './equivalent-mutants.js';
import { type Judgement, MutantJudge } from './mutant-judge.js';
import { CODES, type Job, TARGETS } from './mutant-targets.js';
import { TestRunner } from './mutant-tests.js';
import { mutantsOf } from './mutate.js';

/** `broke`: it does not load, throws or never ends, which nobody needs a comparison for. */
type Fate = 'oracle' | 'tests' | 'broke' | 'equivalent' | 'survived';

function jobs(root: string, parts: readonly string[]): Job[] {
  return TARGETS.flatMap((target) => {
    const source = readFileSync(join(root, target.file), 'utf8');
    const { without, only } = target;
    const wanted = (where: string): boolean =>
      !Object.hasOwn(without, where) &&
      (only === undefined || only.includes(where)) &&
      (parts.length === 0 || parts.some((part) => nameOf(target.file, where).includes(part)));
    return mutantsOf(source, CODES, wanted).map((mutant) => ({ target, source, mutant }));
  });
}

function nameOf(file: string, where: string): string {
  return `${file}#${where.replace('#', '')}`;
}

function lineOf({ source, mutant }: Job): string {
  return (source.split('\n')[mutant.line - 1] ?? '').trim();
}

function isEquivalent(job: Job): boolean {
  const { file } = job.target;
  const { where, from, to } = job.mutant;
  return EQUIVALENT.some(
    (known) =>
      known.file === file &&
      known.where === where &&
      lineOf(job).includes(known.line) &&
      (known.changes === undefined || known.changes.includes(`${from} -> ${to}`)),
  );
}

/** Hands the jobs out to some workers, one after the other. */
async function inParallel<W>(
  workers: readonly W[],
  all: readonly Job[],
  work: (worker: W, job: Job) => Promise<void>,
): Promise<void> {
  const waiting = [...all];
  await Promise.all(
    workers.map(async (worker) => {
      for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) await work(worker, job);
    }),
  );
}

async function main(): Promise<number> {
  const log = (line: string): void => {
    process.stderr.write(`${line}\n`);
  };
  const root = packageRoot();
  const { library } = await ensureEngine({ log });
  const all = jobs(root, process.argv.slice(2));
  const arches = [...new Set(all.map(({ target }) => target.arch))];
  const fates = new Map<Job, Fate>();
  const folder = mkdtempSync(join(tmpdir(), 'kfault-mutants-'));
  const hands = Array.from({ length: Math.min(2, availableParallelism()) }, (_, i) =>
    join(folder, String(i)),
  );
  const judges = hands.map((place) => new MutantJudge(join(place, 'built'), root, library));
  /** Before, that nothing is said of mutants of a broken walker; after, that the mutants are gone. */
  const unchangedPasses = async (
    who: string,
    judge: (arch: ArchName) => Promise<Judgement> | undefined,
  ): Promise<boolean> => {
    for (const arch of arches) {
      const judgement = await judge(arch);
      if (judgement === 'missed') continue;
      log(`${who}: the ${arch} walker as it is: ${judgement}. Nothing can be said of mutants`);
      return false;
    }
    return true;
  };
  const oraclePasses = (): Promise<boolean> =>
    unchangedPasses('oracle', (arch) => judges[0]?.judgeUnchanged(arch));
  try {
    if (!(await oraclePasses())) return 2;
    await inParallel(judges, all, async (judge, job) => {
      const judgement = await judge.judge(job);
      if (judgement !== 'missed') fates.set(job, judgement === 'noticed' ? 'oracle' : 'broke');
    });
    if (!(await oraclePasses())) return 2;
    const left = all.filter((job) => !fates.has(job));
    log(`${all.length} mutants; the oracle does not notice ${left.length}, which the tests get now`);
    const runners = hands.map((place) => new TestRunner(join(place, 'sources'), root, library));
    const testsPass = (): Promise<boolean> =>
      unchangedPasses('tests', (arch) => runners[0]?.judgeUnchanged(arch, log));
    if (!(await testsPass())) return 2;
    await inParallel(runners, left, async (runner, job) => {
      const judgement = await runner.judge(job);
      if (judgement !== 'missed') fates.set(job, judgement === 'noticed' ? 'tests' : 'broke');
      else fates.set(job, isEquivalent(job) ? 'equivalent' : 'survived');
    });
    return (await testsPass()) ? report(all, fates) : 2;
  } finally {
    for (const judge of judges) judge.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function report(all: readonly Job[], fates: ReadonlyMap<Job, Fate>): number {
  const lines: string[] = [];
  const survivors = all.filter((job) => fates.get(job) === 'survived');
  for (const file of new Set(TARGETS.map((target) => target.file))) {
    const count = (fate: Fate): number =>
      all.filter((job) => job.target.file === file && fates.get(job) === fate).length;
    lines.push(
      `${file}: noticed by the oracle ${count('oracle')}, by the tests ${count('tests')}, did not load or end ${count('broke')}, change nothing ${count('equivalent')}, survived ${count('survived')}`,
    );
  }
  for (const job of survivors) {
    const { target, mutant } = job;
    const text = lineOf(job);
    const { line, where, from, to } = mutant;
    lines.push(`${target.file}:${line} ${where}: ${from} -> ${to}    ${text}`);
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  return survivors.length === 0 ? 0 : 1;
}

process.exitCode = await main();
