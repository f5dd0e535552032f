/** What the steps about BPF programs ask of a machine. See machine.ts. */

import type { RunOutcome } from '../../emu/events.js';
import type { Delegate } from '../../emu/path.js';

/** A read from a stream: BPF_PROG_STREAM_READ_BY_FD. */
export interface StreamRead {
  /** Name of the program; null for a file descriptor that is none of a program. */
  readonly program: string | null;
  readonly stream_id: bigint;
  readonly length: bigint;
  /** User address of the buffer; null for one that takes everything. */
  readonly buf: bigint | null;
}

/** BPF programs of a machine. */
export interface BpfMachine {
  /**
   * BPF_PROG_TEST_RUN. Throws a StepRefusal when the program was not loaded.
   * @param ctx address of the context, 0n for none
   */
  testRun(cpu: number, program: string, ctx: bigint): Delegate<RunOutcome>;
  /** What the latest run returned: a u32. */
  returned(cpu: number): bigint;
  /** The BPF instruction that the native code at `pc` belongs to, as the verifier's log prints it; null if none. */
  instructionAt(pc: bigint): string | null;
  /** Return value of the system call, and the text of what it has read. */
  streamRead(cpu: number, read: StreamRead): Delegate<{ readonly ret: bigint; readonly text: string }>;
}
