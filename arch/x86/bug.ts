/** BUG() in ported code: include/asm-generic/bug.h and arch/x86/include/asm/bug.h. */
import type { ThisCpu } from '../arch.js';

/**
 * Ends the task, or the machine, as the kernel's ud2 does.
 * @param site `file:line`
 * @param at what %pS says about the place
 */
export function BUG(here: ThisCpu, site: string, at: string): never {
  return here.arch.die_bug(here, site, at);
}
