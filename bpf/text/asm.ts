/**
 * BPF assembly text, one instruction to a line, as LLVM's assembler and the verifier's log write it:
 *
 *     r1 = 5, w1 += w2, r1 = -r1, r1 s>>= 3, r1 s/= r2, r1 = (s8)r2, r1 = be16 r1, r1 = bswap32 r1
 *     r1 = 0x7f7d26200000 ll, r1 = NAME ll, r1 = map[NAME], r1 = map[NAME][0]+16
 *     r2 = *(u32 *)(r1 + 8), r2 = *(s8 *)(r1 - 4), *(u64 *)(r1 + 0) = r2, *(u8 *)(r1 + 0) = 1
 *     lock *(u64 *)(r1 + 8) += r2, r2 = atomic_fetch_add((u64 *)(r1 + 8), r2), r2 = xchg_64(r1 + 8, r2)
 *     r0 = cmpxchg_64(r1 + 8, r0, r2), w0 = cmpxchg_32(r1 + 8, w0, w2), r0 = atomic64_cmpxchg((u64 *)(r1 +8), r0, r2)
 *     r1 = load_acquire((u32 *)(r2 + 0)), store_release((u32 *)(r1 + 0), r2), r1 = addr_space_cast(r1, 0, 1)
 *     if r1 s> 5 goto label, if w1 & 3 goto +2, goto label, gotol label, may_goto label, call NAME, exit, label:
 *     .insn code, dst, src, off, imm
 *
 * A line of the log may be pasted with its number and byte (`12: (61) r2 = …`); the byte is checked. Comments begin
 * with `//`, or with `#` behind a blank. A line `; *(page) = 1; @ stream.c:100` is the source line of what follows.
 */

import { BPF_JA, BPF_JMP, type bpf_insn } from '../insn.js';
import { Cursor, LineError } from './asm-cursor.js';
import { type ParsedInsn, parseInsn } from './asm-insn.js';

/** Names that stand for numbers in the text. */
export interface BpfSymbols {
  /** Value of a constant or an expression in the text's words; null if it is none (then it may be a symbol). */
  constant(expression: string): bigint | null;
}

/** A source line, as BTF line info has it. */
export interface BpfSourceLine {
  readonly file: string;
  readonly line: number;
  readonly text: string;
}

/** What `map[NAME]` names; `offset` null: the map itself, else the address of its value and so many bytes. */
export interface BpfMapReference {
  readonly name: string;
  readonly offset: number | null;
}

/** Assembled text of one function. All maps are by slot; a 64-bit immediate takes two slots. */
export interface BpfText {
  readonly insns: readonly bpf_insn[];
  /** Source lines by the slot where they begin. */
  readonly lines: ReadonlyMap<number, BpfSourceLine>;
  readonly calls: ReadonlyMap<number, string>;
  readonly maps: ReadonlyMap<number, BpfMapReference>;
  /** 64-bit immediates that are the address of a symbol. */
  readonly symbols: ReadonlyMap<number, string>;
  /** Line of the text, from 1. */
  readonly places: ReadonlyMap<number, number>;
}

/** A mistake in the text, at `line` and `column`, both from 1. */
export class BpfAsmError extends Error {
  override name = 'BpfAsmError';
  constructor(
    message: string,
    readonly line: number,
    readonly column: number,
  ) {
    super(message);
  }
}

interface Jump {
  readonly slot: number;
  readonly target: NonNullable<ParsedInsn['target']>;
  readonly line: number;
}

/** Assembles the text of one function. Throws a BpfAsmError. */
export function assembleBpf(text: string, symbols: BpfSymbols): BpfText {
  return new Assembly(symbols).assemble(text);
}

class Assembly {
  readonly #insns: bpf_insn[] = [];
  readonly #lines = new Map<number, BpfSourceLine>();
  readonly #calls = new Map<number, string>();
  readonly #maps = new Map<number, BpfMapReference>();
  readonly #symbols = new Map<number, string>();
  readonly #places = new Map<number, number>();
  readonly #labels = new Map<string, number>();
  readonly #jumps: Jump[] = [];

  constructor(readonly symbols: BpfSymbols) {}

  assemble(text: string): BpfText {
    for (const [i, line] of text.split(/\r?\n/).entries()) {
      try {
        this.#line(line, i + 1);
      } catch (error) {
        throw error instanceof LineError ? new BpfAsmError(error.message, i + 1, error.column) : error;
      }
    }
    const last = [...this.#lines.keys()].at(-1);
    if (last !== undefined && last >= this.#insns.length) this.#lines.delete(last);
    for (const jump of this.#jumps) this.#resolve(jump);
    return {
      insns: this.#insns,
      lines: this.#lines,
      calls: this.#calls,
      maps: this.#maps,
      symbols: this.#symbols,
      places: this.#places,
    };
  }

  #line(line: string, number: number): void {
    if (/^\s*;/.test(line)) {
      this.#sourceLine(line);
      return;
    }
    const code = line.replace(/(?:\/\/|(?:^|\s)#).*$/, '').trimEnd();
    let at = code.length - code.trimStart().length;
    for (;;) {
      const label = /^([A-Za-z_.$][\w.$]*)\s*:\s*/.exec(code.slice(at));
      if (label === null) break;
      this.#label(label[1] ?? '', at + 1);
      at += label[0].length;
    }
    const byte = /^(?:\d+:\s*)?\(([0-9a-f]{2})\)\s*/.exec(code.slice(at));
    if (byte !== null) at += byte[0].length;
    if (at >= code.length) {
      if (byte !== null) throw new LineError('there is no instruction behind the byte', at + 1);
      return;
    }
    const cursor = new Cursor(code.slice(at), at + 1, (expression) => this.symbols.constant(expression));
    const parsed = parseInsn(cursor);
    const made = parsed.insns[0]?.code;
    if (byte !== null && made !== undefined && made !== Number.parseInt(byte[1] ?? '', 16)) {
      const found = made.toString(16).padStart(2, '0');
      throw new LineError(`the byte says ${byte[1]}, but this is ${found}`, at + 1 - byte[0].length);
    }
    this.#add(parsed, number);
  }

  #sourceLine(line: string): void {
    const column = line.indexOf(';') + 1;
    const found = /^\s*;\s?(.*?)\s*@\s*(\S+):(\d+)\s*$/.exec(line);
    if (found === null) throw new LineError('a source line ends with its place: @ file.c:12', column);
    const slot = this.#insns.length;
    if (this.#lines.has(slot)) throw new LineError('two source lines for one instruction', column);
    this.#lines.set(slot, { text: found[1] ?? '', file: found[2] ?? '', line: Number(found[3]) });
  }

  #label(name: string, column: number): void {
    if (this.#labels.has(name)) throw new LineError(`label ${name} is there twice`, column);
    this.#labels.set(name, this.#insns.length);
  }

  #add(parsed: ParsedInsn, line: number): void {
    const slot = this.#insns.length;
    this.#insns.push(...parsed.insns);
    for (let i = slot; i < this.#insns.length; i += 1) this.#places.set(i, line);
    if (parsed.target !== undefined) this.#jumps.push({ slot, target: parsed.target, line });
    if (parsed.call !== undefined) this.#calls.set(slot, parsed.call);
    if (parsed.map !== undefined) this.#maps.set(slot, parsed.map);
    if (parsed.symbol !== undefined) this.#symbols.set(slot, parsed.symbol);
  }

  #resolve({ slot, target: { to, field, column }, line }: Jump): void {
    const distance = typeof to === 'bigint' ? Number(to) : this.#distance(to, slot, line, column);
    const insn = this.#insns[slot];
    if (field === 'off' && (distance < -0x8000 || distance > 0x7fff)) {
      const remedy =
        insn?.code === (BPF_JMP | BPF_JA) ? 'use gotol' : 'only goto has a long form; let it jump to a gotol';
      throw new BpfAsmError(`${distance} slots do not fit 16 bits: ${remedy}`, line, column);
    }
    if (insn !== undefined) this.#insns[slot] = { ...insn, [field]: distance };
  }

  #distance(label: string, slot: number, line: number, column: number): number {
    const at = this.#labels.get(label);
    if (at === undefined) throw new BpfAsmError(`there is no label ${label}`, line, column);
    return at - slot - 1;
  }
}
