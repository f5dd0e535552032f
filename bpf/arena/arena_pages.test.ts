import { describe, expect, test } from '@jest/globals';
import type { vm_area_struct } from '../../arch/kernel.js';
import { EBUSY, EDEADLK, EINVAL, ENOMEM } from '../../kernel/errno.js';
import { BpfEnv } from '../env.js';
import { FakeMachine, ka, U } from '../fake-machine.js';
import { bpf_arena_handle_page_fault } from './arena_fault.js';
import {
  bpf_arena_alloc_pages,
  bpf_arena_alloc_pages_non_sleepable,
  bpf_arena_alloc_pages_sleepable,
  bpf_arena_free_pages,
  bpf_arena_free_pages_non_sleepable,
  bpf_arena_reserve_pages,
  NUMA_NO_NODE,
} from './arena_pages.js';
import type { bpf_arena, bpf_map } from './arena_struct.js';
import { run_irq_work, run_workqueue } from './arena_work.js';

const P = 0x1000n;
const NULL = 0n;

/** An arena of 16 pages with short names for what programs and the kernel do to it. */
class Bench {
  readonly machine = new FakeMachine();
  readonly arena: bpf_arena;
  readonly map: bpf_map;
  readonly zapped: [vm_area_struct, bigint, number][] = [];
  env: BpfEnv;

  constructor(attr: Parameters<FakeMachine['arena']>[0] = {}) {
    const { machine } = this;
    this.env = new BpfEnv({
      memory: machine.memory,
      kallsyms_lookup_name: machine.cpu.lookup,
      zap_vma_range: (_here, vma, address, size) => {
        this.zapped.push([vma, address, size]);
        return [];
      },
    });
    machine.env = this.env;
    this.arena = machine.arena(attr);
    this.map = this.arena.map;
    machine.callFrom(machine.program('q', 0, { arena: this.arena }));
  }

  alloc(addr: bigint, count: number, kfunc = bpf_arena_alloc_pages): bigint {
    return this.machine.run(kfunc(this.machine.here, this.env, this.map, addr, count, NUMA_NO_NODE, 0n));
  }
  free(addr: bigint, count: number, kfunc = bpf_arena_free_pages): void {
    this.machine.run(kfunc(this.machine.here, this.env, this.map, addr, count));
  }
  reserve(addr: bigint, count: number): number {
    return this.machine.run(bpf_arena_reserve_pages(this.machine.here, this.env, this.map, addr, count));
  }
  /** The kernel touches page `n` on behalf of the program. */
  touch(n: number): void {
    const { here } = this.machine;
    this.machine.run(bpf_arena_handle_page_fault(here, this.env, ka(this.arena, n), false, 0n));
  }
  work(): void {
    run_irq_work(this.env);
    this.machine.run(run_workqueue(this.machine.here, this.env));
  }

  /** The first `count` pages, one letter each: `.` none, `S` scratch, `R` real. */
  pages(count = 16): string {
    const letters = { none: '.', scratch: 'S', real: 'R' };
    return this.machine
      .states(this.arena, count)
      .map((state) => letters[state])
      .join('');
  }
  get ranges(): [number, number][] {
    return this.arena.rt.ranges();
  }
  get taken(): number {
    return this.machine.pagesTaken();
  }
}

const at = (n: number) => U + BigInt(n) * P;

describe('arena_alloc_pages', () => {
  test('without an address pages come from the start, then best fit', () => {
    const b = new Bench();
    expect([b.alloc(NULL, 1), b.alloc(NULL, 1)]).toEqual([at(0), at(1)]);
    expect(b.pages(4)).toBe('RR..');
    expect(b.ranges).toEqual([[2, 15]]);
    expect(b.alloc(at(5), 2)).toBe(at(5));
    expect([b.alloc(NULL, 3), b.alloc(NULL, 4)]).toEqual([at(2), at(7)]);
  });

  test.each([
    ['a misaligned address', U + 0x800n, 1],
    ['a range behind the end', at(15), 2],
    ['an address before the start', U - P, 1],
    ['no pages', NULL, 0],
    ['more pages than there are', NULL, 17],
  ])('refuses %s', (_what, addr, count) => {
    const b = new Bench();
    expect(b.alloc(addr, count)).toBe(NULL);
    expect(b.ranges).toEqual([[0, 15]]);
  });

  test('refuses flags, a node that is not there and a map that is no arena', () => {
    const b = new Bench();
    const { here } = b.machine;
    const call = (map: bpf_map, node: number, flags: bigint) =>
      b.machine.run(bpf_arena_alloc_pages(here, b.env, map, NULL, 1, node, flags));
    const hash = { ...b.map, map_type: 1, arena: null };
    expect([call(b.map, NUMA_NO_NODE, 1n), call(b.map, 1, 0n), call(b.map, -2, 0n)]).toEqual([0n, 0n, 0n]);
    expect(call(hash, NUMA_NO_NODE, 0n)).toBe(0n);
    expect(b.ranges).toEqual([[0, 15]]);
    expect(call(b.map, 0, 0n)).toBe(at(0));
  });

  test('may end exactly at the end of the arena', () => {
    const b = new Bench();
    expect(b.alloc(at(14), 2)).toBe(at(14));
    expect(b.pages()).toBe('..............RR');
    expect(b.ranges).toEqual([[0, 13]]);
  });

  test('refuses a range of which a page is taken', () => {
    const b = new Bench();
    b.alloc(at(5), 1);
    expect(b.alloc(at(4), 3)).toBe(NULL);
    expect(b.pages(8)).toBe('.....R..');
    expect(b.ranges).toEqual([
      [0, 4],
      [6, 15],
    ]);
  });

  test('pages arrive zeroed', () => {
    const b = new Bench();
    const { ram } = b.machine.here;
    const page = b.machine.pageAt(ka(b.arena, 0));
    expect(page).toBeNull();
    b.alloc(at(0), 1);
    const first = b.machine.pageAt(ka(b.arena, 0)) ?? 0;
    ram.fill(first, 4096, 0xab);
    b.free(at(0), 1);
    b.alloc(at(1), 1);
    const again = b.machine.pageAt(ka(b.arena, 1)) ?? 0;
    expect(ram.read(again, 4096).every((byte) => byte === 0)).toBe(true);
  });

  test('pages that run out in the third batch take the first two batches with them', () => {
    const b = new Bench({ max_entries: 4096 });
    const before = b.taken;
    b.machine.failPagesAfter(1024 + 1024 + 100);
    expect(b.alloc(NULL, 2500, bpf_arena_alloc_pages_sleepable)).toBe(NULL);
    expect(
      b.machine.cpu.log.events.filter((event) => event.type === 'pte-write' && event.by === 'set_pte'),
    ).toHaveLength(2048);
    expect(b.pages(2500)).toBe('.'.repeat(2500));
    expect(b.ranges).toEqual([[0, 4095]]);
    expect(b.taken).toBe(before);
  });

  test('a scratch page refuses it, and the page allocated for it is given back', () => {
    const b = new Bench();
    b.touch(3);
    const before = b.taken;
    expect(b.alloc(at(3), 1)).toBe(NULL);
    expect(b.pages(4)).toBe('...S');
    expect(b.ranges).toEqual([[0, 15]]);
    expect(b.taken).toBe(before);
  });

  test('a scratch page behind mapped pages rolls those back at once when that may sleep', () => {
    const b = new Bench();
    b.touch(2);
    const before = b.taken;
    expect(b.alloc(NULL, 4, bpf_arena_alloc_pages_sleepable)).toBe(NULL);
    expect(b.pages(4)).toBe('..S.');
    expect(b.ranges).toEqual([[0, 15]]);
    expect(b.taken).toBe(before);
  });

  test('the same rollback waits for the worker when it must not sleep', () => {
    const b = new Bench();
    b.touch(2);
    expect(b.alloc(NULL, 4, bpf_arena_alloc_pages_non_sleepable)).toBe(NULL);
    expect(b.pages(4)).toBe('RRS.');
    expect(b.ranges).toEqual([[2, 15]]);
    expect(b.arena.free_spans).toEqual([{ uaddr: 0x26200000, page_cnt: 2 }]);
    b.work();
    expect(b.pages(4)).toBe('..S.');
    expect(b.ranges).toEqual([[0, 15]]);
  });

  test('a scratch page at the start keeps every allocation without an address from working', () => {
    const b = new Bench();
    b.touch(0);
    expect([1, 2, 3].map(() => b.alloc(NULL, 1))).toEqual([NULL, NULL, NULL]);
    expect(b.ranges).toEqual([[0, 15]]);
    expect(b.alloc(at(1), 1)).toBe(at(1));
  });

  test('an arena that nobody mapped yet has no pages to give', () => {
    const b = new Bench({ map_extra: 0n });
    expect(b.alloc(NULL, 1, bpf_arena_alloc_pages_sleepable)).toBe(NULL);
  });

  test('equal halves: the right one is chosen', () => {
    const b = new Bench({ max_entries: 5 });
    b.reserve(at(2), 1);
    expect(b.alloc(NULL, 2)).toBe(at(3));
    expect(b.ranges).toEqual([[0, 1]]);
  });

  test('an arena at the end of the addresses has its pages; none comes back, for its end is 0', () => {
    const start = 0xffff_ffff_ffff_0000n;
    const b = new Bench({ map_extra: start });
    expect(b.arena.user_vm_end).toBe(0n);
    expect([b.alloc(NULL, 1), b.reserve(start + P, 15), b.reserve(start + P, 16)]).toEqual([
      start,
      0,
      -EINVAL,
    ]);
    b.free(start, 1);
    expect(b.pages(1)).toBe('R');
  });

  test('a range to be freed that goes beyond 64 bits ends before it begins', () => {
    const start = 0xffff_ffff_fffe_0000n;
    const b = new Bench({ map_extra: start });
    b.alloc(NULL, 1);
    b.free(start, 0x20);
    expect(b.pages(1)).toBe('R');
    b.free(start, 0x1f);
    expect(b.pages(1)).toBe('.');
  });

  test('an arena mapped shorter than it is gives out addresses behind the mapping', () => {
    const b = new Bench({ map_extra: 0n, max_entries: 32 });
    b.arena.user_vm_start = U;
    b.arena.user_vm_end = at(16);
    b.alloc(NULL, 16);
    expect(b.alloc(NULL, 1)).toBe(at(16));
    expect(b.machine.stateAt(b.arena, ka(b.arena, 16))).toBe('real');
  });
});

describe('without the lock', () => {
  test('allocating and reserving fail, freeing is put off', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    b.env.failures.inject({ what: 'spinlock', times: 3, errno: EDEADLK });
    expect(b.alloc(NULL, 1)).toBe(NULL);
    expect(b.reserve(at(4), 1)).toBe(-EBUSY);
    b.free(at(0), 1);
    expect(b.pages(2)).toBe('R.');
    expect(b.arena.free_spans).toHaveLength(1);
    expect(b.ranges).toEqual([[1, 15]]);
  });

  test('the worker comes back later', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    b.free(at(0), 1, bpf_arena_free_pages_non_sleepable);
    b.env.failures.inject({ what: 'spinlock', times: 3, errno: EDEADLK });
    b.work();
    expect(b.pages(1)).toBe('R');
    expect(b.env.work.pending).toBe(true);
    b.env.failures.clear('spinlock');
    b.work();
    expect(b.pages(1)).toBe('.');
    expect(b.env.work.pending).toBe(false);
  });
});

describe('arena_free_pages', () => {
  test('frees a page once, however often it is asked to', () => {
    const b = new Bench();
    const before = b.taken;
    b.alloc(at(3), 1);
    b.free(at(3), 1);
    b.free(at(3), 1);
    expect(b.pages(4)).toBe('....');
    expect(b.ranges).toEqual([[0, 15]]);
    expect(b.taken).toBe(before);
  });

  test('ignores no pages, NULL and a map that is no arena', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    b.free(at(0), 0);
    b.free(NULL, 1);
    const hash = { ...b.map, map_type: 1, arena: null };
    b.machine.run(bpf_arena_free_pages(b.machine.here, b.env, hash, at(0), 1));
    expect(b.pages(1)).toBe('R');
  });

  test('real pages are freed, scratch pages only leave, holes do not matter', () => {
    const b = new Bench();
    b.alloc(at(2), 1);
    b.touch(3);
    const before = b.taken;
    b.free(at(2), 3);
    expect(b.pages(6)).toBe('......');
    expect(b.taken).toBe(before - 1);
  });

  test('freeing a scratched address revives it, with one flush', () => {
    const b = new Bench();
    b.touch(3);
    const before = b.taken;
    b.free(at(3), 1);
    expect(b.pages(4)).toBe('....');
    expect(b.taken).toBe(before);
    expect(b.machine.flushes()).toEqual([ka(b.arena, 3)]);
    expect(b.alloc(at(3), 1)).toBe(at(3));
    expect(b.pages(4)).toBe('...R');
  });

  test('a page is freed only after its translation is flushed', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    b.machine.cpu.log.events.length = 0;
    b.free(at(0), 1);
    const order = b.machine.cpu.log.events.map((event) => event.type);
    expect(order.indexOf('pte-write')).toBeLessThan(order.indexOf('tlb-flush'));
    expect(order.indexOf('tlb-flush')).toBeLessThan(order.lastIndexOf('page'));
  });

  test('is cut off at the end of the mapping', () => {
    const b = new Bench();
    b.alloc(at(14), 2);
    b.free(at(14), 5);
    expect(b.ranges).toEqual([[0, 15]]);
    expect(b.machine.flushes()).toHaveLength(2);
  });

  test('rounds a pointer down to its page', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    b.free(U + 0x123n, 1);
    expect(b.pages(1)).toBe('.');
  });

  test('below the start of the arena it frees pages that are none of its', () => {
    const b = new Bench();
    b.free(0x1000n, 1);
    expect(b.ranges).toEqual([
      [0, 15],
      [0xd9e01, 0xd9e01],
    ]);
    expect(b.alloc(NULL, 1)).toBe(0x7f7d00001000n);
    expect(b.machine.stateAt(b.arena, b.arena.kern_vm_start + 0x1000n)).toBe('real');
  });

  test('several pages are zapped once, a single one only when user space maps it', () => {
    const b = new Bench();
    const vma = { vm_start: U, vm_end: at(16), vm_flags: 0, pkey: 0 };
    b.arena.vma_list.push({ vma, mmap_count: 1, zap_gen: 0 });
    b.alloc(at(0), 5);
    b.free(at(0), 4);
    expect(b.zapped).toEqual([[vma, at(0), 4 * 4096]]);
    b.free(at(4), 1);
    expect(b.zapped).toHaveLength(1);
    b.alloc(at(4), 1);
    b.machine.memory.pages.page_add_rmap(b.machine.pageAt(ka(b.arena, 4)) ?? -1);
    b.free(at(4), 1);
    expect(b.zapped.slice(1)).toEqual([[vma, at(4), 4096]]);
  });
});

describe('freeing that is put off', () => {
  test('the pages stay until the worker has run', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    const before = b.taken;
    b.free(at(0), 1, bpf_arena_free_pages_non_sleepable);
    expect(b.pages(1)).toBe('R');
    expect(b.ranges).toEqual([[1, 15]]);
    expect(b.alloc(at(0), 1)).toBe(NULL);
    run_irq_work(b.env);
    expect(b.pages(1)).toBe('R');
    b.machine.run(run_workqueue(b.machine.here, b.env));
    expect(b.pages(1)).toBe('.');
    expect(b.ranges).toEqual([[0, 15]]);
    expect(b.taken).toBe(before - 1);
  });

  test('a range that was put aside twice is freed once', () => {
    const b = new Bench();
    const before = b.taken;
    b.alloc(at(0), 2);
    b.free(at(0), 2, bpf_arena_free_pages_non_sleepable);
    b.free(at(0), 2, bpf_arena_free_pages_non_sleepable);
    b.work();
    expect(b.taken).toBe(before);
    expect(b.ranges).toEqual([[0, 15]]);
  });

  test('without memory to put it aside the page leaks until the arena dies', () => {
    const b = new Bench();
    b.alloc(at(0), 1);
    b.env.allocationFails = (what) => what === 'arena_free_span';
    b.free(at(0), 1, bpf_arena_free_pages_non_sleepable);
    expect(b.env.work.pending).toBe(false);
    expect(b.pages(1)).toBe('R');
    expect(b.alloc(at(0), 1)).toBe(NULL);
  });
});

describe('arena_reserve_pages', () => {
  test('keeps allocations away and maps nothing', () => {
    const b = new Bench();
    expect(b.reserve(at(0), 2)).toBe(0);
    expect(b.alloc(NULL, 1)).toBe(at(2));
    expect(b.pages(3)).toBe('..R');
    expect(b.reserve(at(14), 2)).toBe(0);
    expect(b.ranges).toEqual([[3, 13]]);
  });

  test.each([
    ['a misaligned address is nothing, and no error', U + 1n, 1, 0],
    ['no pages are nothing', at(0), 0, 0],
    ['a range behind the end', at(15), 2, -EINVAL],
    ['a taken page', at(8), 1, -EBUSY],
  ])('%s', (_what, addr, count, ret) => {
    const b = new Bench();
    b.alloc(at(8), 1);
    const before = b.ranges;
    expect(b.reserve(addr, count)).toBe(ret);
    expect(b.ranges).toEqual(before);
  });

  test('the type of the map is looked at before the count', () => {
    const b = new Bench();
    const hash = { ...b.map, map_type: 1, arena: null };
    const ret = bpf_arena_reserve_pages(b.machine.here, b.env, hash, at(0), 0);
    expect(b.machine.run(ret)).toBe(-EINVAL);
  });

  test('a split that finds no memory is reported', () => {
    const b = new Bench();
    b.env.allocationFails = (what) => what === 'range_node';
    expect(b.reserve(at(4), 1)).toBe(-ENOMEM);
  });

  test('a scratch page does not matter to it, and an allocation there still fails', () => {
    const b = new Bench();
    b.touch(3);
    expect(b.reserve(at(3), 1)).toBe(0);
    expect(b.alloc(at(3), 1)).toBe(NULL);
    expect(b.pages(4)).toBe('...S');
    expect(b.ranges).toEqual([
      [0, 2],
      [4, 15],
    ]);
  });
});
