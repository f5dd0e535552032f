import { describe, expect, test } from '@jest/globals';
import { drain } from '../emu/path.js';
import { Clock } from '../kernel/clock.js';
import { flatCpu } from './fake-flat-cpu.js';
import { LoopTime, mayGotoFunctions } from './may_goto.js';
import { streamText } from './stream/stream.js';

function setup(nanoseconds: number, clock = new Clock()) {
  const flat = flatCpu();
  const prog = flat.program('loop');
  const [fn] = mayGotoFunctions(flat.env, new LoopTime(clock, nanoseconds));
  const p = flat.put(0x100, [0xffffn, 0n]);
  if (fn === undefined) throw new Error('no function');
  const check = (at = p) => drain(fn.body(flat.here, [at]));
  return { ...flat, clock, p, check, stderr: () => streamText(prog.aux.stream[1]) };
}

describe('bpf_check_timed_may_goto()', () => {
  test('notes the time, goes on for 250 ms, and then ends the loop with a report', () => {
    const { check, here, stderr } = setup(100_000_000);
    expect(check()).toBe(0xffffn);
    expect(here.ram.readU64(0x108)).toBe(100_000_000n);
    expect([check(), check(), stderr()]).toEqual([0xffffn, 0xffffn, '']);
    expect(check()).toBe(0n);
    expect(stderr().split('\n').slice(0, 6)).toEqual([
      'ERROR: Timeout detected for may_goto instruction',
      'CPU: 0 UID: 0 PID: 123 Comm: test_progs',
      'Call trace:',
      'bpf_stream_stage_dump_stack+0xe6/0x1a0',
      'bpf_prog_report_may_goto_violation+0x6a/0x90',
      'my_kfunc+0x12/0x40',
    ]);
  });

  test('the slice is over at 250 ms, not a nanosecond earlier', () => {
    const exact = setup(250_000_000);
    expect([exact.check(), exact.check()]).toEqual([0xffffn, 0n]);
    const short = setup(249_999_999);
    expect([short.check(), short.check(), short.check()]).toEqual([0xffffn, 0xffffn, 0n]);
  });

  test('each frame has its own time', () => {
    const { check, put } = setup(250_000_000);
    const other = put(0x200, [0xffffn, 0n]);
    expect([check(), check(other), check(other)]).toEqual([0xffffn, 0xffffn, 0n]);
  });

  test('moves the clock of the machine, and counts what passes on it otherwise', () => {
    const { check, clock } = setup(1500, new Clock(10));
    check();
    check();
    expect(clock.microseconds).toBe(13);
    clock.advance(250_000);
    expect(check()).toBe(0n);
  });

  test('refuses a time that stands still', () => {
    expect(() => new LoopTime(new Clock(), 0)).toThrow(RangeError);
  });
});
