import { describe, expect, test } from '@jest/globals';
import { arm64 } from '../../arch/arm64/index.js';
import { DEFAULT_CONFIG } from '../../arch/kernel-config.js';
import { Endless } from '../../emu/endless.js';
import { LockError } from '../../kernel/rqspinlock.js';
import { MmapError } from '../../mm/mmap.js';
import type { ArenaVariant } from '../env.js';
import { FakeMachine, ka, U } from '../fake-machine.js';
import { bpfHooks } from '../kernel_hooks.js';
import type { bpf_prog } from '../program.js';
import { bpf_arena_handle_page_fault, bpf_arena_handle_page_fault_hinted } from './arena_fault.js';
import { bpf_arena_alloc_pages, bpf_arena_free_pages, NUMA_NO_NODE } from './arena_pages.js';
import { apply_range_set_cb } from './arena_ptes.js';
import type { bpf_arena } from './arena_struct.js';
import { FakeProcess } from './fake-process.js';

const P = 0x1000n;

class Bench {
  readonly machine: FakeMachine;
  readonly arena: bpf_arena;
  readonly prog: bpf_prog;

  constructor(variant: ArenaVariant, arch: 'x86-64' | 'arm64' = 'x86-64') {
    this.machine = new FakeMachine(arch);
    this.machine.env.variant = variant;
    this.arena = this.machine.arena();
    this.prog = this.machine.program('q', 0, { arena: this.arena });
    this.machine.callFrom(this.prog);
  }

  alloc(addr: bigint, count = 1): bigint {
    const { machine, arena } = this;
    return machine.run(
      bpf_arena_alloc_pages(machine.here, machine.env, arena.map, addr, count, NUMA_NO_NODE, 0n),
    );
  }
  touch(n: number, here = this.machine.here): boolean {
    return this.machine.run(
      bpf_arena_handle_page_fault(here, this.machine.env, ka(this.arena, n), false, 0n),
    );
  }
  state(n: number): string {
    return this.machine.stateAt(this.arena, ka(this.arena, n));
  }
  /** What was done to the entry of page `n`. */
  writes(n: number): string[] {
    const pa = this.machine.ptepAt(ka(this.arena, n));
    return this.machine.cpu.log.events.flatMap((event) =>
      event.type === 'pte-write' && event.pa === pa ? [`${event.by}${event.changed ? '' : ' in vain'}`] : [],
    );
  }
}

describe.each(['x86-64', 'arm64'] as const)('L1 on %s', (arch) => {
  test('allocates over a scratch page, through none; only arm64 drops its translation', () => {
    const b = new Bench('L1', arch);
    b.touch(3);
    const before = b.machine.flushes().length;
    expect(b.alloc(U + 3n * P)).toBe(U + 3n * P);
    expect(b.state(3)).toBe('real');
    expect(b.writes(3)).toEqual([
      'ptep_try_set',
      'ptep_try_set in vain',
      'ptep_get_and_clear',
      'ptep_try_set',
    ]);
    expect(b.machine.flushes().slice(before)).toEqual(arch === 'arm64' ? [ka(b.arena, 3)] : []);
  });

  test('an arena whose first page is a scratch page gives that page out', () => {
    const b = new Bench('L1', arch);
    b.touch(0);
    expect([b.alloc(0n), b.alloc(0n)]).toEqual([U, U + P]);
  });

  test('a scratch page that comes in before the exchange is replaced, one that comes after the clearing too', () => {
    const b = new Bench('L1', arch);
    const { here } = b.machine;
    const other = b.machine.otherCpu(1);
    b.touch(3);
    let times = 0;
    here.trace.onDecision = (_fn, decided) => {
      // The entry is cleared behind this decision, and exchanged before the next one.
      if (decided !== 'pte_page(old) != d->scratch_page' || times++ > 0) return;
      b.touch(3, other);
    };
    expect(b.alloc(U + 3n * P)).toBe(U + 3n * P);
    expect(b.state(3)).toBe('real');
  });

  test('warns over a real page', () => {
    const b = new Bench('L1', arch);
    b.alloc(U);
    const { here, env, memory } = b.machine;
    const page = memory.pages.alloc_page(here, 'bpf arena') ?? 0;
    const data = { env, pages: [page], i: 0, scratch_page: b.arena.scratch_page };
    expect(
      b.machine.run(apply_range_set_cb(here, b.machine.ptepAt(ka(b.arena, 0)), ka(b.arena, 0), data)),
    ).toBe(-16);
    expect(b.machine.cpu.warnings).toEqual(['kernel/bpf/arena.c apply_range_set_cb']);
  });
});

test('L1 on x86 would loop for ever over an entry with only the erratum bits', () => {
  const b = new Bench('L1');
  b.machine.setEntryAt(ka(b.arena, 0), 0x60n);
  let thrown: unknown = null;
  try {
    b.alloc(U);
  } catch (error) {
    thrown = error;
  }
  const outcome = thrown instanceof Endless ? thrown.outcome(null) : thrown;
  expect(outcome).toEqual({ kind: 'livelock', pc: null, address: ka(b.arena, 0), turns: 16 });
  // The CPU is in there with the lock, for good.
  expect(b.arena.spinlock.owner).toBe(0);
});

test('L1 without ptep_try_set() does as v4 does', () => {
  const b = new Bench('L1', 'arm64');
  const stub = arm64.pgtable({ ...DEFAULT_CONFIG, ARM64_CONTPTE: false });
  expect([stub.ptep_try_set_is_stub, b.machine.memory.pgtable.ptep_try_set_is_stub]).toEqual([true, false]);
  b.touch(3);
  Object.defineProperty(b.machine.memory.pgtable, 'ptep_try_set_is_stub', { value: true });
  expect(b.alloc(U + 3n * P)).toBe(0n);
});

describe('zap_pages', () => {
  const free = (b: Bench, count: number): void => {
    const { here, env } = b.machine;
    b.machine.run(bpf_arena_free_pages(here, env, b.arena.map, U, count));
  };

  test.each(['v4', 'L1'] as const)('%s takes the pages out of every mapping', (variant) => {
    const b = new Bench(variant);
    const users = [new FakeProcess(b.machine, 'a'), new FakeProcess(b.machine, 'b')];
    for (const user of users) {
      user.mmap(b.arena.map, U, 0x10000n);
      user.fault(U);
      user.fault(U + P);
    }
    free(b, 2);
    expect(users.map((user) => [user.pageAt(U), user.pageAt(U + P), user.mm.readers])).toEqual([
      [null, null, 0],
      [null, null, 0],
    ]);
  });

  test.each([
    ['v4', 0],
    ['L1', 1],
    ['L2', 1],
  ] as const)(
    '%s: a single page with a reference and no user entry is looked for in %i mappings',
    (variant, zaps) => {
      const b = new Bench(variant);
      new FakeProcess(b.machine).mmap(b.arena.map, U, 0x10000n);
      b.alloc(U);
      b.machine.memory.pages.get_page(b.machine.pageAt(ka(b.arena, 0)) ?? -1);
      free(b, 1);
      const zapped = b.machine.cpu.log.events.filter(
        (event) => event.type === 'enter' && event.fn === 'zap_vma_range',
      );
      expect(zapped).toHaveLength(zaps);
    },
  );

  test('a writer of the address space: L1 waits for it, v4 does not look', () => {
    for (const variant of ['v4', 'L1'] as const) {
      const b = new Bench(variant);
      const user = new FakeProcess(b.machine);
      user.mmap(b.arena.map, U, 0x10000n);
      user.fault(U);
      user.mm.writer = 1;
      const act = expect(() => free(b, 2));
      if (variant === 'v4') act.not.toThrow();
      else act.toThrow(MmapError);
    }
  });

  test('L1: a mapping that went meanwhile is passed over', () => {
    const b = new Bench('L1');
    const [first, second] = [new FakeProcess(b.machine, 'a'), new FakeProcess(b.machine, 'b')];
    for (const user of [first, second]) {
      user.mmap(b.arena.map, U, 0x10000n);
      user.fault(U);
    }
    const { trace } = b.machine.here;
    trace.onDecision = (fn) => {
      if (fn !== 'zap_pages') return;
      trace.onDecision = null;
      expect(first.munmap(U, 0x10000n)).toBe(0);
    };
    free(b, 2);
    expect(second.pageAt(U)).toBeNull();
    expect(b.arena.vma_list).toHaveLength(1);
  });

  test('v4 holds the mutex of the list over all of it', () => {
    const b = new Bench('v4');
    const user = new FakeProcess(b.machine);
    user.mmap(b.arena.map, U, 0x10000n);
    user.fault(U);
    const { trace } = b.machine.here;
    trace.onDecision = (fn) => {
      if (fn !== 'zap_pte_range') return;
      trace.onDecision = null;
      user.munmap(U, 0x10000n);
    };
    expect(() => free(b, 2)).toThrow(LockError);
  });
});

describe('L2', () => {
  const hinted = (b: Bench, ret_ip: bigint): boolean => {
    const { here, env } = b.machine;
    return b.machine.run(bpf_arena_handle_page_fault_hinted(here, env, ka(b.arena, 3), false, 0n, ret_ip));
  };

  test('takes the return address where the stack knows no program', () => {
    const b = new Bench('L2');
    b.machine.cpu.stack = [];
    expect(hinted(b, 0n)).toBe(false);
    expect(hinted(b, b.machine.cpu.in('my_kfunc', 4n))).toBe(false);
    expect(b.state(3)).toBe('none');
    expect(hinted(b, b.prog.bpf_func + 0x20n)).toBe(true);
    expect([b.state(3), b.machine.reports(b.prog).length]).toEqual(['scratch', 1]);
  });

  test('a program on the stack comes first', () => {
    const b = new Bench('L2');
    const other = b.machine.program('other', 1);
    b.machine.callFrom(other);
    expect(hinted(b, b.prog.bpf_func + 0x20n)).toBe(false);
  });

  test('a subprogram stands for its main program', () => {
    const b = new Bench('L2');
    const sub = b.machine.program('sub', 1, { main: b.prog });
    b.machine.cpu.stack = [];
    expect(hinted(b, sub.bpf_func + 8n)).toBe(true);
    expect(b.machine.reports(b.prog)).toHaveLength(1);
  });

  test.each([
    ['v4', false],
    ['L1', false],
    ['L2', true],
  ] as const)('%s looks at the hint: %s', (variant, recovered) => {
    const b = new Bench(variant);
    b.machine.cpu.stack = [];
    const { here, env } = b.machine;
    const hooks = bpfHooks(env, DEFAULT_CONFIG);
    const ret_ip = b.prog.bpf_func + 0x20n;
    expect(b.machine.run(hooks.bpf_arena_handle_page_fault(here, ka(b.arena, 3), false, 0n, ret_ip))).toBe(
      recovered,
    );
  });
});
