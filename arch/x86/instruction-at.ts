/** The instruction that an exception interrupted, decoded. */
import type { ThisCpu } from '../arch.js';
import {
  MAX_INSTRUCTION_LENGTH,
  type RegisterReader,
  type X86Decoder,
  type X86Instruction,
} from './instruction.js';
import { mmuOf } from './mmu.js';
import type { X86PtRegs } from './regs.js';

/** The bytes at regs->ip, as many as can be read, and what decodes them. */
export function decoderOf(
  here: ThisCpu,
  regs: X86PtRegs,
): { readonly decoder: X86Decoder; readonly bytes: Uint8Array } {
  const mmu = mmuOf(here);
  return { decoder: mmu.decoder, bytes: instructionBytes(here, regs) };
}

function instructionBytes(here: ThisCpu, regs: X86PtRegs): Uint8Array {
  const { ram } = here;
  const mmu = mmuOf(here);
  const ip = regs.ipSigned;
  const pa = mmu.physical(ip);
  if (pa < 0) return new Uint8Array(0);
  const start = pa - ram.base;
  const room = 4096 - (pa % 4096);
  if (room >= MAX_INSTRUCTION_LENGTH) return ram.bytes.subarray(start, start + MAX_INSTRUCTION_LENGTH);
  const next = mmu.physical(ip + room);
  const first = ram.bytes.subarray(start, start + room);
  if (next < 0) return first;
  const bytes = new Uint8Array(MAX_INSTRUCTION_LENGTH);
  bytes.set(first);
  bytes.set(ram.bytes.subarray(next - ram.base, next - ram.base + MAX_INSTRUCTION_LENGTH - room), room);
  return bytes;
}

/** The interrupted instruction; null when its bytes are none. */
export function interruptedInstruction(here: ThisCpu, regs: X86PtRegs): X86Instruction | null {
  const { decoder, bytes } = decoderOf(here, regs);
  return decoder.decode(bytes);
}

/** Registers as the exception saved them; segment bases come from the CPU. */
export function registersOf(here: ThisCpu, regs: X86PtRegs): RegisterReader {
  return { read: (name) => regs.named(name) ?? here.cpu.read(name) };
}
