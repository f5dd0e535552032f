/** Runs another program, quietly, with a time limit. */
import { spawn } from 'node:child_process';
import { errorCode } from './setup-error.js';

export interface CommandOptions {
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  /** Wall-clock limit in milliseconds; the program is killed when it is over. */
  readonly timeoutMs: number;
}

/** How it ended. `output` is standard output and standard error in the order they came. */
export type CommandOutcome =
  | { readonly kind: 'exited'; readonly status: number; readonly output: string }
  | { readonly kind: 'killed'; readonly signal: string; readonly output: string }
  | { readonly kind: 'timeout'; readonly output: string }
  /** The program is not there or may not be executed. */
  | { readonly kind: 'missing' };

/** Kept of a program's output, in characters: the end of it. */
const OUTPUT_KEPT = 1 << 20;

/** Never rejects for anything the program does. */
export function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandOutcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    let timedOut = false;
    const collect = (chunk: string): void => {
      output = (output + chunk).slice(-OUTPUT_KEPT);
    };
    child.stdout.setEncoding('utf8').on('data', collect);
    child.stderr.setEncoding('utf8').on('data', collect);

    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
      // Children of the child may hold the pipes open for ever: do not wait for them.
      child.stdout.destroy();
      child.stderr.destroy();
    }, options.timeoutMs);

    child.on('error', (error) => {
      clearTimeout(timer);
      const code = errorCode(error);
      if (code === 'ENOENT' || code === 'EACCES' || code === 'ENOEXEC') resolve({ kind: 'missing' });
      else reject(error);
    });
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      if (timedOut) resolve({ kind: 'timeout', output });
      else if (signal !== null) resolve({ kind: 'killed', signal, output });
      else resolve({ kind: 'exited', status: status ?? 1, output });
    });
  });
}

/** The last `count` lines of a program's output that are not blank. */
export function lastLines(output: string, count: number): string[] {
  return output
    .split(/\r?\n/)
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
    .slice(-count);
}
