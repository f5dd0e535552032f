/** The requests that are understood, and what their arguments must look like. */
import { z } from 'zod';
import { RequestError } from './request-error.js';

const int = z.int();
const text = z.string();
const flag = z.boolean().optional();
/** Numbers of threads, frames and so on. */
const id = z.int().min(0);

const source = z.object({ name: text.optional(), path: text.optional(), sourceReference: int.optional() });
const format = z.object({ hex: flag }).optional();
const granularity = z.enum(['statement', 'line', 'instruction']).optional();
const move = z.object({ threadId: int.optional(), granularity }).default({});
const conditions = { condition: text.optional(), hitCondition: text.optional() };
const nothing = z.object({}).default({});

/** Arguments of `launch`, and what is not there stands for. */
export const launchArguments = z.object({
  fixture: z.string().min(1, 'the file of a fixture is wanted here'),
  stopOnEntry: z.boolean().default(true),
  stopAt: text.optional(),
  engine: text.optional(),
  steps: z.enum(['decisions', 'all']).default('decisions'),
  noDebug: z.boolean().default(false),
});
export type LaunchArguments = z.infer<typeof launchArguments>;

export const REQUESTS = {
  initialize: z
    .object({
      linesStartAt1: z.boolean().default(true),
      columnsStartAt1: z.boolean().default(true),
      pathFormat: z.string().default('path'),
      supportsMemoryEvent: z.boolean().default(false),
      supportsInvalidatedEvent: z.boolean().default(false),
    })
    .prefault({}),
  launch: launchArguments,
  attach: z.unknown(),
  configurationDone: nothing,
  disconnect: nothing,
  terminate: nothing,
  restart: z.object({ arguments: z.unknown() }).default({ arguments: undefined }),

  continue: move,
  next: move,
  stepIn: move,
  stepOut: move,
  stepBack: move,
  reverseContinue: move,
  pause: nothing,

  setBreakpoints: z.object({
    source,
    breakpoints: z.array(z.object({ line: int, ...conditions })).default([]),
  }),
  setFunctionBreakpoints: z.object({ breakpoints: z.array(z.object({ name: text, ...conditions })) }),
  setInstructionBreakpoints: z.object({
    breakpoints: z.array(z.object({ instructionReference: text, offset: int.default(0), ...conditions })),
  }),
  setExceptionBreakpoints: z.object({
    filters: z.array(text).default([]),
    filterOptions: z.array(z.object({ filterId: text, condition: text.optional() })).default([]),
  }),
  dataBreakpointInfo: z.object({
    variablesReference: id.optional(),
    name: text,
    frameId: int.optional(),
    bytes: int.optional(),
    asAddress: flag,
  }),
  setDataBreakpoints: z.object({
    breakpoints: z.array(
      z.object({
        dataId: text,
        accessType: z.enum(['read', 'write', 'readWrite']).default('write'),
        ...conditions,
      }),
    ),
  }),
  breakpointLocations: z.object({ source, line: int, endLine: int.optional() }),

  threads: nothing,
  stackTrace: z.object({ threadId: int, startFrame: id.default(0), levels: id.default(0) }),
  scopes: z.object({ frameId: int }),
  variables: z.object({
    variablesReference: int,
    filter: z.enum(['indexed', 'named']).optional(),
    start: id.default(0),
    count: id.default(0),
    format,
  }),
  setVariable: z.object({ variablesReference: int, name: text, value: text, format }),
  setExpression: z.object({ expression: text, value: text, frameId: int.optional(), format }),
  evaluate: z.object({
    expression: text,
    frameId: int.optional(),
    context: z.string().default('watch'),
    format,
  }),
  completions: z.object({ text, column: int, line: int.optional(), frameId: int.optional() }),
  exceptionInfo: z.object({ threadId: int.optional() }).default({}),
  source: z.object({ source: source.optional(), sourceReference: int.default(0) }),
  loadedSources: nothing,

  disassemble: z.object({
    memoryReference: text,
    offset: int.default(0),
    instructionOffset: int.default(0),
    instructionCount: int,
    resolveSymbols: z.boolean().default(true),
  }),
  readMemory: z.object({ memoryReference: text, offset: int.default(0), count: int }),
  writeMemory: z.object({
    memoryReference: text,
    offset: int.default(0),
    allowPartial: z.boolean().default(false),
    data: text,
  }),
} as const;

export type Command = keyof typeof REQUESTS;
export type Arguments<C extends Command> = z.infer<(typeof REQUESTS)[C]>;

/** The arguments of a request. Throws a RequestError that says what is wrong with them. */
export function parseArguments<C extends Command>(command: C, raw: unknown): Arguments<C> {
  return checked(
    REQUESTS[command] as z.ZodType<Arguments<C>>,
    raw,
    `${command}: arguments`,
    command === 'launch',
  );
}

/** Arguments of `launch` that `restart` brings; null without any. Throws a RequestError as parseArguments() does. */
export function parseRestart({ arguments: raw }: Arguments<'restart'>): LaunchArguments | null {
  if (raw === undefined || raw === null) return null;
  return checked(launchArguments, raw, 'restart: arguments.arguments', true);
}

function checked<T>(schema: z.ZodType<T>, raw: unknown, where: string, showUser: boolean): T {
  const given = withoutNulls(raw);
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = [where, ...(issue?.path ?? [])].map(String).join('.');
  const problem =
    issue === undefined ? 'this is not what is expected' : problemOf(issue, at(given, issue.path));
  throw new RequestError(`${place}: ${problem}`, { showUser });
}

/** What is wrong with a value, in words: what it must be, and what it was. */
function problemOf(issue: z.core.$ZodIssue, got: unknown): string {
  switch (issue.code) {
    case 'invalid_type':
      return `expected ${TYPES[issue.expected] ?? issue.expected}, ${shown(got)}`;
    case 'invalid_value':
      return `expected ${issue.values.map((value) => `\`${String(value)}\``).join(' or ')}, ${shown(got)}`;
    case 'too_small':
    case 'too_big':
      if (!issue.message.startsWith('Too ')) return issue.message;
      return issue.code === 'too_small'
        ? `expected at least ${issue.minimum}, ${shown(got)}`
        : `expected at most ${issue.maximum}, ${shown(got)}`;
    default:
      return issue.message;
  }
}

/** Types of the library's, as people call them. */
const TYPES: Readonly<Partial<Record<string, string>>> = {
  boolean: 'true or false',
  int: 'a whole number',
  number: 'a number',
  array: 'a list',
};

function shown(got: unknown): string {
  if (got === undefined) return 'and there is nothing';
  const text = JSON.stringify(got) ?? String(got);
  return `not ${text.length > 60 ? `${text.slice(0, 60)}…` : text}`;
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  let here = value;
  for (const key of path) {
    if (typeof here !== 'object' || here === null) return undefined;
    here = Reflect.get(here, key);
  }
  return here;
}

/** Some clients send null for what they leave out. */
function withoutNulls(raw: unknown): unknown {
  if (raw === null) return undefined;
  if (typeof raw !== 'object' || Array.isArray(raw)) return raw;
  return Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== null));
}
