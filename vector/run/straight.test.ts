import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { loadFixture } from '../format/load.js';
import { eventLine, sameEvents } from '../report/event-line.js';
import type { runFixture as RunFixture } from './run-fixture.js';
import { runFixture } from './run-fixture.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const straight = join(root, 'dist', 'straight');

const files = ['x86', 'arm64'].flatMap((arch) =>
  readdirSync(join(root, 'fixtures', arch)).map((file) => join('fixtures', arch, file)),
);

/** The same program, its paths as plain functions: it must say the same of every fixture. */
describe('the straight build', () => {
  let engine: NativeEngine;
  let runStraight: typeof RunFixture;

  beforeAll(async () => {
    const built = join(straight, 'vector', 'run', 'run-fixture.js');
    if (!existsSync(built)) throw new Error('there is no straight build: run `npm run build` first');
    engine = new NativeEngine(undefined, { reuse: true });
    ({ runFixture: runStraight } = await import(pathToFileURL(built).href));
  });

  afterAll(() => engine.close());

  test.each(files)('%s: event for event', async (file) => {
    const loaded = await loadFixture(join(root, file));
    if (!loaded.ok) throw new Error(`${file} does not load`);
    const paths = await runFixture(loaded.fixture, engine);
    const plain = await runStraight(loaded.fixture, engine);
    expect(paths.events.length).toBeGreaterThan(0);
    // Lines are for whoever has to find the difference.
    if (sameEvents(plain.events, paths.events)) return;
    expect(plain.events.map(eventLine)).toEqual(paths.events.map(eventLine));
    throw new Error('events are told apart, and their lines are not');
  });
});
