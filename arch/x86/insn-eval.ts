/**
 * What the kernel's own decoder says an instruction addresses: insn_get_addr_ref() of
 * arch/x86/lib/insn-eval.c and the parts of arch/x86/lib/insn.c it needs, bpf-next merge 8496d9020ff3.
 *
 * It only looks at ModRM and SIB, so it is wrong about some instructions: one without ModRM counts as
 * [rax] (string instructions, push, wrmsr), and VEX does not extend register numbers. Reports about general
 * protection faults print what it says. Left out: 16-bit and 32-bit code, EVEX.
 */
import { u64 } from '../../emu/address.js';
import type { RegisterReader } from './instruction.js';
import { ENCODED_REGISTERS } from './regs.js';

/** struct insn, as far as used. */
export interface insn {
  /** First byte of the opcode: 0f for those of the other maps. */
  readonly opcode: number;
  readonly modrm: number;
  readonly sib: number | null;
  readonly displacement: bigint;
  readonly rex: number;
  readonly length: number;
  /** 8, or 4 with an address-size prefix. */
  readonly addr_bytes: number;
  /** Operand size by prefixes and opcode, which need not be the size of the access. */
  readonly opnd_bytes: number;
  readonly segment: 'fs' | 'gs' | null;
}

const REX_W = 8;
const REX_R = 4;
const REX_X = 2;
const REX_B = 1;

const PREFIXES: readonly number[] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];

/** Opcodes of the one-byte map with ModRM: Intel SDM volume 2, appendix A. */
function hasModrm(opcode: number): boolean {
  if (opcode < 0x40) return (opcode & 7) < 4;
  if (opcode >= 0x84 && opcode <= 0x8f) return true;
  if (opcode >= 0xd8 && opcode <= 0xdf) return true;
  return [
    0x63, 0x69, 0x6b, 0x80, 0x81, 0x83, 0xc0, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xf6, 0xf7, 0xfe,
    0xff,
  ].includes(opcode);
}

/** The same of the two-byte map, behind 0f. */
function hasModrm0f(opcode: number): boolean {
  if (opcode >= 0x04 && opcode <= 0x0c) return false;
  if (opcode >= 0x30 && opcode <= 0x37) return false;
  if (opcode >= 0x80 && opcode <= 0x8f) return false;
  if (opcode >= 0xc8 && opcode <= 0xcf) return false;
  return ![0x0e, 0x77, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa].includes(opcode);
}

/** Opcodes whose operands have 64 bits whatever the prefixes say: stack instructions and near jumps. */
function isForce64(map: number, opcode: number, modrm: number): boolean {
  if (map === 0x0f) return (opcode >= 0x80 && opcode <= 0x8f) || (opcode & 0xf6) === 0xa0;
  if (map !== 0) return false;
  if (opcode >= 0x50 && opcode <= 0x5f) return true;
  if (opcode >= 0x70 && opcode <= 0x7f) return true;
  if (opcode === 0xff) return [2, 4, 6].includes((modrm >> 3) & 7);
  return [0x68, 0x6a, 0x8f, 0x9c, 0x9d, 0xc2, 0xc3, 0xc8, 0xc9, 0xe8, 0xe9, 0xeb].includes(opcode);
}

/**
 * Takes an instruction of 64-bit mode apart.
 * @param bytes the instruction and what follows it, 15 bytes
 * @param length how many of them are the instruction
 */
export function insn_decode_kernel(bytes: Uint8Array, length: number): insn {
  const at = (i: number): number => bytes[i] ?? 0;
  let addr_bytes = 8;
  let opnd_bytes = 4;
  let segment: 'fs' | 'gs' | null = null;
  let i = 0;
  for (; PREFIXES.includes(at(i)); i++) {
    if (bytes.indexOf(at(i)) < i) continue;
    if (at(i) === 0x64) segment = 'fs';
    else if (at(i) === 0x65) segment = 'gs';
    else if (at(i) === 0x66) opnd_bytes ^= 6;
    else if (at(i) === 0x67) addr_bytes ^= 12;
  }
  let rex = 0;
  let map = 0;
  if (at(i) === 0xc5) {
    map = 0x0f;
    i += 2;
  } else if (at(i) === 0xc4) {
    map = (at(i + 1) & 0x1f) === 1 ? 0x0f : 0x38;
    if ((at(i + 2) & 0x80) !== 0) opnd_bytes = 8;
    i += 3;
  } else {
    if ((at(i) & 0xf0) === 0x40) {
      rex = at(i++);
      if ((rex & REX_W) !== 0) opnd_bytes = 8;
    }
    if (at(i) === 0x0f) {
      map = 0x0f;
      i += 1;
      if (at(i) === 0x38 || at(i) === 0x3a) map = at(i++);
    }
  }
  const opcode = at(i++);
  const withModrm = map === 0 ? hasModrm(opcode) : map === 0x0f ? hasModrm0f(opcode) : true;
  const modrm = withModrm ? at(i++) : 0;
  if (isForce64(map, opcode, modrm)) opnd_bytes = 8;
  const mod = modrm >> 6;
  const sib = withModrm && mod !== 3 && (modrm & 7) === 4 ? at(i++) : null;
  const base = sib === null ? modrm & 7 : sib & 7;
  const wide = mod === 2 || (mod === 0 && base === 5);
  let displacement = 0n;
  if (withModrm && mod === 1) displacement = BigInt.asIntN(8, BigInt(at(i)));
  else if (withModrm && mod < 3 && wide) {
    displacement = BigInt(at(i) | (at(i + 1) << 8) | (at(i + 2) << 16) | (at(i + 3) << 24));
  }
  return {
    opcode: map === 0 ? opcode : 0x0f,
    modrm,
    sib,
    displacement,
    rex,
    length,
    addr_bytes,
    opnd_bytes,
    segment,
  };
}

/** insn_get_modrm_reg_ptr(): the register that the middle of ModRM names, as instructions number it. */
export function insn_get_modrm_reg({ modrm, rex }: insn): number {
  return ((modrm >> 3) & 7) | ((rex & REX_R) !== 0 ? 8 : 0);
}

/**
 * The linear address, or null for an instruction whose ModRM names a register.
 * @param registers state before the instruction; `rip` is the address of the instruction itself
 */
export function insn_get_addr_ref(insn: insn, registers: RegisterReader): bigint | null {
  const { modrm, sib, rex, length, displacement, addr_bytes, segment } = insn;
  const mod = modrm >> 6;
  if (mod > 2) return null;
  const register = (number: number): bigint => registers.read(ENCODED_REGISTERS[number] ?? '');
  const low = sib === null ? modrm & 7 : sib & 7;
  const base = low + ((rex & REX_B) !== 0 ? 8 : 0);
  let address = displacement;
  // mod 0 with number 5: relative to the next instruction, or in a SIB byte no base at all.
  if (mod !== 0 || low !== 5) address += register(base);
  else if (sib === null) address += registers.read('rip') + BigInt(length);
  if (sib !== null) {
    const index = ((sib >> 3) & 7) + ((rex & REX_X) !== 0 ? 8 : 0);
    if (index !== 4) address += register(index) << BigInt(sib >> 6);
  }
  if (addr_bytes === 4) address &= 0xffff_ffffn;
  return u64(address + (segment === null ? 0n : registers.read(`${segment}_base`)));
}
