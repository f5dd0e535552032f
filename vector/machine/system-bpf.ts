/** BPF programs of a booted system as the steps of a fixture see them. */
import type { LoadedFunction } from '../../boot/load-bpf.js';
import type { System } from '../../boot/system.js';
import type { bpf_prog } from '../../bpf/program.js';
import {
  copy_to_user,
  type ProgStreamReadAttr,
  prog_stream_read,
  type StreamReaderProcess,
} from '../../bpf/stream/stream_read.js';
import { print_bpf_insn } from '../../bpf/text/disasm.js';
import type { Primitive, RunOutcome } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';
import { EBADF, EINVAL } from '../../kernel/errno.js';
import { StepRefusal } from './machine.js';
import type { BpfMachine, StreamRead } from './machine-bpf.js';

/** What a machine lends its programs. */
export interface SystemBpfParts {
  readonly system: System;
  readonly programs: ReadonlyMap<string, bpf_prog>;
  /** Functions of programs in BPF text. */
  readonly loaded: ReadonlyMap<string, LoadedFunction>;
  /** Programs that cannot sleep: sockets run them. */
  isSleepable(program: string): boolean;
  /** A run that cannot take place ends before its first instruction. */
  run(cpu: number, pc: bigint, run: () => Delegate<RunOutcome>): Delegate<RunOutcome>;
  /** Calls into the kernel from outside guest code. */
  hostCall(
    cpu: number,
    fn: string,
    args: Readonly<Record<string, Primitive>>,
    call: () => Delegate<number>,
  ): Delegate<bigint>;
}

export class SystemBpf implements BpfMachine {
  readonly #parts: SystemBpfParts;

  constructor(parts: SystemBpfParts) {
    this.#parts = parts;
  }

  testRun(cpu: number, program: string, ctx: bigint): Delegate<RunOutcome> {
    const { system, programs, isSleepable } = this.#parts;
    const prog = programs.get(program);
    if (prog === undefined) throw new StepRefusal(`program \`${program}\` is not loaded: it has no code`);
    const kind = isSleepable(program) ? 'syscall' : 'skb';
    return this.#parts.run(cpu, prog.bpf_func, () => system.testRun(cpu, prog, ctx, kind));
  }

  returned(cpu: number): bigint {
    const { system } = this.#parts;
    return BigInt.asUintN(32, system.register(cpu, system.arch.returnRegister));
  }

  instructionAt(pc: bigint): string | null {
    for (const { linked, prog } of this.#parts.loaded.values()) {
      const offset = pc - prog.bpf_func;
      if (offset < 0n || offset >= BigInt(prog.jited_len)) continue;
      const i = linked.addrs.findLastIndex((start) => BigInt(start) <= offset);
      if (i < 0 || i >= linked.insns.length) return null;
      return `${linked.origins[i] ?? '-'}: ${print_bpf_insn(linked.insns, i)}`;
    }
    return null;
  }

  *streamRead(cpu: number, read: StreamRead): Path<{ ret: bigint; text: string }> {
    const { system, programs, hostCall } = this.#parts;
    const { program, stream_id, length, buf } = read;
    const here = system.here(cpu);
    const taken: Uint8Array[] = [];
    const process: StreamReaderProcess = {
      bpf_prog_get: () => (program === null ? -EBADF : (programs.get(program) ?? -EINVAL)),
      copy_to_user: function* (_here, to, from): Path<number> {
        const left = buf === null ? 0 : yield* copy_to_user(here, to, from);
        taken.push(from.slice(0, from.length - left));
        return left;
      },
    };
    const attr: ProgStreamReadAttr = {
      stream_buf: buf ?? 0n,
      stream_buf_len: Number(BigInt.asUintN(32, length)),
      stream_id: Number(BigInt.asUintN(32, stream_id)),
      prog_fd: 3,
    };
    const args = { program, stream_id, len: attr.stream_buf_len };
    const ret = yield* hostCall(cpu, 'prog_stream_read', args, function* () {
      // The system call's own registers are what a fault of its copying would begin with.
      const outer = here.regs;
      here.regs = system.arch.captureRegs(here);
      try {
        return yield* prog_stream_read(here, attr, process);
      } finally {
        system.arch.releaseRegs(here);
        here.regs = outer;
      }
    });
    const read32 = BigInt.asIntN(64, ret);
    return { ret, text: read32 > 0n ? Buffer.concat(taken).toString('utf8') : '' };
  }
}
