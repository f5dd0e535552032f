/**
 * Loops that may_goto ends: bpf_check_timed_may_goto() of kernel/bpf/core.c (bpf-next merge 8496d9020ff3).
 * arch_bpf_timed_may_goto(), which calls it, is code of the architecture. Left out: nothing.
 */
import type { ThisCpu } from '../arch/arch.js';
import { u64 } from '../emu/address.js';
import { type Path, port } from '../emu/path.js';
import type { Clock } from '../kernel/clock.js';
import type { BpfEnv } from './env.js';
import { type Kfunc, kernelWord, kfuncs } from './kfunc.js';
import { BPF_STDERR } from './stream/stream.js';
import { bpf_stream_stage_report } from './stream/stream_stage.js';

/** Iterations between two looks at the clock; the count that is stored when a loop begins, too. */
export const BPF_MAX_TIMED_LOOPS = 0xffff;
/** NSEC_PER_SEC / 4 */
const TIME_SLICE_NS = 250_000_000n;

/** How time passes for loops: the machine's clock, and what each look at it adds. */
export class LoopTime {
  #nanoseconds = 0n;

  /**
   * @param nanosecondsPerCall that pass with each look at the clock, 1 or more: with 250,000,000 a loop ends the
   *   second time it looks
   */
  constructor(
    readonly clock: Clock,
    readonly nanosecondsPerCall: number,
  ) {
    if (!Number.isSafeInteger(nanosecondsPerCall) || nanosecondsPerCall < 1) {
      throw new RangeError(
        `${nanosecondsPerCall} ns per look at the clock: a loop needs at least one to end`,
      );
    }
  }

  /** ktime_get_mono_fast_ns() after the time that has passed. The machine's clock goes forward with it. */
  next(): bigint {
    this.#nanoseconds += BigInt(this.nanosecondsPerCall);
    const microseconds = this.#nanoseconds / 1000n;
    this.#nanoseconds -= microseconds * 1000n;
    this.clock.advance(Number(microseconds));
    return BigInt(Math.trunc(this.clock.microseconds)) * 1000n + this.#nanoseconds;
  }
}

/** bpf_prog_report_may_goto_violation(): nothing when no program is on the stack. */
export const bpf_prog_report_may_goto_violation = port(
  'bpf_prog_report_may_goto_violation',
  ['env'],
  function* (here: ThisCpu, env: BpfEnv): Path<void> {
    const prog = env.programs.bpf_prog_find_from_stack(here);
    const name = prog === null ? null : prog.aux.name;
    yield* here.trace.decide('bpf_prog_report_may_goto_violation', 'prog', name);
    if (prog === null) return;
    const text = 'ERROR: Timeout detected for may_goto instruction\n';
    yield* bpf_stream_stage_report(here, env, prog, BPF_STDERR, [text], 'may_goto');
  },
);

/**
 * bpf_check_timed_may_goto()
 * @param p address of struct bpf_timed_may_goto: count u64 (0), timestamp u64 (8); 0 is no timestamp yet
 * @returns the count to go on with; 0 ends the loop
 */
export const bpf_check_timed_may_goto = port(
  'bpf_check_timed_may_goto',
  ['env', 'time', 'p'],
  function* (here: ThisCpu, env: BpfEnv, time: LoopTime, p: bigint): Path<number> {
    const fn = 'bpf_check_timed_may_goto';
    const now = time.next();
    const timestamp = kernelWord(here, u64(p + 8n), 8);
    const since = here.ram.readU64(timestamp);
    if (yield* here.trace.decide(fn, '!p->timestamp', since === 0n)) {
      here.ram.writeU64(timestamp, now);
      return BPF_MAX_TIMED_LOOPS;
    }
    const over = u64(now - since) >= TIME_SLICE_NS;
    if (yield* here.trace.decide(fn, 'time - p->timestamp >= (NSEC_PER_SEC / 4)', over)) {
      yield* bpf_prog_report_may_goto_violation(here, env);
      return 0;
    }
    return BPF_MAX_TIMED_LOOPS;
  },
);

/** The size is chosen. */
export const MAY_GOTO_FUNCTIONS = { bpf_check_timed_may_goto: 0xa0 };

/** bpf_check_timed_may_goto() as arch_bpf_timed_may_goto() calls it. */
export function mayGotoFunctions(env: BpfEnv, time: LoopTime): Kfunc[] {
  function* body(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    return BigInt(yield* bpf_check_timed_may_goto(here, env, time, args[0] ?? 0n));
  }
  return kfuncs(MAY_GOTO_FUNCTIONS, { bpf_check_timed_may_goto: body });
}
