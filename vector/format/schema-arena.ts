/** What a fixture says about arenas: the maps, their user mappings, failures to inject, their state. */
import { z } from 'zod';
import type { FailurePoint } from '../../bpf/failures.js';
import { expression, expressionOf } from './schema-values.js';

const after = z.int().min(0).max(1_000_000).optional().describe('How many succeed before; none if left out.');
const times = z
  .union([z.int().min(1).max(1_000_000), z.literal('all')], {
    error: 'a number of times is wanted here, or all',
  })
  .optional()
  .describe('How many fail then; 1 if left out. all: every one until the end of the step.');

/** What can be made to fail, by the names that fixtures have for it. */
export type InjectKey = Exclude<FailurePoint, 'spinlock'> | 'lock';
export const LOCK_ERRORS = ['EDEADLK', 'ETIMEDOUT'] as const;

const ALLOCATIONS: Readonly<Record<Exclude<InjectKey, 'lock'>, string>> = {
  page: 'Pages of arenas.',
  scratch_page: 'Scratch pages.',
  table: 'Pages for page tables.',
  user_page: 'Anonymous pages of user memory.',
  bpf_arena: 'struct bpf_arena.',
  vm_area: 'The area of the vmalloc space.',
  range_node: 'Nodes of the range tree.',
  arena_free_span: 'The records of frees that are put off.',
  vma_list: 'The records of user mappings.',
  pages: 'The array of pages that an allocation works with.',
  bpf_stream_elem: 'Elements of streams.',
  gen_pool: 'Pools of sched_ext.',
  gen_pool_chunk: 'Ranges of such pools.',
};

const failure = z
  .strictObject({ after, times })
  .meta({ id: 'failure', description: 'Which of the allocations fail. `{}`: the next one.' });

export const inject = z
  .strictObject({
    ...(Object.fromEntries(
      Object.entries(ALLOCATIONS).map(([what, text]) => [what, failure.describe(text).optional()]),
    ) as Record<keyof typeof ALLOCATIONS, z.ZodOptional<typeof failure>>),
    lock: z
      .union(
        [
          z.enum(LOCK_ERRORS),
          z.strictObject({ errno: z.enum(LOCK_ERRORS).describe('What the attempt says.'), after, times }),
        ],
        { error: 'EDEADLK or ETIMEDOUT is wanted here' },
      )
      .optional()
      .describe("Attempts to take an arena's lock."),
  })
  .meta({
    id: 'inject',
    description:
      'What fails during this. It is a mistake of the fixture when something that was to fail was not even tried.',
  })
  .optional();

const processName = z
  .string()
  .max(15)
  .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, {
    error: 'a process has a name of letters, digits and _, and it does not begin with a digit',
  });

export const process = processName
  .meta({
    id: 'process',
    description:
      "Another process that does it, made when it is first named; the CPU's own task if left out. It has user text, a " +
      'stack, and what it maps.',
  })
  .optional();

export const forkShape = { fork: processName.describe('Name of the child, which no process has had.') };
export const exitShape = { exit: processName.describe('Name of the process.') };

export const arena = z
  .strictObject({
    max_entries: expressionOf('Pages.'),
    map_extra: expressionOf('user_vm_start; 0 leaves it open until the first mmap.').optional(),
    flags: expressionOf('map_flags; BPF_F_MMAPABLE (0x400) if left out.').optional(),
    at: expressionOf(
      'Address of the vmalloc area (kern_vm->addr); the next free one if left out.',
    ).optional(),
    map_type: expressionOf(
      'map_type; BPF_MAP_TYPE_ARENA (33) if left out. A map of another type is good for being refused.',
    ).optional(),
    key_size: expressionOf('key_size; 0 if left out.').optional(),
    value_size: expressionOf('value_size; 0 if left out.').optional(),
    numa_node: expressionOf('numa_node; looked at with BPF_F_NUMA_NODE among the flags.').optional(),
    map_ifindex: expressionOf('map_ifindex, a device to offload to; 0 (none) if left out.').optional(),
    btf_key_type_id: expressionOf('btf_key_type_id; 0 if left out.').optional(),
    btf_value_type_id: expressionOf('btf_value_type_id; 0 if left out.').optional(),
    btf_vmlinux_value_type_id: expressionOf('btf_vmlinux_value_type_id; 0 if left out.').optional(),
    capable: z.boolean().optional().describe('The creator has CAP_BPF; true if left out.'),
    when: z
      .enum(['start', 'step'])
      .optional()
      .describe('start (if left out): it is there before the first step. step: a step creates it.'),
    inject,
    expect: expressionOf('The errno with which the kernel refuses to create it, e.g. -E2BIG.').optional(),
  })
  .describe('A map of type BPF_MAP_TYPE_ARENA.');

/** Protections of a user mapping of an arena. */
export const MMAP_PROTS = ['none', 'r', 'rw', 'rx', 'rwx'] as const;
export const MMAP_FLAGS = ['shared', 'private', 'fixed', 'fixed_noreplace'] as const;
export const MREMAP_FLAGS = ['maymove', 'fixed', 'dontunmap'] as const;

export const createShape = {
  create: z.string().describe('Name of the arena.'),
};

export const mmapShape = {
  mmap: z
    .strictObject({
      arena: z.string().describe('Name of the arena.'),
      addr: expressionOf(
        'The address wanted; user_vm_start if left out, or 0 (the kernel chooses) while the arena has none.',
      ).optional(),
      length: expressionOf('Bytes; max_entries pages if left out.').optional(),
      prot: z.enum(MMAP_PROTS).optional().describe('PROT_*; rw if left out.'),
      flags: z.array(z.enum(MMAP_FLAGS)).optional().describe('MAP_*; [shared] if left out.'),
      pgoff: expressionOf('Offset in pages; 0 if left out.').optional(),
    })
    .describe('What is mapped, and where.'),
};

export const munmapShape = {
  munmap: z
    .strictObject({ addr: expressionOf('First address.'), length: expressionOf('Bytes.') })
    .describe('What is unmapped.'),
};

export const mremapShape = {
  mremap: z
    .strictObject({
      addr: expressionOf('First address of the mapping.'),
      length: expressionOf('Its size in bytes.'),
      new_length: expressionOf('The new size in bytes; the old one if left out.').optional(),
      flags: z.array(z.enum(MREMAP_FLAGS)).optional().describe('MREMAP_*; none if left out.'),
      new_addr: expressionOf('Where it goes, with fixed.').optional(),
    })
    .describe('What is moved or resized.'),
};

const RANGES = /^(none|[0-9]+(-[0-9]+)?( [0-9]+(-[0-9]+)?)*)$/;
const RANGES_FORM = 'ranges of pages are written like "0-2 4 7-15", or none';
const ranges = z
  .union([z.string().regex(RANGES, { error: RANGES_FORM }), z.int().min(0)], { error: RANGES_FORM })
  .transform(String);

export const arenaState = z
  .strictObject({
    exists: z
      .boolean()
      .optional()
      .describe('It was created and is not destroyed. Leaked ones are still there.'),
    pages: expressionOf('Pages of the arena that are mapped, the scratch page not counted.').optional(),
    scratched: expressionOf("How many entries hold the arena's scratch page.").optional(),
    free: expressionOf('Pages that the allocator has left.').optional(),
    ranges: ranges
      .optional()
      .describe('The free pages as the range tree has them, ascending: "0-2 4 7-15", or none.'),
    deferred: ranges
      .optional()
      .describe('Ranges whose freeing is put off, the newest first: "0-1 7", or none.'),
    queued: z
      .enum(['none', 'irq_work', 'work'])
      .optional()
      .describe('What waits to run: free_irq, free_work (it goes first here), or none of them.'),
    user_vm_start: expressionOf('user_vm_start.').optional(),
    user_vm_end: expressionOf('user_vm_end.').optional(),
    mappings: expressionOf('User mappings: records in vma_list.').optional(),
  })
  .meta({ id: 'arenaState' });

const frame = z
  .strictObject({
    at: expressionOf('An address that maps the page.'),
    refs: expressionOf('page_ref_count(): references to it.').optional(),
    mapped: expressionOf('How many user entries map it.').optional(),
    owner: z.string().optional().describe('What it was taken for, e.g. `bpf arena`.'),
  })
  .meta({ id: 'frame' });

/** State of pages; part of the state that every step may expect. */
export const pageStateShape = {
  frames: z.array(frame).optional().describe('Pages behind addresses.'),
  same_page: z
    .array(z.array(expression).min(2, { error: 'two addresses or more are compared' }))
    .optional()
    .describe('Lists of addresses, all of one list mapped to the same byte of ram.'),
  in_use: z
    .record(z.string(), expression)
    .optional()
    .describe(
      'Pages of the ram that are taken, by what for: `bpf arena`, `bpf arena scratch`, `page table`, …',
    ),
  arena_areas: expressionOf('Areas of the vmalloc space that arenas have (VM_SPARSE).').optional(),
};

export const decision = z
  .strictObject({
    fn: z.string().optional().describe('The function that decides; any if left out.'),
    test: z.string().describe('The test in the words of the source, as `kfault explain` prints it.'),
    value: z.union([z.boolean(), z.null(), expression]).describe('What it came to.'),
  })
  .meta({ id: 'decision' });

/** What happened in a step, steps in the middle of it not counted. */
export const happenedShape = {
  path: z
    .array(z.string())
    .optional()
    .describe('Kernel functions entered in the step, in this order; others may come between them.'),
  not: z.array(z.string()).optional().describe('Kernel functions that must not be entered in the step.'),
  decisions: z
    .array(decision)
    .optional()
    .describe('Decisions taken in the step, in this order; others may come between.'),
  calls: z
    .record(z.string(), expression)
    .optional()
    .describe('How often kernel functions are entered in the step, by name.'),
  tlb_flushes: z
    .array(z.union([z.literal('all'), expression]))
    .optional()
    .describe(
      'Translations that the kernel drops on the CPU of the step, in order: addresses of pages, or all. `[]`: none.',
    ),
  pages_taken: expressionOf('Pages that were taken from the page allocator in the step.').optional(),
  pages_freed: expressionOf('Pages that went back to the page allocator in the step.').optional(),
};

export type ArenaData = z.output<typeof arena>;
export type InjectData = NonNullable<z.output<typeof inject>>;
export type ArenaStateExpect = z.output<typeof arenaState>;
export type PageStateExpect = { [K in keyof typeof pageStateShape]?: z.output<(typeof pageStateShape)[K]> };
export type HappenedExpect = { [K in keyof typeof happenedShape]?: z.output<(typeof happenedShape)[K]> };
