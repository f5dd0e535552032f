import { expect, test } from '@jest/globals';
import { NO_EVENTS } from '../../emu/events.js';
import { SeededRandom } from '../../kernel/random.js';
import { KFENCE_OBJECT_FREED, KFENCE_OBJECT_UNUSED } from './kfence.js';
import { cache, TestKfence } from './testing.js';

const RUNS = 1000;
const OBJECTS = 8;

/**
 * Allocates and frees at random, damages a canary now and then, steps into guard pages, frees everything.
 * Says how many reports there have to be.
 */
function live(machine: TestKfence, random: SeededRandom): number {
  const { kfence } = machine;
  const below = (n: number): number => random.get_random_u32_below(n);
  const inUse: { addr: bigint; size: number }[] = [];
  let reports = 0;
  const release = (at: number): void => {
    const [object] = inUse.splice(at, 1);
    if (object === undefined) return;
    const start = object.addr & ~0xfffn;
    const end = object.addr + BigInt(object.size);
    const left = Number(object.addr - start);
    const right = Number(start + 0x1000n - end);
    if (left > 0 && below(3) === 0) {
      machine.store(start + BigInt(below(left)), 0x55);
      reports += 1;
    }
    if (right > 0 && below(3) === 0) {
      machine.store(end + BigInt(below(right)), 0x55);
      reports += 1;
    }
    machine.free(object.addr);
  };
  for (let step = 0; step < 24; step++) {
    const what = below(8);
    if (what < 4 && inUse.length < OBJECTS) {
      const size = 1 + below(4096);
      kfence.placements.length = 0;
      const addr = machine.allocSampled(cache('c', size, 8 << below(4)), size);
      expect(addr).not.toBe(0n);
      inUse.push({ addr, size });
    } else if (what < 7) release(below(Math.max(1, inUse.length)));
    else {
      const page = below(2 * OBJECTS + 2);
      const addr = machine.at(page * 0x1000 + below(0x1000));
      if (!machine.isProtected(addr)) continue;
      expect(machine.fault(addr, below(2) === 0)).toBe(true);
      reports += 1;
    }
  }
  while (inUse.length > 0) release(0);
  return reports;
}

test(`${RUNS} lives of a pool lose no page and overlook no canary`, () => {
  for (let seed = 0; seed < RUNS; seed++) {
    const random = new SeededRandom(seed);
    const machine = POOLS.get(seed % 2 === 0 ? 'x86-64' : 'arm64', random);
    const { kfence } = machine;
    const before = kfence.counters.BUGS;
    const reports = live(machine, random);
    expect(kfence.counters.BUGS - before).toBe(reports);
    expect(kfence.counters.ALLOCATED).toBe(0);
    expect(kfence.counters.ALLOCS).toBe(kfence.counters.FREES);
    expect(kfence.covered.empty).toBe(true);
    const free = kfence.kfence_freelist.map(({ index }) => index);
    expect(free.sort((a, b) => a - b)).toEqual(Array.from({ length: OBJECTS }, (_, i) => i));
    for (const meta of kfence.kfence_metadata ?? []) {
      expect([KFENCE_OBJECT_UNUSED, KFENCE_OBJECT_FREED]).toContain(meta.state);
      expect(meta).toMatchObject({ listed: true, locked: false, unprotected_page: 0n });
    }
    machine.console();
  }
});

/** One machine for each architecture serves all lives; only the random numbers are new. */
const POOLS = {
  machines: new Map<string, TestKfence>(),
  get(arch: 'x86-64' | 'arm64', random: SeededRandom): TestKfence {
    let machine = this.machines.get(arch);
    if (machine === undefined) {
      machine = new TestKfence({ arch, num_objects: OBJECTS, random });
      machine.here.trace.sink = NO_EVENTS;
      this.machines.set(arch, machine);
    }
    Object.assign(machine.kfence.settings, { random });
    return machine;
  },
};
