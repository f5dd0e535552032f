import { describe, expect, test } from '@jest/globals';
import { ARCH, CALL_BASE, fakeJit, link, TARGETS } from './link-testing.js';

const lock = (name: string): string => `r1 = map[array][0]\nr2 = r10\nr2 += -8\ncall bpf_${name}\n`;
const FREE = 'r1 = map[arena]\nr2 = 0\nr3 = 1\ncall bpf_arena_free_pages\n';
const END = 'r0 = 0\nexit\n';

/** The form of bpf_arena_free_pages() that each call in the program gets, in the order of the text. */
function frees(main: string): string[] {
  const forms = new Map([
    [CALL_BASE + 0x1000n, 'sleepable'],
    [CALL_BASE + 0x2100n, 'non_sleepable'],
  ]);
  // Others have that address, too.
  const targets = new Map(
    [...TARGETS].map(([name, target]) => {
      const address = name === 'bpf_arena_free_pages' ? target.address : CALL_BASE + 0x4000n;
      return [name, { ...target, address }];
    }),
  );
  let found: string[] = [];
  const jit = fakeJit((fn, place) => {
    found = fn.insns.flatMap(({ code }, i) => (code === 0x85 ? (forms.get(place.callTarget(i)) ?? []) : []));
  });
  link({ main }, { arch: { ...ARCH, jit }, targets });
  return found;
}

// in_sleepable_context(): !active_locks && !active_irq_id and the two counters.
describe('where a program cannot sleep', () => {
  test.each([
    ['bpf_res_spin_lock', 'res_spin_lock', 'res_spin_unlock'],
    ['bpf_res_spin_lock_irqsave', 'res_spin_lock_irqsave', 'res_spin_unlock_irqrestore'],
  ])('%s holds the lock where it gives 0', (_, take, give) => {
    const text = `${lock(take)}if r0 != 0 goto failed\n${FREE}${lock(give)}${FREE}${END}failed:\n${FREE}${END}`;
    expect(frees(text)).toEqual(['non_sleepable', 'sleepable', 'sleepable']);
  });

  test.each([
    ['bpf_spin_lock', lock('spin_lock'), lock('spin_unlock')],
    ['bpf_rcu_read_lock', 'call bpf_rcu_read_lock\n', 'call bpf_rcu_read_unlock\n'],
    ['bpf_preempt_disable', 'call bpf_preempt_disable\n', 'call bpf_preempt_enable\n'],
  ])('%s', (_, take, give) => {
    expect(frees(`${FREE}${take}${FREE}${give}${FREE}${END}`)).toEqual([
      'sleepable',
      'non_sleepable',
      'sleepable',
    ]);
  });

  test('sections of one kind nest', () => {
    const [on, off] = ['call bpf_preempt_enable\n', 'call bpf_preempt_disable\n'];
    expect(frees(`${off}${off}${on}${FREE}${on}${FREE}${END}`)).toEqual(['non_sleepable', 'sleepable']);
  });
});

// push_stack() in check_kfunc_call(): R0 is 0 with the lock, and in [-MAX_ERRNO, -1] without.
describe('a lock that may fail', () => {
  const held = `${lock('res_spin_unlock')}${END}`;

  test.each([
    ['r0 != 0', 'if r0 == 0 goto held\ngoto out\nheld:\n'],
    ['all 32 bits', 'if w0 != 0 goto out\n'],
    ['less than 0', 'if r0 s< 0 goto out\n'],
    ['unsigned', 'if r0 > 0xfff goto out\n'],
    ['an errno', 'if r0 != 0 goto out\nif r0 == -35 goto out\n'],
    ['no errno', 'if r0 == 0 goto held\nif r0 == -4096 goto held\ngoto out\nheld:\n'],
    ['in another register', 'r6 = r0\nr0 = 7\nif r6 != 0 goto out\n'],
    ['in half of another register', 'w6 = w0\nif w6 s<= -1 goto out\n'],
    ['on the stack', '*(u64 *)(r10 - 16) = r0\nr6 = *(u64 *)(r10 - 16)\nif r6 != 0 goto out\n'],
  ])('is told by what it returns: %s', (_, check) => {
    expect(() => link({ main: `${lock('res_spin_lock')}${check}${held}out:\n${END}` })).not.toThrow();
  });

  test.each([
    ['the wrong way round', 'if r0 == 0 goto out\n'],
    ['an errno that it may not be', 'if r0 == -35 goto out\n'],
    ['an errno that it may be', 'if r0 == 0 goto held\nif r0 == -35 goto held\ngoto out\nheld:\n'],
    ['the last errno', 'if r0 == 0 goto held\nif r0 == -4095 goto held\ngoto out\nheld:\n'],
    ['by something else', 'r6 = *(u64 *)(r10 - 16)\nif r6 != 0 goto out\n'],
  ])('%s', (_, check) => {
    expect(() => link({ main: `${lock('res_spin_lock')}${check}${held}out:\n${END}` })).toThrow(
      /bpf_res_spin_unlock without taking a lock|inside bpf_spin_lock-ed region/,
    );
  });

  test('a static subprogram may take it for its caller', () => {
    const main = `r6 = r1\ncall sub\nif r0 != 0 goto out\n${held}out:\n${END}`;
    expect(() => link({ main, sub: `${lock('res_spin_lock')}exit` })).not.toThrow();
    expect(() => link({ main: `call sub\n${END}`, sub: `${lock('res_spin_lock')}exit` })).toThrow(
      'BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region',
    );
  });
});

describe('what is not balanced', () => {
  const END_OF = 'BPF_EXIT instruction in main prog cannot be used inside';

  // check_resource_leak()
  test.each([
    [lock('spin_lock'), `${END_OF} bpf_spin_lock-ed region`],
    [`${lock('res_spin_lock_irqsave')}if r0 == 0 goto +0\n`, `${END_OF} bpf_spin_lock-ed region`],
    ['call bpf_rcu_read_lock\n', `${END_OF} bpf_rcu_read_lock-ed region`],
    ['call bpf_preempt_disable\n', `${END_OF} bpf_preempt_disable-ed region`],
    ['call bpf_preempt_disable\ncall bpf_rcu_read_lock\n', `${END_OF} bpf_rcu_read_lock-ed region`],
    ['r6 = *(u64 *)(r1 + 0)\nif r6 == 0 goto +1\ncall bpf_rcu_read_lock\n', 'bpf_rcu_read_lock-ed region'],
  ])('%j', (text, message) => {
    expect(() => link({ main: `${text}${END}` })).toThrow(
      expect.objectContaining({ message: expect.stringContaining(message), errno: -22, func: 'main' }),
    );
  });

  // process_spin_lock(), check_kfunc_call()
  test.each([
    [lock('spin_unlock'), 'bpf_spin_unlock without taking a lock'],
    [lock('res_spin_unlock'), 'bpf_res_spin_unlock without taking a lock'],
    [lock('res_spin_unlock_irqrestore'), 'bpf_res_spin_unlock without taking a lock'],
    [`${lock('spin_lock')}${lock('res_spin_unlock')}`, 'bpf_res_spin_unlock of different lock'],
    [
      `${lock('spin_lock')}${lock('res_spin_lock')}if r0 != 0 goto out\nr6 = 1\nout:\n${lock('spin_unlock')}`,
      'bpf_spin_unlock cannot be out of order',
    ],
    ['call bpf_rcu_read_unlock\n', 'unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)'],
    [
      'call bpf_preempt_enable\n',
      'unmatched attempt to enable preemption (kernel function bpf_preempt_enable)',
    ],
  ])('%j', (text, message) => {
    expect(() => link({ main: `${text}${END}` })).toThrow(expect.objectContaining({ message, errno: -22 }));
  });

  test('a loop that leaves one more section open each time', () => {
    const main = `r6 = r1\nagain:\ncall bpf_preempt_disable\nr7 = *(u64 *)(r6 + 0)\nif r7 != 0 goto again\n${END}`;
    expect(() => link({ main })).toThrow(`${END_OF} bpf_preempt_disable-ed region`);
  });
});

// do_check_insn(), kfunc_spin_allowed()
test('with a lock held, few functions may be called', () => {
  const calls = (call: string): string => `${lock('spin_lock')}${call}${lock('spin_unlock')}${END}`;
  const message = 'function calls are not allowed while holding a lock';
  for (const call of [
    'call bpf_get_cpumask\n',
    'call bpf_rcu_read_lock\n',
    lock('spin_lock'),
    'call bpf_preempt_disable\n',
  ]) {
    expect(() => link({ main: calls(call) })).toThrow(expect.objectContaining({ message, errno: -22 }));
  }
  expect(() => link({ main: calls('r1 = 1\ncall bpf_stream_print_stack\n') })).not.toThrow();
  expect(() => link({ main: calls('call sub\n'), sub: END })).not.toThrow();
});
