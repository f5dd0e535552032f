/**
 * Symbols and how they are printed: kernel/kallsyms.c, lib/vsprintf.c (symbol_string()) and the text
 * tests of kernel/extable.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: build ids, init text, ftrace trampolines and kprobe slots. A symbol has the size it is given;
 * the kernel takes the distance to the next one.
 */
import { hex, toSigned } from '../emu/address.js';

export interface KernelSymbol {
  readonly name: string;
  /** First byte; canonical. */
  readonly start: bigint;
  /** Bytes, 1 or more. */
  readonly size: number;
  readonly kind: 'text' | 'bpf' | 'module';
  /** Name of the module, for kind `module`. */
  readonly module?: string;
}

/** A symbol that cannot be in the table. */
export class SymbolError extends Error {
  override name = 'SymbolError';
}

/** The symbols of a machine. No two of them overlap. */
export class Kallsyms {
  /** Ascending by start; #starts holds the same starts as signed numbers. */
  readonly #symbols: KernelSymbol[] = [];
  readonly #starts: number[] = [];
  readonly #byName = new Map<string, KernelSymbol>();
  /** The symbol found last: stack walks ask for the same ones over and over. */
  #last: KernelSymbol | null = null;
  #lastStart = 0;
  /** Core kernel text, _stext to _etext, as signed numbers. */
  #textStart = Number.POSITIVE_INFINITY;
  #textEnd = Number.NEGATIVE_INFINITY;

  /** All of them, ascending by start. */
  get all(): readonly KernelSymbol[] {
    return this.#symbols;
  }

  /** Throws a SymbolError when the range is empty, not canonical, or overlaps another symbol. */
  add(symbol: KernelSymbol): void {
    const start = toSigned(symbol.start);
    const end = start + symbol.size;
    if (!(symbol.size >= 1) || Number.isNaN(start)) {
      throw new SymbolError(
        `symbol ${symbol.name} at ${hex(symbol.start)}, ${symbol.size} bytes: no such range`,
      );
    }
    const at = this.#indexAtOrBelow(start) + 1;
    for (const other of [this.#symbols[at - 1], this.#symbols[at]]) {
      if (other === undefined) continue;
      const otherStart = toSigned(other.start);
      if (start < otherStart + other.size && otherStart < end) {
        throw new SymbolError(
          `symbol ${symbol.name} at ${hex(symbol.start)}, ${symbol.size} bytes, overlaps ${other.name} at ` +
            `${hex(other.start)}, ${other.size} bytes`,
        );
      }
    }
    this.#symbols.splice(at, 0, symbol);
    this.#starts.splice(at, 0, start);
    if (!this.#byName.has(symbol.name)) this.#byName.set(symbol.name, symbol);
    if (symbol.kind === 'text') this.#extendText(start, end);
  }

  /** Throws a SymbolError when it is not there. */
  remove(symbol: KernelSymbol): void {
    const at = this.#symbols.indexOf(symbol);
    if (at < 0) throw new SymbolError(`symbol ${symbol.name} is removed, but is not there`);
    this.#symbols.splice(at, 1);
    this.#starts.splice(at, 1);
    if (this.#byName.get(symbol.name) === symbol) {
      this.#byName.delete(symbol.name);
      const other = this.#symbols.find(({ name }) => name === symbol.name);
      if (other !== undefined) this.#byName.set(other.name, other);
    }
    this.#last = null;
    this.#textStart = Number.POSITIVE_INFINITY;
    this.#textEnd = Number.NEGATIVE_INFINITY;
    for (const { kind, start, size } of this.#symbols) {
      if (kind === 'text') this.#extendText(toSigned(start), toSigned(start) + size);
    }
  }

  /** All symbols, ascending by address. */
  get symbols(): readonly KernelSymbol[] {
    return this.#symbols;
  }

  /** The symbol of the address, or null. The address behind a BPF image belongs to it, as in the kernel. */
  lookup(address: bigint): KernelSymbol | null {
    return this.#find(toSigned(address));
  }

  /** kallsyms_lookup_name(): address of the symbol, 0n when there is none. */
  kallsyms_lookup_name(name: string): bigint {
    return this.#byName.get(name)?.start ?? 0n;
  }

  /** %pS */
  sprint_symbol(address: bigint): string {
    return this.#sprint(address, 0);
  }

  /** %pB: names the function that the address returns to, even when the call was its last instruction. */
  sprint_backtrace(address: bigint): string {
    return this.#sprint(address, 1);
  }

  /** kernel_text_address(): the core kernel's text from its first function to its last, modules, BPF images. */
  kernel_text_address(address: bigint): boolean {
    const at = toSigned(address);
    if (at >= this.#textStart && at < this.#textEnd) return true;
    const symbol = this.#find(at);
    return symbol !== null && symbol.kind !== 'text';
  }

  /** True when the address lies in a BPF image or directly behind it. */
  is_bpf_text_address(address: bigint): boolean {
    return this.#find(toSigned(address))?.kind === 'bpf';
  }

  #sprint(address: bigint, back: number): string {
    const at = toSigned(address);
    const symbol = this.#find(at - back);
    if (symbol === null) return hex(address);
    const text = `${symbol.name}+${hex(at - toSigned(symbol.start))}/${hex(symbol.size)}`;
    return symbol.module === undefined ? text : `${text} [${symbol.module}]`;
  }

  #find(at: number): KernelSymbol | null {
    const last = this.#last;
    if (last !== null && at >= this.#lastStart && at < this.#lastStart + last.size) return last;
    const index = this.#indexAtOrBelow(at);
    const symbol = this.#symbols[index];
    const start = this.#starts[index];
    if (symbol === undefined || start === undefined || at > start + symbol.size) return null;
    // bpf_ksym_find() counts the first byte behind an image as part of it: a call may be its last instruction.
    if (at === start + symbol.size) return symbol.kind === 'bpf' ? symbol : null;
    this.#last = symbol;
    this.#lastStart = start;
    return symbol;
  }

  /** Index of the last symbol that starts at or below the address, or -1 (also for NaN). */
  #indexAtOrBelow(at: number): number {
    const starts = this.#starts;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((starts[middle] ?? 0) <= at) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  #extendText(start: number, end: number): void {
    this.#textStart = Math.min(this.#textStart, start);
    this.#textEnd = Math.max(this.#textEnd, end);
  }
}
