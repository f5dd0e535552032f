/** Runs the steps about BPF programs: BPF_PROG_TEST_RUN, and reads from streams. */

import type { RunOutcome } from '../../emu/events.js';
import type { Delegate } from '../../emu/path.js';
import type { StreamReadStep, TestRunStep } from '../format/schema-steps.js';
import type { Machine } from '../machine/machine.js';

export function testRun(machine: Machine, cpu: number, step: TestRunStep): Delegate<RunOutcome> {
  return machine.bpf.testRun(cpu, step.test_run, step.ctx?.value(machine.scope) ?? 0n);
}

export function streamRead(
  machine: Machine,
  cpu: number,
  { stream_read }: StreamReadStep,
): Delegate<{ readonly ret: bigint; readonly text: string }> {
  const { scope } = machine;
  const { program, stream_id, length, buf } = stream_read;
  return machine.bpf.streamRead(cpu, {
    program: program ?? null,
    stream_id: stream_id?.value(scope) ?? 2n,
    length: length?.value(scope) ?? 4096n,
    buf: buf?.value(scope) ?? null,
  });
}
