/** A booted machine with one function in kernel text, called from the host again and again. */
import { System } from '../boot/system.js';
import type { Engine } from '../emu/cpu.js';
import { NO_EVENTS } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { ARCHES, type ArchName, argumentsOf, type GuestFunction } from './guest-code.js';

/** So much that no benchmark comes to an end by them. */
export const NO_LIMITS = { instructions: 1e12, milliseconds: 1e9 };

export class KernelCode {
  readonly system: System;
  readonly #fn: GuestFunction;
  /** Where the function begins. */
  readonly start: bigint;

  constructor(engine: Engine, arch: ArchName, fn: GuestFunction) {
    this.system = System.boot({ arch: ARCHES[arch], engine, sink: NO_EVENTS, limits: NO_LIMITS });
    this.#fn = fn;
    this.start = this.system.textBase('kernel');
    this.system.loadText({ name: 'bench', start: this.start, code: fn.code });
  }

  /** Calls the function; it must return. */
  call(...values: bigint[]): void {
    const outcome = drain(this.system.call(0, this.start, argumentsOf(this.#fn, ...values)));
    if (outcome.kind !== 'returned') throw new Error(`the run ended otherwise: ${outcome.kind}`);
  }

  close(): void {
    this.system.close();
  }
}
