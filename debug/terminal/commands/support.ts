/** Commands about the debugger itself. */

import { type Command, type CommandTable, GROUPS, type Group, needed } from '../command.js';
import { CommandError } from '../command-error.js';
import { dim, hanging, type Line, line, name, strong, verbatim } from '../lines.js';

/** Commands that need to know all the others: `help` and `apropos`. */
export function support(table: () => CommandTable): readonly Command[] {
  return [
    {
      name: 'help',
      aliases: ['h'],
      group: 'support',
      usage: 'help [COMMAND | GROUP | all]',
      summary: 'What commands there are, and how one is used.',
      examples: ['help', 'help watch', 'help views'],
      completes: 'commands',
      repeats: false,
      run: ({ print }, argument) => print(helpLines(table(), argument)),
    },
    {
      name: 'apropos',
      aliases: [],
      group: 'support',
      usage: 'apropos WORD',
      summary: 'Commands that have a word in their help.',
      examples: ['apropos scratch'],
      completes: 'none',
      repeats: false,
      run: ({ print }, argument) => {
        const word = needed(argument, 'a word').toLowerCase();
        const found = table().all.filter((command) =>
          [command.name, command.summary, command.details ?? ''].some((text) =>
            text.toLowerCase().includes(word),
          ),
        );
        print(found.length === 0 ? [line(`No command speaks of ${argument}.`)] : found.map(summaryLine));
      },
    },
    {
      name: 'source',
      aliases: [],
      group: 'support',
      usage: 'source FILE',
      summary: 'Does the commands of a file; the first that goes wrong ends it.',
      examples: ['source steps.kf'],
      completes: 'none',
      repeats: false,
      run: (context, argument) => context.source(needed(argument, 'a file')),
    },
    {
      name: 'echo',
      aliases: [],
      group: 'support',
      usage: 'echo TEXT',
      summary: 'Prints a text, for scripts; \\n and \\t are a new line and a tab.',
      examples: ['echo before the fault'],
      completes: 'none',
      repeats: false,
      run: ({ print }, argument) => print(echoed(argument)),
    },
    {
      name: 'quit',
      aliases: ['q', 'exit'],
      group: 'support',
      usage: 'quit [STATUS]',
      summary: 'Ends the debugger, with an exit status (0 to 255) if one is given.',
      examples: ['quit', 'quit 1'],
      completes: 'none',
      repeats: false,
      run: (context, argument) => {
        if (argument !== '' && !(/^[0-9]{1,3}$/.test(argument) && Number(argument) < 256)) {
          throw new CommandError(`quit: ${argument} is not an exit status (0 to 255)`);
        }
        context.quit(Number(argument));
      },
    },
  ];
}

/** As gdb has it, but that the line ends by itself. */
function echoed(text: string): Line[] {
  const characters: Readonly<Record<string, string>> = { n: '\n', t: '\t' };
  return text
    .replace(/\\n$/, '')
    .replace(/\\(.)/g, (_, char: string) => characters[char] ?? char)
    .split('\n')
    .map((row) => verbatim(row));
}

function isGroup(word: string): word is Group {
  return word in GROUPS;
}

/** Lines of `help`. */
export function helpLines(table: CommandTable, argument: string): Line[] {
  if (argument === '') return overview(table);
  if (argument === 'all') {
    return Object.keys(GROUPS).flatMap((group) => (isGroup(group) ? groupLines(table, group) : []));
  }
  if (isGroup(argument)) return groupLines(table, argument);
  const subs = table.subcommands(argument);
  const own = table.all.find((command) => command.name === argument);
  if (subs.length > 0 && own === undefined) {
    return table.all.filter((command) => command.name.startsWith(`${argument} `)).map(summaryLine);
  }
  return commandLines(table.named(argument));
}

function overview(table: CommandTable): Line[] {
  const out: Line[] = [
    hanging(
      2,
      'To begin with: `catch fault` and `run` lead to the first fault, `step` through its path; `path` and `walk` show ' +
        'how it came and where it ends, `reverse-step` goes back.',
    ),
    line(''),
  ];
  for (const [group, title] of Object.entries(GROUPS)) {
    const names = table.all.filter((command) => command.group === group).map(shortName);
    out.push(line(strong(title), dim(`  (help ${group})`)), hanging(2, '  ', names.join(', ')));
  }
  out.push(
    line(''),
    hanging(
      0,
      'Names may be shortened as long as one command is meant, and those of gdb work. An empty line does the last command again. Tab completes. `help COMMAND` has examples.',
    ),
  );
  return out;
}

/** The name with the abbreviation that people use. */
function shortName({ name: full, aliases }: Command): string {
  const [short] = aliases.filter((alias) => !alias.includes(' ') && alias.length < full.length);
  return short === undefined ? full : `${full} (${short})`;
}

function groupLines(table: CommandTable, group: Group): Line[] {
  return [
    line(strong(GROUPS[group])),
    ...table.all.filter((command) => command.group === group).map(summaryLine),
  ];
}

function summaryLine(command: Command): Line {
  return hanging(4, '  ', name(shortName(command)), dim(' -- '), command.summary);
}

function commandLines(command: Command): Line[] {
  const { usage, summary, details, examples, aliases } = command;
  return [
    hanging(4, strong(usage)),
    hanging(2, '  ', summary),
    ...(details === undefined ? [] : [hanging(2, '  ', details)]),
    ...(aliases.length === 0 ? [] : [hanging(2, dim(`  Also: ${aliases.join(', ')}`))]),
    line(dim(examples.length === 1 ? '  Example:' : '  Examples:')),
    ...examples.map((example) => hanging(6, '    ', example)),
  ];
}
