/**
 * BUG() in code of the kernel that is host code here: report_bug() of lib/bug.c and the invalid-opcode
 * exception of arch/x86/kernel/traps.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: the registers of the place and the trace from there, which host code does not have. Of
 * show_regs() the CPU line with its followers and the RIP line are printed.
 */
import type { ThisCpu } from '../arch.js';
import { KERN_CRIT, KERN_DEFAULT, KERN_WARNING, SIGSEGV } from '../kernel.js';
import { printOopsLine, showSummary } from './dumpstack.js';
import { machineOf } from './machine.js';

/**
 * Ends the task, or the machine.
 * @param site `file:line`
 * @param at what %pS says about the place
 */
export function die_bug(here: ThisCpu, site: string, at: string): never {
  const { kernel, current } = here;
  kernel.printk(here, KERN_DEFAULT, '------------[ cut here ]------------');
  kernel.printk(here, KERN_CRIT, `kernel BUG at ${site}!`);
  if (kernel.die_counter === 0) machineOf(here).keepFirstBug(at);
  printOopsLine(here, 'invalid opcode', 0);
  kernel.dump_stack_print_info(here, KERN_DEFAULT);
  kernel.printk(here, KERN_DEFAULT, `RIP: 0010:${at}`);
  kernel.print_modules(here);
  kernel.add_taint('D');
  kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
  showSummary(here);
  if (current.in_interrupt > 0) kernel.panic(here, 'Fatal exception in interrupt');
  if (kernel.config.panic_on_oops) kernel.panic(here, 'Fatal exception');
  return kernel.make_task_dead(here, SIGSEGV);
}
