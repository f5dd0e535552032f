/**
 * Allocations and locks that fail because somebody asked for it: one plan for each kind, counted where the
 * kernel's code asks for the thing.
 */
import { type EDEADLK, ETIMEDOUT } from '../kernel/errno.js';
import { ANONYMOUS_OWNER } from '../mm/fault.js';
import { TABLE_OWNER } from '../mm/page_alloc.js';
import type { BpfEnv } from './env.js';

/** Owners of the pages of an arena, as the page allocator knows them. */
export const ARENA_PAGE_OWNER = 'bpf arena';
export const SCRATCH_PAGE_OWNER = 'bpf arena scratch';

/** Default of BpfEnv.allocationFails: while it stands, reports are not looked at element by element. */
export const nothingFails = (): boolean => false;

/** What the page allocator is asked for: pages of an arena, its scratch page, tables, anonymous pages. */
const PAGES = ['page', 'scratch_page', 'table', 'user_page'] as const;
/**
 * Objects: the arena and its vmalloc area, a range node, the record of a deferred free or of a mapping,
 * the array of page pointers of an allocation, an element of a stream, a pool and a range of it.
 */
const OBJECTS = [
  'bpf_arena',
  'vm_area',
  'range_node',
  'arena_free_span',
  'vma_list',
  'pages',
  'bpf_stream_elem',
  'gen_pool',
  'gen_pool_chunk',
] as const;
/** What can fail; `spinlock` is the attempt to take an arena's lock. */
export const FAILURE_POINTS = [...PAGES, ...OBJECTS, 'spinlock'] as const;
export type FailurePoint = (typeof FAILURE_POINTS)[number];

/** Points that the page allocator asks about, by the owner of the page. */
const PAGE_POINTS: ReadonlyMap<string, FailurePoint> = new Map([
  [ARENA_PAGE_OWNER, 'page'],
  [SCRATCH_PAGE_OWNER, 'scratch_page'],
  [TABLE_OWNER, 'table'],
  [ANONYMOUS_OWNER, 'user_page'],
]);

/** When something fails. */
export interface FailurePlan {
  readonly what: FailurePoint;
  /** So many attempts succeed first; 0 if left out. */
  readonly after?: number | undefined;
  /** So many fail then; all of them if left out. */
  readonly times?: number | undefined;
  /** `spinlock` only: what the attempt ends with; ETIMEDOUT if left out. */
  readonly errno?: typeof EDEADLK | typeof ETIMEDOUT | undefined;
}

interface Running {
  after: number;
  times: number;
  /** How often it has made something fail. */
  taken: number;
  readonly errno: number;
}

/** A plan that was made. */
export interface Injected {
  /** So many are still to succeed first. */
  readonly after: number;
  /** How often it has made something fail. */
  readonly taken: number;
}

export class Failures {
  readonly #plans = new Map<FailurePoint, Running>();
  readonly #taken = new Map<FailurePoint, number>();
  readonly #env: BpfEnv;

  constructor(env: BpfEnv) {
    this.#env = env;
  }

  /** Makes something fail; takes the place of what was planned for it. */
  inject({ what, after = 0, times = Number.POSITIVE_INFINITY, errno = ETIMEDOUT }: FailurePlan): Injected {
    const plan = { after, times, taken: 0, errno };
    this.#plans.set(what, plan);
    this.#watch();
    return plan;
  }

  /** Takes the plan for `what` back, or all of them. */
  clear(what?: FailurePoint): void {
    if (what === undefined) this.#plans.clear();
    else this.#plans.delete(what);
    this.#watch();
  }

  /** Sets all plans aside until the function returned is called; those made in between are gone then. */
  suspend(): () => void {
    const kept = [...this.#plans];
    this.clear();
    return () => {
      this.#plans.clear();
      for (const [what, plan] of kept) this.#plans.set(what, plan);
      this.#watch();
    };
  }

  /** How often `what` has failed since the start because of a plan. */
  taken(what: FailurePoint): number {
    return this.#taken.get(what) ?? 0;
  }

  /** True while a plan for `what` has failures left. */
  pending(what: FailurePoint): boolean {
    return this.#plans.has(what);
  }

  /** Asked at each attempt: does it fail? */
  fails(what: FailurePoint): boolean {
    return this.#plans.size > 0 && this.#take(what) !== null;
  }

  /** The same for a lock: a negative errno, or 0. */
  lockError(): number {
    if (this.#plans.size === 0) return 0;
    const plan = this.#take('spinlock');
    return plan === null ? 0 : -plan.errno;
  }

  #take(what: FailurePoint): Running | null {
    const plan = this.#plans.get(what);
    if (plan === undefined) return null;
    if (plan.after > 0) {
      plan.after -= 1;
      return null;
    }
    plan.times -= 1;
    plan.taken += 1;
    if (plan.times <= 0) this.clear(what);
    this.#taken.set(what, this.taken(what) + 1);
    return plan;
  }

  /** Nobody is asked where nothing is planned. */
  #watch(): void {
    const planned = (points: readonly FailurePoint[]) => points.some((point) => this.#plans.has(point));
    const env = this.#env;
    env.memory.pages.refuses = planned(PAGES) ? (owner) => this.#refuses(owner) : null;
    env.allocationFails = planned(OBJECTS) ? (what) => this.fails(what) : nothingFails;
  }

  #refuses(owner: string): boolean {
    const point = PAGE_POINTS.get(owner);
    return point !== undefined && this.fails(point);
  }
}
