import { describe, expect, test } from '@jest/globals';
import { VM_FAULT_RETRY, VM_FAULT_SIGSEGV } from '../../arch/kernel.js';
import { E2BIG, EBUSY, EFAULT, EINVAL, ENOMEM, ENOTSUPP, EPERM } from '../../kernel/errno.js';
import { vma_lookup } from '../../mm/mmap.js';
import {
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_EXEC,
  PROT_READ,
  VM_DONTCOPY,
  VM_DONTEXPAND,
  VM_MAYEXEC,
  VM_MAYWRITE,
} from '../../mm/mmap_flags.js';
import { dup_mmap } from '../../mm/mmap_fork.js';
import { exit_mmap } from '../../mm/mmap_unmap.js';
import { FakeMachine, ka, U } from '../fake-machine.js';
import { arena_map_free } from './arena.js';
import { bpf_arena_handle_page_fault } from './arena_fault.js';
import { arena_get_unmapped_area } from './arena_mmap.js';
import {
  bpf_arena_alloc_pages,
  bpf_arena_free_pages,
  bpf_arena_reserve_pages,
  NUMA_NO_NODE,
} from './arena_pages.js';
import type { bpf_arena } from './arena_struct.js';
import { FakeProcess } from './fake-process.js';

const P = 0x1000n;
const LEN = 0x10000n;
const neg = (errno: number): bigint => BigInt(-errno);

class Bench {
  readonly machine = new FakeMachine();
  readonly arena: bpf_arena;
  readonly user: FakeProcess;

  constructor(attr: Parameters<FakeMachine['arena']>[0] = {}, mapped = true) {
    this.arena = this.machine.arena(attr);
    this.user = new FakeProcess(this.machine);
    this.machine.callFrom(this.machine.program('q', 0, { arena: this.arena }));
    if (mapped) expect(this.mmap(this.arena.user_vm_start)).toBe(this.arena.user_vm_start);
  }

  mmap(addr: bigint, len = LEN, flags = MAP_SHARED, prot?: number): bigint {
    return this.user.mmap(this.arena.map, addr, len, flags, prot);
  }
  alloc(addr: bigint, count = 1): bigint {
    const { machine, arena } = this;
    return machine.run(
      bpf_arena_alloc_pages(machine.here, machine.env, arena.map, addr, count, NUMA_NO_NODE, 0n),
    );
  }
  free(addr: bigint, count = 1): void {
    const { machine, arena } = this;
    machine.run(bpf_arena_free_pages(machine.here, machine.env, arena.map, addr, count));
  }
  touch(n: number): void {
    const { machine, arena } = this;
    machine.run(bpf_arena_handle_page_fault(machine.here, machine.env, ka(arena, n), false, 0n));
  }
  state(n: number): string {
    return this.machine.stateAt(this.arena, ka(this.arena, n));
  }
  refs(n: number): number {
    const page = this.machine.pageAt(ka(this.arena, n));
    return page === null ? 0 : this.machine.memory.pages.page_ref_count(page);
  }
}

describe('arena_get_unmapped_area', () => {
  const choose = (b: Bench, addr: bigint, len: bigint, pgoff = 0n): bigint =>
    b.machine.run(
      arena_get_unmapped_area(
        b.machine.here,
        b.machine.env,
        b.arena,
        b.user.mm,
        addr,
        len,
        pgoff,
        MAP_SHARED,
      ),
    );

  test('with a start, there is one size and one address', () => {
    const b = new Bench({}, false);
    expect(choose(b, U, LEN)).toBe(U);
    expect(choose(b, U, 0x8000n)).toBe(neg(EINVAL));
    expect(choose(b, U, 0x20000n)).toBe(neg(E2BIG));
    expect(choose(b, U + P, LEN)).toBe(neg(EINVAL));
    expect(choose(b, U, LEN, 1n)).toBe(neg(EINVAL));
  });

  test('without, a range that would cross a 4 GiB boundary begins on it', () => {
    const b = new Bench({ map_extra: 0n }, false);
    expect(choose(b, 0n, (1n << 32n) + P)).toBe(neg(E2BIG));
    // Twice the length is looked for below here.
    b.user.mm.mmap_base = 0x7f7dffff8000n + 2n * LEN;
    expect(b.mmap(0n)).toBe(0x7f7e00000000n);
    expect([b.arena.user_vm_start, b.arena.user_vm_end]).toEqual([0x7f7e00000000n, 0x7f7e00010000n]);
  });

  test('a start behind which only the length itself is free leads elsewhere, and there it is busy', () => {
    const b = new Bench({}, false);
    const other = b.machine.arena({ map_extra: 0n, name: 'other' });
    expect(b.user.mmap(other.map, U + LEN, P, MAP_SHARED | MAP_FIXED)).toBe(U + LEN);
    expect(b.mmap(U)).toBe(neg(EBUSY));
    expect(b.mmap(U, LEN, MAP_SHARED | MAP_FIXED)).toBe(U);
  });
});

describe('mmap of an arena', () => {
  test('keeps its flags, its owner and its place for ever', () => {
    const b = new Bench({ map_extra: 0n }, false);
    const at = b.mmap(0n);
    // 128 MiB below the end of user space, with room for twice the length.
    expect(at).toBe(0x7fff_ffff_f000n - 0x800_0000n - 2n * LEN);
    const vma = vma_lookup(b.user.mm, at);
    const flags = vma?.vm_flags ?? 0;
    expect(flags & (VM_DONTEXPAND | VM_DONTCOPY)).toBe(VM_DONTEXPAND | VM_DONTCOPY);
    expect(flags & VM_MAYEXEC).toBe(0);
    expect(flags & VM_MAYWRITE).toBe(VM_MAYWRITE);
    expect(b.arena.vma_list.map((vml) => [vml.vma, vml.mmap_count])).toEqual([[vma, 1]]);
    expect(b.user.munmap(at, LEN)).toBe(0);
    expect(b.arena.vma_list).toEqual([]);
    expect([b.arena.user_vm_start, b.arena.user_vm_end]).toEqual([at, at + LEN]);
  });

  test('one that cannot be written never will be', () => {
    const b = new Bench({}, false);
    b.mmap(U, LEN, MAP_SHARED, PROT_READ);
    expect((vma_lookup(b.user.mm, U)?.vm_flags ?? 0) & VM_MAYWRITE).toBe(0);
  });

  test('refusals leave nothing behind', () => {
    const b = new Bench({}, false);
    expect(b.mmap(U, LEN, MAP_PRIVATE)).toBe(neg(EINVAL));
    expect(b.mmap(U, LEN, MAP_SHARED, PROT_READ | PROT_EXEC)).toBe(neg(EPERM));
    b.machine.env.failures.inject({ what: 'vma_list', times: 1 });
    expect(b.mmap(U)).toBe(neg(ENOMEM));
    const hash = { ...b.arena.map, map_type: 1, arena: null };
    expect(b.user.mmap(hash, 0n, P)).toBe(neg(ENOTSUPP));
    expect(new FakeProcess(b.machine).mmap({ ...b.arena.map, frozen: true }, U, LEN)).toBe(neg(EPERM));
    expect(b.user.mm.vmas).toEqual([]);
    expect(b.arena.vma_list).toEqual([]);
    expect(b.mmap(U)).toBe(U);
  });

  test('of two first mappings that have both chosen, the second is busy', () => {
    const b = new Bench({ map_extra: 0n }, false);
    const other = new FakeProcess(b.machine, 'other');
    other.mm.mmap_base -= 0x10_0000n;
    let first = 0n;
    const { trace } = b.machine.here;
    trace.onDecision = (fn, test) => {
      if (fn !== '__get_unmapped_area' || test !== 'IS_ERR_VALUE(addr)') return;
      trace.onDecision = null;
      first = other.mmap(b.arena.map, 0n, LEN);
    };
    expect(b.mmap(0n)).toBe(neg(EBUSY));
    expect(b.arena.user_vm_start).toBe(first);
    expect(first).toBeGreaterThan(0n);
  });

  test('several processes map it at the same place; the page they see is one', () => {
    const b = new Bench();
    const other = new FakeProcess(b.machine, 'other');
    expect(other.mmap(b.arena.map, U, LEN)).toBe(U);
    expect([b.user.fault(U), other.fault(U, true)]).toEqual([0, 0]);
    expect(b.user.pageAt(U)).toBe(other.pageAt(U));
    expect(b.refs(0)).toBe(3);
    b.free(U);
    expect([b.user.pageAt(U), other.pageAt(U), b.state(0)]).toEqual([null, null, 'none']);
  });

  test('a child does not inherit it', () => {
    const b = new Bench();
    const child = b.machine.run(dup_mmap(b.machine.here, b.user.mm, 'child'));
    expect(child?.vmas).toEqual([]);
    expect(b.arena.vma_list).toHaveLength(1);
  });
});

describe('a mapping of an arena stays in one piece', () => {
  test('munmap of a part is refused, of all of it gives pages back', () => {
    const b = new Bench();
    b.user.fault(U);
    expect(b.user.munmap(U, P)).toBe(-EINVAL);
    expect(b.user.munmap(U + 0xf000n, P)).toBe(-EINVAL);
    expect(b.refs(0)).toBe(2);
    expect(b.user.munmap(U, LEN)).toBe(0);
    expect(b.refs(0)).toBe(1);
    expect(b.arena.vma_list).toEqual([]);
  });

  test('mremap: only the same size at the same place', () => {
    const b = new Bench();
    expect(b.user.mremap(U, LEN, LEN)).toBe(U);
    expect(b.user.mremap(U, LEN, 2n * LEN, MREMAP_MAYMOVE)).toBe(neg(EFAULT));
    expect(b.user.mremap(U, LEN, LEN - P)).toBe(neg(EINVAL));
    const elsewhere = 0x7000_0000_0000n;
    expect(b.user.mremap(U, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere)).toBe(neg(EINVAL));
    expect(b.user.mremap(U, LEN, LEN, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, elsewhere)).toBe(neg(EINVAL));
    expect(b.user.mm.vmas).toHaveLength(1);
    expect(b.arena.vma_list).toMatchObject([{ mmap_count: 1 }]);
  });

  test('a mapping over a part of it is refused', () => {
    const b = new Bench();
    const other = b.machine.arena({ map_extra: 0n, name: 'other' });
    expect(b.user.mmap(other.map, U + P, P, MAP_SHARED | MAP_FIXED)).toBe(neg(EINVAL));
    expect(b.user.mm.vmas).toHaveLength(1);
  });
});

describe('arena_vm_fault', () => {
  test('the first touch gives a zeroed page, which the kernel sees as well', () => {
    const b = new Bench();
    expect(b.user.fault(U)).toBe(0);
    expect(b.user.pageAt(U)).toBe(b.machine.pageAt(ka(b.arena, 0)));
    expect([b.state(0), b.refs(0)]).toEqual(['real', 2]);
    expect(b.arena.rt.ranges()).toEqual([[1, 15]]);
  });

  test('with BPF_F_SEGV_ON_FAULT only what was allocated can be touched', () => {
    const b = new Bench({ map_flags: 0x20400 });
    expect(b.user.fault(U)).toBe(VM_FAULT_SIGSEGV);
    expect(b.arena.rt.ranges()).toEqual([[0, 15]]);
    b.alloc(U);
    expect([b.user.fault(U), b.refs(0)]).toEqual([0, 2]);
  });

  test('where the kernel has the scratch page user space gets nothing', () => {
    const b = new Bench();
    b.touch(3);
    expect(b.user.fault(U + 3n * P)).toBe(VM_FAULT_SIGSEGV);
    expect(b.state(3)).toBe('scratch');
    expect(b.arena.rt.ranges()).toEqual([[0, 15]]);
  });

  test('without the lock it is to be tried again', () => {
    const b = new Bench();
    b.machine.env.failures.inject({ what: 'spinlock', times: 1 });
    expect(b.user.fault(U)).toBe(VM_FAULT_RETRY);
    expect(b.user.fault(U)).toBe(0);
  });

  test('under the lock of the mapping alone the owner is not asked, and the lock is given back', () => {
    const b = new Bench();
    expect(b.user.fault(U, false, true)).toBe(VM_FAULT_RETRY);
    expect([b.state(0), vma_lookup(b.user.mm, U)?.readers]).toEqual(['none', 0]);
  });

  test('without a page it gives the range back', () => {
    const b = new Bench();
    b.machine.env.failures.inject({ what: 'page', times: 1 });
    expect(b.user.fault(U + 2n * P)).toBe(VM_FAULT_SIGSEGV);
    expect(b.arena.rt.ranges()).toEqual([[0, 15]]);
  });

  test('without a node the right part of what it splits is lost', () => {
    const b = new Bench();
    b.machine.env.failures.inject({ what: 'range_node', times: 1 });
    expect(b.user.fault(U + 2n * P)).toBe(VM_FAULT_SIGSEGV);
    expect(b.arena.rt.ranges()).toEqual([[0, 1]]);
  });

  test('a reservation does not keep it out', () => {
    const b = new Bench();
    const { here, env } = b.machine;
    b.machine.run(bpf_arena_reserve_pages(here, env, b.arena.map, U + 2n * P, 1));
    expect([b.user.fault(U + 2n * P), b.state(2)]).toEqual([0, 'real']);
  });

  test('a scratch page that comes between its look and its store wins', () => {
    const b = new Bench();
    const other = b.machine.otherCpu(1);
    const { here, env } = b.machine;
    here.trace.onDecision = (fn, test) => {
      if (fn !== 'arena_vm_fault' || test !== 'bpf_map_alloc_pages(&page)') return;
      here.trace.onDecision = null;
      b.machine.run(bpf_arena_handle_page_fault(other, env, ka(b.arena, 4), true, 0n));
    };
    const taken = b.machine.pagesTaken();
    expect(b.user.fault(U + 4n * P)).toBe(VM_FAULT_SIGSEGV);
    expect(b.state(4)).toBe('scratch');
    expect(b.arena.rt.ranges()).toEqual([[0, 15]]);
    // Nothing but the tables of the user's address.
    expect(b.machine.memory.pages.count('bpf arena')).toBe(0);
    expect(b.machine.pagesTaken() - taken).toBeLessThanOrEqual(3);
  });

  test('two CPUs fault on the same page: the second finds the entry filled and keeps no reference', () => {
    const b = new Bench();
    const { here } = b.machine;
    here.trace.onDecision = (fn) => {
      if (fn !== '__do_fault') return;
      here.trace.onDecision = null;
      expect(b.user.fault(U)).toBe(0);
    };
    expect(b.user.fault(U)).toBe(0x100);
    expect(b.refs(0)).toBe(2);
  });

  test('a mapping longer than the map still gets pages behind its end', () => {
    const b = new Bench({ map_extra: 0n, max_entries: 4 }, false);
    const at = b.mmap(0n);
    expect(b.user.fault(at + 8n * P)).toBe(0);
    expect(b.arena.rt.ranges()).toEqual([[0, 3]]);
  });

  test('a mapping shorter than the map: an allocation may begin at its end', () => {
    const b = new Bench({ map_extra: 0n, max_entries: 32 }, false);
    const at = b.mmap(0n);
    expect(b.alloc(0n, 16)).toBe(at);
    expect(b.alloc(0n)).toBe(b.arena.user_vm_end);
  });
});

describe('freeing a page that user space has', () => {
  test('one page: zapped when it is mapped, flushed and then freed; later the scratch page is for nobody', () => {
    const b = new Bench();
    b.alloc(U + 3n * P);
    b.user.fault(U + 3n * P);
    const page = b.machine.pageAt(ka(b.arena, 3)) ?? -1;
    b.free(U + 3n * P);
    const order = b.machine.cpu.log.events.flatMap((event) => {
      if (event.type === 'tlb-flush') return [`flush ${event.by}`];
      return event.type === 'page' && event.pa === page ? [event.action] : [];
    });
    expect(order).toEqual(['alloc', 'flush flush_tlb_kernel_range', 'flush flush_tlb_range', 'free']);
    b.touch(3);
    expect([b.state(3), b.user.fault(U + 3n * P)]).toEqual(['scratch', VM_FAULT_SIGSEGV]);
  });

  test('a fault that holds the page but has not mapped it yet keeps it', () => {
    const b = new Bench();
    b.alloc(U);
    const page = b.machine.pageAt(ka(b.arena, 0)) ?? -1;
    const { here } = b.machine;
    here.trace.onDecision = (fn) => {
      if (fn !== '__do_fault') return;
      here.trace.onDecision = null;
      b.free(U);
    };
    expect(b.user.fault(U)).toBe(0);
    expect([b.state(0), b.user.pageAt(U)]).toEqual(['none', page]);
    expect(b.machine.memory.pages.page_ref_count(page)).toBe(1);
    b.user.munmap(U, LEN);
    expect(b.machine.memory.pages.page_ref_count(page)).toBe(0);
  });
});

describe('the end', () => {
  test('a mapping that is left makes destruction warn and leak; without it all pages go', () => {
    const b = new Bench();
    const { here, env, memory } = b.machine;
    b.user.fault(U);
    b.machine.run(arena_map_free(here, env, b.arena.map));
    expect(b.machine.cpu.warnings).toHaveLength(1);
    expect(memory.pages.count('bpf arena')).toBe(1);
    b.machine.run(exit_mmap(here, b.user.mm));
    b.machine.run(arena_map_free(here, env, b.arena.map));
    expect([memory.pages.count('bpf arena'), memory.pages.count('bpf arena scratch')]).toEqual([0, 0]);
  });
});
