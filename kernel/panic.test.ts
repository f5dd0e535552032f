import { describe, expect, test } from '@jest/globals';
import { KERN_ALERT, KERN_CRIT, KERN_DEFAULT, KERN_EMERG, TaskDead } from '../arch/kernel.js';
import type { KernelConfig } from '../arch/kernel-config.js';
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

  test('may be there from the start', () => {
    expect(new Taints('OE').print_tainted_verbose()).toBe('Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE');
  });

  test('refuses a letter that no flag has', () => {
    expect(() => new Taints().add_taint('Z')).toThrow(RangeError);
  });
});

describe('CPU line', () => {
  test('is the one of the worked example, with its blank at the end', () => {
    const { here, console } = testCpu();
    here.kernel.dump_stack_print_info(here, KERN_DEFAULT);
    expect(console.linesWithLevels()).toEqual([
      '<4>CPU: 0 UID: 0 PID: 100 Comm: t Not tainted 7.1.0-rc5 #1 PREEMPT(full) ',
    ]);
  });

  test('is followed by the taint in words and the hardware, and takes the first word of the version', () => {
    const { here, console } = testCpu({
      config: { version: '#7 SMP Thu May 28' },
      arch: { hardwareName: 'linux,dummy-virt (DT)' },
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
    const { here, console, panic } = dying({ arch: { irqs_disabled: () => true } });
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
    expect(cpu.console.linesWithLevels(before)).toEqual([
      `<0>Kernel panic - not syncing: ${text}`,
      '<0>Kernel Offset: disabled',
      `<0>---[ end Kernel panic - not syncing: ${text} ]---`,
    ]);
  });

  test('panics at the limit of oopses', () => {
    const { here, panic } = dying({ config: { oops_limit: 2 } });
    expect(death(() => panic.make_task_dead(here, 9))).toMatchObject({ kind: 'oops' });
    expect(death(() => panic.make_task_dead(here, 9))).toEqual({
      kind: 'panic',
      title: 'Kernel panic - not syncing: Oopsed too often (kernel.oops_limit is 2)',
    });
  });
});

describe('panic', () => {
  const END = '---[ end Kernel panic - not syncing: Fatal exception ]---';

  test.each([
    ['stays with a timeout of 0', 0, [END]],
    ['says how long it waits, and restarts', 30, ['Rebooting in 30 seconds..']],
    ['restarts at once with a negative timeout', -1, []],
  ])('%s', (_, panic_timeout, last) => {
    const cpu = dying({ config: { panic_timeout } });
    const before = cpu.console.records.length;
    expect(death(() => cpu.panic.panic(cpu.here, 'Fatal exception'))).toEqual({
      kind: 'panic',
      title: 'Kernel panic - not syncing: Fatal exception',
    });
    expect(cpu.console.lines(before)).toEqual([
      'Kernel panic - not syncing: Fatal exception',
      'Kernel Offset: disabled',
      ...last,
    ]);
    expect(cpu.panic.panicked).toBe(true);
  });

  test('prints what the architecture says at its levels, and the stack unless a report has shown one', () => {
    const arch = {
      smp_send_stop: (here: TestCpu['here']) =>
        here.kernel.printk(here, KERN_CRIT, 'SMP: stopping secondary CPUs'),
      panicNotifierLines: () => [{ level: KERN_EMERG, text: 'Kernel Offset: disabled' }],
      show_stack: (here: TestCpu['here'], level: number) => here.kernel.printk(here, level, 'Call trace:'),
    };
    const lines = (taint: string): string[] => {
      const cpu = testCpu({ arch, taint });
      cpu.panic.panic_notifier_list.push((here) => here.kernel.printk(here, KERN_ALERT, 'notified'));
      death(() => cpu.panic.panic(cpu.here, 'kernel stack overflow'));
      return cpu.console.linesWithLevels();
    };
    expect(lines('')).toEqual([
      '<0>Kernel panic - not syncing: kernel stack overflow',
      '<4>CPU: 0 UID: 0 PID: 100 Comm: t Not tainted 7.1.0-rc5 #1 PREEMPT(full) ',
      '<4>Call trace:',
      '<2>SMP: stopping secondary CPUs',
      '<1>notified',
      '<0>Kernel Offset: disabled',
      '<0>---[ end Kernel panic - not syncing: kernel stack overflow ]---',
    ]);
    expect(lines('D').slice(0, 2)).toEqual([
      '<0>Kernel panic - not syncing: kernel stack overflow',
      '<2>SMP: stopping secondary CPUs',
    ]);
  });
});

describe('modules', () => {
  const lines = (config: Partial<KernelConfig>): string[] => {
    const { here, console } = testCpu({ config });
    here.kernel.print_modules(here);
    return console.lines();
  };

  test('are listed with their flags; without any the line is there, without CONFIG_MODULES it is not', () => {
    const modules = [
      { name: 'vfat', flags: '' },
      { name: 'nvidia', flags: 'POE' },
    ];
    expect(lines({ modules })).toEqual(['Modules linked in: vfat nvidia(POE)']);
    expect(lines({})).toEqual(['Modules linked in:']);
    expect(lines({ MODULES: false, modules })).toEqual([]);
  });

  test('go on in another record where the first is full, which begins with a blank', () => {
    const modules = Array.from({ length: 200 }, (_, i) => ({ name: `module${i + 100}`, flags: '' }));
    const [first = '', second = '', ...more] = lines({ modules });
    expect(first.length).toBeLessThanOrEqual(1023);
    expect(first.length).toBeGreaterThan(1012);
    expect(second).toMatch(/^ module/);
    expect(more).toHaveLength(0);
    const names = modules.map(({ name }) => ` ${name}`).join('');
    expect(`${first}${second}`).toBe(`Modules linked in:${names}`);
  });
});

test('a configured name of the hardware stands for that of the architecture, an empty one for none', () => {
  const shown = (hardware: string | null): string[] => {
    const { here, console } = testCpu({ config: { hardware }, arch: { hardwareName: 'of the arch' } });
    here.kernel.dump_stack_print_info(here, KERN_DEFAULT);
    return console.lines().slice(1);
  };
  expect([shown(null), shown('QEMU'), shown('')]).toEqual([
    ['Hardware name: of the arch'],
    ['Hardware name: QEMU'],
    [],
  ]);
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
