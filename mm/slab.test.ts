import { describe, expect, test } from '@jest/globals';
import { DEFAULT_CONFIG } from '../arch/kernel-config.js';
import { drain } from '../emu/path.js';
import { TestKfence } from './kfence/testing.js';
import {
  __kmalloc_cache_noprof,
  __kmalloc_noprof,
  kfree,
  kmem_cache_alloc_noprof,
  kmem_cache_destroy,
  kmem_cache_free,
  krealloc_node_align_noprof,
  ksize,
  Slab,
} from './slab.js';
import { __GFP_ZERO, GFP_KERNEL, kmalloc_align, kmalloc_name, kmalloc_size } from './slab-cache.js';

const slabOf = (machine: TestKfence): Slab => new Slab(machine.memory, machine.kfence, DEFAULT_CONFIG);

test.each([
  [1, 'kmalloc-8', 8],
  [32, 'kmalloc-32', 32],
  [73, 'kmalloc-96', 32],
  [129, 'kmalloc-192', 64],
  [1000, 'kmalloc-1k', 1024],
  [4096, 'kmalloc-4k', 4096],
])('kmalloc(%d) is served by %s, aligned to %d', (size, name, align) => {
  const object_size = kmalloc_size(size) ?? 0;
  expect([kmalloc_name(object_size), kmalloc_align(object_size)]).toEqual([name, align]);
});

test('a cache that asks for no alignment has whole words', () => {
  const machine = new TestKfence();
  const slab = slabOf(machine);
  const cache = slab.kmem_cache_create({ name: 'test', size: 5 });
  expect(cache).toMatchObject({ align: 8, size: 8, object_size: 5 });
  expect(slab.cacheAt(cache.address)).toBe(cache);
  expect(() => slab.cacheAt(cache.address + 8n)).toThrow('there is no cache at');
});

describe('what KFENCE does not take', () => {
  const plain = (): [TestKfence, Slab] => {
    const machine = new TestKfence();
    for (let i = 0; i < 20; i++) machine.kfence.placements.push({ kind: 'none' });
    return [machine, slabOf(machine)];
  };

  test('comes from plain pages, the object freed last first', () => {
    const [machine, slab] = plain();
    const cache = slab.kmem_cache_create({ name: 'test', size: 32, ctor: Uint8Array.of(0x78) });
    const alloc = () => drain(kmem_cache_alloc_noprof(machine.here, slab, cache, GFP_KERNEL));
    const [a, b] = [alloc(), alloc()];
    expect(b - a).toBe(32n);
    expect(machine.kfence.is_kfence_address(a)).toBe(false);
    expect(machine.memory.ram.bytes[Number(a - machine.memory.layout.directMap)]).toBe(0x78);
    expect(slab.virt_to_cache(a)).toBe(cache);
    drain(kmem_cache_free(machine.here, slab, cache, a));
    expect(alloc()).toBe(a);
    expect(() => drain(kfree(machine.here, slab, b + 1n))).toThrow('no object in use begins there');
    drain(kmem_cache_destroy(machine.here, slab, cache));
    expect(() => alloc()).toThrow('destroyed');
  });

  test('kmalloc() of a known size takes the cache that it names', () => {
    const [machine, slab] = plain();
    const cache = slab.kmem_cache_create({ name: 'kmalloc-rnd-01-64', size: 64 });
    const object = drain(__kmalloc_cache_noprof(machine.here, slab, cache, GFP_KERNEL, 20));
    expect([slab.virt_to_cache(object), slab.inUse(cache)]).toEqual([cache, 1]);
  });

  test('large objects are whole pages, and no bytes are no object', () => {
    const [machine, slab] = plain();
    const kmalloc = (size: number, flags = GFP_KERNEL) =>
      drain(__kmalloc_noprof(machine.here, slab, size, flags));
    const used = machine.memory.pages.allocatedPages;
    const large = kmalloc(20_000);
    expect(ksize(slab, large)).toBe(20_480);
    drain(kfree(machine.here, slab, large));
    expect(machine.memory.pages.allocatedPages).toBe(used);
    expect(kmalloc(0)).toBe(0x10n);
    drain(kfree(machine.here, slab, 0x10n));
    const dirty = kmalloc(8);
    machine.memory.ram.writeU64(Number(dirty - machine.memory.layout.directMap), ~0n & 0xffffn);
    drain(kfree(machine.here, slab, dirty));
    expect(kmalloc(8, GFP_KERNEL | __GFP_ZERO)).toBe(dirty);
    expect(machine.memory.ram.readU64(Number(dirty - machine.memory.layout.directMap))).toBe(0n);
  });
});

test('krealloc() moves what does not fit, and what it leaves behind is guarded', () => {
  const machine = new TestKfence();
  const { here, kfence } = machine;
  const slab = slabOf(machine);
  kfence.placements.push(
    { kind: 'guarded', slot: 0, side: 'left' },
    { kind: 'guarded', slot: 1, side: 'left' },
  );
  const first = drain(__kmalloc_noprof(here, slab, 32, GFP_KERNEL));
  expect(ksize(slab, first)).toBe(32);
  machine.store(first, ...Array.from({ length: 32 }, (_, i) => i + 1));
  const second = drain(krealloc_node_align_noprof(here, slab, first, 96, 1, GFP_KERNEL));
  expect(second).toBe(kfence.objectPage(1));
  expect(machine.bytes(second, 32)).toEqual(Array.from({ length: 32 }, (_, i) => i + 1));
  expect(machine.isProtected(first)).toBe(true);
  expect(drain(krealloc_node_align_noprof(here, slab, second, 64, 1, GFP_KERNEL))).toBe(second);
  expect(drain(krealloc_node_align_noprof(here, slab, second, 0, 1, GFP_KERNEL))).toBe(0x10n);
  expect(machine.isProtected(second)).toBe(true);
  expect(machine.details()).toEqual([]);
});

test('krealloc() moves what is not aligned, and empties what an object has too much when it is to be zero', () => {
  const machine = new TestKfence();
  const { here, kfence } = machine;
  const slab = slabOf(machine);
  kfence.placements.push(
    { kind: 'guarded', slot: 0, side: 'right' },
    { kind: 'guarded', slot: 1, side: 'left' },
  );
  const first = drain(__kmalloc_noprof(here, slab, 32, GFP_KERNEL));
  machine.store(first, ...Array.from({ length: 32 }, () => 0x2a));
  const krealloc = (p: bigint, align: number, flags: number): bigint =>
    drain(krealloc_node_align_noprof(here, slab, p, 30, align, flags));
  expect(krealloc(first, 32, GFP_KERNEL)).toBe(first);
  expect(machine.bytes(first, 32)).toEqual(Array.from({ length: 32 }, () => 0x2a));
  expect(krealloc(first, 1, GFP_KERNEL | __GFP_ZERO)).toBe(first);
  expect(machine.bytes(first, 32).slice(28)).toEqual([0x2a, 0x2a, 0, 0]);
  expect(krealloc(first, 64, GFP_KERNEL)).toBe(kfence.objectPage(1));
});
