import { expect, test } from '@jest/globals';
import type { Event } from '../../emu/events.js';
import { ownEvents } from './run-steps.js';

const enter = (fn: string): Event => ({ type: 'enter', cpu: 0, fn, argNames: [], args: [] });

test("a step's own events leave out those of the steps in its middle, however many there are", () => {
  const many = 200_000;
  const events = [
    enter('before'),
    ...Array.from({ length: many }, () => enter('first')),
    enter('inner'),
    ...Array.from({ length: many }, () => enter('second')),
    enter('after'),
  ];
  const { length } = events;
  const inner = [{ start: many + 1, end: many + 2 }].map((span) => ({
    ...span,
    step: { kernel: 'run_deferred' as const },
    behind: 'fn: test',
    inner: [],
  }));
  const own = ownEvents(events, { start: 1, end: length - 1, inner });
  expect(own).toHaveLength(2 * many);
  expect(own[many - 1]).toEqual(enter('first'));
  expect(own[many]).toEqual(enter('second'));
});
