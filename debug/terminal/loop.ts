/** The command loop: scripts of the command line first, then a terminal or a pipe. */
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import type { DebugSession } from '../api.js';
import { completeWords } from './complete.js';
import { hanging, type Line, palette, strong } from './lines.js';
import { Shell } from './shell.js';
import { TypeAhead } from './type-ahead.js';
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
    if (interactive && !quiet) shell.print(greeting(session));
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

/** What a terminal shows at the beginning. */
export function greeting(session: DebugSession): Line[] {
  const { name, arch } = session.fixture.data;
  return [
    hanging(2, strong(name), ` (${arch})`),
    hanging(2, '`help` says what there is to do; Ctrl-D ends it.'),
    ...stopLines(session.stop, session),
  ];
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
  readonly #keys: TypeAhead;
  readonly #readline: Interface;
  #busy = false;
  #closed = false;
  #done: () => void = () => {};

  constructor(
    readonly shell: Shell,
    readonly around: Surroundings,
  ) {
    const { input, output } = around;
    this.#keys = new TypeAhead(input, () => shell.interrupt());
    this.#readline = createInterface({
      input: this.#keys,
      output,
      terminal: output.isTTY === true && process.env.TERM !== 'dumb',
      prompt: PROMPT,
      history: readHistory(around.history),
      historySize: HISTORY_MAX,
      completer: (line: string) => completeWords(line, shell.commands, shell.session),
    });
  }

  async run(): Promise<void> {
    const rl = this.#readline;
    const ended = new Promise<void>((resolve) => {
      this.#done = resolve;
    });
    rl.on('line', (text) => {
      void this.#work(text);
    });
    rl.on('SIGINT', () => this.#onInterrupt());
    // Behind Ctrl-Z and `fg` readline has paused its input, and nothing else would let it go on.
    rl.on('SIGCONT', () => rl.prompt(true));
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
    this.#keys.destroy();
  }

  async #work(text: string): Promise<void> {
    this.#busy = true;
    await this.shell.execute(text, null, true);
    this.shell.takeInterrupt();
    this.#busy = false;
    if (this.shell.status !== null && !this.#closed) this.#readline.close();
    if (this.#closed) {
      this.#done();
      return;
    }
    this.#readline.prompt();
    this.#keys.next();
  }

  #onInterrupt(): void {
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
