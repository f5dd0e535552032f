/** Rate limits as code asks for them: include/linux/ratelimit.h and printk_ratelimit() of kernel/printk/printk.c. */
import type { ThisCpu } from '../arch.js';

/** __ratelimit(): may a message be printed? `state` names the ratelimit_state, `func` is who asks. */
export function __ratelimit(here: ThisCpu, state: string, func: string): boolean {
  return here.kernel.___ratelimit(here, state, func);
}

/** printk_ratelimit(), whose state all its callers share. `func` is the caller. */
export function printk_ratelimit(here: ThisCpu, func: string): boolean {
  return __ratelimit(here, 'printk_ratelimit_state', func);
}
