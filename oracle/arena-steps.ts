/** Random sequences of what can be done to an arena. Everything in them is plain data, so that they print and shrink. */
import fc from 'fast-check';

/** What fails once while a step runs, after so many attempts that succeed. */
export interface Failure {
  readonly what: 'page' | 'pages' | 'range_node' | 'arena_free_span' | 'spinlock';
  readonly after: number;
}

/** A range of pages as a caller names it: page number from the start of the mapping, which may be negative. */
interface Range {
  readonly page: number;
  /** Bytes by which the address misses the start of the page. */
  readonly off: number;
  readonly count: number;
}

/**
 * Who asks: a program that may sleep, one that may not, or kernel code in process context, which has a function
 * for allocating only.
 */
export type Caller = 'program' | 'non-sleepable' | 'kernel';

interface Touch {
  readonly page: number;
  readonly cpu: 0 | 1;
  /** Null loads. */
  readonly store: number | null;
}

/** Where in its page a touch of 8 bytes begins: at the word that is compared, or across the end of the page. */
export const WORD = 8;
export const ACROSS = 4092;
type Place = typeof WORD | typeof ACROSS;

export type Step = { readonly failure: Failure | null } & (
  | ({ readonly do: 'alloc'; readonly by: Caller; readonly anywhere: boolean } & Range)
  | ({ readonly do: 'free'; readonly by: 'program' | 'non-sleepable' } & Range)
  | ({ readonly do: 'reserve' } & Range)
  | { readonly do: 'deferred'; readonly run: 'irq_work' | 'worker' | 'both' }
  /** `guard`: the page is one of those behind the band. */
  | ({ readonly do: 'kernel touch'; readonly place: Place; readonly guard: boolean } & Touch)
  | ({ readonly do: 'program touch'; readonly place: Place } & Touch)
  | ({ readonly do: 'user touch'; readonly process: number } & Touch)
  | { readonly do: 'mmap' | 'munmap'; readonly process: number }
);

/** How the arena of a sequence is made. */
export interface Setup {
  readonly max_entries: number;
  /** Pages of the mappings; the same as max_entries where map_extra says where they are. */
  readonly mapped: number;
  readonly user: bigint;
  readonly map_extra: boolean;
  readonly segvOnFault: boolean;
}

export interface Case {
  readonly setup: Setup;
  readonly steps: readonly Step[];
}

export const PROCESSES = 3;
/** Pages before and behind the arena that steps may name, too. */
export const MARGIN = 6;
/** Pages of the upper guard. */
export const GUARD_PAGES = 8;

/** Which page of the upper guard a step means: never the last one, behind which nothing is recovered. */
export function guardPage(page: number): number {
  return (page + MARGIN) % (GUARD_PAGES - 1);
}

/** Somewhere in the band; at its start; and against the next 4 GiB boundary. */
type Where = 'middle' | 'start' | 'end';

function setupOf(max_entries: number, where: Where, delta: number, segvOnFault: boolean): Setup {
  // Without map_extra the first mapping says how long it is, whatever max_entries is.
  const mapped = max_entries + delta;
  const end = 0x7f7e_0000_0000n - BigInt(mapped) * 4096n;
  const user = { middle: 0x7f7d_2620_0000n, start: 0x7f7d_0000_0000n, end }[where];
  return { max_entries, mapped, user, map_extra: delta === 0, segvOnFault };
}

const small = fc
  .tuple(fc.constantFrom<Where>('middle', 'start', 'end'), fc.constantFrom(0, 0, -5, 4), fc.nat(4))
  .map(([where, delta, flag]) => setupOf(20, delta === 0 ? where : 'middle', delta, flag === 0));
/** More pages than are mapped in one go. */
const large = fc.constant(setupOf(2200, 'middle', 0, false));

/** Now and then one of these, mostly at its first attempt. */
function failure(...what: Failure['what'][]): fc.Arbitrary<Failure | null> {
  const after = fc.nat(5).map((n) => Math.max(0, n - 3));
  return fc.option(fc.record({ what: fc.constantFrom(...what), after }), { freq: 4 });
}

function range(pages: number, longest: number): fc.Arbitrary<Range> {
  return fc.record({
    page: fc.oneof(
      { weight: 4, arbitrary: fc.nat(5) },
      { weight: 4, arbitrary: fc.nat(pages - 1) },
      { weight: 1, arbitrary: fc.integer({ min: -MARGIN, max: pages + MARGIN - 1 }) },
    ),
    off: fc.nat(15).map((n) => (n === 15 ? 0x800 : 0)),
    count: fc.oneof(
      { weight: 3, arbitrary: fc.constant(1) },
      { weight: 3, arbitrary: fc.integer({ min: 1, max: 12 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: longest }) },
    ),
  });
}

function step({ max_entries, mapped }: Setup): fc.Arbitrary<Step> {
  const pages = Math.max(max_entries, mapped);
  const ranges = range(pages, pages + 2);
  const page = fc.oneof(
    { weight: 5, arbitrary: fc.nat(5) },
    { weight: 4, arbitrary: fc.nat(pages - 1) },
    { weight: 1, arbitrary: fc.integer({ min: -MARGIN, max: pages + MARGIN - 1 }) },
  );
  const touch = {
    page,
    cpu: fc.constantFrom(0 as const, 1 as const),
    store: fc.option(fc.integer({ min: 1, max: 0xffff }), { freq: 1 }),
    failure: fc.constant(null),
  };
  const place = fc.nat(7).map((n): Place => (n === 7 ? ACROSS : WORD));
  const process = fc.nat(PROCESSES - 1);
  const anywhere = fc.boolean();
  const by = fc.constantFrom<Caller>('program', 'non-sleepable', 'kernel');
  const freer = fc.constantFrom('program' as const, 'non-sleepable' as const);
  const alloc = fc
    .tuple(
      ranges,
      fc.record({
        by,
        anywhere,
        failure: failure('page', 'page', 'page', 'pages', 'range_node', 'arena_free_span', 'spinlock'),
      }),
    )
    .map(([at, how]): Step => ({ do: 'alloc', ...at, ...how }));
  const free = fc
    .tuple(ranges, fc.record({ by: freer, failure: failure('range_node', 'arena_free_span', 'spinlock') }))
    .map(([at, how]): Step => ({ do: 'free', ...at, ...how }));
  const reserve = fc
    .tuple(ranges, failure('range_node', 'spinlock'))
    .map(([at, fails]): Step => ({ do: 'reserve', ...at, failure: fails }));
  const run = fc.constantFrom('irq_work' as const, 'worker' as const, 'both' as const, 'both' as const);
  return fc.oneof(
    { weight: 7, arbitrary: alloc },
    { weight: 5, arbitrary: free },
    { weight: 4, arbitrary: reserve },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('deferred' as const),
        run,
        failure: failure('range_node', 'spinlock'),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constant('kernel touch' as const),
        guard: fc.nat(9).map((n) => n === 9),
        place,
        ...touch,
      }),
    },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('program touch' as const), place, ...touch }) },
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant('user touch' as const),
        process,
        ...touch,
        failure: failure('page', 'range_node', 'spinlock'),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant('mmap' as const), process, failure: fc.constant(null) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant('munmap' as const), process, failure: fc.constant(null) }),
    },
  );
}

/**
 * A page that is allocated, used, freed and used again, all by the same CPU: only then does it show whether anybody
 * remembers where the page was.
 */
function reuse(): fc.Arbitrary<Step[]> {
  return fc
    .record({
      page: fc.nat(5),
      count: fc.integer({ min: 1, max: 3 }),
      cpu: fc.constantFrom(0 as const, 1 as const),
      user: fc.boolean(),
      by: fc.constantFrom('program' as const, 'non-sleepable' as const),
    })
    .map(({ page, count, cpu, user, by }): Step[] => {
      const range = { page, count, off: 0, failure: null };
      const touch: Step = user
        ? { do: 'user touch', process: 0, page, cpu, store: null, failure: null }
        : { do: 'program touch', page, cpu, store: null, place: WORD, failure: null };
      return [
        { do: 'alloc', by: 'program', anywhere: false, ...range },
        touch,
        { do: 'free', by, ...range },
        { do: 'deferred', run: 'both', failure: null },
        touch,
      ];
    });
}

/** An arena and what is done to it, some `longest` steps at most. */
export function cases(longest: number): fc.Arbitrary<Case> {
  return fc.oneof({ weight: 15, arbitrary: small }, { weight: 1, arbitrary: large }).chain((setup) => {
    const one = step(setup).map((each) => [each]);
    const some = fc.oneof({ weight: 24, arbitrary: one }, { weight: 1, arbitrary: reuse() });
    return fc.record({
      setup: fc.constant(setup),
      steps: fc
        .array(some, { minLength: Math.min(20, longest), maxLength: longest, size: 'max' })
        .map((parts) => parts.flat()),
    });
  });
}
