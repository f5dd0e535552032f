import { describe, expect, test } from '@jest/globals';
import { kthread, raise, signal, userCode } from './fake-tasks.js';
import { arm64 } from './index.js';
import { STACK, TEXT, USER_TEXT } from './testing.js';

/** An ESR of a class, IL = 1. */
const esr = (ec: number): bigint => (BigInt(ec) << 26n) | (1n << 25n);
const hex16 = (value: bigint): string => value.toString(16).padStart(16, '0');

describe('exceptions from EL1', () => {
  test.each([
    ['undefined instruction', 0x00, 'el1_undef', 'Oops - Undefined instruction'],
    ['system register', 0x18, 'el1_undef', 'Oops - Undefined instruction'],
    ['branch target', 0x0d, 'el1_bti', 'Oops - BTI'],
    ['guarded control stack', 0x2d, 'el1_gcs', 'Oops - GCS'],
    ['pointer authentication', 0x1c, 'el1_fpac', 'Oops - FPAC'],
    ['misaligned pc', 0x22, 'el1_pc', 'SP/PC alignment exception'],
  ])('%s: %#x goes to %s and dies', (_, ec, handler, str) => {
    const machine = kthread();
    const title = `Internal error: ${str}: ${hex16(esr(ec))} [#1]  SMP`;
    expect(raise(machine, esr(ec), TEXT)).toMatchObject({ how: 'dead', outcome: { kind: 'oops', title } });
    expect(machine.path().slice(0, 2)).toEqual(['el1h_64_sync_handler', handler]);
    expect(machine.kernel.console).toContain(`pc : 0x${TEXT.toString(16)}`);
  });

  test.each([
    ['misaligned sp', 0x26, 'SP Alignment'],
    ['abort from another level', 0x24, 'DABT (lower EL)'],
    ['SVC', 0x15, 'SVC (AArch64)'],
    ['SError', 0x2f, 'SError'],
    ['a class that nobody knows', 0x3f, 'UNRECOGNIZED EC'],
  ])('%s: nobody handles it, and the kernel panics', (_, ec, name) => {
    const machine = kthread();
    expect(raise(machine, esr(ec), 0n)).toEqual({
      how: 'dead',
      outcome: { kind: 'panic', title: 'Unhandled exception' },
    });
    const { console, levels } = machine.kernel;
    expect(console[0]).toBe(
      `Unhandled 64-bit el1h sync exception on CPU0, ESR 0x${hex16(esr(ec))} -- ${name}`,
    );
    expect(levels[0]).toBe(2);
    // The registers follow at once: no Mem abort info, no trace, no code.
    expect(console[1]).toMatch(/^CPU: 0 /);
    expect(console.at(-1)).toMatch(/^x2 : /);
  });

  test.each([0x27, 0x31, 0x33, 0x35, 0x3c])('class %#x is not modelled, and that is said', (ec) => {
    expect(raise(kthread(), esr(ec), 0n)).toMatchObject({
      outcome: { kind: 'stopped', why: expect.stringMatching(/this class of exception is not modelled$/) },
    });
  });
});

describe('exceptions from EL0', () => {
  test.each<readonly [string, number, string, readonly [number, number, bigint]]>([
    ['misaligned pc', 0x22, 'el0_pc', [7, 1, 0x1002n]],
    ['misaligned sp, which is the address', 0x26, 'el0_sp', [7, 1, 0x7f00_0000_0000n]],
    ['undefined instruction', 0x00, 'el0_undef', [4, 1, USER_TEXT]],
    ['branch target', 0x0d, 'el0_bti', [4, 1, USER_TEXT]],
    ['pointer authentication', 0x1c, 'el0_fpac', [4, 2, USER_TEXT]],
    ['a class that cannot come from EL0', 0x25, 'el0_inv', [4, 1, USER_TEXT]],
  ])('%s', (_, ec, handler, [signo, code, address]) => {
    const machine = userCode();
    expect(raise(machine, esr(ec), 0x1002n)).toEqual(signal(signo, code, address));
    expect(machine.path().slice(0, 2)).toEqual(['el0t_64_sync_handler', handler]);
  });

  test.each([0x15, 0x01, 0x18, 0x07, 0x2c, 0x19, 0x1d, 0x27, 0x2d, 0x30, 0x32, 0x34, 0x3c])(
    'class %#x is not modelled, and that is said',
    (ec) => {
      expect(raise(userCode(), esr(ec), 0n)).toMatchObject({ outcome: { kind: 'stopped' } });
    },
  );

  test('the syndrome is told for pointer authentication only', () => {
    const told = (ec: number): bigint => {
      const machine = userCode();
      raise(machine, esr(ec), 0n);
      return machine.mmu.syndrome.fault_code;
    };
    expect([told(0x00), told(0x0d), told(0x1c)]).toEqual([0n, 0n, esr(0x1c)]);
  });

  test('the log names what nobody handles', () => {
    const machine = userCode(undefined, { show_unhandled_signals: true });
    raise(machine, esr(0x25), 0n);
    expect(machine.kernel.console[0]).toBe(
      'kfault[42]: unhandled exception: DABT (current EL), ESR 0x0000000096000000, Bad EL0 synchronous exception',
    );
  });
});

test('an exception that the host asks for is told like any other', () => {
  const machine = kthread();
  raise(machine, 0x9600_0050n, 0x1234n);
  expect(machine.find('fault')).toMatchObject({
    exception: 'Data Abort',
    address: 0x1234n,
    code: 0x9600_0050n,
    access: 'write',
    pc: TEXT,
  });
  expect(machine.cpu.read('far_el1')).toBe(0x1234n);
});

test('without room on the stack: the three stacks, the registers, and a panic', () => {
  const machine = kthread();
  machine.cpu.write('sp', STACK + 0x100n);
  expect(raise(machine, 0x9600_0047n, STACK - 8n)).toEqual({
    how: 'dead',
    outcome: { kind: 'panic', title: 'kernel stack overflow' },
  });
  const { console, levels } = machine.kernel;
  expect(console.slice(0, 6)).toEqual([
    'Insufficient stack space to handle exception!',
    'ESR: 0x0000000096000047 -- DABT (current EL)',
    'FAR: 0xffff800081007ff8',
    'Task stack:     [0xffff800081008000..0xffff80008100c000]',
    'IRQ stack:      [0xffff800080f00000..0xffff800080f04000]',
    'Overflow stack: [0xffff800080f80000..0xffff800080f81000]',
  ]);
  expect(levels.slice(0, 6)).toEqual(Array(6).fill(0));
  expect(console[6]).toMatch(/^CPU: 0 /);
  expect(arm64.layout.THREAD_SIZE).toBe(0x4000);
});
