/** Steps of a fixture in the middle of others are gone past by what goes over things. */
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from '@jest/globals';
import { loadFixture } from '../vector/format/load.js';
import { openSession } from './session.js';
import { engine } from './testing.js';

afterAll(() => engine.close());

test.each(['x86', 'arm64'])('a step of %s with another one in its middle', async (folder) => {
  const path = `../fixtures/${folder}/arena-two-cpus-scratch-one-page.yaml`;
  const loaded = loadFixture(fileURLToPath(new URL(path, import.meta.url)));
  if (!loaded.ok) throw new Error('the fixture cannot be loaded');
  const session = await openSession(loaded.fixture, engine);
  const index = loaded.fixture.data.steps.findIndex((step) => 'meanwhile' in step);
  session.addBreakpoint({ kind: 'fixture-step', number: index + 1 });
  const begins = await session.continue();
  const over = await session.stepOver();
  expect(over.reason).toMatchObject({ kind: 'fixture-step', phase: 'ended' });
  expect(session.currentStep()).toBeNull();
  await session.toTick(begins.position.tick);
  // The outermost function: its step is over when it returns.
  await session.stepInstruction();
  for (let calls = 0; session.stop.reason.kind !== 'fixture-step' && calls < 8; calls++)
    await session.finish();
  expect(session.position).toEqual(over.position);
  session.close();
});
