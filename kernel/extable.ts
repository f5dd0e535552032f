/**
 * Port of the search of exception tables: kernel/extable.c, lib/extable.c and search_bpf_extables() of
 * kernel/bpf/core.c (bpf-next merge 8496d9020ff3).
 *
 * The entries are real bytes in ram; only their first word matters here: the distance from itself to the
 * instruction, 32 bits signed. What an entry says to do is the architecture's.
 */
import type { VaRange } from '../arch/arch.js';
import type { ExtableHit } from '../arch/kernel.js';
import { hex, toSigned } from '../emu/address.js';
import type { Ram } from '../emu/ram.js';

export type ExtableKind = 'kernel' | 'module' | 'bpf';

/** One table. Its bytes follow each other in physical memory too. */
export interface ExceptionTable {
  readonly kind: ExtableKind;
  /** Virtual address of the first entry, a multiple of 4. */
  readonly va: bigint;
  /** Physical address of the first entry. */
  readonly pa: number;
  /** Entries, sorted by instruction address. */
  readonly count: number;
  /** Bytes of one entry, a multiple of 4. */
  readonly entrySize: number;
  /** Module text or program image that the table is for; null for the kernel's own. */
  readonly range: VaRange | null;
}

/** A table that cannot be searched. */
export class ExtableError extends Error {
  override name = 'ExtableError';
}

/** A table with what the search needs as numbers. */
interface Registered {
  readonly table: ExceptionTable;
  readonly va: number;
  /** Index of the first entry in ram.words32, and of the distance from one to the next. */
  readonly word: number;
  readonly step: number;
  readonly start: number;
  readonly end: number;
}

/** All exception tables of a machine, in the order in which the kernel asks them. */
export class ExceptionTables {
  readonly #ram: Ram;
  readonly #kernel: Registered[] = [];
  readonly #modules: Registered[] = [];
  readonly #bpf: Registered[] = [];

  constructor(ram: Ram) {
    this.#ram = ram;
  }

  /**
   * Throws an ExtableError for a table that is misaligned, not in the ram, without a range where one is
   * needed, or not sorted (the kernel sorts at build or load time; here whoever builds the table does).
   */
  register(table: ExceptionTable): void {
    const { kind, va, pa, count, entrySize, range } = table;
    const where = `exception table at ${hex(va)} (physical ${hex(pa)}, ${count} entries of ${entrySize} bytes)`;
    if (va % 4n !== 0n || pa % 4 !== 0 || entrySize % 4 !== 0)
      throw new ExtableError(`${where}: not aligned to 4`);
    if (!this.#ram.contains(pa, count * entrySize)) throw new ExtableError(`${where}: not in the ram`);
    if (kind !== 'kernel' && range === null)
      throw new ExtableError(`${where}: a ${kind} table needs a range`);
    const registered: Registered = {
      table,
      va: toSigned(va),
      word: (pa - this.#ram.base) / 4,
      step: entrySize / 4,
      start: range === null ? Number.NEGATIVE_INFINITY : toSigned(range.start),
      end: range === null ? Number.POSITIVE_INFINITY : toSigned(range.end),
    };
    for (let i = 1; i < count; i++) {
      if (this.#insnAddress(registered, i) < this.#insnAddress(registered, i - 1)) {
        throw new ExtableError(`${where}: entry ${i} is for a lower address than entry ${i - 1}; sort it`);
      }
    }
    this.#listOf(kind).push(registered);
  }

  /** Throws an ExtableError when it is not registered. */
  unregister(table: ExceptionTable): void {
    const list = this.#listOf(table.kind);
    const index = list.findIndex((registered) => registered.table === table);
    if (index < 0) throw new ExtableError(`exception table at ${hex(table.va)} is not registered`);
    list.splice(index, 1);
  }

  /** The entry for the instruction at exactly `address`: of the kernel, else of a module, else of a program. */
  search_exception_tables(address: bigint): ExtableHit | null {
    const at = toSigned(address);
    for (const registered of this.#kernel) {
      const hit = this.#search(registered, at);
      if (hit !== null) return hit;
    }
    return this.#searchOwner(this.#modules, at) ?? this.#searchOwner(this.#bpf, at);
  }

  /** The table of whoever's text contains the address. */
  #searchOwner(list: readonly Registered[], at: number): ExtableHit | null {
    for (const registered of list) {
      if (at >= registered.start && at < registered.end) return this.#search(registered, at);
    }
    return null;
  }

  #search(registered: Registered, at: number): ExtableHit | null {
    const { va, pa, count, entrySize } = registered.table;
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const insn = this.#insnAddress(registered, middle);
      if (insn === at) {
        return { va: va + BigInt(middle * entrySize), pa: pa + middle * entrySize };
      }
      if (insn < at) low = middle + 1;
      else high = middle;
    }
    return null;
  }

  /** ex_to_insn(): an address relative to where it stands. */
  #insnAddress({ va, word, step }: Registered, index: number): number {
    const distance = (this.#ram.words32[word + index * step] ?? 0) | 0;
    return va + index * step * 4 + distance;
  }

  #listOf(kind: ExtableKind): Registered[] {
    switch (kind) {
      case 'kernel':
        return this.#kernel;
      case 'module':
        return this.#modules;
      case 'bpf':
        return this.#bpf;
    }
  }
}
