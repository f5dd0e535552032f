/** Finds a Python with pip and lets pip fetch the wheel, from whatever index the user has configured. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lastLines, runCommand } from './command.js';
import type { EnginePin } from './engine-pin.js';
import { SetupError, USE_OWN_LIBRARY } from './setup-error.js';

/** For a program that only has to start and say its version, in milliseconds. */
const PROBE_TIMEOUT = 60_000;

export interface PipOptions {
  /** An existing folder of ours; pip's own temporary files go there too. */
  readonly workDir: string;
  readonly env: NodeJS.ProcessEnv;
  /** Limit for the download in milliseconds. */
  readonly timeoutMs: number;
}

/**
 * The first of $PYTHON, python3 and python that starts and has pip.
 * @throws SetupError `no-python` or `no-pip`
 */
export async function findPython({ workDir, env }: PipOptions): Promise<string> {
  // pip is imported from the current folder first: it must be one that nobody else fills.
  const options = { cwd: workDir, env, timeoutMs: PROBE_TIMEOUT };
  const candidates = [env.PYTHON ?? '', 'python3', 'python'].filter((name) => name !== '');
  let withoutPip: { python: string; said: string[] } | undefined;
  for (const python of candidates) {
    const version = await runCommand(python, ['--version'], options);
    if (version.kind !== 'exited' || version.status !== 0) continue;
    const pip = await runCommand(python, ['-m', 'pip', '--version'], options);
    if (pip.kind === 'exited' && pip.status === 0) return python;
    withoutPip ??= { python, said: 'output' in pip ? lastLines(pip.output, 3) : [] };
  }
  if (withoutPip !== undefined) {
    throw new SetupError(
      'no-pip',
      `${withoutPip.python} is there, but its pip is not: pip is needed to fetch the Unicorn library.`,
      [
        `Install it: \`apt install python3-pip\`, \`dnf install python3-pip\`, or \`${withoutPip.python} -m ensurepip --user\`.`,
        'Or set PYTHON=/path/to/python3 to one that has pip.',
        USE_OWN_LIBRARY,
      ],
      withoutPip.said,
    );
  }
  throw new SetupError(
    'no-python',
    `No Python found (looked for ${candidates.join(', ')}): its pip is needed to fetch the Unicorn library.`,
    [
      'Install Python 3 with pip: `apt install python3 python3-pip`, `dnf install python3-pip`, `brew install python3`.',
      'Or set PYTHON=/path/to/python3.',
      USE_OWN_LIBRARY,
    ],
  );
}

/**
 * Lets pip download one wheel, checked by pip against its pinned hash.
 * @returns path of the wheel
 * @throws SetupError `no-network`, `not-in-registry`, `wrong-hash`, `disk-full`, `pip-failed`
 */
export async function downloadWheel(
  python: string,
  version: string,
  pin: EnginePin,
  options: PipOptions,
): Promise<string> {
  const { workDir, env, timeoutMs } = options;
  const requirements = join(workDir, 'requirements.txt');
  const target = join(workDir, 'download');
  await mkdir(target);
  await writeFile(requirements, `unicorn==${version} --hash=sha256:${pin.wheelSha256}\n`);
  const outcome = await runCommand(
    python,
    [
      ...['-m', 'pip', 'download', '--disable-pip-version-check', '--no-input', '--progress-bar', 'off'],
      // Twice verbose: below that pip does not say whether it reached the index at all.
      '-vv',
      ...['--only-binary=:all:', '--no-deps', '--require-hashes'],
      // The platform of this process decides, not the one that Python was built for.
      ...[
        '--platform',
        pin.pipPlatform,
        '--python-version',
        '3.7',
        '--implementation',
        'cp',
        '--abi',
        'abi3',
      ],
      ...['-r', requirements, '-d', target],
    ],
    { cwd: workDir, env: { ...env, TMPDIR: workDir }, timeoutMs },
  );
  if (outcome.kind === 'exited' && outcome.status === 0) {
    const wheels = (await readdir(target)).filter((name) => name.endsWith('.whl'));
    const [wheel] = wheels;
    if (wheel !== undefined) return join(target, wheel);
    throw pipFailed('pip says it downloaded the wheel, but there is none.', outcome.output, env);
  }
  switch (outcome.kind) {
    case 'missing':
      throw pipFailed(`${python} cannot be started any more.`, '', env);
    case 'timeout':
      throw noNetwork(`gave up after ${timeoutMs / 1000} s`, pin, outcome.output);
    case 'killed':
      throw pipFailed(`pip was ended by ${outcome.signal}.`, outcome.output, env);
    case 'exited':
      throw classify(outcome.status, outcome.output, pin, env);
  }
}

/**
 * What pip's output says about why it failed. Its texts have been the same since pip 10; one that is
 * not known gives `pip-failed`, which quotes it.
 */
function classify(status: number, output: string, pin: EnginePin, env: NodeJS.ProcessEnv): SetupError {
  if (/DO NOT MATCH THE HASHES/.test(output)) {
    return new SetupError(
      'wrong-hash',
      'The registry sent a Unicorn wheel that is not the pinned one: pip refused it.',
      WRONG_HASH_TODO,
      // Being verbose, pip says it twice.
      [...new Set(output.match(/(?:Expected sha256|Got) +[0-9a-z]+$/gm))],
    );
  }
  if (/No space left on device|\[Errno 28\]/.test(output)) {
    return new SetupError('disk-full', 'pip could not store the Unicorn wheel: the disk is full.', [
      'Set-up needs about 80 MB while it works and 25 MB afterwards.',
    ]);
  }
  // A page that is not found was still answered; the other reasons for skipping it are failures to reach it.
  const unreached =
    /Could not fetch URL (?!.*: 404 Client Error)|connection broken by|ReadTimeoutError|ProxyError|SSLError|NewConnectionError|Temporary failure in name resolution|ERROR: HTTP error/;
  if (unreached.test(output)) return noNetwork("in pip's words below", pin, output);
  if (/No matching distribution found/.test(output)) {
    return new SetupError(
      'not-in-registry',
      `The index that pip uses was reached, but does not offer ${pin.wheel}.`,
      [
        'See `python3 -m pip config list`: a mirror that lacks the wheel, or PIP_NO_INDEX, may be configured there.',
        USE_OWN_LIBRARY,
      ],
      quote(output),
    );
  }
  return pipFailed(`pip failed with status ${status}.`, output, env);
}

export const WRONG_HASH_TODO: readonly string[] = [
  'Nothing was installed. A proxy or mirror may have changed the file; if it happens again, tell the kfault project.',
];

function noNetwork(how: string, pin: EnginePin, output: string): SetupError {
  return new SetupError(
    'no-network',
    `The Python package registry could not be reached (${how}).`,
    [
      'Check the connection and the proxy, and which index pip uses: `python3 -m pip config list`.',
      `Without a network: put ${pin.wheel} into a folder and run set-up with PIP_NO_INDEX=1 PIP_FIND_LINKS=/that/folder.`,
      USE_OWN_LIBRARY,
    ],
    quote(output),
  );
}

function pipFailed(what: string, output: string, env: NodeJS.ProcessEnv): SetupError {
  const which = env.PYTHON === undefined ? 'Set PYTHON=/path/to/python3 to use' : 'Change PYTHON to use';
  return new SetupError('pip-failed', what, [`${which} another Python.`, USE_OWN_LIBRARY], quote(output));
}

/** The lines of pip's output that a person wants: its complaints, or else simply the last ones. */
function quote(output: string): string[] {
  const complaints = lastLines(output, Number.POSITIVE_INFINITY).filter((line) =>
    /^(?:WARNING: |ERROR: |Could not fetch URL )/.test(line),
  );
  const lines = complaints.length > 0 ? complaints.slice(-5) : lastLines(output, 8);
  return lines.map((line) => (line.length > 300 ? `${line.slice(0, 300)}…` : line));
}
