/**
 * The functions that a trampoline calls around its program: port of kernel/bpf/trampoline.c (bpf-next merge
 * 8496d9020ff3), __bpf_prog_enter*() and __bpf_prog_exit*().
 *
 * Left out: tracing attachments, statistics (the start time is NO_START_TIME), RCU and migration state, which
 * nothing here looks at.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { u64 } from '../../emu/address.js';
import type { Path } from '../../emu/path.js';
import { type Kfunc, kernelWord } from '../kfunc.js';

/** What __bpf_prog_enter*() returns for a program that is to run; 0 skips it. */
const NO_START_TIME = 1n;

/** struct bpf_tramp_run_ctx: bpf_cookie u64 (0), saved_run_ctx pointer (8). */
export const BPF_TRAMP_RUN_CTX_SIZE = 16;
const SAVED_RUN_CTX = 8n;

/** What calls a program: `recur` is for those that must not run inside themselves. */
export interface ProgKind {
  readonly sleepable: boolean;
  /** bpf_prog_check_recur(); false for struct_ops programs unless they ask for a private stack. */
  readonly recur: boolean;
}

function suffix({ sleepable, recur }: ProgKind): string {
  return `${sleepable ? '_sleepable' : ''}${recur ? '_recur' : ''}`;
}

/** Name of bpf_trampoline_enter(prog). */
export function bpf_trampoline_enter(kind: ProgKind): string {
  return `__bpf_prog_enter${suffix(kind)}`;
}

/** Name of bpf_trampoline_exit(prog). */
export function bpf_trampoline_exit(kind: ProgKind): string {
  return `__bpf_prog_exit${suffix(kind)}`;
}

/** State of one machine: which programs run on which CPU (prog->active), and what current->bpf_ctx is. */
class Running {
  readonly active = new Set<string>();
  /** current->bpf_ctx by CPU. */
  readonly run_ctx = new Map<number, bigint>();
}

/** All eight functions. Sizes are chosen. */
export function trampolineFunctions(): Kfunc[] {
  const running = new Running();
  const kinds = [false, true].flatMap((sleepable) => [false, true].map((recur) => ({ sleepable, recur })));
  return kinds.flatMap((kind) => [
    { name: bpf_trampoline_enter(kind), size: kind.recur ? 0x80 : 0x50, body: enter(running, kind) },
    { name: bpf_trampoline_exit(kind), size: kind.recur ? 0x70 : 0x60, body: leave(running, kind) },
  ]);
}

/** u64 __bpf_prog_enter*(struct bpf_prog *prog, struct bpf_tramp_run_ctx *run_ctx) */
function enter(running: Running, kind: ProgKind): Kfunc['body'] {
  const fn = bpf_trampoline_enter(kind);
  return function* (here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const [prog = 0n, run_ctx = 0n] = args;
    const { id } = here.cpu;
    const saved = kernelWord(here, u64(run_ctx + SAVED_RUN_CTX), 8);
    here.ram.writeU64(saved, running.run_ctx.get(id) ?? 0n);
    running.run_ctx.set(id, run_ctx);
    if (!kind.recur) return NO_START_TIME;
    const key = `${id}:${prog}`;
    const again = running.active.has(key);
    if (yield* here.trace.decide(fn, '!bpf_prog_get_recursion_context(prog)', again)) return 0n;
    running.active.add(key);
    return NO_START_TIME;
  };
}

/** void __bpf_prog_exit*(struct bpf_prog *prog, u64 start, struct bpf_tramp_run_ctx *run_ctx) */
function leave(running: Running, kind: ProgKind): Kfunc['body'] {
  // biome-ignore lint/correctness/useYield: it decides nothing
  return function* (here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const [prog = 0n, start = 0n, run_ctx = 0n] = args;
    const { id } = here.cpu;
    const saved = kernelWord(here, u64(run_ctx + SAVED_RUN_CTX), 8);
    running.run_ctx.set(id, here.ram.readU64(saved));
    if (kind.recur && start !== 0n) running.active.delete(`${id}:${prog}`);
    return 0n;
  };
}
