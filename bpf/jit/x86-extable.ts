/**
 * Exception-table entries of the x86-64 JIT: what do_jit() in arch/x86/net/bpf_jit_comp.c, bpf-next merge
 * 8496d9020ff3, does at and after populate_extable. arch/x86/extable-format.ts packs them.
 *
 * Left out: the counts that the verifier makes, and what is said when the JIT comes to others.
 */
import type { ExtableSpec } from '../../arch/arch.js';
import { EFAULT } from '../../kernel/errno.js';
import {
  BPF_CLASS,
  BPF_CMPXCHG,
  BPF_FETCH,
  BPF_LDX,
  BPF_LOAD_ACQ,
  BPF_MODE,
  BPF_PROBE_ATOMIC,
  BPF_PROBE_MEM,
  BPF_PROBE_MEMSX,
  type bpf_insn,
} from '../insn.js';
import { JitError, type JitOptions } from './jit.js';
import { registerName } from './x86-emit.js';

/** The last register that reg2pt_regs[] has. */
const BPF_REG_9 = 9;

/**
 * @param at address of the native instruction
 * @param length of the native instruction, in bytes
 */
export function extableEntry(
  insn: bpf_insn,
  slot: number,
  at: bigint,
  length: number,
  { atomicEntries }: JitOptions,
): ExtableSpec {
  const { dst_reg, src_reg, off } = insn;
  const entry = { insn: at, fixup: at + BigInt(length), type: 'BPF', length, data: {} };
  const mode = BPF_MODE(insn.code);
  if (BPF_CLASS(insn.code) === BPF_LDX) {
    const clear = reg2pt_regs(dst_reg, slot);
    if (mode === BPF_PROBE_MEM || mode === BPF_PROBE_MEMSX) return { ...entry, clear, arena: null };
    return { ...entry, clear, arena: { register: reg2pt_regs(src_reg, slot), offset: off } };
  }
  if (atomicEntries === 'by-kind' && mode === BPF_PROBE_ATOMIC) {
    const { address, clear } = atomicRegisters(insn);
    return {
      ...entry,
      clear: clear === null ? null : reg2pt_regs(clear, slot),
      arena: { register: reg2pt_regs(address, slot), offset: off },
      data: clear !== null && insn.imm !== BPF_LOAD_ACQ ? { write: 'true' } : {},
    };
  }
  return { ...entry, clear: null, arena: { register: reg2pt_regs(dst_reg, slot), offset: off } };
}

/** Which register has the address, and which would have got a value. */
function atomicRegisters({ dst_reg, src_reg, imm }: bpf_insn): { address: number; clear: number | null } {
  if (imm === BPF_LOAD_ACQ) return { address: src_reg, clear: dst_reg };
  if (imm === BPF_CMPXCHG) return { address: dst_reg, clear: 0 };
  return { address: dst_reg, clear: (imm & BPF_FETCH) !== 0 ? src_reg : null };
}

function reg2pt_regs(reg: number, slot: number): string {
  if (reg > BPF_REG_9) throw new JitError('verifier error', slot, -EFAULT);
  return registerName(reg);
}
