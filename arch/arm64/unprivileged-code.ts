/**
 * Whether code that runs may use the rights of EL0 without the engine or its host saying so.
 *
 * LDTR and STTR at EL1 use the TLB entries of EL0, and an ERET by guest code goes to EL0; the engine mentions
 * neither when it asks for a translation. Reading the mode and the instruction on every fill would double
 * what a fill costs, so pages are searched when code is first fetched from them: as long as no page holds
 * such an instruction, none need be expected.
 */
import type { Ram } from '../../emu/ram.js';

const WORDS_PER_PAGE = 1024;

export class UnprivilegedCode {
  /** True once a page was seen that holds a word which would be an LDTR, STTR or ERET. */
  possible = false;
  readonly #pages = new Set<number>();
  #changed = false;

  constructor(readonly ram: Ram) {}

  /** Code is fetched from the page at physical `pa`. */
  note(pa: number): void {
    if (this.#pages.has(pa)) return;
    this.#pages.add(pa);
    if (!this.possible) this.possible = this.#holds(pa);
  }

  /** The host has written to memory that may hold code. */
  changed(): void {
    this.#changed = true;
  }

  /**
   * Searches all pages again that are known to hold code, if the host has changed any: part of every call from
   * the host. That code writes itself such a word is not noticed before that.
   */
  searchAgain(): void {
    if (!this.#changed) return;
    this.#changed = false;
    this.possible = [...this.#pages].some((pa) => this.#holds(pa));
  }

  #holds(pa: number): boolean {
    const { words32, base } = this.ram;
    const first = (pa - base) / 4;
    for (let i = first; i < first + WORDS_PER_PAGE; i++) {
      const word = words32[i] ?? 0;
      // Loads and stores (unprivileged): 111 0 00 in bits 29:24, bit 21 = 0, bits 11:10 = 10.
      if ((word & 0x3f20_0c00) === 0x3800_0800) return true;
      // ERET, ERETAA, ERETAB.
      if (word >>> 12 === 0xd69f0) return true;
    }
    return false;
  }
}
