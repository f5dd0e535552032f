/** What Tab completes: names of commands, and behind them what each one takes. */
import type { DebugSession } from '../api.js';
import type { Command, CommandTable, Completion } from './command.js';
import { GROUPS } from './command.js';
import { CommandError } from './command-error.js';
import { EVENTS } from './commands/breakpoints.js';
import { SETTINGS } from './commands/data.js';
import { LEVELS } from './levels.js';

export type CompletionView = Pick<
  DebugSession,
  'symbols' | 'functions' | 'registers' | 'breakpoints' | 'arenas' | 'streams'
>;

/** The same as `complete()` for readline: as in gdb, a blank stands behind a word that is the only one. */
export function completeWords(
  line: string,
  commands: CommandTable,
  session: CompletionView,
): [string[], string] {
  const [words, beginning] = complete(line, commands, session);
  const [only] = words;
  const whole = words.length === 1 && only !== undefined && !only.endsWith('(');
  return [whole ? [`${only} `] : words, beginning];
}

/** Candidates for the word at the end of a line, and that word. */
export function complete(line: string, commands: CommandTable, session: CompletionView): [string[], string] {
  const text = line.trimStart();
  const name = /^([A-Za-z][\w-]*)(\/\S*)?\s+/.exec(text);
  if (name === null) {
    const firsts = [...new Set(commands.names.map((each) => each.split(' ')[0] ?? each))];
    return among(firsts.sort(), text);
  }
  const rest = text.slice(name[0].length);
  const first = firstOf(name[1] ?? '', commands);
  const subs = commands.subcommands(first);
  if (subs.length > 0 && !/\s/.test(rest)) return among(subs, rest);
  const word = /[^\s=+*&|^~,(<>-]*$/.exec(rest)?.[0] ?? '';
  // A name has minus signs in it where a command's name is meant, and so has that of a setting.
  const command = commandOf(text, commands);
  if (command === null) return [[], rest];
  return among(candidates(command, rest, commands, session), command.completes === 'commands' ? rest : word);
}

function firstOf(word: string, commands: CommandTable): string {
  const firsts = new Set(commands.names.map((each) => each.split(' ')[0] ?? each));
  if (firsts.has(word)) return word;
  if (word === 'i') return 'info';
  const found = [...firsts].filter((each) => each.startsWith(word));
  return found.length === 1 ? (found[0] ?? word) : word;
}

function commandOf(text: string, commands: CommandTable): Command | null {
  try {
    return commands.parse(text).command;
  } catch (error) {
    if (error instanceof CommandError) return null;
    throw error;
  }
}

function among(words: readonly string[], beginning: string): [string[], string] {
  return [[...new Set(words)].filter((word) => word.startsWith(beginning)), beginning];
}

function candidates(
  { completes, name }: Command,
  rest: string,
  commands: CommandTable,
  session: CompletionView,
): readonly string[] {
  if (typeof completes !== 'string') return completes;
  const kind: Completion = completes;
  switch (kind) {
    case 'none':
      return [];
    case 'expression':
      return [...expressionWords(session), ...(name === 'watch-pte' && /\s/.test(rest) ? LEVELS : [])];
    case 'place':
      return [...session.functions, ...session.symbols().map((symbol) => symbol.name), ...dollars(session)];
    case 'registers':
      return [
        ...session.registers().map((register) => register.name),
        'pc',
        'sp',
        'all',
        'general',
        'system',
        'other',
      ];
    case 'breakpoints':
      if (name === 'condition' && /\s/.test(rest)) return expressionWords(session);
      return session.breakpoints.map(({ id }) => String(id));
    case 'commands':
      return [...commands.names, ...Object.keys(GROUPS), 'all'];
    case 'events':
      return EVENTS;
    case 'arenas':
      return session.arenas().map((arena) => arena.name);
    case 'programs':
      return [...new Set(session.streams().map(({ program }) => program))];
    case 'settings':
      return [...SETTINGS, ...expressionWords(session)];
  }
}

function dollars(session: CompletionView): string[] {
  return [...session.registers().map((register) => `$${register.name}`), '$pc', '$sp'];
}

function expressionWords(session: CompletionView): string[] {
  const arenas = session.arenas().flatMap(({ name }) => MEMBERS.map((member) => `${name}.${member}`));
  const names = session.symbols().map((symbol) => symbol.name);
  return [...new Set([...names, ...arenas, ...dollars(session)])];
}

/** What an arena has in expressions. */
const MEMBERS = ['page(', 'upage(', 'kern', 'kern_vm', 'user', 'user_end', 'guard', 'end', 'scratch', 'map'];
