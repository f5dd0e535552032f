/** The stack of a panic that no oops came before: show_stack(). */
import { expect, test } from '@jest/globals';
import { KERN_DEFAULT } from '../kernel.js';
import { clearStack, store } from './fake-stack.js';
import { x86 } from './index.js';
import { X86_TRAP_GP } from './processor.js';
import { HOLE, SENTINEL, STACK_TOP, TEXT, type TestMachine, testMachine } from './testing.js';

const LEAF = TEXT + 0x100n;
const SP = STACK_TOP - 0x110n;
const zero = '0000000000000000';

/** A machine in `leaf`, which returns into `caller`, which returns to the sentinel. */
function inLeaf(): TestMachine {
  const machine = testMachine();
  machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3], 0x10);
  machine.text('caller', 0x200, [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3]);
  machine.kernel.symbols.push({ name: 'entry', start: SENTINEL - 0x1an, size: 0x30, bpf: false });
  clearStack(machine);
  store(machine, SP, [TEXT + 0x209n, TEXT + 0x105n, SENTINEL]);
  machine.set({ rip: LEAF, rsp: SP, rflags: 0x246n, rdi: HOLE, rax: 0n, rbp: 0n });
  return machine;
}

/** What show_stack() prints while somebody in a handler asks for it. */
function inHandler(machine: TestMachine, fault: () => void): string[] {
  let lines: string[] = [];
  const { kernel } = machine;
  kernel.search_exception_tables = () => {
    machine.log.events.length = 0;
    x86.show_stack?.(machine.here, KERN_DEFAULT);
    lines = machine.console();
    return null;
  };
  fault();
  return lines;
}

const REGISTERS = [
  'RIP: 0010:leaf+0x0/0x10',
  expect.stringMatching(/^Code: .*<48> 89 07 c3/),
  'RSP: 0018:ffffc90000203ef0 EFLAGS: 00010246',
  `RAX: ${zero} RBX: ${zero} RCX: ${zero}`,
  `RDX: ${zero} RSI: ${zero} RDI: ffffc90000401008`,
  `RBP: ${zero} R08: ${zero} R09: ${zero}`,
  expect.stringMatching(/^R10: /),
  `R13: ${zero} R14: ${zero} R15: ${zero}`,
];
const PANIC = [' dump_stack_lvl+0x5d/0x80', ' vpanic+0x11e/0x310', ' panic+0x5b/0x60'];
const REST = [' caller+0x9/0xe', ' ? leaf+0x5/0x10', ' entry+0x1a/0x30', ' </TASK>'];

test('the entry, the registers of the exception, and what it came out of', () => {
  const machine = inLeaf();
  expect(inHandler(machine, () => machine.miss(HOLE, 'write'))).toEqual([
    'Call Trace:',
    ' <TASK>',
    ...PANIC,
    ' exc_page_fault+0xdd/0x1d0',
    ' asm_exc_page_fault+0x26/0x30',
    ...REGISTERS,
    ...REST,
  ]);
});

test('saved registers are part of the stack, but ip is no second line', () => {
  const machine = inLeaf();
  machine.set({ r10: TEXT + 0x203n });
  const lines = inHandler(machine, () => machine.miss(HOLE, 'write'));
  expect(lines.slice(-5)).toEqual([' ? caller+0x3/0xe', ...REST]);
});

test('of another exception', () => {
  const machine = inLeaf();
  const lines = inHandler(machine, () => machine.raise(X86_TRAP_GP, 0));
  expect(lines.slice(5, 7)).toEqual([
    expect.stringMatching(/^ exc_general_protection\+/),
    expect.stringMatching(/^ asm_exc_general_protection\+/),
  ]);
});

test('outside of an exception: the code that runs', () => {
  const machine = inLeaf();
  x86.show_stack?.(machine.here, KERN_DEFAULT);
  expect(machine.console()).toEqual(['Call Trace:', ' <TASK>', ...PANIC, ...REST]);
});
