import { describe, expect, test } from '@jest/globals';
import { DEFAULT_CONFIG } from '../arch/kernel-config.js';
import { EINVAL, EPERM } from '../kernel/errno.js';
import { DEFAULT_ATTR, FakeMachine, ka } from './fake-machine.js';
import { bpfHooks } from './kernel_hooks.js';
import { type MapCaller, type MapCreateAttr, map_create } from './map.js';

describe('map_create', () => {
  const create = (attr: Partial<MapCreateAttr>, caller: MapCaller = { CAP_BPF: true }) => {
    const machine = new FakeMachine();
    const given = { ...DEFAULT_ATTR, map_type: 33, ...attr };
    return machine.run(map_create(machine.here, machine.env, given, caller));
  };

  test('makes an arena', () => {
    expect(create({})).toMatchObject({ map_type: 33, max_entries: 16 });
  });

  // kernel/bpf/syscall.c, map_create(), from its first check to its last.
  test.each([
    ['a type of the kernel for a value', { btf_vmlinux_value_type_id: 1 }, -EINVAL],
    ['a type for the key alone', { btf_key_type_id: 1 }, -EINVAL],
    ['map_extra of a map that has no use for it', { map_type: 1 }, -EINVAL],
    ['both directions of access taken away', { map_flags: 0x418 }, -EINVAL],
    ['a node that is not there', { map_flags: 0x404, numa_node: 1 }, -EINVAL],
    ['an unknown type', { map_type: 99, map_extra: 0n }, -EINVAL],
    ['no type', { map_type: 0, map_extra: 0n }, -EINVAL],
    // A node that exists passes here and is then no flag of an arena.
    ['a node', { map_flags: 0x404, numa_node: 0 }, -EINVAL],
    ['a device', { map_ifindex: 1 }, -EINVAL],
    ['a name of 16 characters', { name: 'a'.repeat(16) }, -EINVAL],
    ['a name with a blank', { name: 'a b' }, -EINVAL],
    ['a type for a value that an arena has not', { btf_value_type_id: 3 }, -EINVAL],
    ['what the type refuses', { key_size: 4 }, -EINVAL],
  ] satisfies [string, Partial<MapCreateAttr>, number][])('refuses %s', (_what, attr, err) => {
    expect(create(attr)).toBe(err);
  });

  test('keeps nothing of a map that is refused after it was made', () => {
    const machine = new FakeMachine();
    const attr = { ...DEFAULT_ATTR, map_type: 33, name: 'no-name' };
    expect(machine.run(map_create(machine.here, machine.env, attr, { CAP_BPF: true }))).toBe(-EINVAL);
    expect([machine.vmAreas(), machine.env.arenas.size]).toEqual([0, 0]);
  });

  test('the flag for a token is taken off before the type sees it', () => {
    expect(create({ map_flags: 0x400 | (1 << 16) })).toMatchObject({ map_flags: 0x400 });
  });

  test('needs CAP_BPF, and says so after the checks of its attributes and before those of the type', () => {
    const nobody = { CAP_BPF: false };
    expect(create({}, nobody)).toBe(-EPERM);
    expect(create({ key_size: 4 }, nobody)).toBe(-EPERM);
    expect(create({ map_flags: 0x418 }, nobody)).toBe(-EINVAL);
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
