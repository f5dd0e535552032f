import { expect, test } from '@jest/globals';
import type { Event } from '../../emu/events.js';
import { eventLine, sameEvents } from './event-line.js';

const enter = (args: readonly unknown[]): Event => ({
  type: 'enter',
  cpu: 0,
  fn: 'f',
  argNames: ['a'],
  args,
});
const leave = (value: unknown): Event => ({ type: 'leave', cpu: 0, fn: 'f', value });
const walk = (entry: bigint): Event => ({
  type: 'walk',
  cpu: 0,
  va: 8n,
  access: 'read',
  user: false,
  levels: [{ level: 'pgd', entryPa: 0x1000, entry }],
  verdict: 'not present',
  at: 'pgd',
});

test.each<[string, readonly Event[], readonly Event[], boolean]>([
  ['nothing', [], [], true],
  ['an event more', [leave(0)], [leave(0), leave(0)], false],
  ['an event less', [leave(0), leave(0)], [leave(0)], false],
  ['equal ones', [enter([1n, 'x']), walk(0n), leave(1)], [enter([1n, 'x']), walk(0n), leave(1)], true],
  ['another order', [leave(0), leave(1)], [leave(1), leave(0)], false],
  ['another argument', [enter([1n])], [enter([2n])], false],
  ['other objects as arguments', [enter([{ a: 1 }, 5])], [enter([{ b: 2 }, 5])], true],
  ['another result', [leave(0)], [leave(-14)], false],
  ['another object as result', [leave({ a: 1 })], [leave({ a: 2 })], true],
  ['a result that is an object in one only', [leave({ a: 1 })], [leave(null)], false],
  ['an entry deep inside', [walk(0n)], [walk(1n)], false],
])('%s: compared as their lines are', (_, one, other, same) => {
  expect(sameEvents(one, other)).toBe(same);
  const lines = (events: readonly Event[]): string => events.map(eventLine).join('\n');
  expect(lines(one) === lines(other)).toBe(same);
});
