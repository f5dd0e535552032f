/** Commands that show the machine and the kernel. */
import { hex, hex16 } from '../../../emu/address.js';
import type { AccessType, FaultEvent } from '../../../emu/events.js';
import { didYouMean } from '../../../vector/format/suggest.js';
import { type Command, type Context, noArgument } from '../command.js';
import { CommandError } from '../command-error.js';
import { dim, hanging, type Line, line, name, strong } from '../lines.js';
import { cutAtComma } from '../place.js';
import { arenaLines } from '../views/arena.js';
import { backtraceLines } from '../views/breakpoints.js';
import { disassemblyLines } from '../views/disassembly.js';
import { kfenceLines } from '../views/kfence.js';
import { layoutLines, vmaLines } from '../views/memory-map.js';
import { consoleView, streamLines } from '../views/output.js';
import { pathLines } from '../views/path.js';
import { sourceLines, stepLines } from '../views/steps.js';
import { entryLines, walkLines } from '../views/walk.js';
import { positionLines, stopLines } from '../views/where.js';

/** A view without arguments. */
function view(
  of: Pick<Command, 'name' | 'aliases' | 'summary' | 'examples'> & { readonly details?: string },
  lines: (context: Context) => readonly Line[],
): Command {
  return {
    ...of,
    group: 'views',
    usage: of.name,
    completes: 'none',
    repeats: false,
    run: (context, argument) => {
      noArgument(argument, of.name);
      context.print(lines(context));
    },
  };
}

/** The fault that is handled, or was last; null before the first. */
function lastFault({ session }: Context): FaultEvent | null {
  return session.path().fault ?? session.events.findLast((event) => event.type === 'fault') ?? null;
}

function faultAddress(context: Context): bigint | null {
  return lastFault(context)?.address ?? null;
}

/** Words for accesses, those of page-table flags as well. */
const ACCESSES: ReadonlyMap<string, AccessType> = new Map([
  ['read', 'read'],
  ['write', 'write'],
  ['fetch', 'fetch'],
  ['exec', 'fetch'],
  ['execute', 'fetch'],
]);

interface Wanted {
  readonly va: bigint;
  readonly access: AccessType;
  readonly user: boolean | undefined;
}

/** `ADDRESS [read|write|fetch] [user|kernel]`; without an address that of the fault, as it was made. */
function walkWanted(context: Context, argument: string): Wanted {
  let text = argument;
  let access: AccessType | null = null;
  let user: boolean | undefined;
  for (;;) {
    const word = /(?:^|\s)(\S+)$/.exec(text)?.[1]?.toLowerCase() ?? '';
    const meant = ACCESSES.get(word);
    const twice = (what: string): never => {
      throw new CommandError(`walk: ${what} is said twice: ${argument}`);
    };
    if (meant !== undefined) access = access === null ? meant : twice('the access');
    else if (word === 'user' || word === 'kernel')
      user = user === undefined ? word === 'user' : twice('who makes it');
    else break;
    text = text.slice(0, text.length - word.length).trimEnd();
  }
  if (text !== '') return { va: context.value(text).value, access: access ?? 'read', user };
  const fault = lastFault(context);
  if (fault === null)
    throw new CommandError('Argument required (an address): no fault has been handled yet.');
  return { va: fault.address, access: access ?? fault.access, user };
}

const WALK_USAGE = 'ADDRESS [read|write|fetch] [user|kernel]';

/** Lines that `list` shows at once. */
const LIST = 10;

function list(context: Context, argument: string): void {
  const { session, state } = context;
  const step =
    session.currentStep() ?? session.fixtureSteps().find(({ state: s }) => s === 'waiting') ?? null;
  const mark = step?.line ?? null;
  const total = session.fixture.source.lines.length;
  let from: number;
  let count = LIST;
  const range = /^([0-9]{1,6})\s*,\s*([0-9]{1,6})$/.exec(argument);
  if (argument === '-') from = Math.max(1, (state.listed ?? LIST + 1) - 2 * LIST);
  else if (/^[0-9]{1,6}$/.test(argument)) from = Number(argument) - LIST / 2;
  else if (range !== null) {
    from = Number(range[1]);
    count = Number(range[2]) - from + 1;
    if (count < 1) throw new CommandError(`list: line ${range[2]} lies in front of line ${from}`);
  } else if (argument === '') from = state.listed ?? (mark ?? 1) - 2;
  else throw new CommandError(`list: ${argument} is not the number of a line`);
  from = Math.max(1, from);
  if (from > total)
    throw new CommandError(
      `Line number ${from} out of range; "${session.fixture.source.file}" has ${total} lines.`,
    );
  context.print(sourceLines(session.fixture, from, count, mark));
  state.listed = from + count;
  context.repeatAs('list');
}

function disassemble(context: Context, argument: string, format: string): void {
  const { session, state } = context;
  const bytes = format === 'r';
  if (format !== '' && !bytes)
    throw new CommandError(`disassemble/${format}: r (with bytes) is the only format`);
  const print = (address: bigint, count: number, before: number): void => {
    const found = session.disassemble(address, count, before);
    if (found.length === 0) throw new CommandError(`Cannot access memory at address ${hex(address)}`);
    const last = found.at(-1);
    state.disassembled = last === undefined ? null : last.address + BigInt(last.bytes.length);
    context.print(disassemblyLines(found, { columns: context.columns, bytes }));
    context.repeatAs('disassemble next');
  };
  if (argument === 'next' && state.disassembled !== null) {
    print(state.disassembled, 10, 0);
  } else if (argument === '') {
    const symbol = session
      .symbols()
      .findLast(
        ({ kind, start, size }) =>
          kind === 'code' && session.pc >= start && session.pc < start + BigInt(size),
      );
    const { place } = session.position;
    if (place !== 'code' && place !== 'path')
      throw new CommandError('No code runs here: say what, as in disassemble FUNCTION.');
    // A long function is shown around pc.
    if (symbol === undefined || symbol.size > 160) print(session.pc, 8, 6);
    else wholeFunction(context, symbol, bytes);
  } else {
    const cut = cutAtComma(argument);
    if (cut !== null) {
      const start = context.value(cut[0]).value;
      const to = cut[1].startsWith('+')
        ? start + context.value(cut[1].slice(1)).value
        : context.value(cut[1]).value;
      if (to <= start || to - start > 0x10000n)
        throw new CommandError('disassemble START,END: END lies behind START, at most 64 KiB');
      range(context, start, to, bytes);
      return;
    }
    const address = context.value(argument.replace(/^\*/, '')).value;
    const symbol = session.symbols().find(({ kind, start }) => kind === 'code' && start === address);
    if (symbol === undefined || symbol.size === 0) print(address, 10, 0);
    else wholeFunction(context, symbol, bytes);
  }
}

function wholeFunction(
  context: Context,
  { start, size }: { start: bigint; size: number },
  bytes: boolean,
): void {
  range(context, start, start + BigInt(Math.min(size, 0x10000)), bytes);
}

function range(context: Context, start: bigint, end: bigint, bytes: boolean): void {
  // An instruction has at least one byte.
  const found = context.session
    .disassemble(start, Math.min(Number(end - start), 4096))
    .filter(({ address }) => address < end);
  if (found.length === 0) throw new CommandError(`Cannot access memory at address ${hex(start)}`);
  context.print(disassemblyLines(found, { columns: context.columns, bytes }));
}

export const views: readonly Command[] = [
  {
    name: 'backtrace',
    aliases: ['bt', 'where', 'info stack'],
    group: 'views',
    usage: 'backtrace [N]',
    summary:
      'The call stack: functions of the path, then code. N frames, the outermost ones when it is negative.',
    examples: ['backtrace', 'bt 3', 'bt -2'],
    completes: 'none',
    repeats: false,
    run: ({ session, print }, argument) => {
      if (argument !== '' && !/^-?[1-9][0-9]{0,5}$/.test(argument))
        throw new CommandError(`backtrace: ${argument} is not a number of frames`);
      print(backtraceLines(session.callStack(), argument === '' ? null : Number(argument)));
    },
  },
  view(
    {
      name: 'frame',
      aliases: ['f'],
      summary: 'Where it stands, and why: the last stop once more.',
      examples: ['frame'],
    },
    ({ session }) => stopLines(session.stop, session),
  ),
  view(
    {
      name: 'info program',
      aliases: [],
      summary: 'How far the run has come: tick, instructions, CPU, task, step of the fixture.',
      examples: ['info program'],
    },
    ({ session }) => positionLines(session.position, session.task, session.cpus, session.currentStep()),
  ),
  {
    name: 'path',
    aliases: [],
    group: 'views',
    usage: 'path [brief]',
    summary:
      'The path of the fault as a tree of calls and decisions, => where it stands; of the last one when it is over.',
    details: 'brief: calls that have returned are one line each.',
    examples: ['path', 'path brief'],
    completes: ['brief'],
    repeats: false,
    run: (context, argument) => {
      if (argument !== '' && argument !== 'brief')
        throw new CommandError(`path: ${argument} means nothing here (brief does)`);
      const { session, columns } = context;
      const nameOf = (address: bigint): string | null => session.nameOf(address);
      context.print(pathLines(session.path(), { brief: argument === 'brief', columns, nameOf }));
    },
  },
  {
    name: 'walk',
    aliases: [],
    group: 'views',
    usage: `walk [${WALK_USAGE}]`,
    summary: 'The walk of an address through the page tables as hardware would make it now, level by level.',
    details:
      'Without an address: the walk of the fault, or of the last one. A read, with the rights that the code has, unless told.',
    examples: ['walk', 'walk a.page(3) write', 'walk 0x7f7d26203000 read user'],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const { va, access, user } = walkWanted(context, argument);
      const { session } = context;
      context.print(walkLines(session.walk(va, access, user), session.arch, (at) => session.nameOf(at)));
    },
  },
  {
    name: 'pte',
    aliases: [],
    group: 'views',
    usage: 'pte [ADDRESS]',
    summary: 'The entry at which the walk of an address ends; without an address: of the fault’s.',
    examples: ['pte a.page(3)'],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const { va } = walkWanted(context, argument);
      context.print(entryLines(context.session.walk(va, 'read'), (at) => context.session.nameOf(at)));
    },
  },
  {
    name: 'disassemble',
    aliases: ['disas'],
    group: 'views',
    usage: 'disassemble[/r] [FUNCTION | ADDRESS | START,END | START,+LENGTH]',
    summary: 'Instructions: the function at pc, or what is asked for. => is the next one, B a breakpoint.',
    details:
      'The BPF instruction that code was compiled from stands above it. /r: with bytes, also where there is little room.',
    examples: ['disassemble', 'disas write_cmask', 'disas $pc,+32'],
    completes: 'expression',
    repeats: false,
    format: true,
    run: disassemble,
  },
  {
    name: 'vmas',
    aliases: [],
    group: 'views',
    usage: 'vmas [ADDRESS]',
    summary:
      'The mappings of the task, as /proc/PID/maps has them; => is around the address, or the fault’s.',
    examples: ['vmas', 'vmas 0x7f7d26203000'],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const mark = argument === '' ? faultAddress(context) : context.value(argument).value;
      context.print(vmaLines(context.session.vmas(), mark));
    },
  },
  {
    name: 'layout',
    aliases: [],
    group: 'views',
    usage: 'layout [ADDRESS]',
    summary: 'The address space by ranges; => is around the address, or the fault’s.',
    examples: ['layout', 'layout $sp'],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const mark = argument === '' ? faultAddress(context) : context.value(argument).value;
      context.print(layoutLines(context.session.kernelLayout(), mark));
    },
  },
  {
    name: 'arena',
    aliases: [],
    group: 'views',
    usage: 'arena [NAME]',
    summary: 'Pages of arenas: free, allocated, scratch, reserved, deferred (freed, but not yet).',
    examples: ['arena', 'arena a'],
    completes: 'arenas',
    repeats: false,
    run: ({ session, columns, print }, argument) => {
      const all = session.arenas();
      const wanted = argument === '' ? all : all.filter((arena) => arena.name === argument);
      if (argument !== '' && wanted.length === 0) {
        throw new CommandError(
          `there is no arena \`${argument}\`${didYouMean(
            argument,
            all.map((arena) => arena.name),
          )}`,
        );
      }
      print(arenaLines(wanted, columns));
    },
  },
  {
    name: 'kfence',
    aliases: [],
    group: 'views',
    usage: 'kfence [all]',
    summary: 'The pool of KFENCE, and its objects that are or were in use (all: all).',
    examples: ['kfence', 'kfence all'],
    completes: ['all'],
    repeats: false,
    run: ({ session, print }, argument) => {
      if (argument !== '' && argument !== 'all')
        throw new CommandError(`kfence: ${argument} means nothing here (all does)`);
      print(kfenceLines(session.kfence(), argument === 'all'));
    },
  },
  {
    name: 'console',
    aliases: ['dmesg'],
    group: 'views',
    usage: 'console [N]',
    summary: 'The kernel log so far, or its last N lines.',
    examples: ['console', 'console 5'],
    completes: 'none',
    repeats: false,
    run: ({ session, print }, argument) => {
      if (argument !== '' && !/^[1-9][0-9]{0,6}$/.test(argument))
        throw new CommandError(`console: ${argument} is not a number of lines`);
      print(consoleView(session.consoleLines(), argument === '' ? null : Number(argument)));
    },
  },
  {
    name: 'streams',
    aliases: [],
    group: 'views',
    usage: 'streams [PROGRAM]',
    summary: 'What stands in the streams of BPF programs.',
    examples: ['streams', 'streams set_cmask'],
    completes: 'programs',
    repeats: false,
    run: ({ session, print }, argument) => {
      const all = session.streams();
      if (argument !== '' && !all.some(({ program }) => program === argument)) {
        throw new CommandError(
          `there is no program \`${argument}\`${didYouMean(
            argument,
            all.map(({ program }) => program),
          )}`,
        );
      }
      print(streamLines(all, argument === '' ? null : argument));
    },
  },
  view(
    {
      name: 'fixture',
      aliases: [],
      summary: 'The steps of the fixture: done, under way, waiting; with what did not come as expected.',
      examples: ['fixture'],
    },
    ({ session }) => stepLines(session.fixture, session.fixtureSteps()),
  ),
  {
    name: 'list',
    aliases: ['l'],
    group: 'views',
    usage: 'list [LINE | FIRST,LAST | -]',
    summary: 'The text of the fixture: around its current step, around a line, or further on.',
    examples: ['list', 'list 20', 'list 1,30', 'list -'],
    completes: 'none',
    repeats: true,
    run: list,
  },
  {
    name: 'cpu',
    aliases: ['info threads'],
    group: 'views',
    usage: 'cpu [N]',
    summary:
      'The CPUs and where each stands; or chooses the one whose registers are shown, until the next move.',
    examples: ['cpu', 'cpu 1'],
    completes: 'none',
    repeats: false,
    run: (context, argument) => {
      const { session } = context;
      if (argument !== '') {
        if (!/^[0-9]$/.test(argument) || Number(argument) >= session.cpus) {
          throw new CommandError(`there is no CPU ${argument}: the machine has ${session.cpus}, from 0`);
        }
        context.cpu = Number(argument);
      }
      const lines = Array.from({ length: session.cpus }, (_, cpu) => {
        const pc = session.register('pc', cpu);
        const mark = cpu === context.cpu ? '* ' : '  ';
        const runs = cpu === session.cpu ? dim('  runs') : '';
        return hanging(4, mark, `CPU ${cpu}  `, hex16(pc), '  ', name(session.nameOf(pc) ?? ''), runs);
      });
      context.print(lines);
    },
  },
  {
    name: 'info functions',
    aliases: [],
    group: 'views',
    usage: 'info functions [REGEXP]',
    summary: 'Functions to break at: those of the kernel that are ported, and code that is in memory.',
    examples: ['info functions', 'info functions arena'],
    completes: 'none',
    repeats: false,
    run: ({ session, print }, argument) => {
      const matches = pattern(argument);
      const ported = session.functions.filter(matches);
      const code = session.symbols().filter(({ kind, name: symbol }) => kind === 'code' && matches(symbol));
      print([line(strong('Ported functions of the kernel:')), ...ported.map((fn) => line(`  ${fn}`))]);
      print([
        line(strong('Code:')),
        ...code.map(({ start, name: symbol }) => line(`  ${hex16(start)}  `, symbol)),
      ]);
    },
  },
  {
    name: 'info variables',
    aliases: [],
    group: 'views',
    usage: 'info variables [REGEXP]',
    summary: 'Symbols of data, and labels.',
    examples: ['info variables', 'info variables store'],
    completes: 'none',
    repeats: false,
    run: ({ session, print }, argument) => {
      const matches = pattern(argument);
      const found = session.symbols().filter(({ kind, name: symbol }) => kind !== 'code' && matches(symbol));
      if (found.length === 0) print([line('There are none.')]);
      print(
        found.map(({ start, name: symbol, kind }) =>
          line(`  ${hex16(start)}  `, symbol, kind === 'label' ? dim('  label') : ''),
        ),
      );
    },
  },
];

function pattern(text: string): (name: string) => boolean {
  if (text === '') return () => true;
  try {
    const regexp = new RegExp(text);
    return (name) => regexp.test(name);
  } catch (error) {
    throw new CommandError(error instanceof Error ? error.message : String(error));
  }
}
