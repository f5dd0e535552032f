/** Engines and rams that serve one fixture after the other: nothing of one may be seen in the next. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { discoverFixtures } from '../format/discover.js';
import { type Fixture, loadFixture } from '../format/load.js';
import { eventLine, sameEvents } from '../report/event-line.js';
import type { FixtureResult } from './result.js';
import { runFixture } from './run-fixture.js';

/** Every ninth of all: each is run alone first, on an engine of its own. */
const files = discoverFixtures(['fixtures']).files.filter((_, i) => i % 9 === 0);

function fixtureIn(file: string): Fixture {
  const loaded = loadFixture(file);
  if (!loaded.ok) throw new Error(`${file} is not a fixture`);
  return loaded.fixture;
}

const run = (file: string, engine: NativeEngine): Promise<FixtureResult> =>
  runFixture(fixtureIn(file), engine);

/** What is different between two runs of a file; null when nothing is. */
function difference(one: FixtureResult, other: FixtureResult): unknown {
  const said = ({ status, errors }: FixtureResult): string =>
    [status, ...errors.map(({ message }) => message)].join('\n');
  if (said(one) !== said(other)) return [said(one), said(other)];
  if (sameEvents(one.events, other.events)) return null;
  const [lines, others] = [one.events.map(eventLine), other.events.map(eventLine)];
  const at = lines.findIndex((line, i) => line !== others[i]);
  return [lines[at], others[at]];
}

describe('fixtures on engines that others have used', () => {
  const alone = new Map<string, FixtureResult>();
  const reusing = new NativeEngine(undefined, { reuse: true });

  beforeAll(async () => {
    for (const file of files) alone.set(file, await run(file, new NativeEngine()));
  });
  afterAll(() => reusing.close());

  test('give the same events as alone, in any order', async () => {
    const order = fc.shuffledSubarray([...alone.keys()], { minLength: 12, maxLength: 24 });
    await fc.assert(
      fc.asyncProperty(order, async (sequence) => {
        for (const file of sequence) {
          const wanted = alone.get(file);
          const again = await run(file, reusing);
          expect([file, wanted && difference(wanted, again)]).toEqual([file, null]);
        }
      }),
      { seed: 20261121, numRuns: 4, endOnFailure: true },
    );
  });

  test('and all of them passed', () => {
    expect([...alone.values()].filter(({ status }) => status !== 'passed').map(({ file }) => file)).toEqual(
      [],
    );
    expect(alone.size).toBeGreaterThan(30);
  });
});
