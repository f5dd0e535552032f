/**
 * Reports of arena violations: port of __bpf_prog_report_arena_violation() and
 * bpf_prog_report_arena_violation() of kernel/bpf/arena.c (bpf-next merge 8496d9020ff3).
 *
 * A report is stored as what it says, not as text; see stream.ts. Left out: nothing.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { toSigned, u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import { bpf_arena_get_user_vm_start, clear_lo32 } from '../arena/arena_struct.js';
import type { BpfEnv } from '../env.js';
import { type bpf_prog, main_prog } from '../program.js';
import type { StackDump } from './stack_dump.js';
import { BPF_STDERR, bpf_stream_stage_commit, type StreamPart, utf8 } from './stream.js';
import { mayLoseText, stageReport, taskAndDump } from './stream_stage.js';
import type { TaskLine } from './task_line.js';

const WORDS = 'ERROR: Arena  access at unmapped address 0x\n'.length;

/** One report on a program's stderr. */
export class ArenaViolation implements StreamPart {
  readonly len: number;

  /** @param addr as it is printed: the address user space knows */
  constructor(
    readonly write: boolean,
    readonly addr: bigint,
    readonly task: TaskLine,
    readonly dump: StackDump,
  ) {
    this.len = WORDS + (write ? 5 : 4) + hexDigits(addr) + task.element.length + dump.len;
  }

  /** The line that says what happened. */
  get first(): Uint8Array {
    const access = this.write ? 'WRITE' : 'READ';
    return utf8(`ERROR: Arena ${access} access at unmapped address 0x${this.addr.toString(16)}\n`);
  }

  elements(): readonly Uint8Array[] {
    return [this.first, this.task.element, ...this.dump.elements];
  }
}

/** Digits that `%lx` prints. */
export function hexDigits(value: bigint): number {
  const number = toSigned(value);
  // Not exact, or the sign is bit 63.
  if (!(number >= 0)) return value.toString(16).length;
  const high = Math.floor(number / 0x100000000);
  return high === 0 ? bits32ToDigits(number) : 8 + bits32ToDigits(high);
}

function bits32ToDigits(value: number): number {
  return value === 0 ? 1 : (35 - Math.clz32(value)) >> 2;
}

/**
 * Reports on the stderr of `prog`'s main program. A full stream drops the report and changes nothing else.
 * @param addr offset from the start of the arena's 4 GiB band; may lie outside of it
 */
export const __bpf_prog_report_arena_violation = port(
  '__bpf_prog_report_arena_violation',
  ['env', 'prog', 'write', 'addr', 'fault_ip'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    prog: bpf_prog,
    write: boolean,
    addr: bigint,
    _fault_ip: bigint,
    side: 'kernel' | 'prog',
  ): Path<void> {
    const main = main_prog(prog);
    const user = u64(addr + clear_lo32(bpf_arena_get_user_vm_start(main.aux.arena)));
    const { task, dump } = taskAndDump(here, env, side);
    const report = new ArenaViolation(write, user, task, dump);
    const part = mayLoseText(here, env) ? stageReport(here, env, [report.first], task, dump) : report;
    const err = bpf_stream_stage_commit(here, main, BPF_STDERR, part);
    yield* here.trace.decide('bpf_stream_stage_commit', 'bpf_stream_consume_capacity(stream, ss->len)', err);
  },
);

/** Reports for the exception-table handler of BPF programs; nothing when `fault_ip` is in no program. */
export const bpf_prog_report_arena_violation = port(
  'bpf_prog_report_arena_violation',
  ['env', 'write', 'addr', 'fault_ip'],
  function* (here: ThisCpu, env: BpfEnv, write: boolean, addr: bigint, fault_ip: bigint): Path<void> {
    const prog = env.programs.bpf_prog_ksym_find(fault_ip);
    const name = prog === null ? null : prog.aux.name;
    yield* here.trace.decide('bpf_prog_report_arena_violation', 'prog', name);
    if (prog === null) return;
    yield* __bpf_prog_report_arena_violation(here, env, prog, write, addr, fault_ip, 'prog');
  },
);
