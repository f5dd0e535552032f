import { describe, expect, test } from '@jest/globals';
import { E2BIG, EINVAL } from '../../kernel/errno.js';
import { FakeMachine } from '../fake-machine.js';
import type { bpf_prog } from '../program.js';
import {
  bpf_prog_arena,
  bpf_struct_ops_for_each_prog,
  type bpf_struct_ops_map,
  bpf_struct_ops_map_update_elem,
  type StructOpsProgram,
  type StructOpsType,
} from './struct_ops.js';
import { prepareTrampolineX86 } from './trampoline_x86.js';

const TYPE: StructOpsType = {
  name: 'sched_ext_ops',
  members: ['select_cpu', 'enqueue', 'dispatch', 'set_cmask'].map((name) => ({
    name,
    nr_args: 2,
    returns: false,
  })),
};
const KDATA = 0xffff888100200000n;
const PAGES = 0xffffffffc0100000n;

/** A table whose members are the programs of these names. */
function setup(members: Record<string, string>, type = TYPE) {
  const machine = new FakeMachine();
  const named = new Map<string, bpf_prog>();
  const programs = new Map<string, StructOpsProgram>();
  for (const [member, name] of Object.entries(members)) {
    const prog = named.get(name) ?? machine.program(name, named.size);
    named.set(name, prog);
    programs.set(member, { prog, address: 0xffff888100000000n, sleepable: false });
  }
  let pages = 0;
  const asked: string[] = [];
  const made = bpf_struct_ops_map_update_elem(machine.env, 'ops', type, programs, {
    kdata: KDATA,
    page: () => PAGES + BigInt(0x1000 * pages++),
    lookup: (name) => {
      asked.push(name);
      return 0xffffffff81000000n;
    },
    prepare: prepareTrampolineX86,
    options: { branchTracking: false, return_thunk: null, sls: false },
  });
  const visit = (cb: (name: string) => number = () => 0) => {
    const seen: string[] = [];
    const ret = machine.run(
      bpf_struct_ops_for_each_prog(machine.here, machine.env, KDATA, function* (cpu, prog) {
        seen.push(prog.aux.name);
        return yield* cpu.trace.decide('cb', 'ret', cb(prog.aux.name));
      }),
    );
    return { seen, ret };
  };
  return { machine, made, visit, asked, named, pages: () => pages };
}

function theMap(made: bpf_struct_ops_map | number): bpf_struct_ops_map {
  if (typeof made === 'number') throw new Error(`no map: ${made}`);
  return made;
}

describe('bpf_struct_ops_for_each_prog()', () => {
  test('visits the programs in the order of the members, whatever has none', () => {
    const { visit, made } = setup({ set_cmask: 'c', enqueue: 'a' });
    expect(visit()).toEqual({ seen: ['a', 'c'], ret: 0 });
    expect(theMap(made).links.map((link) => link?.member ?? null)).toEqual([
      'enqueue',
      'set_cmask',
      null,
      null,
    ]);
    expect(theMap(made).funcs_cnt).toBe(4);
  });

  test('ends with what the callback says first', () => {
    const { visit } = setup({ select_cpu: 'a', enqueue: 'b', dispatch: 'c' });
    expect(visit((name) => (name === 'b' ? -16 : 0))).toEqual({ seen: ['a', 'b'], ret: -16 });
    expect(visit((name) => (name === 'c' ? 1 : 0)).ret).toBe(1);
  });

  test('visits a program once for each member that it is', () => {
    expect(setup({ enqueue: 'a', dispatch: 'a' }).visit().seen).toEqual(['a', 'a']);
  });

  test('says nothing is there when no program is', () => {
    expect(setup({}).visit()).toEqual({ seen: [], ret: 0 });
  });

  test('needs the table of a map that exists', () => {
    const { machine, visit } = setup({ enqueue: 'a' });
    machine.env.structOps.clear();
    expect(() => visit()).toThrow('no struct_ops map has its table');
  });
});

describe('a struct_ops map', () => {
  test('has a trampoline with a symbol for each program, one behind the other, and the table points to them', () => {
    const { made, machine, asked } = setup({ set_cmask: 'c', enqueue: 'a' });
    const { images, table } = theMap(made);
    expect(images.map(({ ksym }) => ksym.name)).toEqual([
      'bpf__sched_ext_ops_enqueue',
      'bpf__sched_ext_ops_set_cmask',
    ]);
    const [first, second] = images;
    expect(second?.ksym.start).toBe(PAGES + BigInt(first?.code.length ?? 0));
    const words = [...new BigUint64Array(table.buffer)];
    expect(words).toEqual([0n, PAGES, 0n, second?.ksym.start]);
    expect(machine.env.programs.bpf_ksym_find(PAGES + 4n)?.name).toBe('bpf__sched_ext_ops_enqueue');
    expect(machine.env.programs.bpf_prog_ksym_find(PAGES + 4n)).toBeNull();
    expect(machine.env.programs.is_bpf_text_address(PAGES + 4n)).toBe(true);
    expect(new Set(asked)).toEqual(new Set(['__bpf_prog_enter', '__bpf_prog_exit']));
  });

  test('takes a new page when one is full, up to eight', () => {
    const many = (count: number): StructOpsType => ({
      name: 'ops',
      members: Array.from({ length: count }, (_, i) => ({ name: `m${i}`, nr_args: 6, returns: true })),
    });
    const all = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`m${i}`, 'a']));
    const twenty = setup(all(40), many(40));
    expect(twenty.pages()).toBeGreaterThan(1);
    for (const { ksym } of theMap(twenty.made).images) {
      expect(ksym.start >> 12n).toBe((ksym.end - 1n) >> 12n);
    }
    const perPage = Math.floor(4096 / (theMap(twenty.made).images[0]?.code.length ?? 0));
    const most = 8 * perPage;
    expect(setup(all(most), many(most)).pages()).toBe(8);
    expect(setup(all(most + 1), many(most + 1)).made).toBe(-E2BIG);
    expect(setup(all(400), many(400)).made).toBe(-E2BIG);
  });

  test('refuses a program for a member that is not there', () => {
    expect(setup({ nothing: 'a' }).made).toBe(-EINVAL);
  });
});

test('bpf_prog_arena() is the map of the arena that a program uses', () => {
  const machine = new FakeMachine();
  const arena = machine.arena();
  expect(bpf_prog_arena(machine.program('with', 0, { arena }))).toBe(arena.map);
  expect(bpf_prog_arena(machine.program('without', 1))).toBeNull();
});
