/** What tests of kernel/ and mm/ share: a CPU without an engine, under a kernel made of the real parts. */
import type { ThisCpu } from '../arch/arch.js';
import type { Kernel, task_struct } from '../arch/kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../arch/kernel-config.js';
import { EventLog } from '../emu/events.js';
import { Trace } from '../emu/path.js';
import { dump_stack_print_info, print_modules } from './dump_stack.js';
import { Panic, type PanicOptions } from './panic.js';
import { ConsoleLog } from './printk.js';
import { createTask } from './task.js';

export interface TestCpu {
  readonly here: ThisCpu;
  readonly log: EventLog;
  readonly console: ConsoleLog;
  readonly panic: Panic;
  readonly task: task_struct;
  /** What its TLB and its walker were told, in order: `flush <va>`, `flush all`, `unpin <va>`, `unpin all`. */
  readonly tlb: string[];
}

export interface TestCpuOptions {
  readonly id?: number;
  readonly config?: Partial<KernelConfig>;
  readonly panic?: PanicOptions;
  readonly hardwareName?: string;
  /** Parts of ThisCpu and of Kernel that a test brings itself. */
  readonly here?: Partial<ThisCpu>;
  readonly kernel?: Partial<Kernel>;
}

export function testCpu(options: TestCpuOptions = {}): TestCpu {
  const { id = 0 } = options;
  const log = new EventLog();
  const console = new ConsoleLog();
  const panic = new Panic(console, options.panic);
  const tlb: string[] = [];
  const kernel: Partial<Kernel> = {
    config: { ...DEFAULT_CONFIG, ...options.config },
    printk: (here, level, text) => console.printk(here, level, text),
    add_taint: (letter) => panic.taints.add_taint(letter),
    print_tainted: () => panic.taints.print_tainted(),
    print_tainted_verbose: () => panic.taints.print_tainted_verbose(),
    dump_stack_print_info: (here, level) => dump_stack_print_info(here, level, options.hardwareName),
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
  const here = {
    cpu: {
      id,
      flushTlbPage: (va: bigint) => tlb.push(`flush ${va.toString(16)}`),
      flushTlb: () => tlb.push('flush all'),
    },
    mmu: { unpin: (va: bigint | null) => tlb.push(`unpin ${va === null ? 'all' : va.toString(16)}`) },
    trace: new Trace(id, log),
    kernel,
    current: task,
    regs: null,
    ...options.here,
  } as unknown as ThisCpu;
  return { here, log, console, panic, task, tlb };
}
