/**
 * The tutorial, word for word: every command in docs/tutorial.md is carried out, and what it prints is compared. With
 * KFAULT_UPDATE_TUTORIAL=1 it is written into the document instead (docs/testing.md).
 */
import { spawn, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { DebugSession } from '../debug/api.js';
import { packet } from '../debug/gdb/framing.js';
import { RspClient } from '../debug/gdb/testing.js';
import { openSession } from '../debug/session.js';
import { palette } from '../debug/terminal/lines.js';
import { greeting } from '../debug/terminal/loop.js';
import { Shell } from '../debug/terminal/shell.js';
import { engine } from '../debug/testing.js';
import { loadFixture } from '../vector/format/load.js';
import type { Io } from './io.js';
import { main } from './program.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const DOCUMENT = `${root}docs/tutorial.md`;
/** As the document says. */
const COLUMNS = 100;
const PORT = '1234';

const before = process.cwd();
beforeAll(() => process.chdir(root));
afterEach(async () => {
  for (const each of cleanup.splice(0)) await each();
});
afterAll(() => {
  engine.close();
  process.chdir(before);
});
const cleanup: (() => void | Promise<void>)[] = [];

type Prompt = '$ ' | '(kfault) ' | '(gdb) ';
const PROMPTS: readonly Prompt[] = ['$ ', '(kfault) ', '(gdb) '];

/** A command of the document and the lines behind it, or lines that are neither. */
interface Piece {
  readonly prompt: Prompt | null;
  readonly text: string;
  readonly output: string[];
}

/** Takes the document apart: commands stand in blocks of kind `console`. */
function piecesOf(document: string): Piece[] {
  const pieces: Piece[] = [];
  let inside = false;
  for (const row of document.split('\n')) {
    const prompt = inside ? PROMPTS.find((each) => row.startsWith(each)) : undefined;
    const last = pieces.at(-1);
    if (prompt !== undefined) pieces.push({ prompt, text: row.slice(prompt.length), output: [] });
    else if (inside && row !== '```' && last !== undefined) last.output.push(row);
    else pieces.push({ prompt: null, text: row, output: [] });
    if (row.startsWith('```')) inside = row === '```console';
  }
  return pieces;
}

function documentOf(pieces: readonly Piece[]): string {
  return pieces.flatMap(({ prompt, text, output }) => [`${prompt ?? ''}${text}`, ...output]).join('\n');
}

/** Lines that were printed, without the last end of a line. */
function linesOf(text: string): string[] {
  return text === '' ? [] : text.replace(/\n$/, '').split('\n');
}

async function kfault(args: readonly string[], columns: number | null): Promise<string[]> {
  let said = '';
  const add = (text: string): void => {
    said += text;
  };
  const io: Io = { out: add, err: add, isTty: false, columns, env: {} };
  await main(args, io);
  return linesOf(said);
}

async function sessionOn(file: string): Promise<DebugSession> {
  const loaded = loadFixture(file);
  if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
  const session = await openSession(loaded.fixture, engine);
  cleanup.push(() => session.close());
  return session;
}

/** What people type at a shell and into the debugger. */
class Terminal {
  #shell: Shell | null = null;
  #said = '';

  async run({ prompt, text, output }: Piece): Promise<string[]> {
    this.#said = '';
    if (prompt === '(kfault) ') {
      if (this.#shell === null) throw new Error(`${text}: no debugger was started`);
      await this.#shell.execute(text, null, true);
      return linesOf(this.#said);
    }
    const [, line = '', head] = /^npx kfault (.*?)(?: \| head -(\d+))?$/.exec(text) ?? [];
    const args = line.split(' ');
    if (args[0] === 'debug') return this.#debug(args[1] ?? '');
    // Those two are carried out together.
    if (args[0] === 'gdbserver' || text.startsWith('gdb ')) return output;
    if (line === '') return linesOf(spawnSync('sh', ['-c', text], { encoding: 'utf8', cwd: root }).stdout);
    const said = await kfault(args, head === undefined ? COLUMNS : null);
    return said.slice(0, head === undefined ? undefined : Number(head));
  }

  async #debug(file: string): Promise<string[]> {
    const add = (text: string): void => {
      this.#said += text;
    };
    const session = await sessionOn(file);
    this.#shell = new Shell(session, { out: add, err: add, columns: () => COLUMNS, palette: palette(false) });
    this.#shell.print(greeting(session));
    return linesOf(this.#said);
  }
}

/** What gdb says by itself about files and symbols, in the words of its version. */
const BANNER = /^(Reading |warning: |\(No debugging symbols |Remote debugging using )/;

/** What gdb prints for each command of a list, the first of them its start. */
async function gdbOutputs(gdb: string, port: string, commands: readonly string[]): Promise<string[][]> {
  const mark = '--next--';
  const all = [
    'set width 0',
    'set style enabled off',
    'set confirm off',
    `target remote 127.0.0.1:${port}`,
    ...commands,
  ];
  const args = all.flatMap((each) => ['-ex', each, '-ex', `echo ${mark}\\n`]);
  const child = spawn('sh', ['-c', 'exec "$0" "$@" 2>&1', gdb, '-nx', '-batch', ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, LC_ALL: 'C', HOME: '/nonexistent' },
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 40_000);
  await new Promise<void>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', () => resolve());
  });
  clearTimeout(timer);
  const outputs = text.split(`${mark}\n`).map((each) => linesOf(each).filter((row) => !BANNER.test(row)));
  // In front of the first one that counts stand the settings; behind the last mark there is gdb's end.
  return outputs.slice(3, 3 + 1 + commands.length);
}

/** The pieces of gdb's part with what was printed. */
async function withGdb(pieces: readonly Piece[], gdb: string): Promise<Piece[]> {
  const server = pieces.find(({ text }) => text.startsWith('npx kfault gdbserver'));
  if (server === undefined) throw new Error('there is no gdbserver in the document');
  let said = '';
  let waits: () => void = () => undefined;
  const waiting = new Promise<void>((resolve) => {
    waits = resolve;
  });
  const io: Io = {
    out: (text) => {
      said += text;
      waits();
    },
    err: () => undefined,
    isTty: false,
    columns: null,
    env: {},
  };
  const args = server.text.split(' ').slice(2);
  const served = main([...args, '--port', '0'], io);
  await waiting;
  const [, port = ''] = /127\.0\.0\.1:(\d+)/.exec(said) ?? [];
  const commands = pieces.filter(({ prompt }) => prompt === '(gdb) ').map(({ text }) => text);
  const outputs = await gdbOutputs(gdb, port, commands);
  const last = await RspClient.connect(Number(port));
  last.sendRaw(packet(Buffer.from('k')));
  await served;
  last.close();
  const rest = outputs.values();
  return pieces.map((piece) => {
    const { prompt, text } = piece;
    if (piece === server) return { ...piece, output: linesOf(said.replaceAll(port, PORT)) };
    if (prompt !== '(gdb) ' && !text.startsWith('gdb ')) return piece;
    return { ...piece, output: rest.next().value ?? [] };
  });
}

function findGdb(): string | null {
  const found = ['gdb', 'gdb-multiarch'].find((name) => {
    const args = ['-nx', '-batch', '-ex', 'set architecture i386:x86-64'];
    const { status, stderr } = spawnSync(name, args, { encoding: 'utf8' });
    return status === 0 && !stderr.includes('Undefined item');
  });
  return found ?? null;
}

/** Compares, or writes. */
function settle(rebuilt: string): void {
  if (process.env.KFAULT_UPDATE_TUTORIAL === '1') writeFileSync(DOCUMENT, rebuilt);
  else expect(rebuilt.split('\n')).toEqual(readFileSync(DOCUMENT, 'utf8').split('\n'));
}

describe('docs/tutorial.md', () => {
  test('what kfault prints', async () => {
    const terminal = new Terminal();
    const out: Piece[] = [];
    for (const piece of piecesOf(readFileSync(DOCUMENT, 'utf8'))) {
      const output =
        piece.prompt === null || piece.prompt === '(gdb) ' ? piece.output : await terminal.run(piece);
      out.push({ ...piece, output });
    }
    settle(documentOf(out));
  });

  test('text of fixtures is theirs', () => {
    const folder = `${root}docs/tutorial/`;
    const fixtures = readdirSync(folder).map((name) => readFileSync(folder + name, 'utf8'));
    const quoted = [...readFileSync(DOCUMENT, 'utf8').matchAll(/^```yaml\n(.*?)^```/gms)];
    expect(quoted.length).toBeGreaterThan(0);
    for (const [, text = ''] of quoted) expect(fixtures.some((fixture) => fixture.includes(text))).toBe(true);
  });

  const gdb = findGdb();
  if (gdb !== null) {
    test('what gdb prints', async () => {
      settle(documentOf(await withGdb(piecesOf(readFileSync(DOCUMENT, 'utf8')), gdb)));
    });
  } else if (process.env.CI === 'true' && process.env.KFAULT_GDB !== 'optional') {
    test('gdb is there', () => {
      throw new Error('there is no gdb, and CI is set: install the package gdb-multiarch');
    });
  } else {
    test.skip('there is no gdb: install the package gdb or gdb-multiarch', () => undefined);
  }
});
