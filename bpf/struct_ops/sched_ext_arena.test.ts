import { describe, expect, test } from '@jest/globals';
import { EINVAL, ENOMEM } from '../../kernel/errno.js';
import { GuestRefusal } from '../../kernel/guest-refusal.js';
import { bpf_arena_handle_page_fault } from '../arena/arena_fault.js';
import { bpf_arena_free_pages } from '../arena/arena_pages.js';
import type { bpf_arena, MapAttr } from '../arena/arena_struct.js';
import { run_irq_work, run_workqueue } from '../arena/arena_work.js';
import { FakeMachine, ka, U } from '../fake-machine.js';
import {
  bpf_scx_reg_cid,
  scx_arena_alloc,
  scx_arena_free,
  scx_arena_pool_destroy,
  scx_arena_pool_init,
  scx_kaddr_to_arena,
  scx_sched,
  scx_set_cmask_scratch_alloc,
  scx_set_cmask_scratch_free,
} from './sched_ext_arena.js';
import { cmaskSize } from './sched_ext_cmask.js';
import { bpf_struct_ops_map_update_elem, type StructOpsProgram } from './struct_ops.js';

const KDATA = 0xffff888100200000n;

function setup(attr: Partial<MapAttr> = {}) {
  const machine = new FakeMachine();
  const { here, env } = machine;
  const printed: string[] = [];
  Object.assign(here.kernel, {
    printk: (_here: unknown, _level: number, text: string) => printed.push(text),
  });
  Object.assign(here.mmu, {
    peek: (va: bigint) => {
      const page = machine.pageAt(va);
      return page === null ? -1 : page + Number(va & 0xfffn);
    },
  });
  const arena = machine.arena(attr);
  const sch = new scx_sched(arena.map);
  const alloc = (size: number) => machine.run(scx_arena_alloc(here, env, sch, BigInt(size)));
  const init = () => machine.run(scx_arena_pool_init(here, env, sch));
  /** Registers a scheduler whose programs use these arenas, in the order of its members. */
  const register = (...arenas: (bpf_arena | null)[]) => {
    const members = arenas.map((_, i) => ({ name: `op${i}`, nr_args: 1, returns: false }));
    const programs = new Map<string, StructOpsProgram>();
    for (const [i, used] of arenas.entries()) {
      const prog = machine.program(`op${i}`, i, { arena: used });
      programs.set(`op${i}`, { prog, address: 0xffff888100000000n, sleepable: false });
    }
    bpf_struct_ops_map_update_elem(env, 'ops', { name: 'sched_ext_ops_cid', members }, programs, {
      kdata: KDATA,
      page: () => 0xffffffffc0100000n,
      lookup: () => 0xffffffff81000000n,
      prepare: () => new Uint8Array(64),
      options: { branchTracking: false, return_thunk: null, sls: false },
    });
    return machine.run(bpf_scx_reg_cid(here, env, KDATA));
  };
  return { machine, here, env, arena, sch, alloc, init, register, printed };
}

describe('registration', () => {
  test('finds the arena that the programs have in common', () => {
    const { register, arena, printed } = setup();
    expect(register(null, arena, null, arena)).toBe(arena.map);
    expect(printed).toEqual([]);
  });

  test('X7: is refused when they use different ones', () => {
    const { register, arena, machine, printed } = setup();
    expect(register(arena, machine.arena({ map_extra: 0x7f0000000000n }))).toBe(-EINVAL);
    expect(printed).toEqual(['sched_ext: cid-form scheduler uses multiple arena maps']);
  });

  test('is refused when they use none', () => {
    const { register, printed } = setup();
    expect(register(null, null)).toBe(-EINVAL);
    expect(printed).toEqual(['sched_ext: cid-form scheduler must use a BPF arena map']);
  });
});

describe('the pool', () => {
  test('X1: grows by four pages at the start of the arena; masks follow each other', () => {
    const { machine, arena, sch, alloc, init } = setup();
    expect(init()).toBe(0);
    const first = ka(arena, 0);
    expect([alloc(32), alloc(32), alloc(24), alloc(8)]).toEqual([
      first,
      first + 32n,
      first + 64n,
      first + 88n,
    ]);
    expect(machine.states(arena, 5)).toEqual(['real', 'real', 'real', 'real', 'none']);
    expect(sch.arena_pool?.chunks.map(({ bits }) => bits.length * 8)).toEqual([0x4000]);
    expect(scx_kaddr_to_arena(sch, first + 32n)).toBe(0x26200020n);
  });

  test('grows by what is asked for when that is more, and gives big pieces their own range', () => {
    const { alloc, init, arena, sch } = setup();
    init();
    alloc(8);
    expect(alloc(5 * 4096 + 1)).toBe(ka(arena, 4));
    expect(
      sch.arena_pool?.chunks.map(({ end_addr, start_addr }) => Number(end_addr - start_addr + 1n)),
    ).toEqual([6 * 4096, 4 * 4096]);
    expect(alloc(16)).toBe(ka(arena, 9) + 8n);
  });

  test('takes a size for what it is: more than 32 bits of bytes, whose pages are counted in 32 bits', () => {
    const { alloc, init, sch } = setup();
    init();
    expect([alloc(0x1_0000_0008), sch.arena_pool?.chunks.length]).toEqual([0n, 0]);
    // 0x1_0000_0000 pages are none: it grows by four, and four, until the arena has no more.
    expect([alloc(2 ** 44), sch.arena_pool?.chunks.length]).toEqual([0n, 4]);
  });

  test('gives nothing when the arena is full, or has no pool', () => {
    const { alloc, init } = setup();
    expect(alloc(8)).toBe(0n);
    init();
    for (let i = 0; i < 4; i++) expect(alloc(4 * 4096)).not.toBe(0n);
    expect(alloc(8)).toBe(0n);
  });

  test('is not needed without an arena, and fails without memory', () => {
    const { machine, here, env, sch } = setup();
    const without = new scx_sched(null);
    expect([machine.run(scx_arena_pool_init(here, env, without)), without.arena_pool]).toEqual([0, null]);
    env.allocationFails = (what) => what === 'gen_pool';
    expect([machine.run(scx_arena_pool_init(here, env, sch)), sch.arena_pool]).toEqual([-ENOMEM, null]);
  });

  test('gives its pages back to the arena when there is no memory for the range', () => {
    const { machine, here, env, arena, alloc, init } = setup();
    init();
    env.allocationFails = (what) => what === 'gen_pool_chunk';
    expect(alloc(8)).toBe(0n);
    expect(machine.states(arena, 1)).toEqual(['real']);
    run_irq_work(env);
    machine.run(run_workqueue(here, env));
    expect(machine.states(arena, 4)).toEqual(['none', 'none', 'none', 'none']);
  });

  test('takes pieces back and keeps the pages; destroying takes back what is still out', () => {
    const { machine, here, arena, sch, alloc, init } = setup();
    init();
    const [a, b] = [alloc(32), alloc(32)];
    scx_arena_free(here, sch, a, 32n);
    scx_arena_free(here, sch, 0n, 32n);
    expect(alloc(16)).toBe(a);
    expect(b).toBe(a + 32n);
    machine.run(scx_arena_pool_destroy(here, sch));
    expect([sch.arena_pool, machine.states(arena, 4)]).toEqual([null, ['real', 'real', 'real', 'real']]);
    machine.run(scx_arena_pool_destroy(here, sch));
  });

  test('X8: stays empty behind a scratch page at the start of the arena', () => {
    const { machine, here, env, arena, alloc, init } = setup();
    machine.callFrom(machine.program('stray', 9, { arena }));
    machine.run(bpf_arena_handle_page_fault(here, env, ka(arena, 0), false, 0n));
    init();
    expect([alloc(32), alloc(32)]).toEqual([0n, 0n]);
    expect(machine.states(arena, 2)[0]).toBe('scratch');
  });
});

describe('cmasks', () => {
  test('are not stored where the pages of the pool are gone: host code raises no fault', () => {
    const { machine, here, env, arena, sch, alloc, init } = setup();
    init();
    alloc(8);
    machine.run(bpf_arena_free_pages(here, env, arena.map, U, 4));
    const make = () => machine.run(scx_set_cmask_scratch_alloc(here, env, sch, 'newer', 8));
    expect(make).toThrow(GuestRefusal);
    expect(make).toThrow('store from kernel text instead');
  });

  test('of 8 CPUs have two words: 24 bytes, or 32', () => {
    expect([cmaskSize('older', 8), cmaskSize('newer', 8)]).toEqual([24, 32]);
    expect([cmaskSize('older', 64), cmaskSize('older', 65), cmaskSize('newer', 512)]).toEqual([24, 32, 88]);
  });

  test('are made for each possible CPU, and initialised', () => {
    const { machine, here, env, arena, sch, init } = setup();
    init();
    expect(machine.run(scx_set_cmask_scratch_alloc(here, env, sch, 'newer', 8))).toBe(0);
    const first = ka(arena, 0);
    expect(sch.set_cmask_scratch).toEqual(Array.from({ length: 8 }, (_, i) => first + BigInt(i * 32)));
    const words = [0, 8, 16].map((at) => here.ram.readU64((machine.pageAt(first) ?? 0) + 0xe0 + at));
    expect(words).toEqual([0x8_0000_0000n, 2n, 0n]);
    scx_set_cmask_scratch_free(here, sch, 'newer', 8);
    expect(sch.arena_pool?.chunks.map(({ avail }) => avail)).toEqual([0x4000]);
  });

  test('fail to be made when the arena has no room', () => {
    const { machine, here, env, sch, init } = setup({ max_entries: 3 });
    init();
    expect(machine.run(scx_set_cmask_scratch_alloc(here, env, sch, 'older', 8))).toBe(-ENOMEM);
  });
});
