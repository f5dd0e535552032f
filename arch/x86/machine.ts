/** What this architecture keeps for a whole machine, beside the CPUs. */
import type { ThisCpu } from '../arch.js';
import type { task_struct } from '../kernel.js';
import { OrcTables } from './orc.js';
import { X86PtRegs } from './regs.js';
import { Unwinder } from './unwind_orc.js';

/** The part of struct thread_struct that exceptions write, and what belongs to the task's stack. */
export interface thread_struct {
  trap_nr: number;
  error_code: number;
  cr2: bigint;
  /** What PKRU holds while the task runs: the engine cannot tell. */
  pkru: number;
  /** The lowest word of the stack has got its magic number. */
  stackEndSet: boolean;
}

/** init_pkru_value, arch/x86/mm/pkeys.c: all keys but 0 forbid every access. */
const INIT_PKRU = 0x5555_5554;

export class X86Machine {
  readonly orc = new OrcTables();
  readonly unwinder = new Unwinder(this.orc);
  /** Registers of the first oops since boot, arch/x86/kernel/dumpstack.c; null before it. */
  exec_summary_regs: X86PtRegs | null = null;
  /** Where the first oops was, as %pS says it, when that was a BUG() of host code, which has no registers. */
  firstBug: string | null = null;
  readonly #threads = new WeakMap<task_struct, thread_struct>();

  /** task->thread */
  thread(task: task_struct): thread_struct {
    let thread = this.#threads.get(task);
    if (thread === undefined) {
      thread = { trap_nr: 0, error_code: 0, cr2: 0n, pkru: INIT_PKRU, stackEndSet: false };
      this.#threads.set(task, thread);
    }
    return thread;
  }

  keepFirstBug(at: string): void {
    this.firstBug = at;
    this.exec_summary_regs = null;
  }

  keepFirstOops(regs: X86PtRegs): void {
    this.exec_summary_regs = new X86PtRegs();
    this.exec_summary_regs.copyFrom(regs);
  }
}

/** What this architecture keeps for the machine of a CPU; made when it is first asked for. */
export function machineOf({ kernel }: ThisCpu): X86Machine {
  if (kernel.machine instanceof X86Machine) return kernel.machine;
  const machine = new X86Machine();
  kernel.machine = machine;
  return machine;
}
