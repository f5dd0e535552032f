/**
 * The end of tasks and machines: vpanic(), __warn() and WARN_ONCE() of kernel/panic.c, make_task_dead() of
 * kernel/exit.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: kdump, kgdb, PF_EXITING, rate limits, panic_print.
 *
 * The site of a WARN is host code here: it has no registers of its own. Of its show_regs() only the CPU
 * line and its followers are printed; the lines with registers, code and call trace are not.
 */
import type { ThisCpu } from '../arch/arch.js';
import { KERN_DEFAULT, KERN_EMERG, KERN_INFO, KERN_WARNING, TaskDead } from '../arch/kernel.js';
import type { ConsoleLog } from './printk.js';
import { Taints } from './taint.js';

/** What oops reports begin with, on both architectures; of several, the first in the report is its title. */
const OOPS_TITLE = /^(BUG: (?!KFENCE)|kernel BUG at |Unable to handle kernel |Oops: |Internal error: )/;

/** Counters and flags about failures since boot, and what ends a task. */
export class Panic {
  readonly taints: Taints;
  /** die counter: the `[#%d]` of the latest oops. */
  die_counter = 0;
  oops_count = 0;
  /** Nothing runs on this machine any more. */
  panicked = false;
  /** Warnings and reports since boot that kernel.warn_limit counts. */
  warn_count = 0;
  /** panic_notifier_list: who wants to be told of a panic, in the order of their registration. */
  readonly panic_notifier_list: ((here: ThisCpu) => void)[] = [];
  readonly #console: ConsoleLog;
  readonly #seen = new Set<string>();
  /** Console records that earlier deaths account for. */
  #reported = 0;

  /** @param taint letters of the flags that are set at boot */
  constructor(console: ConsoleLog, taint = '') {
    this.#console = console;
    this.taints = new Taints(taint);
  }

  /** Prints the end of the machine and ends the run with outcome `panic`. */
  panic(here: ThisCpu, text: string): never {
    const { kernel, arch } = here;
    const { panic_timeout } = kernel.config;
    const title = `Kernel panic - not syncing: ${text}`;
    kernel.printk(here, KERN_EMERG, title);
    // A report has shown the stack already.
    if (!this.taints.test_taint('D') && arch.show_stack !== null) {
      kernel.dump_stack_print_info(here, KERN_DEFAULT);
      arch.show_stack(here, KERN_DEFAULT);
    }
    arch.smp_send_stop?.(here);
    for (const notify of this.panic_notifier_list) notify(here);
    for (const line of arch.panicNotifierLines(here)) kernel.printk(here, line.level, line.text);
    if (panic_timeout > 0) kernel.printk(here, KERN_EMERG, `Rebooting in ${panic_timeout} seconds..`);
    // With any timeout but 0 the machine restarts here.
    if (panic_timeout === 0) kernel.printk(here, KERN_EMERG, `---[ end ${title} ]---`);
    this.#reported = this.#console.records.length;
    this.panicked = true;
    throw new TaskDead({ kind: 'panic', title });
  }

  /** Panics when a warning, or a report of `origin`, is to be the end of the machine. */
  check_panic_on_warn(here: ThisCpu, origin: string): void {
    const { panic_on_warn, warn_limit } = here.kernel.config;
    if (panic_on_warn) this.panic(here, `${origin}: panic_on_warn set ...`);
    this.warn_count += 1;
    if (warn_limit !== 0 && this.warn_count >= warn_limit) {
      this.panic(here, `${origin}: system warned too often (kernel.warn_limit is ${warn_limit})`);
    }
  }

  /** Ends the run with outcome `oops`: the task is gone, or the machine is (panic). */
  make_task_dead(here: ThisCpu, signr: number): never {
    const { kernel, current, arch } = here;
    const { oops_limit } = kernel.config;
    if (current.in_interrupt > 0) this.panic(here, 'Aiee, killing interrupt handler!');
    if (current.pid === 0) this.panic(here, 'Attempted to kill the idle task!');
    if (arch.irqs_disabled(here)) {
      kernel.printk(here, KERN_INFO, `note: ${current.comm}[${current.pid}] exited with irqs disabled`);
    }
    if (current.preempt_count !== 0) {
      const note = `note: ${current.comm}[${current.pid}] exited with preempt_count ${current.preempt_count}`;
      kernel.printk(here, KERN_INFO, note);
      current.preempt_count = 0;
    }
    this.oops_count += 1;
    if (oops_limit !== 0 && this.oops_count >= oops_limit) {
      this.panic(here, `Oopsed too often (kernel.oops_limit is ${oops_limit})`);
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
    this.check_panic_on_warn(here, 'kernel');
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
