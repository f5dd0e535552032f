/** `monitor` commands: what gdb has no command for. Answers are text for people, with a line end behind each line. */
import { hex } from '../../emu/address.js';
import type { AccessType } from '../../emu/events.js';
import type { DebugSession, PathSteps } from '../api.js';
import type { BreakpointSpec } from '../breakpoints.js';
import { SessionError } from '../session-error.js';
import { namedAddress } from '../stop.js';
import type { PathCall } from '../views.js';
import type { FaultStops, PathStepping, RunControl } from './run-control.js';

interface Command {
  readonly name: string;
  readonly args: string;
  readonly help: string;
  run(args: string, target: MonitorTarget): readonly string[];
}

export interface MonitorTarget {
  readonly session: DebugSession;
  readonly control: RunControl;
}

/** The most bytes that `phys` shows. */
const PHYSICAL_MAX = 4096;

const COMMANDS: readonly Command[] = [
  {
    name: 'walk',
    args: 'ADDRESS [read|write|fetch] [user|kernel]',
    help: 'the walk of an address through the page tables, level by level',
    run: (args, { session }) => {
      const { place, words } = placeAndWords(args, /^(read|write|fetch|user|kernel)$/);
      const access = words.find((word): word is AccessType => /^(read|write|fetch)$/.test(word));
      const who = words.find((word) => word === 'user' || word === 'kernel');
      const user = who === undefined ? undefined : who === 'user';
      const view = session.walk(session.evaluate(need(place, 'an address')), access ?? 'read', user);
      return [`${hex(view.va)}:`, ...view.lines, ...(view.owner === null ? [] : [`frame: ${view.owner}`])];
    },
  },
  {
    name: 'map',
    args: '',
    help: "the address space: the user's mappings, and the kernel's ranges",
    run: (_args, { session }) => [
      ...session
        .vmas()
        .map(({ start, end, flags, what }) => `${range(start, end)} ${flags} ${what}`.trimEnd()),
      ...session.kernelLayout().map(({ start, end, name }) => `${range(start, end)} ${name}`),
    ],
  },
  {
    name: 'path',
    args: '',
    help: 'the way through the kernel: of the fault that is handled, or of the last one',
    run: (_args, { session }) => {
      const { fault, calls, over } = session.path();
      if (calls.length === 0) return ['no path: nothing has faulted yet'];
      const head =
        fault === null
          ? []
          : [`${fault.exception}: ${fault.access} of ${hex(fault.address)} at ${hex(fault.pc)}`];
      return [...head, ...calls.flatMap((call) => callLines(call, 1)), ...(over ? ['(it is over)'] : [])];
    },
  },
  {
    name: 'arena',
    args: '',
    help: 'arenas and the state of their pages',
    run: (_args, { session }) =>
      orNone(
        session
          .arenas()
          .flatMap(({ name, kernel, user, pages, ranges }) => [
            `${name}: ${pages} pages, kernel ${hex(kernel)}, user ${hex(user)}`,
            ...ranges.map(
              ({ first, last, state }) => `  ${first === last ? first : `${first}-${last}`} ${state}`,
            ),
          ]),
        'there is no arena',
      ),
  },
  {
    name: 'kfence',
    args: '',
    help: 'the KFENCE pool and its objects',
    run: (_args, { session }) => {
      const pool = session.kfence();
      if (pool === null) return ['this machine has no KFENCE'];
      const used = pool.objects.filter(({ state }) => state !== 'unused');
      return [
        `pool ${range(pool.start, pool.end)}${pool.enabled ? '' : ', disabled'}: ${pool.objects.length} objects, ${used.length} used`,
        ...used.map(
          (object) =>
            `  ${object.slot}: ${object.state} ${hex(object.address)} ${object.size} bytes` +
            `${object.cache === null ? '' : ` ${object.cache}`}${object.protected ? ', protected' : ''}`,
        ),
      ];
    },
  },
  {
    name: 'console',
    args: '',
    help: 'the kernel log',
    run: (_args, { session }) => orNone(session.consoleLines(), 'nothing was printed'),
  },
  {
    name: 'stream',
    args: '',
    help: 'what programs have in their streams',
    run: (_args, { session }) =>
      orNone(
        session
          .streams()
          .filter(({ text }) => text !== '')
          .flatMap(({ program, stream, text }) => [`${program} ${stream}:`, ...textLines(text)]),
        'all streams are empty',
      ),
  },
  {
    name: 'stack',
    args: '',
    help: "the stack with the kernel's functions on top, which have no frames for bt",
    run: (_args, { session }) =>
      orNone(
        session
          .callStack()
          .map(({ level, pc, name }) => `#${level} ${pc === null ? name : `${hex(pc)} ${name}`}`),
        'nothing runs',
      ),
  },
  {
    name: 'registers',
    args: '[system|general|other]',
    help: 'registers of a group, or all; gdb on x86-64 cannot show the group system',
    run: (args, { session }) => {
      const group = args === '' ? null : oneOf(args, ['system', 'general', 'other']);
      const wanted = session.registers().filter((each) => group === null || each.group === group);
      return wanted.map(
        ({ name, value, symbol }) =>
          `${name.padEnd(16)}${hex(value)}${symbol === null ? '' : ` <${symbol}>`}`,
      );
    },
  },
  {
    name: 'print',
    args: 'EXPRESSION',
    help: 'the value of an expression as fixtures write them: a.page(3) + 0x10, write_cmask.store',
    run: (args, { session }) => {
      const value = session.evaluate(need(args, 'an expression'));
      return [namedAddress(value, (address) => session.nameOf(address))];
    },
  },
  {
    name: 'phys',
    args: 'ADDRESS [LENGTH]',
    help: 'bytes of physical memory',
    run: (args, { session }) => {
      const [first, second, rest] = args.split(/\s+/);
      if (rest !== undefined) throw new SessionError('an address and a length, without spaces in them');
      const from = session.evaluate(need(first, 'a physical address'));
      const length = second === undefined ? 64n : session.evaluate(second);
      if (length < 1n || length > BigInt(PHYSICAL_MAX)) {
        throw new SessionError(`a length is 1 to ${PHYSICAL_MAX}`);
      }
      const bytes = from < 2n ** 48n ? session.readPhysical(Number(from), Number(length)) : null;
      const { base, size } = session.ram;
      if (bytes === null) throw new SessionError(`ram is ${range(BigInt(base), BigInt(base + size))}`);
      return dump(from, bytes);
    },
  },
  {
    name: 'info',
    args: '',
    help: 'where the run stands',
    run: (_args, { session }) => {
      const { tick, instructions, place, cpu } = session.position;
      const step = session.currentStep();
      const { comm, pid, mode } = session.task;
      return [
        `${session.fixture.data.name}`,
        `tick ${tick}, ${instructions} instructions, ${place}, CPU ${cpu} of ${session.cpus}, ${mode}, ${comm} (${pid})`,
        ...(step === null ? [] : [`${step.where}: ${step.text} (line ${step.line})`]),
        ...textLines(session.stop.text),
      ];
    },
  },
  {
    name: 'break',
    args: 'FUNCTION|SYMBOL|fault|kfence|scratch|oops|console TEXT|step [N]|entry ADDRESS',
    help: "stop where gdb cannot: in a function of the kernel's fault path, at an event; without one: list them",
    run: (args, { session, control }) => {
      if (args === '') {
        const own = session.breakpoints.filter(
          ({ id }) => id !== control.faultBreakpoint && !control.isPlaced(id),
        );
        return orNone(
          own.map(({ id, text, hits }) => `${id}: ${text}, hit ${hits} times`),
          'there are none',
        );
      }
      const { id, text } = session.addBreakpoint(specOf(args, session));
      return [`${id}: ${text}`];
    },
  },
  {
    name: 'delete',
    args: 'NUMBER',
    help: 'delete what `monitor break` has set',
    run: (args, { session, control }) => {
      const id = numberOf(args);
      if (id === control.faultBreakpoint || control.isPlaced(id)) {
        throw new SessionError('monitor delete is for the numbers of monitor break');
      }
      session.removeBreakpoint(id);
      return [];
    },
  },
  {
    name: 'faults',
    args: '[all|unrecovered|none]',
    help: 'which faults stop with SIGSEGV',
    run: (args, { control }) => {
      if (args !== '') control.faultStops = oneOf<FaultStops>(args, ['all', 'unrecovered', 'none']);
      return [`faults: ${control.faultStops}`];
    },
  },
  {
    name: 'stepping',
    args: '[off|decisions|all]',
    help: "what stepi and reverse-stepi step through while a fault is handled: the kernel's decisions, or its calls, too",
    run: (args, { control }) => {
      if (args !== '')
        control.pathStepping = oneOf<PathStepping & (PathSteps | 'off')>(args, ['off', 'decisions', 'all']);
      return [`stepping: ${control.pathStepping}`];
    },
  },
];

/** Runs a command line; says what is wrong with one that cannot be run. */
export function monitor(line: string, target: MonitorTarget): string {
  const trimmed = line.trim();
  const [word = ''] = trimmed.split(/\s+/, 1);
  const args = trimmed.slice(word.length).trim();
  return `${linesOf(word, args, target).join('\n')}\n`;
}

function linesOf(word: string, args: string, target: MonitorTarget): readonly string[] {
  if (word === '' || word === 'help') return helpLines();
  const exact = COMMANDS.find(({ name }) => name === word);
  const starting = COMMANDS.filter(({ name }) => name.startsWith(word));
  const command = exact ?? (starting.length === 1 ? starting[0] : undefined);
  if (command === undefined) {
    const why =
      starting.length > 1 ? `is one of ${starting.map(({ name }) => name).join(', ')}` : 'is no command';
    return [`${word} ${why}: monitor help lists them`];
  }
  try {
    const lines = command.run(args, target);
    return lines.length === 0 ? ['done'] : lines;
  } catch (error) {
    if (error instanceof SessionError) return [error.message];
    throw error;
  }
}

function helpLines(): string[] {
  return COMMANDS.flatMap(({ name, args, help }) => [`monitor ${name} ${args}`.trimEnd(), `    ${help}`]);
}

function specOf(args: string, session: DebugSession): BreakpointSpec {
  const [word = ''] = args.split(/\s+/, 1);
  const rest = args.slice(word.length).trim();
  switch (word) {
    case 'fault':
      return { kind: 'fault', exception: rest === '' ? null : rest };
    case 'kfence':
    case 'scratch':
    case 'oops':
      return { kind: word };
    case 'console':
      return { kind: 'console', text: rest };
    case 'step':
      return { kind: 'fixture-step', number: rest === '' ? null : numberOf(rest) };
    case 'entry':
      return { kind: 'entry', va: session.evaluate(need(rest, 'an address')), level: null };
    default:
      return session.breakpointAt(args);
  }
}

/** Words at the end that match are options; the rest is an expression, spaces and all. */
function placeAndWords(args: string, option: RegExp): { place: string; words: string[] } {
  const parts = args.split(/\s+/);
  const words: string[] = [];
  while (parts.length > 0 && option.test(parts.at(-1) ?? '')) words.push(parts.pop() ?? '');
  return { place: parts.join(' '), words };
}

function need(text: string | undefined, what: string): string {
  if (text === undefined || text === '') throw new SessionError(`${what} is needed`);
  return text;
}

function numberOf(text: string): number {
  if (!/^\d{1,9}$/.test(need(text, 'a number'))) throw new SessionError(`${text} is no number`);
  return Number(text);
}

function oneOf<T extends string>(word: string, known: readonly T[]): T {
  const found = known.find((each) => each === word);
  if (found === undefined) throw new SessionError(`${word} is none of ${known.join(', ')}`);
  return found;
}

function orNone(lines: readonly string[], none: string): readonly string[] {
  return lines.length === 0 ? [none] : lines;
}

function range(start: bigint, end: bigint): string {
  return `${hex(start)}-${hex(end)}`;
}

function textLines(text: string): string[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

function callLines({ fn, args, items, open, result }: PathCall, depth: number): string[] {
  const indent = '  '.repeat(depth);
  const shown = args.map(({ name, value }) => `${name}=${value}`).join(', ');
  const end = open ? [] : result === null ? [] : [`${indent}  returns ${result}`];
  return [
    `${indent}${fn}(${shown})`,
    ...items.flatMap((item) =>
      item.kind === 'call' ? callLines(item, depth + 1) : [`${indent}  ${item.test}: ${item.value}`],
    ),
    ...end,
  ];
}

function dump(from: bigint, bytes: Uint8Array): string[] {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const line = Buffer.from(bytes.subarray(at, at + 16)).toString('hex');
    lines.push(`${hex(from + BigInt(at))}: ${line.replace(/..(?=.)/g, '$& ')}`);
  }
  return lines;
}
