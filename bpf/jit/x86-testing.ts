/** What the tests of the x86-64 JIT share: instructions, a place, and how the kernel is configured. */
import { createRequire } from 'node:module';
import type { Instruction } from 'iced-x86';
import { packExtable } from '../../arch/x86/extable-format.js';
import {
  BPF_ALU,
  BPF_ALU64,
  BPF_ATOMIC,
  BPF_EXIT,
  BPF_JMP,
  BPF_LD_IMM64,
  BPF_LDX,
  BPF_MOV,
  BPF_PROBE_ATOMIC,
  BPF_ST,
  BPF_STX,
  BPF_X,
  type bpf_insn,
} from '../insn.js';
import type { JitedFunction, JitFunction, JitOptions, JitPlace } from './jit.js';
import { bpf_int_jit_compile } from './x86.js';

export const KERN_VM_START = 0xffffc90001e69000n;
export const USER_VM_START = 0x7f7d26200000n;
export const IMAGE = 0xffffffffc0201000n;

export const PLAIN: JitOptions = {
  branchTracking: false,
  pac: false,
  return_thunk: null,
  sls: false,
  bmi2: true,
  lse: true,
  atomicEntries: 'store',
};

export const ARENA = { kern_vm_start: KERN_VM_START, user_vm_start: USER_VM_START };

const NOWHERE: JitPlace = {
  image: IMAGE,
  callTarget: () => {
    throw new Error('nothing is called');
  },
  funcAddress: () => {
    throw new Error('no function is named');
  },
};

export const raw = (code: number, dst_reg = 0, src_reg = 0, off = 0, imm = 0): bpf_insn => ({
  code,
  dst_reg,
  src_reg,
  off,
  imm,
});

export const alu64 = (op: number, dst: number, src: number): bpf_insn =>
  raw(BPF_ALU64 | BPF_X | op, dst, src);
export const alu32 = (op: number, dst: number, src: number): bpf_insn => raw(BPF_ALU | BPF_X | op, dst, src);
export const alu64k = (op: number, dst: number, imm: number): bpf_insn => raw(BPF_ALU64 | op, dst, 0, 0, imm);
export const alu32k = (op: number, dst: number, imm: number): bpf_insn => raw(BPF_ALU | op, dst, 0, 0, imm);
export const mov = (dst: number, src: number): bpf_insn => alu64(BPF_MOV, dst, src);
export const mov32 = (dst: number, src: number): bpf_insn => alu32(BPF_MOV, dst, src);
export const movK = (dst: number, imm: number): bpf_insn => alu64k(BPF_MOV, dst, imm);
export const castUser = (dst: number, src: number): bpf_insn =>
  raw(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 1, 1 << 16);
export const ldx = (mode: number, size: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_LDX | mode | size, dst, src, off);
export const stx = (mode: number, size: number, dst: number, off: number, src: number): bpf_insn =>
  raw(BPF_STX | mode | size, dst, src, off);
export const st = (mode: number, size: number, dst: number, off: number, imm: number): bpf_insn =>
  raw(BPF_ST | mode | size, dst, 0, off, imm);
export const atomic = (size: number, op: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_STX | BPF_ATOMIC | size, dst, src, off, op);
export const probeAtomic = (size: number, op: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_STX | BPF_PROBE_ATOMIC | size, dst, src, off, op);
export const ldImm64 = (dst: number, value: bigint): bpf_insn[] => [
  raw(BPF_LD_IMM64, dst, 0, 0, Number(BigInt.asIntN(32, value))),
  raw(0, 0, 0, 0, Number(BigInt.asIntN(32, value >> 32n))),
];
export const EXIT = raw(BPF_JMP | BPF_EXIT);

export function compile(
  insns: readonly bpf_insn[],
  fn: Partial<JitFunction> = {},
  options: Partial<JitOptions> = {},
  place: Partial<JitPlace> = {},
): JitedFunction {
  const whole = { insns, is_subprog: false, stack_depth: 0, arena: ARENA, ...fn };
  return bpf_int_jit_compile(whole, { ...NOWHERE, ...place }, { ...PLAIN, ...options });
}

export const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Code of the instructions, without prologue and epilogue. */
export function codeOf(insns: bpf_insn | readonly bpf_insn[], options: Partial<JitOptions> = {}): Uint8Array {
  const all: readonly bpf_insn[] = 'code' in insns ? [insns] : insns;
  const { code, addrs } = compile([...all, EXIT], {}, options);
  return code.subarray(addrs[0], addrs[all.length]);
}

/** The three words of each entry of the exception table, and the offset of the instruction it finds. */
export function extableOf({ extable, extableOffset }: JitedFunction): { words: number[]; covers: number }[] {
  return extable.map((entry, i) => {
    const at = IMAGE + BigInt(extableOffset + 12 * i);
    const view = new DataView(packExtable(entry, at).buffer);
    const words = [0, 4, 8].map((offset) => view.getUint32(offset, true));
    return { words, covers: extableOffset + 12 * i + view.getInt32(0, true) };
  });
}

const iced: typeof import('iced-x86') = createRequire(import.meta.url)('iced-x86');

/** What iced-x86 reads: text in the syntax of objdump -M intel, without spaces behind commas. */
export function read(bytes: Uint8Array, at = 0n): { text: string; length: number; bad: boolean }[] {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  const formatter = new iced.Formatter(iced.FormatterSyntax.Intel);
  formatter.hexPrefix = '0x';
  formatter.hexSuffix = '';
  formatter.uppercaseHex = false;
  formatter.hexDigitGroupSize = 0;
  formatter.signedImmediateOperands = true;
  formatter.smallHexNumbersInDecimal = false;
  formatter.showBranchSize = false;
  formatter.leadingZeros = false;
  formatter.branchLeadingZeros = false;
  formatter.alwaysShowScale = false;
  formatter.memorySizeOptions = iced.MemorySizeOptions.Always;
  formatter.ripRelativeAddresses = false;
  decoder.ip = at;
  const found: { text: string; length: number; bad: boolean }[] = [];
  while (decoder.canDecode) {
    const instruction: Instruction = decoder.decode();
    found.push({
      text: formatter.format(instruction),
      length: instruction.length,
      bad: instruction.code === iced.Code.INVALID,
    });
    instruction.free();
  }
  formatter.free();
  decoder.free();
  return found;
}
