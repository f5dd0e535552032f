import { describe, expect, test } from '@jest/globals';
import { E2BIG, EINVAL, ENOMEM, EOPNOTSUPP, ERANGE } from '../../kernel/errno.js';
import { BpfEnv } from '../env.js';
import { FakeMachine, ka, U } from '../fake-machine.js';
import { arena_map_direct_value_addr, arena_map_free } from './arena.js';
import { bpf_arena_handle_page_fault } from './arena_fault.js';
import { bpf_arena_alloc_pages, bpf_arena_free_pages_non_sleepable, NUMA_NO_NODE } from './arena_pages.js';
import { BPF_F_MMAPABLE, GUARD_SZ, KERN_VM_SZ, RECOVERY_SZ } from './arena_struct.js';
import { UseAfterFree } from './arena_work.js';

/** Sizes for 4096-byte pages, as kernel/bpf/arena.c computes them. */
describe('constants', () => {
  test('guards are 64 KiB, half below and half above a band of 4 GiB', () => {
    expect([GUARD_SZ, KERN_VM_SZ, RECOVERY_SZ]).toEqual([0x10000, 0x1_0001_0000, 0x1_0000_8000]);
  });
});

describe('arena_map_alloc', () => {
  test('a new arena has all pages free, an unused scratch page and no leaf entry', () => {
    const machine = new FakeMachine();
    const arena = machine.arena();
    expect(arena.rt.ranges()).toEqual([[0, 15]]);
    expect(arena.kern_vm_start).toBe(arena.kern_vm.addr + 0x8000n);
    expect([arena.user_vm_start, arena.user_vm_end]).toEqual([U, U + 0x10000n]);
    expect(machine.states(arena, 16)).toEqual(new Array(16).fill('none'));
    expect(machine.here.ram.read(arena.scratch_page, 4096).every((byte) => byte === 0)).toBe(true);
  });

  test.each(['x86-64', 'arm64'] as const)('the whole window of %s has its tables', (arch) => {
    const machine = new FakeMachine(arch);
    const before = machine.pagesTaken();
    const arena = machine.arena();
    const start = arena.kern_vm_start;
    const span = (bits: bigint) => Number(((arena.recovery_end - 1n) >> bits) - (start >> bits)) + 1;
    // PTE tables span 2 MiB, PMD tables 1 GiB, PUD tables 512 GiB; the scratch page is one page more.
    expect(machine.pagesTaken() - before).toBe(span(21n) + span(30n) + span(39n) + 1);
    expect([2049, 2050]).toContain(span(21n));

    machine.callFrom(machine.program('q', 0, { arena }));
    const taken = machine.pagesTaken();
    for (const offset of [0n, 0x8000_0000n, 0x1_0000_7fffn]) {
      const at = start + offset;
      expect(machine.run(bpf_arena_handle_page_fault(machine.here, machine.env, at, true, 0n))).toBe(true);
      expect(machine.stateAt(arena, at)).toBe('scratch');
    }
    expect(machine.pagesTaken()).toBe(taken);
  });

  test.each([
    ['a key size', { key_size: 4 }, -EINVAL],
    ['a value size', { value_size: 8 }, -EINVAL],
    ['no pages', { max_entries: 0 }, -EINVAL],
    ['flags without MMAPABLE', { map_flags: 0 }, -EINVAL],
    ['an unknown flag', { map_flags: 0x401 }, -EINVAL],
    ['a start inside a page', { map_extra: U + 0x800n }, -EINVAL],
    ['more than 4 GiB', { max_entries: 0x100001, map_extra: 0n }, -E2BIG],
    ['4 GiB across a 4 GiB boundary', { max_entries: 0x100000, map_extra: 0x7f7d00001000n }, -ERANGE],
    ['16 pages across a 4 GiB boundary', { map_extra: 0x7f7dffff1000n }, -ERANGE],
  ])('refuses %s and takes nothing', (_what, attr, err) => {
    const machine = new FakeMachine();
    const taken = machine.pagesTaken();
    expect(machine.create(attr)).toBe(err);
    expect(machine.pagesTaken()).toBe(taken);
    expect(machine.env.arenas.size).toBe(0);
  });

  test.each([
    ['every flag', { map_flags: 0x60400 }],
    ['exactly 4 GiB on its boundary', { max_entries: 0x100000, map_extra: 0x7f7d00000000n }],
    ['the last pages below a 4 GiB boundary', { map_extra: 0x7f7dffff0000n }],
    ['no address', { map_extra: 0n }],
  ])('accepts %s', (_what, attr) => {
    expect(new FakeMachine().arena(attr).map).toMatchObject(attr);
  });

  test('the first check wins', () => {
    const machine = new FakeMachine();
    const options = { memory: machine.memory, kallsyms_lookup_name: machine.cpu.lookup };
    const env = new BpfEnv({ ...options, jit_supports_arena: false });
    expect(machine.create({ key_size: 4 }, env)).toBe(-EOPNOTSUPP);
    expect(machine.create({ max_entries: 0x100001, map_extra: 1n })).toBe(-EINVAL);
  });

  test('without memory for the scratch page everything is given back', () => {
    const machine = new FakeMachine();
    const taken = machine.pagesTaken();
    machine.failPagesAfter(0);
    expect(machine.create()).toBe(-ENOMEM);
    expect(machine.pagesTaken()).toBe(taken);
    expect(machine.vmAreas()).toBe(0);
  });

  test('without memory for a table only the tables built so far stay', () => {
    const machine = new FakeMachine();
    const taken = machine.pagesTaken();
    machine.failPagesAfter(100);
    expect(machine.create()).toBe(-ENOMEM);
    expect(machine.pagesTaken()).toBe(taken + 99);
    expect(machine.vmAreas()).toBe(0);
  });

  test.each(['bpf_arena', 'vm_area', 'range_node', 'scratch_page'] as const)(
    'an allocation of a %s may fail',
    (what) => {
      const machine = new FakeMachine();
      const taken = machine.pagesTaken();
      machine.env.failures.inject({ what });
      expect(machine.create()).toBe(-ENOMEM);
      expect(machine.pagesTaken()).toBe(taken);
      expect(machine.vmAreas()).toBe(0);
    },
  );
});

describe('arena_map_free', () => {
  test('says where the kernel would use freed memory: the worker has not got the lock, and waits once more', () => {
    const machine = new FakeMachine();
    const { here, env } = machine;
    const arena = machine.arena();
    machine.run(bpf_arena_alloc_pages(here, env, arena.map, 0n, 1, NUMA_NO_NODE, 0n));
    machine.run(bpf_arena_free_pages_non_sleepable(here, env, arena.map, U, 1));
    env.failures.inject({ what: 'spinlock' });
    expect(() => machine.run(arena_map_free(here, env, arena.map))).toThrow(UseAfterFree);
    // All else is done, and the worker does not come any more.
    expect([env.arenas.size, env.work.pending]).toEqual([0, false]);
  });

  test('frees each real page once and the scratch page once, however often it is mapped', () => {
    const machine = new FakeMachine();
    const { here, env } = machine;
    const taken = machine.pagesTaken();
    const arena = machine.arena();
    const tables = machine.pagesTaken() - taken - 1;
    machine.run(bpf_arena_alloc_pages(here, env, arena.map, U, 1, NUMA_NO_NODE, 0n));
    machine.callFrom(machine.program('q', 0, { arena }));
    for (const n of [3, 7]) {
      machine.run(bpf_arena_handle_page_fault(here, env, ka(arena, n), false, 0n));
    }
    machine.run(arena_map_free(here, env, arena.map));
    expect(machine.pagesTaken()).toBe(taken + tables);
    expect(machine.vmAreas()).toBe(0);
    expect(env.arenas.size).toBe(0);
  });

  test('waits for frees that are put off', () => {
    const machine = new FakeMachine();
    const { here, env } = machine;
    const taken = machine.pagesTaken();
    const arena = machine.arena();
    const tables = machine.pagesTaken() - taken - 1;
    machine.run(bpf_arena_alloc_pages(here, env, arena.map, U, 2, NUMA_NO_NODE, 0n));
    machine.run(bpf_arena_free_pages_non_sleepable(here, env, arena.map, U, 2));
    machine.run(arena_map_free(here, env, arena.map));
    expect(machine.pagesTaken()).toBe(taken + tables);
    expect(env.work.pending).toBe(false);
  });

  test('a mapping that is still there makes it warn once and leak everything', () => {
    const machine = new FakeMachine();
    const arena = machine.arena();
    const taken = machine.pagesTaken();
    arena.vma_list.push({
      vma: { vm_start: U, vm_end: U + 0x10000n, vm_flags: 0, pkey: 0 },
      mmap_count: 1,
      zap_gen: 0,
    });
    machine.run(arena_map_free(machine.here, machine.env, arena.map));
    machine.run(arena_map_free(machine.here, machine.env, arena.map));
    expect(machine.cpu.warnings).toHaveLength(1);
    expect(machine.pagesTaken()).toBe(taken);
    expect(machine.vmAreas()).toBe(1);
  });
});

describe('map_direct_value_addr', () => {
  test('any offset inside the mapping stands for its start', () => {
    const arena = new FakeMachine().arena({ map_flags: BPF_F_MMAPABLE });
    expect(arena_map_direct_value_addr(arena, 0xffffn)).toBe(U);
    expect(arena_map_direct_value_addr(arena, 0x10000n)).toBe(-ERANGE);
  });
});
