import { describe, expect, test } from '@jest/globals';
import { drain } from '../emu/path.js';
import { EDEADLK, ETIMEDOUT } from '../kernel/errno.js';
import { HeldLocks, LockError } from '../kernel/rqspinlock.js';
import { flatCpu } from './fake-flat-cpu.js';
import type { KfuncBody } from './kfunc.js';
import { lockKfuncs } from './rqspinlock_kfuncs.js';
import { streamText } from './stream/stream.js';

function setup(id = 0, held = new HeldLocks()) {
  const flat = flatCpu(id);
  const prog = flat.program('deadlock');
  const bodies = new Map(lockKfuncs(flat.env, held).map(({ name, body }) => [name, body]));
  const call = (name: string, ...args: bigint[]): bigint => {
    const body = bodies.get(name) as KfuncBody;
    return BigInt.asIntN(64, drain(body(flat.here, args)));
  };
  return { ...flat, prog, call, held, stderr: () => streamText(prog.aux.stream[1]) };
}

describe('bpf_res_spin_lock()', () => {
  test('twice on a CPU is a deadlock, with the report that programs see', () => {
    const { call, put, stderr, here } = setup();
    const lock = put(0x100, [0n]);
    expect([call('bpf_res_spin_lock', lock), call('bpf_res_spin_lock', lock)]).toEqual([
      0n,
      BigInt(-EDEADLK),
    ]);
    expect(here.current.preempt_count).toBe(1);
    const text = stderr();
    // progs/stream.c, stream_deadlock.
    const pattern =
      /^ERROR: AA or ABBA deadlock detected for bpf_res_spin_lock\nAttempted lock {3}= (0x[0-9a-fA-F]+)\nTotal held locks = 1\nHeld lock\[ 0\] = \1\nCPU: [0-9]+ UID: 0 PID: [0-9]+ Comm: .*\nCall trace:\n/;
    expect(text).toMatch(pattern);
    expect(text).toContain('Attempted lock   = 0xffff888000000100\n');
    expect(text.split('\n').slice(6, 9)).toEqual([
      'bpf_stream_stage_dump_stack+0xe6/0x1a0',
      'bpf_prog_report_rqspinlock_violation+0x10b/0x130',
      'my_kfunc+0x12/0x40',
    ]);
  });

  test('of a lock that another CPU holds times out; the table does not keep the attempt', () => {
    const one = setup(0);
    const two = setup(1, one.held);
    const own = one.put(0x200, [0n]);
    two.put(0x100, [1n]);
    const taken = one.put(0x100, [1n]);
    expect([one.call('bpf_res_spin_lock', own), one.call('bpf_res_spin_lock', taken)]).toEqual([
      0n,
      BigInt(-ETIMEDOUT),
    ]);
    expect(one.stderr()).toContain('ERROR: Timeout detected for bpf_res_spin_lock\n');
    expect(one.stderr()).toContain('Total held locks = 1\nHeld lock[ 0] = 0xffff888000000200\n');
    expect(two.call('bpf_res_spin_lock', taken)).toBe(BigInt(-ETIMEDOUT));
    expect(two.stderr()).toContain('Total held locks = 0\nCPU: 1 ');
  });

  test('can be taken again when it was given back; the word is what everybody sees', () => {
    const { call, put, here } = setup();
    const lock = put(0x100, [0n]);
    call('bpf_res_spin_lock', lock);
    expect(here.ram.readU64(0x100)).toBe(1n);
    call('bpf_res_spin_unlock', lock);
    expect([here.ram.readU64(0x100), here.current.preempt_count]).toEqual([0n, 0]);
    expect(call('bpf_res_spin_lock', lock)).toBe(0n);
  });

  test('remembers 31 locks and counts those beyond: the thirty-first is no deadlock any more', () => {
    const { call, put, stderr, held } = setup();
    const lock = (i: number) => put(0x1000 + i * 8, [0n]);
    const locks = Array.from({ length: 33 }, (_, i) => lock(i));
    for (const each of locks) expect(call('bpf_res_spin_lock', each)).toBe(0n);
    expect(held.of(0).cnt).toBe(33);
    expect(call('bpf_res_spin_lock', locks[29] ?? 0n)).toBe(BigInt(-EDEADLK));
    expect(stderr()).toContain('Total held locks = 33\nHeld lock[ 0] = ');
    expect(stderr().match(/Held lock/g)).toHaveLength(31);
    expect(stderr()).toContain(`Held lock[30] = 0x${(locks[30] ?? 0n).toString(16)}\nCPU`);
    expect(call('bpf_res_spin_lock', locks[30] ?? 0n)).toBe(BigInt(-ETIMEDOUT));
    for (const each of locks.reverse()) call('bpf_res_spin_unlock', each);
    expect(held.of(0).cnt).toBe(0);
    expect(() => call('bpf_res_spin_unlock', locks[0] ?? 0n)).toThrow(LockError);
  });

  test('with irqsave keeps interrupts off while it is held, and names itself', () => {
    const { call, put, irqs, stderr, here } = setup();
    const lock = put(0x100, [0n]);
    const flags = put(0x200, [0n]);
    expect(call('bpf_res_spin_lock_irqsave', lock, flags)).toBe(0n);
    expect([irqs, here.ram.readU64(0x200)]).toEqual([['off'], 0x200n]);
    expect(call('bpf_res_spin_lock_irqsave', lock, put(0x300, [7n]))).toBe(BigInt(-EDEADLK));
    expect([irqs, here.ram.readU64(0x300)]).toEqual([['off', 'off', 0x200n], 7n]);
    expect(stderr()).toContain('ERROR: AA or ABBA deadlock detected for bpf_res_spin_lock_irqsave\n');
    call('bpf_res_spin_unlock_irqrestore', lock, flags);
    expect([irqs.at(-1), here.current.preempt_count]).toEqual([0x200n, 0]);
  });

  test('reports to nobody when no program is on the stack', () => {
    const { call, put, cpu, stderr } = setup();
    cpu.stack = [];
    const lock = put(0x100, [1n]);
    expect(call('bpf_res_spin_lock', lock)).toBe(BigInt(-ETIMEDOUT));
    expect(stderr()).toBe('');
  });
});

describe('bpf_spin_lock()', () => {
  test('is a flag, with interrupts off', () => {
    const { call, put, irqs, here } = setup();
    const lock = put(0x100, [0n]);
    call('bpf_spin_lock', lock);
    expect([here.ram.readU64(0x100), here.current.preempt_count]).toEqual([1n, 1]);
    expect(() => call('bpf_spin_lock', lock)).toThrow(LockError);
    call('bpf_spin_unlock', lock);
    expect([here.ram.readU64(0x100), here.current.preempt_count, irqs]).toEqual([0n, 0, ['off', 0x200n]]);
  });
});
