/** The instruction that an exception interrupted, decoded. */
import type { Ram } from '../../emu/ram.js';
import type { ThisCpu } from '../arch.js';
import {
  MAX_INSTRUCTION_LENGTH,
  type RegisterReader,
  X86Decoder,
  type X86Instruction,
} from './instruction.js';
import type { X86Mmu } from './mmu.js';
import type { X86PtRegs } from './regs.js';

const PLACES = 256;
/** Aligned words that hold all bytes of an instruction, wherever it starts in the first of them. */
const WORDS = 5;

/** What was decoded at a place of the ram, as long as its bytes are the same. */
interface Decoded {
  readonly pa: number;
  readonly words: Uint32Array;
  readonly instruction: X86Instruction | null;
}

/** Decodes the instructions that fault on one CPU. Code that faults again is found by its place. */
export class FaultingInstructions {
  readonly #ram: Ram;
  readonly #mmu: X86Mmu;
  readonly #decoder = new X86Decoder();
  readonly #decoded: (Decoded | undefined)[] = new Array<Decoded | undefined>(PLACES);

  constructor(ram: Ram, mmu: X86Mmu) {
    this.#ram = ram;
    this.#mmu = mmu;
  }

  /**
   * The instruction at an address.
   * @param ip signed number
   * @returns null when nothing can be read there, or the bytes are no instruction
   */
  at(ip: number): X86Instruction | null {
    const pa = this.#mmu.fetched(ip);
    if (pa < 0) return null;
    if (pa % 4096 > 4096 - WORDS * 4) return this.#decoder.decode(this.#bytes(ip, pa));
    const { words32, base } = this.#ram;
    const first = Math.floor((pa - base) / 4);
    const place = pa % PLACES;
    const known = this.#decoded[place];
    if (known !== undefined && known.pa === pa) {
      const { words } = known;
      let i = 0;
      while (i < WORDS && words[i] === words32[first + i]) i++;
      if (i === WORDS) return known.instruction;
    }
    const instruction = this.#decoder.decode(this.#bytes(ip, pa));
    this.#decoded[place] = { pa, words: words32.slice(first, first + WORDS), instruction };
    return instruction;
  }

  #bytes(ip: number, pa: number): Uint8Array {
    const { bytes, base } = this.#ram;
    const start = pa - base;
    const room = 4096 - (pa % 4096);
    if (room >= MAX_INSTRUCTION_LENGTH) return bytes.subarray(start, start + MAX_INSTRUCTION_LENGTH);
    const first = bytes.subarray(start, start + room);
    const next = this.#mmu.fetched(ip + room);
    if (next < 0) return first;
    const both = new Uint8Array(MAX_INSTRUCTION_LENGTH);
    both.set(first);
    both.set(bytes.subarray(next - base, next - base + MAX_INSTRUCTION_LENGTH - room), room);
    return both;
  }
}

/** Registers as the exception saved them; segment bases come from the CPU. */
export function registersOf(here: ThisCpu, regs: X86PtRegs): RegisterReader {
  return { read: (name) => regs.named(name) ?? here.cpu.read(name) };
}
