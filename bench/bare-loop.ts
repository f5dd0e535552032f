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

const CODE_VA = 0x401000n;
const SENTINEL = 0x7ffe_0000_1000n;
/** 1: mov [rdi], rax; add rdi, 4096; jmp 1b */
const LOOP = Buffer.from('4889074881c700100000ebf4', 'hex');

class OnceRefused implements TlbFiller {
  pa = 0;
  granted = false;
  constructor(readonly ram: Ram) {}
  fill(_va: number | bigint, access: number): number {
    if (access === ACCESS_FETCH) {
      this.pa = 0x1000;
      return PERM_READ | PERM_EXEC;
    }
    if (!this.granted) return 0;
    this.granted = false;
    this.pa = 0x2000;
    return PERM_READ | PERM_WRITE;
  }
}

export class BareLoop {
  readonly #cpu: Cpu;
  readonly #filler: OnceRefused;
  #pc = CODE_VA;

  constructor(engine: Engine) {
    const ram = new Ram(0, 1 << 20);
    ram.write(0x1000, LOOP);
    this.#filler = new OnceRefused(ram);
    this.#cpu = engine.createCpu('x86-64', ram, { id: 0, filler: this.#filler, sentinel: SENTINEL });
    this.#cpu.write('rdi', 0x7f00_0000_0000n);
  }

  /** Does `rounds` rounds. */
  run(rounds: number): void {
    const cpu = this.#cpu;
    const filler = this.#filler;
    for (let i = 0; i < rounds; i++) {
      const stop = cpu.start(this.#pc, 1_000_000);
      if (stop.kind !== 'miss') throw new Error(`the engine stopped otherwise: ${stop.kind}`);
      this.#pc = cpu.read('rip');
      filler.granted = true;
    }
  }

  close(): void {
    this.#cpu.close();
  }
}
