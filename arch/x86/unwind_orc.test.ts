import { describe, expect, test } from '@jest/globals';
import { entryCode, makeRegs, regsWords } from './fake-stack.js';
import { machineOf } from './machine.js';
import { X86PtRegs } from './regs.js';
import { HOLE, SENTINEL, STACK_TOP, type TestMachine, testMachine } from './testing.js';
import { Unwinder } from './unwind_orc.js';

const SP = STACK_TOP - 0x400n;

/** Puts words on the stack from SP upwards, and the machine at `rip` with these registers. */
function stack(machine: TestMachine, words: readonly bigint[]): void {
  const pa = machine.mmu.peek(SP);
  words.forEach((word, i) => {
    machine.ram.writeU64(pa + 8 * i, word);
  });
}

/** What stackAddresses() gives while the arena is asked. */
function addresses(machine: TestMachine, rip: bigint): readonly bigint[] {
  let found: readonly bigint[] = [];
  machine.set({ rip, rsp: SP });
  const { kernel, here } = machine;
  kernel.bpf_arena_handle_page_fault = () => {
    found = here.arch.stackAddresses(here);
    return here.trace.immediate(true);
  };
  machine.miss(HOLE, 'write');
  return found;
}

/** What arch_bpf_stack_walk() visits while the arena is asked. stackAddresses() must say the same. */
function walk(machine: TestMachine, rip: bigint, limit = 100): string[] {
  const seen: string[] = [];
  const ips: bigint[] = [];
  machine.set({ rip, rsp: SP });
  const { kernel, here } = machine;
  kernel.bpf_arena_handle_page_fault = function* () {
    here.arch.arch_bpf_stack_walk(here, (ip, sp, bp) => {
      ips.push(ip);
      seen.push(`${kernel.sprint_symbol(ip)} sp ${(sp - SP).toString(16)} bp ${bp.toString(16)}`);
      return seen.length < limit;
    });
    expect(here.arch.stackAddresses(here).slice(0, limit)).toEqual(ips);
    return true;
  };
  machine.miss(HOLE, 'write');
  return seen;
}

/** leaf: no frame at all. framed: push rbp; mov rbp,rsp; call; pop rbp; ret. prog: the same as a BPF image. */
function code(machine: TestMachine): { leaf: bigint; framed: bigint; prog: bigint } {
  const frame = [0x55, 0x48, 0x89, 0xe5, 0xe8, 0, 0, 0, 0, 0x5d, 0xc3];
  return {
    leaf: machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3]),
    framed: machine.text('framed', 0x200, frame),
    prog: machine.text('bpf_prog', 0x300, frame, frame.length, true),
  };
}

describe('arch_bpf_stack_walk', () => {
  test('finds the caller of a leaf without a frame, goes through a program, and ends at the sentinel', () => {
    const machine = testMachine();
    const { leaf, framed, prog } = code(machine);
    const rbp = SP + 0x8n;
    machine.set({ rbp });
    stack(machine, [framed + 9n, SP + 0x18n, prog + 9n, 0n, SENTINEL, leaf]);
    expect(walk(machine, leaf)).toEqual([
      `leaf+0x0/0x4 sp 0 bp ${rbp.toString(16)}`,
      `framed+0x9/0xb sp 8 bp ${rbp.toString(16)}`,
      `bpf_prog+0x9/0xb sp 18 bp ${(SP + 0x18n).toString(16)}`,
      `0x${SENTINEL.toString(16)} sp 28 bp 0`,
    ]);
  });

  test('stops when the visitor has enough', () => {
    const machine = testMachine();
    const { leaf, framed } = code(machine);
    machine.set({ rbp: SP + 0x8n });
    stack(machine, [framed + 9n, 0n, SENTINEL]);
    expect(walk(machine, leaf, 1)).toHaveLength(1);
  });

  test('visits nothing when the code itself is no kernel text', () => {
    const machine = testMachine();
    const { framed } = code(machine);
    stack(machine, [framed + 9n, SENTINEL]);
    expect(walk(machine, HOLE)).toEqual([]);
    expect(walk(machine, 0n)).toEqual([]);
  });

  test('visits nothing with the frame-pointer unwinder', () => {
    const machine = testMachine({ UNWINDER: 'frame_pointer' });
    const { leaf, framed } = code(machine);
    stack(machine, [framed + 9n, SENTINEL]);
    expect(walk(machine, leaf)).toEqual([]);
  });

  test('visits nothing outside of an exception', () => {
    const machine = testMachine();
    const seen: bigint[] = [];
    machine.here.arch.arch_bpf_stack_walk(machine.here, (ip) => seen.push(ip) > 0);
    expect(seen).toEqual([]);
  });

  test.each([
    ['a frame pointer that points down', SP - 0x40n],
    ['one that points to itself', SP - 8n],
    ['one out of the stack', STACK_TOP],
    ['one that no address can be', 0x4141414141414141n],
    ['one that is not aligned', SP + 0x9n],
  ])('ends at %s', (_what, rbp) => {
    const machine = testMachine();
    const { leaf, framed } = code(machine);
    machine.set({ rbp });
    stack(machine, [framed + 9n, framed + 9n, framed + 9n]);
    expect(walk(machine, leaf)).toHaveLength(2);
  });

  test('a fault in the middle of a prologue finds the caller', () => {
    const machine = testMachine();
    const { framed } = code(machine);
    machine.set({ rbp: 0x1234n });
    stack(machine, [0x1234n, framed + 9n, SENTINEL]);
    // Between push rbp and mov rbp, rsp.
    expect(walk(machine, framed + 1n)[1]).toMatch(/^framed\+0x9/);
  });
});

test('a frame that leads to itself ends the walk also behind code without tables', () => {
  const machine = testMachine();
  const { framed } = code(machine);
  stack(machine, [0n, SP + 0x8n, framed + 9n]);
  const unwinder = new Unwinder(machineOf(machine.here).orc);
  unwinder.start(machine.here, machine.mmu, makeRegs({ ip: 0x4141n, sp: SP, bp: SP + 0x8n }));
  expect([unwinder.next(), unwinder.next(), unwinder.next()]).toEqual([true, false, false]);
});

test('registers on the stack are a frame, and those of user code the last one', () => {
  const machine = testMachine();
  const { leaf, framed } = code(machine);
  const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
  const outer = SP + 0x200n;
  const walkThrough = (cs: bigint): [boolean, boolean, number, boolean] => {
    stack(machine, [entry + 0x26n, ...regsWords({ ip: framed + 4n, cs, sp: outer, bp: outer })]);
    machine.ram.writeU64(machine.mmu.peek(outer + 8n), framed + 9n);
    const unwinder = new Unwinder(machineOf(machine.here).orc);
    unwinder.start(machine.here, machine.mmu, makeRegs({ ip: leaf, sp: SP, bp: SP }));
    const steps = [unwinder.next(), unwinder.next()] as const;
    return [...steps, unwinder.returnAddressSlot, unwinder.next()];
  };
  const ip = Number(BigInt.asIntN(64, SP + 8n)) + 0x80;
  expect(walkThrough(0x10n)).toEqual([true, true, ip, true]);
  expect(walkThrough(0x33n)).toEqual([true, true, ip, false]);
});

describe('stackAddresses', () => {
  test('is the same array for as long as walks come to the same addresses, and another one after that', () => {
    const machine = testMachine();
    const { leaf, framed, prog } = code(machine);
    machine.set({ rbp: SP + 0x8n });
    stack(machine, [framed + 9n, SP + 0x18n, prog + 9n, 0n, SENTINEL]);
    const first = addresses(machine, leaf);
    expect(first).toEqual([leaf, framed + 9n, prog + 9n, SENTINEL]);
    expect(addresses(machine, leaf)).toBe(first);

    // Another caller in the middle, a shorter stack, and the first one again.
    stack(machine, [framed + 9n, SP + 0x18n, prog + 4n, 0n, SENTINEL]);
    expect(addresses(machine, leaf)).toEqual([leaf, framed + 9n, prog + 4n, SENTINEL]);
    stack(machine, [SENTINEL]);
    expect(addresses(machine, leaf)).toEqual([leaf, SENTINEL]);
    stack(machine, [framed + 9n, SP + 0x18n, prog + 9n, 0n, SENTINEL]);
    expect(addresses(machine, leaf)).toEqual(first);
    expect(first).toHaveLength(4);
  });

  test('sees new unwinder tables', () => {
    const machine = testMachine();
    const { framed, prog } = code(machine);
    machine.set({ rbp: SP + 0x10n });
    stack(machine, [framed + 9n, prog + 9n, 0n, SENTINEL]);
    // nop; mov [rdi], rax; ret, and then push rbx in the place of the nop.
    const f = machine.text('f', 0x400, [0x90, 0x48, 0x89, 0x07, 0xc3]);
    expect(addresses(machine, f + 1n)).toEqual([f + 1n, framed + 9n, SENTINEL]);
    machine.text('f', 0x400, [0x53, 0x48, 0x89, 0x07, 0x5b, 0xc3]);
    expect(addresses(machine, f + 1n)).toEqual([f + 1n, prog + 9n, SENTINEL]);
  });

  test('follows registers that the handler changes', () => {
    const machine = testMachine();
    const { leaf, framed } = code(machine);
    machine.set({ rip: leaf, rsp: SP, rbp: SP + 0x8n });
    stack(machine, [framed + 9n, 0n, SENTINEL]);
    const { kernel, here } = machine;
    const seen: (readonly bigint[])[] = [];
    kernel.bpf_arena_handle_page_fault = () => {
      seen.push(here.arch.stackAddresses(here));
      if (here.regs instanceof X86PtRegs) here.regs.ip = leaf + 3n;
      seen.push(here.arch.stackAddresses(here));
      return here.trace.immediate(true);
    };
    machine.miss(HOLE, 'write');
    expect(seen.map(([first]) => first)).toEqual([leaf, leaf + 3n]);
  });
});
