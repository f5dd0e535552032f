/**
 * The way back to user mode: exit_to_user_mode_loop() of kernel/entry/common.c, bpf-next merge 8496d9020ff3.
 *
 * Left out: the other kinds of work (rescheduling, uprobes, live patching, task work), which nothing here asks for.
 */
import type { ThisCpu } from '../arch/arch.js';
import { type pt_regs, TaskDead } from '../arch/kernel.js';
import { type Path, port } from '../emu/path.js';
import { killed } from './signal.js';

/** A signal that waits is delivered on the way back to user mode. */
export const exit_to_user_mode_loop = port(
  'exit_to_user_mode_loop',
  ['regs'],
  function* (here: ThisCpu, regs: pt_regs): Path<void> {
    const { signal_pending } = here.current;
    const pending = signal_pending !== 'none';
    if (!(yield* here.trace.decide('exit_to_user_mode_loop', 'ti_work & _TIF_SIGPENDING', pending))) return;
    // A fatal signal is SIGKILL once it is pending; of what another one would do, nothing is known.
    if (signal_pending === 'fatal') throw killed();
    throw new TaskDead({ kind: 'stopped', why: 'a signal is delivered', pc: regs.instruction_pointer });
  },
);
