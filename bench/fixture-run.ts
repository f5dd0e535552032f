/** What `kfault run` does for each fixture: read, check, build the machine, run, compare, free. */
import type { Engine } from '../emu/cpu.js';
import { type LoadResult, loadFixture, parseFixture } from '../vector/format/load.js';
import { Source } from '../vector/format/source.js';
import { runFixture } from '../vector/run/run-fixture.js';
import type { Subject } from './subject.js';

/** A fixture in a file, or its text; `once`: it is loaded before anything is measured. */
export type FixtureOrigin = { readonly file: string } | { readonly text: string; readonly once?: true };

export class FixtureRun implements Subject {
  readonly rounds = 1;
  readonly #engine: Engine;
  readonly #origin: FixtureOrigin;
  readonly #loaded: LoadResult | null;

  constructor(engine: Engine, origin: FixtureOrigin) {
    this.#engine = engine;
    this.#origin = origin;
    this.#loaded = 'once' in origin ? this.#load() : null;
  }

  async run(): Promise<void> {
    const loaded = this.#loaded ?? this.#load();
    if (!loaded.ok) throw new Error(loaded.errors.map((error) => error.format()).join('\n'));
    const { status, failures } = await runFixture(loaded.fixture, this.#engine);
    if (status !== 'passed') throw new Error(`${status}: ${failures.map(({ where }) => where).join(', ')}`);
  }

  #load(): LoadResult {
    const origin = this.#origin;
    return 'file' in origin ? loadFixture(origin.file) : parseFixture(new Source('small.yaml', origin.text));
  }

  reset(): void {
    // Each run has a machine of its own.
  }
  close(): void {
    // Nothing is kept here.
  }
}
