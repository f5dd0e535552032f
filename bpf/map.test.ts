import { describe, expect, test } from '@jest/globals';
import { DEFAULT_CONFIG } from '../arch/kernel-config.js';
import { EINVAL, EPERM } from '../kernel/errno.js';
import { DEFAULT_ATTR, FakeMachine, ka } from './fake-machine.js';
import { bpfHooks } from './kernel_hooks.js';
import { type MapCreateAttr, map_create } from './map.js';

describe('map_create', () => {
  const create = (attr: Partial<MapCreateAttr>, capable = true) => {
    const machine = new FakeMachine();
    const given = { ...DEFAULT_ATTR, map_type: 33, ...attr };
    return machine.run(map_create(machine.here, machine.env, given, capable));
  };

  test('makes an arena', () => {
    expect(create({})).toMatchObject({ map_type: 33, max_entries: 16 });
  });

  test.each([
    ['map_extra of a map that has no use for it', { map_type: 1 }, -EINVAL],
    ['both directions of access taken away', { map_flags: 0x418 }, -EINVAL],
    ['a node that is not there', { map_flags: 0x404, numa_node: 1 }, -EINVAL],
    ['an unknown type', { map_type: 99, map_extra: 0n }, -EINVAL],
    // A node that exists passes here and is then no flag of an arena.
    ['a node', { map_flags: 0x404, numa_node: 0 }, -EINVAL],
  ])('refuses %s', (_what, attr, err) => {
    expect(create(attr)).toBe(err);
  });

  test('needs CAP_BPF, and says so after the checks of its attributes', () => {
    expect(create({}, false)).toBe(-EPERM);
    expect(create({ key_size: 4 }, false)).toBe(-EPERM);
    expect(create({ map_flags: 0x418 }, false)).toBe(-EINVAL);
  });
});

describe('what architecture code calls', () => {
  test('without CONFIG_BPF_SYSCALL nothing is ever recovered or reported', () => {
    const machine = new FakeMachine();
    const { here, env } = machine;
    const arena = machine.arena();
    const prog = machine.program('q', 0, { arena });
    machine.callFrom(prog);
    const hooks = bpfHooks(env, { ...DEFAULT_CONFIG, BPF_SYSCALL: false });
    const address = ka(arena, 3);
    expect(machine.run(hooks.bpf_arena_handle_page_fault(here, address, true, 0n))).toBe(false);
    machine.run(hooks.bpf_prog_report_arena_violation(here, true, 0n, prog.bpf_func));
    expect(machine.stderr(prog)).toBe('');
    expect(machine.stateAt(arena, address)).toBe('none');
    const real = bpfHooks(env, DEFAULT_CONFIG);
    expect(machine.run(real.bpf_arena_handle_page_fault(here, address, true, 0n))).toBe(true);
  });
});
