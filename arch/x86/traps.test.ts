import { describe, expect, test } from '@jest/globals';
import { SI_KERNEL, SIGBUS, SIGSEGV } from '../kernel.js';
import { CODE, outcome } from './fake-faults.js';
import { X86_TRAP_DF, X86_TRAP_GP, X86_TRAP_SS } from './processor.js';
import { STACK, TEXT, type TestMachine, testMachine } from './testing.js';

function about(bytes: readonly number[], config: Parameters<typeof testMachine>[0] = {}): TestMachine {
  const machine = testMachine(config);
  machine.text('leaf', 0x100, bytes, 0x10);
  machine.set({ rip: CODE });
  return machine;
}

/** mov rax, [rdi] */
const LOAD = [0x48, 0x8b, 0x07];

describe('the description of a general protection fault', () => {
  test.each([
    [
      'a non-canonical address',
      0,
      0xdead000000000100n,
      ', probably for non-canonical address 0xdead000000000100',
    ],
    [
      'the last byte of the lower half',
      0,
      0x7ffffffffff9n,
      ', probably for non-canonical address 0x7ffffffffff9',
    ],
    ['just below it', 0, 0x7ffffffffff8n, ', maybe for address 0x7ffffffffff8'],
    ['a kernel address', 0, 0xffff800000000000n, ', maybe for address 0xffff800000000000'],
    ['the first page', 0, 0x10n, ', kernel NULL pointer dereference 0x10'],
    ['an error code', 0x18, 0xdead000000000100n, null],
    ['-1, the error of the decoder', 0, 0xffffffffffffffffn, ''],
  ])('%s', (_what, error_code, rdi, hint) => {
    const machine = about(LOAD);
    machine.set({ rdi });
    expect(outcome(machine.raise(X86_TRAP_GP, error_code))).toMatchObject({ kind: 'oops', signal: SIGSEGV });
    const desc =
      hint === null ? 'segment-related general protection fault' : `general protection fault${hint}`;
    const code = error_code.toString(16).padStart(4, '0');
    expect(machine.console()[0]).toBe(`Oops: ${desc}: ${code} [#1] SMP NOPTI`);
    expect(machine.console().join('\n')).not.toMatch(/^BUG|#PF|irqs disabled/m);
  });

  test('gives no hint where the instruction addresses nothing or cannot be read', () => {
    // mov cr3, rax
    const machine = about([0x0f, 0x22, 0xd8]);
    machine.raise(X86_TRAP_GP, 0);
    const unread = about(LOAD);
    unread.set({ rip: TEXT + 0xffdn });
    unread.raise(X86_TRAP_GP, 0);
    const undecoded = about([0x06]);
    undecoded.raise(X86_TRAP_GP, 0);
    for (const { console: lines } of [machine, unread, undecoded]) {
      expect(lines()[0]).toBe('Oops: general protection fault: 0000 [#1] SMP NOPTI');
    }
  });

  test.each([
    [0xdffffc0000000001n, 'null-ptr-deref in range [0x0000000000000008-0x000000000000000f]'],
    [0xe00000000badbeefn, 'probably user-memory-access in range [0x000020005d6df778-0x000020005d6df77f]'],
    [0xfbd59c0000000020n, 'maybe wild-memory-access in range [0xdead000000000100-0xdead000000000107]'],
  ])('KASAN tells what %i is the shadow of', (rdi, text) => {
    const machine = about(LOAD, { KASAN: true });
    machine.set({ rdi });
    machine.raise(X86_TRAP_GP, 0);
    expect(machine.console()[1]).toBe(`KASAN: ${text}`);
    expect(machine.events('console')[1]?.level).toBe(1);
  });

  test('KASAN has nothing to say about addresses that are no shadow, or canonical', () => {
    for (const rdi of [0x800000000000n, 0xffff800000000000n]) {
      const machine = about(LOAD, { KASAN: true });
      machine.set({ rdi });
      machine.raise(X86_TRAP_GP, 0);
      expect(machine.console().some((line) => line.startsWith('KASAN'))).toBe(false);
    }
  });
});

describe('interrupts', () => {
  test('are on again in #GP and #SS if they were on', () => {
    for (const [rflags, note] of [
      [0x202n, false],
      [0x2n, true],
    ] as const) {
      for (const vector of [X86_TRAP_GP, X86_TRAP_SS]) {
        const machine = about(LOAD);
        machine.set({ rflags });
        machine.raise(vector, 0);
        expect(machine.console().at(-1) === 'note: t[100] exited with irqs disabled').toBe(note);
      }
    }
  });
});

describe('user code', () => {
  test.each([
    [X86_TRAP_GP, SIGSEGV, 'traps: t[100] general protection fault ip:400000 sp:7ffe0000 error:18'],
    [X86_TRAP_SS, SIGBUS, 'traps: t[100] trap stack segment ip:400000 sp:7ffe0000 error:18'],
  ])('gets a signal for exception %i', (vector, signo, text) => {
    for (const show of [true, false]) {
      const machine = testMachine({ show_unhandled_signals: show });
      machine.cpu.setPrivilege('user');
      machine.set({ rip: 0x400000n, rsp: 0x7ffe0000n });
      expect(outcome(machine.raise(vector, 0x18))).toEqual({
        kind: 'signal',
        signo,
        code: SI_KERNEL,
        address: 0n,
      });
      expect(machine.console()).toEqual(show ? [text] : []);
    }
  });
});

describe('a stack fault of the kernel', () => {
  test('takes the fixup', () => {
    const machine = about(LOAD);
    machine.fixup({ insn: CODE, type: 'DEFAULT', fixup: CODE + 0x80n });
    expect(machine.raise(X86_TRAP_SS, 0)).toMatchObject({ how: 'fixup', pc: CODE + 0x80n });
  });
});

describe('a double fault', () => {
  test('names the guard page that CR2 lies in, wherever the stack is', () => {
    const machine = about(LOAD);
    machine.mmu.setCr2(STACK - 1n);
    expect(outcome(machine.raise(X86_TRAP_DF, 0))).toMatchObject({ kind: 'panic' });
    expect(machine.console()[0]).toBe(
      'BUG: TASK stack guard page was hit at ffffc900001fffff (stack is ffffc90000200000..ffffc90000204000)',
    );
  });

  test('without VMAP_STACK is one like any other', () => {
    const machine = about(LOAD, { VMAP_STACK: false });
    machine.mmu.setCr2(STACK - 1n);
    machine.raise(X86_TRAP_DF, 0);
    expect(machine.console().slice(0, 2)).toEqual([
      'traps: PANIC: double fault, error_code: 0x0',
      'Oops: double fault: 0000 [#1] SMP NOPTI',
    ]);
  });
});

describe('exceptions that are not modelled', () => {
  test('end the run', () => {
    expect(about(LOAD).raise(6, 0)).toMatchObject({
      how: 'end',
      outcome: { kind: 'stopped', why: 'exception 6 (#UD invalid opcode) is not modelled' },
    });
    expect(about(LOAD).stop({ kind: 'invalid-instruction' })).toMatchObject({
      how: 'end',
      outcome: { kind: 'stopped', why: 'exception 6 (#UD invalid opcode) is not modelled' },
    });
    expect(about(LOAD).stop({ kind: 'exception', number: 13 })).toMatchObject({
      how: 'end',
      outcome: { kind: 'stopped', why: expect.stringContaining('for non-canonical addresses only') },
    });
  });
});
