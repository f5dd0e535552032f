/**
 * References to maps that calls under way hold: whoever calls a function on a map has it, so that it cannot go
 * before the call is over.
 */
import type { Delegate, Path } from '../emu/path.js';
import type { bpf_map } from './arena/arena_struct.js';

export class MapCalls {
  readonly #underWay = new Map<bpf_map, string[]>();

  /** A function that is at work on a map; null when none is. */
  on(map: bpf_map): string | null {
    return this.#underWay.get(map)?.at(-1) ?? null;
  }

  /** Does the work of `fn` on a map. */
  *during<T>(map: bpf_map, fn: string, work: () => Delegate<T>): Path<T> {
    const calls = this.#underWay.get(map) ?? [];
    this.#underWay.set(map, calls);
    calls.push(fn);
    try {
      return yield* work();
    } finally {
      calls.pop();
    }
  }
}
