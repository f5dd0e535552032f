/**
 * Exception tables: what an instruction that may fault says about going on.
 *
 * Ported from arch/arm64/mm/extable.c, include/asm/{extable,asm-extable}.h and the exception part of
 * arch/arm64/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3. Tables are searched by kernel/extable.
 */

import { hex } from '../../emu/address.js';
import { type Path, port } from '../../emu/path.js';
import type { ExtableSpec, ThisCpu } from '../arch.js';
import type { ExtableHit } from '../kernel.js';
import { wnr } from './esr.js';
import type { Arm64PtRegs } from './regs.js';

export const EX_TYPE_NONE = 0;
export const EX_TYPE_BPF = 1;
export const EX_TYPE_UACCESS_ERR_ZERO = 2;
export const EX_TYPE_KACCESS_ERR_ZERO = 3;
export const EX_TYPE_UACCESS_CPY = 4;
export const EX_TYPE_LOAD_UNALIGNED_ZEROPAD = 5;

const TYPE_NAMES: readonly string[] = [
  'EX_TYPE_NONE',
  'EX_TYPE_BPF',
  'EX_TYPE_UACCESS_ERR_ZERO',
  'EX_TYPE_KACCESS_ERR_ZERO',
  'EX_TYPE_UACCESS_CPY',
  'EX_TYPE_LOAD_UNALIGNED_ZEROPAD',
];

/** Data of UACCESS_ERR_ZERO: register numbers, 31 for none. The zeropad type uses the same two fields. */
const EX_DATA_REG_SECOND_SHIFT = 5;
const EX_DATA_REG_MASK = 0x1f;
const EX_DATA_UACCESS_WRITE = 1;

/** The `fixup` word of a BPF entry is no address. */
const BPF_FIXUP_OFFSET_MASK = 0xffff;
const BPF_ARENA_REG_SHIFT = 16;
const BPF_ARENA_ACCESS = 1 << 21;
/** A write that clears a register, as atomics that fetch became after the merge. Which bit it is is chosen. */
const BPF_ARENA_WRITE = 1 << 22;
const BPF_FIXUP_REG_SHIFT = 27;
/** Register number that stands for "clear nothing": no BPF register lives in x5. */
const DONT_CLEAR = 5;
/** What the JIT leaves in the unused `data` of a BPF entry: the upper half of its filler, BRK #0x100. */
const BPF_UNUSED_DATA = 0xd420;

/** struct exception_table_entry: s32 insn, s32 fixup, s16 type, s16 data. */
export const EXTABLE_ENTRY_SIZE = 12;

const MINUS_EFAULT = BigInt.asUintN(64, -14n);

interface exception_table_entry {
  readonly fixup: number;
  readonly type: number;
  readonly data: number;
  /** Address of the `fixup` field, which the field is relative to. */
  readonly fixupFieldVa: bigint;
}

function readEntry(here: ThisCpu, hit: ExtableHit): exception_table_entry {
  const { words32, base } = here.ram;
  const at = (hit.pa - base) / 4;
  const typeAndData = words32[at + 2] ?? 0;
  return {
    fixup: (words32[at + 1] ?? 0) | 0,
    type: typeAndData & 0xffff,
    data: typeAndData >>> 16,
    fixupFieldVa: hit.va + 4n,
  };
}

function get_ex_fixup(ex: exception_table_entry): bigint {
  return BigInt.asUintN(64, ex.fixupFieldVa + BigInt(ex.fixup));
}

/** Has the instruction an entry, and one for this direction? */
export function insn_may_access_user(here: ThisCpu, addr: bigint, esr: bigint): boolean {
  const hit = here.kernel.search_exception_tables(addr);
  if (hit === null) return false;
  const ex = readEntry(here, hit);
  return ex.type !== EX_TYPE_UACCESS_CPY || cpy_faulted_on_uaccess(ex, esr);
}

function cpy_faulted_on_uaccess(ex: exception_table_entry, esr: bigint): boolean {
  return ((ex.data & EX_DATA_UACCESS_WRITE) !== 0) === wnr(esr);
}

const ex_handler_bpf = port(
  'ex_handler_bpf',
  ['regs'],
  function* (here: ThisCpu, ex: exception_table_entry, regs: Arm64PtRegs): Path<boolean> {
    const dst = ex.fixup >>> BPF_FIXUP_REG_SHIFT;
    const arena = (ex.fixup & BPF_ARENA_ACCESS) !== 0;
    if (yield* here.trace.decide('ex_handler_bpf', 'is_arena', arena)) {
      const off = BigInt(((ex.fixup & BPF_FIXUP_OFFSET_MASK) << 16) >> 16);
      const base = regs.x((ex.fixup >>> BPF_ARENA_REG_SHIFT) & EX_DATA_REG_MASK);
      const addr = BigInt.asUintN(64, base + off);
      const is_write = dst === DONT_CLEAR || (ex.fixup & BPF_ARENA_WRITE) !== 0;
      yield* here.kernel.bpf_prog_report_arena_violation(here, is_write, addr, regs.pc);
    }
    if (yield* here.trace.decide('ex_handler_bpf', 'dst_reg != DONT_CLEAR', dst !== DONT_CLEAR)) {
      regs.pt_regs_write_reg(dst, 0n);
    }
    regs.pc = BigInt.asUintN(64, regs.pc + 4n);
    return true;
  },
);

const ex_handler_uaccess_err_zero = port(
  'ex_handler_uaccess_err_zero',
  ['regs'],
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* (_here: ThisCpu, ex: exception_table_entry, regs: Arm64PtRegs): Path<boolean> {
    // The order matters when both name the same register: zero wins.
    regs.pt_regs_write_reg(ex.data & EX_DATA_REG_MASK, MINUS_EFAULT);
    regs.pt_regs_write_reg((ex.data >>> EX_DATA_REG_SECOND_SHIFT) & EX_DATA_REG_MASK, 0n);
    regs.pc = get_ex_fixup(ex);
    return true;
  },
);

const ex_handler_uaccess_cpy = port(
  'ex_handler_uaccess_cpy',
  ['regs', 'esr'],
  function* (here: ThisCpu, ex: exception_table_entry, regs: Arm64PtRegs, esr: bigint): Path<boolean> {
    const kernel = !cpy_faulted_on_uaccess(ex, esr);
    if (yield* here.trace.decide('ex_handler_uaccess_cpy', '!cpy_faulted_on_uaccess(ex, esr)', kernel)) {
      return false;
    }
    regs.pc = get_ex_fixup(ex);
    return true;
  },
);

/**
 * The word that the load began in is read whole, and what lies in the next page becomes zero. Should that
 * word itself not be readable, the kernel's load would fault inside the handler: the oops that follows is
 * the caller's, with the registers of the first fault.
 */
const ex_handler_load_unaligned_zeropad = port(
  'ex_handler_load_unaligned_zeropad',
  ['regs'],
  // biome-ignore lint/correctness/useYield: it decides nothing
  function* (here: ThisCpu, ex: exception_table_entry, regs: Arm64PtRegs): Path<boolean> {
    const addr = regs.pt_regs_read_reg((ex.data >>> EX_DATA_REG_SECOND_SHIFT) & EX_DATA_REG_MASK);
    const offset = addr & 7n;
    const pa = here.mmu.peek(addr & ~7n);
    if (pa < 0) return false;
    const data = here.ram.readU64(pa) >> (8n * offset);
    regs.pt_regs_write_reg(ex.data & EX_DATA_REG_MASK, data);
    regs.pc = get_ex_fixup(ex);
    return true;
  },
);

export const fixup_exception = port(
  'fixup_exception',
  ['regs', 'esr'],
  function* (here: ThisCpu, regs: Arm64PtRegs, esr: bigint): Path<boolean> {
    const hit = here.kernel.search_exception_tables(regs.pc);
    const search = 'search_exception_tables(instruction_pointer(regs))';
    yield* here.trace.decide('fixup_exception', search, hit?.va ?? null);
    if (hit === null) return false;
    const ex = readEntry(here, hit);
    yield* here.trace.decide('fixup_exception', 'ex->type', TYPE_NAMES[ex.type] ?? ex.type);
    switch (ex.type) {
      case EX_TYPE_BPF:
        return yield* ex_handler_bpf(here, ex, regs);
      case EX_TYPE_UACCESS_ERR_ZERO:
      case EX_TYPE_KACCESS_ERR_ZERO:
        return yield* ex_handler_uaccess_err_zero(here, ex, regs);
      case EX_TYPE_UACCESS_CPY:
        return yield* ex_handler_uaccess_cpy(here, ex, regs, esr);
      case EX_TYPE_LOAD_UNALIGNED_ZEROPAD:
        return yield* ex_handler_load_unaligned_zeropad(here, ex, regs);
      default:
        // Line and offset are chosen: no report of it was found.
        return here.arch.die_bug(here, 'arch/arm64/mm/extable.c:105', 'fixup_exception+0x13c/0x160');
    }
  },
);

/** An exception-table entry that cannot be packed. */
export class ExtableSpecError extends Error {
  override name = 'ExtableSpecError';
}

const PACKABLE = [
  'BPF',
  'UACCESS_ERR_ZERO',
  'KACCESS_ERR_ZERO',
  'UACCESS_CPY',
  'LOAD_UNALIGNED_ZEROPAD',
] as const;

function registerNumber(name: string, what: string): number {
  const match = /^x([0-9]|[12][0-9]|30)$/.exec(name);
  if (match === null && name === 'xzr') return 31;
  if (match === null)
    throw new ExtableSpecError(`${what}: ${name} is not a register of arm64 (x0 to x30, xzr)`);
  return Number(match[1]);
}

/** Two registers out of the entry's data, by role; the register 31 (none) for a role that is not given. */
function registerPair(entry: ExtableSpec, first: string, second: string, required: boolean): number {
  for (const key of Object.keys(entry.data)) {
    if (key !== first && key !== second) {
      throw new ExtableSpecError(
        `${entry.type} has no data \`${key}\`, it has \`${first}\` and \`${second}\``,
      );
    }
  }
  const number = (role: string): number => {
    const name = entry.data[role];
    if (name === undefined && required)
      throw new ExtableSpecError(`${entry.type} needs the register \`${role}\``);
    return name === undefined ? 31 : registerNumber(name, role);
  };
  return number(first) | (number(second) << EX_DATA_REG_SECOND_SHIFT);
}

function bpfFixup(entry: ExtableSpec): number {
  let fixup = DONT_CLEAR << BPF_FIXUP_REG_SHIFT;
  if (entry.clear !== null) {
    const dst = registerNumber(entry.clear, 'clear');
    if (dst === DONT_CLEAR || dst === 31) {
      throw new ExtableSpecError(`clear: ${entry.clear} cannot be cleared by a BPF entry`);
    }
    fixup = dst << BPF_FIXUP_REG_SHIFT;
  }
  if (entry.arena !== null) {
    const { register, offset } = entry.arena;
    if (!Number.isInteger(offset) || offset < -0x8000 || offset > 0x7fff) {
      throw new ExtableSpecError(`arena offset ${offset}: it has 16 bits, -32768 to 32767`);
    }
    fixup |=
      BPF_ARENA_ACCESS | (registerNumber(register, 'arena') << BPF_ARENA_REG_SHIFT) | (offset & 0xffff);
    if (entry.data.write === 'true') fixup |= BPF_ARENA_WRITE;
  }
  return fixup;
}

/** Type, data and, for BPF, the encoded fixup of an entry. */
function encode(entry: ExtableSpec): { type: number; data: number; fixup: number | null } {
  switch (entry.type) {
    case 'BPF':
      return { type: EX_TYPE_BPF, data: BPF_UNUSED_DATA, fixup: bpfFixup(entry) };
    case 'UACCESS_ERR_ZERO':
      return { type: EX_TYPE_UACCESS_ERR_ZERO, data: registerPair(entry, 'err', 'zero', false), fixup: null };
    case 'KACCESS_ERR_ZERO':
      return { type: EX_TYPE_KACCESS_ERR_ZERO, data: registerPair(entry, 'err', 'zero', false), fixup: null };
    case 'LOAD_UNALIGNED_ZEROPAD': {
      const data = registerPair(entry, 'data', 'addr', true);
      return { type: EX_TYPE_LOAD_UNALIGNED_ZEROPAD, data, fixup: null };
    }
    case 'UACCESS_CPY': {
      const write = entry.data.write ?? 'false';
      if (write !== 'true' && write !== 'false') {
        throw new ExtableSpecError(`UACCESS_CPY: write is \`true\` or \`false\`, not \`${write}\``);
      }
      return { type: EX_TYPE_UACCESS_CPY, data: write === 'true' ? EX_DATA_UACCESS_WRITE : 0, fixup: null };
    }
    default:
      throw new ExtableSpecError(
        `${entry.type} is not a type of exception-table entry on arm64: ${PACKABLE.join(', ')}`,
      );
  }
}

function relative(target: bigint, from: bigint, what: string): number {
  const distance = BigInt.asIntN(64, target - from);
  if (distance !== BigInt.asIntN(32, distance)) {
    throw new ExtableSpecError(
      `${what} ${hex(target)} is more than 2 GiB away from its entry at ${hex(from)}`,
    );
  }
  return Number(distance);
}

/**
 * Bytes of an entry that will stand at virtual address `at`.
 * @throws ExtableSpecError for an unknown type, a register that does not exist, or a value out of range
 */
export function packExtable(entry: ExtableSpec, at: bigint): Uint8Array {
  const bytes = new Uint8Array(EXTABLE_ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  const { type, data, fixup } = encode(entry);
  view.setInt32(0, relative(entry.insn, at, 'insn'), true);
  view.setInt32(4, fixup ?? relative(entry.fixup, at + 4n, 'fixup'), true);
  view.setUint16(8, type, true);
  view.setUint16(10, data, true);
  return bytes;
}
