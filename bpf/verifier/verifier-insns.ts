/**
 * Instructions one by one, whatever they are for: check_and_resolve_insns(), check_insn_fields() and their kin of
 * kernel/bpf/verifier.c, bpf_opcode_in_insntable() of kernel/bpf/core.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: arguments on the stack (R11).
 */
import { EBADF, EINVAL, ENOENT } from '../../kernel/errno.js';
import * as I from '../insn.js';
import { Place, type VerifierInput } from './verifier.js';
import { isSubprogCall } from './verifier-cfg.js';

/** Modes of loads from packets, with BPF_LD. */
const BPF_ABS = 0x20;
const BPF_IND = 0x40;

const MAX_BPF_REG = 11;

const BINARY = [
  I.BPF_ADD,
  I.BPF_SUB,
  I.BPF_MUL,
  I.BPF_DIV,
  I.BPF_OR,
  I.BPF_AND,
  I.BPF_LSH,
  I.BPF_RSH,
  I.BPF_MOD,
  I.BPF_XOR,
  I.BPF_ARSH,
] as const;

const CONDITIONS = [
  I.BPF_JEQ,
  I.BPF_JNE,
  I.BPF_JGT,
  I.BPF_JLT,
  I.BPF_JGE,
  I.BPF_JLE,
  I.BPF_JSGT,
  I.BPF_JSLT,
  I.BPF_JSGE,
  I.BPF_JSLE,
  I.BPF_JSET,
] as const;

const SIZES = [I.BPF_B, I.BPF_H, I.BPF_W, I.BPF_DW] as const;
const SMALL_SIZES = [I.BPF_B, I.BPF_H, I.BPF_W] as const;

const both = (code: number): number[] => [code | I.BPF_X, code | I.BPF_K];

/** BPF_INSN_MAP() and what else bpf_opcode_in_insntable() has. */
const INSNTABLE: ReadonlySet<number> = new Set([
  ...[I.BPF_ALU, I.BPF_ALU64].flatMap((cls) => [
    ...[...BINARY, I.BPF_MOV].flatMap((op) => both(cls | op)),
    cls | I.BPF_NEG,
  ]),
  ...both(I.BPF_ALU | I.BPF_END),
  I.BPF_ALU64 | I.BPF_END,
  ...[I.BPF_JMP, I.BPF_JMP32].flatMap((cls) => CONDITIONS.flatMap((op) => both(cls | op))),
  I.BPF_JMP | I.BPF_CALL,
  I.BPF_JMP | I.BPF_EXIT,
  ...both(I.BPF_JMP | I.BPF_JA),
  I.BPF_JMP32 | I.BPF_JA,
  I.BPF_JMP | I.BPF_JCOND,
  ...SIZES.flatMap((size) => [
    I.BPF_STX | I.BPF_ATOMIC | size,
    I.BPF_STX | I.BPF_MEM | size,
    I.BPF_ST | I.BPF_MEM | size,
    I.BPF_LDX | I.BPF_MEM | size,
  ]),
  ...SMALL_SIZES.flatMap((size) => [
    I.BPF_LDX | I.BPF_MEMSX | size,
    I.BPF_LD | BPF_ABS | size,
    I.BPF_LD | BPF_IND | size,
  ]),
  I.BPF_LD_IMM64,
]);

/** Refuses instructions by their fields. Throws a VerifierError. */
export function check_insns(input: VerifierInput): void {
  const place = new Place(input);
  for (let slot = 0; slot < input.insns.length; slot += 1) {
    const insn = input.insns[slot];
    if (insn === undefined) continue;
    const refuse = (message: string): never => place.fail(message, EINVAL, slot);
    if (insn.dst_reg >= MAX_BPF_REG) refuse(`R${insn.dst_reg} is invalid`);
    if (insn.src_reg >= MAX_BPF_REG) refuse(`R${insn.src_reg} is invalid`);
    if (insn.code === I.BPF_LD_IMM64) {
      const problem = check_ld_imm64(input, slot, insn);
      if (problem !== null) place.fail(...problem, slot);
      slot += 1;
      continue;
    }
    if (!INSNTABLE.has(insn.code)) refuse(`unknown opcode ${insn.code.toString(16).padStart(2, '0')}`);
    const message = badFields(insn);
    if (message !== null) refuse(message);
    if (isSubprogCall(insn) && !input.subprogs.some(({ start }) => start === slot + 1 + insn.imm)) {
      refuse('a call into the middle of a function is not followed here');
    }
  }
}

type Problem = readonly [message: string, errno: number];

/** What is wrong with a 64-bit immediate, or null. */
function check_ld_imm64(input: VerifierInput, slot: number, insn: I.bpf_insn): Problem | null {
  const high = input.insns[slot + 1];
  if (high === undefined || high.code !== 0 || high.dst_reg !== 0 || high.src_reg !== 0 || high.off !== 0) {
    return ['invalid bpf_ld_imm64 insn', EINVAL];
  }
  if (insn.off !== 0) return ['BPF_LD_IMM64 uses reserved fields', EINVAL];
  // Names have been looked up; what is left are numbers that somebody wrote.
  if (input.wide.has(slot) || insn.src_reg === 0) return null;
  switch (insn.src_reg) {
    case I.BPF_PSEUDO_BTF_ID:
      return [`ldimm64 insn specifies invalid btf_id ${insn.imm}.`, ENOENT];
    case I.BPF_PSEUDO_FUNC:
      return ['the address of a function without its name is not followed here', EINVAL];
    case I.BPF_PSEUDO_MAP_FD:
    case I.BPF_PSEUDO_MAP_VALUE:
      if (insn.src_reg === I.BPF_PSEUDO_MAP_FD && high.imm !== 0) break;
      return [`fd ${insn.imm} is not pointing to valid bpf_map`, EBADF];
  }
  return ['unrecognized bpf_ld_imm64 insn', EINVAL];
}

/** check_insn_fields() of an opcode that there is: what the log says, or null. */
function badFields(insn: I.bpf_insn): string | null {
  const { code, dst_reg, src_reg, off, imm } = insn;
  switch (I.BPF_CLASS(code)) {
    case I.BPF_ALU:
    case I.BPF_ALU64:
      return check_alu_fields(insn);
    case I.BPF_JMP:
    case I.BPF_JMP32:
      return check_jmp_fields(insn);
    case I.BPF_LDX:
      return imm === 0 ? null : 'BPF_LDX uses reserved fields';
    case I.BPF_STX:
      return I.BPF_MODE(code) === I.BPF_ATOMIC || imm === 0 ? null : 'BPF_STX uses reserved fields';
    case I.BPF_ST:
      return src_reg === 0 ? null : 'BPF_ST uses reserved fields';
    default: {
      const bad = dst_reg !== 0 || off !== 0 || (I.BPF_MODE(code) === BPF_ABS && src_reg !== 0);
      return bad ? 'BPF_LD_[ABS|IND] uses reserved fields' : null;
    }
  }
}

function check_alu_fields(insn: I.bpf_insn): string | null {
  const { code, src_reg, off, imm } = insn;
  const opcode = I.BPF_OP(code);
  const register = I.BPF_SRC(code) === I.BPF_X;
  switch (opcode) {
    case I.BPF_NEG:
      return src_reg === 0 && off === 0 && imm === 0 ? null : 'BPF_NEG uses reserved fields';
    case I.BPF_END:
      return src_reg === 0 && off === 0 && [16, 32, 64].includes(imm) ? null : 'BPF_END uses reserved fields';
    case I.BPF_MOV:
      return check_mov_fields(insn);
    default: {
      const isSigned = off === 1 && (opcode === I.BPF_DIV || opcode === I.BPF_MOD);
      const good = (off === 0 || isSigned) && (register ? imm === 0 : src_reg === 0);
      return good ? null : 'BPF_ALU uses reserved fields';
    }
  }
}

function check_mov_fields({ code, src_reg, off, imm }: I.bpf_insn): string | null {
  const reserved = 'BPF_MOV uses reserved fields';
  if (I.BPF_SRC(code) === I.BPF_K) return src_reg === 0 && off === 0 ? null : reserved;
  const wide = I.BPF_CLASS(code) === I.BPF_ALU64;
  if (wide && off === I.BPF_ADDR_SPACE_CAST) {
    if (imm === 1 || imm === 1 << 16) return null;
    return 'addr_space_cast insn can only convert between address space 1 and 0';
  }
  return imm === 0 && (wide ? [0, 8, 16, 32] : [0, 8, 16]).includes(off) ? null : reserved;
}

function check_jmp_fields({ code, dst_reg, src_reg, off, imm }: I.bpf_insn): string | null {
  const register = I.BPF_SRC(code) === I.BPF_X;
  switch (I.BPF_OP(code)) {
    case I.BPF_CALL: {
      const kfunc = src_reg === I.BPF_PSEUDO_KFUNC_CALL;
      const known = kfunc || src_reg === 0 || src_reg === I.BPF_PSEUDO_CALL;
      return known && (kfunc || off === 0) && dst_reg === 0 ? null : 'BPF_CALL uses reserved fields';
    }
    case I.BPF_JA: {
      if (register) {
        return src_reg === 0 && imm === 0 && off === 0 ? null : 'BPF_JA|BPF_X uses reserved fields';
      }
      const unused = I.BPF_CLASS(code) === I.BPF_JMP ? imm : off;
      return src_reg === 0 && dst_reg === 0 && unused === 0 ? null : 'BPF_JA uses reserved fields';
    }
    case I.BPF_EXIT:
      return imm === 0 && src_reg === 0 && dst_reg === 0 ? null : 'BPF_EXIT uses reserved fields';
    case I.BPF_JCOND:
      return src_reg === 0 && dst_reg === 0 && imm === 0 ? null : `invalid may_goto imm ${imm}`;
    default:
      return (register ? imm : src_reg) === 0 ? null : 'BPF_JMP/JMP32 uses reserved fields';
  }
}
