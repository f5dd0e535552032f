import { describe, expect, test } from '@jest/globals';
import { layout as x86Layout } from '../arch/x86/setup.js';
import { fromSigned } from '../emu/address.js';
import { map_page } from './map.js';
import { vmalloc_to_page } from './pgtable_walk.js';
import { ARCHS, failPages, testMemory } from './testing.js';
import { flush_tlb_kernel_range, flush_tlb_one } from './tlb.js';
import {
  alloc_thread_stack,
  free_thread_stack,
  free_vm_area,
  get_vm_area,
  get_vm_area_size,
  VM_ALLOC,
  VM_NO_GUARD,
  VM_SPARSE,
  VmallocError,
  VmallocSpace,
} from './vmalloc.js';

describe.each(ARCHS)('get_vm_area on %s', (arch) => {
  test('takes the lowest hole; a page behind each area stays free', () => {
    const { memory, here } = testMemory(arch);
    const { start } = memory.layout.vmalloc;
    const area = (size: number, flags = VM_ALLOC) => get_vm_area(here, memory, size, flags);
    const [a, b, c] = [area(0x1001), area(0x1000), area(0x1000, VM_NO_GUARD)];
    expect([a?.addr, b?.addr, c?.addr]).toEqual([start, start + 0x3000n, start + 0x5000n]);
    expect(area(0x1000)?.addr).toBe(start + 0x6000n);
    if (a === null || b === null) throw new Error('no area');
    expect([a.size, get_vm_area_size(a)]).toEqual([0x3000, 0x2000]);
    free_vm_area(here, memory, a);
    free_vm_area(here, memory, b);
    // Now there are five pages at the start: an area of four and its guard.
    expect(area(0x5000)?.addr).toBe(start + 0x8000n);
    expect(area(0x4000)?.addr).toBe(start);
    expect(area(0x1000)?.addr).toBe(start + 0xe000n);
  });

  test('takes the address asked for, or says who has it', () => {
    const { memory, here } = testMemory(arch);
    const at = memory.layout.vmalloc.start + 0x1e6_1000n;
    const take = (address: bigint) => get_vm_area(here, memory, 0x4000, VM_SPARSE, { at: address });
    expect(take(at)?.addr).toBe(at);
    // The guard page counts.
    expect(() => take(at + 0x4000n)).toThrow(VmallocError);
    expect(take(at + 0x5000n)?.addr).toBe(at + 0x5000n);
    expect(() => take(memory.layout.vmalloc.start - 0x1000n)).toThrow(
      /not in whole pages of the vmalloc range/,
    );
    expect(() => take(at + 0x10_0800n)).toThrow(VmallocError);
  });

  test('is refused when nothing is large enough', () => {
    const { memory, here } = testMemory(arch);
    const { start, end } = memory.layout.vmalloc;
    expect(get_vm_area(here, memory, Number(end - start), VM_ALLOC)).toBeNull();
    expect(get_vm_area(here, memory, 0x1000, VM_ALLOC)?.addr).toBe(start);
  });

  test('freeing unmaps, flushes and keeps no claim', () => {
    const { memory, here, cpus } = testMemory(arch);
    const area = get_vm_area(here, memory, 0x2000, VM_ALLOC);
    if (area === null) throw new Error('no area');
    const page = memory.pages.alloc_page(here, 'test') ?? 0;
    map_page(here, memory, memory.init_mm, area.addr, page, memory.pgtable.PAGE_KERNEL);
    free_vm_area(here, memory, area);
    expect(vmalloc_to_page(here, memory, area.addr)).toBeNull();
    expect(memory.vmalloc.areas).toEqual([]);
    const va = area.addr;
    const pages = [va, va + 0x1000n].map((at) => at.toString(16));
    expect(cpus[0]?.tlb).toEqual(pages.flatMap((at) => [`flush ${at}`, `unpin ${at}`]));
    expect(() => free_vm_area(here, memory, area)).toThrow(VmallocError);
  });

  test('a kernel stack is aligned, mapped as a whole, and has unmapped pages on both sides', () => {
    const { memory, here } = testMemory(arch);
    const { THREAD_SIZE, THREAD_ALIGN } = memory.layout;
    const stacks = [0, 1].map(() => alloc_thread_stack(here, memory, 'kernel stack'));
    const bases = stacks.map((each) => each?.stack ?? 0n);
    for (const base of bases) {
      expect(base % BigInt(THREAD_ALIGN)).toBe(0n);
      const mapped = (offset: number) => vmalloc_to_page(here, memory, base + BigInt(offset)) !== null;
      expect([-0x1000, 0, THREAD_SIZE - 1, THREAD_SIZE].map(mapped)).toEqual([false, true, true, false]);
    }
    expect(memory.pages.count('kernel stack')).toBe((2 * THREAD_SIZE) / 4096);
    failPages(memory, 2);
    expect(alloc_thread_stack(here, memory, 'kernel stack')).toBeNull();
    expect(memory.pages.count('kernel stack')).toBe((2 * THREAD_SIZE) / 4096);
    expect(memory.vmalloc.areas).toHaveLength(2);
    memory.pages.refuses = null;
    for (const stack of stacks) if (stack !== null) free_thread_stack(here, memory, stack);
    expect([memory.pages.count('kernel stack'), memory.vmalloc.areas]).toEqual([0, []]);
    expect(bases.map((base) => vmalloc_to_page(here, memory, base))).toEqual([null, null]);
  });
});

test('a kernel image inside the vmalloc range is nobody’s', () => {
  const { vmalloc } = x86Layout;
  const text = { start: vmalloc.start, end: vmalloc.start + 0x1234n };
  const space = new VmallocSpace({ ...x86Layout, text });
  expect(space.take(0x1000, VM_ALLOC, {})?.addr).toBe(vmalloc.start + 0x2000n);
});

describe('TLB flushes', () => {
  test('go page by page up to 33 pages, to every CPU, and are events of the CPU that is flushed', () => {
    const { memory, here, cpus } = testMemory('x86-64', 32 << 20, 2);
    const va = 0xffff_c900_0000_0000n;
    flush_tlb_kernel_range(here, memory, va, va + 33n * 0x1000n);
    expect(cpus.map(({ tlb }) => tlb.length)).toEqual([66, 66]);
    expect(cpus[1]?.log.events.at(-1)).toEqual({
      type: 'tlb-flush',
      cpu: 1,
      va: va + 32n * 0x1000n,
      by: 'flush_tlb_kernel_range',
    });
    flush_tlb_kernel_range(here, memory, va, va + 34n * 0x1000n);
    expect(cpus[1]?.log.events.at(-1)).toEqual({
      type: 'tlb-flush',
      cpu: 1,
      va: null,
      by: 'flush_tlb_kernel_range',
    });
    expect(cpus[0]?.tlb.slice(66)).toEqual(['flush all', 'unpin all']);
  });

  test('of one page stay on their CPU', () => {
    const { here, cpus } = testMemory('x86-64', 32 << 20, 2);
    flush_tlb_one(here, fromSigned(-0x1001));
    expect(cpus.map(({ tlb }) => tlb)).toEqual([['flush ffffffffffffe000', 'unpin ffffffffffffe000'], []]);
  });
});
