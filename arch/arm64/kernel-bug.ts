/**
 * BUG() in code of the kernel that is host code here: report_bug() of lib/bug.c and bug_brk_handler() of
 * arch/arm64/kernel/traps.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: the registers of the place and the trace from there, which host code does not have. Of
 * __show_regs() the CPU line with its followers and the pc line are printed.
 */
import type { ThisCpu } from '../arch.js';
import { KERN_CRIT, KERN_DEFAULT, KERN_EMERG, KERN_WARNING, SIGSEGV } from '../kernel.js';

/** ESR_EL1 of `brk #0x800`, BUG_BRK_IMM. */
const ESR_BUG = '00000000f2000800';
const STR = 'Oops - BUG';

/**
 * Ends the task, or the machine.
 * @param site `file:line`
 * @param at what %pS says about the place
 */
export function die_bug(here: ThisCpu, site: string, at: string): never {
  const { kernel, current } = here;
  kernel.printk(here, KERN_DEFAULT, '------------[ cut here ]------------');
  kernel.printk(here, KERN_CRIT, `kernel BUG at ${site}!`);
  kernel.die_counter += 1;
  const smp = kernel.config.SMP ? ' SMP' : '';
  kernel.printk(here, KERN_EMERG, `Internal error: ${STR}: ${ESR_BUG} [#${kernel.die_counter}] ${smp}`);
  kernel.print_modules(here);
  kernel.dump_stack_print_info(here, KERN_DEFAULT);
  kernel.printk(here, KERN_DEFAULT, `pc : ${at}`);
  kernel.add_taint('D');
  kernel.printk(here, KERN_WARNING, '---[ end trace 0000000000000000 ]---');
  if (current.in_interrupt > 0) kernel.panic(here, `${STR}: Fatal exception in interrupt`);
  if (kernel.config.panic_on_oops) kernel.panic(here, `${STR}: Fatal exception`);
  return kernel.make_task_dead(here, SIGSEGV);
}
