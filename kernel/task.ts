/** Tasks: the part of task_struct that a fault looks at. */
import type { mm_struct, task_struct } from '../arch/kernel.js';

export interface TaskOptions {
  /** At most 15 bytes (TASK_COMM_LEN); longer names are cut, as the kernel does. */
  readonly comm: string;
  readonly pid: number;
  readonly uid?: number;
  /** Null for a kernel thread, which borrows `active_mm`. */
  readonly mm: mm_struct | null;
  /** For a kernel thread: the address space it runs in; usually init_mm. Otherwise `mm`. */
  readonly active_mm?: mm_struct;
  /** Lowest address of the kernel stack. */
  readonly stack: bigint;
  /** THREAD_SIZE */
  readonly stackSize: number;
  /** A signal that waits for it; none if left out. */
  readonly signal_pending?: task_struct['signal_pending'];
}

export const TASK_COMM_LEN = 16;

/** A task that runs with page faults on, in task context, preemptible. */
export function createTask(options: TaskOptions): task_struct {
  const { comm, pid, uid = 0, mm, stack, stackSize } = options;
  const active_mm = mm ?? options.active_mm;
  if (active_mm === undefined) throw new Error(`task ${comm}: a kernel thread needs an active_mm`);
  return {
    comm: cutComm(comm),
    pid,
    uid,
    mm,
    active_mm,
    stack,
    stackSize,
    pagefault_disabled: 0,
    in_interrupt: 0,
    preempt_count: 0,
    signal_pending: options.signal_pending ?? 'none',
  };
}

/** The pid of a CPU's task: counted from that of CPU 0, or from a list, which counts on behind its end. */
export function pidOfCpu(pid: number | readonly number[], cpu: number): number {
  if (typeof pid === 'number') return pid + cpu;
  const last = Math.min(cpu, pid.length - 1);
  return (pid[last] ?? 0) + cpu - last;
}

function cutComm(comm: string): string {
  const bytes = new TextEncoder().encode(comm);
  if (bytes.length < TASK_COMM_LEN) return comm;
  return new TextDecoder().decode(bytes.slice(0, TASK_COMM_LEN - 1));
}
