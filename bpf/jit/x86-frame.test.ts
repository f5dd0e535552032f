import { describe, expect, test } from '@jest/globals';
import {
  BPF_ADD,
  BPF_AND,
  BPF_ATOMIC,
  BPF_B,
  BPF_CALL,
  BPF_DW,
  BPF_FETCH,
  BPF_H,
  BPF_JA,
  BPF_JEQ,
  BPF_JMP,
  BPF_JMP32,
  BPF_LD_IMM64,
  BPF_PROBE_MEM32,
  BPF_PSEUDO_FUNC,
  BPF_STX,
  BPF_W,
  BPF_X,
  BPF_XCHG,
  type bpf_insn,
} from '../insn.js';
import { JitError } from './jit.js';
import { atomic, castUser, EXIT, ldx, mov, movK, probeAtomic, raw } from './jit-testing.js';
import { bpf_arch_uaddress_limit, bpf_jit_supports_insn } from './x86.js';
import { codeOf, compile, hexOf, IMAGE, KERN_VM_START, read } from './x86-testing.js';

const squeeze = (hex: string): string => hex.replaceAll(/\s/g, '');
const NOTHING = { arena: null };

describe('prologue and epilogue', () => {
  test.each<[string, Parameters<typeof compile>, string]>([
    ['nothing', [[EXIT], NOTHING], '0f1f440000 0f1f00 55 4889e5 c9 c3'],
    [
      'CONFIG_X86_KERNEL_IBT',
      [[EXIT], NOTHING, { branchTracking: true }],
      'f30f1efa 0f1f440000 0f1f00 55 4889e5 f30f1efa c9 c3',
    ],
    [
      'a stack, rounded up',
      [[EXIT], { ...NOTHING, stack_depth: 9 }],
      '0f1f440000 0f1f00 55 4889e5 4881ec10000000 c9 c3',
    ],
    ['CONFIG_MITIGATION_SLS', [[EXIT], NOTHING, { sls: true }], '0f1f440000 0f1f00 55 4889e5 c9 c3cc'],
    [
      'registers of the caller',
      [[mov(9, 6), mov(7, 8), EXIT], NOTHING],
      '0f1f440000 0f1f00 55 4889e5 53 4155 4156 4157 4989df 4d89f5 415f 415e 415d 5b c9 c3',
    ],
    [
      'an arena and R8',
      [[movK(8, 0), EXIT]],
      '0f1f440000 0f1f00 55 4889e5 4154 4156 49bc0090e60100c9ffff 4531f6 415e 415c c9 c3',
    ],
  ])('%s', (_, given, hex) => {
    expect(hexOf(compile(...given).code)).toBe(squeeze(hex));
  });

  test('returns through x86_return_thunk', () => {
    const thunk = 0xffffffff82000100n;
    const { code } = compile([EXIT], NOTHING, { return_thunk: thunk, sls: true });
    const last = read(code, IMAGE).at(-1);
    expect(last?.text).toBe(`jmp 0x${thunk.toString(16)}`);
  });

  test('a subprogram begins like a main program when nothing tail-calls', () => {
    const main = compile([EXIT], NOTHING).code;
    expect(compile([EXIT], { ...NOTHING, is_subprog: true }).code).toEqual(main);
  });

  test('later exits jump to the first', () => {
    const insns = [raw(BPF_JMP | BPF_JEQ, 1, 0, 1, 5), EXIT, movK(0, 1), EXIT];
    const { code, addrs } = compile(insns, NOTHING);
    const last = read(code.subarray(addrs[3]), IMAGE + BigInt(addrs[3] ?? 0));
    expect(last.map(({ text }) => text)).toEqual([`jmp 0x${(IMAGE + BigInt(addrs[1] ?? 0)).toString(16)}`]);
  });
});

describe('calls', () => {
  test.each([IMAGE + 0x7fff_0000n, IMAGE - 0x7fff_0000n, 0xffffffff81234560n])('of %d', (target) => {
    const call = raw(BPF_JMP | BPF_CALL, 0, 2, 0, 1);
    const asked: number[] = [];
    const callTarget = (slot: number): bigint => {
      asked.push(slot);
      return target;
    };
    const { code, addrs } = compile([movK(1, 5), call, EXIT], NOTHING, {}, { callTarget });
    const found = read(code.subarray(addrs[1]), IMAGE + BigInt(addrs[1] ?? 0))[0];
    expect(found?.text).toBe(`call 0x${BigInt.asUintN(64, target).toString(16)}`);
    expect(new Set(asked)).toEqual(new Set([1]));
  });

  test('what does not reach is refused', () => {
    const callTarget = (): bigint => 0xffffc90000000000n;
    expect(() => compile([raw(BPF_JMP | BPF_CALL), EXIT], NOTHING, {}, { callTarget })).toThrow(
      'Target call ffffc90000000000 is out of range',
    );
  });

  test('the address of a function', () => {
    const insns = [raw(BPF_LD_IMM64, 1, BPF_PSEUDO_FUNC), raw(0), EXIT];
    const { code, addrs } = compile(insns, NOTHING, {}, { funcAddress: () => 0xffffffffc0203000n });
    expect(read(code.subarray(addrs[0], addrs[1]))[0]?.text).toBe('mov rdi,-0x3fdfd000');
  });
});

/** `count` instructions of four bytes each. */
const filler = (count: number): bpf_insn[] => Array.from({ length: count }, () => raw(0x07, 1, 0, 0, 7));

describe('sizes of jumps', () => {
  // 123 is the longest short jump forwards: 30 fillers and a move of 3 bytes.
  test.each<[string, number, bpf_insn[], number]>([
    ['conditional, 120', 30, [], 2],
    ['conditional, 123', 30, [mov(2, 1)], 2],
    ['conditional, 124', 31, [], 6],
  ])('%s bytes forwards', (_, count, more, size) => {
    const over = [...filler(count), ...more];
    const insns = [raw(BPF_JMP | BPF_JEQ | BPF_X, 1, 2, over.length), ...over, EXIT];
    const { code, addrs } = compile(insns, NOTHING);
    expect((addrs[1] ?? 0) - (addrs[0] ?? 0)).toBe(3 + size);
    const target = read(code.subarray(addrs[0]), BigInt(addrs[0] ?? 0))[1]?.text;
    expect(target).toBe(`je 0x${addrs[insns.length - 1]?.toString(16)}`);
  });

  // At first it is 5 bytes long, and its distance is that of its old end: over 124 bytes that stays -129.
  test.each<[number, bpf_insn[], number]>([
    [120, filler(30), 2],
    [123, [...filler(30), mov(2, 1)], 2],
    [124, filler(31), 5],
  ])('over %d bytes backwards', (_, over, size) => {
    const count = over.length;
    const back = raw(BPF_JMP | BPF_JA, 0, 0, -count - 1);
    const { code, addrs } = compile([...over, back, EXIT], NOTHING);
    expect((addrs[count + 1] ?? 0) - (addrs[count] ?? 0)).toBe(size);
    const text = read(code.subarray(addrs[count]), BigInt(addrs[count] ?? 0))[0]?.text;
    expect(text).toBe(`jmp 0x${addrs[0]?.toString(16)}`);
  });

  test('a jump to the next instruction is none', () => {
    expect(hexOf(codeOf([raw(BPF_JMP | BPF_JA), movK(0, 0)]))).toBe('31c0');
    expect(hexOf(codeOf([raw(BPF_JMP32 | BPF_JA), movK(0, 0)]))).toBe('31c0');
  });

  test('a jump to itself is two bytes', () => {
    expect(hexOf(codeOf(raw(BPF_JMP | BPF_JA, 0, 0, -1)))).toBe('ebfe');
    expect(hexOf(codeOf(raw(BPF_JMP32 | BPF_JA, 0, 0, 0, -1)))).toBe('ebfe');
  });

  test('a chain that shrinks by one jump per pass ends with nops before its jumps', () => {
    // Each jump becomes short only when the next one has: pass after pass, until shrinking stops.
    const count = 60;
    const jumps = Array.from({ length: count }, () => raw(BPF_JMP | BPF_JEQ | BPF_X, 1, 2, 23));
    const tail = Array.from({ length: 40 }, () => mov(2, 1));
    const { code, addrs } = compile([...jumps, ...tail, EXIT], NOTHING);
    const kinds = jumps.map((_, i) => {
      const at = addrs[i] ?? 0;
      const end = addrs[i + 1] ?? 0;
      const target = addrs[i + 24] ?? 0;
      const found = read(code.subarray(at, end), BigInt(at));
      expect(found.at(-1)?.text).toBe(`je 0x${target.toString(16)}`);
      expect(found.at(-1)?.length).toBe(target - end <= 123 ? 2 : 6);
      return found.map(({ length }) => length).join(' ');
    });
    expect(new Set(kinds)).toEqual(new Set(['3 6', '3 4 2', '3 2']));
  });
});

describe('what is refused', () => {
  const RMW = 'bpf_jit: 1- and 2-byte RMW atomics are not supported';
  const EINVAL = -22;
  const EFAULT = -14;
  test.each<[string, bpf_insn, string, number]>([
    ['an unknown opcode', raw(0xe5), 'bpf_jit: unknown opcode e5', EINVAL],
    ['a tail call', raw(0xf5), 'bpf_jit: unknown opcode f5', EINVAL],
    ['a signed load of 8 bytes', raw(0x99, 1, 2), 'bpf_jit: unknown opcode 99', EINVAL],
    ['a speculation barrier with a size', raw(0xca), 'bpf_jit: unknown opcode ca', EINVAL],
    ['exit of JMP32', raw(0x96), 'bpf_jit: unknown opcode 96', EINVAL],
    ['an indirect jump', raw(0x0d, 1), 'indirect jumps are not modelled', EINVAL],
    ['a per-CPU address', raw(0xbf, 1, 1, -1), 'per-CPU addresses are not modelled', EINVAL],
    ['an odd sign extension', raw(0xbf, 1, 1, 7), 'move with off 7', EINVAL],
    ['a register too much', raw(0xbf, 12, 1), 'R12 is invalid', EINVAL],
    ['a swap of 8 bits', raw(0xd7, 1, 0, 0, 8), 'byte swap of 8 bits', EINVAL],
    ['a jump out of the program', raw(0x05, 0, 0, 5), 'jump to slot 6, where no instruction begins', EINVAL],
    ['a map', raw(0x18, 1, 1), 'invalid bpf_ld_imm64 insn', EINVAL],
    ['xchg of a byte', atomic(BPF_B, BPF_XCHG, 1, 2, 0), RMW, EFAULT],
    ['arena add of 2 bytes', probeAtomic(BPF_H, BPF_ADD, 1, 2, 0), RMW, EFAULT],
    [
      'arena fetch_and',
      probeAtomic(BPF_W, BPF_AND | BPF_FETCH, 1, 2, 0),
      'bpf_jit: unknown atomic opcode 51',
      EFAULT,
    ],
    ['an atomic of no kind', atomic(BPF_DW, 0x02, 1, 2, 0), 'bpf_jit: unknown atomic opcode 02', EFAULT],
  ])('%s', (_, insn, message, errno) => {
    const attempt = (): unknown => compile([insn, EXIT]);
    expect(attempt).toThrow(JitError);
    expect(attempt).toThrow(expect.objectContaining({ message, insn: 0, errno }));
  });

  test('an unresolved map', () => {
    expect(() => compile([raw(BPF_LD_IMM64, 1, 1), raw(0), EXIT])).toThrow('unresolved ld_imm64');
  });

  test('a jump into a load of 64 bits', () => {
    const insns = [raw(BPF_JMP | BPF_JA, 0, 0, 1), raw(BPF_LD_IMM64, 1), raw(0), EXIT];
    expect(() => compile(insns)).toThrow('jump to slot 2');
  });

  test('what needs an arena when there is none', () => {
    expect(() => compile([castUser(1, 1), EXIT], NOTHING)).toThrow('has an associated arena');
    expect(() => compile([ldx(BPF_PROBE_MEM32, BPF_W, 1, 2, 0), EXIT], NOTHING)).toThrow('arena');
    expect(() => compile([probeAtomic(BPF_W, BPF_ADD, 1, 2, 0), EXIT], NOTHING)).toThrow('arena');
  });
});

test('what the verifier asks', () => {
  const loop = raw(BPF_STX | BPF_ATOMIC | BPF_W, 1, 2, 0, BPF_AND | BPF_FETCH);
  expect(bpf_jit_supports_insn(loop, true)).toBe(false);
  expect(bpf_jit_supports_insn(loop, false)).toBe(true);
  expect(bpf_jit_supports_insn({ ...loop, imm: BPF_ADD | BPF_FETCH }, true)).toBe(true);
  expect(bpf_arch_uaddress_limit()).toBe(0n);
});

test('a base above 2 GiB below the top is loaded with ten bytes, one within it with seven', () => {
  const arena = { kern_vm_start: 0xffffffff90000000n, user_vm_start: 0n };
  const far = compile([EXIT], { arena: { ...arena, kern_vm_start: KERN_VM_START } });
  expect((far.addrs[0] ?? 0) - (compile([EXIT], { arena }).addrs[0] ?? 0)).toBe(3);
});
