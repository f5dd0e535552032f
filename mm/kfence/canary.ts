/**
 * The bytes around an object: set_canary(), check_canary() and check_canary_byte() of mm/kfence/core.c
 * (bpf-next merge 8496d9020ff3). They are read and written in the ram, past the page tables.
 */
import type { ThisCpu } from '../../arch/arch.js';
import { PAGE_SIZE } from '../../arch/kernel.js';
import { pageOf } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import type { KfenceFrame } from './frames.js';
import {
  KFENCE_CANARY_PATTERN_U8,
  KFENCE_CANARY_PATTERN_U64,
  KFENCE_ERROR_CORRUPTION,
  KfenceError,
  type kfence_metadata,
} from './kfence.js';
import { kfence_handle_fault, kfence_report_error } from './report.js';
import type { Kfence } from './state.js';

/** The page of an object as the ram has it: where it is, and where in it the object begins and ends. */
interface PageView {
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
}

function pageOfObject(kfence: Kfence, { addr, size }: kfence_metadata): PageView {
  const { ram } = kfence.deps.memory;
  const pageaddr = pageOf(addr);
  const at = kfence.physical(pageaddr) - ram.base;
  const start = Number(addr - pageaddr);
  return {
    words: ram.words32.subarray(at / 4, (at + PAGE_SIZE) / 4),
    bytes: ram.bytes.subarray(at, at + PAGE_SIZE),
    start,
    end: start + size,
  };
}

/** Halves of KFENCE_CANARY_PATTERN_U64. */
const PATTERN_LOW = Number(KFENCE_CANARY_PATTERN_U64 & 0xffff_ffffn);
const PATTERN_HIGH = Number(KFENCE_CANARY_PATTERN_U64 >> 32n);

/** On the right this may overwrite up to seven bytes of the object itself: nobody has used them yet. */
export function set_canary(kfence: Kfence, meta: kfence_metadata): void {
  const { words, start, end } = pageOfObject(kfence, meta);
  const store = (from: number, to: number): void => {
    for (let at = from; at < to; at += 8) {
      words[at / 4] = PATTERN_LOW;
      words[at / 4 + 1] = PATTERN_HIGH;
    }
  };
  store(0, start);
  store(end - (end % 8), PAGE_SIZE);
}

/** True when the byte is what it should be; else it is reported. */
const check_canary_byte = port(
  'check_canary_byte',
  ['kfence', 'addr'],
  function* (here: ThisCpu, kfence: Kfence, addr: bigint, callers: readonly KfenceFrame[]): Path<boolean> {
    const found = kfence.deps.memory.ram.bytes[kfence.physical(addr) - kfence.deps.memory.ram.base];
    const test = '*addr == KFENCE_CANARY_PATTERN_U8(addr)';
    if (yield* here.trace.decide('check_canary_byte', test, found === KFENCE_CANARY_PATTERN_U8(addr)))
      return true;
    kfence.counters.BUGS += 1;
    const meta = kfence.addr_to_metadata(addr);
    if (meta === null) throw new KfenceError('a canary byte belongs to no object');
    meta.locked = true;
    const frames: readonly KfenceFrame[] = ['check_canary_byte', ...callers];
    const fault = yield* kfence_report_error(
      here,
      kfence,
      addr,
      false,
      null,
      meta,
      KFENCE_ERROR_CORRUPTION,
      frames,
    );
    meta.locked = false;
    yield* kfence_handle_fault(here, kfence, fault);
    return false;
  },
);

/** Reports at the most two bytes: the first bad one on each side. The bytes that are right are not told of. */
export const check_canary = port(
  'check_canary',
  ['kfence', 'meta'],
  function* (
    here: ThisCpu,
    kfence: Kfence,
    meta: kfence_metadata,
    callers: readonly KfenceFrame[],
  ): Path<void> {
    const { words, bytes, start, end } = pageOfObject(kfence, meta);
    const pageaddr = pageOf(meta.addr);
    const isWhole = (at: number): boolean =>
      words[at / 4] === PATTERN_LOW && words[at / 4 + 1] === PATTERN_HIGH;
    const isByte = (at: number): boolean => bytes[at] === KFENCE_CANARY_PATTERN_U8(BigInt(at));
    const bad = (at: number): Delegate<boolean> =>
      check_canary_byte(here, kfence, pageaddr + BigInt(at), callers);

    let at = 0;
    while (start - at >= 8 && isWhole(at)) at += 8;
    while (at < start && isByte(at)) at += 1;
    if (at < start) yield* bad(at);

    for (at = end; at % 8 !== 0; at++) {
      if (isByte(at)) continue;
      yield* bad(at);
      return;
    }
    while (at < PAGE_SIZE && isWhole(at)) at += 8;
    if (at >= PAGE_SIZE) return;
    while (isByte(at)) at += 1;
    yield* bad(at);
  },
);
