/** What a fixture may expect: of a step, and at the end. */
import { z } from 'zod';
import { Expression } from './bound-expression.js';
import { arenaState, decision, happenedShape, pageStateShape } from './schema-arena.js';
import { kfenceState } from './schema-kfence.js';
import { expressionOf, level, lines, name, registers, widths } from './schema-values.js';

export const OUTCOME_KINDS = [
  'returned',
  'oops',
  'panic',
  'signal',
  'livelock',
  'budget',
  'deadline',
  'stopped',
] as const;

const outcomeKind = z
  .enum(OUTCOME_KINDS)
  .describe(
    'returned: the code came back. oops, panic: the kernel died over it. signal: the task gets one. ' +
      'livelock: one instruction faulted, or a loop of the kernel went round, again and again without progress. budget, deadline: it ran too long. ' +
      'stopped: something the laboratory does not model.',
  );

const outcome = z
  .union([
    outcomeKind,
    z.strictObject({
      kind: outcomeKind,
      title: z.string().optional().describe('oops, panic: the first line, exactly.'),
      signo: expressionOf('oops, signal: the signal, e.g. SIGSEGV.').optional(),
      code: expressionOf('signal: si_code, e.g. SEGV_MAPERR.').optional(),
      address: expressionOf('signal, livelock: the address.').optional(),
      pkey: expressionOf('signal: si_pkey, with SEGV_PKUERR.').optional(),
      pc: expressionOf('livelock, stopped: address of the instruction.').optional(),
      turns: expressionOf('livelock: how often.').optional(),
      why: z.string().optional().describe('stopped: the reason, exactly.'),
    }),
  ])
  .describe('How the run or the call ends. Without it: returned.')
  .meta({ id: 'outcome' });

export const RESOLUTIONS = [
  'scratch',
  'fixup',
  'kfence',
  'spurious',
  'vm',
  'oops',
  'panic',
  'signal',
  'none',
] as const;

export const fault = z
  .strictObject({
    address: expressionOf('CR2 or FAR_EL1: the address of the fault.').optional(),
    error_code: expressionOf('x86-64: the error code.').optional(),
    esr: expressionOf('arm64: ESR_EL1.').optional(),
    access: z.enum(['read', 'write', 'fetch']).optional().describe('What the instruction wanted.'),
    exception: z.string().optional().describe('The exception: #PF, #GP, #SS, Data Abort, Instruction Abort.'),
    pc: expressionOf('Address of the instruction that faulted.').optional(),
    path: z
      .array(z.string())
      .optional()
      .describe('Kernel functions entered, in this order; others may come between them.'),
    not: z.array(z.string()).optional().describe('Kernel functions that must not be entered.'),
    decisions: z
      .array(decision)
      .optional()
      .describe('Decisions taken on the way, in this order; others may come between.'),
    resolved_by: z
      .enum(RESOLUTIONS)
      .optional()
      .describe(
        'What ended the fault. scratch: the hook of the arena returned true, as it does behind its scratch page. fixup: an exception-table entry. ' +
          'kfence: KFENCE. spurious: ignored as stale. vm: handle_mm_fault(). oops, panic, signal: no way on. ' +
          'none: the kernel gave back nothing new, or the run ended in the middle.',
      ),
    stream: lines.optional().describe('Text that this fault wrote to BPF streams.'),
  })
  .meta({ id: 'fault' });

export const memory = z
  .strictObject({ at: expressionOf('Virtual address.'), ...widths })
  .meta({ id: 'memory' });

export const pte = z
  .strictObject({
    va: expressionOf('Virtual address that the entry translates.'),
    level: level.optional(),
    value: z
      .union([z.string(), z.int()], { error: 'an entry, or none or page, is wanted here' })
      .transform((value) => (value === 'none' || value === 'page' ? value : new Expression(String(value))))
      .describe(
        'An expression for the exact entry, or: none (nothing there), page (a present page that is not a scratch ' +
          "page). scratch(a) is the entry of arena a's scratch page.",
      ),
  })
  .meta({ id: 'entry' });

const stream = z
  .strictObject({
    stdout: lines.optional(),
    stderr: lines.optional(),
    dropped: expressionOf('Reports thrown away because the stream was full.').optional(),
  })
  .meta({ id: 'streams' });

/** Expectations about the state of the machine; they fit every kind of step. */
export const stateShape = {
  registers: registers.optional().describe('Values of registers afterwards.'),
  memory: z.array(memory).optional().describe('Bytes in memory, through the page tables.'),
  ptes: z.array(pte).optional().describe('Page-table entries.'),
  arenas: z.record(name, arenaState).optional().describe('State of arenas.'),
  ...pageStateShape,
  kfence: kfenceState.optional().describe('State of KFENCE.'),
  taint: z.string().optional().describe('The taint of the kernel, as print_tainted() prints it.'),
};

/** Expectations about text; of the step, or of everything when at the end. */
export const textShape = {
  console: lines
    .optional()
    .describe('Kernel log lines, written as the key console at the top says. `[]` means none.'),
  streams: z.record(name, stream).optional().describe('BPF streams by program.'),
};

export const runExpect = z
  .strictObject({
    outcome: outcome.optional(),
    faults: z.array(fault).optional().describe('Every fault of the step in order. `[]` means none.'),
    ...happenedShape,
    ...stateShape,
    ...textShape,
  })
  .meta({ id: 'runExpect' });

export const testRunExpect = runExpect
  .extend({ returns: expressionOf("The program's return value, a u32; -1 is 0xffffffff.").optional() })
  .meta({ id: 'testRunExpect' });

export const callExpect = z
  .strictObject({
    outcome: outcome.optional(),
    ret: expressionOf('Return value.').optional(),
    ...happenedShape,
    ...stateShape,
    ...textShape,
  })
  .meta({ id: 'callExpect' });

export const textExpect = z
  .strictObject({
    outcome: outcome.optional(),
    ret: expressionOf('Return value: bytes read, or an errno.').optional(),
    text: lines.optional().describe('The text read.'),
    ...stateShape,
    ...textShape,
  })
  .meta({ id: 'textExpect' });

export const readExpect = z
  .strictObject({
    value: expressionOf('The value read.').optional(),
    ...stateShape,
    ...textShape,
  })
  .meta({ id: 'readExpect' });

/** Of steps that return nothing. */
export const workExpect = z
  .strictObject({ outcome: outcome.optional(), ...happenedShape, ...stateShape, ...textShape })
  .meta({ id: 'workExpect' });

export const stateExpect = z.strictObject({ ...stateShape, ...textShape }).meta({ id: 'stateExpect' });

export type RunExpect = z.output<typeof runExpect>;
export type CallExpect = z.output<typeof callExpect>;
export type WorkExpect = z.output<typeof workExpect>;
export type StateExpect = z.output<typeof stateExpect>;
export type FaultExpect = z.output<typeof fault>;
export type OutcomeExpect = z.output<typeof outcome>;
export type PteExpect = z.output<typeof pte>;
export type MemoryExpect = z.output<typeof memory>;
