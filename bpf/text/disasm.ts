/**
 * BPF instructions as text, in the form of the verifier's log: port of kernel/bpf/disasm.c (bpf-next merge
 * 8496d9020ff3).
 *
 * Left out: names of helpers by number (callers give names), BPF_ABS and BPF_IND, multiplications with a high half.
 *
 * What the verifier has rewritten is printed as it was before (bpf_insn_prepare_dump() does the same for whoever
 * asks the kernel): the modes BPF_PROBE_* have no text of their own. The byte in parentheses tells them apart.
 */
import * as I from '../insn.js';

/** Names for what is only a number in the instruction. Each may answer null. */
export interface BpfNames {
  /** Of the function that the call at `slot` calls. */
  call?(slot: number): string | null;
  /** Of what the 64-bit immediate at `slot` stands for. */
  imm?(slot: number): string | null;
  /** Of the target of a jump; without it `pc+2`. */
  target?(slot: number): string | null;
}

/** By BPF_OP. */
export const bpf_alu_string: Readonly<Record<number, string>> = {
  [I.BPF_ADD]: '+=',
  [I.BPF_SUB]: '-=',
  [I.BPF_MUL]: '*=',
  [I.BPF_DIV]: '/=',
  [I.BPF_OR]: '|=',
  [I.BPF_AND]: '&=',
  [I.BPF_LSH]: '<<=',
  [I.BPF_RSH]: '>>=',
  [I.BPF_MOD]: '%=',
  [I.BPF_XOR]: '^=',
  [I.BPF_MOV]: '=',
  [I.BPF_ARSH]: 's>>=',
};

const JMP: Readonly<Record<number, string>> = {
  [I.BPF_JEQ]: '==',
  [I.BPF_JGT]: '>',
  [I.BPF_JLT]: '<',
  [I.BPF_JGE]: '>=',
  [I.BPF_JLE]: '<=',
  [I.BPF_JSET]: '&',
  [I.BPF_JNE]: '!=',
  [I.BPF_JSGT]: 's>',
  [I.BPF_JSLT]: 's<',
  [I.BPF_JSGE]: 's>=',
  [I.BPF_JSLE]: 's<=',
};

const SIZE: Readonly<Record<number, string>> = {
  [I.BPF_B]: '8',
  [I.BPF_H]: '16',
  [I.BPF_W]: '32',
  [I.BPF_DW]: '64',
};

const ATOMIC: Readonly<Record<number, string>> = {
  [I.BPF_ADD]: 'add',
  [I.BPF_AND]: 'and',
  [I.BPF_OR]: 'or',
  [I.BPF_XOR]: 'xor',
};

const MODES: Readonly<Record<number, { readonly load: number | null; readonly store: number | null }>> = {
  [I.BPF_MEM]: { load: I.BPF_MEM, store: I.BPF_MEM },
  [I.BPF_MEMSX]: { load: I.BPF_MEMSX, store: null },
  [I.BPF_PROBE_MEM]: { load: I.BPF_MEM, store: null },
  [I.BPF_PROBE_MEMSX]: { load: I.BPF_MEMSX, store: null },
  [I.BPF_PROBE_MEM32]: { load: I.BPF_MEM, store: I.BPF_MEM },
  [I.BPF_PROBE_MEM32SX]: { load: I.BPF_MEMSX, store: I.BPF_ATOMIC },
  [I.BPF_PROBE_ATOMIC]: { load: null, store: I.BPF_ATOMIC },
};

const signed = (n: number): string => (n < 0 ? `${n}` : `+${n}`);
const hex2 = (n: number): string => n.toString(16).padStart(2, '0');
const mem = (type: string, reg: number, off: number): string => `(${type} *)(r${reg} ${signed(off)})`;

/**
 * print_bpf_insn(): the instruction at `slot`, without its byte: `r1 = *(u32 *)(r2 +8)`. What is no instruction is
 * `BUG_xx`, as in the kernel.
 */
export function bpfInsnText(insns: readonly I.bpf_insn[], slot: number, names: BpfNames = {}): string {
  const insn = insns[slot];
  if (insn === undefined) throw new RangeError(`slot ${slot}: there are ${insns.length}`);
  const { code } = insn;
  switch (I.BPF_CLASS(code)) {
    case I.BPF_ALU:
    case I.BPF_ALU64:
      return alu(insn);
    case I.BPF_LD:
      return ld(insns, slot, insn, names);
    case I.BPF_LDX: {
      const mode = MODES[I.BPF_MODE(code)]?.load ?? null;
      if (mode === null) return `BUG_ldx_${hex2(code)}`;
      const type = `${mode === I.BPF_MEMSX ? 's' : 'u'}${SIZE[I.BPF_SIZE(code)]}`;
      return `r${insn.dst_reg} = *${mem(type, insn.src_reg, insn.off)}`;
    }
    case I.BPF_ST:
      if (I.BPF_MODE(code) === I.BPF_NOSPEC) return 'nospec';
      if (MODES[I.BPF_MODE(code)]?.store !== I.BPF_MEM) return `BUG_st_${hex2(code)}`;
      return `*${mem(`u${SIZE[I.BPF_SIZE(code)]}`, insn.dst_reg, insn.off)} = ${insn.imm}`;
    case I.BPF_STX:
      return stx(insn);
    default:
      return jmp(insn, slot, names);
  }
}

/** The same with its byte in front, as a line of the log has it: `(61) r1 = *(u32 *)(r2 +8)`. */
export function print_bpf_insn(insns: readonly I.bpf_insn[], slot: number, names: BpfNames = {}): string {
  const text = bpfInsnText(insns, slot, names);
  return text.startsWith('BUG_') ? text : `(${hex2(insns[slot]?.code ?? 0)}) ${text}`;
}

function alu({ code, dst_reg, src_reg, off, imm }: I.bpf_insn): string {
  const wide = I.BPF_CLASS(code) === I.BPF_ALU64;
  const op = I.BPF_OP(code);
  const reg = wide ? 'r' : 'w';
  if (op === I.BPF_END) {
    const name = wide ? 'bswap' : I.BPF_SRC(code) === I.BPF_X ? 'be' : 'le';
    return `r${dst_reg} = ${name}${imm} r${dst_reg}`;
  }
  if (op === I.BPF_NEG) return `${reg}${dst_reg} = -${reg}${dst_reg}`;
  const moves = code === (I.BPF_ALU64 | I.BPF_MOV | I.BPF_X);
  if (moves && off === I.BPF_ADDR_SPACE_CAST) {
    return `r${dst_reg} = addr_space_cast(r${src_reg}, ${imm >>> 16}, ${imm & 0xffff})`;
  }
  if (moves && off === I.BPF_ADDR_PERCPU) return `r${dst_reg} = &(void __percpu *)(r${src_reg})`;
  const sign = off === 1 && (op === I.BPF_DIV || op === I.BPF_MOD) ? 's' : '';
  const name = bpf_alu_string[op];
  if (name === undefined) return `BUG_${hex2(code)}`;
  const left = `${reg}${dst_reg} ${sign}${name} `;
  if (I.BPF_SRC(code) === I.BPF_K) return `${left}${imm}`;
  const extends_ = op === I.BPF_MOV && (off === 8 || off === 16 || off === 32) ? `(s${off})` : '';
  return `${left}${extends_}${reg}${src_reg}`;
}

function ld(insns: readonly I.bpf_insn[], slot: number, insn: I.bpf_insn, names: BpfNames): string {
  if (insn.code !== I.BPF_LD_IMM64) return `BUG_ld_${hex2(insn.code)}`;
  const high = insns[slot + 1]?.imm ?? 0;
  const imm = (BigInt(high >>> 0) << 32n) | BigInt(insn.imm >>> 0);
  return `r${insn.dst_reg} = ${names.imm?.(slot) ?? `0x${imm.toString(16)}`}`;
}

function stx({ code, dst_reg, src_reg, off, imm }: I.bpf_insn): string {
  const type = `u${SIZE[I.BPF_SIZE(code)]}`;
  const place = mem(type, dst_reg, off);
  const mode = MODES[I.BPF_MODE(code)]?.store ?? null;
  if (mode === I.BPF_MEM) return `*${place} = r${src_reg}`;
  if (mode !== I.BPF_ATOMIC) return `BUG_${hex2(code)}`;
  const wide = I.BPF_SIZE(code) === I.BPF_DW ? '64' : '';
  if (imm === I.BPF_CMPXCHG) return `r0 = atomic${wide}_cmpxchg(${place}, r0, r${src_reg})`;
  if (imm === I.BPF_XCHG) return `r${src_reg} = atomic${wide}_xchg(${place}, r${src_reg})`;
  if (imm === I.BPF_LOAD_ACQ) return `r${dst_reg} = load_acquire(${mem(type, src_reg, off)})`;
  if (imm === I.BPF_STORE_REL) return `store_release(${place}, r${src_reg})`;
  const op = ATOMIC[imm & ~I.BPF_FETCH];
  if (op === undefined) return `BUG_${hex2(code)}`;
  if ((imm & I.BPF_FETCH) !== 0) return `r${src_reg} = atomic${wide}_fetch_${op}(${place}, r${src_reg})`;
  return `lock *${place} ${bpf_alu_string[imm]} r${src_reg}`;
}

function jmp({ code, dst_reg, src_reg, off, imm }: I.bpf_insn, slot: number, names: BpfNames): string {
  const to = (delta: number): string => names.target?.(slot + 1 + delta) ?? `pc${signed(delta)}`;
  const op = I.BPF_OP(code);
  if (op === I.BPF_CALL) {
    const name = names.call?.(slot) ?? null;
    if (src_reg === I.BPF_PSEUDO_CALL) return `call ${name === null ? `pc${signed(imm)}` : `pc ${name}`}`;
    const anonymous = src_reg === I.BPF_PSEUDO_KFUNC_CALL ? 'kernel-function' : 'unknown';
    return `call ${name ?? anonymous}#${imm}`;
  }
  if (code === (I.BPF_JMP | I.BPF_JA)) return `goto ${to(off)}`;
  if (code === (I.BPF_JMP | I.BPF_JA | I.BPF_X)) return `gotox r${dst_reg}`;
  if (code === (I.BPF_JMP | I.BPF_JCOND) && src_reg === 0) return `may_goto ${to(off)}`;
  if (code === (I.BPF_JMP32 | I.BPF_JA)) return `gotol ${to(imm)}`;
  if (code === (I.BPF_JMP | I.BPF_EXIT)) return 'exit';
  const name = JMP[op];
  if (name === undefined) return `BUG_${hex2(code)}`;
  const reg = I.BPF_CLASS(code) === I.BPF_JMP32 ? 'w' : 'r';
  const right = I.BPF_SRC(code) === I.BPF_X ? `${reg}${src_reg}` : `0x${(imm >>> 0).toString(16)}`;
  return `if ${reg}${dst_reg} ${name} ${right} goto ${to(off)}`;
}
