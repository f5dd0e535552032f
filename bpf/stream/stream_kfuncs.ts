/**
 * Port of kernel/bpf/stream.c (bpf-next merge 8496d9020ff3), part 3: the kfuncs with which programs write to
 * their streams. Both may be called with a bpf_spin_lock held.
 */

import type { ThisCpu } from '../../arch/arch.js';
import { u64 } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import { EINVAL, ENOENT } from '../../kernel/errno.js';
import { GuestRefusal } from '../../kernel/guest-refusal.js';
import type { BpfEnv } from '../env.js';
import { argS32, argU32, callingProg, type Kfunc, kernelWords, kfuncs, returnInt } from '../kfunc.js';
import type { bpf_prog } from '../program.js';
import {
  bpf_bprintf_prepare,
  bpf_put_buffers,
  bpf_try_get_buffers,
  bstr_printf,
  MAX_BPRINTF_VARARGS,
} from './bprintf.js';
import { bpf_stream_get, bpf_stream_push_str } from './stream.js';
import { bpf_stream_stage_report } from './stream_stage.js';

/**
 * bpf_stream_vprintk()
 * @param fmt the format without its NUL: memory is read only behind the checks
 * @param args the argument array, likewise; null when there is none
 * @param len__sz its size in bytes
 * @returns 0, -ENOENT, -EINVAL, -EBUSY, -ENOSPC, or -ENOMEM: those bytes count against the capacity for ever
 *   although nobody can read them
 */
export const bpf_stream_vprintk = port(
  'bpf_stream_vprintk',
  ['env', 'prog', 'stream_id', 'fmt', 'args', 'len__sz'],
  function* (
    here: ThisCpu,
    env: BpfEnv,
    prog: bpf_prog,
    stream_id: number,
    fmt: () => Uint8Array,
    args: (() => readonly bigint[]) | null,
    len__sz: number,
  ): Path<number> {
    const { trace } = here;
    const fn = 'bpf_stream_vprintk';
    const stream = bpf_stream_get(stream_id, prog);
    yield* trace.decide(fn, '!stream', stream === null);
    if (stream === null) return -ENOENT;
    const bad = (len__sz & 7) !== 0 || len__sz > MAX_BPRINTF_VARARGS * 8 || (len__sz !== 0 && args === null);
    const test = 'data_len & 7 || data_len > MAX_BPRINTF_VARARGS * 8 || (data_len && !args)';
    if (yield* trace.decide(fn, test, bad)) return -EINVAL;

    const format = fmt();
    const busy = bpf_try_get_buffers(here, env);
    if ((yield* trace.decide('bpf_bprintf_prepare', 'bpf_try_get_buffers(&buffers)', busy)) !== 0)
      return busy;
    const bin_args = bpf_bprintf_prepare(here, format, args === null ? [] : args().slice(0, len__sz / 8));
    const prepared = typeof bin_args === 'number' ? bin_args : 0;
    yield* trace.decide(fn, 'bpf_bprintf_prepare()', prepared);
    let ret = prepared;
    if (typeof bin_args !== 'number') {
      const text = bstr_printf(here, format, bin_args);
      ret = bpf_stream_push_str(here, env, prog, stream, text.finish(), text.length);
      yield* trace.decide(fn, 'bpf_stream_push_str(stream, data.buf, ret)', ret);
    }
    bpf_put_buffers(here, env);
    return ret;
  },
);

/** bpf_stream_print_stack(): the caller's stack on one of its streams. 0, or -ENOENT for an unknown id. */
export const bpf_stream_print_stack = port(
  'bpf_stream_print_stack',
  ['env', 'prog', 'stream_id'],
  function* (here: ThisCpu, env: BpfEnv, prog: bpf_prog, stream_id: number): Path<number> {
    const unknown = bpf_stream_get(stream_id, prog) === null;
    if (yield* here.trace.decide('bpf_stream_print_stack', '!bpf_stream_get(stream_id, aux)', unknown)) {
      return -ENOENT;
    }
    yield* bpf_stream_stage_report(here, env, prog, stream_id, [], 'kfunc');
    return 0;
  },
);

/** A string of the kernel's memory, without its NUL. Throws a GuestRefusal when it is not mapped. */
function kernelString(here: ThisCpu, va: bigint): Uint8Array {
  const bytes: number[] = [];
  for (let at = va; ; at = u64(at + 1n)) {
    const pa = here.mmu.peek(at);
    if (pa < 0) throw new GuestRefusal(`no format at 0x${va.toString(16)}`);
    const [byte = 0] = here.ram.read(pa, 1);
    if (byte === 0) return Uint8Array.from(bytes);
    bytes.push(byte);
  }
}

/** Sizes are chosen. */
export const STREAM_KFUNCS = { bpf_stream_vprintk: 0x240, bpf_stream_print_stack: 0xe0 };

/** The register, 1 to 5, in which each is handed the prog->aux of its caller. */
export const STREAM_AUX_REGISTERS = { bpf_stream_vprintk: 5, bpf_stream_print_stack: 2 };

/** Both, as programs call them. */
export function streamKfuncs(env: BpfEnv): Kfunc[] {
  const caller = (
    here: ThisCpu,
    args: readonly bigint[],
    name: keyof typeof STREAM_AUX_REGISTERS,
  ): bpf_prog => callingProg(here, env, args[STREAM_AUX_REGISTERS[name] - 1] ?? 0n);
  function* vprintk(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const [, fmt = 0n, array = 0n] = args;
    const len = argU32(args, 3);
    const words = array === 0n ? null : () => kernelWords(here, array, len / 8);
    const format = () => kernelString(here, fmt);
    const prog = caller(here, args, 'bpf_stream_vprintk');
    return returnInt(yield* bpf_stream_vprintk(here, env, prog, argS32(args, 0), format, words, len));
  }
  function* print_stack(here: ThisCpu, args: readonly bigint[]): Path<bigint> {
    const prog = caller(here, args, 'bpf_stream_print_stack');
    return returnInt(yield* bpf_stream_print_stack(here, env, prog, argS32(args, 0)));
  }
  return kfuncs(STREAM_KFUNCS, { bpf_stream_vprintk: vprintk, bpf_stream_print_stack: print_stack });
}
