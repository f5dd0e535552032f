import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ } from '../../emu/cpu.js';
import { arm64 } from './index.js';
import { K, LDR_X0_X1, SENTINEL, STACK, TEXT, TestMachine } from './testing.js';
import { stripPac } from './unwind.js';

const TOP = STACK + 16384n;
/** The record at the end of the task's stack: &task_pt_regs(task)->stackframe. */
const FINAL = TOP - 0x140n + 0x128n;
const PROG = 0xffff_8000_8002_1234n;

/**
 * What arch_bpf_stack_walk() visits during a fault with sp and x29 as given, and how many frames.
 * stackAddresses() must say the same.
 */
function walk(machine: TestMachine, sp: bigint, x29: bigint): [ip: bigint, bp: bigint][] {
  const frames: [bigint, bigint][] = [];
  machine.code(LDR_X0_X1);
  machine.cpu.write('sp', sp);
  machine.cpu.write('x29', x29);
  machine.cpu.write('x30', 0xbadn);
  machine.kernel.answers.arena = () => {
    arm64.arch_bpf_stack_walk(machine.here, (ip, _sp, bp) => frames.push([ip, bp]) > 0);
    expect(arm64.stackAddresses(machine.here)).toEqual(frames.map(([ip]) => ip));
    return true;
  };
  machine.miss(K, ACCESS_READ);
  return frames;
}

/** What stackAddresses() gives in such a fault. */
function addresses(machine: TestMachine, x29: bigint): readonly bigint[] {
  let found: readonly bigint[] = [];
  machine.code(LDR_X0_X1);
  machine.cpu.write('sp', TOP - 0x400n);
  machine.cpu.write('x29', x29);
  machine.kernel.answers.arena = () => {
    found = arm64.stackAddresses(machine.here);
    return true;
  };
  machine.miss(K, ACCESS_READ);
  return found;
}

describe('arch_bpf_stack_walk', () => {
  test('pc first, then the chain of records, up to the final one', () => {
    const machine = new TestMachine();
    const [inner, outer] = [TOP - 0x400n, TOP - 0x380n];
    machine.words(inner, outer, PROG);
    machine.words(outer, FINAL, SENTINEL);
    expect(walk(machine, inner, inner)).toEqual([
      [TEXT, inner],
      [PROG, outer],
      [SENTINEL, FINAL],
    ]);
  });

  test('lr is never used: the caller of a leaf without a record is not there', () => {
    const machine = new TestMachine();
    const caller = TOP - 0x380n;
    machine.words(caller, FINAL, SENTINEL);
    const ips = walk(machine, TOP - 0x400n, caller).map(([ip]) => ip);
    expect(ips).toEqual([TEXT, SENTINEL]);
  });

  test('crosses an exception frame to the pc and x29 saved in it', () => {
    const machine = new TestMachine();
    const [handler, frame, outer] = [TOP - 0x800n, TOP - 0x600n, TOP - 0x380n];
    // struct pt_regs at `frame`: x29, x30, pc, and the metadata record {0, 0, PT_REGS}.
    machine.words(frame + 29n * 8n, outer, 0xbad0n);
    machine.words(frame + 0x100n, PROG);
    machine.words(frame + 0x128n, 0n, 0n, 2n);
    machine.words(handler, frame + 0x128n, 0xffff_8000_8003_0000n);
    machine.words(outer, FINAL, SENTINEL);
    expect(walk(machine, handler, handler)).toEqual([
      [TEXT, handler],
      [0xffff_8000_8003_0000n, frame + 0x128n],
      [PROG, outer],
      [SENTINEL, FINAL],
    ]);
  });

  test.each([
    ['misaligned', TOP - 0x384n],
    ['below the stack', STACK - 16n],
    ['at the end of the stack', TOP - 8n],
    ['a user address', 0x7f00_0000_0000n],
    ['not an address', 0x4141_4141_4141_4140n],
    ['below sp, where the exception frame has been consumed', TOP - 0x600n],
  ])('x29 %s: only pc is visited', (_, x29) => {
    const machine = new TestMachine();
    machine.words(TOP - 0x600n, FINAL, PROG);
    expect(walk(machine, TOP - 0x400n, x29)).toEqual([[TEXT, x29]]);
  });

  test('records that do not lead outwards end the walk', () => {
    const machine = new TestMachine();
    const record = TOP - 0x400n;
    machine.words(record, record, PROG);
    expect(walk(machine, record, record)).toHaveLength(2);
    machine.words(record, record - 0x10n, PROG);
    expect(walk(machine, record, record)).toHaveLength(2);
  });

  test('an unknown metadata type ends the walk', () => {
    const machine = new TestMachine();
    const record = TOP - 0x400n;
    machine.words(record, 0n, 0n, 3n);
    expect(walk(machine, record, record)).toHaveLength(1);
  });

  test('the visitor may stop it', () => {
    const machine = new TestMachine();
    const record = TOP - 0x400n;
    machine.words(record, FINAL, PROG);
    let visits = 0;
    machine.kernel.answers.arena = () => {
      arm64.arch_bpf_stack_walk(machine.here, () => {
        visits += 1;
        return false;
      });
      return true;
    };
    machine.cpu.write('x29', record);
    machine.miss(K, ACCESS_READ);
    expect(visits).toBe(1);
  });

  test('outside of an exception there is nothing to walk', () => {
    arm64.arch_bpf_stack_walk(new TestMachine().here, () => {
      throw new Error('visited');
    });
  });

  test('an authentication code is stripped from a return address', () => {
    const machine = new TestMachine();
    const record = TOP - 0x400n;
    machine.words(record, FINAL, (PROG & ~(0xffn << 48n)) | (0xa5n << 48n));
    expect(walk(machine, record, record)[1]).toEqual([PROG, FINAL]);
    expect(stripPac(0n)).toBe(0n);
    expect(stripPac(0x5a12_7f00_0000_1234n)).toBe(0x5a00_7f00_0000_1234n);
  });
});

describe('stackAddresses', () => {
  test('is the same array for as long as walks come to the same addresses, and another one after that', () => {
    const machine = new TestMachine();
    const [inner, outer] = [TOP - 0x400n, TOP - 0x380n];
    machine.words(inner, outer, PROG);
    machine.words(outer, FINAL, SENTINEL);
    const first = addresses(machine, inner);
    expect(first).toEqual([TEXT, PROG, SENTINEL]);
    expect(addresses(machine, inner)).toBe(first);

    machine.words(inner, outer, PROG + 4n);
    expect(addresses(machine, inner)).toEqual([TEXT, PROG + 4n, SENTINEL]);
    expect(addresses(machine, outer)).toEqual([TEXT, SENTINEL]);
    machine.words(inner, outer, PROG);
    expect(addresses(machine, inner)).toEqual(first);
    expect(first).toHaveLength(3);
  });

  test('outside of an exception and from user mode there is none', () => {
    expect(arm64.stackAddresses(new TestMachine().here)).toEqual([]);
  });
});
