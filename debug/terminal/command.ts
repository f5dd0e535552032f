/** What a command is, and how what was typed finds it. */
import { didYouMean, listOf } from '../../vector/format/suggest.js';
import type { DebugSession } from '../api.js';
import type { Stop } from '../stop.js';
import { CommandError } from './command-error.js';
import type { Letter, Size } from './format.js';
import type { Line } from './lines.js';
import { insteadOf } from './not-here.js';

/** Commands by what they are for, in the order in which help lists them. */
export const GROUPS = {
  running: 'Going on, and going back',
  breakpoints: 'Stopping at places and events',
  data: 'Looking at registers and memory, and changing them',
  views: 'Views of the machine and of the kernel',
  support: 'The debugger itself',
} as const;
export type Group = keyof typeof GROUPS;

/** What Tab completes behind a command's name. */
export type Completion =
  | 'none'
  | 'expression'
  | 'place'
  | 'registers'
  | 'breakpoints'
  | 'commands'
  | 'events'
  | 'arenas'
  | 'programs'
  | 'settings'
  | readonly string[];

/** What commands work with. */
export interface Context {
  readonly session: DebugSession;
  /** Columns of the screen; null where lines may be of any length. */
  readonly columns: number | null;
  print(lines: readonly Line[]): void;
  /** Carries a move out and tells where it ended. */
  move(go: () => Promise<Stop>): Promise<Stop>;
  /** The same several times, up to a stop that has a reason of its own; `each`: every stop is told. */
  moves(count: number, go: () => Promise<Stop>, each: boolean): Promise<void>;
  /** The value of an expression, with `$1` and what stands in memory behind `*`. Throws what is wrong with it. */
  value(text: string): { readonly value: bigint; readonly size: Size };
  /** An expression as sessions take it: with numbers for `$1` and so on, and casts for gdb's braces. */
  expression(text: string): string;
  /** Keeps a value as `$1` and so on; returns the number. */
  remember(value: bigint): number;
  /** What an empty line does next instead of the same command again. */
  repeatAs(line: string): void;
  /** The CPU that registers are shown of. */
  cpu: number;
  readonly state: ContextState;
  /** Runs the commands of a file. Throws a CommandError for the first that goes wrong. */
  source(file: string): Promise<void>;
  quit(status: number): void;
}

/** What commands keep from one time to the next. */
export interface ContextState {
  readonly displays: Display[];
  lastDisplay: number;
  /** Of `x`: where it goes on, and how. */
  next: { address: bigint; physical: boolean } | null;
  letter: Letter;
  size: Size;
  /** Of `list`: the first line that was not shown, from 1. */
  listed: number | null;
  /** Of `disassemble`. */
  disassembled: bigint | null;
  width: number | null;
}

export interface Display {
  readonly id: number;
  /** What stands behind the slash. */
  readonly format: string;
  readonly expression: string;
}

export interface Command {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly group: Group;
  /** The command with its arguments, e.g. `stepi [N]`. */
  readonly usage: string;
  /** One sentence. */
  readonly summary: string;
  readonly details?: string;
  readonly examples: readonly string[];
  readonly completes: Completion;
  /** An empty line does it again. */
  readonly repeats: boolean;
  /** A format may stand behind a slash. */
  readonly format?: boolean;
  run(context: Context, argument: string, format: string): void | Promise<void>;
}

/** A command line taken apart. */
export interface Typed {
  readonly command: Command;
  /** What stands behind the slash, `` if there is none. */
  readonly format: string;
  readonly argument: string;
}

export class CommandTable {
  readonly #names = new Map<string, Command>();

  constructor(readonly all: readonly Command[]) {
    for (const command of all) {
      for (const name of [command.name, ...command.aliases]) {
        if (this.#names.has(name)) throw new Error(`two commands are called ${name}`);
        this.#names.set(name, command);
      }
    }
  }

  /** Names of commands in full, in order of their groups. */
  get names(): readonly string[] {
    return this.all.map(({ name }) => name);
  }

  /** Second words of a command of two, e.g. of `info`. */
  subcommands(first: string): readonly string[] {
    return this.names
      .filter((name) => name.startsWith(`${first} `))
      .map((name) => name.slice(first.length + 1));
  }

  /**
   * Takes a line apart that is not empty: a name, perhaps shortened as far as it is not ambiguous, perhaps with a
   * format behind a slash, and an argument. Throws a CommandError.
   */
  parse(line: string): Typed {
    const match = /^([A-Za-z][\w-]*)(?:\/(\w*))?(.*)$/s.exec(line.trim());
    if (match === null) throw new CommandError(`Undefined command: "${firstWord(line)}".  Try "help".`);
    const [, word = '', near, rest = ''] = match;
    const { command, argument } = this.#command(word, rest.trim());
    if (near !== undefined && command.format !== true) {
      throw new CommandError(`${command.name} takes no format: /${near} means nothing here`);
    }
    // As in gdb, blanks may stand in front of the slash.
    const apart = near === undefined && command.format === true ? /^\/(\w*)(.*)$/s.exec(argument) : null;
    if (apart !== null) return { command, format: apart[1] ?? '', argument: (apart[2] ?? '').trim() };
    return { command, format: near ?? '', argument };
  }

  #command(word: string, rest: string): { readonly command: Command; readonly argument: string } {
    const firsts = new Set([...this.#names.keys()].map((name) => firstWord(name)));
    const first = this.#resolve(word, firsts, '');
    const known = [...this.#names.keys()]
      .filter((name) => name.startsWith(`${first} `))
      .map((name) => name.slice(first.length + 1));
    if (known.length > 0) {
      const second = /^[\w-]+/.exec(rest)?.[0] ?? '';
      const own = this.#names.get(first);
      if (second === '' && own === undefined) {
        throw new CommandError(
          `"${first}" must be followed by one of ${listOf(this.subcommands(first).length > 0 ? this.subcommands(first) : known)}`,
        );
      }
      const found = second === '' ? null : this.#resolve(second, new Set(known), `${first} `);
      const command = this.#names.get(`${first} ${found}`) ?? own;
      if (command !== undefined) return { command, argument: rest.slice(second.length).trim() };
    }
    const command = this.#names.get(first);
    if (command === undefined) throw new CommandError(`Undefined command: "${word}".  Try "help".`);
    return { command, argument: rest };
  }

  /** The name that a word means: itself, the only one that begins with it, or the one that the others begin with. */
  #resolve(word: string, names: ReadonlySet<string>, before: string): string {
    if (names.has(word)) return word;
    if (before === '' && word === 'i') return 'info';
    // Abbreviations are no names that others are short for; second words are all names.
    const full =
      before === ''
        ? new Set(this.names.map(firstWord))
        : new Set([...names].filter((name) => name.length > 1));
    const found = [...names].filter((name) => name.startsWith(word) && full.has(name));
    const [shortest] = [...found].sort((a, b) => a.length - b.length);
    if (shortest === undefined) {
      const instead = insteadOf(`${before}${word}`);
      if (instead !== null) throw new CommandError(`There is no ${before}${word} here: ${instead}.`);
      throw new CommandError(
        `Undefined ${before}command: "${word}".  Try "help${before === '' ? '' : ` ${before.trim()}`}"${didYouMean(word, names) || '.'}`,
      );
    }
    if (found.every((name) => name.startsWith(shortest))) return shortest;
    throw new CommandError(`Ambiguous ${before}command "${word}": ${found.sort().join(', ')}.`);
  }

  /** The command of a name or an abbreviation of it, for help. Throws a CommandError. */
  named(text: string): Command {
    return this.parse(text).command;
  }
}

export function firstWord(text: string): string {
  return /^\s*(\S*)/.exec(text)?.[1] ?? '';
}

// What commands find out about their arguments.

/** A count, 1 when there is none. Throws a CommandError for anything else. */
export function countOf(argument: string, name: string): number {
  if (argument === '') return 1;
  if (!/^[0-9]{1,7}$/.test(argument) || Number(argument) === 0) {
    throw new CommandError(`${name}: ${argument} is not a count (1 to 9999999)`);
  }
  return Number(argument);
}

export function noArgument(argument: string, name: string): void {
  if (argument !== '') throw new CommandError(`${name} takes no argument (\`${argument}\` was given)`);
}

export function needed(argument: string, what: string): string {
  if (argument === '') throw new CommandError(`Argument required (${what}).`);
  return argument;
}

/** Numbers and ranges of them, `1 3-5`. */
export function numbersOf(argument: string): number[] {
  return argument.split(/[\s,]+/).flatMap((word) => {
    const match = /^([0-9]{1,6})(?:-([0-9]{1,6}))?$/.exec(word);
    if (match === null) throw new CommandError(`${word} is not the number of a breakpoint`);
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first || last - first > 9999) throw new CommandError(`${word} is no range of numbers`);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}
