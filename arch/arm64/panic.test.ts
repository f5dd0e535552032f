import { expect, test } from '@jest/globals';
import { ACCESS_READ } from '../../emu/cpu.js';
import { arm64 } from './index.js';
import { K, STACK, TEXT, TestMachine } from './testing.js';

test('what panic() prints of the machine; other CPUs are stopped where there are any', () => {
  const { here, kernel } = new TestMachine();
  const lines = [
    { level: 0, text: 'Kernel Offset: disabled' },
    { level: 0, text: expect.stringMatching(/^CPU features: 0x[0-9a-f]{4}(,[0-9a-f]{8}){3}$/) },
    { level: 0, text: 'Memory Limit: none' },
  ];
  const stopped: unknown[] = [];
  const printk = (_: unknown, level: number, text: string): number => stopped.push({ level, text });
  for (const num_online_cpus of [1, 2]) {
    Object.assign(kernel, { num_online_cpus, printk });
    arm64.smp_send_stop?.(here);
    expect(stopped).toEqual(
      num_online_cpus === 1 ? [] : [{ level: 2, text: 'SMP: stopping secondary CPUs' }],
    );
    expect(arm64.panicNotifierLines(here)).toEqual(lines);
  }
});

test('the stack of a panic begins with the handlers', () => {
  const machine = new TestMachine();
  machine.kernel.panic = (here): never => {
    arm64.show_stack?.(here, 4);
    throw new Error('panicked');
  };
  const raise = (): unknown =>
    machine.stop({ kind: 'raised', number: 0, syndrome: 0x9a00_0000n, address: 0n });
  expect(raise).toThrow('panicked');
  const { console } = machine.kernel;
  expect(console.slice(console.indexOf('Call trace:'))).toEqual([
    'Call trace:',
    ' show_stack+0x18/0x24 (C)',
    ' dump_stack_lvl+0x60/0x80',
    ' dump_stack+0x18/0x24',
    ' vpanic+0x168/0x360',
    ' panic+0x58/0x5c',
    ' __panic_unhandled+0x60/0x60',
    ' el1h_64_sync_handler+0x94/0x108',
    ' el1h_64_sync+0x6c/0x70',
    ` 0x${TEXT.toString(16)} (P)`,
  ]);
  const quiet = new TestMachine();
  arm64.show_stack?.(quiet.here, 4);
  expect(quiet.kernel.console).toEqual([]);
});

test('a stack that overflowed: the handlers run on the overflow stack', () => {
  const machine = new TestMachine();
  machine.cpu.write('sp', STACK + 0x100n);
  machine.kernel.panic = (here): never => {
    arm64.show_stack?.(here, 4);
    throw new Error('panicked');
  };
  expect(() => machine.stop({ kind: 'raised', number: 0, syndrome: 0x9600_0047n, address: 0n })).toThrow();
  const { console } = machine.kernel;
  expect(console.slice(console.indexOf(' panic+0x58/0x5c') + 1)).toEqual([
    ' add_taint+0x0/0xbc',
    ' panic_bad_stack+0x108/0x120',
    ' handle_bad_stack+0x34/0x40',
    ' __bad_stack+0x80/0x84',
    ` 0x${TEXT.toString(16)} (P)`,
  ]);
});

/** From do_bad_area() out to the code that faulted. */
const ENTRY = [
  'do_bad_area',
  'do_translation_fault',
  'do_mem_abort',
  'el1_abort',
  'el1h_64_sync_handler',
  'el1h_64_sync',
  `0x${TEXT.toString(16)}`,
];

/** Names of the functions behind panic(), and which of them stand for registers. */
function behindPanic(machine: TestMachine): { names: string[]; registers: string[] } {
  machine.kernel.panic = (here): never => {
    arm64.show_stack?.(here, 4);
    throw new Error('panicked');
  };
  expect(() => machine.miss(K, ACCESS_READ)).toThrow('panicked');
  const { console } = machine.kernel;
  const frames = console.slice(console.indexOf(' panic+0x58/0x5c') + 1);
  const name = (frame: string): string => frame.trim().replace(/[+ ].*/, '');
  return { names: frames.map(name), registers: frames.filter((frame) => frame.endsWith(' (P)')).map(name) };
}

test.each([
  ['a report', { panic_on_warn: true }, ['check_panic_on_warn', 'kfence_report_error']],
  ['one report too many', { warn_limit: 3 }, ['check_panic_on_warn', 'kfence_report_error']],
  ['kfence.fault=panic', {}, []],
])('KFENCE panics because of %s: in the handler of the fault', (_, config, frames) => {
  const machine = new TestMachine(config);
  machine.kernel.answers.kfence = () => machine.kernel.panic(machine.here, 'enough');
  expect(behindPanic(machine)).toEqual({
    names: [...frames, 'kfence_handle_page_fault', '__do_kernel_fault', ...ENTRY],
    registers: [`0x${TEXT.toString(16)}`],
  });
});

test('a warning about a spurious fault that is the end: the exception of the BRK is on the stack, too', () => {
  const machine = new TestMachine();
  machine.kernel.search_exception_tables = () => {
    machine.map(K, 0x00e8_0000_0000_0703n);
    return null;
  };
  machine.kernel.warn = (here): never => machine.kernel.panic(here, 'enough');
  expect(behindPanic(machine)).toEqual({
    names: [
      'check_panic_on_warn',
      '__warn',
      '__report_bug',
      'report_bug',
      'bug_brk_handler',
      'call_el1_break_hook',
      'do_el1_brk64',
      'el1_brk64',
      'el1h_64_sync_handler',
      'el1h_64_sync',
      '__do_kernel_fault',
      ...ENTRY,
    ],
    registers: ['__do_kernel_fault', `0x${TEXT.toString(16)}`],
  });
});
