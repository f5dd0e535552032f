/** Engines and rams that serve one fixture after the other: nothing of one may be seen in the next. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { discoverFixtures } from '../format/discover.js';
import { type Fixture, loadFixture } from '../format/load.js';
import { eventLine } from '../report/event-line.js';
import { runFixture } from './run-fixture.js';

/** Every ninth of all: each is run alone first, on an engine of its own. */
const files = discoverFixtures(['fixtures']).files.filter((_, i) => i % 9 === 0);

function fixtureIn(file: string): Fixture {
  const loaded = loadFixture(file);
  if (!loaded.ok) throw new Error(`${file} is not a fixture`);
  return loaded.fixture;
}

/** All that a run shows, as text. */
async function shown(file: string, engine: NativeEngine): Promise<string> {
  const { status, errors, events } = await runFixture(fixtureIn(file), engine);
  return [status, ...errors.map((error) => error.message), ...events.map(eventLine)].join('\n');
}

describe('fixtures on engines that others have used', () => {
  const alone = new Map<string, string>();
  const reusing = new NativeEngine(undefined, { reuse: true });

  beforeAll(async () => {
    for (const file of files) alone.set(file, await shown(file, new NativeEngine()));
  });
  afterAll(() => reusing.close());

  test('give the same events as alone, in any order', async () => {
    const order = fc.shuffledSubarray([...alone.keys()], { minLength: 12, maxLength: 24 });
    await fc.assert(
      fc.asyncProperty(order, async (sequence) => {
        for (const file of sequence) {
          if ((await shown(file, reusing)) !== alone.get(file)) {
            throw new Error(`${file} does not give the events that it gives alone`);
          }
        }
      }),
      { seed: 20261121, numRuns: 4, endOnFailure: true },
    );
  });

  test('and all of them passed', () => {
    expect([...alone.values()].filter((text) => !text.startsWith('passed\n'))).toEqual([]);
    expect(alone.size).toBeGreaterThan(30);
  });
});
