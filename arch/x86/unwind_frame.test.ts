import { describe, expect, test } from '@jest/globals';
import {
  clearStack,
  entryCode,
  FRAMED,
  LEAF,
  regsWords,
  SP,
  STACK_TOP,
  store,
  TASK_REGS,
  trace,
} from './fake-stack.js';
import { SENTINEL, type TestMachine, testMachine } from './testing.js';

interface Functions {
  readonly leaf: bigint;
  readonly f: bigint;
  readonly g: bigint;
}

function frameMachine(): TestMachine & Functions {
  const machine = testMachine({ UNWINDER: 'frame_pointer' });
  clearStack(machine);
  machine.kernel.symbols.push({ name: 'ret_from_fork_asm', start: SENTINEL - 0x1an, size: 0x30, bpf: false });
  const leaf = machine.text('leaf', 0x100, LEAF);
  const f = machine.text('f', 0x200, FRAMED);
  const g = machine.text('g', 0x300, FRAMED);
  return { ...machine, leaf, f, g };
}

describe('a trace by frame pointers', () => {
  test('follows them; the caller of a function without one is a leftover', () => {
    const machine = frameMachine();
    const { leaf, f, g } = machine;
    store(machine, SP, [f + 9n, SP + 0x20n, g + 9n, f + 3n, 0n, SENTINEL]);
    expect(trace(machine, { ip: leaf, sp: SP, bp: SP + 8n })).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' ? f+0x9/0xb',
      ' g+0x9/0xb',
      ' ? f+0x3/0xb',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
  });

  test('a call through a null pointer has its caller', () => {
    const machine = frameMachine();
    const { f, g } = machine;
    store(machine, SP, [f + 9n, SP + 0x20n, g + 9n, 0n, 0n, SENTINEL]);
    expect(trace(machine, { ip: 0n, sp: SP, bp: SP + 8n }).slice(2, -1)).toEqual([
      ' f+0x9/0xb',
      ' g+0x9/0xb',
      ' ret_from_fork_asm+0x1a/0x30',
    ]);
  });

  test('an odd frame pointer is the address of registers: a block in the middle', () => {
    const machine = frameMachine();
    const { leaf, f, g } = machine;
    const regs = SP + 0x20n;
    store(machine, SP, [
      regs | 1n,
      g + 9n,
      0n,
      0n,
      ...regsWords({ ip: leaf, sp: SP + 0x100n, bp: SP + 0x110n }),
    ]);
    store(machine, SP + 0x100n, [f + 9n, 0n, 0n, SENTINEL]);
    const lines = trace(machine, { ip: leaf, sp: SP, bp: SP });
    expect(lines.filter((line) => !/^(Code|R.X|RBP|R1.): /.test(line))).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' g+0x9/0xb',
      'RIP: 0010:leaf+0x0/0x4',
      `RSP: 0018:${(SP + 0x100n).toString(16)} EFLAGS: 00000000`,
      ' ? f+0x9/0xb',
      ' ret_from_fork_asm+0x1a/0x30',
      ' </TASK>',
    ]);
  });

  const USER = { ip: 0x401000n, cs: 0x33n, ss: 0x2bn, sp: 0x7ffe_0000n, flags: 0x246n, orig_ax: 1n };

  test.each([
    ['the usual one', 16n, (f: bigint) => [0n, f + 9n]],
    ['a realigned one, with the return address twice', 24n, (f: bigint) => [0n, f + 9n, f + 9n]],
    ['one of a tracer', 40n, (f: bigint) => [0x77n, f + 9n, 0x77n, 0x1234n, f + 9n]],
  ])('the last frame below the registers of user code: %s', (_, below, words) => {
    const machine = frameMachine();
    const { leaf, f, g } = machine;
    const last = TASK_REGS - below;
    store(machine, SP, [last, g + 9n]);
    store(machine, last, words(f));
    store(machine, TASK_REGS, regsWords(USER));
    const lines = trace(machine, { ip: leaf, sp: SP, bp: SP });
    expect(lines.slice(0, 4)).toEqual(['Call Trace:', ' <TASK>', ' g+0x9/0xb', ' f+0x9/0xb']);
    expect(lines).toContain('RIP: 0033:0x401000');
    expect(lines).toContain('RSP: 002b:000000007ffe0000 EFLAGS: 00000246 ORIG_RAX: 0000000000000001');
    expect(lines.filter((line) => line.startsWith('WARNING'))).toEqual([]);
  });

  test('the last frame of a kernel thread ends the trace', () => {
    const machine = frameMachine();
    const { leaf, f, g } = machine;
    store(machine, SP, [TASK_REGS - 16n, g + 9n]);
    store(machine, TASK_REGS - 16n, [TASK_REGS | 1n, f + 9n, ...regsWords({})]);
    expect(trace(machine, { ip: leaf, sp: SP, bp: SP })).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' g+0x9/0xb',
      ' f+0x9/0xb',
      ' </TASK>',
    ]);
  });

  test('a frame pointer that is none from the start leaves only leftovers, and says nothing', () => {
    for (const bp of [0n, 0x4141_4141_4141_4141n, STACK_TOP, SP - 0x10000n]) {
      const machine = frameMachine();
      const { leaf, f } = machine;
      store(machine, SP, [f + 9n, 0n, SENTINEL]);
      expect(trace(machine, { ip: leaf, sp: SP, bp })).toEqual([
        'Call Trace:',
        ' <TASK>',
        ' ? f+0x9/0xb',
        ' ? ret_from_fork_asm+0x1a/0x30',
        ' </TASK>',
      ]);
    }
  });

  test('frames below the stack pointer are skipped', () => {
    const machine = frameMachine();
    const { leaf, f, g } = machine;
    store(machine, SP - 0x20n, [SP, f + 9n]);
    store(machine, SP, [0n, g + 9n]);
    expect(trace(machine, { ip: leaf, sp: SP, bp: SP - 0x20n })[2]).toBe(' g+0x9/0xb');
  });

  test('a chain that breaks is shown once since boot, with every word of the stack', () => {
    const machine = frameMachine();
    const { leaf, f, g } = machine;
    const at = STACK_TOP - 0x40n;
    const hex = (value: bigint): string => value.toString(16).padStart(16, '0');
    store(machine, at, [at + 0x20n, f + 9n, 0n, 0n, 0x4141n, g + 9n, 0n, 0n]);
    expect(trace(machine, { ip: leaf, sp: at, bp: at })).toEqual([
      'Call Trace:',
      ' <TASK>',
      ' f+0x9/0xb',
      ' g+0x9/0xb',
      `WARNING: kernel stack frame pointer at ${hex(at + 0x20n)} in t:100 has bad value ${hex(0x4141n)}`,
      `unwind stack type:0 next_sp:${hex(0n)} mask:0x2 graph_idx:0`,
      `${hex(at)}: ${hex(at + 0x20n)} (0x${hex(at + 0x20n)})`,
      `${hex(at + 8n)}: ${hex(f + 9n)} (f+0x9/0xb)`,
      `${hex(at + 0x10n)}: ${hex(0n)} ...`,
      `${hex(at + 0x20n)}: ${hex(0x4141n)} (0x4141)`,
      `${hex(at + 0x28n)}: ${hex(g + 9n)} (g+0x9/0xb)`,
      `${hex(at + 0x30n)}: ${hex(0n)} ...`,
      ' </TASK>',
    ]);
    expect(trace(machine, { ip: leaf, sp: at, bp: at }).slice(4)).toEqual([' </TASK>']);
  });

  test.each([
    ['to itself', 0n],
    ['to the word above it', 8n],
    ['downwards', -0x10n],
  ])('a frame that leads %s breaks the chain', (_, distance) => {
    const machine = frameMachine();
    const { leaf, f } = machine;
    store(machine, SP + 0x20n, [SP + 0x20n + distance, f + 9n, f + 9n]);
    const lines = trace(machine, { ip: leaf, sp: SP, bp: SP + 0x20n });
    expect(lines.slice(2, 4)).toEqual([
      ' f+0x9/0xb',
      expect.stringMatching(/^WARNING: kernel stack frame pointer/),
    ]);
  });

  test('registers whose frame pointer is bad say so', () => {
    const machine = frameMachine();
    const { leaf, g } = machine;
    const regs = SP + 0x20n;
    store(machine, SP, [regs | 1n, g + 9n, 0n, 0n, ...regsWords({ ip: leaf, sp: SP + 0x100n, bp: 0x10n })]);
    const warnings = trace(machine, { ip: leaf, sp: SP, bp: SP }).filter((line) =>
      line.startsWith('WARNING'),
    );
    const hex = (value: bigint): string => value.toString(16).padStart(16, '0');
    expect(warnings).toEqual([
      `WARNING: kernel stack regs at ${hex(regs)} in t:100 has bad 'bp' value ${hex(0x10n)}`,
    ]);
  });

  test('who was interrupted in entry code is not complained about', () => {
    const machine = frameMachine();
    const { leaf, g } = machine;
    const entry = entryCode(machine, 'asm_exc_page_fault', 0x700, 0x30);
    const regs = SP + 0x20n;
    store(machine, SP, [regs | 1n, g + 9n, 0n, 0n, ...regsWords({ ip: entry, sp: SP + 0x100n, bp: 0x10n })]);
    const lines = trace(machine, { ip: leaf, sp: SP, bp: SP });
    expect(lines.filter((line) => line.startsWith('WARNING'))).toEqual([]);
  });

  test('from user mode there is nothing to walk', () => {
    const machine = frameMachine();
    store(machine, SP, [0n, machine.g + 9n]);
    expect(trace(machine, { ip: machine.leaf, cs: 0x33n, sp: SP, bp: SP })[2]).toBe(' ? g+0x9/0xb');
  });
});
