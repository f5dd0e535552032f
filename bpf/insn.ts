/**
 * struct bpf_insn and its encoding: include/uapi/linux/bpf_common.h, include/uapi/linux/bpf.h and the modes
 * that only the verifier makes, include/linux/filter.h (bpf-next merge 8496d9020ff3).
 */

/** One instruction slot of 8 bytes. BPF_LD | BPF_IMM | BPF_DW takes two. */
export interface bpf_insn {
  /** u8 */
  readonly code: number;
  /** 0 to 10; 11 is BPF_REG_AX. */
  readonly dst_reg: number;
  readonly src_reg: number;
  /** s16 */
  readonly off: number;
  /** s32 */
  readonly imm: number;
}

/** Bits 2:0: class. */
export const BPF_LD = 0x00;
export const BPF_LDX = 0x01;
export const BPF_ST = 0x02;
export const BPF_STX = 0x03;
export const BPF_ALU = 0x04;
export const BPF_JMP = 0x05;
export const BPF_JMP32 = 0x06;
export const BPF_ALU64 = 0x07;

/** Bits 4:3 of loads and stores: size. */
export const BPF_W = 0x00;
export const BPF_H = 0x08;
export const BPF_B = 0x10;
export const BPF_DW = 0x18;

/** Bits 7:5 of loads and stores: mode. Those with PROBE in their names come from the verifier. */
export const BPF_IMM = 0x00;
export const BPF_PROBE_MEM = 0x20;
export const BPF_PROBE_MEMSX = 0x40;
export const BPF_MEM = 0x60;
export const BPF_MEMSX = 0x80;
export const BPF_PROBE_MEM32 = 0xa0;
export const BPF_ATOMIC = 0xc0;
/** With BPF_ST. */
export const BPF_NOSPEC = 0xc0;
/** With BPF_LDX. */
export const BPF_PROBE_MEM32SX = 0xc0;
export const BPF_PROBE_ATOMIC = 0xe0;

/** Bit 3 of arithmetic and jumps: second operand is the immediate, or a register. */
export const BPF_K = 0x00;
export const BPF_X = 0x08;

/** Bits 7:4 of arithmetic. */
export const BPF_ADD = 0x00;
export const BPF_SUB = 0x10;
export const BPF_MUL = 0x20;
export const BPF_DIV = 0x30;
export const BPF_OR = 0x40;
export const BPF_AND = 0x50;
export const BPF_LSH = 0x60;
export const BPF_RSH = 0x70;
export const BPF_NEG = 0x80;
export const BPF_MOD = 0x90;
export const BPF_XOR = 0xa0;
export const BPF_MOV = 0xb0;
export const BPF_ARSH = 0xc0;
export const BPF_END = 0xd0;

/** Bits 7:4 of jumps. */
export const BPF_JA = 0x00;
export const BPF_JEQ = 0x10;
export const BPF_JGT = 0x20;
export const BPF_JGE = 0x30;
export const BPF_JSET = 0x40;
export const BPF_JNE = 0x50;
export const BPF_JSGT = 0x60;
export const BPF_JSGE = 0x70;
export const BPF_CALL = 0x80;
export const BPF_EXIT = 0x90;
export const BPF_JLT = 0xa0;
export const BPF_JLE = 0xb0;
export const BPF_JSLT = 0xc0;
export const BPF_JSLE = 0xd0;
/** src_reg 0: may_goto. */
export const BPF_JCOND = 0xe0;

/** `imm` of atomics; the arithmetic ones have the bits of BPF_ADD, BPF_OR, BPF_AND, BPF_XOR. */
export const BPF_FETCH = 0x01;
export const BPF_XCHG = 0xe1;
export const BPF_CMPXCHG = 0xf1;
export const BPF_LOAD_ACQ = 0x100;
export const BPF_STORE_REL = 0x110;

/** `off` of BPF_ALU64 | BPF_MOV | BPF_X. */
export const BPF_ADDR_SPACE_CAST = 1;
export const BPF_ADDR_PERCPU = -1;

/** `src_reg` of BPF_JMP | BPF_CALL. */
export const BPF_PSEUDO_CALL = 1;
export const BPF_PSEUDO_KFUNC_CALL = 2;

/** `src_reg` of BPF_LD | BPF_IMM | BPF_DW. */
export const BPF_PSEUDO_MAP_FD = 1;
export const BPF_PSEUDO_MAP_VALUE = 2;
/** Address of a kernel variable. */
export const BPF_PSEUDO_BTF_ID = 3;
export const BPF_PSEUDO_FUNC = 4;

export const BPF_REG_0 = 0;
export const BPF_REG_FP = 10;
/** Hidden scratch register of the verifier's rewrites. */
export const BPF_REG_AX = 11;

export const BPF_CLASS = (code: number): number => code & 0x07;
export const BPF_SIZE = (code: number): number => code & 0x18;
export const BPF_MODE = (code: number): number => code & 0xe0;
export const BPF_OP = (code: number): number => code & 0xf0;
export const BPF_SRC = (code: number): number => code & 0x08;

/** BPF_LD | BPF_IMM | BPF_DW */
export const BPF_LD_IMM64 = 0x18;

/** insn_is_cast_user(): from the kernel's address space of the arena to that of user space. */
export const insn_is_cast_user = ({ code, off, imm }: bpf_insn): boolean =>
  code === (BPF_ALU64 | BPF_MOV | BPF_X) && off === BPF_ADDR_SPACE_CAST && imm === 1 << 16;

/** Of an atomic: nothing is read and written back. */
export const bpf_atomic_is_load_store = ({ imm }: bpf_insn): boolean =>
  imm === BPF_LOAD_ACQ || imm === BPF_STORE_REL;

/** Whether the verifier has found that the instruction accesses an arena. */
export function isArenaAccess({ code }: bpf_insn): boolean {
  const [cls, mode] = [BPF_CLASS(code), BPF_MODE(code)];
  switch (mode) {
    case BPF_PROBE_MEM32:
      return cls === BPF_LDX || cls === BPF_ST || cls === BPF_STX;
    case BPF_PROBE_MEM32SX:
      return cls === BPF_LDX;
    case BPF_PROBE_ATOMIC:
      return cls === BPF_STX;
    default:
      return false;
  }
}

/** Bytes of one slot. */
export const INSN_SIZE = 8;

/** The slots as they lie in memory, little endian. */
export function encodeInsns(insns: readonly bpf_insn[]): Uint8Array {
  const bytes = new Uint8Array(insns.length * INSN_SIZE);
  const view = new DataView(bytes.buffer);
  for (const [i, { code, dst_reg, src_reg, off, imm }] of insns.entries()) {
    const at = i * INSN_SIZE;
    view.setUint8(at, code);
    view.setUint8(at + 1, dst_reg | (src_reg << 4));
    view.setInt16(at + 2, off, true);
    view.setInt32(at + 4, imm, true);
  }
  return bytes;
}
