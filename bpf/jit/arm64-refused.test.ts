import { describe, expect, test } from '@jest/globals';
import {
  BPF_ADD,
  BPF_ALU64,
  BPF_ATOMIC,
  BPF_B,
  BPF_DW,
  BPF_JA,
  BPF_JEQ,
  BPF_JMP,
  BPF_LD_IMM64,
  BPF_LDX,
  BPF_LOAD_ACQ,
  BPF_MOV,
  BPF_PROBE_ATOMIC,
  BPF_PROBE_MEM32,
  BPF_STX,
  BPF_W,
  BPF_X,
  type bpf_insn,
} from '../insn.js';
import { bpf_arch_uaddress_limit, bpf_jit_supports_insn } from './arm64.js';
import { type Compilation, compile } from './arm64-testing.js';
import { JitError } from './jit.js';
import { EXIT, ldImm64, mov, movK, raw } from './jit-testing.js';

const ldx = (mode: number, size: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_LDX | mode | size, dst, src, off);
const probeAtomic = (size: number, op: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_STX | BPF_PROBE_ATOMIC | size, dst, src, off, op);
const atomic = (size: number, op: number, dst: number, src: number, off: number): bpf_insn =>
  raw(BPF_STX | BPF_ATOMIC | size, dst, src, off, op);
const castUser = (dst: number, src: number): bpf_insn =>
  raw(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 1, 1 << 16);
const P32 = BPF_PROBE_MEM32;

describe('refused', () => {
  const jump = (off: number): bpf_insn => raw(BPF_JMP | BPF_JEQ, 1, 0, off);
  test.each<readonly [string, readonly bpf_insn[], string, Compilation?]>([
    ['an opcode', [raw(0x8d)], 'bpf_jit: unknown opcode 8d'],
    ['may_goto, which the verifier expands', [raw(0xe5)], 'bpf_jit: unknown opcode e5'],
    ['a tail call', [raw(0xf5)], 'bpf_jit: unknown opcode f5'],
    ['an indirect jump', [raw(0x0d)], 'bpf_jit: unknown opcode 0d'],
    ['exit of the class JMP32', [raw(0x96)], 'bpf_jit: unknown opcode 96'],
    ['a packet load', [raw(0x20)], 'bpf_jit: unknown opcode 20'],
    ['LDX PROBE_MEM32SX DW', [raw(0xd9)], 'bpf_jit: unknown opcode d9'],
    ['ST PROBE_ATOMIC', [raw(0xe2)], 'bpf_jit: unknown opcode e2'],
    ['a barrier with a size', [raw(0xca)], 'bpf_jit: unknown opcode ca'],
    ['neg with a register', [raw(0x8f)], 'bpf_jit: unknown opcode 8f'],
    ['a cast to kernel addresses', [raw(0xbf, 1, 1, 1, 1)], 'bpf_jit: unknown opcode bf'],
    ['a sign extension of 32 bits to 32', [raw(0xbc, 1, 1, 32)], 'bpf_jit: unknown opcode bc'],
    ['a byte swap of 8 bits', [raw(0xdc, 1, 0, 0, 8)], 'bpf_jit: unknown opcode dc'],
    ['an atomic', [atomic(BPF_W, 0x20, 1, 2, 0)], 'bpf_jit: unknown atomic op code 20'],
    ['an atomic byte', [atomic(BPF_B, BPF_ADD, 1, 2, 0)], 'bpf_jit: unknown atomic opcode d3'],
    [
      'an arena atomic without FEAT_LSE',
      [probeAtomic(BPF_W, BPF_ADD, 1, 2, 0)],
      'bpf_jit: unknown atomic opcode e3',
      { options: { lse: false } },
    ],
    [
      'a loop that is none',
      [atomic(BPF_W, 0x20, 1, 2, 0)],
      'bpf_jit: unknown atomic op code 20',
      { options: { lse: false } },
    ],
    ['a register', [mov(12, 1)], 'R12 is invalid'],
    ['a shift by 64', [raw(0x67, 1, 0, 0, 64)], 'aarch64_insn_gen_bitfield: invalid imms encoding -1'],
    ['a jump out of the program', [jump(1)], 'jump out of range from insn 0 to 2'],
    ['a jump before it', [jump(-2)], 'jump out of range from insn 0 to -1'],
    ['a jump into LD_IMM64', [jump(1), ...ldImm64(1, 0n)], 'jump into the middle of ldimm64 insn 1'],
    ['half an LD_IMM64', [raw(BPF_LD_IMM64, 1)], 'invalid bpf_ld_imm64 insn'],
    ['a map that nobody put in', [raw(BPF_LD_IMM64, 1, 1), raw(0)], 'unresolved ld_imm64 with src_reg 1'],
    [
      'an arena access without an arena',
      [ldx(P32, BPF_W, 1, 1, 0)],
      'access to an arena in a program without one',
      { fn: { arena: null } },
    ],
    [
      'a cast without an arena',
      [castUser(1, 1)],
      'addr_space_cast insn can only be used in a program that has an associated arena',
      { fn: { arena: null } },
    ],
  ])('%s', (_, insns, message, ...[how]) => {
    let thrown: unknown;
    try {
      compile([...insns, EXIT], how);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(JitError);
    expect(thrown).toMatchObject({ message, insn: 0, errno: -22 });
  });

  test('a jump further than its instruction reaches', () => {
    const insns = [jump(0x7fff), ...Array.from({ length: 0x8000 }, () => movK(1, 0x12345)), EXIT];
    expect(compile(insns).code.length).toBeGreaterThan(0x8000 * 8);
    const long = raw(BPF_JMP | BPF_JA, 0, 0, 0x7fff);
    expect(compile([long, ...insns.slice(1)]).addrs[0x8000]).toBeGreaterThan(0x8000 * 8 - 8);
  });
});

test('what the verifier asks', () => {
  const add = atomic(BPF_DW, BPF_ADD, 1, 2, 0);
  const acquire = atomic(BPF_DW, BPF_LOAD_ACQ, 1, 2, 0);
  expect(bpf_jit_supports_insn(add, true, { lse: true })).toBe(true);
  expect(bpf_jit_supports_insn(add, true, { lse: false })).toBe(false);
  expect(bpf_jit_supports_insn(add, false, { lse: false })).toBe(true);
  expect(bpf_jit_supports_insn(acquire, true, { lse: false })).toBe(true);
  expect(bpf_arch_uaddress_limit()).toBe(0x1_0000_0000_0000n);
});
