import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ensureEngine, type SetupOptions, setupEngine } from './setup-engine.js';
import { folderError, SetupError, type SetupReason } from './setup-error.js';
import { SAMPLE_PIN, Testbed } from './testbed.js';

let bed: Testbed;
beforeEach(() => {
  bed = new Testbed();
});
afterEach(() => {
  bed.remove();
});

/** Runs set-up, which must fail with a SetupError; returns that. */
async function failure(options: SetupOptions): Promise<SetupError> {
  const error = await setupEngine(options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof SetupError)) throw new Error(`not a SetupError: ${String(error)}`);
  return error;
}

/** Lines of pip 23.2.1, shortened. */
const PIP_NO_MATCH = 'ERROR: No matching distribution found for unicorn==2.1.4';
const PIP_REFUSED =
  'Could not fetch URL http://127.0.0.1:1/simple/unicorn/: connection error: HTTPConnectionPool(...): Max retries exceeded - skipping';
const PIP_404 =
  'Could not fetch URL http://127.0.0.1:1/simple/unicorn/: 404 Client Error: File not found for url: ... - skipping';
const PIP_WRONG_HASH = `ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have ...
    unicorn==2.1.4 from somewhere (from -r requirements.txt (line 1)):
        Expected sha256 aaaa
             Got        bbbb`;

const says = (text: string, status = 1): string => `cat >&2 <<'END'\n${text}\nEND\nexit ${status}`;

describe('what goes wrong while fetching', () => {
  test.each<[SetupReason, string, RegExp[]]>([
    [
      'no-network',
      says(`${PIP_REFUSED}\n${PIP_NO_MATCH}`),
      [/could not be reached/, / {4}.*connection error/],
    ],
    ['no-network', says('ERROR: HTTP error 503 while getting x'), [/ {4}ERROR: HTTP error 503/]],
    ['not-in-registry', says(`${PIP_404}\n${PIP_NO_MATCH}`), [/does not offer unicorn-2\.1\.4-/]],
    ['not-in-registry', says(PIP_NO_MATCH), [/PIP_NO_INDEX/]],
    ['wrong-hash', says(PIP_WRONG_HASH), [/^ {4}Expected sha256 aaaa$/m, /^ {4}Got {8}bbbb$/m]],
    ['disk-full', says('OSError: [Errno 28] No space left on device'), [/disk is full/]],
    ['pip-failed', says('first\n\nTraceback\nKeyError: 1', 2), [/status 2/, /^ {4}KeyError: 1$/m]],
    ['pip-failed', 'kill -9 $$', [/SIGKILL/]],
    ['pip-failed', 'exit 0', [/there is none/]],
  ])('%s: pip %j', async (reason, download, expected) => {
    const error = await failure(bed.options({ download }));
    expect(error.reason).toBe(reason);
    for (const pattern of expected) expect(error.message).toMatch(pattern);
    expect(bed.engineNames()).toEqual([]);
  });

  test('no-network: pip takes too long, and so does a child of it', async () => {
    const error = await failure({ ...bed.options({ download: 'sleep 5; true' }), timeoutMs: 100 });
    expect(error.reason).toBe('no-network');
    expect(error.message).toMatch(/gave up after 0\.1 s/);
  }, 4000);

  test('no-python', async () => {
    const error = await failure({ ...bed.options(), env: { PATH: bed.emptyPath(), PYTHON: '/no/python' } });
    expect(error.reason).toBe('no-python');
    expect(error.message).toMatch(/looked for \/no\/python, python3, python/);
  });

  test('no-pip', async () => {
    const noPip = 'echo "/usr/bin/python3: No module named pip" >&2; exit 1';
    const options = bed.options({ pipVersion: noPip });
    // No `python` from elsewhere may step in.
    const error = await failure({ ...options, env: { PATH: options.env?.PATH?.split(':')[0] } });
    expect(error.reason).toBe('no-pip');
    expect(error.message).toMatch(/^ {4}\/usr\/bin\/python3: No module named pip$/m);
    expect(error.message).toMatch(/apt install python3-pip/);
  });

  test('$PYTHON comes first, and python3 takes its place when it has no pip', async () => {
    const withoutPip = join(bed.root, 'mypython');
    writeFileSync(withoutPip, '#!/bin/sh\n[ "$*" = --version ]\n', { mode: 0o755 });
    const options = bed.options();
    await setupEngine({ ...options, env: { ...options.env, PYTHON: withoutPip } });
    expect(bed.lines[0]).toMatch(/with python3 -m pip$/);
  });

  test('no-wheel', async () => {
    const error = await failure({ ...bed.options(), platform: 'linux-riscv64' });
    expect(error.reason).toBe('no-wheel');
    expect(error.message).toMatch(/linux-riscv64.*sample/);
    await expect(ensureEngine({ ...bed.options(), platform: 'win32-x64' })).rejects.toThrow(/win32-x64/);
  });
});

describe('what is wrong with what came', () => {
  test.each<[SetupReason, Partial<typeof SAMPLE_PIN>, RegExp]>([
    ['wrong-hash', { wheelSha256: 'a'.repeat(64) }, /Expected sha256 a{64}\n {4}Got {13}[0-9a-f]{64}$/m],
    ['wrong-hash', { librarySha256: 'a'.repeat(64) }, /Unicorn library that came/],
    ['bad-wheel', { member: 'unicorn/lib/libother.so' }, /no unicorn\/lib\/libother\.so/],
  ])('%s, although pip was content: %j', async (reason, change, expected) => {
    const error = await failure({ ...bed.options(), pins: { sample: { ...SAMPLE_PIN, ...change } } });
    expect(error.reason).toBe(reason);
    expect(error.message).toMatch(expected);
    expect(bed.engineNames()).toEqual([]);
  });

  test.each<[SetupReason, string, RegExp]>([
    ['too-old', report('too-old', 'it is 2.0.1'), /^it is 2\.0\.1\n/],
    [
      'calibration',
      report('calibration', 'offsets differ\nrun set-up'),
      /^offsets differ\nOr set KFAULT_UNICORN/,
    ],
    ['unloadable', report('unloadable', 'invalid ELF header'), /^invalid ELF header\n/],
    ['unloadable', 'kill -SEGV $$', /SIGSEGV/],
    ['unloadable', 'echo boom; exit 3', /status 3/],
    ['unloadable', 'echo nonsense', /nonsense/],
  ])('%s: the check says %j', async (reason, check, expected) => {
    const error = await failure(bed.options({ check }));
    expect(error.reason).toBe(reason);
    expect(error.message).toMatch(expected);
    expect(bed.engineNames()).toEqual([]);
  });

  test('not-built', async () => {
    const error = await failure({ ...bed.options(), checkCommand: ['/bin/sh', '/no/such/check.js'] });
    expect(error.reason).toBe('not-built');
  });
});

describe('KFAULT_UNICORN', () => {
  test.each(['/no/such/libunicorn.so.2', '/usr', '/etc/passwd/x'])('override-missing: %s', async (path) => {
    const options = { ...bed.options(), env: { KFAULT_UNICORN: path } };
    const error = await failure(options);
    expect(error.reason).toBe('override-missing');
    expect(error.message).toContain(path);
    await expect(ensureEngine(options)).rejects.toThrow(error.message);
  });

  test('too-old: says where the library comes from, and downloads nothing', async () => {
    const own = join(bed.root, 'libunicorn.so.2');
    writeFileSync(own, 'old');
    const options = bed.options({ check: report('too-old', 'version 2.0.1'), download: 'exit 1' });
    const error = await failure({ ...options, env: { ...options.env, KFAULT_UNICORN: own } });
    expect(error.reason).toBe('too-old');
    expect(error.message).toMatch(/KFAULT_UNICORN.*2\.1\.0 or newer/s);
  });
});

describe('the folder', () => {
  test.each<[SetupReason, string]>([
    ['not-writable', 'EACCES'],
    ['not-writable', 'EROFS'],
    ['disk-full', 'ENOSPC'],
    ['io', 'EIO'],
  ])('%s: %s', (reason, code) => {
    const error = folderError(Object.assign(new Error('said'), { code }), 'write', '/somewhere');
    expect(error).toMatchObject({ reason });
    expect(String(error)).toMatch(/Cannot write \/somewhere: /);
  });

  test('io: .engine is a file', async () => {
    writeFileSync(bed.engineDir, '');
    const error = await failure(bed.options());
    expect(error.reason).toBe('io');
    expect(error.message).toContain(bed.folder);
  });

  test('io: a folder stands where the library belongs', async () => {
    mkdirSync(join(bed.enginePath, 'x'), { recursive: true });
    expect((await failure(bed.options())).reason).toBe('io');
    expect(bed.engineNames()).toEqual(['unicorn-2.1.4']);
  });
});

function report(reason: string, message: string): string {
  return `printf '%s\\n' '${JSON.stringify({ usable: false, reason, message })}'`;
}
