import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  clearStack,
  entryCode,
  FRAMED,
  FRAMELESS,
  LEAF,
  makeRegs,
  SP,
  STACK,
  STACK_TOP,
  store,
  trace,
} from './fake-stack.js';
import { machineOf } from './machine.js';
import { SENTINEL, type TestMachine, testMachine } from './testing.js';
import type { TraceUnwinder } from './unwind.js';
import { FrameUnwinder } from './unwind_frame.js';
import { Unwinder } from './unwind_orc.js';

const SEED = { seed: 20260521, numRuns: 200 };
const WORDS = Number(STACK_TOP - SP) / 8;
const LOW = Number(BigInt.asIntN(64, STACK));
const HIGH = Number(BigInt.asIntN(64, STACK_TOP));

interface Functions {
  readonly leaf: bigint;
  readonly framed: bigint;
  readonly plain: bigint;
  readonly entry: bigint;
  readonly bpf: bigint;
}

function functions(machine: TestMachine): Functions {
  clearStack(machine);
  machine.kernel.symbols.push({ name: 'ret_from_fork_asm', start: SENTINEL - 0x1an, size: 0x30, bpf: false });
  return {
    leaf: machine.text('leaf', 0x100, LEAF),
    framed: machine.text('framed', 0x200, FRAMED),
    plain: machine.text('plain', 0x300, FRAMELESS),
    bpf: machine.text('bpf_prog', 0x400, FRAMED, FRAMED.length, true),
    entry: entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30),
  };
}

/** What corrupted memory may hold, with a good share of what looks right. */
function anyWord(fns: Functions): fc.Arbitrary<bigint> {
  const onStack = fc.bigInt({ min: SP - 0x200n, max: STACK_TOP + 0x20n });
  return fc.oneof(
    { weight: 4, arbitrary: onStack.map((at) => at & ~7n) },
    { weight: 1, arbitrary: onStack },
    { weight: 1, arbitrary: onStack.map((at) => at | 1n) },
    {
      weight: 6,
      arbitrary: fc.constantFrom(
        fns.framed + 9n,
        fns.framed + 4n,
        fns.plain + 9n,
        fns.leaf + 1n,
        fns.bpf + 9n,
        fns.entry + 0x26n,
        fns.entry + 5n,
        SENTINEL,
      ),
    },
    {
      weight: 1,
      arbitrary: fc.constantFrom(0n, 1n, 0x10n, 0x33n, 0xffff_ffff_ffff_fff8n, 0x8000_0000_0000_0000n),
    },
    { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }) },
  );
}

/** Steps to the end; fails when there is none, or when a return address is said to be off the stack. */
function walkToTheEnd(unwinder: TraceUnwinder): void {
  let steps = 0;
  while (!unwinder.done) {
    steps += 1;
    if (steps > (HIGH - LOW) * 2) throw new Error('the walk does not end');
    const slot = unwinder.returnAddressSlot;
    if (!Number.isNaN(slot) && !(slot >= LOW && slot + 8 <= HIGH)) throw new Error(`a frame at ${slot}`);
    unwinder.next();
  }
}

/** Lets only the pages of the stack be read. */
function guardReads(machine: TestMachine): void {
  const { mmu } = machine;
  const physical = mmu.physical.bind(mmu);
  mmu.physical = (va) => {
    if (!(va >= LOW && va < HIGH)) throw new Error(`a read outside of the stack: ${va}`);
    return physical(va);
  };
}

describe('whatever is on the stack', () => {
  test.each(['orc', 'frame_pointer'] as const)(
    '%s: walks end, on the stack, without an exception',
    (UNWINDER) => {
      const machine = testMachine({ UNWINDER });
      const fns = functions(machine);
      const words = fc.array(anyWord(fns), { minLength: WORDS, maxLength: WORDS });
      const register = anyWord(fns);
      fc.assert(
        fc.property(words, register, register, register, (stack, ip, bp, r10) => {
          store(machine, SP, stack);
          const physical = machine.mmu.physical;
          guardReads(machine);
          try {
            const regs = makeRegs({ ip, sp: SP, bp, r10 });
            if (UNWINDER === 'orc') {
              const unwinder = new Unwinder(machineOf(machine.here).orc);
              unwinder.start(machine.here, machine.mmu, regs);
              walkToTheEnd(unwinder);
            } else {
              walkToTheEnd(new FrameUnwinder(machine.here, regs));
            }
          } finally {
            machine.mmu.physical = physical;
          }
        }),
        SEED,
      );
    },
  );

  test.each(['orc', 'frame_pointer'] as const)(
    '%s: a trace has at most one line per word and block',
    (UNWINDER) => {
      const machine = testMachine({ UNWINDER });
      const fns = functions(machine);
      const words = fc.array(anyWord(fns), { minLength: WORDS, maxLength: WORDS });
      const register = anyWord(fns);
      fc.assert(
        fc.property(words, register, fc.oneof(register, fc.constant(SP)), register, (stack, ip, sp, bp) => {
          store(machine, SP, stack);
          const lines = trace(machine, { ip, sp, bp });
          expect(lines.filter((line) => line.startsWith('  ')).length).toBe(0);
          const frames = lines.filter((line) => /^ (\? )?[a-z0]/.test(line));
          expect(frames.length).toBeLessThanOrEqual(Number(STACK_TOP - STACK) / 8);
          expect(lines.filter((line) => line === ' <TASK>').length).toBeLessThanOrEqual(1);
        }),
        { ...SEED, numRuns: 100 },
      );
    },
  );
});

describe('an intact chain of calls', () => {
  /** One frame: with or without a frame pointer, and how many words of locals. */
  const frames = fc.array(fc.record({ framed: fc.boolean(), locals: fc.integer({ min: 0, max: 6 }) }), {
    minLength: 1,
    maxLength: 12,
  });

  /** Lays the frames out, the outermost first; the registers in the innermost function, and its callers. */
  function layOut(
    machine: TestMachine,
    chain: readonly { readonly framed: boolean; readonly locals: number }[],
  ): { sp: bigint; bp: bigint; returns: bigint[] } {
    let sp = STACK_TOP - 8n;
    let bp = 0n;
    const returns = [SENTINEL];
    store(machine, sp, [SENTINEL]);
    for (const [i, { framed, locals }] of chain.entries()) {
      const size = locals * 8;
      // push rbp; mov rbp,rsp; sub rsp,size; call … or sub rsp,size; call …
      const code = framed
        ? [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, size, 0xe8, 0, 0, 0, 0, 0xc9, 0xc3]
        : [0x48, 0x83, 0xec, size, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, size, 0xc3];
      const start = machine.text(`f${i}`, 0x100 + i * 0x20, code);
      if (framed) {
        sp -= 8n;
        store(machine, sp, [bp]);
        bp = sp;
      }
      sp -= BigInt(size);
      const back = start + (framed ? 13n : 9n);
      sp -= 8n;
      store(machine, sp, [back]);
      returns.unshift(back);
    }
    return { sp, bp, returns };
  }

  test('by ORC, whatever frames the functions have', () => {
    fc.assert(
      fc.property(frames, (chain) => {
        const machine = testMachine();
        clearStack(machine);
        machine.kernel.symbols.push({ name: 'bottom', start: SENTINEL - 0x1an, size: 0x30, bpf: false });
        const leaf = machine.text('leaf', 0x800, LEAF);
        const { sp, bp, returns } = layOut(machine, chain);
        const unwinder = new Unwinder(machineOf(machine.here).orc);
        expect(unwinder.addresses(machine.here, machine.mmu, makeRegs({ ip: leaf, sp, bp }))).toEqual([
          leaf,
          ...returns,
        ]);
        const lines = trace(machine, { ip: leaf, sp, bp });
        expect(lines.length).toBe(returns.length + 3);
        expect(lines.filter((line) => line.includes('?'))).toEqual([]);
      }),
      { ...SEED, numRuns: 40 },
    );
  });

  test('by frame pointers, when all functions have one', () => {
    fc.assert(
      fc.property(frames, (chain) => {
        const machine = testMachine({ UNWINDER: 'frame_pointer' });
        clearStack(machine);
        machine.kernel.symbols.push({ name: 'bottom', start: SENTINEL - 0x1an, size: 0x30, bpf: false });
        const leaf = machine.text('leaf', 0x800, [0x55, 0x48, 0x89, 0xe5, ...LEAF]);
        const { sp, bp, returns } = layOut(
          machine,
          chain.map(({ locals }) => ({ framed: true, locals })),
        );
        store(machine, sp - 8n, [bp]);
        const lines = trace(machine, { ip: leaf + 4n, sp: sp - 8n, bp: sp - 8n });
        expect(lines.length).toBe(returns.length + 3);
        expect(lines.filter((line) => /\?|WARNING/.test(line))).toEqual([]);
      }),
      { ...SEED, numRuns: 40 },
    );
  });
});
