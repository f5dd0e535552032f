/**
 * Out of memory: pagefault_out_of_memory() of mm/oom_kill.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: the killer itself, and memory cgroups. Nobody is killed here, the instruction is tried again.
 */
import type { ThisCpu } from '../arch/arch.js';
import { KERN_WARNING } from '../arch/kernel.js';

export function pagefault_out_of_memory(here: ThisCpu): void {
  if (here.current.signal_pending === 'fatal') return;
  const { kernel } = here;
  if (!kernel.___ratelimit(here, 'pfoom_rs', 'pagefault_out_of_memory')) return;
  kernel.printk(here, KERN_WARNING, 'Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF');
}
