/**
 * Unwinder tables for kernel text: for each instruction, where the caller's frame is.
 *
 * The kernel gets them from objtool, which follows all paths through a function; here they are made the
 * same way from the instructions (orc-validate.ts, orc-cfi.ts), when a function is first looked up. The
 * look-up is orc_find() of arch/x86/kernel/unwind_orc.c, bpf-next merge 8496d9020ff3. Left out: ftrace
 * trampolines and call thunks, of which there are none.
 */
import { fromSigned, toSigned } from '../../emu/address.js';
import type { TextFunction } from '../arch.js';
import type { Kernel } from '../kernel.js';
import type { UnwindHint } from './orc-cfi.js';
import { null_orc_entry, ORC_TYPE_CALL, type OrcEntry, orc_fp_entry, UNDEFINED_ENTRY } from './orc-entry.js';
import { type CallEnd, isNoreturn, type ValidatedCode, validateCode } from './orc-validate.js';

/** What the unwinder needs at an address; made once per address. */
export interface IpInfo {
  readonly ip: bigint;
  /** The same as a signed number. */
  readonly at: number;
  /** The address lies in a function with tables, and so in kernel text. */
  readonly known: boolean;
  /** Entry for the instruction at the address: the frame of an exception. Null where there are no tables. */
  readonly exact: OrcEntry | null;
  /** Entry for a return address: the instruction before it. */
  readonly call: OrcEntry | null;
}

interface OrcFunction {
  readonly name: string;
  readonly start: number;
  readonly end: number;
  readonly code: Uint8Array;
  readonly hints: readonly UnwindHint[];
  /** Null until the function is looked up. */
  validated: ValidatedCode | null;
}

/** Modules and BPF images begin here: MODULES_VADDR. */
const MODULES = -0x4000_0000;

/** How many sibling calls objtool follows to find out whether a function returns. */
const SIBLING_CALLS = 5;

/** Addresses remembered at the most; stacks may hold any number of different ones over time. */
const REMEMBERED = 16384;

/** The tables of one machine. */
export class OrcTables {
  #functions: OrcFunction[] = [];
  readonly #infos = new Map<number, IpInfo>();
  /** Core kernel text, from its first function to its last. */
  #textStart = Number.POSITIVE_INFINITY;
  #textEnd = Number.NEGATIVE_INFINITY;
  /** Changes when what was said of an address may not be true any more. */
  generation = 0;

  /**
   * Takes a function in, in the place of an earlier one at the same address.
   * @param hints unwind hints of assembly code
   */
  add(fn: TextFunction, hints: readonly UnwindHint[] = []): void {
    const start = toSigned(fn.start);
    const end = start + fn.code.length;
    const code = fn.code.slice();
    this.#functions = this.#functions.filter((other) => other.start !== start);
    this.#functions.push({ name: fn.name, start, end, code, hints, validated: null });
    this.#functions.sort((a, b) => a.start - b.start);
    if (start < MODULES) {
      this.#textStart = Math.min(this.#textStart, start);
      this.#textEnd = Math.max(this.#textEnd, end);
    }
    // Whoever calls the function may depend on whether it returns.
    for (const other of this.#functions) other.validated = null;
    this.#infos.clear();
    this.generation += 1;
  }

  /**
   * @param ip signed number
   * @param kernel knows the BPF images
   */
  info(ip: number, kernel: Kernel): IpInfo {
    const remembered = this.#infos.get(ip);
    if (remembered !== undefined) return remembered;
    const known = this.#functionAt(ip) !== null;
    const exact = this.orc_find(ip, kernel);
    const call = this.orc_find(ip - 1, kernel);
    const info: IpInfo = { ip: fromSigned(ip), at: ip, known, exact, call };
    // A program may be loaded where there is nothing now.
    if (exact === null || call === null) return info;
    if (this.#infos.size >= REMEMBERED) this.#infos.clear();
    this.#infos.set(ip, info);
    return info;
  }

  /** Entry for an address; null where there are no tables. */
  orc_find(ip: number, kernel: Kernel): OrcEntry | null {
    if (ip === 0) return null_orc_entry;
    const fn = this.#functionAt(ip);
    if (fn !== null) return this.#validated(fn).entries[ip - fn.start] ?? UNDEFINED_ENTRY;
    // bpf_has_frame_pointer(): prologue and epilogue are not told apart.
    if (kernel.is_bpf_text_address(fromSigned(ip))) return orc_fp_entry;
    return ip >= this.#textStart && ip < this.#textEnd ? UNDEFINED_ENTRY : null;
  }

  /** in_entry_code(): is it entry code, which has hints? */
  isEntryCode(ip: number): boolean {
    const fn = this.#functionAt(ip);
    return fn !== null && fn.hints.length > 0;
  }

  #validated(fn: OrcFunction): ValidatedCode {
    fn.validated ??= validateCode(fn.code, fn.hints, (offset) => this.#callEnd(fn.start + offset));
    return fn.validated;
  }

  #callEnd(start: number): CallEnd {
    const fn = this.#functionAt(start);
    if (fn === null || !(hasCode(fn) || isNoreturn(fn.name))) return 'unknown';
    return this.#deadEnd(start, 0) ? 'dead end' : 'returns';
  }

  /** dead_end_function(): the function at the address never returns. */
  #deadEnd(start: number, depth: number): boolean {
    const fn = this.#functionAt(start);
    if (fn === null || fn.start !== start || depth === SIBLING_CALLS) return false;
    if (isNoreturn(fn.name)) return true;
    // The calls of the function itself are of no interest for this: its own entries come later.
    const { entries, returns, tailCalls } = fn.validated ?? validateCode(fn.code, fn.hints, () => 'returns');
    if (returns || fn.hints.length > 0 || entries[0]?.type !== ORC_TYPE_CALL) return false;
    if (!hasCode(fn)) return false;
    return tailCalls.every((offset) => this.#deadEnd(start + offset, depth + 1));
  }

  #functionAt(ip: number): OrcFunction | null {
    const functions = this.#functions;
    let low = 0;
    let high = functions.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((functions[middle]?.start ?? 0) <= ip) low = middle + 1;
      else high = middle;
    }
    const fn = functions[low - 1];
    return fn !== undefined && ip < fn.end ? fn : null;
  }
}

/** Functions that host code stands in for are filled with int3. */
function hasCode({ code }: OrcFunction): boolean {
  return code.length > 0 && code[0] !== 0xcc;
}
