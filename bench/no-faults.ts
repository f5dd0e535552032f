/** What runs without a fault: a loop, and a call from the host that returns at once. */
import type { Engine } from '../emu/cpu.js';
import { type ArchName, GUEST_CODE } from './guest-code.js';
import { KernelCode } from './kernel-code.js';
import type { Subject } from './subject.js';

/** A loop over one word of memory; a round of it is one instruction. */
export class LoopWithoutFaults implements Subject {
  readonly rounds: number;
  readonly #machine: KernelCode;
  readonly #word: bigint;
  readonly #turns: bigint;

  /** @param instructions about so many for each run */
  constructor(engine: Engine, arch: ArchName, instructions: number) {
    const { loop, loopLength } = GUEST_CODE[arch];
    const turns = Math.ceil(instructions / loopLength);
    this.rounds = turns * loopLength;
    this.#turns = BigInt(turns);
    this.#machine = new KernelCode(engine, arch, loop);
    const { system } = this.#machine;
    this.#word = system.loadPages(4096, system.memory.pgtable.PAGE_KERNEL, 'bench');
  }

  run(): void {
    this.#machine.call(this.#word, this.#turns);
  }
  reset(): void {
    // Nothing changes but the word.
  }
  close(): void {
    this.#machine.close();
  }
}

/** Registers cleared, stack prepared, one instruction run. */
export class EmptyCall implements Subject {
  readonly #machine: KernelCode;

  constructor(
    engine: Engine,
    arch: ArchName,
    readonly rounds: number,
  ) {
    this.#machine = new KernelCode(engine, arch, GUEST_CODE[arch].nothing);
  }

  run(): void {
    for (let i = 0; i < this.rounds; i++) this.#machine.call();
  }
  reset(): void {
    // Nothing changes.
  }
  close(): void {
    this.#machine.close();
  }
}
