import { describe, expect, test } from '@jest/globals';
import { Ram } from '../emu/ram.js';
import { testCpu } from '../kernel/testing.js';
import { PageAllocator, PageAllocatorError } from './page_alloc.js';

const BASE = 0x4000_0000;
const { here, log } = testCpu();

function allocator(base = BASE): { ram: Ram; pages: PageAllocator } {
  const ram = new Ram(base, 1 << 20);
  return { ram, pages: new PageAllocator(ram) };
}

function take(pages: PageAllocator, owner = 'test'): number {
  const pa = pages.alloc_page(here, owner);
  if (pa === null) throw new Error('no page');
  return pa;
}

describe('order', () => {
  test('is the page freed last, then the lowest one never used', () => {
    const { pages } = allocator();
    const [a, b, c] = [take(pages), take(pages), take(pages)];
    expect([a, b, c]).toEqual([BASE, BASE + 0x1000, BASE + 0x2000]);
    pages.free_page(here, a);
    pages.free_page(here, b);
    expect([take(pages), take(pages), take(pages)]).toEqual([b, a, BASE + 0x3000]);
  });

  test('leaves out page 0 and what is reserved', () => {
    const { pages } = allocator(0);
    pages.reserve(0x2000, 2, 'firmware');
    expect([take(pages), take(pages)]).toEqual([0x1000, 0x4000]);
    expect(pages.ownerOf(0x2fff)).toBe('firmware');
  });

  test('runs of frames are aligned; the frames skipped come first afterwards', () => {
    const { pages } = allocator();
    take(pages);
    expect(pages.takeFrames(4, 'image', 0x4000)).toBe(BASE + 0x4000);
    expect([take(pages), take(pages), take(pages), take(pages)]).toEqual(
      [0x1000, 0x2000, 0x3000, 0x8000].map((offset) => BASE + offset),
    );
    expect(pages.takeFrames(256, 'image')).toBeNull();
  });

  test('ends with the last frame, also when that is reserved', () => {
    const { pages } = allocator();
    pages.reserve(BASE + 0xf_f000, 1, 'top');
    for (let i = 0; i < 255; i++) take(pages);
    expect(pages.alloc_page(here, 'test')).toBeNull();
    expect(pages.alloc_page(here, 'test')).toBeNull();
    expect([pages.freePages, pages.allocatedPages, pages.count('test')]).toEqual([0, 256, 255]);
  });
});

describe('content', () => {
  test('a page that comes back is zero', () => {
    const { ram, pages } = allocator();
    const pa = take(pages);
    ram.fill(pa, 4096, 0x5a);
    pages.free_page(here, pa);
    expect(take(pages)).toBe(pa);
    expect(ram.read(pa, 4096).every((byte) => byte === 0)).toBe(true);
  });

  test('a page nobody had is zero even if somebody wrote to it, once the ram is exposed', () => {
    const { ram, pages } = allocator();
    ram.fill(BASE, 8192, 0x5a);
    pages.exposed = true;
    expect(ram.readU64(take(pages))).toBe(0n);
    expect(ram.readU64(pages.takeFrames(1, 'run') ?? 0)).toBe(0n);
  });
});

describe('references', () => {
  test('the last one frees the page; events tell only then', () => {
    const { pages } = allocator();
    const pa = take(pages, 'bpf arena');
    pages.get_page(pa);
    log.events.length = 0;
    pages.free_page(here, pa);
    expect([pages.page_ref_count(pa), pages.ownerOf(pa), log.events.length]).toEqual([1, 'bpf arena', 0]);
    pages.put_page(here, pa);
    expect([pages.page_ref_count(pa), pages.ownerOf(pa)]).toEqual([0, null]);
    expect(log.events).toEqual([{ type: 'page', cpu: 0, action: 'free', pa, owner: 'bpf arena' }]);
  });

  test.each([
    ['freed twice', 0, /page 0x40000000 is freed, but is free; last owner: test/],
    ['never allocated', 0x5000, /page 0x40005000 is freed, but was never allocated/],
    ['not a page', 0x800, /0x40000800 is freed: not a page address/],
    ['not in the ram', 1 << 20, /page 0x40100000 is freed: there is no ram/],
  ])('a page that is %s is refused with its address', (_, offset, message) => {
    const { pages } = allocator();
    pages.free_page(here, take(pages));
    expect(() => pages.free_page(here, BASE + offset)).toThrow(PageAllocatorError);
    expect(() => pages.free_page(here, BASE + offset)).toThrow(message);
  });
});

test('whoever may refuse is asked before each allocation, with its owner, and nothing is taken then', () => {
  const { pages } = allocator();
  const asked: string[] = [];
  pages.refuses = (owner) => {
    asked.push(owner);
    return owner === 'page table';
  };
  const before = pages.allocatedPages;
  expect(pages.alloc_page(here, 'page table')).toBeNull();
  expect(pages.takeFrames(2, 'page table')).toBeNull();
  expect(pages.allocatedPages).toBe(before);
  expect(pages.alloc_page(here, 'bpf arena')).not.toBeNull();
  expect(asked).toEqual(['page table', 'page table', 'bpf arena']);
  pages.refuses = null;
  expect(pages.alloc_page(here, 'page table')).not.toBeNull();
});
