/**
 * A kernel fault that nobody handles: a function reads through a bad pointer, the fault path asks exception
 * tables, KFENCE and BPF in vain, and the task dies.
 */
import { TaskDead } from '../arch/kernel.js';
import type { System } from '../boot/system.js';
import type { Engine } from '../emu/cpu.js';
import { drain } from '../emu/path.js';
import { type ArchName, argumentsOf, GUEST_CODE } from './guest-code.js';
import { KernelCode } from './kernel-code.js';
import type { Subject } from './subject.js';

/** In the vmalloc space of both architectures, where nothing is. */
const BAD_POINTER: Readonly<Record<ArchName, bigint>> = {
  'x86-64': 0xffff_c900_0dea_d008n,
  arm64: 0xffff_8000_9dea_d008n,
};
/** A machine is thrown away before the kernel finds that it oopsed too often, and its console grew. */
const OOPSES = 2000;

/**
 * `all`: with its text on the console. `first word`: the task dies where the kernel would print the first
 * line, so that the path is left and nearly no text.
 */
export type OopsExtent = 'all' | 'first word';

export class Oops implements Subject {
  #machine: KernelCode;
  #count = 0;
  readonly #boot: () => KernelCode;
  readonly #arch: ArchName;

  constructor(
    engine: Engine,
    arch: ArchName,
    readonly rounds: number,
    extent: OopsExtent,
  ) {
    this.#arch = arch;
    this.#boot = () => {
      const machine = new KernelCode(engine, arch, GUEST_CODE[arch].readWord);
      if (extent === 'first word') dieSpeechless(machine.system);
      return machine;
    };
    this.#machine = this.#boot();
  }

  run(): void {
    const { system, start } = this.#machine;
    const registers = argumentsOf(GUEST_CODE[this.#arch].readWord, BAD_POINTER[this.#arch]);
    for (let i = 0; i < this.rounds; i++) {
      const outcome = drain(system.call(0, start, registers));
      if (outcome.kind !== 'oops') throw new Error(`the run ended otherwise: ${outcome.kind}`);
    }
    this.#count += this.rounds;
  }

  reset(): void {
    if (this.#count + this.rounds < OOPSES) return;
    this.#machine.close();
    this.#machine = this.#boot();
    this.#count = 0;
  }

  close(): void {
    this.#machine.close();
  }
}

function dieSpeechless({ kernel }: System): void {
  const printk = (): never => {
    throw new TaskDead({ kind: 'oops', title: '', signal: 0 });
  };
  if (!Reflect.set(kernel, 'printk', printk)) throw new Error('printk cannot be replaced');
}
