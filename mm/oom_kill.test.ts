import { expect, test } from '@jest/globals';
import { Clock } from '../kernel/clock.js';
import { Ratelimits } from '../kernel/ratelimit.js';
import { testCpu } from '../kernel/testing.js';
import { pagefault_out_of_memory } from './oom_kill.js';

function machine() {
  const clock = new Clock();
  const ratelimits = new Ratelimits(clock);
  const { here, task, log } = testCpu({
    kernel: { ___ratelimit: (cpu, state, func) => ratelimits.___ratelimit(cpu, state, func) },
  });
  const lines = (): string[] => log.events.flatMap((e) => (e.type === 'console' ? [e.text] : []));
  return { here, task, clock, lines };
}

const TEXT = 'Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF';

test('out of memory is told ten times in five seconds', () => {
  const { here, clock, lines } = machine();
  for (let i = 0; i < 12; i++) pagefault_out_of_memory(here);
  expect(lines()).toEqual(new Array(10).fill(TEXT));
  clock.advance(5_001_000);
  pagefault_out_of_memory(here);
  expect(lines().slice(10)).toEqual(['pagefault_out_of_memory: 2 callbacks suppressed', TEXT]);
});

test('a task that dies anyway says nothing of it', () => {
  const { here, task, lines } = machine();
  task.signal_pending = 'fatal';
  pagefault_out_of_memory(here);
  expect(lines()).toEqual([]);
});
