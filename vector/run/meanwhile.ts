/** Steps in the middle of a step: what waits for a decision, and what to say when it never came. */
import type { Delegate, Path as Running } from '../../emu/path.js';
import type { FixtureError } from '../format/fixture-error.js';
import { quoted } from '../format/fixture-error.js';
import type { MeanwhileData } from '../format/schema-steps.js';
import type { Path, Source } from '../format/source.js';
import { didYouMean, listOf } from '../format/suggest.js';

/** Decisions shown in a message at the most. */
const SHOWN = 12;

/** Watches the decisions of one step on its CPU. */
export class Meanwhile {
  /** Decisions that came: tests by function, each with how often. */
  readonly #came = new Map<string, Map<string, number>>();
  readonly #waiting = new Set<number>();

  /** @param run runs the steps of place `index` */
  constructor(
    readonly places: readonly MeanwhileData[],
    readonly run: (index: number) => Delegate<void>,
  ) {
    for (const index of places.keys()) this.#waiting.add(index);
  }

  /** A decision was taken and not acted on yet. What is to happen behind it is in the path handed back. */
  decided(fn: string, test: string): Delegate<void> | undefined {
    const tests = this.#came.get(fn) ?? new Map<string, number>();
    this.#came.set(fn, tests);
    const nth = (tests.get(test) ?? 0) + 1;
    tests.set(test, nth);
    const reached = [...this.places.entries()].filter(
      ([, { at }]) => at.fn === fn && at.test === test && (at.nth ?? 1) === nth,
    );
    return reached.length === 0 ? undefined : this.#run(reached.map(([index]) => index));
  }

  *#run(reached: readonly number[]): Running<void> {
    for (const index of reached) {
      this.#waiting.delete(index);
      yield* this.run(index);
    }
  }

  /** The first place that the step has not come to, as a mistake of the fixture; null when it came to all. */
  missed(source: Source, path: Path): FixtureError | null {
    const [index] = this.#waiting;
    const place = index === undefined ? undefined : this.places[index];
    if (index === undefined || place === undefined) return null;
    const { fn, test, nth = 1 } = place.at;
    const at = [...path, 'meanwhile', index, 'at'];
    const tests = this.#came.get(fn);
    if (tests === undefined) {
      const known = [...this.#came.keys()];
      return source.at(
        [...at, 'fn'],
        `${quoted(fn)} decides nothing in this step${didYouMean(fn, known)}`,
        known.length === 0
          ? 'Nothing is decided in it at all.'
          : `What decides in it: ${listOf(known, SHOWN)}.`,
      );
    }
    const times = tests.get(test);
    if (times === undefined) {
      return source.at(
        [...at, 'test'],
        `${quoted(fn)} does not decide ${quoted(test)} in this step${didYouMean(test, [...tests.keys()])}`,
        `It decides ${listOf([...tests].slice(0, SHOWN).map(([each, n]) => `${quoted(each)}${n === 1 ? '' : ` (${n} times)`}`))}.`,
      );
    }
    return source.at(
      [...at, 'nth'],
      `${quoted(fn)} decides ${quoted(test)} only ${times === 1 ? 'once' : `${times} times`} in this step, not ${nth} times`,
    );
  }
}
