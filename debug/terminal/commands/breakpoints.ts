/** Commands for breakpoints, watchpoints and catchpoints. */

import type { BreakpointOptions, BreakpointSpec } from '../../breakpoints.js';
import { type Command, type Context, firstWord, needed, noArgument, numbersOf } from '../command.js';
import { CommandError } from '../command-error.js';
import { addressAndLevel, LEVELS } from '../levels.js';
import { line } from '../lines.js';
import { cutAtComma, parsePlace } from '../place.js';
import { breakpointLines } from '../views/breakpoints.js';

function add(context: Context, spec: BreakpointSpec, options: BreakpointOptions = {}): void {
  const { id, text, temporary } = context.session.addBreakpoint(spec, options);
  const kind = spec.kind === 'address' || spec.kind === 'function' ? 'breakpoint' : KINDS[spec.kind];
  const words = temporary ? `Temporary ${kind}` : kind.charAt(0).toUpperCase() + kind.slice(1);
  context.print([line(`${words} ${id}: ${text}`)]);
}

const KINDS = {
  watch: 'watchpoint',
  entry: 'watchpoint',
  fault: 'catchpoint',
  kfence: 'catchpoint',
  scratch: 'catchpoint',
  oops: 'catchpoint',
  console: 'catchpoint',
  'fixture-step': 'catchpoint',
} as const;

function breakCommand(name: string, aliases: readonly string[], temporary: boolean): Command {
  const once = temporary ? ', once' : '';
  return {
    name,
    aliases,
    group: 'breakpoints',
    usage: `${name} [FUNCTION | SYMBOL | *ADDRESS] [if CONDITION]`,
    summary: `Stops where code comes to an address, or where the path enters a function${once}.`,
    details:
      'A name that is both a function of the kernel that is ported and a symbol of the fixture means the former; ' +
      '`*` asks for the address. Labels are written FUNCTION.LABEL. Without a place: at pc. With a condition it stops ' +
      'only where that is not zero (see `help condition`).',
    examples: [
      `${name} bpf_arena_handle_page_fault`,
      `${name} write_cmask.store`,
      `${name} *$pc+8`,
      `${name} write_cmask.store if $rdi == a.page(3)`,
    ],
    completes: 'place',
    repeats: false,
    run: (context, argument) => {
      const [place, condition] = cutAtIf(argument);
      const options =
        condition === null ? { temporary } : { temporary, condition: context.expression(condition) };
      add(context, placeOf(context, place), options);
    },
  };
}

/** The place and the condition of `PLACE if CONDITION`. */
function cutAtIf(argument: string): readonly [place: string, condition: string | null] {
  const match = /^(?:(.*?)\s+)?if\b(.*)$/s.exec(argument);
  if (match === null) return [argument, null];
  return [match[1] ?? '', needed((match[2] ?? '').trim(), 'a condition behind `if`')];
}

function placeOf(context: Context, argument: string): BreakpointSpec {
  const { session } = context;
  if (argument === '') {
    if (session.position.place !== 'code') throw new CommandError('No code runs here: say where to stop.');
    return { kind: 'address', address: session.pc };
  }
  if (/\sthread\s/.test(argument)) {
    throw new CommandError('a breakpoint is for all CPUs here: say only where to stop');
  }
  if (/^[0-9]+$/.test(argument)) {
    throw new CommandError(
      `code has no lines here: *${argument} is an address, catch step ${argument} a step of the fixture`,
    );
  }
  return session.breakpointAt(context.expression(argument));
}

function catchCommand(name: string, temporary: boolean): Command {
  const once = temporary ? ', once' : '';
  return {
    name,
    aliases: [],
    group: 'breakpoints',
    usage: `${name} fault [EXCEPTION] | kfence | scratch | oops | console TEXT | step [N]`,
    summary: `Stops at an event${once}: a fault, a hit of KFENCE, a scratch page, an oops, a line on the console, a step.`,
    examples: [`${name} fault`, `${name} fault #PF`, `${name} console BUG: KFENCE`, `${name} step 2`],
    completes: 'events',
    repeats: false,
    run: (context, argument) => add(context, eventOf(argument), { temporary }),
  };
}

/** Words of `catch`. */
export const EVENTS = ['fault', 'kfence', 'scratch', 'oops', 'console', 'step'] as const;

function eventOf(argument: string): BreakpointSpec {
  const word = firstWord(argument);
  const rest = argument.slice(word.length).trim();
  switch (word) {
    case 'fault':
      return { kind: 'fault', exception: rest === '' ? null : rest };
    case 'kfence':
    case 'scratch':
    case 'oops':
      noArgument(rest, `catch ${word}`);
      return { kind: word };
    case 'console':
      return { kind: 'console', text: needed(rest.replace(/^(["'])(.*)\1$/, '$2'), 'text of a line') };
    case 'step':
      if (rest !== '' && !/^[0-9]{1,6}$/.test(rest))
        throw new CommandError(`${rest} is not the number of a step`);
      return { kind: 'fixture-step', number: rest === '' ? null : Number(rest) };
    default:
      throw new CommandError(
        word === ''
          ? `Argument required (${EVENTS.join(', ')}).`
          : `${word} is no event: ${EVENTS.join(', ')} are`,
      );
  }
}

function watchCommand(name: string, access: 'read' | 'write' | 'access', when: string): Command {
  return {
    name,
    aliases: [],
    group: 'breakpoints',
    usage: `${name} ADDRESS[, LENGTH]`,
    summary: `Stops when memory ${when}.`,
    details:
      'LENGTH is in bytes, 8 if left out; `*(u32 *)ADDRESS` says it too. The address is virtual, and the instruction or ' +
      'the part of the path that did it is complete at the stop.',
    examples: [`${name} a.page(3) + 0x10`, `${name} a.page(3), 4096`, `${name} *(u32 *)counter`],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const text = needed(argument, 'an address').replace(/^-l(ocation)?\s+/, '');
      const cut = cutAtComma(text);
      const place = parsePlace(cut === null ? text : cut[0]);
      const address = context.value(place.address).value;
      const length = cut === null ? (place.size ?? 8) : lengthOf(cut[1]);
      add(context, { kind: 'watch', address, length, access });
    },
  };
}

function lengthOf(text: string): number {
  if (!/^(0x[0-9a-f]{1,6}|[0-9]{1,7})$/i.test(text))
    throw new CommandError(`${text} is not a length in bytes`);
  return Number(text);
}

function switchCommand(name: string, aliases: readonly string[], enabled: boolean): Command {
  return {
    name,
    aliases,
    group: 'breakpoints',
    usage: `${name} [N…]`,
    summary: `Switches breakpoints ${enabled ? 'on' : 'off'}: those with the numbers, or all.`,
    examples: [name, `${name} 2`, `${name} 1-3`],
    completes: 'breakpoints',
    repeats: false,
    run: ({ session }, argument) => {
      for (const id of idsOf(session.breakpoints, argument)) session.enableBreakpoint(id, enabled);
    },
  };
}

function idsOf(all: readonly { readonly id: number }[], argument: string): number[] {
  const numbers = argument.replace(/^breakpoints?\b\s*/, '');
  return numbers === '' ? all.map(({ id }) => id) : numbersOf(numbers);
}

/** The number of a breakpoint and what stands behind it. */
function numberAndRest(argument: string): readonly [id: number, rest: string] {
  const [, number, rest = ''] = /^(\S+)\s*(.*)$/s.exec(argument) ?? [];
  if (number === undefined) throw new CommandError('Argument required (breakpoint number).');
  if (!/^[0-9]{1,6}$/.test(number)) throw new CommandError(`${number} is not the number of a breakpoint`);
  return [Number(number), rest];
}

/** gdb's words for hits that will be passed over. */
function ignoreText(id: number, count: bigint): string {
  if (count === 0n) return `Breakpoint ${id} will stop next time it is reached.`;
  return `Will ignore next ${count === 1n ? 'crossing' : `${count} crossings`} of breakpoint ${id}.`;
}

export const breakpoints: readonly Command[] = [
  breakCommand('break', ['b', 'br', 'bre', 'brea', 'hbreak'], false),
  breakCommand('tbreak', ['tb', 'tbr', 'thbreak'], true),
  catchCommand('catch', false),
  catchCommand('tcatch', true),
  watchCommand('watch', 'write', 'changes'),
  watchCommand('rwatch', 'read', 'is read'),
  watchCommand('awatch', 'access', 'is read, or changes'),
  {
    name: 'watch-pte',
    aliases: [],
    group: 'breakpoints',
    usage: `watch-pte ADDRESS [${LEVELS.join('|')}]`,
    summary: 'Stops when the page-table entry of an address changes, whoever stores it.',
    examples: ['watch-pte a.page(3)', 'watch-pte a.page(3) pmd'],
    completes: 'expression',
    repeats: false,
    run: (context, argument) => {
      const [text, level] = addressAndLevel(needed(argument, 'an address'));
      add(context, { kind: 'entry', va: context.value(text).value, level });
    },
  },
  {
    name: 'delete',
    aliases: ['d'],
    group: 'breakpoints',
    usage: 'delete [N…]',
    summary: 'Deletes breakpoints: those with the numbers, or all.',
    examples: ['delete', 'delete 2 4-6'],
    completes: 'breakpoints',
    repeats: false,
    run: ({ session }, argument) => {
      for (const id of idsOf(session.breakpoints, argument)) session.removeBreakpoint(id);
    },
  },
  {
    name: 'condition',
    aliases: [],
    group: 'breakpoints',
    usage: 'condition N [EXPRESSION]',
    summary: 'Lets a breakpoint stop only where an expression is not zero; without one, everywhere again.',
    details:
      'It is evaluated at each hit, where the run stands then: `$NAME` is a register, `*(u32 *)ADDRESS` what stands in ' +
      'memory; == != < <= > >= && || ! and the rest are as in C, on unsigned numbers of 64 bits. Where it has no value, ' +
      'the run stops and says why. Hits are counted only where it holds.',
    examples: [
      'condition 1 $rdi == a.page(3)',
      'condition 2 *(u32 *)counter > 5 && $rsi != 0',
      'condition 1',
    ],
    completes: 'breakpoints',
    repeats: false,
    run: (context, argument) => {
      const { session, print } = context;
      const [id, expression] = numberAndRest(argument);
      if (expression === '') {
        session.setCondition(id, null);
        print([line(`Breakpoint ${id} now unconditional.`)]);
      } else {
        session.setCondition(id, context.expression(expression.replace(/^if\b\s*/, '')));
      }
    },
  },
  {
    name: 'ignore',
    aliases: [],
    group: 'breakpoints',
    usage: 'ignore N COUNT',
    summary: 'Passes over the next COUNT hits of a breakpoint, forwards.',
    details:
      'They are counted as hits all the same: with a COUNT that is never used up, `info breakpoints` tells at the end ' +
      'how often a place was come to. COUNT is an expression; 0 lets it stop again.',
    examples: ['ignore 1 2', 'ignore 1 1000000', 'ignore 1 0'],
    completes: 'breakpoints',
    repeats: false,
    run: (context, argument) => {
      const [id, text] = numberAndRest(argument);
      if (text === '') throw new CommandError('Second argument (specified ignore-count) is missing.');
      const { value } = context.value(text);
      context.session.setIgnore(id, Number(value));
      context.print([line(ignoreText(id, value))]);
    },
  },
  switchCommand('enable', ['en'], true),
  switchCommand('disable', ['dis'], false),
  {
    name: 'info breakpoints',
    aliases: ['info b', 'info watchpoints'],
    group: 'breakpoints',
    usage: 'info breakpoints',
    summary: 'What the run stops at.',
    examples: ['info breakpoints', 'i b'],
    completes: 'none',
    repeats: false,
    run: (context, argument) => {
      noArgument(argument, 'info breakpoints');
      context.print(breakpointLines(context.session.breakpoints));
    },
  },
];
