/**
 * Encodings of A64 instructions as the BPF JIT uses them.
 *
 * Ported from arch/arm64/lib/insn.c, arch/arm64/net/bpf_jit.h and the values of
 * arch/arm64/include/asm/insn.h, bpf-next merge 8496d9020ff3. Left out: what the JIT does not emit, and
 * decoding. Where the kernel prints an error and answers AARCH64_BREAK_FAULT, which its JIT finds when all
 * is written, an InsnError is thrown; only a logical immediate that does not exist is answered with null,
 * because the JIT asks for it.
 *
 * Registers are numbers 0 to 31, instructions unsigned 32-bit numbers, `sf` says 64 bits.
 */

/** BRK #0x100, which fills what is not written: AARCH64_BREAK_FAULT. */
export const AARCH64_BREAK_FAULT = 0xd4202000;
/** Bytes of an instruction. */
export const AARCH64_INSN_SIZE = 4;

export const A64_FP = 29;
export const A64_LR = 30;
export const A64_ZR = 31;
export const A64_SP = 31;

/** Operands that have no encoding; the message is the kernel's. */
export class InsnError extends Error {
  override name = 'InsnError';
}

const SF_BIT = 0x8000_0000;
const N_BIT = 1 << 22;
const LSL_12 = 1 << 22;
const SZ_1M = 1 << 20;
const SZ_128M = 1 << 27;

/** Sizes of loads and stores, log2 of bytes. */
export type LdstSize = 0 | 1 | 2 | 3;

function word(...parts: readonly number[]): number {
  let all = 0;
  for (const part of parts) all |= part;
  return all >>> 0;
}

const sfBit = (sf: boolean): number => (sf ? SF_BIT : 0);
const wordOrDouble = (sf: boolean): LdstSize => (sf ? 3 : 2);

/** Distance in bytes of a branch, checked. */
function label_imm_common(offset: number, range: number): number {
  if (offset < -range || offset >= range) throw new InsnError('label_imm_common: offset out of range');
  return offset;
}

// Branches. Distances are in instructions.

function aarch64_insn_gen_branch_imm(value: number, imm26: number): number {
  const offset = label_imm_common(imm26 * AARCH64_INSN_SIZE, SZ_128M);
  return word(value, (offset >> 2) & 0x3ff_ffff);
}

export const A64_B = (imm26: number): number => aarch64_insn_gen_branch_imm(0x1400_0000, imm26);
export const A64_BL = (imm26: number): number => aarch64_insn_gen_branch_imm(0x9400_0000, imm26);

function imm19(offset: number): number {
  return ((label_imm_common(offset * AARCH64_INSN_SIZE, SZ_1M) >> 2) & 0x7_ffff) << 5;
}

export const A64_CBZ = (sf: boolean, rt: number, offset: number): number =>
  word(0x3400_0000, sfBit(sf), imm19(offset), rt);
export const A64_CBNZ = (sf: boolean, rt: number, offset: number): number =>
  word(0x3500_0000, sfBit(sf), imm19(offset), rt);

export const A64_COND_EQ = 0x0;
export const A64_COND_NE = 0x1;
export const A64_COND_CS = 0x2;
export const A64_COND_CC = 0x3;
export const A64_COND_HI = 0x8;
export const A64_COND_LS = 0x9;
export const A64_COND_GE = 0xa;
export const A64_COND_LT = 0xb;
export const A64_COND_GT = 0xc;
export const A64_COND_LE = 0xd;

export const A64_B_ = (cond: number, offset: number): number => word(0x5400_0000, imm19(offset), cond);

export const A64_BR = (rn: number): number => word(0xd61f_0000, rn << 5);
export const A64_BLR = (rn: number): number => word(0xd63f_0000, rn << 5);
export const A64_RET = (rn: number): number => word(0xd65f_0000, rn << 5);

// Loads and stores.

/** What a load or store does with its register; sign extension is to 64 bits. */
export type LdstKind = 'load' | 'load_signed' | 'store';

function ldst(kind: LdstKind, load: number, signed: number, store: number): number {
  switch (kind) {
    case 'load':
      return load;
    case 'load_signed':
      return signed;
    case 'store':
      return store;
  }
}

/** A64_LDR64 and its kin: register offset, [rn, rm]. */
export function A64_LS_REG(kind: LdstKind, size: LdstSize, rt: number, rn: number, rm: number): number {
  return word(ldst(kind, 0x3860_6800, 0x38a0_6800, 0x3820_6800), size << 30, rm << 16, rn << 5, rt);
}

/** A64_LDR64I and its kin: [rn, #imm], unsigned and scaled. */
export function A64_LS_IMM(kind: LdstKind, size: LdstSize, rt: number, rn: number, imm: number): number {
  if (imm < 0 || imm > 0xfff << size || (imm & ((1 << size) - 1)) !== 0) {
    throw new InsnError(`aarch64_insn_gen_load_store_imm: invalid imm: ${imm}`);
  }
  const value = ldst(kind, 0x3940_0000, 0x3980_0000, 0x3900_0000);
  return word(value, size << 30, (imm >> size) << 10, rn << 5, rt);
}

/** ldr xt, [pc, #offset in bytes] */
export function A64_LDR64LIT(rt: number, offset: number): number {
  return word(0x5800_0000, imm19(offset / AARCH64_INSN_SIZE), rt);
}

/** stp rt, rt2, [rn, #-16]! */
export const A64_PUSH = (rt: number, rt2: number, rn: number): number =>
  word(0xa980_0000, (-2 & 0x7f) << 15, rt2 << 10, rn << 5, rt);
/** ldp rt, rt2, [rn], #16 */
export const A64_POP = (rt: number, rt2: number, rn: number): number =>
  word(0xa8c0_0000, 2 << 15, rt2 << 10, rn << 5, rt);

function loadStoreEx(value: number, sf: boolean, rt: number, rn: number, rs: number): number {
  return word(value, wordOrDouble(sf) << 30, rs << 16, A64_ZR << 10, rn << 5, rt);
}

export const A64_LDXR = (sf: boolean, rt: number, rn: number): number =>
  loadStoreEx(0x0840_0000, sf, rt, rn, A64_ZR);
/** `rs` gets 0 when the store was done. */
export const A64_STXR = (sf: boolean, rt: number, rn: number, rs: number): number =>
  loadStoreEx(0x0800_0000, sf, rt, rn, rs);
export const A64_STLXR = (sf: boolean, rt: number, rn: number, rs: number): number =>
  loadStoreEx(0x0800_8000, sf, rt, rn, rs);

/** A64_LDARB, A64_LDARH, A64_LDAR32, A64_LDAR64 */
export const A64_LDAR = (size: LdstSize, rt: number, rn: number): number =>
  word(0x08df_fc00, size << 30, rn << 5, rt);
/** A64_STLRB, A64_STLRH, A64_STLR32, A64_STLR64 */
export const A64_STLR = (size: LdstSize, rt: number, rn: number): number =>
  word(0x089f_fc00, size << 30, rn << 5, rt);

/** Values of the operations of FEAT_LSE. */
export const LDADD = 0x3820_0000;
export const LDCLR = 0x3820_1000;
export const LDEOR = 0x3820_2000;
export const LDSET = 0x3820_3000;
export const SWP = 0x3820_8000;

const ORDER_ACQREL = 3 << 22;

/** A64_STADD and its kin: [rn] op= rs. */
export const A64_ST_OP = (op: number, sf: boolean, rn: number, rs: number): number =>
  word(op, wordOrDouble(sf) << 30, rs << 16, rn << 5, A64_ZR);
/** A64_LDADDAL and its kin, and A64_SWPAL: rt = [rn], then [rn] op= rs. */
export const A64_LD_OP_AL = (op: number, sf: boolean, rt: number, rn: number, rs: number): number =>
  word(op, ORDER_ACQREL, wordOrDouble(sf) << 30, rs << 16, rn << 5, rt);
/** rs = compare-and-swap of [rn] from rs to rt. */
export const A64_CASAL = (sf: boolean, rt: number, rn: number, rs: number): number =>
  word(0x08e0_fc00, wordOrDouble(sf) << 30, rs << 16, rn << 5, rt);

// Arithmetic.

function aarch64_insn_gen_add_sub_imm(value: number, sf: boolean, rd: number, rn: number, imm: number) {
  const shifted = (imm & ~0xfff) !== 0;
  if ((imm & ~0xff_ffff) !== 0 || (shifted && (imm & 0xfff) !== 0)) {
    throw new InsnError(`aarch64_insn_gen_add_sub_imm: invalid immediate encoding ${imm}`);
  }
  const imm12 = shifted ? imm >> 12 : imm;
  return word(value, sfBit(sf), shifted ? LSL_12 : 0, imm12 << 10, rn << 5, rd);
}

export const A64_ADD_I = (sf: boolean, rd: number, rn: number, imm: number): number =>
  aarch64_insn_gen_add_sub_imm(0x1100_0000, sf, rd, rn, imm);
export const A64_SUB_I = (sf: boolean, rd: number, rn: number, imm: number): number =>
  aarch64_insn_gen_add_sub_imm(0x5100_0000, sf, rd, rn, imm);
export const A64_CMN_I = (sf: boolean, rn: number, imm: number): number =>
  aarch64_insn_gen_add_sub_imm(0x3100_0000, sf, A64_ZR, rn, imm);
export const A64_CMP_I = (sf: boolean, rn: number, imm: number): number =>
  aarch64_insn_gen_add_sub_imm(0x7100_0000, sf, A64_ZR, rn, imm);

function aarch64_insn_gen_bitfield(
  value: number,
  sf: boolean,
  rd: number,
  rn: number,
  immr: number,
  imms: number,
): number {
  const mask = sf ? 0x3f : 0x1f;
  if ((immr & ~mask) !== 0) {
    throw new InsnError(`aarch64_insn_gen_bitfield: invalid immr encoding ${immr}`);
  }
  if ((imms & ~mask) !== 0) {
    throw new InsnError(`aarch64_insn_gen_bitfield: invalid imms encoding ${imms}`);
  }
  return word(value, sf ? SF_BIT | N_BIT : 0, immr << 16, imms << 10, rn << 5, rd);
}

export const A64_SBFM = (sf: boolean, rd: number, rn: number, immr: number, imms: number): number =>
  aarch64_insn_gen_bitfield(0x1300_0000, sf, rd, rn, immr, imms);
export const A64_UBFM = (sf: boolean, rd: number, rn: number, immr: number, imms: number): number =>
  aarch64_insn_gen_bitfield(0x5300_0000, sf, rd, rn, immr, imms);

export function A64_LSL(sf: boolean, rd: number, rn: number, shift: number): number {
  const sz = sf ? 64 : 32;
  return A64_UBFM(sf, rd, rn, (-shift >>> 0) % sz, sz - 1 - shift);
}
export const A64_LSR = (sf: boolean, rd: number, rn: number, shift: number): number =>
  A64_UBFM(sf, rd, rn, shift, sf ? 63 : 31);
export const A64_ASR = (sf: boolean, rd: number, rn: number, shift: number): number =>
  A64_SBFM(sf, rd, rn, shift, sf ? 63 : 31);
export const A64_UXTH = (sf: boolean, rd: number, rn: number): number => A64_UBFM(sf, rd, rn, 0, 15);
export const A64_UXTW = (sf: boolean, rd: number, rn: number): number => A64_UBFM(sf, rd, rn, 0, 31);
export const A64_SXTB = (sf: boolean, rd: number, rn: number): number => A64_SBFM(sf, rd, rn, 0, 7);
export const A64_SXTH = (sf: boolean, rd: number, rn: number): number => A64_SBFM(sf, rd, rn, 0, 15);
export const A64_SXTW = (sf: boolean, rd: number, rn: number): number => A64_SBFM(sf, rd, rn, 0, 31);

function aarch64_insn_gen_movewide(value: number, sf: boolean, rd: number, imm16: number, shift: number) {
  return word(value, sfBit(sf), (shift >> 4) << 21, imm16 << 5, rd);
}

/** `imm16` is unsigned, `shift` is 0, 16, 32 or 48. */
export const A64_MOVN = (sf: boolean, rd: number, imm16: number, shift: number): number =>
  aarch64_insn_gen_movewide(0x1280_0000, sf, rd, imm16, shift);
export const A64_MOVZ = (sf: boolean, rd: number, imm16: number, shift: number): number =>
  aarch64_insn_gen_movewide(0x5280_0000, sf, rd, imm16, shift);
export const A64_MOVK = (sf: boolean, rd: number, imm16: number, shift: number): number =>
  aarch64_insn_gen_movewide(0x7280_0000, sf, rd, imm16, shift);

/** Instructions of three registers: rd = rn op rm. */
function threeRegisters(value: number, sf: boolean, rd: number, rn: number, rm: number): number {
  return word(value, sfBit(sf), rm << 16, rn << 5, rd);
}

type ThreeRegisters = (sf: boolean, rd: number, rn: number, rm: number) => number;

export const A64_ADD: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x0b00_0000, sf, rd, rn, rm);
export const A64_SUB: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x4b00_0000, sf, rd, rn, rm);
export const A64_AND: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x0a00_0000, sf, rd, rn, rm);
export const A64_ORR: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x2a00_0000, sf, rd, rn, rm);
export const A64_EOR: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x4a00_0000, sf, rd, rn, rm);
export const A64_UDIV: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x1ac0_0800, sf, rd, rn, rm);
export const A64_SDIV: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x1ac0_0c00, sf, rd, rn, rm);
export const A64_LSLV: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x1ac0_2000, sf, rd, rn, rm);
export const A64_LSRV: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x1ac0_2400, sf, rd, rn, rm);
export const A64_ASRV: ThreeRegisters = (sf, rd, rn, rm) => threeRegisters(0x1ac0_2800, sf, rd, rn, rm);
export const A64_MUL: ThreeRegisters = (sf, rd, rn, rm) =>
  threeRegisters(0x1b00_0000 | (A64_ZR << 10), sf, rd, rn, rm);
/** rd = ra - rn * rm */
export const A64_MSUB = (sf: boolean, rd: number, ra: number, rn: number, rm: number): number =>
  threeRegisters(0x1b00_8000 | (ra << 10), sf, rd, rn, rm);

export const A64_NEG = (sf: boolean, rd: number, rm: number): number => A64_SUB(sf, rd, A64_ZR, rm);
export const A64_CMP = (sf: boolean, rn: number, rm: number): number =>
  threeRegisters(0x6b00_0000, sf, A64_ZR, rn, rm);
export const A64_TST = (sf: boolean, rn: number, rm: number): number =>
  threeRegisters(0x6a00_0000, sf, A64_ZR, rn, rm);
export const A64_MVN = (sf: boolean, rd: number, rm: number): number =>
  threeRegisters(0x2a20_0000, sf, rd, A64_ZR, rm);

/** A move that has the stack pointer on either side is an addition of 0. */
export function A64_MOV(sf: boolean, rd: number, rn: number): number {
  return rd === A64_SP || rn === A64_SP ? A64_ADD_I(sf, rd, rn, 0) : A64_ORR(sf, rd, A64_ZR, rn);
}

export const A64_REV16 = (sf: boolean, rd: number, rn: number): number =>
  word(0x5ac0_0400, sfBit(sf), rn << 5, rd);
export const A64_REV32 = (sf: boolean, rd: number, rn: number): number =>
  word(0x5ac0_0800, sfBit(sf), rn << 5, rd);
export const A64_REV64 = (rd: number, rn: number): number => word(0xdac0_0c00, rn << 5, rd);

// Logical immediates: a run of ones, rotated within an element of 2 to 64 bits that is repeated.

function fls64(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}

function lowestBit(value: bigint): number {
  return fls64(value & -value) - 1;
}

function hweight64(value: bigint): number {
  return value.toString(2).replaceAll('0', '').length;
}

/** Neither all ones nor zero. */
function range_of_ones(value: bigint): boolean {
  const shifted = value >> BigInt(lowestBit(value));
  return (shifted & (shifted + 1n)) === 0n;
}

const ones = (bits: number): bigint => (1n << BigInt(bits)) - 1n;

/** The fields N, immr and imms in their places, or null when there is no such immediate. */
function aarch64_encode_immediate(imm64: bigint, sf: boolean): number | null {
  let esz = sf ? 64 : 32;
  let mask = ones(esz);
  if (imm64 === 0n || imm64 === mask || (imm64 & ~mask) !== 0n) return null;
  for (let half = esz / 2; half >= 2; half /= 2) {
    const emask = ones(half);
    if ((imm64 & emask) !== ((imm64 >> BigInt(half)) & emask)) break;
    esz = half;
    mask = emask;
  }
  const n = esz === 64 ? N_BIT : 0;
  const imm = imm64 & mask;
  // The bit that says how wide the element is: ones above it, the count of ones below.
  const imms = ((hweight64(imm) - 1) | (0xf << fls64(BigInt(esz)))) & 0x3f;
  let ror: number;
  if (range_of_ones(imm)) {
    ror = lowestBit(imm);
  } else {
    const zeros = ~imm & mask;
    if (!range_of_ones(zeros)) return null;
    ror = fls64(zeros);
  }
  const immr = (esz - ror) % esz;
  return n | (immr << 16) | (imms << 10);
}

function A64_LOGIC_IMM(value: number, sf: boolean, rd: number, rn: number, imm: number): number | null {
  const fields = aarch64_encode_immediate(BigInt.asUintN(sf ? 64 : 32, BigInt(imm)), sf);
  return fields === null ? null : word(value, sfBit(sf), fields, rn << 5, rd);
}

/** `imm` is signed 32-bit, and sign-extended for 64 bits. Null: there is no such immediate. */
export const A64_AND_I = (sf: boolean, rd: number, rn: number, imm: number): number | null =>
  A64_LOGIC_IMM(0x1200_0000, sf, rd, rn, imm);
export const A64_ORR_I = (sf: boolean, rd: number, rn: number, imm: number): number | null =>
  A64_LOGIC_IMM(0x3200_0000, sf, rd, rn, imm);
export const A64_EOR_I = (sf: boolean, rd: number, rn: number, imm: number): number | null =>
  A64_LOGIC_IMM(0x5200_0000, sf, rd, rn, imm);
export const A64_TST_I = (sf: boolean, rn: number, imm: number): number | null =>
  A64_LOGIC_IMM(0x7200_0000, sf, A64_ZR, rn, imm);

// Hints, barriers, system registers.

export const A64_NOP = 0xd503_201f;
export const A64_PACIASP = 0xd503_233f;
export const A64_AUTIASP = 0xd503_23bf;
export const A64_BTI_J = 0xd503_249f;
export const A64_BTI_JC = 0xd503_24df;
export const A64_DMB_ISH = 0xd503_3bbf;
export const A64_DSB_NSH = 0xd503_379f;
export const A64_ISB = 0xd503_3fdf;
/** FEAT_SB */
export const A64_SB = 0xd503_30ff;
export const A64_MRS_TPIDR_EL1 = (rt: number): number => word(0xd538_d080, rt);
