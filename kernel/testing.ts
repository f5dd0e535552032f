/** What tests of kernel/ and mm/ share: a CPU without an engine, under a kernel made of the real parts. */
import type { Arch, ThisCpu } from '../arch/arch.js';
import { KERN_EMERG, type Kernel, type task_struct } from '../arch/kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../arch/kernel-config.js';
import { EventLog } from '../emu/events.js';
import { Trace } from '../emu/path.js';
import { Clock } from './clock.js';
import { dump_stack_print_info, print_modules } from './dump_stack.js';
import { Panic } from './panic.js';
import { ConsoleLog } from './printk.js';
import { createTask } from './task.js';

export interface TestCpu {
  readonly here: ThisCpu;
  readonly log: EventLog;
  readonly console: ConsoleLog;
  readonly clock: Clock;
  readonly panic: Panic;
  readonly task: task_struct;
  /** What its TLB and its walker were told, in order: `flush <va>`, `flush all`, `unpin <va>`, `unpin all`. */
  readonly tlb: string[];
}

export interface TestCpuOptions {
  readonly id?: number;
  readonly config?: Partial<KernelConfig>;
  /** Letters of the taint at boot. */
  readonly taint?: string;
  readonly arch?: Partial<Arch>;
  /** Parts of ThisCpu and of Kernel that a test brings itself. */
  readonly here?: Partial<ThisCpu>;
  readonly kernel?: Partial<Kernel>;
}

export function testCpu(options: TestCpuOptions = {}): TestCpu {
  const { id = 0 } = options;
  const log = new EventLog();
  const clock = new Clock();
  const console = new ConsoleLog(clock);
  const panic = new Panic(console, options.taint);
  const tlb: string[] = [];
  const kernel: Partial<Kernel> = {
    config: { ...DEFAULT_CONFIG, ...options.config },
    printk: (here, level, text) => console.printk(here, level, text),
    add_taint: (letter) => panic.taints.add_taint(letter),
    print_tainted: () => panic.taints.print_tainted(),
    print_tainted_verbose: () => panic.taints.print_tainted_verbose(),
    dump_stack_print_info: (here, level) => dump_stack_print_info(here, level),
    print_modules: (here) => print_modules(here),
    warn: (here, site, at, text) => panic.warn(here, site, at, text),
    once: (site) => panic.once(site),
    search_exception_tables: () => null,
    ...options.kernel,
  };
  const task = createTask({
    comm: 't',
    pid: 100,
    mm: { name: 'test', pgd: 0 },
    stack: 0xffff_c900_0000_0000n,
    stackSize: 16384,
  });
  const arch: Partial<Arch> = {
    hardwareName: null,
    irqs_disabled: () => false,
    panicNotifierLines: () => [{ level: KERN_EMERG, text: 'Kernel Offset: disabled' }],
    show_stack: null,
    ...options.arch,
  };
  const here = {
    cpu: {
      id,
      flushTlbPage: (va: bigint) => tlb.push(`flush ${va.toString(16)}`),
      flushTlb: () => tlb.push('flush all'),
    },
    mmu: { unpin: (va: bigint | null) => tlb.push(`unpin ${va === null ? 'all' : va.toString(16)}`) },
    trace: new Trace(id, log),
    kernel,
    arch,
    current: task,
    regs: null,
    ...options.here,
  } as unknown as ThisCpu;
  return { here, log, clock, console, panic, task, tlb };
}
