/** Carries out command lines on a session: what a terminal, a script and a pipe have in common. */
import { readFileSync } from 'node:fs';
import { hex } from '../../emu/address.js';
import { fixtureErrors } from '../../vector/run/run-fixture.js';
import { type DebugSession, SessionError } from '../api.js';
import type { Stop, StopReason } from '../stop.js';
import { type CommandTable, type Context, type ContextState, firstWord } from './command.js';
import { CommandError } from './command-error.js';
import { showDisplay } from './commands/data.js';
import { allCommands } from './commands/index.js';
import type { Size } from './format.js';
import { bad, type Line, line, type Palette, paint, textLines } from './lines.js';
import { sizeIn, withCasts } from './place.js';
import { newsLines, type Printed } from './views/output.js';
import { stopLines } from './views/where.js';

/** Where lines go. */
export interface Screen {
  out(text: string): void;
  err(text: string): void;
  /** Columns now; null where lines may be of any length. */
  columns(): number | null;
  readonly palette: Palette;
}

/** Milliseconds between two looks at what goes on outside. */
const BREATH = 20;
/** Files that call each other end somewhere. */
const SOURCE_DEPTH_MAX = 16;

export class Shell implements Context {
  readonly commands: CommandTable = allCommands();
  readonly state: ContextState = {
    displays: [],
    lastDisplay: 0,
    next: null,
    letter: 'x',
    size: 4,
    listed: null,
    disassembled: null,
    width: null,
  };
  cpu: number;
  /** The exit status that `quit` has asked for; null as long as nobody has quit. */
  status: number | null = null;
  /** How the fixture ended, each time the end was reached; null before. */
  ended: 'passed' | 'failed' | 'invalid' | null = null;
  #last = '';
  #repeat: string | null = null;
  readonly #values: bigint[] = [];
  #depth = 0;
  #interrupted = false;

  constructor(
    readonly session: DebugSession,
    readonly screen: Screen,
  ) {
    this.cpu = session.cpu;
  }

  get columns(): number | null {
    const { width } = this.state;
    if (width === null) return this.screen.columns();
    return width === Number.POSITIVE_INFINITY ? null : width;
  }

  readonly print = (lines: readonly Line[]): void => {
    this.screen.out(paint(lines, this.columns, this.screen.palette));
  };

  /** True when whoever sits in front has interrupted since this was asked last. */
  takeInterrupt(): boolean {
    const was = this.#interrupted;
    this.#interrupted = false;
    return was;
  }

  /** Stops what is under way. */
  interrupt(): void {
    this.#interrupted = true;
    this.session.interrupt();
  }

  /**
   * Carries out one line; an empty one does the last command again. What is wrong is told in one line, behind `where`
   * if it is given; returns whether nothing was.
   */
  async execute(text: string, where: string | null = null, repeating = false): Promise<boolean> {
    const trimmed = text.trim();
    const typed = trimmed === '' && repeating ? this.#last : trimmed;
    if (typed === '' || typed.startsWith('#')) return true;
    try {
      const { command, argument, format } = this.commands.parse(typed);
      this.#repeat = null;
      if (trimmed !== '') this.#forget(command.name);
      await command.run(this, argument, format);
      this.#last = this.#repeat ?? (command.repeats ? typed : '');
      return true;
    } catch (error) {
      this.#last = this.#repeat ?? '';
      this.#tell(error, where);
      return false;
    }
  }

  /** Views that go on where they stopped begin anew when something else was done. */
  #forget(command: string): void {
    if (command !== 'list') this.state.listed = null;
  }

  #tell(error: unknown, where: string | null): void {
    const messages = messagesOf(error);
    const before = where === null ? '' : `${where}: `;
    this.screen.err(
      paint(
        messages.map((message) => line(bad(`${before}${message}`))),
        this.columns,
        this.screen.palette,
      ),
    );
  }

  async move(go: () => Promise<Stop>): Promise<Stop> {
    const before = this.#printed();
    const stop = await this.#go(go);
    this.#told(stop, before, true);
    return stop;
  }

  async moves(count: number, go: () => Promise<Stop>, each: boolean): Promise<void> {
    let before = this.#printed();
    let breath = performance.now();
    for (let i = 1; ; i += 1) {
      // Short moves do not let anybody in who might want to interrupt.
      if (performance.now() - breath > BREATH) {
        await new Promise((resolve) => setImmediate(resolve));
        breath = performance.now();
      }
      const stop = await this.#go(go);
      const last = i === count || !goesOn(stop.reason) || this.#interrupted;
      if (last && i < count && this.#interrupted && goesOn(stop.reason)) this.print([line('Interrupted.')]);
      if (last || each) {
        this.#told(stop, before, last);
        before = this.#printed();
      }
      if (last) return;
    }
  }

  async #go(go: () => Promise<Stop>): Promise<Stop> {
    const stop = await go();
    this.cpu = this.session.cpu;
    this.state.listed = null;
    if (stop.reason.kind === 'end') this.ended = stop.reason.status;
    return stop;
  }

  #printed(): Printed {
    return { console: this.session.consoleLines(), streams: this.session.streams() };
  }

  /** Of stops that others follow, only the reason is told. */
  #told(stop: Stop, before: Printed, last: boolean): void {
    const news = newsLines(before, this.#printed());
    this.print([...news, ...(last ? stopLines(stop, this.session) : textLines(stop.text))]);
    if (!last) return;
    for (const display of this.state.displays) {
      try {
        showDisplay(this, display);
      } catch (error) {
        // What is displayed may not be there everywhere.
        this.print(
          messagesOf(error).map((message) => line(`${display.id}: ${display.expression}: ${message}`)),
        );
      }
    }
  }

  value(text: string): { readonly value: bigint; readonly size: Size } {
    const typed = this.expression(text);
    return { size: sizeIn(typed), value: this.session.evaluate(typed) };
  }

  expression(text: string): string {
    return withCasts(text).replace(/\$(\$|[0-9]+)?(?![\w$])/g, (_, which: string | undefined) => {
      const count = this.#values.length;
      const number = which === undefined ? count : which === '$' ? count - 1 : Number(which);
      const value = this.#values[number - 1];
      if (value === undefined) {
        throw new CommandError(
          number < 1 ? 'No value was printed yet.' : `History has not yet reached $${number}.`,
        );
      }
      return hex(value);
    });
  }

  remember(value: bigint): number {
    return this.#values.push(value);
  }

  repeatAs(text: string): void {
    this.#repeat = text;
  }

  async source(file: string): Promise<void> {
    if (this.#depth >= SOURCE_DEPTH_MAX)
      throw new CommandError(`${file}: files call each other ${SOURCE_DEPTH_MAX} deep`);
    const lines = scriptLines(file);
    this.#depth += 1;
    try {
      if (!(await this.script(lines, file))) throw new CommandError(`${file} was broken off`);
    } finally {
      this.#depth -= 1;
    }
  }

  /** Carries out the lines of a script up to the first that goes wrong; returns whether none did. */
  async script(lines: readonly string[], file: string): Promise<boolean> {
    for (const [i, text] of lines.entries()) {
      if (this.status !== null) return true;
      if (!(await this.execute(text, `${file}:${i + 1}`))) return false;
      if (this.#interrupted) return false;
    }
    return true;
  }

  quit(status: number): void {
    this.status = status;
  }
}

/** Lines of a script. Throws a CommandError when it cannot be read. */
export function scriptLines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split(/\r?\n/);
  } catch (error) {
    const code =
      typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : String(error);
    throw new CommandError(
      code === 'ENOENT' ? `${file}: No such file or directory.` : `${file}: it cannot be read (${code})`,
    );
  }
}

/** A stop at which a move that is to be made several times is made once more. */
function goesOn(reason: StopReason): boolean {
  switch (reason.kind) {
    case 'stepped':
    case 'path':
    case 'resolved':
    case 'finished':
      return true;
    case 'fixture-step':
      return reason.hit === null;
    default:
      return false;
  }
}

/** What is wrong, for people: one line. Anything unexpected is named so. */
function messagesOf(error: unknown): string[] {
  if (error instanceof CommandError || error instanceof SessionError) return [error.message];
  const found = fixtureErrors(error);
  if (found !== null) return found.map((each) => each.format());
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return [`internal error: ${firstWord(message) === '' ? 'unknown' : (message.split('\n', 1)[0] ?? '')}`];
}
