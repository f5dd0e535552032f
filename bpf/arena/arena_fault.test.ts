import { describe, expect, test } from '@jest/globals';
import type { Delegate } from '../../emu/path.js';
import { EDEADLK } from '../../kernel/errno.js';
import { FakeMachine, ka, U } from '../fake-machine.js';
import { bpf_arena_handle_page_fault } from './arena_fault.js';
import { bpf_arena_alloc_pages, bpf_arena_free_pages, NUMA_NO_NODE } from './arena_pages.js';

const IP = 0xffff_ffff_8100_7012n;

function setup(arch: 'x86-64' | 'arm64' = 'x86-64', attr: Parameters<FakeMachine['arena']>[0] = {}) {
  const machine = new FakeMachine(arch);
  const arena = machine.arena(attr);
  const prog = machine.program('q', 0, { arena });
  machine.callFrom(prog);
  const { env } = machine;
  const fault = (addr: bigint, is_write = false, here = machine.here) =>
    bpf_arena_handle_page_fault(here, env, addr, is_write, IP);
  return {
    machine,
    env,
    arena,
    prog,
    fault,
    touch: (addr: bigint, is_write = false) => machine.run(fault(addr, is_write)),
    alloc: (n: number, here = machine.here) =>
      bpf_arena_alloc_pages(here, env, arena.map, U + BigInt(n) * 0x1000n, 1, NUMA_NO_NODE, 0n),
    free: (n: number, here = machine.here) =>
      bpf_arena_free_pages(here, env, arena.map, U + BigInt(n) * 0x1000n, 1),
  };
}

const READ = (address: string) => `ERROR: Arena READ access at unmapped address ${address}`;
const WRITE = (address: string) => `ERROR: Arena WRITE access at unmapped address ${address}`;

describe.each(['x86-64', 'arm64'] as const)('bpf_arena_handle_page_fault on %s', (arch) => {
  test('backs the page with the scratch page and reports its first byte', () => {
    const { machine, arena, prog, touch } = setup(arch);
    expect(touch(ka(arena, 3) + 0x10n)).toBe(true);
    expect(machine.states(arena, 5)).toEqual(['none', 'none', 'none', 'scratch', 'none']);
    expect(arena.rt.ranges()).toEqual([[0, 15]]);
    expect(machine.reports(prog)).toEqual([READ('0x7f7d26203000')]);
    const { pgtable } = machine.memory;
    const entry = machine.entryAt(ka(arena, 3));
    expect(entry).toBe(pgtable.mk_pte(arena.scratch_page, pgtable.PAGE_KERNEL));
    expect(machine.flushes()).toEqual([]);
  });

  test('every address gets the same page', () => {
    const { machine, arena, touch } = setup(arch);
    touch(ka(arena, 3), true);
    touch(ka(arena, 7), true);
    expect(machine.pageAt(ka(arena, 3))).toBe(machine.pageAt(ka(arena, 7)));
  });
});

describe('where the kernel is helped', () => {
  test('an access across two pages faults once for each', () => {
    const { arena, machine, prog, touch } = setup();
    touch(ka(arena, 4) + 0xffcn, true);
    touch(ka(arena, 5), true);
    expect(machine.reports(prog)).toEqual([WRITE('0x7f7d26204000'), WRITE('0x7f7d26205000')]);
  });

  test('BPF_F_SEGV_ON_FAULT concerns user faults only', () => {
    const { arena, machine, touch } = setup('x86-64', { map_flags: 0x20400 });
    expect(touch(ka(arena, 3), true)).toBe(true);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('scratch');
  });

  test('the whole upper guard is in, the byte behind it is not', () => {
    const { arena, machine, prog, touch } = setup();
    const end = arena.kern_vm_start + 0x1_0000_8000n;
    expect(touch(end - 1n, true)).toBe(true);
    expect(touch(end)).toBe(false);
    expect(machine.reports(prog)).toEqual([WRITE('0x7f7e00007000')]);
  });

  test('the lower guard is out', () => {
    const { arena, machine, prog, touch } = setup();
    expect(touch(arena.kern_vm_start - 1n)).toBe(false);
    expect(machine.stateAt(arena, arena.kern_vm_start - 0x1000n)).toBe('none');
    expect(machine.stderr(prog)).toBe('');
  });

  test('the band outside of the user mapping is in', () => {
    const { arena, machine, prog, touch } = setup();
    expect(touch(arena.kern_vm_start + 0x1000n)).toBe(true);
    expect(machine.reports(prog)).toEqual([READ('0x7f7d00001000')]);
  });

  test('a page that is there already is left alone, but reported and tried again', () => {
    const { arena, machine, prog, alloc, touch } = setup();
    machine.run(alloc(3));
    const page = machine.pageAt(ka(arena, 3));
    expect(touch(ka(arena, 3))).toBe(true);
    expect(machine.pageAt(ka(arena, 3))).toBe(page);
    expect(machine.reports(prog)).toHaveLength(1);
  });

  test('the lock does not matter to it', () => {
    const { arena, machine, touch } = setup();
    const { failures } = machine.env;
    failures.inject({ what: 'spinlock', errno: EDEADLK });
    expect(touch(ka(arena, 9))).toBe(true);
    expect(failures.taken('spinlock')).toBe(0);
    expect(machine.stateAt(arena, ka(arena, 9))).toBe('scratch');
  });

  test('a page-table entry with only the erratum bits counts as empty and cannot be replaced', () => {
    const { arena, machine, touch } = setup();
    const accessedAndDirty = 0x60n;
    machine.setEntryAt(ka(arena, 3), accessedAndDirty);
    expect(touch(ka(arena, 3))).toBe(true);
    expect(machine.entryAt(ka(arena, 3))).toBe(accessedAndDirty);
  });
});

describe('who is responsible', () => {
  test('nobody, when no program is on the stack', () => {
    const { arena, machine, touch } = setup();
    machine.callFrom();
    expect(touch(ka(arena, 3))).toBe(false);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('none');
  });

  test('the innermost program only: one without an arena hides the others', () => {
    const { arena, machine, prog, touch } = setup();
    machine.callFrom(machine.program('plain', 1), prog);
    expect(touch(ka(arena, 3))).toBe(false);
    machine.callFrom(prog, machine.program('plain too', 2));
    expect(touch(ka(arena, 3))).toBe(true);
  });

  test('a program with another arena is not', () => {
    const { arena, machine, touch } = setup();
    const other = machine.arena({ map_extra: 0x7f0000000000n });
    machine.callFrom(machine.program('other', 1, { arena: other }));
    expect(touch(ka(arena, 3))).toBe(false);
    expect(touch(ka(other, 3))).toBe(true);
  });

  test('a subprogram stands for its main program, and the report goes there', () => {
    const { arena, machine, prog, touch } = setup();
    machine.callFrom(machine.program('sub', 1, { main: prog }), prog);
    expect(touch(ka(arena, 3))).toBe(true);
    expect(machine.reports(prog)).toEqual([READ('0x7f7d26203000')]);
  });
});

/** Runs a path until it is about to go on after a decision, so that another CPU can come in. */
function until<T>(path: Delegate<T>, test: string): () => T {
  const iterator = path[Symbol.iterator]();
  for (;;) {
    const turn = iterator.next();
    if (turn.done === true) throw new Error(`the path ended before ${test}`);
    if (turn.value.type === 'decide' && turn.value.test === test) break;
  }
  return () => {
    for (;;) {
      const turn = iterator.next();
      if (turn.done === true) return turn.value;
    }
  };
}

describe('two CPUs', () => {
  const READ_ENTRY = '!pte_none(ptep_get(pte))';
  function race() {
    const all = setup();
    const second = all.machine.otherCpu(1);
    second.trace.pausing = true;
    return { ...all, second };
  }

  test('two installers: one wins, both retry, both report', () => {
    const { arena, machine, prog, fault, touch, second } = race();
    const finish = until(fault(ka(arena, 3), false, second), READ_ENTRY);
    expect(touch(ka(arena, 3))).toBe(true);
    expect(finish()).toBe(true);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('scratch');
    expect(machine.reports(prog)).toHaveLength(2);
  });

  test('an allocation between the look and the exchange is not overwritten', () => {
    const { arena, machine, prog, fault, alloc, second } = race();
    const finish = until(fault(ka(arena, 3), false, second), READ_ENTRY);
    machine.run(alloc(3));
    expect(finish()).toBe(true);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('real');
    expect(machine.reports(prog)).toHaveLength(1);
  });

  test('the allocator does overwrite a scratch page that came after its look, without a flush', () => {
    const { arena, machine, alloc, touch, second } = race();
    const finish = until(alloc(3, second), READ_ENTRY);
    expect(touch(ka(arena, 3))).toBe(true);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('scratch');
    expect(finish()).toBe(U + 0x3000n);
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('real');
    expect(machine.flushes()).toEqual([]);
  });

  test('a fault while a page is being freed leaves the scratch page and frees the page once', () => {
    const { arena, machine, prog, alloc, free, touch, second } = race();
    machine.run(alloc(0));
    const taken = machine.pagesTaken();
    const finish = until(free(0, second), 'pte_none(old_pte) || !pte_present(old_pte)');
    expect(touch(ka(arena, 0))).toBe(true);
    finish();
    expect(machine.stateAt(arena, ka(arena, 0))).toBe('scratch');
    expect(machine.pagesTaken()).toBe(taken - 1);
    expect(machine.reports(prog)).toHaveLength(1);
    expect(arena.rt.ranges()).toEqual([[0, 15]]);
  });

  test('a scratch page that comes after the freer found nothing stays', () => {
    const { arena, machine, free, touch, second } = race();
    const finish = until(free(3, second), 'create || !pte_none(ptep_get(pte))');
    touch(ka(arena, 3));
    finish();
    expect(machine.stateAt(arena, ka(arena, 3))).toBe('scratch');
    expect(arena.rt.ranges()).toEqual([[0, 15]]);
  });
});
