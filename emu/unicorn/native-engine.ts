/** The native Unicorn library as an engine. */
import type { Cpu, CpuOptions, Engine } from '../cpu.js';
import { Ram } from '../ram.js';
import { IdleParts } from './idle-parts.js';
import { libraryPath, openLibrary, type UnicornLibrary } from './library.js';
import { NativeCpu } from './native-cpu.js';
import type { Isa } from './raw-engine.js';

export interface NativeEngineOptions {
  /**
   * Keep the ram and the CPUs of closed machines, and make the next ones of them. Opening an engine and
   * mapping fresh memory cost more than a small machine's whole life.
   */
  readonly reuse?: boolean;
}

export class NativeEngine implements Engine {
  readonly version: string;
  private readonly unicorn: UnicornLibrary;
  private readonly idle: IdleParts | null;

  /**
   * @param path the library's file
   * @throws LibraryError when it cannot be used
   */
  constructor(path: string = libraryPath(), options: NativeEngineOptions = {}) {
    this.unicorn = openLibrary(path);
    this.version = this.unicorn.version;
    this.idle = options.reuse === true ? new IdleParts(this.unicorn.bindings) : null;
  }

  createRam(base: number, size: number): Ram {
    return this.idle === null ? new Ram(base, size) : this.idle.takeRam(base, size);
  }

  releaseRam(ram: Ram): void {
    this.idle?.keepRam(ram);
  }

  createCpu(isa: Isa, ram: Ram, options: CpuOptions): Cpu {
    const { idle, unicorn } = this;
    if (idle === null) return new NativeCpu(unicorn, isa, ram, options);
    return (
      idle.takeCpu(isa, ram, options) ?? new NativeCpu(unicorn, isa, ram, options, (cpu) => idle.keepCpu(cpu))
    );
  }

  /** Frees what is kept of closed machines. The engine can be used on. */
  close(): void {
    this.idle?.clear();
  }
}
