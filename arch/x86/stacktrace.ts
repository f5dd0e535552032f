/**
 * arch_bpf_stack_walk() of arch/x86/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. Left out: nothing;
 * the handlers' own frames, with which the kernel's walk begins, are not in ram and so not visited.
 */
import type { StackVisitor, TextFunction, ThisCpu } from '../arch.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { entryHints } from './orc-entry-code.js';
import { X86PtRegs } from './regs.js';

/**
 * Walks outwards from the registers of the exception being handled, the interrupted code first, up to the
 * first address that is no kernel text. Outside of an exception there is nothing to walk. Only the ORC
 * unwinder can do it: built with another one, the function's body is empty.
 */
export function arch_bpf_stack_walk(here: ThisCpu, visit: StackVisitor): void {
  const { regs } = here;
  if (here.kernel.config.UNWINDER !== 'orc' || !(regs instanceof X86PtRegs)) return;
  const { unwinder } = machineOf(here);
  unwinder.start(here, mmuOf(here), regs);
  while (!unwinder.done) {
    const address = unwinder.returnAddress;
    if (address === null || !visit(address, unwinder.spAddress, unwinder.bpValue)) return;
    unwinder.next();
  }
}

/** What arch_bpf_stack_walk() comes to. Walks once for each exception, as long as nobody can intervene. */
export function stackAddresses(here: ThisCpu): readonly bigint[] {
  const { regs } = here;
  if (here.kernel.config.UNWINDER !== 'orc' || !(regs instanceof X86PtRegs)) return [];
  if (regs.stack !== null && !here.trace.pausing) return regs.stack;
  regs.stack = machineOf(here).unwinder.addresses(here, mmuOf(here), regs);
  return regs.stack;
}

/** What the image is filled with where host code stands in for its functions: int3. */
const FILLER = 0xcc;

/**
 * Takes a function of kernel text into the unwinder's tables. One without code has none, unless it is entry
 * code, of which is known where it keeps the registers.
 */
export function addUnwindInfo(here: ThisCpu, fn: TextFunction): void {
  const { orc } = machineOf(here);
  const hints = fn.code[0] === FILLER ? entryHints(fn.name) : [];
  // Nothing of it touches the stack, as far as the places go that something returns to.
  const code = hints.length === 0 ? fn.code : new Uint8Array(fn.code.length).fill(NOP);
  orc.add({ ...fn, code }, hints);
}

const NOP = 0x90;
