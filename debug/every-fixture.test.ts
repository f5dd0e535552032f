/**
 * Fixtures in a session come to the same as without one. One of each kind, of one architecture and the other in turn,
 * and of both those in which something happens in the middle of a step; all of them with KFAULT_EVERY_FIXTURE=1
 * (`npm run every-fixture`).
 */
import { basename, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from '@jest/globals';
import type { Event } from '../emu/events.js';
import { discoverFixtures } from '../vector/format/discover.js';
import { loadFixture } from '../vector/format/load.js';
import { eventLine } from '../vector/report/event-line.js';
import { runFixture } from '../vector/run/run-fixture.js';
import { MachineRun, toTick } from './run.js';
import { engine } from './testing.js';

const ROOT = fileURLToPath(new URL('../fixtures', import.meta.url));
const never = async (): Promise<boolean> => false;
afterAll(() => engine.close());

const { files } = discoverFixtures([ROOT]);

/** What steps do here that they do in few fixtures: processes that fork and exit, steps in the middle of others. */
const BESIDES: ReadonlySet<string> = new Set([
  'arena-destruction.yaml',
  'arena-free-races-with-a-users-mapping.yaml',
  'arena-is-not-inherited-by-a-child.yaml',
  'arena-rollback-is-seen.yaml',
  'arena-two-cpus-scratch-one-page.yaml',
]);

/** The first of each kind, which is the first word of its name, and those that are there for what they do. */
function selection(): readonly string[] {
  const kinds = new Map<string, string[]>();
  for (const file of files) {
    const kind = basename(file, '.yaml').split('-')[0] ?? '';
    const known = kinds.get(kind) ?? [];
    if (!known.some((other) => dirname(other) === dirname(file))) kinds.set(kind, [...known, file]);
  }
  const first = new Set([...kinds.values()].map((each, i) => each[i % each.length]));
  return files.filter((file) => first.has(file) || BESIDES.has(basename(file)));
}

const selected = process.env.KFAULT_EVERY_FIXTURE === '1' ? files : selection();

test.each(['x86', 'arm64'])('there are fixtures of %s, with each that is named', (folder) => {
  const of = (list: readonly string[]): string[] =>
    list.filter((file) => file.startsWith(`${ROOT}/${folder}/`)).map((file) => basename(file));
  expect(of(files).length).toBeGreaterThan(30);
  expect(of(selected).length).toBeGreaterThan(20);
  expect(of(selected)).toEqual(expect.arrayContaining([...BESIDES]));
});

/** The first event that is another one; null when all are the same. */
function difference(found: readonly Event[] | undefined, expected: readonly string[]): string | null {
  const lines = found?.map(eventLine) ?? [];
  const at = lines.findIndex((line, i) => line !== expected[i]);
  if (at >= 0) return `event ${at}: ${lines[at]}, not ${expected[at]}`;
  return lines.length === expected.length ? null : `${lines.length} events, not ${expected.length}`;
}

test.each(selected.map((file) => [file.slice(ROOT.length + 1), file]))(
  '%s is the same run under a debugger, and when every instruction is a stop of its own',
  async (_, file) => {
    const loaded = loadFixture(file);
    if (!loaded.ok) throw new Error(`${file} cannot be loaded`);
    const plain = await runFixture(loaded.fixture, engine);
    const events = plain.events.map(eventLine);
    const whole = await MachineRun.build(loaded.fixture, engine);
    const end = toTick(Number.POSITIVE_INFINITY);
    await whole.go(end, never);
    expect(whole.result?.status).toBe(plain.status);
    expect(difference(whole.result?.events, events)).toBeNull();
    const { tick, instructions } = whole;
    whole.close();
    if (instructions > 20_000) return;
    const stepped = await MachineRun.build(loaded.fixture, engine);
    await stepped.go({ ...end, everyInstruction: true }, never);
    expect(stepped.result?.status).toBe(plain.status);
    expect(difference(stepped.result?.events, events)).toBeNull();
    expect([stepped.tick, stepped.instructions]).toEqual([tick, instructions]);
    expect(stepped.code).toEqual(whole.code);
    stepped.close();
  },
);
