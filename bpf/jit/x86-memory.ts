/**
 * Loads, stores and atomics of the x86-64 JIT: emit_ldx() to emit_atomic_ld_st_index() and those cases of
 * do_jit() in arch/x86/net/bpf_jit_comp.c, bpf-next merge 8496d9020ff3.
 *
 * Arena memory is addressed as register + r12 + offset. What may fault gets an entry of the exception
 * table, see x86-extable.ts.
 */
import { TASK_SIZE_MAX, VSYSCALL_ADDR } from '../../arch/x86/processor.js';
import { EFAULT } from '../../kernel/errno.js';
import {
  BPF_ADD,
  BPF_AND,
  BPF_ATOMIC,
  BPF_B,
  BPF_CLASS,
  BPF_CMPXCHG,
  BPF_DW,
  BPF_FETCH,
  BPF_H,
  BPF_LDX,
  BPF_LOAD_ACQ,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MODE,
  BPF_NOSPEC,
  BPF_OP,
  BPF_OR,
  BPF_PROBE_ATOMIC,
  BPF_PROBE_MEM,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_PROBE_MEMSX,
  BPF_REG_0,
  BPF_REG_AX,
  BPF_SIZE,
  BPF_ST,
  BPF_W,
  BPF_XCHG,
  BPF_XOR,
  bpf_atomic_is_load_store,
  type bpf_insn,
} from '../insn.js';
import { JitError } from './jit.js';
import { simple_alu_opcode } from './x86-alu.js';
import {
  AUX_REG,
  add_1reg,
  add_2mod,
  add_2reg,
  add_3mod,
  EMIT_LFENCE,
  EMIT_mov,
  emit_insn_suffix,
  emit_insn_suffix_SIB,
  emit_mov_imm32,
  emit_mov_imm64,
  emit_mov_reg,
  is_ereg,
  is_ereg_8l,
  maybe_emit_1mod,
  maybe_emit_mod,
  type Prog,
  X86_REG_R12,
} from './x86-emit.js';

const PAGE_SIZE = 0x1000n;

/** Offsets of an instruction that needs an entry of the exception table, within the code of its slot. */
export interface Covered {
  readonly start: number;
  readonly end: number;
}

/** What emitMemory() did: an instruction to cover, null for none, or undefined: there is no such code. */
export type MemoryResult = Covered | null | undefined;

/** bpf_size_to_x86_bytes(): bytes of the immediate of a store. */
function bpf_size_to_x86_bytes(size: number): number {
  if (size === BPF_B) return 1;
  return size === BPF_H ? 2 : 4;
}

/** An instruction of BPF_LDX, BPF_ST or BPF_STX. */
export function emitMemory(prog: Prog, insn: bpf_insn, slot: number): MemoryResult {
  switch (BPF_CLASS(insn.code)) {
    case BPF_LDX:
      return emitLoad(prog, insn);
    case BPF_ST:
      return emitStoreImmediate(prog, insn);
    default:
      return emitStore(prog, insn, slot);
  }
}

function emitLoad(prog: Prog, insn: bpf_insn): MemoryResult {
  const { dst_reg, src_reg, off } = insn;
  const size = BPF_SIZE(insn.code);
  const start = prog.length;
  switch (BPF_MODE(insn.code)) {
    case BPF_MEM:
      emit_ldx(prog, size, dst_reg, src_reg, off);
      return null;
    case BPF_MEMSX:
      if (size === BPF_DW) return undefined;
      emit_ldsx(prog, size, dst_reg, src_reg, off);
      return null;
    case BPF_PROBE_MEM:
      return emitProbe(prog, insn, emit_ldx);
    case BPF_PROBE_MEMSX:
      return size === BPF_DW ? undefined : emitProbe(prog, insn, emit_ldsx);
    case BPF_PROBE_MEM32:
      emit_ldx_index(prog, size, dst_reg, src_reg, X86_REG_R12, off);
      return { start, end: prog.length };
    case BPF_PROBE_MEM32SX:
      if (size === BPF_DW) return undefined;
      emit_ldsx_index(prog, size, dst_reg, src_reg, X86_REG_R12, off);
      return { start, end: prog.length };
    default:
      return undefined;
  }
}

/**
 * A load that yields zero instead of a fault, and does not even touch what may be user memory: it is done
 * only if TASK_SIZE_MAX + PAGE_SIZE < src_reg + off < VSYSCALL_ADDR.
 */
function emitProbe(prog: Prog, insn: bpf_insn, load: typeof emit_ldx): Covered {
  const { dst_reg, src_reg, off } = insn;
  emit_mov_imm64(prog, BPF_REG_AX, VSYSCALL_ADDR);
  EMIT_mov(prog, AUX_REG, src_reg);
  if (off !== 0) {
    maybe_emit_1mod(prog, AUX_REG, true);
    prog.emitOff32(off, 0x81, add_1reg(0xc0, AUX_REG));
  }
  maybe_emit_mod(prog, AUX_REG, BPF_REG_AX, true);
  prog.emit(0x29, add_2reg(0xc0, AUX_REG, BPF_REG_AX));
  emit_mov_imm64(prog, BPF_REG_AX, TASK_SIZE_MAX + PAGE_SIZE - VSYSCALL_ADDR);
  maybe_emit_mod(prog, AUX_REG, BPF_REG_AX, true);
  prog.emit(0x39, add_2reg(0xc0, AUX_REG, BPF_REG_AX));
  prog.emit(0x77, 0); // ja, to the load
  const end_of_jmp = prog.length;
  emit_mov_imm32(prog, false, dst_reg, 0);
  prog.emit(0xeb, 0); // jmp, past the load
  const start = prog.length;
  prog.patch(end_of_jmp - 1, start - end_of_jmp);
  load(prog, BPF_SIZE(insn.code), dst_reg, src_reg, off);
  prog.patch(start - 1, prog.length - start);
  return { start, end: prog.length };
}

function emitStoreImmediate(prog: Prog, insn: bpf_insn): MemoryResult {
  const { dst_reg, off, imm } = insn;
  const size = BPF_SIZE(insn.code);
  const start = prog.length;
  switch (BPF_MODE(insn.code)) {
    case BPF_MEM:
      if (size === BPF_H) prog.emit(0x66);
      maybe_emit_1mod(prog, dst_reg, size === BPF_DW);
      prog.emit(size === BPF_B ? 0xc6 : 0xc7);
      emit_insn_suffix(prog, dst_reg, 0, off);
      prog.emitImm(imm, bpf_size_to_x86_bytes(size));
      return null;
    case BPF_PROBE_MEM32:
      emit_st_index(prog, size, dst_reg, X86_REG_R12, off, imm);
      return { start, end: prog.length };
    case BPF_NOSPEC:
      if (size !== BPF_W) return undefined;
      EMIT_LFENCE(prog);
      return null;
    default:
      return undefined;
  }
}

function emitStore(prog: Prog, insn: bpf_insn, slot: number): MemoryResult {
  const { dst_reg, src_reg, off, imm } = insn;
  const size = BPF_SIZE(insn.code);
  const start = prog.length;
  switch (BPF_MODE(insn.code)) {
    case BPF_MEM:
      emit_stx(prog, size, dst_reg, src_reg, off);
      return null;
    case BPF_PROBE_MEM32:
      emit_stx_index(prog, size, dst_reg, src_reg, X86_REG_R12, off);
      return { start, end: prog.length };
    case BPF_ATOMIC:
      if (bpf_atomic_is_load_store(insn)) {
        if (imm === BPF_LOAD_ACQ) emit_ldx(prog, size, dst_reg, src_reg, off);
        else emit_stx(prog, size, dst_reg, src_reg, off);
        return null;
      }
      refuseSmallRmw(size, slot);
      if (needsLoop(imm)) emitFetchLoop(prog, insn, slot);
      else emit_atomic_rmw(prog, imm, dst_reg, src_reg, off, size, slot);
      return null;
    case BPF_PROBE_ATOMIC:
      if (bpf_atomic_is_load_store(insn)) {
        if (imm === BPF_LOAD_ACQ) emit_ldx_index(prog, size, dst_reg, src_reg, X86_REG_R12, off);
        else emit_stx_index(prog, size, dst_reg, src_reg, X86_REG_R12, off);
      } else {
        refuseSmallRmw(size, slot);
        emit_atomic_rmw_index(prog, imm, size, dst_reg, src_reg, X86_REG_R12, off, slot);
      }
      return { start, end: prog.length };
    default:
      return undefined;
  }
}

function refuseSmallRmw(size: number, slot: number): void {
  if (size === BPF_B || size === BPF_H) {
    throw new JitError('bpf_jit: 1- and 2-byte RMW atomics are not supported', slot, -EFAULT);
  }
}

/** REX and opcode of a load that clears the rest of the register. */
export function emit_ldx(prog: Prog, size: number, dst_reg: number, src_reg: number, off: number): void {
  if (size === BPF_W) maybe_emit_mod(prog, src_reg, dst_reg, false);
  else prog.emit(add_2mod(0x48, src_reg, dst_reg));
  emitLoadOpcode(prog, size);
  emit_insn_suffix(prog, src_reg, dst_reg, off);
}

function emitLoadOpcode(prog: Prog, size: number): void {
  if (size === BPF_B) prog.emit(0x0f, 0xb6);
  else if (size === BPF_H) prog.emit(0x0f, 0xb7);
  else prog.emit(0x8b);
}

/** The same with sign extension to 64 bits; not for BPF_DW. */
function emit_ldsx(prog: Prog, size: number, dst_reg: number, src_reg: number, off: number): void {
  prog.emit(add_2mod(0x48, src_reg, dst_reg));
  emitSignedLoadOpcode(prog, size);
  emit_insn_suffix(prog, src_reg, dst_reg, off);
}

function emitSignedLoadOpcode(prog: Prog, size: number): void {
  if (size === BPF_B) prog.emit(0x0f, 0xbe);
  else if (size === BPF_H) prog.emit(0x0f, 0xbf);
  else prog.emit(0x63);
}

function emit_ldx_index(
  prog: Prog,
  size: number,
  dst_reg: number,
  src_reg: number,
  index_reg: number,
  off: number,
): void {
  prog.emit(add_3mod(size === BPF_DW ? 0x48 : 0x40, src_reg, dst_reg, index_reg));
  emitLoadOpcode(prog, size);
  emit_insn_suffix_SIB(prog, src_reg, dst_reg, index_reg, off);
}

function emit_ldsx_index(
  prog: Prog,
  size: number,
  dst_reg: number,
  src_reg: number,
  index_reg: number,
  off: number,
): void {
  prog.emit(add_3mod(0x48, src_reg, dst_reg, index_reg));
  emitSignedLoadOpcode(prog, size);
  emit_insn_suffix_SIB(prog, src_reg, dst_reg, index_reg, off);
}

function emit_stx(prog: Prog, size: number, dst_reg: number, src_reg: number, off: number): void {
  if (size === BPF_B) {
    if (is_ereg(dst_reg) || is_ereg_8l(src_reg)) prog.emit(add_2mod(0x40, dst_reg, src_reg));
    prog.emit(0x88);
  } else {
    if (size === BPF_H) prog.emit(0x66);
    maybe_emit_mod(prog, dst_reg, src_reg, size === BPF_DW);
    prog.emit(0x89);
  }
  emit_insn_suffix(prog, dst_reg, src_reg, off);
}

function emit_stx_index(
  prog: Prog,
  size: number,
  dst_reg: number,
  src_reg: number,
  index_reg: number,
  off: number,
): void {
  if (size === BPF_H) prog.emit(0x66);
  prog.emit(add_3mod(size === BPF_DW ? 0x48 : 0x40, dst_reg, src_reg, index_reg));
  prog.emit(size === BPF_B ? 0x88 : 0x89);
  emit_insn_suffix_SIB(prog, dst_reg, src_reg, index_reg, off);
}

function emit_st_index(
  prog: Prog,
  size: number,
  dst_reg: number,
  index_reg: number,
  off: number,
  imm: number,
): void {
  if (size === BPF_H) prog.emit(0x66);
  prog.emit(add_3mod(size === BPF_DW ? 0x48 : 0x40, dst_reg, 0, index_reg));
  prog.emit(size === BPF_B ? 0xc6 : 0xc7);
  emit_insn_suffix_SIB(prog, dst_reg, 0, index_reg, off);
  prog.emitImm(imm, bpf_size_to_x86_bytes(size));
}

/** xchg with memory locks without being asked. */
function emitLock(prog: Prog, atomic_op: number): void {
  if (atomic_op !== BPF_XCHG) prog.emit(0xf0);
}

function emitAtomicOpcode(prog: Prog, atomic_op: number, slot: number): void {
  switch (atomic_op) {
    case BPF_ADD:
    case BPF_AND:
    case BPF_OR:
    case BPF_XOR:
      prog.emit(simple_alu_opcode(atomic_op) ?? 0);
      break;
    case BPF_ADD | BPF_FETCH:
      prog.emit(0x0f, 0xc1);
      break;
    case BPF_XCHG:
      prog.emit(0x87);
      break;
    case BPF_CMPXCHG:
      prog.emit(0x0f, 0xb1);
      break;
    default: {
      const number = (atomic_op >>> 0).toString(16).padStart(2, '0');
      throw new JitError(`bpf_jit: unknown atomic opcode ${number}`, slot, -EFAULT);
    }
  }
}

function emit_atomic_rmw(
  prog: Prog,
  atomic_op: number,
  dst_reg: number,
  src_reg: number,
  off: number,
  size: number,
  slot: number,
): void {
  emitLock(prog, atomic_op);
  maybe_emit_mod(prog, dst_reg, src_reg, size === BPF_DW);
  emitAtomicOpcode(prog, atomic_op, slot);
  emit_insn_suffix(prog, dst_reg, src_reg, off);
}

function emit_atomic_rmw_index(
  prog: Prog,
  atomic_op: number,
  size: number,
  dst_reg: number,
  src_reg: number,
  index_reg: number,
  off: number,
  slot: number,
): void {
  emitLock(prog, atomic_op);
  prog.emit(add_3mod(size === BPF_DW ? 0x48 : 0x40, dst_reg, src_reg, index_reg));
  emitAtomicOpcode(prog, atomic_op, slot);
  emit_insn_suffix_SIB(prog, dst_reg, src_reg, index_reg, off);
}

/** No single instruction does these and gives the old value. */
const needsLoop = (imm: number): boolean =>
  imm === (BPF_AND | BPF_FETCH) || imm === (BPF_OR | BPF_FETCH) || imm === (BPF_XOR | BPF_FETCH);

/** A loop around cmpxchg; r10 keeps R0. */
function emitFetchLoop(prog: Prog, insn: bpf_insn, slot: number): void {
  const size = BPF_SIZE(insn.code);
  const is64 = size === BPF_DW;
  const { off } = insn;
  const src_reg = insn.src_reg === BPF_REG_0 ? BPF_REG_AX : insn.src_reg;
  const dst_reg = insn.dst_reg === BPF_REG_0 ? BPF_REG_AX : insn.dst_reg;
  emit_mov_reg(prog, true, BPF_REG_AX, BPF_REG_0);
  const branch_target = prog.length;
  emit_ldx(prog, size, BPF_REG_0, dst_reg, off);
  emit_mov_reg(prog, is64, AUX_REG, BPF_REG_0);
  maybe_emit_mod(prog, AUX_REG, src_reg, is64);
  prog.emit(simple_alu_opcode(BPF_OP(insn.imm)) ?? 0, add_2reg(0xc0, AUX_REG, src_reg));
  emit_atomic_rmw(prog, BPF_CMPXCHG, dst_reg, AUX_REG, off, size, slot);
  prog.emit(0x75, branch_target - (prog.length + 2)); // jne
  emit_mov_reg(prog, is64, src_reg, BPF_REG_0);
  emit_mov_reg(prog, true, BPF_REG_0, BPF_REG_AX);
}
