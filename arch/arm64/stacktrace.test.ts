import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ACCESS_READ } from '../../emu/cpu.js';
import { KERN_DEFAULT } from '../kernel.js';
import { SENTINEL } from './fake-cpu.js';
import { arm64 } from './index.js';
import { Arm64PtRegs } from './regs.js';
import { dump_backtrace } from './stacktrace.js';
import { K, LDR_X0_X1, STACK, TEXT, TestMachine } from './testing.js';
import { stripPac, Unwinder } from './unwind.js';

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

/** struct pt_regs of kernel code with this pc and x29; the rest is 0. */
function ptRegs(machine: TestMachine, at: bigint, pc: bigint, x29: bigint, type = 2n): void {
  machine.words(at + 29n * 8n, x29, 0xbad0n);
  machine.words(at + 0x100n, pc);
  machine.words(at + 0x128n, 0n, 0n, type);
}

/** What dump_backtrace() prints from these registers. */
function backtrace(machine: TestMachine, pc: bigint, x29: bigint, tsk = machine.here.current): string[] {
  machine.kernel.console.length = 0;
  const regs = new Arm64PtRegs();
  regs.words[29] = x29;
  regs.words[0x100 / 8] = pc;
  regs.words[0x108 / 8] = 5n;
  dump_backtrace(machine.here, regs, KERN_DEFAULT, tsk);
  return [...machine.kernel.console];
}

const A = 0xffff_8000_8000_1110n;
const B = 0xffff_8000_8000_2220n;
const C = 0xffff_8000_8000_3330n;
const line = (pc: bigint, source = ''): string => ` 0x${pc.toString(16)}${source}`;

describe('dump_backtrace', () => {
  test('marks what came out of registers, and uses addresses as they are', () => {
    const machine = new TestMachine();
    const [inner, frame, outer] = [TOP - 0x800n, TOP - 0x600n, TOP - 0x380n];
    machine.words(inner, frame + 0x128n, B);
    ptRegs(machine, frame, C, outer);
    machine.words(outer, FINAL, SENTINEL);
    expect(backtrace(machine, A, inner)).toEqual([
      'Call trace:',
      line(A, ' (P)'),
      line(B),
      line(C, ' (P)'),
      line(SENTINEL),
    ]);
  });

  test('registers that record directly follow each other', () => {
    const machine = new TestMachine();
    const [first, second] = [TOP - 0xa00n, TOP - 0x800n];
    ptRegs(machine, first, B, second + 0x128n);
    ptRegs(machine, second, C, FINAL);
    expect(backtrace(machine, A, first + 0x128n)).toEqual([
      'Call trace:',
      line(A, ' (P)'),
      line(B, ' (P)'),
      line(C, ' (P)'),
    ]);
  });

  test('an authentication code is stripped from the pc of inner registers, not from the first one', () => {
    const machine = new TestMachine();
    const signed = (pc: bigint): bigint => (pc & ~(0xffn << 48n)) | (0xa5n << 48n);
    ptRegs(machine, TOP - 0x800n, signed(B), FINAL);
    expect(backtrace(machine, signed(A), TOP - 0x800n + 0x128n)).toEqual([
      'Call trace:',
      line(signed(A), ' (P)'),
      line(B, ' (P)'),
    ]);
  });

  test.each([
    ['registers that begin below the stack', STACK + 0x40n],
    ['a metadata record that the stack cuts off', TOP - 16n],
  ])('%s end the trace', (_, record) => {
    const machine = new TestMachine();
    machine.words(record, 0n, 0n);
    if (record + 16n < TOP) machine.words(record + 16n, 2n);
    expect(backtrace(machine, A, record)).toEqual(['Call trace:', line(A, ' (P)')]);
    expect(machine.kernel.warnings).toEqual([]);
  });

  test('what lies behind the stack is no part of a record', () => {
    const machine = new TestMachine();
    machine.map(TOP, 0x00e8_0000_0000_0703n);
    machine.words(TOP - 16n, 0n, 0n, 3n);
    expect(backtrace(machine, A, TOP - 16n)).toEqual(['Call trace:', line(A, ' (P)')]);
    expect(machine.kernel.warnings).toEqual([]);
  });

  test('frames that were walked through are used up, also those in registers', () => {
    const machine = new TestMachine();
    const [inner, frame] = [TOP - 0x800n, TOP - 0x600n];
    machine.words(inner, frame + 0x128n, B);
    // Back into the registers themselves, and to the record in front of them.
    for (const back of [frame + 0x130n, inner]) {
      ptRegs(machine, frame, C, back);
      expect(backtrace(machine, A, inner)).toHaveLength(4);
    }
  });

  test('a final record that is not the last one, and unknown ones, are warned of once', () => {
    const machine = new TestMachine();
    const record = TOP - 0x400n;
    machine.words(record, 0n, 0n, 1n);
    expect(backtrace(machine, A, record)).toHaveLength(2);
    machine.words(record, 0n, 0n, 3n);
    expect(backtrace(machine, A, record)).toHaveLength(2);
    machine.words(record, 0n, 0n, 0x1_0000_0002n);
    expect(backtrace(machine, A, record)).toHaveLength(2);
    machine.words(record, FINAL, B);
    expect(backtrace(machine, A, record)).toHaveLength(3);
    expect(machine.kernel.warnings).toEqual([
      'arch/arm64/kernel/stacktrace.c:206: ',
      'arch/arm64/kernel/stacktrace.c:211: ',
    ]);
  });

  test('the walk for programs warns as well', () => {
    const machine = new TestMachine();
    const record = TOP - 0x400n;
    machine.words(record, 0n, 0n, 1n);
    expect(addresses(machine, record)).toEqual([TEXT]);
    expect(machine.kernel.warnings).toEqual(['arch/arm64/kernel/stacktrace.c:206: ']);
  });

  test('registers say nothing about another task, and user code has no trace', () => {
    const machine = new TestMachine();
    machine.words(TOP - 0x400n, FINAL, B);
    const other = { ...machine.here.current };
    expect(backtrace(machine, A, TOP - 0x400n, other)).toEqual(['Call trace:']);
    machine.kernel.console.length = 0;
    const user = new Arm64PtRegs();
    dump_backtrace(machine.here, user, KERN_DEFAULT);
    expect(machine.kernel.console).toEqual([]);
  });
});

describe('stacks of the CPU', () => {
  const IRQ = 0xffff_8000_8200_0000n;
  const signed = (va: bigint): number => Number(BigInt.asIntN(64, va));

  /** Addresses of a walk that may go through an interrupt stack of one page. */
  function walkThrough(machine: TestMachine, x29: bigint): bigint[] {
    const regs = new Arm64PtRegs();
    regs.words[29] = x29;
    regs.words[0x100 / 8] = A;
    const unwinder = new Unwinder(machine.mmu, machine.ram);
    const irq = { low: signed(IRQ), high: signed(IRQ + 0x1000n) };
    unwinder.start(machine.here.current, regs, Number.NEGATIVE_INFINITY, [irq]);
    const found: bigint[] = [];
    do found.push(unwinder.ip);
    while (unwinder.next());
    return found;
  }

  test('a walk goes from one to the task, and never back', () => {
    const machine = new TestMachine();
    machine.map(IRQ, 0x00e8_0000_0000_0703n);
    const outer = TOP - 0x400n;
    machine.words(IRQ + 0x100n, outer, B);
    machine.words(outer, FINAL, C);
    // From the task to the interrupt stack and back is one way too many.
    expect(walkThrough(machine, outer)).toEqual([A, C]);
    machine.words(outer, IRQ + 0x100n, C);
    expect(walkThrough(machine, outer)).toEqual([A, C, B]);
    machine.words(IRQ + 0x80n, outer, PROG);
    machine.words(IRQ + 0x100n, IRQ + 0x80n, B);
    expect(walkThrough(machine, outer)).toEqual([A, C, B]);
  });
});

/** What corrupted memory may hold, with a good share of what looks right. */
const anyWord = fc.oneof(
  { weight: 6, arbitrary: fc.bigInt({ min: TOP - 0x420n, max: TOP + 0x20n }).map((at) => at & ~7n) },
  { weight: 1, arbitrary: fc.bigInt({ min: TOP - 0x420n, max: TOP }) },
  { weight: 5, arbitrary: fc.constantFrom(0n, 0n, 0n, 1n, 2n, 3n, FINAL) },
  { weight: 2, arbitrary: fc.constantFrom(A, B, C, PROG) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }) },
);

describe('whatever is on the stack', () => {
  test('a walk ends, on the stack, without an exception', () => {
    const machine = new TestMachine();
    const low = Number(BigInt.asIntN(64, STACK));
    const high = low + 16384;
    const { mmu } = machine;
    const physical = mmu.physical.bind(mmu);
    mmu.physical = (va) => {
      if (!(va >= low && va < high)) throw new Error(`a read outside of the stack: ${va}`);
      return physical(va);
    };
    const words = fc.array(anyWord, { minLength: 128, maxLength: 128 });
    fc.assert(
      fc.property(words, anyWord, (stack, x29) => {
        stack.forEach((word, i) => {
          machine.ram.writeU64(physical(high - 0x400 + i * 8), word);
        });
        const regs = new Arm64PtRegs();
        regs.words[29] = x29;
        const unwinder = new Unwinder(mmu, machine.ram);
        unwinder.start(machine.here.current, regs, Number.NEGATIVE_INFINITY);
        let steps = 0;
        while (unwinder.next()) steps += 1;
        // Each frame uses up a record.
        expect(steps).toBeLessThanOrEqual(16384 / 16);
      }),
      { seed: 20260521, numRuns: 500 },
    );
  });

  test('an intact chain comes out as it is, with exceptions in it or not', () => {
    const frames = fc.array(fc.record({ regs: fc.boolean(), gap: fc.integer({ min: 0, max: 20 }) }), {
      minLength: 1,
      maxLength: 20,
    });
    fc.assert(
      fc.property(frames, (chain) => {
        const machine = new TestMachine();
        let at = TOP - 0x140n;
        let x29 = FINAL;
        const expected: string[] = [];
        for (const [i, { regs, gap }] of chain.entries()) {
          const pc = 0xffff_8000_8000_0000n + BigInt(i * 4 + 4);
          at -= BigInt(gap * 16 + (regs ? 0x140 : 16));
          if (regs) ptRegs(machine, at, pc, x29);
          else machine.words(at, x29, pc);
          x29 = regs ? at + 0x128n : at;
          expected.unshift(line(pc, regs ? ' (P)' : ''));
        }
        expect(backtrace(machine, A, x29)).toEqual(['Call trace:', line(A, ' (P)'), ...expected]);
        expect(machine.kernel.warnings).toEqual([]);
      }),
      { seed: 20260521, numRuns: 60 },
    );
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
