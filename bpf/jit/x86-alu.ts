/**
 * Arithmetic and moves of the x86-64 JIT: those cases of do_jit() in arch/x86/net/bpf_jit_comp.c, bpf-next
 * merge 8496d9020ff3.
 *
 * Left out: BPF_ADDR_PERCPU, which needs the address of this_cpu_off.
 */
import { EINVAL } from '../../kernel/errno.js';
import {
  BPF_ADD,
  BPF_ADDR_PERCPU,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_CLASS,
  BPF_DIV,
  BPF_END,
  BPF_LSH,
  BPF_MOD,
  BPF_MOV,
  BPF_MUL,
  BPF_NEG,
  BPF_OP,
  BPF_OR,
  BPF_REG_0,
  BPF_RSH,
  BPF_SRC,
  BPF_SUB,
  BPF_X,
  BPF_XOR,
  type bpf_insn,
  insn_is_cast_user,
} from '../insn.js';
import { type JitArena, JitError } from './jit.js';
import {
  AUX_REG,
  add_1mod,
  add_1reg,
  add_2mod,
  add_2reg,
  EMIT_mov,
  emit_mov_imm32,
  emit_mov_reg,
  is_axreg,
  is_ereg,
  is_imm8,
  maybe_emit_1mod,
  maybe_emit_mod,
  type Prog,
  reg2hex,
} from './x86-emit.js';

/** rdx, where divisions leave the remainder. */
const BPF_REG_3 = 3;
/** rcx, where shifts without BMI2 take their count. */
const BPF_REG_4 = 4;

/** simple_alu_opcodes[] of the operations on two registers, and of the atomics; undefined for others. */
export function simple_alu_opcode(op: number): number | undefined {
  switch (op) {
    case BPF_ADD:
      return 0x01;
    case BPF_SUB:
      return 0x29;
    case BPF_AND:
      return 0x21;
    case BPF_OR:
      return 0x09;
    case BPF_XOR:
      return 0x31;
    default:
      return undefined;
  }
}

/** Opcodes with an immediate: ModRM of the general form, and the form for rax. */
function immediateOpcode(op: number): { readonly modrm: number; readonly rax: number } {
  switch (op) {
    case BPF_ADD:
      return { modrm: 0xc0, rax: 0x05 };
    case BPF_SUB:
      return { modrm: 0xe8, rax: 0x2d };
    case BPF_AND:
      return { modrm: 0xe0, rax: 0x25 };
    case BPF_OR:
      return { modrm: 0xc8, rax: 0x0d };
    default:
      return { modrm: 0xf0, rax: 0x35 };
  }
}

/** ModRM of the shifts, and VEX.pp of shlx, shrx, sarx. */
function shiftOpcode(op: number): { readonly modrm: number; readonly pp: number } {
  switch (op) {
    case BPF_LSH:
      return { modrm: 0xe0, pp: 1 };
    case BPF_RSH:
      return { modrm: 0xe8, pp: 3 };
    default:
      return { modrm: 0xf8, pp: 2 };
  }
}

/**
 * An instruction of BPF_ALU or BPF_ALU64. False: there is none with this code.
 * @throws JitError for fields that mean nothing
 */
export function emitAlu(
  prog: Prog,
  insn: bpf_insn,
  slot: number,
  arena: JitArena | null,
  bmi2: boolean,
): boolean {
  const { dst_reg, src_reg, imm } = insn;
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  const byRegister = BPF_SRC(insn.code) === BPF_X;
  const op = BPF_OP(insn.code);
  switch (op) {
    case BPF_ADD:
    case BPF_SUB:
    case BPF_AND:
    case BPF_OR:
    case BPF_XOR:
      if (byRegister) {
        maybe_emit_mod(prog, dst_reg, src_reg, is64);
        prog.emit(simple_alu_opcode(op) ?? 0, add_2reg(0xc0, dst_reg, src_reg));
      } else {
        emitImmediate(prog, op, is64, dst_reg, imm);
      }
      return true;
    case BPF_MOV:
      if (byRegister) emitMove(prog, insn, slot, arena);
      else emit_mov_imm32(prog, is64, dst_reg, imm);
      return true;
    case BPF_NEG:
      if (byRegister) return false;
      maybe_emit_1mod(prog, dst_reg, is64);
      prog.emit(0xf7, add_1reg(0xd8, dst_reg));
      return true;
    case BPF_MUL:
      if (byRegister) {
        maybe_emit_mod(prog, src_reg, dst_reg, is64);
        prog.emit(0x0f, 0xaf, add_2reg(0xc0, src_reg, dst_reg));
      } else {
        maybe_emit_mod(prog, dst_reg, dst_reg, is64);
        if (is_imm8(imm)) prog.emit(0x6b, add_2reg(0xc0, dst_reg, dst_reg), imm);
        else prog.emitOff32(imm, 0x69, add_2reg(0xc0, dst_reg, dst_reg));
      }
      return true;
    case BPF_DIV:
    case BPF_MOD:
      emitDivision(prog, insn);
      return true;
    case BPF_LSH:
    case BPF_RSH:
    case BPF_ARSH:
      if (!byRegister) {
        maybe_emit_1mod(prog, dst_reg, is64);
        const { modrm } = shiftOpcode(op);
        if (imm === 1) prog.emit(0xd1, add_1reg(modrm, dst_reg));
        else prog.emit(0xc1, add_1reg(modrm, dst_reg), imm);
      } else if (bmi2 && src_reg !== BPF_REG_4) {
        emit_shiftx(prog, dst_reg, src_reg, is64, shiftOpcode(op).pp);
      } else {
        emitShift(prog, insn, shiftOpcode(op).modrm, is64);
      }
      return true;
    case BPF_END:
      return emitEnd(prog, insn, slot);
    default:
      return false;
  }
}

function emitImmediate(prog: Prog, op: number, is64: boolean, dst_reg: number, imm: number): void {
  const { modrm, rax } = immediateOpcode(op);
  maybe_emit_1mod(prog, dst_reg, is64);
  if (is_imm8(imm)) prog.emit(0x83, add_1reg(modrm, dst_reg), imm);
  else if (is_axreg(dst_reg)) prog.emitOff32(imm, rax);
  else prog.emitOff32(imm, 0x81, add_1reg(modrm, dst_reg));
}

function emitMove(prog: Prog, insn: bpf_insn, slot: number, arena: JitArena | null): void {
  const { dst_reg, src_reg, off } = insn;
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  if (off === 0) {
    emit_mov_reg(prog, is64, dst_reg, src_reg);
  } else if (insn_is_cast_user(insn)) {
    if (arena === null) {
      const message = 'addr_space_cast insn can only be used in a program that has an associated arena';
      throw new JitError(message, slot, -EINVAL);
    }
    emitCastUser(prog, dst_reg, src_reg, arena.user_vm_start);
  } else if (off === 8 || off === 16 || (off === 32 && is64)) {
    emit_movsx_reg(prog, off, is64, dst_reg, src_reg);
  } else {
    const what =
      is64 && off === BPF_ADDR_PERCPU ? 'per-CPU addresses are not modelled' : `move with off ${off}`;
    throw new JitError(what, slot, -EINVAL);
  }
}

/** Puts the upper half of user_vm_start above the lower half, unless that is zero: NULL stays NULL. */
function emitCastUser(prog: Prog, dst_reg: number, src_reg: number, user_vm_start: bigint): void {
  const high = Number(BigInt.asIntN(32, user_vm_start >> 32n));
  if (dst_reg !== src_reg) emit_mov_reg(prog, false, dst_reg, src_reg);
  maybe_emit_1mod(prog, dst_reg, true);
  prog.emit(0xc1, add_1reg(0xe0, dst_reg), 32);
  maybe_emit_1mod(prog, dst_reg, true);
  if (is_axreg(dst_reg)) prog.emitOff32(high, 0x0d);
  else prog.emitOff32(high, 0x81, add_1reg(0xc8, dst_reg));
  maybe_emit_1mod(prog, dst_reg, true);
  prog.emit(0xc1, add_1reg(0xc0, dst_reg), 32);
  maybe_emit_mod(prog, AUX_REG, AUX_REG, true);
  prog.emit(0x31, add_2reg(0xc0, AUX_REG, AUX_REG));
  maybe_emit_mod(prog, dst_reg, dst_reg, false);
  prog.emit(0x85, add_2reg(0xc0, dst_reg, dst_reg));
  maybe_emit_mod(prog, AUX_REG, dst_reg, true);
  prog.emit(0x0f, 0x44, add_2reg(0xc0, AUX_REG, dst_reg));
}

function emit_movsx_reg(
  prog: Prog,
  num_bits: 8 | 16 | 32,
  is64: boolean,
  dst_reg: number,
  src_reg: number,
): void {
  const modrm = add_2reg(0xc0, src_reg, dst_reg);
  // Without any prefix, 4 to 7 in ModRM.rm are ah to bh: bytes always get one.
  if (is64 || num_bits === 8) prog.emit(add_2mod(is64 ? 0x48 : 0x40, src_reg, dst_reg));
  else maybe_emit_mod(prog, src_reg, dst_reg, false);
  switch (num_bits) {
    case 8:
      prog.emit(0x0f, 0xbe, modrm);
      break;
    case 16:
      prog.emit(0x0f, 0xbf, modrm);
      break;
    case 32:
      prog.emit(0x63, modrm);
      break;
  }
}

/** Division by zero is the verifier's business. */
function emitDivision(prog: Prog, insn: bpf_insn): void {
  const { dst_reg } = insn;
  const is64 = BPF_CLASS(insn.code) === BPF_ALU64;
  const result = BPF_OP(insn.code) === BPF_MOD ? BPF_REG_3 : BPF_REG_0;
  let { src_reg } = insn;
  if (dst_reg !== BPF_REG_0) prog.emit(0x50); // push rax
  if (dst_reg !== BPF_REG_3) prog.emit(0x52); // push rdx
  if (BPF_SRC(insn.code) === BPF_X) {
    if (src_reg === BPF_REG_0 || src_reg === BPF_REG_3) {
      EMIT_mov(prog, AUX_REG, src_reg);
      src_reg = AUX_REG;
    }
  } else {
    src_reg = AUX_REG;
    prog.emitOff32(insn.imm, add_1mod(0x48, src_reg), 0xc7, add_1reg(0xc0, src_reg));
  }
  if (dst_reg !== BPF_REG_0) emit_mov_reg(prog, is64, BPF_REG_0, dst_reg);
  if (insn.off === 0) {
    prog.emit(0x31, 0xd2); // xor edx, edx
    maybe_emit_1mod(prog, src_reg, is64);
    prog.emit(0xf7, add_1reg(0xf0, src_reg));
  } else {
    if (is64) prog.emit(0x48);
    prog.emit(0x99); // cdq, cqo
    maybe_emit_1mod(prog, src_reg, is64);
    prog.emit(0xf7, add_1reg(0xf8, src_reg));
  }
  if (dst_reg !== result) emit_mov_reg(prog, is64, dst_reg, result);
  if (dst_reg !== BPF_REG_3) prog.emit(0x5a); // pop rdx
  if (dst_reg !== BPF_REG_0) prog.emit(0x58); // pop rax
}

/** shl, shr or sar by cl. */
function emitShift(prog: Prog, insn: bpf_insn, modrm: number, is64: boolean): void {
  const { src_reg } = insn;
  let { dst_reg } = insn;
  if (src_reg !== BPF_REG_4) {
    if (dst_reg === BPF_REG_4) {
      EMIT_mov(prog, AUX_REG, dst_reg);
      dst_reg = AUX_REG;
    } else {
      prog.emit(0x51); // push rcx
    }
    EMIT_mov(prog, BPF_REG_4, src_reg);
  }
  maybe_emit_1mod(prog, dst_reg, is64);
  prog.emit(0xd3, add_1reg(modrm, dst_reg));
  if (src_reg !== BPF_REG_4) {
    if (insn.dst_reg === BPF_REG_4) EMIT_mov(prog, insn.dst_reg, AUX_REG);
    else prog.emit(0x59); // pop rcx
  }
}

/** BMI2: shlx, shrx or sarx, by VEX.pp. */
function emit_shiftx(prog: Prog, dst_reg: number, src_reg: number, is64: boolean, op: number): void {
  const r = is_ereg(dst_reg);
  emit_3vex(prog, r, false, r, 2, is64, src_reg, false, op);
  prog.emit(0xf7, add_2reg(0xc0, dst_reg, dst_reg));
}

/** A VEX prefix of three bytes: Intel SDM volume 2, section 2.3.5. R, X, B and vvvv are stored inverted. */
function emit_3vex(
  prog: Prog,
  r: boolean,
  x: boolean,
  b: boolean,
  m: number,
  w: boolean,
  src_reg2: number,
  l: boolean,
  pp: number,
): void {
  const vvvv = reg2hex(src_reg2) | (is_ereg(src_reg2) ? 8 : 0);
  prog.emit(
    0xc4,
    (r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | (m & 0x1f),
    (w ? 0x80 : 0) | ((~vvvv & 0xf) << 3) | (l ? 4 : 0) | (pp & 3),
  );
}

function emitEnd(prog: Prog, insn: bpf_insn, slot: number): boolean {
  const { dst_reg, imm } = insn;
  const toBigEndian = BPF_SRC(insn.code) === BPF_X;
  if (toBigEndian && BPF_CLASS(insn.code) !== BPF_ALU) return false;
  const swap = toBigEndian || BPF_CLASS(insn.code) === BPF_ALU64;
  switch (imm) {
    case 16:
      if (swap) {
        prog.emit(0x66); // ror by 8
        maybe_emit_1mod(prog, dst_reg, false);
        prog.emit(0xc1, add_1reg(0xc8, dst_reg), 8);
      }
      maybe_emit_mod(prog, dst_reg, dst_reg, false);
      prog.emit(0x0f, 0xb7, add_2reg(0xc0, dst_reg, dst_reg));
      return true;
    case 32:
      if (swap) {
        maybe_emit_1mod(prog, dst_reg, false);
        prog.emit(0x0f, add_1reg(0xc8, dst_reg));
      } else {
        emit_mov_reg(prog, false, dst_reg, dst_reg);
      }
      return true;
    case 64:
      if (swap) prog.emit(add_1mod(0x48, dst_reg), 0x0f, add_1reg(0xc8, dst_reg));
      return true;
    default:
      throw new JitError(`byte swap of ${imm} bits`, slot, -EINVAL);
  }
}
