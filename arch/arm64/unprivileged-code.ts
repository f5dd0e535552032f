/**
 * Whether code that runs may hold an LDTR or STTR.
 *
 * At EL1 these use the TLB entries of EL0, but the engine does not say so when it asks for a translation.
 * Reading the instruction on every fill would double what a fill costs, so pages are searched when code is
 * first fetched from them: as long as no page holds such an instruction, none need be expected.
 */
import type { Ram } from '../../emu/ram.js';

const WORDS_PER_PAGE = 1024;

export class UnprivilegedCode {
  /** True once a page was seen that holds a word which would be an LDTR or STTR. */
  possible = false;
  readonly #pages = new Set<number>();

  constructor(readonly ram: Ram) {}

  /** Code is fetched from the page at physical `pa`. */
  note(pa: number): void {
    if (this.#pages.has(pa)) return;
    this.#pages.add(pa);
    if (!this.possible) this.possible = this.#holds(pa);
  }

  /**
   * Searches all pages again that are known to hold code, because the host may have changed them: part of
   * every call from the host. Code that writes itself an LDTR while it runs is not noticed.
   */
  searchAgain(): void {
    this.possible = [...this.#pages].some((pa) => this.#holds(pa));
  }

  #holds(pa: number): boolean {
    const { words32, base } = this.ram;
    const first = (pa - base) / 4;
    for (let i = first; i < first + WORDS_PER_PAGE; i++) {
      // Loads and stores (unprivileged): 111 0 00 in bits 29:24, bit 21 = 0, bits 11:10 = 10.
      if (((words32[i] ?? 0) & 0x3f20_0c00) === 0x3800_0800) return true;
    }
    return false;
  }
}
