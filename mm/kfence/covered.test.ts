import { describe, expect, test } from '@jest/globals';
import { ListedRandom } from '../../kernel/random.js';
import { CoverageFilter, get_alloc_stack_hash } from './covered.js';
import { kmalloc32, TestKfence } from './testing.js';

describe('the counting Bloom filter', () => {
  test('has four times as many places as there are objects, rounded down to a power of two', () => {
    expect([255, 256, 4, 1].map((objects) => new CoverageFilter(objects).order)).toEqual([9, 10, 4, 2]);
  });

  test('forgets a stack when its last object is free', () => {
    const filter = new CoverageFilter(255);
    filter.alloc_covered_add(0x12345678, 1);
    filter.alloc_covered_add(0x12345678, 1);
    filter.alloc_covered_add(0x12345678, -1);
    expect(filter.alloc_covered_contains(0x12345678)).toBe(true);
    // The same first probe, 0x078, and another second one.
    expect(filter.alloc_covered_contains(0x02345678)).toBe(false);
    filter.alloc_covered_add(0x12345678, -1);
    expect(filter.alloc_covered_contains(0x12345678)).toBe(false);
    expect(filter.empty).toBe(true);
  });

  test('takes the innermost eight entries', () => {
    const stack = Array.from({ length: 9 }, (_, i) => BigInt(i));
    expect(get_alloc_stack_hash(stack, 5)).toBe(get_alloc_stack_hash(stack.slice(0, 8), 5));
    expect(get_alloc_stack_hash(stack, 5)).not.toBe(get_alloc_stack_hash(stack.slice(0, 7), 5));
    expect(get_alloc_stack_hash(stack, 5)).not.toBe(get_alloc_stack_hash(stack, 6));
  });
});

test('a stack that has an object gets no other one while the pool is nearly full', () => {
  // Three of four objects are above the threshold of 50 percent.
  const machine = new TestKfence({ num_objects: 4, skip_covered: true, skip_covered_thresh: 50 });
  const { kfence } = machine;
  const from = (name: string): bigint => {
    kfence.callers = machine.stack(name);
    return machine.alloc(kmalloc32(), 32);
  };
  const first = from('a');
  expect([from('a'), from('a')]).not.toContain(0n);
  expect(from('a')).toBe(0n);
  expect(kfence.counters.SKIP_COVERED).toBe(1);
  const other = from('b');
  expect(other).not.toBe(0n);
  machine.free(other);
  machine.free(first);
  const last = from('a');
  expect(last).not.toBe(0n);
  for (const { addr } of kfence.kfence_metadata ?? []) machine.free(addr);
  expect(kfence.covered.empty).toBe(true);
});

test('the seed of the hashes is the first random number of boot', () => {
  const machine = new TestKfence({ num_objects: 4, random: new ListedRandom([77, 3, 2, 1, 0]) });
  expect(machine.kfence.stack_hash_seed).toBe(77);
});
