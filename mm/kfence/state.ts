/**
 * The state of KFENCE on one machine: what mm/kfence/core.c (bpf-next merge 8496d9020ff3) has in static
 * variables, and the functions of it that only look or compute.
 *
 * Left out: locks as such (nothing runs at the same time; that one is held can be said), KCSAN, the
 * metadata's own pages.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { hex, pageOf, u64 } from '../../emu/address.js';
import type { Clock } from '../../kernel/clock.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { HIGHEST, type Random } from '../../kernel/random.js';
import type { Memory } from '../memory.js';
import type { SlabInit } from '../slab-cache.js';
import { CoverageFilter } from './covered.js';
import { frameOf, type KfenceFrame, placeIn } from './frames.js';
import { KFENCE_STACK_DEPTH, KfenceError, type kfence_fault, type kfence_metadata } from './kfence.js';

const PAGE = BigInt(PAGE_SIZE);

/** Names of the counters, in the order of debugfs. */
export const COUNTER_NAMES = {
  ALLOCATED: 'currently allocated',
  ALLOCS: 'total allocations',
  FREES: 'total frees',
  ZOMBIES: 'zombie allocations',
  BUGS: 'total bugs',
  SKIP_INCOMPAT: 'skipped allocations (incompatible)',
  SKIP_CAPACITY: 'skipped allocations (capacity)',
  SKIP_COVERED: 'skipped allocations (covered)',
} as const;
export type Counter = keyof typeof COUNTER_NAMES;

/** How a kernel with KFENCE is built and booted. */
export interface KfenceOptions {
  /** CONFIG_KFENCE_NUM_OBJECTS, 1 to 65535. */
  readonly num_objects?: number | undefined;
  /** CONFIG_KFENCE_STRESS_TEST_FAULTS; 0 is off. */
  readonly stress_test_faults?: number | undefined;
  /** kfence.sample_interval in milliseconds; 0 is off. */
  readonly sample_interval?: number | undefined;
  /** kfence.skip_covered_thresh in percent. */
  readonly skip_covered_thresh?: number | undefined;
  /** kfence.burst */
  readonly burst?: number | undefined;
  /** kfence.check_on_panic */
  readonly check_on_panic?: boolean | undefined;
  /** kfence.fault */
  readonly fault?: 'report' | 'oops' | 'panic' | undefined;
  /** KASAN with hardware tags is on, which switches KFENCE off. */
  readonly kasan_hw_tags?: boolean | undefined;
  /**
   * Virtual address of the pool, page aligned. Left out it is in the direct map of the last pages of the
   * ram. One outside of the direct map is where the pool is mapped as well: a direct map that was moved.
   */
  readonly pool?: bigint | undefined;
  /**
   * `open`: every allocation that KFENCE can serve is served. `sampled`: as in the kernel, the first one of
   * each interval, and `burst` more.
   */
  readonly gate?: 'open' | 'sampled' | undefined;
  /** The filter that skips allocations whose stack has an object already; needed to see it at work. */
  readonly skip_covered?: boolean | undefined;
  readonly random?: Random | undefined;
}

export type KfenceSettings = Required<{ [K in keyof KfenceOptions]: Exclude<KfenceOptions[K], undefined> }>;

/** What happens to an allocation, instead of what the gate and the random number say. */
export type Placement = { readonly kind: 'none' } | GuardedPlacement;

export interface GuardedPlacement {
  readonly kind: 'guarded';
  /** Which object; the first one of the freelist if left out. */
  readonly slot?: number | undefined;
  readonly side?: 'left' | 'right' | undefined;
}

export interface KfenceDeps {
  readonly memory: Memory;
  readonly clock: Clock;
  readonly init: SlabInit;
  kallsyms_lookup_name(name: string): bigint;
}

/** KFENCE of one machine. */
export class Kfence {
  readonly settings: KfenceSettings;
  /** Address of the pool, 0n: there is none. */
  __kfence_pool = 0n;
  /** Physical address of the pool's first page. */
  poolPa = -1;
  readonly KFENCE_POOL_SIZE: number;
  kfence_enabled = false;
  disabled_by_warn = false;
  kfence_sample_interval: number;
  kfence_fault: Exclude<kfence_fault, 'none'>;
  /** Null until the pool is initialised. */
  kfence_metadata: readonly kfence_metadata[] | null = null;
  /** The head comes first. */
  readonly kfence_freelist: kfence_metadata[] = [];
  /** More than 0: closed. */
  kfence_allocation_gate = 1;
  /** When toggle_allocation_gate() runs next, microseconds; NaN when it is not queued. */
  timerAt = Number.NaN;
  checksOnPanic = false;
  stack_hash_seed = 0;
  readonly counters: Record<Counter, number> = {
    ALLOCATED: 0,
    ALLOCS: 0,
    FREES: 0,
    ZOMBIES: 0,
    BUGS: 0,
    SKIP_INCOMPAT: 0,
    SKIP_CAPACITY: 0,
    SKIP_COVERED: 0,
  };
  readonly covered: CoverageFilter;
  /** Objects whose free waits for a grace period, in the order of call_rcu(). */
  readonly rcu: kfence_metadata[] = [];
  /** What becomes of the next allocations, one by one. */
  readonly placements: Placement[] = [];
  /** The callers of an allocator that no guest code called, innermost first. */
  callers: readonly bigint[] = [];
  readonly #poolSize: bigint;

  constructor(
    readonly deps: KfenceDeps,
    options: KfenceOptions | null = null,
  ) {
    const settings = { ...DEFAULTS, ...given(options ?? { sample_interval: 0 }) };
    const { num_objects } = settings;
    if (!Number.isInteger(num_objects) || num_objects < 1 || num_objects > 65535) {
      throw new MachineRefusal(`${num_objects} objects: CONFIG_KFENCE_NUM_OBJECTS is 1 to 65535`);
    }
    this.settings = settings;
    this.KFENCE_POOL_SIZE = (num_objects + 1) * 2 * PAGE_SIZE;
    this.#poolSize = BigInt(this.KFENCE_POOL_SIZE);
    this.kfence_sample_interval = settings.sample_interval;
    this.kfence_fault = settings.fault;
    this.covered = new CoverageFilter(num_objects);
  }

  /** CONFIG_KFENCE_NUM_OBJECTS */
  get num_objects(): number {
    return this.settings.num_objects;
  }

  /** is_kfence_address(): the range test wraps, and comes before the test for a pool, as in the kernel. */
  is_kfence_address(addr: bigint): boolean {
    return u64(addr - this.__kfence_pool) < this.#poolSize && this.__kfence_pool !== 0n;
  }

  /** The object of an object page or of the guard page behind it; null for others. */
  addr_to_metadata(addr: bigint): kfence_metadata | null {
    if (!this.is_kfence_address(addr)) return null;
    const index = Number((addr - this.__kfence_pool) / (PAGE * 2n)) - 1;
    return this.kfence_metadata?.[index] ?? null;
  }

  /** Address of the page of object `index`. */
  objectPage(index: number): bigint {
    return this.__kfence_pool + BigInt(index + 1) * PAGE * 2n;
  }

  metadata_to_pageaddr(here: ThisCpu, meta: kfence_metadata): bigint {
    const pageaddr = this.objectPage(meta.index);
    if (this.KFENCE_WARN_ON(here, 'metadata_to_pageaddr', this.kfence_metadata?.[meta.index] !== meta))
      return 0n;
    if (this.KFENCE_WARN_ON(here, 'metadata_to_pageaddr', pageOf(meta.addr) !== pageaddr)) return 0n;
    return pageaddr;
  }

  /** A warning switches KFENCE off for good. Says `condition` back. */
  KFENCE_WARN_ON(here: ThisCpu, fn: keyof typeof WARN_SITES, condition: boolean): boolean {
    if (!condition) return false;
    const { line, frame } = WARN_SITES[fn];
    here.kernel.warn(here, `mm/kfence/core.c:${line}`, placeIn(frame), null);
    this.kfence_enabled = false;
    this.disabled_by_warn = true;
    return true;
  }

  kfence_protect(here: ThisCpu, addr: bigint): boolean {
    const done = here.arch.kfence_protect_page(here, pageOf(addr), true);
    return !this.KFENCE_WARN_ON(here, 'kfence_protect', !done);
  }

  /** False when the mapping cannot be changed. */
  kfence_unprotect(here: ThisCpu, addr: bigint): boolean {
    const done = here.arch.kfence_protect_page(here, pageOf(addr), false);
    return !this.KFENCE_WARN_ON(here, 'kfence_unprotect', !done);
  }

  /** local_clock(): nanoseconds since boot. */
  local_clock(): number {
    return this.deps.clock.microseconds * 1000;
  }

  /** Physical address of an address of the pool. The pool is read and written past the page tables. */
  physical(addr: bigint): number {
    if (!this.is_kfence_address(addr)) throw new KfenceError(`${hex(addr)} is not in the KFENCE pool`);
    return this.poolPa + Number(addr - this.__kfence_pool);
  }

  /** memzero_explicit() */
  memzero(addr: bigint, size: number): void {
    this.deps.memory.ram.fill(this.physical(addr), size, 0);
  }

  /**
   * stack_trace_save(): the functions of KFENCE and the allocator, which are host code, and then the stack
   * that `here.regs` begin; where no guest code called, `callers`.
   * @param frames innermost first
   */
  stack_trace_save(here: ThisCpu, frames: readonly KfenceFrame[]): bigint[] {
    const entries = frames.map((name) => {
      const { fn, offset } = frameOf(name);
      return this.deps.kallsyms_lookup_name(fn) + BigInt(offset);
    });
    if (here.regs === null) entries.push(...this.callers);
    else entries.push(...stack_trace_save_regs(here));
    return entries.slice(0, KFENCE_STACK_DEPTH);
  }

  /** The stack of debugfs file `stats`. */
  stats_show(): string {
    const lines = Object.entries(COUNTER_NAMES).map(
      ([counter, name]) => `${name}: ${this.counters[counter as Counter]}\n`,
    );
    return `enabled: ${this.kfence_enabled ? 1 : 0}\n${lines.join('')}`;
  }
}

/** The stack that the registers of an exception, or of a call into host code, begin; innermost first. */
export function stack_trace_save_regs(here: ThisCpu): bigint[] {
  const entries: bigint[] = [];
  if (here.regs === null) return entries;
  here.arch.arch_stack_walk(here, here.regs, (addr) => entries.push(addr) < KFENCE_STACK_DEPTH);
  return entries;
}

/** Lines of the warnings in mm/kfence/core.c, chosen: no report of the modelled version was found. */
const WARN_SITES = {
  kfence_protect: { line: 258, frame: 'kfence_protect' },
  kfence_unprotect: { line: 263, frame: 'kfence_unprotect' },
  metadata_to_pageaddr: { line: 275, frame: '__kfence_alloc' },
  kfence_guarded_free: { line: 612, frame: 'kfence_guarded_free' },
} as const satisfies Readonly<Record<string, { line: number; frame: KfenceFrame }>>;

const DEFAULTS: KfenceSettings = {
  num_objects: 255,
  stress_test_faults: 0,
  sample_interval: 100,
  skip_covered_thresh: 75,
  burst: 0,
  check_on_panic: false,
  fault: 'report',
  kasan_hw_tags: false,
  pool: 0n,
  gate: 'open',
  skip_covered: false,
  random: HIGHEST,
};

function given(options: KfenceOptions): Partial<KfenceSettings> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
