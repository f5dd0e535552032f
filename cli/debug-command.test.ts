import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Io } from './io.js';
import { main } from './program.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'cli', 'kfault.mjs');
const folder = mkdtempSync(join(tmpdir(), 'kfault-debug-'));

const before = process.cwd();
beforeAll(() => {
  process.chdir(root);
  if (!existsSync(join(root, 'dist', 'bundle-paths', 'main.js'))) {
    throw new Error('these tests run the compiled command: npm run build first');
  }
});
afterAll(() => {
  process.chdir(before);
  rmSync(folder, { recursive: true });
});

const file = (name: string, text: string): string => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};

interface Ran {
  readonly status: number | null;
  readonly out: readonly string[];
  readonly err: string;
}

/** The command as it is started, with what comes through a pipe. */
function piped(args: readonly string[], input: string): Ran {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, 'debug', ...args], {
    cwd: root,
    encoding: 'utf8',
    input,
    env: { ...process.env, FORCE_COLOR: undefined },
  });
  return { status, out: stdout.replace(/\n$/, '').split('\n'), err: stderr };
}

/** The same in this process, for what does not look at standard input. */
async function debug(args: readonly string[]): Promise<Ran> {
  let [out, err] = ['', ''];
  const io: Io = {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    isTty: false,
    columns: null,
    env: process.env,
  };
  const status = await main(['debug', ...args], io);
  return { status, out: out.replace(/\n$/, '').split('\n'), err };
}

const ESCAPE = '\u001b';

const SAMPLES = {
  'x86-64': 'fixtures/x86/set-cmask-writes-to-unallocated-page.yaml',
  arm64: 'fixtures/arm64/set-cmask-writes-to-unallocated-page.yaml',
} as const;

describe.each(['x86-64', 'arm64'] as const)('%s', (isa) => {
  const sample = SAMPLES[isa];
  const store =
    isa === 'arm64'
      ? /^=> .*<write_cmask\+0x8\/0x14>: str x1, \[x0\]$/
      : /^=> .*<write_cmask\+0x4\/0x9>: mov qword ptr \[rdi\], rax$/;

  test('commands of the command line, then of a file, then of a pipe, in that order', () => {
    const script = file(`${isa}.kf`, '# to the fault\necho two\nuntil write_cmask.store\n');
    const { status, out, err } = piped(
      [sample, '-ex', 'echo one', '-x', script, '--ex', 'echo three'],
      'echo four\nfinish\n',
    );
    expect([status, err]).toEqual([0, '']);
    expect(out.slice(0, 2)).toEqual(['one', 'two']);
    expect(out[2]).toMatch(store);
    expect(out.slice(3, 5)).toEqual(['three', 'four']);
    // No prompt, no colour, no greeting.
    expect(out.join('\n')).not.toMatch(/kfault\)/);
    expect(out.join('\n')).not.toContain(ESCAPE);
  });

  test('--batch: the exit status tells what came of the fixture', async () => {
    expect(await debug([sample, '--batch', '-ex', 'c'])).toMatchObject({
      status: 0,
      out: expect.arrayContaining(['The run is over: the fixture has passed.']),
    });
    // A register is changed on the way: what is expected of the fault does not hold.
    const register = isa === 'arm64' ? 'x0' : 'rdi';
    const failed = await debug([
      sample,
      '-batch',
      '-ex',
      'si',
      '-ex',
      `set $${register} = a.page(5)`,
      '-ex',
      'c',
    ]);
    expect(failed.status).toBe(1);
    expect(failed.out).toContain('The run is over: the fixture has failed.');
    expect(await debug([sample, '--batch', '-ex', 'si', '-ex', 'foo', '-ex', 'echo on'])).toMatchObject({
      status: 2,
      err: 'Undefined command: "foo".  Try "help".\n',
      out: [expect.stringMatching(/^=> /), 'on'],
    });
    expect(await debug([sample, '--batch', '-ex', 'quit 7', '-ex', 'echo not this'])).toEqual({
      status: 7,
      out: [''],
      err: '',
    });
  });

  test('a script ends where it goes wrong, with its line', async () => {
    const script = file(`bad-${isa}.kf`, 'si\nx/q 0\necho not this\n');
    const { status, out, err } = await debug([sample, '--batch', '-x', script]);
    expect(status).toBe(2);
    expect(out).toHaveLength(1);
    expect(err).toBe(`${script}:2: /q: q is neither a format (x d u o t z c a s i) nor a size (b h w g)\n`);
  });
});

test('a pipe goes on behind a command that goes wrong, and ends with quit', () => {
  const { status, out, err } = piped([SAMPLES['x86-64']], 'foo\necho on\nquit 3\necho not this\n');
  expect([status, out, err]).toEqual([3, ['on'], 'Undefined command: "foo".  Try "help".\n']);
});

test('bad input, one message each and exit status 2', async () => {
  const sample = SAMPLES['x86-64'];
  const status = 2;
  expect(await debug(['/nowhere'])).toEqual({
    status,
    out: [''],
    err: '/nowhere: there is no such file or folder\n',
  });
  expect(await debug([sample, '-x', '/nowhere'])).toEqual({
    status,
    out: [''],
    err: 'kfault: /nowhere: No such file or directory.\n',
  });
  expect((await debug([])).err).toBe("error: missing required argument 'file'\nTry: kfault --help\n");
  expect((await debug([sample, '--bathc'])).err).toContain('(Did you mean --batch?)');
  const bad = file('bad.yaml', 'name: x\narch: x86-64\nstep: []\n');
  expect(await debug([bad])).toMatchObject({ status, err: expect.stringContaining('unknown key `step`') });
});

test('help', async () => {
  const { status, out } = await debug(['--help']);
  expect(status).toBe(0);
  expect(out.join('\n')).toContain('-ex');
});
