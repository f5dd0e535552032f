import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { coloursFor, type Io } from './io.js';
import { main } from './program.js';
import { schemaText } from './schema-command.js';

const folder = mkdtempSync(join(tmpdir(), 'kfault-cli-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

interface Said {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

async function kfault(...args: string[]): Promise<Said> {
  const said = { status: 0, out: '', err: '' };
  const io: Io = {
    out: (text) => {
      said.out += text;
    },
    err: (text) => {
      said.err += text;
    },
    isTty: false,
    columns: null,
    env: {},
  };
  said.status = await main(args, io);
  return said;
}

describe('bad input, one message each and exit status 2, without an engine', () => {
  const write = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };

  test.each([
    [
      'an unknown command',
      ['rnu'],
      "error: unknown command 'rnu'\n(Did you mean run?)\nTry: kfault --help\n",
    ],
    [
      'an unknown option',
      ['run', '--jsn'],
      "error: unknown option '--jsn'\n(Did you mean --json?)\nTry: kfault --help\n",
    ],
    [
      'an unknown architecture',
      ['run', '--arch', 'mips'],
      "error: option '--arch <arch>' argument 'mips' is invalid. Allowed choices are x86-64, arm64.\nTry: kfault --help\n",
    ],
    ['no file', ['explain'], "error: missing required argument 'file'\nTry: kfault --help\n"],
    [
      'a step that is none',
      ['explain', 'x', '--step', '0'],
      "error: option '--step <n>' argument '0' is invalid. a step is a number from 1.\nTry: kfault --help\n",
    ],
    [
      'a bad pattern',
      ['run', '-t', '('],
      'kfault: --filter: Invalid regular expression: /(/i: Unterminated group\n',
    ],
    [
      'a way to print a log that nobody asked for',
      ['explain', 'x', '--time'],
      'kfault: --time says how the kernel log is printed: give --console too\n',
    ],
    ['a file that is not there', ['explain', '/nowhere'], '/nowhere: there is no such file or folder\n'],
    ['a path that is not there', ['fmt', '/nowhere'], '/nowhere: there is no such file or folder\n'],
  ])('%s', async (_, args, err) => {
    expect(await kfault(...args)).toEqual({ status: 2, out: '', err });
  });

  test('run reports them among the results', async () => {
    const bad = write('bad.yaml', 'name: x\narch: x86-64\nstep: []\n');
    const said = await kfault('run', bad, '/nowhere');
    expect(said.status).toBe(2);
    expect(said.err).toBe('');
    expect(said.out.replaceAll(folder, '')).toContain(
      '/bad.yaml:3:1: unknown key `step`: did you mean `steps`?',
    );
    expect(said.out).toContain('/nowhere: there is no such file or folder');
    expect(said.out).toContain('2 fixtures: 0 passed, 0 failed, 2 invalid');
  });

  test('run --json too', async () => {
    const bad = write('bad2.yaml', 'x');
    const { status, out } = await kfault('run', '--json', bad);
    expect(status).toBe(2);
    expect(JSON.parse(out)).toMatchObject({
      summary: { fixtures: 1, passed: 0, failed: 0, invalid: 1 },
      fixtures: [{ file: bad, status: 'invalid', errors: [{ line: 1, column: 1 }] }],
    });
  });

  test('a filter that matches nothing', async () => {
    const good = write('good.yaml', 'name: x\narch: x86-64\nsteps: [{call: 0}]\n');
    expect(await kfault('run', good, '-t', 'no such name')).toEqual({
      status: 2,
      out: '',
      err: 'kfault: no fixture matches: nothing was run\n',
    });
  });
});

test('help has examples and exit statuses, and is no mistake', async () => {
  const said = await kfault('run', '--help');
  expect(said.status).toBe(0);
  expect(said.out).toContain('Exit status: 0 passed, 1 a fixture failed, 2 bad input or set-up.');
  expect(said.out).toContain('npx kfault run --arch x86-64 -t "upper guard"');
});

test('the version is that of the package', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  expect(await kfault('--version')).toEqual({ status: 0, out: `${version}\n`, err: '' });
});

test('the published schema is up to date: `kfault schema > docs/fixture.schema.json`', async () => {
  const published = readFileSync(new URL('../docs/fixture.schema.json', import.meta.url), 'utf8');
  expect(published === schemaText()).toBe(true);
  expect((await kfault('schema')).out).toBe(published);
});

test('every key of the schema says what it is', () => {
  const silent: string[] = [];
  const visit = (node: unknown, path: string): void => {
    if (node === null || typeof node !== 'object') return;
    for (const [key, value] of Object.entries(node)) {
      if (key === 'properties') {
        for (const [name, property] of Object.entries(value as Record<string, object>)) {
          if (!('description' in property) && !('$ref' in property)) silent.push(`${path}.${name}`);
        }
      }
      visit(value, key === 'properties' ? path : `${path}.${key}`);
    }
  };
  visit(JSON.parse(schemaText()), '');
  expect(silent).toEqual([]);
});

describe('explain --console prints the kernel log as a console does', () => {
  const file = join(folder, 'oops.yaml');
  const shown = async (...options: string[]): Promise<string[]> => {
    writeFileSync(
      file,
      [
        'name: two oopses',
        'arch: x86-64',
        'clock: 12.345678',
        'text: [{ symbol: f, asm: "8b 07  mov eax, dword ptr [rdi]" }]',
        'steps:',
        '  - call: f',
        '  - call: f',
        '    advance: 0.5',
        '    context: { in_interrupt: 1 }',
        '',
      ].join('\n'),
    );
    const { status, out, err } = await kfault('explain', file, '--console', ...options);
    expect([status, err]).toEqual([0, '']);
    return out.split('\n');
  };

  test('plain', async () => {
    const lines = await shown();
    expect(lines[0]).toBe('BUG: kernel NULL pointer dereference, address: 0000000000000000');
    expect(lines).toContain('PGD 0 P4D 0 ');
    expect(lines.at(-2)).toMatch(/^---\[ end Kernel panic - not syncing: .* \]---$/);
    expect(lines.at(-1)).toBe('');
  });

  test('with levels, time and caller, the clock as the fixture has set it', async () => {
    const lines = await shown('--levels', '--time', '--caller');
    expect(lines[0]).toBe(
      '<1>[   12.345678][  T100] BUG: kernel NULL pointer dereference, address: 0000000000000000',
    );
    expect(lines.at(-2)).toMatch(/^<0>\[ {3}12\.845678\]\[ {4}C0\] ---\[ end Kernel panic/);
  });

  test('of one step', async () => {
    const lines = await shown('--time', '--step', '2');
    expect(lines[0]).toBe('[   12.845678] BUG: kernel NULL pointer dereference, address: 0000000000000000');
  });
});

test('colours are for terminals, and NO_COLOR switches them off', () => {
  const io = (isTty: boolean, env: Io['env']): Io => ({
    out: () => {},
    err: () => {},
    isTty,
    columns: null,
    env,
  });
  expect(coloursFor(io(true, {})).red('x')).not.toBe('x');
  expect(coloursFor(io(false, {})).red('x')).toBe('x');
  expect(coloursFor(io(true, { NO_COLOR: '1' })).red('x')).toBe('x');
  expect(coloursFor(io(true, { TERM: 'dumb' })).red('x')).toBe('x');
});
