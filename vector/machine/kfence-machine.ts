/** KFENCE and the allocators of a booted system, as the steps of a fixture use them. */

import type { ThisCpu } from '../../arch/arch.js';
import type { System } from '../../boot/system.js';
import type { Primitive } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';
import { MachineRefusal } from '../../kernel/machine-refusal.js';
import { HIGHEST, ListedRandom, SeededRandom } from '../../kernel/random.js';
import { param_set_sample_interval } from '../../mm/kfence/init.js';
import { KfenceError, type kfence_metadata } from '../../mm/kfence/kfence.js';
import { show_objects } from '../../mm/kfence/report.js';
import type { Counter, KfenceOptions, Placement } from '../../mm/kfence/state.js';
import {
  __kmalloc_noprof,
  kfree,
  kmem_cache_alloc_noprof,
  kmem_cache_destroy,
  kmem_cache_free,
  krealloc_node_align_noprof,
  ksize,
  rcu_barrier,
  SlabError,
} from '../../mm/slab.js';
import { type kmem_cache, SLAB_FLAGS } from '../../mm/slab-cache.js';
import type {
  CacheData,
  DEBUGFS_FILES,
  KfenceData,
  ObjectState,
  PlacementData,
} from '../format/schema-kfence.js';
import { hostCall } from './host-call.js';
import { type KfenceMachine, type KfenceView, type SlabCall, StepRefusal } from './machine.js';

const STATE_NAMES: readonly ObjectState[] = ['unused', 'allocated', 'rcu_freeing', 'freed'];

/** What boot is told. */
export function kfenceOptions(data: KfenceData): KfenceOptions {
  const { objects, seed, draws, ...rest } = data;
  const then = seed === undefined ? HIGHEST : new SeededRandom(seed);
  return {
    ...rest,
    num_objects: objects,
    random: draws === undefined ? then : new ListedRandom(draws, then),
  };
}

/** What the kernel cannot do there, and whoever wrote the fixture should know. */
export function isKfenceRefusal(error: unknown): error is Error {
  return error instanceof KfenceError || error instanceof SlabError || error instanceof MachineRefusal;
}

export class SystemKfence implements KfenceMachine {
  readonly #system: System;
  /** Caches of the fixture by their names there. */
  readonly #caches = new Map<string, kmem_cache>();

  constructor(system: System) {
    this.#system = system;
  }

  /** Makes a cache; returns the address of its struct. */
  create(key: string, { name = key, size, align, flags = [], ctor }: CacheData): bigint {
    const bits = flags.reduce((sum, flag) => sum | (SLAB_FLAGS[flag] ?? 0), 0);
    const made = this.#system.kernel.slab.kmem_cache_create({ name, size, align, flags: bits, ctor });
    this.#caches.set(key, made);
    return made.address;
  }

  get pool(): bigint {
    return this.#system.kernel.kfence.__kfence_pool;
  }

  addressOf(slot: number): bigint {
    return this.#object(slot).addr;
  }

  *during<T>(
    allocations: readonly PlacementData[],
    callers: readonly bigint[],
    work: () => Delegate<T>,
  ): Path<T> {
    const { kfence } = this.#system.kernel;
    // In the middle of another step, whose allocations wait.
    const waiting = kfence.placements.splice(0);
    const outer = kfence.callers;
    kfence.placements.push(...allocations.map(placementOf));
    kfence.callers = callers;
    try {
      const result = yield* work();
      if (kfence.placements.length > 0) {
        throw new StepRefusal(`${kfence.placements.length} of the step's allocations did not happen`);
      }
      return result;
    } catch (error) {
      if (isKfenceRefusal(error)) throw new StepRefusal(error.message);
      throw error;
    } finally {
      kfence.placements.splice(0, kfence.placements.length, ...waiting);
      kfence.callers = outer;
    }
  }

  slabCall(cpu: number, call: SlabCall): Delegate<bigint> {
    const here = this.#system.here(cpu);
    const { fn, cache, size, ptr } = call;
    const args: Record<string, Primitive> = {};
    for (const [key, value] of Object.entries({ cache, size, ptr })) if (value !== null) args[key] = value;
    return hostCall(here, fn, args, () => this.#run(here, call));
  }

  *#run(here: ThisCpu, { fn, cache, size, gfp, ptr }: SlabCall): Path<bigint> {
    const { slab } = this.#system.kernel;
    const pointer = ptr ?? 0n;
    switch (fn) {
      case 'kmem_cache_alloc':
        return yield* kmem_cache_alloc_noprof(here, slab, this.#cache(cache), gfp);
      case 'kmalloc':
        return yield* __kmalloc_noprof(here, slab, Number(size ?? 0n), gfp);
      case 'krealloc':
        return yield* krealloc_node_align_noprof(here, slab, pointer, Number(size ?? 0n), 1, gfp);
      case 'kmem_cache_free':
        yield* kmem_cache_free(here, slab, this.#cache(cache), pointer);
        return 0n;
      case 'kfree':
        yield* kfree(here, slab, pointer);
        return 0n;
      case 'ksize':
        return BigInt(ksize(slab, pointer));
      case 'kmem_cache_shrink':
        return 0n;
      case 'kmem_cache_destroy':
        yield* kmem_cache_destroy(here, slab, this.#cache(cache));
        return 0n;
      case 'rcu_barrier':
        yield* rcu_barrier(here, slab);
        return 0n;
    }
  }

  #cache(name: string | null): kmem_cache {
    const found = this.#caches.get(name ?? '') ?? this.#system.kernel.slab.cacheOf(name ?? '');
    if (found === null) throw new SlabError(`there is no cache ${name}`);
    return found;
  }

  setSampleInterval(cpu: number, milliseconds: number): number {
    const here = this.#system.here(cpu);
    return param_set_sample_interval(here, this.#system.kernel.kfence, milliseconds);
  }

  debugfs(cpu: number, file: (typeof DEBUGFS_FILES)[number]): string {
    const { kfence } = this.#system.kernel;
    return file === 'kfence/stats' ? kfence.stats_show() : show_objects(this.#system.here(cpu), kfence);
  }

  view(): KfenceView {
    const { kfence } = this.#system.kernel;
    return {
      enabled: kfence.kfence_enabled,
      counter: (name: Counter) => kfence.counters[name],
      free: kfence.kfence_freelist.length,
      object: (slot: number) => {
        const { state, addr, unprotected_page } = this.#object(slot);
        return { state: STATE_NAMES[state] ?? 'unused', addr, unprotected_page };
      },
    };
  }

  #object(slot: number): kfence_metadata {
    const meta = this.#system.kernel.kfence.kfence_metadata?.[slot];
    if (meta === undefined) throw new StepRefusal(`there is no object kfence-#${slot}`);
    return meta;
  }
}

function placementOf(data: PlacementData): Placement {
  return data === 'none' ? { kind: 'none' } : { kind: 'guarded', ...data };
}
