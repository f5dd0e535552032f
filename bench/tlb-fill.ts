/**
 * What it costs when the engine asks for a translation that the tables have: a loop loads from one mapped
 * page after the other, and the TLB is emptied before it comes again.
 */
import type { Engine } from '../emu/cpu.js';
import { type ArchName, GUEST_CODE } from './guest-code.js';
import { KernelCode } from './kernel-code.js';
import type { Subject } from './subject.js';

const PAGE = 4096;
const BIG_PAGE = 0x20_0000;

/** How far the pages are from each other: `near` shares upper levels, `far` has its own last table each. */
export type Distance = 'near' | 'far';

export class TlbFill implements Subject {
  readonly #machine: KernelCode;
  readonly #first: bigint;
  readonly #distance: number;

  constructor(
    engine: Engine,
    arch: ArchName,
    readonly rounds: number,
    distance: Distance,
  ) {
    this.#machine = new KernelCode(engine, arch, GUEST_CODE[arch].loadPages);
    this.#distance = distance === 'near' ? PAGE : BIG_PAGE;
    this.#first = this.#map();
  }

  #map(): bigint {
    const { system } = this.#machine;
    const prot = system.memory.pgtable.PAGE_KERNEL;
    if (this.#distance === PAGE) return system.loadPages(this.rounds * PAGE, prot, 'bench');
    const { start } = system.arch.layout.vmalloc;
    const first = start + 0x1_0000_0000n;
    for (let i = 0; i < this.rounds; i++) {
      system.loadPages(PAGE, prot, 'bench', first + BigInt(i * this.#distance));
    }
    return first;
  }

  run(): void {
    this.#machine.call(this.#first, BigInt(this.rounds), BigInt(this.#distance));
  }
  reset(): void {
    this.#machine.system.here().cpu.flushTlb();
  }
  close(): void {
    this.#machine.close();
  }
}
