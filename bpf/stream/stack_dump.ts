/**
 * The stack dump of a report: bpf_stream_stage_dump_stack() of kernel/bpf/stream.c (bpf-next merge
 * 8496d9020ff3).
 *
 * A program that misbehaves does so at the same place again and again, so a dump is kept per list of
 * addresses and formatted once; the millionth report from there costs a comparison. The CPU line differs
 * from report to report and is not part of it.
 */
import type { HandlerFrame, ThisCpu } from '../../arch/arch.js';
import { type BpfPrograms, bpf_prog_get_file_line } from '../program.js';
import { stageElement, utf8 } from './stream.js';

/** Finds the address of a function by its name, 0n when there is none (kallsyms_lookup_name()). */
export type SymbolLookup = (name: string) => bigint;

/**
 * Who reports: the page-fault handler, the exception-table handler, a program itself, or what a program called:
 * bpf_res_spin_lock(), may_goto.
 */
export type DumpSide = 'kernel' | 'prog' | 'kfunc' | 'rqspinlock' | 'may_goto';

/** Dumps that are kept; the oldest goes first. Reports that refer to one keep it for themselves. */
const KEPT = 128;

/** `Call trace:` and what follows it, for one list of addresses. */
export interface StackDump {
  readonly side: DumpSide;
  /** Frames of the exception-table handler: they depend on the exception. Null for the other sides. */
  readonly handler: readonly HandlerFrame[] | null;
  /** Addresses that the walk came to; the frames of the handler in front of them are not listed. */
  readonly ips: readonly bigint[];
  readonly elements: readonly Uint8Array[];
  /** Bytes that the dump counts against the capacity of a stream. */
  readonly len: number;
}

const CALL_TRACE = utf8('Call trace:\n');
const EMPTY_LINE = utf8('\n');

/** The dumps that a machine has made so far. */
export class StackDumps {
  readonly #programs: BpfPrograms;
  readonly #lookup: SymbolLookup;
  /** Oldest first. */
  #kept: StackDump[] = [];
  #generation = 0;
  /** Dumps formatted since the start; for measurements. */
  formatted = 0;

  constructor(programs: BpfPrograms, lookup: SymbolLookup) {
    this.#programs = programs;
    this.#lookup = lookup;
  }

  /**
   * Walks the stack and gives its dump: the frames of the handler, which is host code and has none in
   * ram, and then the walk, which starts at the registers of the exception. An architecture that cannot
   * walk shows no frame at all.
   */
  bpf_stream_stage_dump_stack(here: ThisCpu, side: DumpSide): StackDump {
    const ips = here.arch.stackAddresses(here);
    if (this.#generation !== this.#programs.generation) {
      this.#generation = this.#programs.generation;
      this.#kept = [];
    }
    const handler = side === 'prog' ? here.arch.progSideFrames(here) : null;
    for (let i = this.#kept.length - 1; i >= 0; i--) {
      const dump = this.#kept[i] as StackDump;
      if (dump.side === side && dump.handler === handler && isSameStack(dump.ips, ips)) return dump;
    }
    const dump = this.#format(here, { side, handler, ips });
    if (this.#kept.length >= KEPT) this.#kept.shift();
    this.#kept.push(dump);
    return dump;
  }

  #format(here: ThisCpu, key: Pick<StackDump, 'side' | 'handler' | 'ips'>): StackDump {
    const { side, handler, ips } = key;
    this.formatted += 1;
    const inner = ips.length === 0 ? [] : (handler ?? handlerFrames(here, side));
    const frames = [...inner.map((frame) => this.#addressOf(frame)), ...ips];
    const elements: Uint8Array[] = [CALL_TRACE];
    let len = CALL_TRACE.length;
    for (const ip of frames) {
      const text = utf8(this.#frameText(here, ip));
      const element = stageElement(text);
      len += text.length;
      // The dump ends at the first element that does not fit, which is counted nevertheless.
      if (element === null) return { ...key, elements, len };
      elements.push(element);
    }
    elements.push(EMPTY_LINE);
    return { ...key, elements, len: len + EMPTY_LINE.length };
  }

  #frameText(here: ThisCpu, ip: bigint): string {
    const symbol = here.kernel.sprint_symbol(ip);
    const prog = this.#programs.bpf_prog_ksym_find(ip);
    const source = prog === null ? null : bpf_prog_get_file_line(prog, ip);
    if (source === null || typeof source === 'number') return `${symbol}\n`;
    return `${symbol}\n  ${source.text} @ ${source.file}:${source.line}\n`;
  }

  #addressOf(frame: HandlerFrame): bigint {
    const start = this.#lookup(frame.fn);
    if (start === 0n) throw new Error(`no symbol ${frame.fn}: a stack dump needs the address of its frame`);
    return start + BigInt(frame.offset);
  }
}

function isSameStack(a: readonly bigint[], b: readonly bigint[]): boolean {
  return a === b || (a.length === b.length && a.every((ip, i) => ip === b[i]));
}

function handlerFrames(here: ThisCpu, side: DumpSide): readonly HandlerFrame[] {
  switch (side) {
    case 'kernel':
      return here.arch.kernelSideFrames;
    case 'prog':
      return here.arch.progSideFrames(here);
    case 'kfunc':
      return ownFrame(here);
    case 'rqspinlock':
    case 'may_goto':
      return [...ownFrame(here), here.arch.bpfReports[side]];
  }
}

/** Frame of bpf_stream_stage_dump_stack() itself, the first of every dump. */
function ownFrame(here: ThisCpu): readonly HandlerFrame[] {
  return here.arch.kernelSideFrames.slice(0, 1);
}
