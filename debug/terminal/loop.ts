/** The command loop: scripts of the command line first, then a terminal or a pipe. */
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import type { DebugSession } from '../api.js';
import { complete } from './complete.js';
import { hanging, palette, strong } from './lines.js';
import { Shell } from './shell.js';
import { stopLines } from './views/where.js';

/** What the debugger is to do before anybody types. */
export type Script =
  | { readonly kind: 'command'; readonly text: string }
  | { readonly kind: 'file'; readonly file: string; readonly lines: readonly string[] };

export interface Surroundings {
  readonly input: NodeJS.ReadStream;
  readonly output: NodeJS.WriteStream;
  out(text: string): void;
  err(text: string): void;
  readonly colours: boolean;
  /** A file that keeps what was typed; null for none. */
  readonly history: string | null;
}

export interface DebuggerOptions {
  readonly scripts: readonly Script[];
  /** Ends behind the scripts, and the status tells what came of them. */
  readonly batch: boolean;
  /** Nothing is said at the beginning. */
  readonly quiet: boolean;
}

/** Of --batch: a command went wrong. */
const BAD_COMMAND = 2;
const INTERRUPTED = 130;
const PROMPT = '(kfault) ';
const HISTORY_MAX = 1000;

/**
 * Runs a debugger on a session that stands at its start; returns the exit status: what `quit` was told, else 0;
 * with `batch` 1 when the fixture has failed, 2 when a command went wrong.
 */
export async function runDebugger(
  session: DebugSession,
  around: Surroundings,
  { scripts, batch, quiet }: DebuggerOptions,
): Promise<number> {
  const { input, output } = around;
  const shell = new Shell(session, {
    out: (text) => around.out(text),
    err: (text) => around.err(text),
    columns: () => (output.isTTY ? output.columns || null : null),
    palette: palette(around.colours),
  });
  let interrupted = false;
  const onSignal = (): void => {
    interrupted = true;
    shell.interrupt();
  };
  process.on('SIGINT', onSignal);
  try {
    const interactive = !batch && input.isTTY === true;
    if (interactive && !quiet) greet(shell);
    const good = await runScripts(shell, scripts);
    if (shell.status !== null) return shell.status;
    if (batch) {
      if (interrupted) return INTERRUPTED;
      if (!good) return BAD_COMMAND;
      return shell.ended === 'failed' ? 1 : 0;
    }
    shell.takeInterrupt();
    if (interactive) {
      // From here on the keyboard's Ctrl-C arrives as a key, and other signals are not meant for a move.
      await new Terminal(shell, around).run();
    } else {
      await runPipe(shell, input);
      if (interrupted && shell.status === null) return INTERRUPTED;
    }
    return shell.status ?? 0;
  } finally {
    process.off('SIGINT', onSignal);
  }
}

function greet(shell: Shell): void {
  const { session } = shell;
  const { name, arch } = session.fixture.data;
  shell.print([
    hanging(2, strong(name), ` (${arch})`),
    hanging(2, '`help` says what there is to do; Ctrl-D ends it.'),
    ...stopLines(session.stop, session),
  ]);
}

/** As gdb does: a command that goes wrong ends the file it stands in, and nothing else. */
async function runScripts(shell: Shell, scripts: readonly Script[]): Promise<boolean> {
  let good = true;
  for (const script of scripts) {
    if (shell.status !== null) break;
    const done =
      script.kind === 'command'
        ? await shell.execute(script.text)
        : await shell.script(script.lines, script.file);
    good &&= done;
    if (shell.takeInterrupt()) return false;
  }
  return good;
}

async function runPipe(shell: Shell, input: NodeJS.ReadStream): Promise<void> {
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  try {
    for await (const text of lines) {
      await shell.execute(text);
      if (shell.status !== null || shell.takeInterrupt()) break;
    }
  } finally {
    lines.close();
    input.destroy();
  }
}

/** A person in front of it. */
class Terminal {
  readonly #waiting: string[] = [];
  readonly #readline: Interface;
  #busy = false;
  #closed = false;
  #done: () => void = () => {};

  constructor(
    readonly shell: Shell,
    readonly around: Surroundings,
  ) {
    const { input, output } = around;
    this.#readline = createInterface({
      input,
      output,
      terminal: output.isTTY === true && process.env.TERM !== 'dumb',
      prompt: PROMPT,
      history: readHistory(around.history),
      historySize: HISTORY_MAX,
      completer: (line: string) => complete(line, shell.commands, shell.session),
    });
  }

  async run(): Promise<void> {
    const rl = this.#readline;
    const ended = new Promise<void>((resolve) => {
      this.#done = resolve;
    });
    rl.on('line', (text) => {
      this.#waiting.push(text);
      void this.#work();
    });
    rl.on('SIGINT', () => this.#onInterrupt());
    rl.on('close', () => {
      this.#closed = true;
      // Ctrl-D: the shell's prompt shall not stand behind ours.
      if (this.shell.status === null) this.around.out('quit\n');
      if (this.shell.session.running) this.shell.interrupt();
      if (!this.#busy) this.#done();
    });
    rl.prompt();
    await ended;
    writeHistory(this.around.history, rl);
    this.around.input.pause();
  }

  async #work(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    for (let text = this.#waiting.shift(); text !== undefined; text = this.#waiting.shift()) {
      await this.shell.execute(text, null, true);
      // What was typed ahead is not meant for what came instead.
      if (this.shell.takeInterrupt()) this.#waiting.length = 0;
      if (this.shell.status !== null) break;
    }
    this.#busy = false;
    if (this.shell.status !== null && !this.#closed) this.#readline.close();
    if (this.#closed) this.#done();
    else this.#readline.prompt();
  }

  #onInterrupt(): void {
    if (this.#busy) {
      this.shell.interrupt();
      return;
    }
    const rl = this.#readline;
    rl.write(null, { ctrl: true, name: 'e' });
    this.around.out('^C\n');
    rl.write(null, { ctrl: true, name: 'u' });
  }
}

/** Newest first, as readline wants it. */
function readHistory(file: string | null): string[] {
  if (file === null) return [];
  try {
    return readFileSync(file, 'utf8')
      .split('\n')
      .filter((text) => text !== '')
      .reverse()
      .slice(0, HISTORY_MAX);
  } catch {
    // The first time there is none.
    return [];
  }
}

function writeHistory(file: string | null, rl: Interface): void {
  if (file === null || !('history' in rl) || !Array.isArray(rl.history)) return;
  try {
    writeFileSync(file, `${rl.history.toReversed().join('\n')}\n`);
  } catch {
    // What cannot be kept is forgotten.
  }
}
