import { describe, expect, test } from '@jest/globals';
import { ListedRandom } from '../../kernel/random.js';
import { ptepOf } from '../testing.js';
import { param_get_sample_interval, param_set_sample_interval } from './init.js';
import { kmalloc32, TestKfence } from './testing.js';

const PAGE = 0x1000;

describe('the pool', () => {
  test('is the last pages of the ram, and 512 of them by default', () => {
    const machine = new TestKfence();
    const { kfence, memory } = machine;
    expect([kfence.__kfence_pool, kfence.poolPa]).toEqual([0xffff888003e00000n, 0x3e00000]);
    expect(memory.pages.count('kfence pool')).toBe(512);
    expect(machine.boot).toEqual([
      'kfence: initialized - using 2097152 bytes for 255 objects at 0xffff888003e00000-0xffff888004000000',
    ]);
  });

  test('x86 splits its large page, marks the page for which it did, and inverts frames of guard pages', () => {
    const machine = new TestKfence();
    const { memory } = machine;
    expect(machine.pte(machine.at(0))).toBe(0x800ffffffc1ff962n);
    expect(machine.pte(machine.at(PAGE))).toBe(0x800ffffffc1fe162n);
    expect(machine.pte(machine.at(2 * PAGE))).toBe(0x8000000003e02163n);
    expect(machine.pte(machine.at(511 * PAGE))).toBe(0x800ffffffc000162n);
    const pud = memory.pgtable.tablePa(memory.ram.readU64(memory.init_mm.pgd + 8 * 0x111));
    const pmd = memory.pgtable.tablePa(memory.ram.readU64(pud));
    // _KERNPG_TABLE, and the large page in front of it is as it was.
    expect(memory.ram.readU64(pmd + 8 * 0x1f) & 0xfffn).toBe(0x63n);
    expect(memory.ram.readU64(pmd + 8 * 0x1e)).toBe(0x8000000003c001e3n);
  });

  test('arm64 has them mapped by pages already, and makes guard pages present-invalid', () => {
    const machine = new TestKfence({ arch: 'arm64' });
    expect(machine.kfence.__kfence_pool).toBe(0xffff000003e00000n);
    expect(machine.pte(machine.at(0))).toBe(0x00e8000043e00f06n);
    expect(machine.pte(machine.at(PAGE))).toBe(0x00e8000043e01f06n);
    expect(machine.pte(machine.at(2 * PAGE))).toBe(0x00e8000043e02707n);
  });

  test('every other page is a guard page, and the first one is, too', () => {
    const machine = new TestKfence({ num_objects: 4 });
    const guards = Array.from({ length: 10 }, (_, i) => machine.isProtected(machine.at(i * PAGE)));
    expect(guards).toEqual([true, true, false, true, false, true, false, true, false, true]);
  });

  test('can be where a direct map that was moved has it', () => {
    const pool = 0xffff8c3f2e200000n;
    const machine = new TestKfence({ pool });
    expect(machine.kfence.__kfence_pool).toBe(pool);
    expect(machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' })).toBe(0xffff8c3f2e292000n);
    expect(machine.pte(pool + 0x91000n)).toBe(0x800ffffffc16e162n);
    expect(machine.bytes(pool + 0x92fffn, 1)).toEqual([0xad]);
  });

  test.each([
    [
      [3, 2, 1, 0],
      [0, 1, 2, 3],
    ],
    [
      [1, 2, 0, 0],
      [3, 0, 2, 1],
    ],
    [
      [0, 0, 0, 0],
      [1, 2, 3, 0],
    ],
  ])('the freelist is shuffled by random numbers (%#)', (draws, order) => {
    const machine = new TestKfence({ num_objects: 4, random: new ListedRandom([0, ...draws, 0]) });
    // One number for each object, the last one below 1; the next one is for the side of an allocation.
    expect(machine.kfence.settings.random.get_random_u32_below(2)).toBe(0);
    expect(machine.kfence.kfence_freelist.map(({ index }) => index)).toEqual(order);
    expect(machine.kfence.kfence_metadata?.map(({ addr }) => addr)).toEqual(
      [2, 4, 6, 8].map((page) => machine.at(page * PAGE)),
    );
  });

  test('is not there when the ram is too small for it', () => {
    const machine = new TestKfence({ ram: 1 << 20 });
    expect(machine.boot).toEqual(['kfence: failed to allocate pool', 'kfence: kfence_init failed']);
    expect(machine.kfence).toMatchObject({ __kfence_pool: 0n, kfence_enabled: false });
  });

  test('is given back when it is not mapped', () => {
    const machine = new TestKfence({ directMap: false });
    expect(machine.boot).toEqual(['kfence: kfence_init failed']);
    expect(machine.kfence.__kfence_pool).toBe(0n);
    expect(machine.memory.pages.count('kfence pool')).toBe(0);
  });

  test('is off with KASAN hardware tags, and with no interval nobody says a word', () => {
    expect(new TestKfence({ kasan_hw_tags: true }).boot).toEqual([
      'kfence: disabled as KASAN HW tags are enabled',
    ]);
    expect(new TestKfence({ sample_interval: 0 }).boot).toEqual([]);
  });
});

describe('kfence.sample_interval', () => {
  test('switches it off and on again', () => {
    const machine = new TestKfence();
    const { here, kfence } = machine;
    expect(param_get_sample_interval(kfence)).toBe(100);
    expect(param_set_sample_interval(here, kfence, 0)).toBe(0);
    expect(machine.alloc(kmalloc32(), 32)).toBe(0n);
    expect(param_get_sample_interval(kfence)).toBe(0);
    expect(param_set_sample_interval(here, kfence, 250)).toBe(0);
    expect(machine.console()).toEqual(['kfence: disabled', 'kfence: re-enabled']);
    expect(param_get_sample_interval(kfence)).toBe(250);
    expect(machine.alloc(kmalloc32(), 32)).not.toBe(0n);
  });

  test('makes the pool when there is none', () => {
    const machine = new TestKfence({ sample_interval: 0 });
    expect(param_set_sample_interval(machine.here, machine.kfence, 100)).toBe(0);
    expect(machine.console()).toEqual([
      'kfence: initialized - using 2097152 bytes for 255 objects at 0xffff888003e00000-0xffff888004000000',
    ]);
    const unmapped = new TestKfence({ sample_interval: 0, directMap: false });
    expect(param_set_sample_interval(unmapped.here, unmapped.kfence, 100)).toBe(-16);
    expect(unmapped.console()).toEqual(['kfence: kfence_init_late failed']);
  });

  test('does not bring it back when a warning has switched it off', () => {
    const machine = new TestKfence();
    machine.memory.ram.writeU64(ptepOf(machine.test, machine.at(0)), 0x1n);
    machine.kfence.KFENCE_WARN_ON(machine.here, 'kfence_protect', true);
    expect(param_set_sample_interval(machine.here, machine.kfence, 100)).toBe(-22);
    expect(machine.kfence.kfence_enabled).toBe(false);
  });

  test('is refused with KASAN hardware tags', () => {
    const machine = new TestKfence({ kasan_hw_tags: true });
    expect(param_set_sample_interval(machine.here, machine.kfence, 100)).toBe(-22);
  });
});

describe('the gate', () => {
  const taken = (machine: TestKfence, count: number): boolean[] =>
    Array.from({ length: count }, () => machine.allocSampled(kmalloc32(), 32) !== 0n);

  test('lets one allocation through for each interval', () => {
    const machine = new TestKfence({ gate: 'sampled' });
    expect(taken(machine, 3)).toEqual([true, false, false]);
    machine.cpu.clock.advance(99_999);
    expect(taken(machine, 1)).toEqual([false]);
    machine.cpu.clock.advance(1);
    expect(taken(machine, 2)).toEqual([true, false]);
    machine.cpu.clock.advance(1_000_000);
    expect(taken(machine, 2)).toEqual([true, false]);
  });

  test('lets `burst` more through', () => {
    expect(taken(new TestKfence({ gate: 'sampled', burst: 2 }), 5)).toEqual([true, true, true, false, false]);
  });
});
