/** The steps of a fixture. What kind a step is shows in the one key that names it. */
import { z } from 'zod';
import {
  createShape,
  exitShape,
  forkShape,
  inject,
  mmapShape,
  mremapShape,
  munmapShape,
  process,
} from './schema-arena.js';
import {
  callExpect,
  readExpect,
  runExpect,
  stateExpect,
  testRunExpect,
  textExpect,
  workExpect,
} from './schema-expect.js';
import { allocations, DEBUGFS_FILES, SLAB_CALLS, slabArgs } from './schema-kfence.js';
import { testRunShape } from './schema-programs.js';
import { expression, expressionOf, level, registers, widths } from './schema-values.js';

const common = {
  name: z.string().optional().describe('What the step is for; reports show it.'),
  cpu: z.int().min(0).max(7).optional().describe('CPU that does it; 0 if left out.'),
  advance: z.number().min(0).optional().describe('Seconds that pass before the step; none if left out.'),
};

const meanwhile = z
  .array(
    z.strictObject({
      at: z
        .strictObject({
          fn: z.string().describe('The function that decides.'),
          test: z.string().describe('The test in the words of the source, as `kfault explain` prints it.'),
          nth: z
            .int()
            .min(1)
            .max(1_000_000)
            .optional()
            .describe('Which time in this step, on its CPU; the first if left out.'),
        })
        .describe('A decision on the way of the step.'),
      steps: z
        .array(z.lazy((): z.ZodType<unknown> => step))
        .min(1, { error: 'at least one step happens there' })
        .describe('What happens there before the step goes on: on other CPUs, or nested on the same one.'),
    }),
  )
  .meta({
    id: 'meanwhile',
    description:
      'Other steps that run in the middle of this one, when it has come to a decision and not acted yet.',
  })
  .optional();

/** What fits every step that runs code of the kernel. */
const acting = { ...common, inject, meanwhile };

/** x86-64 exceptions by their mnemonics, with their vectors: SDM volume 3, table 7-1. */
export const VECTORS = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  MC: 18,
  XM: 19,
  CP: 21,
} as const;
const EXCEPTIONS = Object.keys(VECTORS) as [keyof typeof VECTORS, ...(keyof typeof VECTORS)[]];

const raise = z
  .union([
    z.strictObject({
      exception: z.enum(EXCEPTIONS).describe('x86-64: the exception, e.g. PF.'),
      error_code: expressionOf('x86-64: its error code; 0 if left out.').optional(),
      address: expressionOf('x86-64: what CR2 gets, with PF; 0 if left out.').optional(),
    }),
    z.strictObject({
      esr: expressionOf('arm64: ESR_EL1.'),
      far: expressionOf('arm64: FAR_EL1; 0 if left out.').optional(),
    }),
  ])
  .optional()
  .describe(
    'An exception that hardware reports at the first instruction, for what code cannot be made to raise. What ' +
      'follows is real: tried again, the instruction runs.',
  );

const context = z
  .strictObject({
    in_interrupt: z.int().min(0).max(3).optional().describe('Depth of interrupt context.'),
    pagefault_disabled: z.int().min(0).max(100).optional().describe('Depth of pagefault_disable().'),
    preempt_count: z.int().min(0).max(255).optional().describe('Depth of preempt_disable().'),
    irqs_disabled: z.boolean().optional().describe('The code starts with interrupts off.'),
  })
  .optional()
  .describe('State of the task while the code runs.');

const call = z
  .strictObject({
    call: expressionOf('Code to run in kernel mode: a symbol, or an address.'),
    ...acting,
    registers: registers.optional().describe('Registers before the first instruction.'),
    context,
    raise,
    allocations,
    expect: runExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Runs kernel code on the kernel stack until it returns.');

const user = z
  .strictObject({
    user: expressionOf('Code to run in user mode: a symbol of section user, or an address.'),
    ...acting,
    process,
    registers: registers.optional().describe('Registers before the first instruction.'),
    raise,
    expect: runExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Runs user code on the user stack until it returns.');

const testRun = z
  .strictObject({
    ...testRunShape,
    ...acting,
    expect: testRunExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('BPF_PROG_TEST_RUN of a program, below the frames of the system call.');

const map = z.string().describe('Name of the arena.');
const allocArgs = z.strictObject({
  map,
  addr: expressionOf('User address wanted; 0 or nothing lets the kernel choose.').optional(),
  page_cnt: expressionOf('Pages; 1 if left out.').optional(),
  node_id: expressionOf('NUMA node; -1 (any) if left out.').optional(),
  flags: expressionOf('Must be 0 for the kernel to accept it.').optional(),
});
const pagesArgs = z.strictObject({
  map,
  ptr: expressionOf('User address of the first page.'),
  page_cnt: expressionOf('Pages; 1 if left out.').optional(),
});

export const ALLOC_FUNCTIONS = [
  'bpf_arena_alloc_pages',
  'bpf_arena_alloc_pages_non_sleepable',
  'bpf_arena_alloc_pages_sleepable',
] as const;
export const PAGES_FUNCTIONS = [
  'bpf_arena_free_pages',
  'bpf_arena_free_pages_non_sleepable',
  'bpf_arena_reserve_pages',
] as const;
export const KFUNCS = [...ALLOC_FUNCTIONS, ...PAGES_FUNCTIONS] as const;

const alloc = z
  .strictObject({
    kfunc: z.enum(ALLOC_FUNCTIONS).describe('Function to call.'),
    ...acting,
    args: allocArgs.describe('Its arguments.'),
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Calls an allocating function of the arena. It returns a user address, or 0.');

const pages = z
  .strictObject({
    kfunc: z.enum(PAGES_FUNCTIONS).describe('Function to call.'),
    ...acting,
    args: pagesArgs.describe('Its arguments.'),
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Frees or reserves pages of an arena.');

export const KERNEL_WORK = ['run_deferred'] as const;
const kernel = z
  .strictObject({
    kernel: z.enum(KERNEL_WORK).describe('run_deferred: queued irq_work and work items run now.'),
    ...acting,
    expect: workExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Lets the kernel do what it has put off.');

const streamRead = z
  .strictObject({
    stream_read: z
      .strictObject({
        program: z
          .string()
          .optional()
          .describe(
            "Name of the program, or of an arena, whose file descriptor is no program's (EINVAL); left out, the file " +
              'descriptor is none (EBADF).',
          ),
        stream_id: expressionOf('1 is stdout, 2 is stderr; 2 if left out.').optional(),
        length: expressionOf('Size of the buffer in bytes; 4096 if left out.').optional(),
        buf: expressionOf('User address of the buffer; one that takes everything if left out.').optional(),
      })
      .describe('From which stream, and how much.'),
    ...common,
    expect: textExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('BPF_PROG_STREAM_READ_BY_FD. Reading consumes.');

const write = z
  .strictObject({
    write: z.strictObject({ at: expressionOf('Virtual address.'), ...widths }).describe('Where and what.'),
    ...common,
    expect: stateExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Stores into memory through the page tables, whatever the rights; raises no fault.');

const read = z
  .strictObject({
    read: z
      .strictObject({
        at: expressionOf('Virtual address.'),
        size: z
          .union([z.literal(1), z.literal(2), z.literal(4), z.literal(8)])
          .optional()
          .describe('Bytes; 8 if left out.'),
      })
      .describe('Where and how much.'),
    ...common,
    expect: readExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Reads memory through the page tables, whatever the rights; raises no fault.');

const pte = z
  .strictObject({
    pte: z
      .strictObject({
        va: expressionOf('Virtual address that the entry translates.'),
        level: level.optional(),
        value: expressionOf('The new entry. mk_pte(pa, PAGE_KERNEL), pte(va) and phys(va) help.'),
      })
      .describe('The entry and its new value.'),
    ...common,
    expect: stateExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Stores a page-table entry as it is. No TLB is flushed: that is a step of its own.');

const tlb = z
  .strictObject({
    tlb: z
      .union([
        z.strictObject({
          flush: z
            .union([z.literal('all'), expression])
            .describe("Drops translations from this CPU's TLB: all, or those of the page at an address."),
        }),
        z.strictObject({
          keep: expressionOf(
            "This CPU's TLB keeps the page's translation as it is now, whatever becomes of the tables, until flushed.",
          ),
        }),
      ])
      .describe('flush or keep.'),
    ...common,
    expect: stateExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Does something to the TLB of one CPU.');

const check = z
  .strictObject({
    check: stateExpect.describe('What must hold now; console and streams: of everything so far.'),
    ...common,
  })
  .describe('Looks at the state between steps.');

const destroy = z
  .strictObject({
    destroy: z.string().describe('Name of the arena.'),
    ...acting,
    expect: workExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Drops the last reference to an arena map: arena_map_free().');

const create = z
  .strictObject({
    ...createShape,
    ...acting,
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Creates an arena that is declared with `when: step`: BPF_MAP_CREATE. It returns 0 or an errno.');

const mmap = z
  .strictObject({
    ...mmapShape,
    ...acting,
    process,
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('mmap(2) of an arena. It returns the address or an errno.');

const munmap = z
  .strictObject({
    ...munmapShape,
    ...acting,
    process,
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('munmap(2). It returns 0 or an errno.');

const mremap = z
  .strictObject({
    ...mremapShape,
    ...acting,
    process,
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('mremap(2). It returns the address or an errno.');

const fork = z
  .strictObject({
    ...forkShape,
    ...acting,
    process,
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe("fork(2). It returns the child's pid or an errno.");

const exit = z
  .strictObject({
    ...exitShape,
    ...acting,
    expect: workExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('A process ends: exit_mmap().');

const slab = z
  .strictObject({
    slab: z.enum(SLAB_CALLS).describe('Function to call.'),
    ...common,
    args: slabArgs,
    allocations,
    callers: z
      .array(expression)
      .optional()
      .describe('Who calls: the return addresses that stacks show, innermost first; nobody if left out.'),
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Calls an allocator from outside. Its stack has no frames but those that are given.');

const kfence = z
  .strictObject({
    kfence: z
      .strictObject({
        sample_interval: z.int().min(0).max(1_000_000).describe('Milliseconds; 0 switches it off.'),
      })
      .describe('The parameter and its new value.'),
    ...common,
    expect: callExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Writes a parameter of KFENCE. It returns 0 or an errno.');

const debugfs = z
  .strictObject({
    debugfs: z.enum(DEBUGFS_FILES).describe('The file.'),
    ...common,
    expect: textExpect.optional().describe('What must hold afterwards.'),
  })
  .describe('Reads a file of debugfs.');

/** Kinds of step by the key that names them; two kinds share `kfunc`. */
export const STEP_KEYS = [
  'call',
  'user',
  'test_run',
  'kfunc',
  'kernel',
  'stream_read',
  'write',
  'read',
  'pte',
  'tlb',
  'check',
  'destroy',
  'create',
  'mmap',
  'munmap',
  'mremap',
  'fork',
  'exit',
  'slab',
  'kfence',
  'debugfs',
] as const;
export type StepKey = (typeof STEP_KEYS)[number];

export const step = z
  .union([
    call,
    user,
    testRun,
    alloc,
    pages,
    kernel,
    streamRead,
    write,
    read,
    pte,
    tlb,
    check,
    destroy,
    create,
    mmap,
    munmap,
    mremap,
    fork,
    exit,
    slab,
    kfence,
    debugfs,
  ])
  .meta({ id: 'step', description: 'A step: one of the kinds, by the key that names it.' });

export type Step = z.output<typeof step>;
export type MeanwhileData = NonNullable<z.output<typeof meanwhile>>[number];
export type Raise = z.output<typeof raise>;
export type CallStep = z.output<typeof call>;
export type UserStep = z.output<typeof user>;
export type TestRunStep = z.output<typeof testRun>;
export type AllocStep = z.output<typeof alloc>;
export type PagesStep = z.output<typeof pages>;
export type KernelStep = z.output<typeof kernel>;
export type StreamReadStep = z.output<typeof streamRead>;
export type WriteStep = z.output<typeof write>;
export type ReadStep = z.output<typeof read>;
export type PteStep = z.output<typeof pte>;
export type TlbStep = z.output<typeof tlb>;
export type CheckStep = z.output<typeof check>;
export type DestroyStep = z.output<typeof destroy>;
export type CreateStep = z.output<typeof create>;
export type MmapStep = z.output<typeof mmap>;
export type MunmapStep = z.output<typeof munmap>;
export type MremapStep = z.output<typeof mremap>;
export type ForkStep = z.output<typeof fork>;

/** The steps of a place in the middle of a step. The schema has checked them: it refers to itself there. */
export function stepsOf(meanwhile: MeanwhileData): readonly Step[] {
  return meanwhile.steps as readonly Step[];
}

/** A step with the path to it, and all those in the middle of it. */
export function withInner(step: Step, path: readonly (string | number)[]): [Step, (string | number)[]][] {
  const inner = 'meanwhile' in step ? (step.meanwhile ?? []) : [];
  return [
    [step, [...path]],
    ...inner.flatMap((place, i) =>
      stepsOf(place).flatMap((each, j) => withInner(each, [...path, 'meanwhile', i, 'steps', j])),
    ),
  ];
}
export type SlabStep = z.output<typeof slab>;
export type KfenceStep = z.output<typeof kfence>;
export type DebugfsStep = z.output<typeof debugfs>;
