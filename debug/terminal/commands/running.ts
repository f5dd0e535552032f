/** Commands that move, forwards and backwards. */
import type { PathSteps } from '../../api.js';
import { type Command, type Context, countOf, needed, noArgument } from '../command.js';
import { CommandError } from '../command-error.js';

interface Steps {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly summary: string;
  readonly details?: string;
  readonly examples: readonly string[];
}

/** A move that may be made several times. */
function counted(of: Steps, go: (context: Context) => ReturnType<Context['session']['stepOver']>): Command {
  return {
    ...of,
    group: 'running',
    usage: `${of.name} [N]`,
    completes: 'none',
    repeats: true,
    run: (context, argument) => context.moves(countOf(argument, of.name), () => go(context), false),
  };
}

/** A move that is made once. */
function single(of: Steps, go: (context: Context) => ReturnType<Context['session']['stepOver']>): Command {
  return {
    ...of,
    group: 'running',
    usage: of.name,
    completes: 'none',
    repeats: true,
    run: async (context, argument) => {
      noArgument(argument, of.name);
      await context.move(() => go(context));
    },
  };
}

/** Steps of a path: each of them is told. */
function pathSteps(
  of: Steps,
  go: (context: Context, steps: PathSteps) => ReturnType<Context['session']['stepOver']>,
): Command {
  return {
    ...of,
    group: 'running',
    usage: `${of.name} [all] [N]`,
    completes: ['all'],
    repeats: true,
    run: (context, argument) => {
      const match = /^(?:-?(all)\b)?\s*(.*)$/.exec(argument);
      const steps = match?.[1] === undefined ? 'decisions' : 'all';
      return context.moves(countOf(match?.[2] ?? '', of.name), () => go(context, steps), true);
    },
  };
}

const STEP_DETAILS =
  'A decision is a test of the kernel’s fault path, in the words of the source, with what it came to; it is shown ' +
  'before the kernel acts on it. With `all` entries and returns of the ported functions count too. Code of the ' +
  'fixture in between runs through.';

export const running: readonly Command[] = [
  counted(
    {
      name: 'stepi',
      aliases: ['si'],
      summary: 'One instruction. When it faults, stops where the exception was taken.',
      details:
        'In a path: on to where code goes on. Between steps of the fixture: to the first instruction of the next.',
      examples: ['stepi', 'si 10'],
    },
    ({ session }) => session.stepInstruction(),
  ),
  counted(
    {
      name: 'nexti',
      aliases: ['ni'],
      summary: 'One instruction, through calls and faults.',
      details: 'Between steps of the fixture: through the next step.',
      examples: ['nexti', 'ni 3'],
    },
    ({ session }) => session.stepOver(),
  ),
  pathSteps(
    {
      name: 'step',
      aliases: ['s'],
      summary: 'To the next decision of the path, also through code to the next fault.',
      details: STEP_DETAILS,
      examples: ['step', 's 5', 's all'],
    },
    ({ session }, steps) => session.stepPath(steps),
  ),
  counted(
    {
      name: 'next',
      aliases: ['n'],
      summary: 'In a path: the next step of it, through functions that it calls. In code: nexti.',
      examples: ['next', 'n 4'],
    },
    ({ session }) => session.stepOver(),
  ),
  single(
    {
      name: 'finish',
      aliases: ['fin'],
      summary: 'To where the function returns: that of the path, or that of the code at pc.',
      examples: ['finish'],
    },
    ({ session }) => session.finish(),
  ),
  single(
    {
      name: 'finish-fault',
      aliases: ['ff'],
      summary: 'To where code goes on behind the fault that is handled.',
      examples: ['finish-fault'],
    },
    ({ session }) => session.finishFault(),
  ),
  {
    name: 'until',
    aliases: ['u', 'advance'],
    group: 'running',
    usage: 'until ADDRESS',
    summary: 'On to an address, as to a temporary breakpoint.',
    examples: ['until write_cmask.store', 'until *0xffffffff81000004'],
    completes: 'expression',
    repeats: true,
    run: async (context, argument) => {
      const address = context.value(needed(argument, 'an address').replace(/^\*/, '')).value;
      await context.move(() => context.session.until(address));
    },
  },
  single(
    {
      name: 'continue',
      aliases: ['c', 'fg'],
      summary: 'On to the next breakpoint, or to the end.',
      details: 'Ctrl-C stops it.',
      examples: ['continue'],
    },
    ({ session }) => session.continue(),
  ),
  counted(
    {
      name: 'fixture-step',
      aliases: ['fs'],
      summary: 'To the next beginning or end of a step of the fixture.',
      examples: ['fixture-step', 'fs 2'],
    },
    ({ session }) => session.nextFixtureStep(),
  ),
  counted(
    {
      name: 'reverse-stepi',
      aliases: ['rsi'],
      summary: 'Back by one instruction; from a path to the instruction that led into it.',
      examples: ['reverse-stepi', 'rsi 10'],
    },
    ({ session }) => session.stepInstructionBack(),
  ),
  counted(
    {
      name: 'reverse-nexti',
      aliases: ['rni'],
      summary: 'Back by one instruction, over calls and faults.',
      examples: ['reverse-nexti'],
    },
    ({ session }) => session.stepOverBack(),
  ),
  pathSteps(
    {
      name: 'reverse-step',
      aliases: ['rs'],
      summary: 'Back to the decision before.',
      details: STEP_DETAILS,
      examples: ['reverse-step', 'rs 5', 'rs all'],
    },
    ({ session }, steps) => session.stepPathBack(steps),
  ),
  counted(
    {
      name: 'reverse-next',
      aliases: ['rn'],
      summary: 'In a path: back by one step of it, over functions that it called. In code: reverse-nexti.',
      examples: ['reverse-next'],
    },
    ({ session }) => session.stepOverBack(),
  ),
  single(
    {
      name: 'reverse-finish',
      aliases: [],
      summary: 'Back to where the function was called.',
      examples: ['reverse-finish'],
    },
    ({ session }) => session.finishBack(),
  ),
  single(
    {
      name: 'reverse-finish-fault',
      aliases: ['rff'],
      summary: 'Back to the instruction that faulted, before it is executed.',
      examples: ['reverse-finish-fault'],
    },
    ({ session }) => session.finishFaultBack(),
  ),
  single(
    {
      name: 'reverse-continue',
      aliases: ['rc'],
      summary: 'Back to the last breakpoint on the way here, or to the start.',
      examples: ['reverse-continue'],
    },
    ({ session }) => session.continueBack(),
  ),
  counted(
    {
      name: 'reverse-fixture-step',
      aliases: ['rfs'],
      summary: 'Back to the beginning or end of a step of the fixture before.',
      examples: ['reverse-fixture-step'],
    },
    ({ session }) => session.nextFixtureStepBack(),
  ),
  single(
    {
      name: 'start',
      aliases: [],
      summary: 'To the start: the machine is built, and no step of the fixture has run.',
      examples: ['start'],
    },
    ({ session }) => session.toStart(),
  ),
  {
    name: 'run',
    aliases: ['r'],
    group: 'running',
    usage: 'run',
    summary: 'From the start on to the first breakpoint, or to the end.',
    examples: ['run'],
    completes: 'none',
    repeats: false,
    run: async (context, argument) => {
      noArgument(argument, 'run');
      if (context.session.position.tick > 0) await context.session.toStart();
      await context.move(() => context.session.continue());
    },
  },
  {
    name: 'goto',
    aliases: ['record goto'],
    group: 'running',
    usage: 'goto begin|end|TICK',
    summary: 'To the start, to the end, or to a tick of the run, past all breakpoints.',
    details: 'Everything that can be stopped between counts one tick; `info program` says which one it is.',
    examples: ['goto end', 'goto 42'],
    completes: ['begin', 'end'],
    repeats: false,
    run: async (context, argument) => {
      const { session } = context;
      const where = needed(argument, 'begin, end, or a tick');
      if (where === 'begin' || where === 'start') await context.move(() => session.toStart());
      else if (where === 'end') await context.move(() => session.toEnd());
      else if (/^[0-9]{1,15}$/.test(where)) await context.move(() => session.toTick(Number(where)));
      else throw new CommandError(`goto: ${where} is neither begin nor end nor a tick`);
    },
  },
];
