import { describe, expect, test } from '@jest/globals';
import { SIGSEGV, VM_READ } from '../kernel.js';
import { aboutToStore, CODE, outcome, USER, vma } from './fake-faults.js';
import { HOLE, STACK, STACK_TOP, TEXT, testMachine } from './testing.js';

describe('the frame of the exception', () => {
  test('lies on the stack in use, aligned, with RF set and orig_ax -1', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.kernel.answers.arena = true;
    machine.set({ rsp: STACK_TOP - 0x207n, r15: 0x1515n, rflags: 0x246n });
    machine.miss(HOLE, 'write');
    // (rsp & ~15) - 168, across the boundary of two pages or not.
    const frame = machine.mmu.peek(STACK_TOP - 0x210n - 168n);
    const word = (offset: number): bigint => machine.ram.readU64(frame + offset);
    expect([0, 80, 112, 120, 128, 136, 144, 152, 160].map(word)).toEqual([
      0x1515n,
      0x4141n,
      HOLE,
      0xffffffffffffffffn,
      CODE,
      0x10n,
      0x10246n,
      STACK_TOP - 0x207n,
      0x18n,
    ]);
    expect(machine.cpu.read('rflags')).toBe(0x246n);
  });

  test('may cross a page whose neighbour is somewhere else', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.map(STACK + 0x1000n, 0x8000000000210163n);
    machine.kernel.answers.arena = true;
    machine.set({ rsp: STACK + 0x2040n, r15: 0x1515n });
    machine.miss(HOLE, 'write');
    expect(machine.ram.readU64(machine.mmu.peek(STACK + 0x2040n - 168n))).toBe(0x1515n);
    expect(machine.ram.readU64(machine.mmu.peek(STACK + 0x2040n - 8n))).toBe(0x18n);
  });

  test('goes to the top of the task stack from user mode', () => {
    const machine = testMachine();
    machine.cpu.setPrivilege('user');
    machine.kernel.answers.vma = vma(VM_READ);
    machine.set({ rip: USER, rsp: 0x7fff0000n });
    machine.miss(USER, 'fetch');
    const pa = machine.mmu.peek(STACK_TOP - 168n);
    expect(machine.ram.readU64(pa + 136)).toBe(0x33n);
    expect(machine.ram.readU64(pa + 152)).toBe(0x7fff0000n);
    expect(machine.ram.readU64(pa + 160)).toBe(0x2bn);
  });
});

describe('the own stack', () => {
  test('a write to its guard page is told as such', () => {
    const machine = testMachine();
    aboutToStore(machine);
    expect(outcome(machine.miss(STACK - 8n, 'write'))).toMatchObject({ kind: 'oops', signal: SIGSEGV });
    expect(machine.console().slice(0, 2)).toEqual([
      'BUG: TASK stack guard page was hit at ffffc900001ffff8 (stack is ffffc90000200000..ffffc90000204000)',
      'Oops: stack guard page: 0000 [#1] SMP NOPTI',
    ]);
    expect(machine.entered()).not.toContain('kfence_handle_page_fault');
  });

  test('a stack pointer in the guard page cannot take the frame: double fault', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.set({ rsp: STACK - 0x20n });
    expect(outcome(machine.miss(STACK - 0x28n, 'write'))).toMatchObject({ kind: 'panic' });
    expect(machine.events('fault').map(({ exception }) => exception)).toEqual(['#PF', '#DF']);
    expect(machine.console()[0]).toContain('BUG: TASK stack guard page was hit at ffffc900001fffd8 ');
    expect(machine.console().at(-1)).toBe('Kernel panic - not syncing: Fatal exception in interrupt');
  });

  test('a frame that would cross into the guard page writes nothing', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.set({ rsp: STACK + 0x40n });
    machine.miss(HOLE, 'write');
    expect(machine.ram.readU64(machine.mmu.peek(STACK + 0x38n))).toBe(0n);
    expect(machine.cpu.read('cr2')).toBe(STACK - 8n);
  });
});

describe('non-canonical addresses', () => {
  const BAD = 0x800000000000n;

  test('raise #GP, or #SS through the stack segment, and leave CR2 alone', () => {
    const machine = testMachine();
    // mov rax, [rdi]; mov rax, [rbp]
    machine.text('leaf', 0x100, [0x48, 0x8b, 0x07, 0x48, 0x8b, 0x45, 0x00], 0x10);
    machine.set({ rip: CODE, rdi: BAD, cr2: 0x1234n });
    machine.mmu.refresh();
    expect(outcome(machine.miss(BAD, 'read'))).toMatchObject({ kind: 'oops', signal: SIGSEGV });
    machine.set({ rip: CODE + 3n, rbp: BAD });
    expect(outcome(machine.miss(BAD, 'read'))).toMatchObject({ kind: 'oops', signal: SIGSEGV });
    expect(machine.events('fault').map(({ exception, code }) => [exception, code])).toEqual([
      ['#GP', 0n],
      ['#SS', 0n],
    ]);
    expect(machine.cpu.read('cr2')).toBe(0x1234n);
    const oopses = machine.console().filter((line) => line.startsWith('Oops: '));
    expect(oopses).toEqual([
      'Oops: general protection fault, probably for non-canonical address 0x800000000000: 0000 [#1] SMP NOPTI',
      'Oops: stack segment: 0000 [#2] SMP NOPTI',
    ]);
    expect(machine.console().join('\n')).not.toContain('irqs disabled');
  });

  test('take the fixup, which does not warn', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.fixup({ insn: CODE, type: 'UACCESS', fixup: CODE + 0x80n });
    expect(machine.miss(BAD, 'write')).toMatchObject({ how: 'fixup', pc: CODE + 0x80n });
    expect(machine.console()).toEqual([]);
  });

  test('as stack pointer are a double fault', () => {
    const machine = testMachine();
    // push rax
    machine.text('leaf', 0x100, [0x50], 0x10);
    machine.set({ rip: CODE, rsp: BAD + 0x100n });
    expect(outcome(machine.miss(BAD + 0xf8n, 'write'))).toMatchObject({ kind: 'panic' });
    expect(machine.console().slice(0, 2)).toEqual([
      'traps: PANIC: double fault, error_code: 0x0',
      'Oops: double fault: 0000 [#1] SMP NOPTI',
    ]);
  });
});

describe('stops that are no exception of the laboratory', () => {
  test('end the run and say what it was', () => {
    const { here } = testMachine();
    const end = (stop: Parameters<typeof here.arch.handleStop>[1]): unknown =>
      here.arch.handleStop(here, stop)[Symbol.iterator]().next().value;
    expect(end({ kind: 'halt' })).toMatchObject({ how: 'end', outcome: { kind: 'stopped', pc: TEXT } });
    expect(end({ kind: 'exception', number: 0 })).toMatchObject({
      outcome: { why: 'exception 0 (#DE divide error) is not modelled' },
    });
  });
});
