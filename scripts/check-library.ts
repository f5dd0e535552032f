/** Tries a Unicorn library in a process of its own: version and self-calibration. */
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { type CommandOutcome, lastLines, runCommand } from './command.js';
import { SetupError } from './setup-error.js';

/** What the child process says about a library. */
export type CheckReport =
  | { readonly usable: true; readonly version: string }
  | {
      readonly usable: false;
      readonly reason: 'missing' | 'unloadable' | 'too-old' | 'calibration';
      readonly message: string;
    };

/** Opening and calibrating takes about 0.2 s. In milliseconds. */
const CHECK_TIMEOUT = 60_000;

/**
 * @param command program and arguments in front of the library's path
 * @param todo what to tell the user to do when the library cannot be used
 * @returns the library's version
 * @throws SetupError `unloadable`, `too-old` or `calibration`
 */
export async function checkLibrary(
  command: readonly [string, ...string[]],
  path: string,
  todo: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<string> {
  const [program, ...args] = command;
  const script = args.at(-1);
  if (script !== undefined && !existsSync(script)) {
    throw new SetupError('not-built', `Cannot try the Unicorn library: ${script} is missing.`, [
      'Run `npm run build` first; `npm run setup` does.',
    ]);
  }
  const outcome = await runCommand(program, [...args, path], {
    cwd: tmpdir(),
    env,
    timeoutMs: CHECK_TIMEOUT,
  });
  const report = reportOf(outcome);
  if (report === undefined) {
    const quoted = 'output' in outcome ? lastLines(outcome.output, 5) : [];
    throw new SetupError(
      'unloadable',
      `The Unicorn library ${path} cannot be used: ${ending(outcome)}.`,
      todo,
      quoted,
    );
  }
  if (report.usable) return report.version;
  // Its first line says what is wrong; what to do about it is known better here.
  const [what = ''] = report.message.split('\n');
  throw new SetupError(report.reason === 'missing' ? 'unloadable' : report.reason, what, todo);
}

function reportOf(outcome: CommandOutcome): CheckReport | undefined {
  if (outcome.kind !== 'exited' || outcome.status !== 0) return undefined;
  const line = lastLines(outcome.output, 1)[0] ?? '';
  try {
    return JSON.parse(line) as CheckReport;
  } catch {
    return undefined;
  }
}

function ending(outcome: CommandOutcome): string {
  switch (outcome.kind) {
    case 'missing':
      return 'the process that should try it could not be started';
    case 'timeout':
      return `trying it did not end within ${CHECK_TIMEOUT / 1000} s`;
    case 'killed':
      return `opening it ended the process with ${outcome.signal}`;
    case 'exited':
      return `trying it failed with status ${outcome.status}`;
  }
}
