import { expect, test } from '@jest/globals';
import { Ratelimits } from './ratelimit.js';
import { testCpu } from './testing.js';

const SECOND = 1_000_000;

function limited() {
  const cpu = testCpu();
  const limits = new Ratelimits(cpu.clock);
  const ask = (state = 'state', func = 'func'): boolean => limits.___ratelimit(cpu.here, state, func);
  const burst = (): number => Array.from({ length: 100 }, () => ask()).filter(Boolean).length;
  return { ...cpu, ask, burst };
}

test('ten in an interval, for each state', () => {
  const { burst, ask } = limited();
  expect(burst()).toBe(10);
  expect(ask('another state')).toBe(true);
  expect(ask()).toBe(false);
});

test('five seconds later there are ten again, and what was missed is told in the name of who asks', () => {
  const { clock, console, burst, ask } = limited();
  clock.advance(3 * SECOND);
  burst();
  clock.advance(5 * SECOND);
  expect(ask()).toBe(false);
  expect(console.linesWithLevels()).toEqual([]);
  clock.advance(1000);
  expect(ask('state', 'later_func')).toBe(true);
  expect(console.linesWithLevels()).toEqual(['<4>later_func: 91 callbacks suppressed']);
  expect(burst()).toBe(9);
});

test('the interval begins with the first message, and nothing is told when nothing was missed', () => {
  const { clock, console, ask, burst } = limited();
  clock.advance(60 * SECOND);
  ask();
  clock.advance(6 * SECOND);
  expect(burst()).toBe(10);
  expect(console.lines()).toEqual([]);
});
