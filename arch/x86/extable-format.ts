/**
 * The exception table's format: arch/x86/include/asm/{extable,extable_fixup_types}.h and, for the entries
 * of BPF programs, arch/x86/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3.
 */
import { u64 } from '../../emu/address.js';
import type { ExtableSpec } from '../arch.js';
import { ENCODED_REGISTERS, regsOffset } from './regs.js';

/** sizeof(struct exception_table_entry): three signed words of 32 bits. */
export const EXTABLE_ENTRY_SIZE = 12;

export const EX_TYPE = {
  NONE: 0,
  DEFAULT: 1,
  FAULT: 2,
  UACCESS: 3,
  CLEAR_FS: 5,
  FPU_RESTORE: 6,
  BPF: 7,
  WRMSR: 8,
  RDMSR: 9,
  WRMSR_SAFE: 10,
  RDMSR_SAFE: 11,
  WRMSR_IN_MCE: 12,
  RDMSR_IN_MCE: 13,
  DEFAULT_MCE_SAFE: 14,
  FAULT_MCE_SAFE: 15,
  POP_REG: 16,
  IMM_REG: 17,
  FAULT_SGX: 18,
  UCOPY_LEN: 19,
  ZEROPAD: 20,
  ERETU: 21,
} as const;

export const EX_DATA_REG_SHIFT = 8;
export const EX_FLAG_CLEAR_AX = 1 << 12;
export const EX_FLAG_CLEAR_DX = 1 << 13;
export const EX_DATA_IMM_SHIFT = 16;

/** Fields of `fixup` in entries of BPF programs. */
export const ARENA_ACCESS = 1 << 31;
export const ARENA_REG_SHIFT = 16;
/** A write that clears a register, as atomics that fetch became after the merge. Which bit it is is chosen. */
export const ARENA_WRITE = 1 << 30;
/** In the place of the register to clear: a store, nothing to clear. */
export const DONT_CLEAR = 1;

const NAMES = new Map<number, string>(Object.entries(EX_TYPE).map(([name, number]) => [number, name]));

/** `EX_TYPE_…` of a number. */
export function exTypeName(type: number): string {
  const name = NAMES.get(type);
  return name === undefined ? `EX_TYPE ${type}` : `EX_TYPE_${name}`;
}

/** An exception-table entry that cannot be made. */
export class ExtableError extends Error {
  override name = 'ExtableError';
}

interface TypeName {
  readonly type: number;
  readonly imm?: number;
}

/** Types by name, with the kernel's composed ones: a type and a fixed immediate. */
const TYPE_NAMES = new Map<string, TypeName>([
  ...Object.entries(EX_TYPE)
    .filter(([name]) => name !== 'NONE')
    .map(([name, type]): [string, TypeName] => [name, { type }]),
  ['POP_ZERO', { type: EX_TYPE.POP_REG, imm: 0 }],
  ['EFAULT_REG', { type: EX_TYPE.IMM_REG, imm: -14 }],
  ['ZERO_REG', { type: EX_TYPE.IMM_REG, imm: 0 }],
  ['ONE_REG', { type: EX_TYPE.IMM_REG, imm: 1 }],
  ['UCOPY_LEN1', { type: EX_TYPE.UCOPY_LEN, imm: 1 }],
  ['UCOPY_LEN4', { type: EX_TYPE.UCOPY_LEN, imm: 4 }],
  ['UCOPY_LEN8', { type: EX_TYPE.UCOPY_LEN, imm: 8 }],
]);

/** Names that `ExtableSpec.type` may have. */
const EXTABLE_TYPES: readonly string[] = [...TYPE_NAMES.keys()];

const DATA_KEYS = ['reg', 'imm', 'clear_ax', 'clear_dx'];

/**
 * The 12 bytes of an entry at address `at`. `data` may hold `reg` (register name), `imm` (signed 16-bit
 * number), `clear_ax` and `clear_dx` (`true`).
 * @throws ExtableError for a name, register or distance that does not fit
 */
export function packExtable(entry: ExtableSpec, at: bigint): Uint8Array {
  const type = TYPE_NAMES.get(entry.type);
  if (type === undefined) {
    throw new ExtableError(`no exception-table type ${entry.type}; there are ${EXTABLE_TYPES.join(', ')}`);
  }
  const bpf = type.type === EX_TYPE.BPF;
  const bytes = new Uint8Array(EXTABLE_ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  view.setInt32(0, relative('instruction', entry.insn, at), true);
  view.setInt32(4, bpf ? bpfFixup(entry) : relative('fixup', entry.fixup, at + 4n), true);
  view.setInt32(8, bpf ? bpfData(entry) : data(entry, type), true);
  return bytes;
}

function relative(what: string, target: bigint, from: bigint): number {
  const distance = BigInt.asIntN(64, u64(target - from));
  if (distance !== BigInt.asIntN(32, distance)) {
    throw new ExtableError(`the ${what} 0x${target.toString(16)} is more than 2 GiB from its table`);
  }
  return Number(distance);
}

function bpfFixup(entry: ExtableSpec): number {
  if (!Number.isInteger(entry.length) || entry.length < 1 || entry.length > 15) {
    throw new ExtableError(`an instruction of ${entry.length} bytes: instructions have 1 to 15`);
  }
  const clear = entry.clear === null ? DONT_CLEAR : offsetOf(entry.clear);
  const arena = entry.arena === null ? 0 : ARENA_ACCESS | (offsetOf(entry.arena.register) << ARENA_REG_SHIFT);
  const write = entry.arena !== null && entry.data.write === 'true' ? ARENA_WRITE : 0;
  return entry.length | (clear << 8) | arena | write;
}

function bpfData(entry: ExtableSpec): number {
  const offset = entry.arena === null ? 0 : signed16('offset', entry.arena.offset);
  return EX_TYPE.BPF | (offset << EX_DATA_IMM_SHIFT);
}

function offsetOf(register: string): number {
  const offset = regsOffset(register);
  if (offset === undefined) {
    throw new ExtableError(`${register} is no register that a BPF program's entry can name`);
  }
  return offset;
}

function signed16(what: string, value: number): number {
  if (!Number.isInteger(value) || value < -0x8000 || value > 0x7fff) {
    throw new ExtableError(`${what} ${value} does not fit a signed 16-bit number`);
  }
  return value;
}

function data(entry: ExtableSpec, { type, imm }: TypeName): number {
  const given = entry.data;
  for (const key of Object.keys(given)) {
    if (!DATA_KEYS.includes(key)) {
      throw new ExtableError(`an exception-table entry has no ${key}; it has ${DATA_KEYS.join(', ')}`);
    }
  }
  const number = given.reg === undefined ? 0 : ENCODED_REGISTERS.indexOf(given.reg);
  if (number < 0) throw new ExtableError(`${given.reg} is no 64-bit general register`);
  const immediate = imm ?? (given.imm === undefined ? 0 : signed16('imm', Number(given.imm)));
  let flags = 0;
  if (given.clear_ax === 'true') flags |= EX_FLAG_CLEAR_AX;
  if (given.clear_dx === 'true') flags |= EX_FLAG_CLEAR_DX;
  return type | (number << EX_DATA_REG_SHIFT) | flags | (immediate << EX_DATA_IMM_SHIFT);
}
