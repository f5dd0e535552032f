import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'cli', 'kfault.mjs');
const folder = mkdtempSync(join(tmpdir(), 'kfault-debug-'));

beforeAll(() => {
  if (!existsSync(join(root, 'dist', 'bundle-paths', 'main.js'))) {
    throw new Error('these tests run the compiled command: npm run build first');
  }
});
afterAll(() => {
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

function debug(args: readonly string[], input = ''): Ran {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, 'debug', ...args], {
    cwd: root,
    encoding: 'utf8',
    input,
    env: { ...process.env, FORCE_COLOR: undefined },
  });
  return { status, out: stdout.replace(/\n$/, '').split('\n'), err: stderr };
}

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
    const { status, out, err } = debug(
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

  test('--batch: the exit status tells what came of the fixture', () => {
    expect(debug([sample, '--batch', '-ex', 'c'])).toMatchObject({
      status: 0,
      out: expect.arrayContaining(['The run is over: the fixture has passed.']),
    });
    // A register is changed on the way: what is expected of the fault does not hold.
    const register = isa === 'arm64' ? 'x0' : 'rdi';
    const failed = debug([sample, '-batch', '-ex', 'si', '-ex', `set $${register} = a.page(5)`, '-ex', 'c']);
    expect(failed.status).toBe(1);
    expect(failed.out).toContain('The run is over: the fixture has failed.');
    expect(debug([sample, '--batch', '-ex', 'si', '-ex', 'foo', '-ex', 'echo on'])).toMatchObject({
      status: 2,
      err: 'Undefined command: "foo".  Try "help".\n',
      out: [expect.stringMatching(/^=> /), 'on'],
    });
    expect(debug([sample, '--batch', '-ex', 'quit 7', '-ex', 'echo not this'])).toEqual({
      status: 7,
      out: [''],
      err: '',
    });
  });

  test('a script ends where it goes wrong, with its line', () => {
    const script = file(`bad-${isa}.kf`, 'si\nx/q 0\necho not this\n');
    const { status, out, err } = debug([sample, '--batch', '-x', script]);
    expect(status).toBe(2);
    expect(out).toHaveLength(1);
    expect(err).toBe(`${script}:2: /q: q is neither a format (x d u o t z c a s i) nor a size (b h w g)\n`);
  });
});

test('a pipe goes on behind a command that goes wrong, and ends with quit', () => {
  const { status, out, err } = debug([SAMPLES['x86-64']], 'foo\necho on\nquit 3\necho not this\n');
  expect([status, out, err]).toEqual([3, ['on'], 'Undefined command: "foo".  Try "help".\n']);
});

test('bad input, one message each and exit status 2', () => {
  const sample = SAMPLES['x86-64'];
  const status = 2;
  expect(debug(['/nowhere'])).toEqual({
    status,
    out: [''],
    err: '/nowhere: there is no such file or folder\n',
  });
  expect(debug([sample, '-x', '/nowhere'])).toEqual({
    status,
    out: [''],
    err: 'kfault: /nowhere: No such file or directory.\n',
  });
  expect(debug([]).err).toBe("error: missing required argument 'file'\nTry: kfault --help\n");
  expect(debug([sample, '--bathc']).err).toContain('(Did you mean --batch?)');
  const bad = file('bad.yaml', 'name: x\narch: x86-64\nstep: []\n');
  expect(debug([bad])).toMatchObject({ status, err: expect.stringContaining('unknown key `step`') });
});

test('help', () => {
  const { status, out } = debug(['--help']);
  expect(status).toBe(0);
  expect(out.join('\n')).toContain('-ex');
});

/** Drives a pseudo-terminal: waits for the prompt in front of each input. Prints what came, as JSON. */
const DRIVER = `
import fcntl, json, os, pty, select, struct, sys, termios, time
columns, argv, keys = json.loads(sys.argv[1])
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    os.execv(argv[0], argv)
out = b''
def wait(pattern):
    global out
    start, end = len(out), time.time() + 20
    while pattern not in out[start:]:
        if time.time() > end or not select.select([fd], [], [], end - time.time())[0]:
            raise SystemExit('no ' + repr(pattern) + ' in ' + repr(out[start:]))
        try:
            data = os.read(fd, 65536)
        except OSError:
            data = b''
        if data == b'':
            return
        out += data
wait(b'(kfault) ')
for text, pattern in keys:
    os.write(fd, text.encode())
    wait(pattern.encode())
wait(b'never')
print(json.dumps([out.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
`;

const PROMPT = '(kfault) ';

function terminal(
  columns: number,
  args: readonly string[],
  keys: readonly (readonly [string, string])[],
  env: NodeJS.ProcessEnv = {},
): { readonly screen: string; readonly status: number } {
  const driver = file('driver.py', DRIVER);
  const python = process.env.PYTHON ?? 'python3';
  const { stdout, stderr, status } = spawnSync(
    python,
    [driver, JSON.stringify([columns, [process.execPath, bin, 'debug', ...args], keys])],
    { cwd: root, encoding: 'utf8', env: { ...process.env, NO_COLOR: undefined, TERM: 'xterm', ...env } },
  );
  if (status !== 0) throw new Error(stderr);
  const [screen, ended] = JSON.parse(stdout) as [string, number];
  return { screen, status: ended };
}

const ESCAPE = '\u001b';
const COLOUR = new RegExp(`${ESCAPE}\\[[0-9;]*m`);
const CONTROL = new RegExp(`${ESCAPE}\\[[0-9;]*[A-Za-z]`, 'g');

/** What stands on the screen: rows without what moves the cursor and paints. */
function rowsOf(screen: string): string[] {
  return screen.replace(CONTROL, '').split('\r\n');
}

describe('in a terminal', () => {
  const sample = SAMPLES['x86-64'];

  test('prompt, completion, history, repetition, end', () => {
    const { screen, status } = terminal(
      80,
      [sample],
      [
        ['stepi\r', PROMPT],
        ['\r', PROMPT],
        ['info prog', 'prog'],
        ['\t', 'ram'],
        ['\r', PROMPT],
        ['echo later\r', PROMPT],
        // The line before that one.
        ['\u001b[A\u001b[A', 'info program'],
        ['\r', PROMPT],
        ['\u0004', 'quit'],
      ],
      { NO_COLOR: '1' },
    );
    expect(status).toBe(0);
    const rows = rowsOf(screen);
    expect(rows[0]).toBe("a kernel function's write to an unallocated arena page lands on the scratch page");
    expect(rows.filter((row) => row.startsWith('=> '))).toHaveLength(2);
    expect(rows.filter((row) => /^Tick \d+, behind 1 instruction, in guest code\.$/.test(row))).toHaveLength(
      2,
    );
    expect(rows).toContain('later');
    expect(screen).not.toMatch(COLOUR);
  });

  test('colours, and rows that fit 40 columns', () => {
    const { screen } = terminal(
      40,
      [sample, '-q'],
      [
        ['catch fault\r', PROMPT],
        ['c\r', PROMPT],
        ['walk\r', PROMPT],
        ['path\r', PROMPT],
        ['quit\r', 'quit'],
      ],
      {
        FORCE_COLOR: undefined,
      },
    );
    expect(screen).toMatch(COLOUR);
    expect(rowsOf(screen).filter((row) => [...row].length > 40)).toEqual([]);
  });

  test('Ctrl-C stops a move, and drops what was typed', () => {
    const long = file(
      'long.yaml',
      `name: long
arch: x86-64
ram: 24MiB
limits: { instructions: 1000000000, milliseconds: 100000 }
text:
  - symbol: spin
    asm: |
      loop: dec rdi
      jnz loop
      ret
steps:
  - { call: spin, registers: { rdi: 400000000 } }
`,
    );
    const { screen, status } = terminal(
      80,
      [long, '-q'],
      [
        ['fs\r', PROMPT],
        ['watch 0xffffffff81000000\r', PROMPT],
        // Answered only when it has been interrupted: the watchpoint makes it slow.
        ['continue\r', 'continue'],
        ['\u0003', PROMPT],
        ['frame\r', PROMPT],
        ['echo nothing', 'nothing'],
        ['\u0003', PROMPT],
        ['quit 5\r', 'quit 5'],
      ],
      { NO_COLOR: '1' },
    );
    expect(status).toBe(5);
    const rows = rowsOf(screen);
    expect(rows.filter((row) => row === 'Interrupted.')).toHaveLength(2);
    expect(rows).toContain('(kfault) echo nothing^C');
    expect(rows).not.toContain('nothing');
  });
});
