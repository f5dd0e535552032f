/**
 * Rams and CPUs of closed machines, waiting for the next machine. An engine has its ram mapped, so the two
 * stay together. What is handed out is as new: memory full of zeros, a CPU in the state of its creation.
 */
import type { CpuOptions } from '../cpu.js';
import { Ram } from '../ram.js';
import { addressOf, type Bindings } from './bindings.js';
import type { NativeCpu } from './native-cpu.js';
import type { Isa } from './raw-engine.js';

/** Bytes of ram that may lie idle; address space rather than memory, where the system takes back what was cleared. */
const MOST_IDLE = 512 * 2 ** 20;
/** madvise(2) on Linux: private memory reads as zeros afterwards. Elsewhere it promises less. */
const MADV_DONTNEED = 4;
/** Larger than the pages of any system that a library is built for: only whole ones are given back. */
const HOST_PAGE = 65536;

/** Memory with the CPUs that have it mapped. */
interface Part {
  readonly base: number;
  readonly memory: ArrayBuffer;
  readonly cpus: NativeCpu[];
}

export class IdleParts {
  /** Memory that was handed out, with the CPUs of its machine that are closed already. */
  readonly #used = new WeakMap<ArrayBufferLike, Part>();
  /** The one released last comes last. */
  readonly #idle: Part[] = [];

  constructor(private readonly bindings: Bindings) {}

  /**
   * A ram full of zeros, idle memory when there is some of exactly this place and size.
   * @throws RamError as `Ram` does
   */
  takeRam(base: number, size: number): Ram {
    const at = this.#idle.findLastIndex((part) => part.base === base && part.memory.byteLength === size);
    const part = this.#idle[at];
    if (part !== undefined) this.#idle.splice(at, 1);
    const ram = new Ram(base, size, part?.memory);
    this.#used.set(ram.memory, part ?? { base, memory: ram.memory, cpus: [] });
    return ram;
  }

  /** Clears a ram of `takeRam` and keeps it, with the CPUs over it; frees the oldest ones over the limit. */
  keepRam(ram: Ram): void {
    const part = this.#used.get(ram.memory);
    if (part === undefined) return;
    this.#used.delete(ram.memory);
    this.#clear(ram.bytes);
    this.#idle.push(part);
    let bytes = this.#idle.reduce((sum, { memory }) => sum + memory.byteLength, 0);
    while (bytes > MOST_IDLE) {
      const oldest = this.#idle.shift();
      if (oldest === undefined) break;
      bytes -= oldest.memory.byteLength;
      free(oldest);
    }
  }

  /** A CPU over this ram's memory, as new, or null. */
  takeCpu(isa: Isa, ram: Ram, { id, sentinel, filler }: CpuOptions): NativeCpu | null {
    const cpus = this.#used.get(ram.memory)?.cpus ?? [];
    const at = cpus.findIndex((cpu) => cpu.isa === isa && cpu.id === id && cpu.sentinel === sentinel);
    const [cpu] = at < 0 ? [] : cpus.splice(at, 1);
    if (cpu === undefined) return null;
    try {
      cpu.reopen(filler);
      return cpu;
    } catch (error) {
      cpu.free();
      throw error;
    }
  }

  /** Takes a closed CPU, if its ram is of `takeRam` and still in use; true when it did. */
  keepCpu(cpu: NativeCpu): boolean {
    const part = this.#used.get(cpu.ram.memory);
    part?.cpus.push(cpu);
    return part !== undefined;
  }

  /** Frees everything that is idle. */
  clear(): void {
    for (const part of this.#idle.splice(0)) free(part);
  }

  #clear(bytes: Uint8Array): void {
    if (process.platform !== 'linux') {
      bytes.fill(0);
      return;
    }
    // Whole host pages are given back to the system; the rest of the first and the last one is cleared.
    const start = addressOf(bytes);
    const end = start + bytes.length;
    const first = Math.ceil(start / HOST_PAGE) * HOST_PAGE;
    const last = Math.floor(end / HOST_PAGE) * HOST_PAGE;
    const done = first < last && this.bindings.madvise(first, last - first, MADV_DONTNEED) === 0;
    if (!done) {
      bytes.fill(0);
      return;
    }
    bytes.fill(0, 0, first - start);
    bytes.fill(0, last - start);
  }
}

function free({ cpus }: Part): void {
  for (const cpu of cpus) cpu.free();
}
