/**
 * Port of kernel/bpf/stream.c (bpf-next merge 8496d9020ff3), part 2: what the kernel reports to a program. Texts
 * are staged one by one and committed together, all or nothing.
 *
 * Nobody can tell a report that is stored as what it says from one that is stored as text, unless a text of it
 * is lost: then it is staged here as the kernel does it.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { type Path, port } from '../../emu/path.js';
import { ENOMEM } from '../../kernel/errno.js';
import type { BpfEnv } from '../env.js';
import { nothingFails } from '../failures.js';
import { type bpf_prog, main_prog } from '../program.js';
import { bpf_put_buffers, bpf_try_get_buffers, MAX_BPRINTF_NEST_LEVEL } from './bprintf.js';
import type { DumpSide, StackDump } from './stack_dump.js';
import { bpf_stream_stage_commit, noElement, type StreamPart, stageElement, utf8 } from './stream.js';
import { type TaskLine, taskLine } from './task_line.js';

/** struct bpf_stream_stage */
export class bpf_stream_stage implements StreamPart {
  readonly log: Uint8Array[] = [];
  len = 0;
  elements(): readonly Uint8Array[] {
    return this.log;
  }
}

/** True when a text that is staged now may be lost. */
export function mayLoseText(here: ThisCpu, env: BpfEnv): boolean {
  return env.allocationFails !== nothingFails || env.bprintf.level(here.cpu.id) >= MAX_BPRINTF_NEST_LEVEL;
}

/** bpf_stream_stage_printk(): 0, -EBUSY, or -ENOMEM with the length counted all the same. */
export function bpf_stream_stage_printk(
  here: ThisCpu,
  env: BpfEnv,
  ss: bpf_stream_stage,
  text: Uint8Array,
): number {
  const err = bpf_try_get_buffers(here, env);
  if (err !== 0) return err;
  ss.len += text.length;
  const element = noElement(env, text.length) ? null : stageElement(text);
  if (element !== null) ss.log.push(element);
  bpf_put_buffers(here, env);
  return element === null ? -ENOMEM : 0;
}

/** bpf_stream_stage_dump_stack(): ends at the first text that is lost, with its error. */
function stageDump(
  here: ThisCpu,
  env: BpfEnv,
  ss: bpf_stream_stage,
  task: TaskLine,
  dump: StackDump,
): number {
  let err = bpf_stream_stage_printk(here, env, ss, task.element);
  let left = dump.len;
  for (const element of dump.elements) {
    if (err !== 0) return err;
    left -= element.length;
    err = bpf_stream_stage_printk(here, env, ss, element);
  }
  // What the dump counts and does not have is the line that was too long for an element, and its last.
  if (err === 0) ss.len += left;
  return err;
}

/** A report printk by printk: what is lost of its first texts does not keep the dump from following. */
export function stageReport(
  here: ThisCpu,
  env: BpfEnv,
  texts: readonly Uint8Array[],
  task: TaskLine,
  dump: StackDump,
): bpf_stream_stage {
  const ss = new bpf_stream_stage();
  for (const text of texts) bpf_stream_stage_printk(here, env, ss, text);
  stageDump(here, env, ss, task, dump);
  return ss;
}

/** Texts and the stack dump behind them, nothing of which can be lost. */
class Report implements StreamPart {
  readonly len: number;
  constructor(
    readonly texts: readonly Uint8Array[],
    readonly task: TaskLine,
    readonly dump: StackDump,
  ) {
    this.len = texts.reduce((sum, { length }) => sum + length, task.element.length + dump.len);
  }
  elements(): readonly Uint8Array[] {
    return [...this.texts, this.task.element, ...this.dump.elements];
  }
}

/** The current task's line and the dump of its stack. */
export function taskAndDump(here: ThisCpu, env: BpfEnv, side: DumpSide): { task: TaskLine; dump: StackDump } {
  const task = taskLine(here, env.taskLine);
  env.taskLine = task;
  return { task, dump: env.dumps.bpf_stream_stage_dump_stack(here, side) };
}

/**
 * bpf_stream_stage(): texts of the kernel and a stack dump, to a stream of a program's main program. Nobody
 * hears of what fails.
 * @param texts one printk each, not too long for an element
 */
export const bpf_stream_stage_report = port(
  'bpf_stream_stage',
  ['env', 'prog', 'stream_id', 'texts', 'side'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    prog: bpf_prog,
    stream_id: number,
    texts: readonly string[],
    side: DumpSide,
  ): Path<void> {
    const { task, dump } = taskAndDump(here, env, side);
    const bytes = texts.map(utf8);
    const part = mayLoseText(here, env)
      ? stageReport(here, env, bytes, task, dump)
      : new Report(bytes, task, dump);
    const err = bpf_stream_stage_commit(here, main_prog(prog), stream_id, part);
    yield* here.trace.decide('bpf_stream_stage_commit', 'bpf_stream_consume_capacity(stream, ss->len)', err);
  },
);
