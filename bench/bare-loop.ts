/**
 * The engine with nothing behind it: each page is refused once, the engine stops, the same instruction is
 * started again and the fill is granted. What a handled fault costs beyond this is ours.
 */
import {
  ACCESS_FETCH,
  type Cpu,
  type Engine,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
  type TlbFiller,
} from '../emu/cpu.js';
import { Ram } from '../emu/ram.js';
import { ARCHES, type ArchName, GUEST_CODE } from './guest-code.js';
import type { Subject } from './subject.js';

const CODE_VA = 0x401000n;
const SENTINEL = 0x7ffe_0000_1000n;
const FIRST_PAGE = 0x7f00_0000_0000n;

class OnceRefused implements TlbFiller {
  pa = 0;
  granted = false;
  constructor(readonly base: number) {}
  fill(_va: number | bigint, access: number): number {
    if (access === ACCESS_FETCH) {
      this.pa = this.base + 0x1000;
      return PERM_READ | PERM_EXEC;
    }
    if (!this.granted) return 0;
    this.granted = false;
    this.pa = this.base + 0x2000;
    return PERM_READ | PERM_WRITE;
  }
}

export class BareLoop implements Subject {
  readonly #cpu: Cpu;
  readonly #filler: OnceRefused;
  readonly #pcRegister: string;
  #pc = CODE_VA;

  constructor(
    engine: Engine,
    arch: ArchName,
    readonly rounds: number,
  ) {
    const { layout, pcRegister } = ARCHES[arch];
    const { code, registers } = GUEST_CODE[arch].storeForEver;
    const ram = new Ram(layout.physBase, 1 << 20);
    ram.write(layout.physBase + 0x1000, code);
    this.#filler = new OnceRefused(layout.physBase);
    this.#pcRegister = pcRegister;
    this.#cpu = engine.createCpu(arch, ram, { id: 0, filler: this.#filler, sentinel: SENTINEL });
    for (const register of registers) this.#cpu.write(register, FIRST_PAGE);
  }

  run(): void {
    const cpu = this.#cpu;
    const filler = this.#filler;
    for (let i = 0; i < this.rounds; i++) {
      const stop = cpu.start(this.#pc, 1_000_000);
      if (stop.kind !== 'miss') throw new Error(`the engine stopped otherwise: ${stop.kind}`);
      this.#pc = cpu.read(this.#pcRegister);
      filler.granted = true;
    }
  }

  reset(): void {
    // Every page is a new one.
  }

  close(): void {
    this.#cpu.close();
  }
}
