/**
 * What the test kernels of both architectures share: stand-ins for the parts of kernel/ and mm/ that say how a
 * fault of a user task ends. They know of signal_pending what those parts make of it, and nothing else.
 */
import { type Path, port } from '../emu/path.js';
import type { ThisCpu } from './arch.js';
import { KERN_WARNING, type pt_regs, SI_KERNEL, SIGKILL, TaskDead, type task_struct } from './kernel.js';

const KILLED = { kind: 'signal', signo: SIGKILL, code: 0, address: 0n } as const;

export class FakeEndings {
  machine: object | null = null;

  unhandled_signal({ pid, signal_pending }: task_struct): boolean {
    return pid === 1 || signal_pending !== 'fatal';
  }
  force_sig_fault(
    { current }: ThisCpu,
    signo: number,
    code: number,
    address: bigint,
    ...pkey: number[]
  ): never {
    if (current.signal_pending === 'fatal') throw new TaskDead(KILLED);
    const signal = { kind: 'signal', signo, code, address } as const;
    throw new TaskDead(pkey[0] === undefined ? signal : { ...signal, pkey: pkey[0] });
  }
  force_sig(here: ThisCpu, signo: number): never {
    return this.force_sig_fault(here, signo, SI_KERNEL, 0n);
  }
  readonly exit_to_user_mode_loop = port(
    'exit_to_user_mode_loop',
    ['regs'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* ({ current }: ThisCpu, { instruction_pointer: pc }: pt_regs): Path<void> {
      if (current.signal_pending === 'none') return;
      if (current.signal_pending === 'fatal') throw new TaskDead(KILLED);
      throw new TaskDead({ kind: 'stopped', why: 'a signal is delivered', pc });
    },
  );
  pagefault_out_of_memory(here: ThisCpu): void {
    if (here.current.signal_pending === 'fatal') return;
    if (!here.kernel.___ratelimit(here, 'pfoom_rs', 'pagefault_out_of_memory')) return;
    const text = 'Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF';
    here.kernel.printk(here, KERN_WARNING, text);
  }
}
