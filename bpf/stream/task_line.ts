/** The CPU line of stack dumps: bpf_stream_stage_dump_stack() of kernel/bpf/stream.c (bpf-next merge 8496d9020ff3). */
import type { ThisCpu } from '../../arch/arch.js';
import { utf8 } from './stream.js';

/** The CPU line of a dump, kept as long as the same task runs on the same CPU. */
export class TaskLine {
  readonly element: Uint8Array;
  constructor(
    readonly cpu: number,
    readonly uid: number,
    readonly pid: number,
    readonly comm: string,
  ) {
    this.element = utf8(`CPU: ${cpu} UID: ${uid | 0} PID: ${pid} Comm: ${comm}\n`);
  }
}

/** The line for the task that runs now; `last` when that still says it. */
export function taskLine(here: ThisCpu, last: TaskLine | null): TaskLine {
  const { uid, pid, comm } = here.current;
  const { id } = here.cpu;
  if (last !== null && last.cpu === id && last.uid === uid && last.pid === pid && last.comm === comm) {
    return last;
  }
  return new TaskLine(id, uid, pid, comm);
}
