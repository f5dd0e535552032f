/** Commands for registers and memory. */
import { hex } from '../../../emu/address.js';
import { didYouMean } from '../../../vector/format/suggest.js';
import { type Command, type Context, needed, noArgument, numbersOf } from '../command.js';
import { CommandError } from '../command-error.js';
import { bytesOf, COUNT_MAX, parseFormat, valueAs } from '../format.js';
import { addressAndLevel } from '../levels.js';
import { dim, hanging, line, textLines } from '../lines.js';
import { examine } from '../memory.js';
import { parsePlace } from '../place.js';
import { registerLines } from '../views/registers.js';

/** `$1 = 0x4141`, or without a format also what has this address and small negative numbers. */
export function printedValue(context: Context, text: string, format: string): string {
  const { letter, size, count } = parseFormat(format);
  if (count !== null) throw new CommandError('print shows one value: x is for several of memory');
  if (letter === 'i' || letter === 's') {
    const what = letter === 'i' ? 'instructions' : 'strings';
    throw new CommandError(`/${letter} means nothing for a value: x/${letter} shows ${what} in memory`);
  }
  if (/(?<![=<>!])=(?!=)/.test(text)) throw new CommandError('print changes nothing: set var is for that');
  const of = context.value(text);
  const nameOf = (address: bigint): string | null => context.session.nameOf(address);
  if (letter !== null) return valueAs(of.value, letter, size ?? of.size, nameOf);
  const signed = BigInt.asIntN(64, of.value);
  if (signed < 0n && signed > -4096n) return `${hex(of.value)} (${signed})`;
  return valueAs(of.value, 'a', 8, nameOf);
}

export const SETTINGS = ['var', 'pte', 'phys', 'width'] as const;
/** gdb's, in many scripts: there is neither paging nor asking here. */
const IGNORED =
  /^(pagination|confirm|height|verbose|logging|print|disassembly-flavor|style|trace-commands)\b/;

async function set(context: Context, argument: string): Promise<void> {
  const text = needed(argument, '$REGISTER = VALUE, *(u64 *)ADDRESS = VALUE, pte ADDRESS = VALUE, width N');
  if (IGNORED.test(text)) return;
  const width = /^width(?:\s+(\S+))?$/.exec(text);
  if (width !== null) {
    setWidth(context, width[1] ?? '');
    return;
  }
  const cut = /^(.*?)\s*(?<![=<>!])=(?!=)\s*(.*)$/s.exec(text);
  if (cut === null && /^[a-z][\w-]*(\s+[\w-]+)*$/.test(text) && !/^(var|variable|pte|phys)\b/.test(text)) {
    throw new CommandError(
      `there is no setting \`${text}\`: width is the only one; $REGISTER = VALUE and others change the machine (help set)`,
    );
  }
  if (cut === null) {
    throw new CommandError(`set: a value is missing, as in set ${/^[$*{]/.test(text) ? text : '$pc'} = 0`);
  }
  const value = context.value(needed(cut[2] ?? '', 'a value')).value;
  const { session } = context;
  const target = (cut[1] ?? '').replace(/^(var|variable)\s+/, '').trim();
  const words = /^(pte|phys)\s+(.*)$/s.exec(target);
  if (words?.[1] === 'pte') {
    const [address, level] = addressAndLevel(words[2] ?? '');
    context.print(textLines(session.writeEntry(context.value(address).value, level, value).text));
    return;
  }
  if (/^\$[A-Za-z_]\w*$/.test(target)) {
    context.print(textLines(session.writeRegister(target.slice(1), value, context.cpu).text));
    return;
  }
  const place = parsePlace(words?.[2] ?? target);
  const size = place.size ?? (words?.[1] === 'phys' ? 8 : null);
  if (size === null) {
    throw new CommandError(
      `${target === '' ? 'nothing' : target} cannot be set: a register ($${session.arch === 'arm64' ? 'x0' : 'rax'}), memory (*(u64 *)ADDRESS) or pte ADDRESS can`,
    );
  }
  const address = context.value(place.address).value;
  const bytes = bytesOf(value, size);
  if (
    BigInt.asUintN(size * 8, value) !== value &&
    BigInt.asIntN(size * 8, BigInt.asIntN(64, value)) !== BigInt.asIntN(64, value)
  ) {
    throw new CommandError(`${hex(value)} does not fit ${size} ${size === 1 ? 'byte' : 'bytes'}`);
  }
  const changed =
    words?.[1] === 'phys'
      ? session.writePhysical(Number(address), bytes)
      : session.writeMemory(address, bytes);
  context.print(textLines(changed.text));
}

function setWidth(context: Context, text: string): void {
  if (text === '0' || text === 'unlimited') context.state.width = Number.POSITIVE_INFINITY;
  else if (/^[0-9]{2,4}$/.test(text)) context.state.width = Number(text);
  else throw new CommandError('set width: columns from 10 to 9999, or 0 for lines of any length');
}

function registersOf(context: Context, argument: string): ReturnType<typeof registerLines> {
  const all = context.session.registers(context.cpu);
  if (argument === 'all') return registerLines(all);
  if (argument === '') return registerLines(all.filter(({ group }) => group === 'general'));
  if (argument === 'general' || argument === 'system' || argument === 'other') {
    return registerLines(all.filter(({ group }) => group === argument));
  }
  const names = argument.split(/[\s,]+/).map((word) => realName(context, word.replace(/^\$/, '')));
  return registerLines(
    names.map((name) => {
      const found = all.find((register) => register.name === name);
      if (found === undefined) {
        throw new CommandError(
          `Invalid register \`${name}\`${didYouMean(
            name,
            all.map((register) => register.name),
          )}`,
        );
      }
      return found;
    }),
  );
}

/** pc and sp are names on both architectures, and so are gdb's. */
function realName({ session }: Context, word: string): string {
  const lower = word.toLowerCase();
  if (session.arch === 'arm64') return lower === 'cpsr' ? 'pstate' : lower;
  return { pc: 'rip', sp: 'rsp', fp: 'rbp', eflags: 'rflags' }[lower] ?? lower;
}

/** Shows what `display` has been told to. */
export function showDisplay(context: Context, display: Context['state']['displays'][number]): void {
  const { id, format, expression } = display;
  const { letter, count } = parseFormat(format);
  const head = `${id}: ${format === '' ? '' : `/${format} `}${expression}`;
  if (letter === 'i' || letter === 's' || count !== null) {
    context.print([line(head)]);
    context.print(examine(context, expression, format, false).lines);
  } else {
    context.print([hanging(4, `${head} = ${printedValue(context, expression, format)}`)]);
  }
}

function examineCommand(name: string, physical: boolean): Command {
  const kind = physical ? 'physical' : 'virtual';
  return {
    name,
    aliases: [],
    group: 'data',
    usage: `${name}/NFU ADDRESS`,
    summary: `Shows memory at a ${kind} address, whatever the rights.`,
    details:
      `N units (1 to ${COUNT_MAX}), F the form: x d u o t(binary) z(padded) c a(address) s(string) i(instructions), U the ` +
      'size: b h w g. What is left out stays as it was; without an address it goes on behind what was shown last.',
    examples: physical ? ['xp/4xg 0x1402000'] : ['x/4xg a.page(3)', 'x/3i $pc', 'x/s name'],
    completes: 'expression',
    repeats: true,
    format: true,
    run: (context, argument, format) => {
      const { lines, problem } = examine(context, argument, format, physical);
      context.print(lines);
      // As in gdb: so many once more.
      const { count } = parseFormat(format);
      context.repeatAs(count === null ? name : `${name}/${count}`);
      if (problem !== null) throw new CommandError(problem);
    },
  };
}

export const data: readonly Command[] = [
  {
    name: 'print',
    aliases: ['p', 'inspect'],
    group: 'data',
    usage: 'print[/F] EXPRESSION',
    summary: 'The value of an expression, as fixtures write them, with $registers and `*(u64 *)ADDRESS`.',
    details: '$ is the value before, $1 the first one. Forms as of x: /x /d /u /o /t /z /c /a.',
    examples: ['print $rax', 'p/d *(u32 *)counter', 'p a.page(3) + 0x10', 'p $1 - 8'],
    completes: 'expression',
    repeats: true,
    format: true,
    run: (context, argument, format) => {
      const text = needed(argument, 'an expression');
      const shown = printedValue(context, text, format);
      const number = context.remember(context.value(text).value);
      context.print([hanging(4, `$${number} = ${shown}`)]);
    },
  },
  examineCommand('x', false),
  examineCommand('xp', true),
  {
    name: 'set',
    aliases: [],
    group: 'data',
    usage: 'set [var] $REGISTER = VALUE | *(TYPE *)ADDRESS = VALUE | pte ADDRESS [LEVEL] = VALUE',
    summary: 'Changes a register, memory, or a page-table entry; the run goes on from there.',
    details:
      'Types: u8 u16 u32 u64. phys ADDRESS or phys *(u32 *)ADDRESS is physical memory. In a path, registers are those that the exception has ' +
      'saved. A change stays where it was made: going back in front of it undoes it, going on makes it again; a change that ' +
      'is made earlier in the run drops the later ones. `set width N` is for the screen.',
    examples: [
      'set $rdi = a.page(4)',
      'set var *(u32 *)counter = 7',
      'set pte a.page(3) = 0',
      'set width 60',
    ],
    completes: 'settings',
    repeats: false,
    run: set,
  },
  {
    name: 'info registers',
    aliases: ['info r'],
    group: 'data',
    usage: 'info registers [NAME… | general | system | other | all]',
    summary: 'Registers; * marks those that have changed since the stop before.',
    examples: ['info registers', 'i r rdi rsp', 'i r system'],
    completes: 'registers',
    repeats: false,
    run: (context, argument) => context.print(registersOf(context, argument)),
  },
  {
    name: 'info all-registers',
    aliases: [],
    group: 'data',
    usage: 'info all-registers',
    summary: 'All registers of the CPU.',
    examples: ['info all-registers'],
    completes: 'none',
    repeats: false,
    run: (context, argument) => {
      noArgument(argument, 'info all-registers');
      context.print(registersOf(context, 'all'));
    },
  },
  {
    name: 'info symbol',
    aliases: [],
    group: 'data',
    usage: 'info symbol ADDRESS',
    summary: 'What stands at an address: a function, data, a page of an arena.',
    examples: ['info symbol $pc', 'info symbol 0xffffffff81000004'],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const text = needed(argument, 'an address');
      const name = context.session.nameOf(context.value(text).value);
      context.print([line(name ?? `No symbol matches ${text}.`)]);
    },
  },
  {
    name: 'info address',
    aliases: [],
    group: 'data',
    usage: 'info address SYMBOL',
    summary: 'Where a symbol is, and how long.',
    examples: ['info address write_cmask'],
    completes: 'expression',
    repeats: false,
    run: ({ session, print }, argument) => {
      const wanted = needed(argument, 'a symbol');
      const all = session.symbols();
      const found = all.find(({ name }) => name === wanted);
      if (found === undefined) {
        throw new CommandError(
          `No symbol "${wanted}" in current context${didYouMean(
            wanted,
            all.map(({ name }) => name),
          )}`,
        );
      }
      const kind = { code: 'a function', data: 'data', label: 'a label' }[found.kind];
      const size = found.kind === 'label' ? '' : `, ${found.size} bytes`;
      print([hanging(4, `${wanted} is ${kind} at ${hex(found.start)}${size}.`)]);
    },
  },
  {
    name: 'info changes',
    aliases: [],
    group: 'data',
    usage: 'info changes',
    summary: 'What was changed in this run, and where.',
    examples: ['info changes'],
    completes: 'none',
    repeats: false,
    run: ({ session, print }, argument) => {
      noArgument(argument, 'info changes');
      const { changes } = session;
      if (changes.length === 0) print([line('Nothing was changed.')]);
      for (const { tick, change } of changes)
        print([
          hanging(
            4,
            `tick ${tick}: `,
            changeLine(change, (at) => session.nameOf(at)),
          ),
        ]);
    },
  },
  {
    name: 'drop-changes',
    aliases: [],
    group: 'data',
    usage: 'drop-changes',
    summary: 'Forgets everything that was changed, and goes to the start.',
    examples: ['drop-changes'],
    completes: 'none',
    repeats: false,
    run: async (context, argument) => {
      noArgument(argument, 'drop-changes');
      await context.move(() => context.session.dropChanges());
    },
  },
  {
    name: 'display',
    aliases: [],
    group: 'data',
    usage: 'display[/FMT] [EXPRESSION]',
    summary: 'Shows an expression, or memory, at each stop; without one: all that are shown, now.',
    examples: ['display $rdi', 'display/3i $pc', 'display/2xg $sp'],
    completes: 'expression',
    repeats: false,
    format: true,
    run: (context, argument, format) => {
      const { state } = context;
      if (argument === '') {
        for (const each of state.displays) showDisplay(context, each);
        return;
      }
      const display = { id: state.lastDisplay + 1, format, expression: argument };
      showDisplay(context, display);
      state.lastDisplay += 1;
      state.displays.push(display);
    },
  },
  {
    name: 'undisplay',
    aliases: [],
    group: 'data',
    usage: 'undisplay [N…]',
    summary: 'Shows it no longer at each stop: those with the numbers, or all.',
    examples: ['undisplay 1'],
    completes: 'none',
    repeats: false,
    run: ({ state, print }, argument) => {
      const ids = argument === '' ? state.displays.map(({ id }) => id) : numbersOf(argument);
      for (const id of ids) {
        const at = state.displays.findIndex((display) => display.id === id);
        if (at < 0) throw new CommandError(`there is no display number ${id}`);
        state.displays.splice(at, 1);
      }
      if (ids.length === 0) print([line(dim('Nothing is displayed.'))]);
    },
  },
];

function changeLine(
  change: Context['session']['changes'][number]['change'],
  nameOf: (address: bigint) => string | null,
): string {
  const place = (address: bigint): string => nameOf(address) ?? hex(address);
  const bytes = (value: Uint8Array): string => Buffer.from(value).toString('hex');
  switch (change.kind) {
    case 'register':
      return `$${change.name} = ${hex(change.value)}${change.cpu === 0 ? '' : ` on CPU ${change.cpu}`}`;
    case 'memory':
      return `memory at ${place(change.va)} = ${bytes(change.bytes)}`;
    case 'physical':
      return `physical memory at ${hex(change.pa)} = ${bytes(change.bytes)}`;
    case 'entry':
      return `${(change.level ?? 'pte').toUpperCase()} of ${place(change.va)} = ${hex(change.value)}`;
  }
}
