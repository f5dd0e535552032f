/**
 * `npm run access-matrix`: all combinations of x86/access.c of kvm-unit-tests with real instructions.
 * Exit status: 0 none is wrong, 1 one is, 2 bad options, no engine, or a process that died.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { CommanderError } from 'commander';
import { Matrix, nameOf } from '../arch/x86/access-matrix.js';
import { AccessMachine } from '../arch/x86/access-matrix-machine.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { type MatrixCommand, parseOptions } from './access-matrix-options.js';
import { ensureEngine } from './setup-engine.js';
import { SetupError } from './setup-error.js';

/** Numbers that a process looks at between two words with the one that started it. */
const PART = 50_000;
const SECONDS_BETWEEN_LINES = 10;
/** Tells a process that it is to run parts, and which engine and options it has. */
const CHILD = 'KFAULT_ACCESS_MATRIX';

interface Part {
  readonly from: number;
  readonly to: number;
}

interface Wrong {
  readonly index: number;
  readonly combination: number;
  readonly what: string;
}

interface Tally {
  readonly ran: number;
  readonly wrong: number;
  readonly first: Wrong | null;
}

interface ChildOptions {
  readonly library: string;
  readonly command: MatrixCommand;
}

/** Runs a part of the matrix. */
export function runPart(
  machine: AccessMachine,
  matrix: Matrix,
  filter: MatrixCommand['filter'],
  part: Part,
): Tally {
  let ran = 0;
  let wrong = 0;
  let first: Wrong | null = null;
  matrix.visit({ ...part, filter }, (combination, index) => {
    machine.run(combination);
    ran += 1;
    const what = machine.disagreement(combination);
    if (what !== null) {
      wrong += 1;
      first ??= { index, combination, what };
    }
    return true;
  });
  return { ran, wrong, first };
}

/** Adds what a part came to. */
export function sum(one: Tally, other: Tally): Tally {
  const firsts = [one.first, other.first].filter((each) => each !== null);
  firsts.sort((a, b) => a.index - b.index);
  return { ran: one.ran + other.ran, wrong: one.wrong + other.wrong, first: firsts[0] ?? null };
}

/** Serves parts until nobody asks any more. */
function child({ library, command }: ChildOptions): void {
  const matrix = new Matrix(command);
  const machine = new AccessMachine(new NativeEngine(library), command);
  process.on('message', (part: Part) => {
    process.send?.(runPart(machine, matrix, command.filter, part));
  });
  process.on('disconnect', () => machine.close());
}

class Progress {
  readonly #begin = performance.now();
  #last = this.#begin;

  constructor(
    readonly total: number,
    readonly jobs: number,
  ) {}

  report({ ran, wrong }: Tally): void {
    const now = performance.now();
    if (now - this.#last < SECONDS_BETWEEN_LINES * 1000) return;
    this.#last = now;
    log(
      `${ran} of ${this.total} (${((100 * ran) / this.total).toFixed(0)} %), ${this.#rate(ran)}, ${wrong} wrong`,
    );
  }

  end({ ran }: Tally): void {
    const seconds = (performance.now() - this.#begin) / 1000;
    log(
      `${seconds.toFixed(1)} s with ${this.jobs} ${this.jobs === 1 ? 'process' : 'processes'}, ${this.#rate(ran)}`,
    );
  }

  #rate(ran: number): string {
    return `${Math.round((ran * 1000) / (performance.now() - this.#begin))} a second`;
  }
}

/** Gives out the parts until all are done. Rejects when a process ends before its time. */
async function runAll(library: string, command: MatrixCommand, matrix: Matrix): Promise<Tally> {
  const end = Math.min(matrix.count, command.from + command.count);
  const progress = new Progress(matrix.countOf(command.filter, command.from, end), command.jobs);
  let tally: Tally = { ran: 0, wrong: 0, first: null };
  let next = command.from;
  const options: ChildOptions = { library, command };
  const env = { ...process.env, [CHILD]: JSON.stringify(options) };

  const serve = (worker: ChildProcess): Promise<void> =>
    new Promise((resolve, reject) => {
      let ended = false;
      const more = (): void => {
        if (next >= end) {
          ended = true;
          worker.disconnect();
          return;
        }
        const part: Part = { from: next, to: Math.min(end, next + PART) };
        next = part.to;
        worker.send(part);
      };
      worker.on('message', (part: Tally) => {
        tally = sum(tally, part);
        progress.report(tally);
        more();
      });
      worker.on('error', reject);
      worker.on('exit', (status, signal) => {
        if (ended && status === 0) resolve();
        else reject(new Error(`a process of the matrix ended with ${signal ?? `status ${status}`}`));
      });
      more();
    });

  const workers = Array.from({ length: command.jobs }, () =>
    fork(fileURLToPath(import.meta.url), [], { env }),
  );
  try {
    await Promise.all(workers.map(serve));
  } finally {
    for (const worker of workers) worker.kill();
  }
  progress.end(tally);
  return tally;
}

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function main(): Promise<number> {
  try {
    const command = parseOptions(process.argv.slice(2), availableParallelism(), {
      out: (text) => process.stdout.write(text),
      err: (text) => process.stderr.write(text),
    });
    const matrix = new Matrix(command);
    const end = Math.min(matrix.count, command.from + command.count);
    if (matrix.countOf(command.filter, command.from, end) === 0) {
      log(`none of the ${matrix.count} combinations has such a number and such flags`);
      return 2;
    }
    const { library } = await ensureEngine({ log });
    const { ran, wrong, first } = await runAll(library, command, matrix);
    if (first !== null) {
      process.stdout.write(
        `the first wrong one is number ${first.index}: ${nameOf(first.combination)}\n  ${first.what.replace('; got', '\n  got')}\n`,
      );
    }
    process.stdout.write(`${ran} combinations, ${wrong} wrong\n`);
    return wrong === 0 ? 0 : 1;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    log(error instanceof SetupError || error instanceof Error ? error.message : String(error));
    return 2;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const options = process.env[CHILD];
  if (options === undefined) process.exitCode = await main();
  else child(JSON.parse(options) as ChildOptions);
}
