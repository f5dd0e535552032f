/** The native Unicorn library as an engine. */
import type { Cpu, CpuOptions, Engine } from '../cpu.js';
import type { Ram } from '../ram.js';
import { libraryPath, openLibrary, type UnicornLibrary } from './library.js';
import { NativeCpu } from './native-cpu.js';

export class NativeEngine implements Engine {
  readonly version: string;
  private readonly library: UnicornLibrary;

  /**
   * @param path the library's file
   * @throws LibraryError when it cannot be used
   */
  constructor(path: string = libraryPath()) {
    this.library = openLibrary(path);
    this.version = this.library.version;
  }

  createCpu(isa: 'x86-64' | 'arm64', ram: Ram, options: CpuOptions): Cpu {
    return new NativeCpu(this.library, isa, ram, options);
  }
}
