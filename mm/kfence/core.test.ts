import { describe, expect, test } from '@jest/globals';
import { TaskDead } from '../../arch/kernel.js';
import { drain } from '../../emu/path.js';
import {
  __GFP_DMA,
  __GFP_THISNODE,
  __GFP_ZERO,
  GFP_KERNEL,
  SLAB_CACHE_DMA32,
  SLAB_SKIP_KFENCE,
  SLAB_TYPESAFE_BY_RCU,
} from '../slab-cache.js';
import { ARCHS } from '../testing.js';
import { kfence_ksize, kfence_object_start, kfence_shutdown_cache, runRcuCallbacks } from './core.js';
import { KFENCE_OBJECT_ALLOCATED, KFENCE_OBJECT_FREED } from './kfence.js';
import { cache, kmalloc32, TestKfence } from './testing.js';

const meta = (machine: TestKfence, index: number) => {
  const found = machine.kfence.kfence_metadata?.[index];
  if (found === undefined) throw new Error(`no object ${index}`);
  return found;
};

/** The kernel ends the task or the machine there. */
function deathOf(act: () => void): unknown {
  try {
    act();
  } catch (error) {
    if (error instanceof TaskDead) return error.outcome;
    throw error;
  }
  return null;
}

describe('allocation', () => {
  test.each([
    [1, 8, 0xff8],
    [5, 8, 0xff8],
    [32, 32, 0xfe0],
    [73, 8, 0xfb0],
    [73, 32, 0xfa0],
    [96, 32, 0xfa0],
    [128, 128, 0xf80],
    [4095, 8, 0x000],
    [4096, 4096, 0x000],
  ])('%d bytes aligned to %d on the right', (size, align, offset) => {
    const machine = new TestKfence();
    const addr = machine.alloc(cache('c', size, align), size, { slot: 3, side: 'right' });
    expect(addr).toBe(machine.at(4 * 0x2000 + offset));
    expect(machine.alloc(cache('c', size, align), size, { slot: 4, side: 'left' })).toBe(
      machine.at(5 * 0x2000),
    );
    expect(kfence_ksize(machine.kfence, addr)).toBe(size);
    expect(kfence_object_start(machine.kfence, addr + 1n)).toBe(addr);
    // The guard page on the right answers for the object on its left.
    expect(kfence_object_start(machine.kfence, machine.at(4 * 0x2000 + 0x1000))).toBe(addr);
    expect(kfence_object_start(machine.kfence, machine.at(0x1000))).toBe(0n);
  });

  test('takes the object that was freed first', () => {
    const machine = new TestKfence({ num_objects: 4 });
    const c = kmalloc32();
    const slots = () => Number((machine.alloc(c, 32, { side: 'left' }) - machine.at(0)) / 0x2000n) - 1;
    expect([slots(), slots(), slots(), slots()]).toEqual([0, 1, 2, 3]);
    expect(machine.alloc(c, 32)).toBe(0n);
    expect(machine.kfence.counters.SKIP_CAPACITY).toBe(1);
    machine.free(machine.at(3 * 0x2000));
    machine.free(machine.at(1 * 0x2000));
    expect([slots(), slots()]).toEqual([2, 0]);
    expect(machine.kfence.counters).toMatchObject({ ALLOCATED: 4, ALLOCS: 6, FREES: 2 });
  });

  test('zeroes what __GFP_ZERO asks for, and no canary', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(cache('c', 5, 8), 5, { side: 'left' }, GFP_KERNEL | __GFP_ZERO);
    expect(machine.bytes(addr, 8)).toEqual([0, 0, 0, 0, 0, 0xaf, 0xac, 0xad]);
  });

  test('a constructor is called behind the canaries', () => {
    const machine = new TestKfence();
    const ctor = new Uint8Array(8).fill(0x78);
    const addr = machine.alloc(cache('test', 32, 8, { ctor }), 32);
    expect(machine.bytes(addr, 8)).toEqual([...ctor]);
  });

  test.each([
    ['too large', 4097, GFP_KERNEL, 0, 1],
    ['from a zone', 32, GFP_KERNEL | __GFP_DMA, 0, 1],
    ['from a DMA cache', 32, GFP_KERNEL, SLAB_CACHE_DMA32, 1],
    ['from a cache that KFENCE skips', 32, GFP_KERNEL, SLAB_SKIP_KFENCE, 0],
    ['without any reclaim: locks cannot be waited for', 32, 0, 0, 0],
  ])('refuses what is %s', (_, size, gfp, flags, counted) => {
    const machine = new TestKfence();
    expect(machine.alloc(cache('c', size, 8, { flags }), size, {}, gfp)).toBe(0n);
    expect(machine.kfence.counters.SKIP_INCOMPAT).toBe(counted);
    expect(machine.kfence.kfence_freelist).toHaveLength(255);
  });

  test('__GFP_THISNODE asks for nothing where there is one node', () => {
    const machine = new TestKfence();
    expect(machine.alloc(kmalloc32(), 32, {}, GFP_KERNEL | __GFP_THISNODE)).not.toBe(0n);
  });

  test('an object whose lock is held goes to the end of the freelist', () => {
    const machine = new TestKfence({ num_objects: 2 });
    meta(machine, 0).locked = true;
    expect(machine.alloc(kmalloc32(), 32)).toBe(0n);
    expect(machine.kfence.kfence_freelist.map(({ index }) => index)).toEqual([1, 0]);
    expect(machine.kfence.counters.SKIP_CAPACITY).toBe(0);
  });

  test('an object that is not free cannot be wished for', () => {
    const machine = new TestKfence();
    machine.alloc(kmalloc32(), 32, { slot: 7 });
    expect(() => machine.alloc(kmalloc32(), 32, { slot: 7 })).toThrow('kfence-#7 is not free');
  });
});

describe('free', () => {
  test('protects the object, and zeroes and protects the guard page that was opened', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
    const guard = addr - 1n;
    expect(machine.pte(guard)).toBe(0x800ffffffc16e162n);
    expect(machine.fault(guard, true)).toBe(true);
    expect(machine.details()).toEqual(['Out-of-bounds write at 0xffff888003e91fff (1B left of kfence-#72):']);
    expect(machine.pte(guard)).toBe(0x8000000003e91163n);
    expect(meta(machine, 72).unprotected_page).toBe(guard);
    machine.store(guard, 0x2a);
    machine.free(addr);
    expect(machine.bytes(guard - 0xfffn, 4096).every((byte) => byte === 0)).toBe(true);
    expect(machine.pte(guard)).toBe(0x800ffffffc16e162n);
    expect(machine.pte(addr)).toBe(0x800ffffffc16d162n);
    expect(meta(machine, 72)).toMatchObject({ unprotected_page: 0n, state: KFENCE_OBJECT_FREED });
    // Taken again the object is open again.
    machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
    expect(machine.pte(addr)).toBe(0x8000000003e92163n);
  });

  test('only the guard page that was opened last is closed', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
    machine.fault(machine.at(0x91fff));
    machine.fault(machine.at(0x93000));
    machine.free(addr);
    expect(machine.isProtected(machine.at(0x93000))).toBe(true);
    expect(machine.isProtected(machine.at(0x91fff))).toBe(false);
  });

  test('twice is an error that changes nothing', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(kmalloc32(), 32, { slot: 81, side: 'left' });
    machine.free(addr);
    machine.free(addr);
    expect(machine.details()).toEqual(['Invalid free of 0xffff888003ea4000 (in kfence-#81):']);
    expect(machine.kfence.counters).toMatchObject({ BUGS: 1, FREES: 1, ALLOCATED: 0 });
    expect(machine.kfence.kfence_freelist).toHaveLength(255);
  });

  test('of an address within the object is an error, and the object stays', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(kmalloc32(), 32, { slot: 81, side: 'left' });
    machine.free(addr + 1n);
    const lines = machine.console();
    expect(lines).toContain('Invalid free of 0xffff888003ea4001 (in kfence-#81):');
    expect(lines.some((line) => line.startsWith('freed by'))).toBe(false);
    expect(meta(machine, 81).state).toBe(KFENCE_OBJECT_ALLOCATED);
    machine.free(addr);
    expect(machine.console()).toEqual([]);
  });

  test('of a guard page is blamed on the object in front of it; in front of all objects there is none', () => {
    const machine = new TestKfence();
    machine.alloc(kmalloc32(), 32, { slot: 5 });
    machine.free(machine.at(0xd000));
    expect(machine.details()).toEqual(['Invalid free of 0xffff888003e0d000 (in kfence-#5):']);
    expect(() => machine.free(machine.at(0x1000))).toThrow('the kernel takes a NULL pointer');
  });

  test('with init_on_free the object is zeroed, and not the rest of the page', () => {
    const machine = new TestKfence({ config: { init_on_free: true } });
    const addr = machine.alloc(kmalloc32(), 32, { slot: 1, side: 'left' });
    machine.store(addr, ...new Array<number>(32).fill(7));
    machine.free(addr);
    expect(machine.bytes(addr, 34)).toEqual([...new Array<number>(32).fill(0), 0xaa, 0xab]);
  });

  test('of an object that readers may look at waits for them, and keeps the stack of whoever freed', () => {
    const machine = new TestKfence();
    const c = cache('test', 32, 8, { flags: SLAB_TYPESAFE_BY_RCU });
    const addr = machine.alloc(c, 32, { slot: 10, side: 'right' });
    machine.kfence.callers = machine.stack('kmem_cache_free', 'freeing');
    machine.free(addr);
    expect(machine.isProtected(addr)).toBe(false);
    machine.fault(machine.at(0x17000));
    const waiting = machine.console();
    expect(waiting).toContain('Out-of-bounds read at 0xffff888003e17000 (32B right of kfence-#10):');
    expect(waiting).toContain('rcu freeing by task 100 on cpu 0 at 0.000000s (0.000000s ago):');
    expect(() => machine.free(addr)).toThrow('waits for RCU already');

    machine.kfence.callers = machine.stack('softirq');
    drain(runRcuCallbacks(machine.here, machine.kfence));
    expect(machine.isProtected(addr)).toBe(true);
    machine.fault(addr);
    const freed = machine.console();
    expect(freed).toContain('Use-after-free read at 0xffff888003e16fe0 (in kfence-#10):');
    const block = freed.indexOf('freed by task 100 on cpu 0 at 0.000000s (0.000000s ago):');
    expect(freed[block + 1]).toBe(' freeing+0x4/0x10');
    expect(() => machine.free(addr)).toThrow('is free already');
  });

  test('when a cache goes, its objects become zombies', () => {
    const machine = new TestKfence();
    const c = kmalloc32();
    const other = machine.alloc(cache('other', 8, 8), 8, { slot: 11 });
    const addr = machine.alloc(c, 32, { slot: 10, side: 'left' });
    drain(kfence_shutdown_cache(machine.here, machine.kfence, c));
    expect(machine.kfence.counters).toMatchObject({ ZOMBIES: 1, ALLOCATED: 2, FREES: 0 });
    expect(machine.kfence.kfence_freelist.some(({ index }) => index === 10)).toBe(false);
    expect(machine.isProtected(other)).toBe(false);
    machine.fault(addr);
    const lines = machine.console();
    expect(lines).toContain('Use-after-free read at 0xffff888003e16000 (in kfence-#10):');
    expect(lines).toContain('kfence-#10: 0xffff888003e16000-0xffff888003e1601f, size=32, cache=<destroyed>');
    machine.free(addr);
    expect(machine.details()).toEqual(['Invalid free of 0xffff888003e16000 (in kfence-#10):']);
  });
});

describe('canaries', () => {
  test('surround the object, and may cover bytes that nobody has used', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(cache('c', 5, 8), 5, { side: 'left' });
    expect(machine.bytes(addr, 8)).toEqual([0xaa, 0xab, 0xa8, 0xa9, 0xae, 0xaf, 0xac, 0xad]);
    machine.store(addr, 1, 2, 3, 4, 5);
    machine.free(addr);
    expect(machine.console()).toEqual([]);
  });

  test.each([
    { size: 73, align: 32, at: 0xfe9, bytes: '0xac . . . . . . . . . . . . . . .' },
    { size: 73, align: 8, at: 0xff9, bytes: '0xac . . . . . .' },
  ])('the first bad byte behind $size bytes is reported ($align)', ({ size, align, at, bytes }) => {
    const machine = new TestKfence();
    const addr = machine.alloc(cache('kmalloc-96', 96, align), size, { slot: 156, side: 'right' });
    expect(addr + BigInt(size)).toBe(machine.at(0x13a000 + at));
    expect(machine.bytes(addr + BigInt(size), 1)).toEqual([0xab]);
    machine.store(addr + BigInt(size), 0xac);
    machine.free(addr);
    const lines = machine.console();
    const where = `0xffff888003f3a${at.toString(16)}`;
    expect(lines).toContain(`Corrupted memory at ${where} [ ${bytes} ] (in kfence-#156):`);
    expect(lines.some((line) => line.startsWith('freed by'))).toBe(true);
  });

  test('hashed pointers hide the bytes', () => {
    const machine = new TestKfence({ config: { no_hash_pointers: false } });
    const addr = machine.alloc(kmalloc32(), 32, { slot: 72, side: 'right' });
    machine.store(addr - 1n, 0x2a);
    machine.free(addr);
    expect(machine.details()).toEqual([
      expect.stringMatching(/^Corrupted memory at 0x00000000[0-9a-f]{8} \[ ! \] \(in kfence-#72\):$/),
    ]);
  });

  test('each side has its report, the left one first, and ends at the object', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(cache('c', 20, 8), 20, { slot: 72, side: 'right' });
    machine.store(machine.at(0x92fe7), 0);
    machine.store(machine.at(0x92ffd), 0);
    machine.free(addr);
    expect(machine.details()).toEqual([
      'Corrupted memory at 0xffff888003e92fe7 [ 0x00 ] (in kfence-#72):',
      'Corrupted memory at 0xffff888003e92ffd [ 0x00 . . ] (in kfence-#72):',
    ]);
    expect(machine.kfence.counters.BUGS).toBe(2);
  });

  test('an object that ends with its page has no canary behind it', () => {
    const machine = new TestKfence();
    const addr = machine.alloc(cache('c', 24, 8), 24, { slot: 72, side: 'right' });
    machine.store(machine.at(0x92ffd), 0);
    machine.free(addr);
    expect(machine.console()).toEqual([]);
    const whole = machine.alloc(cache('kmalloc-4k', 4096, 4096), 4096, { slot: 72, side: 'right' });
    expect(whole).toBe(machine.at(0x92000));
    machine.free(whole);
    expect(machine.console()).toEqual([]);
  });

  test('a panic looks at all of them when it is asked to, in the order of the objects', () => {
    const machine = new TestKfence({ check_on_panic: true, num_objects: 4 });
    const c = cache('c', 32, 8, { flags: SLAB_TYPESAFE_BY_RCU });
    const addrs = [0, 1, 2, 3].map((slot) => machine.alloc(c, 32, { slot, side: 'left' }));
    for (const addr of addrs) machine.store(addr + 32n, 1);
    machine.free(addrs[2] ?? 0n);
    const gone = cache('gone', 32, 8);
    drain(kfence_shutdown_cache(machine.here, machine.kfence, gone));
    machine.console();
    deathOf(() => machine.here.kernel.panic(machine.here, 'enough'));
    const lines = machine.console();
    expect(lines[0]).toBe('Kernel panic - not syncing: enough');
    expect(lines.flatMap((line) => /\(in kfence-#\d\)/.exec(line)?.[0] ?? [])).toEqual(
      [0, 1, 2, 3].map((slot) => `(in kfence-#${slot})`),
    );
    expect(lines.filter((line) => line.startsWith('rcu freeing by'))).toHaveLength(1);
  });
});

describe.each(ARCHS)('the page-fault handler (%s)', (arch) => {
  const at = (machine: TestKfence, offset: number, text: string): string =>
    `${text.replace('@', `0x${machine.at(offset).toString(16)}`)}:`;

  test.each([
    [0x17000, '32B right of kfence-#10'],
    [0x177ff, '2079B right of kfence-#10'],
    [0x17800, '2080B right of kfence-#10'],
    [0x17801, '2047B left of kfence-#11'],
    [0x17fff, '1B left of kfence-#11'],
  ])('blames the nearer of two objects for offset %#', (offset, blame) => {
    const machine = new TestKfence({ arch });
    expect(machine.alloc(kmalloc32(), 32, { slot: 10, side: 'right' })).toBe(machine.at(0x16fe0));
    machine.alloc(kmalloc32(), 32, { slot: 11, side: 'left' });
    expect(machine.fault(machine.at(offset))).toBe(true);
    expect(machine.details()).toEqual([at(machine, offset, `Out-of-bounds read at @ (${blame})`)]);
  });

  test.each([
    [0x17800, '6144B right of kfence-#10'],
    [0x17801, '6111B left of kfence-#11'],
    [0x17fff, '4065B left of kfence-#11'],
  ])('also when both are far away (%#)', (offset, blame) => {
    const machine = new TestKfence({ arch });
    machine.alloc(kmalloc32(), 32, { slot: 10, side: 'left' });
    machine.alloc(kmalloc32(), 32, { slot: 11, side: 'right' });
    machine.fault(machine.at(offset), true);
    expect(machine.details()).toEqual([at(machine, offset, `Out-of-bounds write at @ (${blame})`)]);
  });

  test.each([
    ['page 0', [], 0xa, 'Invalid read at @'],
    ['page 1, nothing allocated', [], 0x1fff, 'Invalid read at @'],
    ['page 1', [0], 0x1fff, 'Out-of-bounds read at @ (1B left of kfence-#0)'],
    ['the last page, nothing allocated', [], 0x1ff000, 'Invalid read at @'],
    ['the last page', [254], 0x1ff000, 'Out-of-bounds read at @ (4096B right of kfence-#254)'],
    [
      'behind an object, the next one unused',
      [72],
      0x93000,
      'Out-of-bounds read at @ (4096B right of kfence-#72)',
    ],
  ] as const)('%s', (_, slots, offset, text) => {
    const machine = new TestKfence({ arch });
    for (const slot of slots) machine.alloc(kmalloc32(), 32, { slot, side: 'left' });
    const addr = machine.at(offset);
    expect(machine.isProtected(addr)).toBe(true);
    expect(machine.fault(addr)).toBe(true);
    expect(machine.details()).toEqual([at(machine, offset, text)]);
    expect(machine.isProtected(addr)).toBe(false);
    expect(machine.kfence.counters.BUGS).toBe(1);
  });

  test('an access to a freed object opens it for good', () => {
    const machine = new TestKfence({ arch });
    const addr = machine.alloc(kmalloc32(), 32, { slot: 79, side: 'left' });
    machine.free(addr);
    meta(machine, 79).unprotected_page = 1n;
    machine.fault(addr + 0xfffn, true);
    expect(machine.details()).toEqual([at(machine, 0xa0fff, 'Use-after-free write at @ (in kfence-#79)')]);
    expect(machine.isProtected(addr)).toBe(false);
    expect(meta(machine, 79).unprotected_page).toBe(0n);
  });

  test('freed neighbours are to blame for nothing', () => {
    const machine = new TestKfence({ arch });
    for (const slot of [10, 11]) machine.free(machine.alloc(kmalloc32(), 32, { slot }));
    machine.fault(machine.at(0x17000));
    expect(machine.details()).toEqual([at(machine, 0x17000, 'Invalid read at @')]);
  });

  test('nothing outside of the pool is its business', () => {
    const machine = new TestKfence({ arch });
    expect(machine.fault(machine.at(0x200000))).toBe(false);
    expect(machine.fault(machine.at(-1))).toBe(false);
    expect(machine.kfence.counters.BUGS).toBe(0);
    const without = new TestKfence({ arch, sample_interval: 0 });
    for (const addr of [0n, 0x10n, machine.at(0x1000), 0xffff_ffff_ffff_ffffn]) {
      expect(without.fault(addr)).toBe(false);
    }
    expect(without.console()).toEqual([]);
  });

  test('switched off it opens the page and says nothing', () => {
    const machine = new TestKfence({ arch });
    machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
    machine.kfence.kfence_enabled = false;
    machine.console();
    expect(machine.fault(machine.at(0x91fff))).toBe(true);
    expect(machine.isProtected(machine.at(0x91fff))).toBe(false);
    expect(machine.console()).toEqual([]);
    expect(machine.kfence.counters.BUGS).toBe(0);
  });

  test('kfence.fault=panic and =oops leave the page protected', () => {
    for (const fault of ['panic', 'oops'] as const) {
      const machine = new TestKfence({ arch, fault });
      machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
      const title =
        fault === 'panic'
          ? { kind: 'panic', title: 'Kernel panic - not syncing: kfence.fault=panic set ...' }
          : { kind: 'oops', title: 'kernel BUG at mm/kfence/report.c:345!' };
      expect(deathOf(() => machine.fault(machine.at(0x91fff)))).toMatchObject(title);
      expect(machine.isProtected(machine.at(0x91fff))).toBe(true);
      expect(machine.kfence.kfence_enabled).toBe(fault === 'oops');
      expect(machine.here.kernel.print_tainted()).toMatch(/^Tainted: G {4}B/);
    }
  });

  test('a corruption that is an oops leaves the object half freed', () => {
    const machine = new TestKfence({ arch, fault: 'oops' });
    const addr = machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
    machine.store(addr + 32n, 0);
    expect(deathOf(() => machine.free(addr))).toMatchObject({ kind: 'oops' });
    expect(meta(machine, 72).state).toBe(KFENCE_OBJECT_FREED);
    expect(machine.isProtected(addr)).toBe(false);
    expect(machine.kfence.kfence_freelist.some(({ index }) => index === 72)).toBe(false);
    expect(machine.kfence.counters.ALLOCATED).toBe(1);
  });

  test('panic_on_warn comes before the taint', () => {
    const machine = new TestKfence({ arch, config: { panic_on_warn: true } });
    const dead = deathOf(() => machine.fault(machine.at(0xa)));
    expect(dead).toMatchObject({ title: 'Kernel panic - not syncing: KFENCE: panic_on_warn set ...' });
    expect(machine.here.kernel.print_tainted()).toBe('Not tainted');
  });

  test('kernel.warn_limit counts reports', () => {
    const machine = new TestKfence({ arch, config: { warn_limit: 2 } });
    machine.fault(machine.at(0xa));
    expect(deathOf(() => machine.fault(machine.at(0x1000)))).toMatchObject({
      title: 'Kernel panic - not syncing: KFENCE: system warned too often (kernel.warn_limit is 2)',
    });
  });
});

test('where there is no entry to change, x86 warns, KFENCE is off, and the fault is not its own', () => {
  const machine = new TestKfence();
  const { memory, here } = machine;
  machine.alloc(kmalloc32(), 32, { slot: 72, side: 'left' });
  machine.console();
  const pmd = memory.pgtable.tablePa(
    memory.ram.readU64(memory.pgtable.tablePa(memory.ram.readU64(memory.init_mm.pgd + 8 * 0x111))),
  );
  memory.ram.writeU64(pmd + 8 * 0x1f, 0n);
  expect(machine.fault(machine.at(0x91fff))).toBe(false);
  const lines = machine.console();
  expect(lines).toContain('Out-of-bounds read at 0xffff888003e91fff (1B left of kfence-#72):');
  expect(lines.filter((line) => line.startsWith('WARNING: '))).toEqual([
    expect.stringMatching(/^WARNING: arch\/x86\/include\/asm\/kfence.h:\d+ at /),
    expect.stringMatching(/^WARNING: mm\/kfence\/core.c:\d+ at kfence_unprotect\+/),
  ]);
  expect(machine.kfence.kfence_enabled).toBe(false);
  expect(here.kernel.print_tainted()).toContain('W');
});
