import { describe, expect, test } from '@jest/globals';
import { KERN_ALERT, KERN_DEFAULT, KERN_EMERG, TaskDead } from '../arch/kernel.js';
import { Taints } from './taint.js';
import { type TestCpu, type TestCpuOptions, testCpu } from './testing.js';

/** Runs what does not return and gives the outcome of the run that it ends. */
function death(body: () => never): unknown {
  try {
    return body();
  } catch (thrown) {
    if (thrown instanceof TaskDead) return thrown.outcome;
    throw thrown;
  }
}

function dying(options: TestCpuOptions = {}): TestCpu {
  const cpu = testCpu(options);
  cpu.here.kernel.printk(cpu.here, KERN_DEFAULT, 'something before');
  cpu.here.kernel.printk(
    cpu.here,
    KERN_ALERT,
    'BUG: unable to handle page fault for address: ffffc90000401008',
  );
  cpu.here.kernel.printk(cpu.here, KERN_DEFAULT, 'Oops: Oops: 0002 [#1] SMP NOPTI');
  return cpu;
}

describe('taint', () => {
  test('is one character for each of 20 flags, G where P is not set', () => {
    const taints = new Taints();
    expect(taints.print_tainted()).toBe('Not tainted');
    expect(taints.print_tainted_verbose()).toBeNull();
    taints.add_taint('W');
    expect(taints.print_tainted()).toBe(`Tainted: G${' '.repeat(8)}W${' '.repeat(10)}`);
    taints.add_taint('D');
    expect(taints.print_tainted_verbose()).toBe('Tainted: [D]=DIE, [W]=WARN');
    for (const letter of 'PFSRMBUACIOELKXTNJ') taints.add_taint(letter);
    expect(taints.print_tainted()).toBe('Tainted: PFSRMBUDAWCIOELKXTNJ');
  });

  test('refuses a letter that no flag has', () => {
    expect(() => new Taints().add_taint('Z')).toThrow(RangeError);
  });
});

describe('CPU line', () => {
  test('is the one of the worked example, with its blank at the end', () => {
    const { here, console } = testCpu();
    here.kernel.dump_stack_print_info(here, KERN_DEFAULT);
    expect(console.records).toEqual([
      {
        level: KERN_DEFAULT,
        text: 'CPU: 0 UID: 0 PID: 100 Comm: t Not tainted 7.1.0-rc5 #1 PREEMPT(full) ',
      },
    ]);
  });

  test('is followed by the taint in words and the hardware, and takes the first word of the version', () => {
    const { here, console } = testCpu({
      config: { version: '#7 SMP Thu May 28' },
      hardwareName: 'linux,dummy-virt (DT)',
    });
    here.current.uid = -1;
    here.kernel.add_taint('D');
    here.kernel.dump_stack_print_info(here, KERN_DEFAULT);
    expect(console.lines()).toEqual([
      `CPU: 0 UID: 4294967295 PID: 100 Comm: t Tainted: G${' '.repeat(6)}D${' '.repeat(12)} 7.1.0-rc5 #7 PREEMPT(full) `,
      'Tainted: [D]=DIE',
      'Hardware name: linux,dummy-virt (DT)',
    ]);
  });
});

describe('make_task_dead', () => {
  test('kills the task; the title is the first line of the report', () => {
    const { here, console, panic } = dying();
    const before = console.records.length;
    expect(death(() => panic.make_task_dead(here, 9))).toEqual({
      kind: 'oops',
      title: 'BUG: unable to handle page fault for address: ffffc90000401008',
      signal: 9,
    });
    expect(console.records.length).toBe(before);
  });

  test('notes disabled interrupts and a raised preempt count, which it resets', () => {
    const { here, console, panic } = dying({ panic: { irqs_disabled: () => true } });
    here.current.preempt_count = 2;
    const before = console.records.length;
    death(() => panic.make_task_dead(here, 9));
    expect(console.linesWithLevels(before)).toEqual([
      '<6>note: t[100] exited with irqs disabled',
      '<6>note: t[100] exited with preempt_count 2',
    ]);
    expect(here.current.preempt_count).toBe(0);
  });

  test.each([
    [
      'in interrupt context',
      (cpu: TestCpu) => (cpu.task.in_interrupt = 1),
      'Aiee, killing interrupt handler!',
    ],
    ['in the idle task', (cpu: TestCpu) => (cpu.task.pid = 0), 'Attempted to kill the idle task!'],
    ['in init', (cpu: TestCpu) => (cpu.task.pid = 1), 'Attempted to kill init! exitcode=0x00000009'],
  ])('panics %s', (_, prepare, text) => {
    const cpu = dying();
    prepare(cpu);
    const before = cpu.console.records.length;
    expect(death(() => cpu.panic.make_task_dead(cpu.here, 9))).toEqual({
      kind: 'panic',
      title: `Kernel panic - not syncing: ${text}`,
    });
    expect(cpu.console.records.slice(before)).toEqual([
      { level: KERN_EMERG, text: `Kernel panic - not syncing: ${text}` },
      { level: KERN_EMERG, text: 'Kernel Offset: disabled' },
      { level: KERN_EMERG, text: `---[ end Kernel panic - not syncing: ${text} ]---` },
    ]);
  });

  test('panics at the limit of oopses', () => {
    const { here, panic } = dying({ panic: { oops_limit: 2 } });
    expect(death(() => panic.make_task_dead(here, 9))).toMatchObject({ kind: 'oops' });
    expect(death(() => panic.make_task_dead(here, 9))).toEqual({
      kind: 'panic',
      title: 'Kernel panic - not syncing: Oopsed too often (kernel.oops_limit is 2)',
    });
  });
});

test('a WARN prints its banner with the taint as it was, and taints afterwards', () => {
  const { here, console } = testCpu({ id: 3 });
  here.kernel.warn(
    here,
    'arch/arm64/mm/fault.c:417',
    '__do_kernel_fault+0x1e4/0x2c0',
    'Ignoring spurious fault',
  );
  expect(console.linesWithLevels()).toEqual([
    '<4>------------[ cut here ]------------',
    '<4>Ignoring spurious fault',
    '<4>WARNING: arch/arm64/mm/fault.c:417 at __do_kernel_fault+0x1e4/0x2c0, CPU#3: t/100',
    '<4>Modules linked in:',
    '<4>CPU: 3 UID: 0 PID: 100 Comm: t Not tainted 7.1.0-rc5 #1 PREEMPT(full) ',
    '<4>---[ end trace 0000000000000000 ]---',
  ]);
  expect(here.kernel.print_tainted()).toBe(`Tainted: G${' '.repeat(8)}W${' '.repeat(10)}`);
});

test('once() is true for each place once', () => {
  const { panic } = testCpu();
  expect([panic.once('a'), panic.once('b'), panic.once('a')]).toEqual([true, true, false]);
});
