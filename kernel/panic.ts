/**
 * The end of tasks and machines: panic(), __warn() and WARN_ONCE() of kernel/panic.c, make_task_dead() of
 * kernel/exit.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: kdump, reboot, PF_EXITING, ratelimits, the stop of other CPUs (arm64 says so on the console),
 * the stack dump of a panic outside of an oops,
 * and in a WARN the registers and the trace of its own site, which is host code here: of show_regs() only
 * the CPU line and its followers are printed.
 */
import type { ThisCpu } from '../arch/arch.js';
import { KERN_DEFAULT, KERN_EMERG, KERN_INFO, KERN_WARNING, TaskDead } from '../arch/kernel.js';
import type { ConsoleLog } from './printk.js';
import { Taints } from './taint.js';

export interface PanicOptions {
  /** kernel.oops_limit; 0 is no limit. */
  readonly oops_limit?: number;
  /** irqs_disabled(): the state the exception leaves to make_task_dead(). */
  readonly irqs_disabled?: (here: ThisCpu) => boolean;
  /** What the panic notifiers of the architecture print, one line each. */
  readonly panicNotifiers?: readonly string[];
}

const OOPS_LIMIT = 10000;

/** What oops reports begin with, on both architectures; of several, the first in the report is its title. */
const OOPS_TITLE = /^(BUG: (?!KFENCE)|Unable to handle kernel |Oops: |Internal error: )/;

/** Counters and flags about failures since boot, and what ends a task. */
export class Panic {
  readonly taints = new Taints();
  /** die counter: the `[#%d]` of the latest oops. */
  die_counter = 0;
  oops_count = 0;
  readonly #console: ConsoleLog;
  readonly #oopsLimit: number;
  readonly #irqsDisabled: (here: ThisCpu) => boolean;
  readonly #panicNotifiers: readonly string[];
  readonly #seen = new Set<string>();
  /** Console records that earlier deaths account for. */
  #reported = 0;

  constructor(console: ConsoleLog, options: PanicOptions = {}) {
    this.#console = console;
    this.#oopsLimit = options.oops_limit ?? OOPS_LIMIT;
    this.#irqsDisabled = options.irqs_disabled ?? (() => false);
    this.#panicNotifiers = options.panicNotifiers ?? ['Kernel Offset: disabled'];
  }

  /** Prints the end of the machine and ends the run with outcome `panic`. */
  panic(here: ThisCpu, text: string): never {
    const { kernel } = here;
    const title = `Kernel panic - not syncing: ${text}`;
    kernel.printk(here, KERN_EMERG, title);
    for (const line of this.#panicNotifiers) kernel.printk(here, KERN_EMERG, line);
    kernel.printk(here, KERN_EMERG, `---[ end ${title} ]---`);
    this.#reported = this.#console.records.length;
    throw new TaskDead({ kind: 'panic', title });
  }

  /** Ends the run with outcome `oops`: the task is gone, or the machine is (panic). */
  make_task_dead(here: ThisCpu, signr: number): never {
    const { kernel, current } = here;
    if (current.in_interrupt > 0) this.panic(here, 'Aiee, killing interrupt handler!');
    if (current.pid === 0) this.panic(here, 'Attempted to kill the idle task!');
    if (this.#irqsDisabled(here)) {
      kernel.printk(here, KERN_INFO, `note: ${current.comm}[${current.pid}] exited with irqs disabled`);
    }
    if (current.preempt_count !== 0) {
      const note = `note: ${current.comm}[${current.pid}] exited with preempt_count ${current.preempt_count}`;
      kernel.printk(here, KERN_INFO, note);
      current.preempt_count = 0;
    }
    this.oops_count += 1;
    if (this.#oopsLimit !== 0 && this.oops_count >= this.#oopsLimit) {
      this.panic(here, `Oopsed too often (kernel.oops_limit is ${this.#oopsLimit})`);
    }
    if (current.pid === 1) {
      const exitcode = signr.toString(16).padStart(8, '0');
      this.panic(here, `Attempted to kill init! exitcode=0x${exitcode}`);
    }
    const title = this.#oopsTitle();
    this.#reported = this.#console.records.length;
    throw new TaskDead({ kind: 'oops', title, signal: signr });
  }

  /**
   * Prints the banner of a WARN and taints the kernel.
   * @param site `file:line`
   * @param at what %pS says about the place
   * @param text the message of WARN(), null for WARN_ON()
   */
  warn(here: ThisCpu, site: string, at: string, text: string | null): void {
    const { kernel, current } = here;
    kernel.printk(here, KERN_DEFAULT, '------------[ cut here ]------------');
    if (text !== null) kernel.printk(here, KERN_DEFAULT, text);
    const who = `CPU#${here.cpu.id}: ${current.comm}/${current.pid}`;
    kernel.printk(here, KERN_WARNING, `WARNING: ${site} at ${at}, ${who}`);
    kernel.print_modules(here);
    kernel.dump_stack_print_info(here, KERN_DEFAULT);
    kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
    kernel.add_taint('W');
  }

  /** True the first time it is asked about `site` since boot: the condition of WARN_ONCE and its kin. */
  once(site: string): boolean {
    if (this.#seen.has(site)) return false;
    this.#seen.add(site);
    return true;
  }

  /** First line of the report that is on the console since the last death; empty when there is none. */
  #oopsTitle(): string {
    const records = this.#console.records.slice(this.#reported);
    const report = records.find(({ text }) => OOPS_TITLE.test(text)) ?? records[0];
    return report?.text.split('\n', 1)[0] ?? '';
  }
}
