import { describe, expect, test } from '@jest/globals';
import { EDEADLK, ENOMEM, ETIMEDOUT } from '../kernel/errno.js';
import { bpf_arena_alloc_pages, bpf_arena_free_pages, NUMA_NO_NODE } from './arena/arena_pages.js';
import { nothingFails } from './failures.js';
import { FakeMachine, U } from './fake-machine.js';

function bench() {
  const machine = new FakeMachine();
  const { here, env } = machine;
  const arena = machine.arena();
  const alloc = (count: number): bigint =>
    machine.run(bpf_arena_alloc_pages(here, env, arena.map, 0n, count, NUMA_NO_NODE, 0n));
  return { machine, env, arena, alloc, failures: env.failures };
}

describe('failures to order', () => {
  test('come after so many and so many times', () => {
    const { alloc, failures, env } = bench();
    failures.inject({ what: 'pages', after: 1, times: 2 });
    expect([alloc(1), alloc(1), alloc(1), alloc(1)]).toEqual([U, 0n, 0n, U + 0x1000n]);
    expect([failures.taken('pages'), failures.pending('pages')]).toEqual([2, false]);
    expect(env.allocationFails).toBe(nothingFails);
  });

  test('of a page: pages of an allocation count one by one, and those before it are given back', () => {
    const { alloc, failures, machine } = bench();
    failures.inject({ what: 'page', after: 2, times: 1 });
    expect([alloc(4), machine.memory.pages.count('bpf arena')]).toEqual([0n, 0]);
    expect(alloc(4)).toBe(U);
  });

  test('of a table: the 100th', () => {
    const { machine, failures } = bench();
    failures.inject({ what: 'table', after: 99, times: 1 });
    // The second arena has its tables next to those of the first: its window begins in the last of them.
    expect(machine.create({ name: 'other', map_extra: 0n })).toBe(-ENOMEM);
    expect([machine.vmAreas(), machine.env.arenas.size]).toEqual([1, 1]);
    expect(typeof machine.create({ name: 'other', map_extra: 0n })).toBe('object');
  });

  test('of the lock, with its error', () => {
    const { machine, arena, failures, env, alloc } = bench();
    const why = () =>
      machine.cpu.log.events.flatMap((event) =>
        event.type === 'decide' && event.test === 'raw_res_spin_lock_irqsave()' ? [event.value] : [],
      );
    failures.inject({ what: 'spinlock', times: 1 });
    expect(alloc(1)).toBe(0n);
    failures.inject({ what: 'spinlock', errno: EDEADLK, times: 1 });
    machine.run(bpf_arena_free_pages(machine.here, env, arena.map, U, 1));
    expect(why()).toEqual([-ETIMEDOUT, -EDEADLK]);
    expect([arena.free_spans.length, env.work.pending, failures.taken('spinlock')]).toEqual([1, true, 2]);
  });

  test('can be taken back, one and all', () => {
    const { alloc, failures, machine } = bench();
    failures.inject({ what: 'page' });
    failures.inject({ what: 'pages' });
    failures.clear('pages');
    expect(alloc(1)).toBe(0n);
    failures.clear();
    expect(alloc(1)).toBe(U);
    expect(machine.memory.pages.refuses).toBeNull();
  });
});
