/** What a fixture says about KFENCE and the slab allocators: the machine, steps, expectations. */
import { z } from 'zod';
import { SLAB_FLAGS } from '../../mm/slab-cache.js';
import { expressionOf, hexBytes, size } from './schema-values.js';

/** Numbers that are too large for a double come in decimal from the YAML reader. */
const POOL = /^(?:0x[0-9a-fA-F_]+|[0-9]+)$/;
const POOL_ERROR = 'the address of the pool is a number like 0xffff8c3f2e200000';

export const kfence = z
  .strictObject({
    objects: z.int().min(1).max(65535).describe('CONFIG_KFENCE_NUM_OBJECTS; 255 if left out.'),
    sample_interval: z
      .int()
      .min(0)
      .max(1_000_000)
      .describe('kfence.sample_interval, milliseconds; 0 is off. 100 if left out.'),
    skip_covered_thresh: z.int().min(0).max(100).describe('kfence.skip_covered_thresh, percent.'),
    burst: z.int().min(0).max(65535).describe('kfence.burst.'),
    check_on_panic: z.boolean().describe('kfence.check_on_panic.'),
    fault: z.enum(['report', 'oops', 'panic']).describe('kfence.fault.'),
    stress_test_faults: z.int().min(0).max(65535).describe('CONFIG_KFENCE_STRESS_TEST_FAULTS.'),
    kasan_hw_tags: z.boolean().describe('KASAN with hardware tags is on.'),
    pool: z
      .union([z.int(), z.string().regex(POOL, { error: POOL_ERROR })], { error: POOL_ERROR })
      .transform((value) => BigInt(String(value).replaceAll('_', '')))
      .describe(
        'Address of the pool, for a direct map that was moved. Left out, the pool is the last pages of the ram.',
      ),
    gate: z
      .enum(['open', 'sampled'])
      .describe(
        'open: every allocation that KFENCE can serve is served. sampled: one for each interval, and burst more. ' +
          'open if left out.',
      ),
    skip_covered: z
      .boolean()
      .describe('Allocations whose stack has an object already are skipped while the pool is nearly full.'),
    seed: z
      .int()
      .min(0)
      .max(0xffff_ffff)
      .describe(
        'Random numbers follow from it. Left out, each is the highest that can be: nothing is shuffled, objects lie ' +
          'on the right.',
      ),
    draws: z
      .array(z.int().min(0).max(0xffff_ffff))
      .describe('The first random numbers: the seed of the hashes, the shuffle, then what allocations draw.'),
  })
  .partial()
  .describe('The machine has KFENCE and slab allocators that code can call.');

export const cache = z
  .strictObject({
    name: z.string().min(1).max(40).optional().describe('What reports call it; its key if left out.'),
    size: size.describe('Size of its objects, 1 byte to 8 KiB.'),
    align: z.int().min(1).max(4096).optional().describe('Alignment, a power of two; 1 if left out.'),
    flags: z
      .array(z.enum(Object.keys(SLAB_FLAGS) as [string, ...string[]]))
      .optional()
      .describe('SLAB_* flags.'),
    ctor: hexBytes.optional().describe('The constructor: bytes that it stores at the start of an object.'),
  })
  .describe('A cache of objects, made with kmem_cache_create(). Its name is the address of its struct.');

const placement = z
  .union([
    z.literal('none'),
    z.strictObject({
      slot: z.int().min(0).max(65534).optional().describe('Which object; the next free one if left out.'),
      side: z.enum(['left', 'right']).optional().describe('Where in its page; drawn if left out.'),
    }),
  ])
  .describe('none: KFENCE does not take it.');

export const allocations = z
  .array(placement)
  .optional()
  .describe('What becomes of the allocations of the step, in order; those behind the list go as usual.');

export const SLAB_CALLS = [
  'kmem_cache_alloc',
  'kmalloc',
  'krealloc',
  'kmem_cache_free',
  'kfree',
  'ksize',
  'kmem_cache_shrink',
  'kmem_cache_destroy',
  'rcu_barrier',
] as const;
export type SlabCallName = (typeof SLAB_CALLS)[number];

export const slabArgs = z
  .strictObject({
    cache: z.string().optional().describe('Name of the cache, or of a kmalloc cache, e.g. kmalloc-32.'),
    size: expressionOf('Bytes.').optional(),
    gfp: expressionOf('Flags; GFP_KERNEL if left out.').optional(),
    ptr: expressionOf('The object.').optional(),
  })
  .optional()
  .describe('Its arguments.');

export const DEBUGFS_FILES = ['kfence/stats', 'kfence/objects'] as const;

const STATES = ['unused', 'allocated', 'rcu_freeing', 'freed'] as const;
export type ObjectState = (typeof STATES)[number];

const object = z
  .strictObject({
    state: z.enum(STATES).optional().describe('Its state.'),
    addr: expressionOf('Where it begins.').optional(),
    unprotected_page: expressionOf('The out-of-bounds access that opened a guard page, or 0.').optional(),
  })
  .meta({ id: 'kfenceObject' });

/** Counters of debugfs by short names. */
export const COUNTERS = {
  allocated: 'ALLOCATED',
  allocs: 'ALLOCS',
  frees: 'FREES',
  zombies: 'ZOMBIES',
  bugs: 'BUGS',
  incompatible: 'SKIP_INCOMPAT',
  capacity: 'SKIP_CAPACITY',
  covered: 'SKIP_COVERED',
} as const;
export type CounterKey = keyof typeof COUNTERS;

export const kfenceState = z
  .strictObject({
    enabled: z.boolean().optional().describe('kfence_enabled.'),
    allocated: expressionOf('currently allocated.').optional(),
    allocs: expressionOf('total allocations.').optional(),
    frees: expressionOf('total frees.').optional(),
    zombies: expressionOf('zombie allocations.').optional(),
    bugs: expressionOf('total bugs.').optional(),
    incompatible: expressionOf('skipped allocations (incompatible).').optional(),
    capacity: expressionOf('skipped allocations (capacity).').optional(),
    covered: expressionOf('skipped allocations (covered).').optional(),
    free: expressionOf('Objects on the freelist.').optional(),
    objects: z
      .record(z.string().regex(/^[0-9]+$/, { error: 'objects are named by their numbers' }), object)
      .optional()
      .describe('Objects by number.'),
  })
  .meta({ id: 'kfenceState' });

export type KfenceData = z.output<typeof kfence>;
export type CacheData = z.output<typeof cache>;
export type PlacementData = z.output<typeof placement>;
export type KfenceExpect = z.output<typeof kfenceState>;
