/** unwind_start() of arch/x86/include/asm/unwind.h, bpf-next merge 8496d9020ff3: picks the unwinder that is built in. */
import type { ThisCpu } from '../arch.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import type { X86PtRegs } from './regs.js';
import type { TraceUnwinder } from './unwind.js';
import { FrameUnwinder } from './unwind_frame.js';

/**
 * Starts a walk from registers, behind their own frame: with ORC at the caller of the interrupted code, with
 * frame pointers at the first frame above the stack pointer. Another walk with ORC ends this one.
 */
export function unwind_start(here: ThisCpu, regs: X86PtRegs): TraceUnwinder {
  if (here.kernel.config.UNWINDER === 'frame_pointer') return new FrameUnwinder(here, regs);
  const { unwinder } = machineOf(here);
  unwinder.start(here, mmuOf(here), regs);
  unwinder.next();
  return unwinder;
}
