import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import * as I from '../insn.js';
import { CONDITIONS } from '../jit/jit-testing.js';
import { assembleBpf } from './asm.js';
import { bpfInsnText, print_bpf_insn } from './disasm.js';

const symbols = { constant: (): null => null };

/** The slots of 8 bytes each: opcode, registers, offset, immediate. */
function decode(hex: string): I.bpf_insn[] {
  const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex');
  return Array.from({ length: bytes.length / 8 }, (_, i) => ({
    code: bytes.readUInt8(8 * i),
    dst_reg: bytes.readUInt8(8 * i + 1) & 0x0f,
    src_reg: bytes.readUInt8(8 * i + 1) >>> 4,
    off: bytes.readInt16LE(8 * i + 2),
    imm: bytes.readInt32LE(8 * i + 4),
  }));
}

describe('text as the log of the verifier has it', () => {
  // Forms of kernel/bpf/disasm.c, and lines of published logs.
  test.each([
    ['bf 01 01 00 01 00 00 00', '(bf) r1 = addr_space_cast(r0, 0, 1)'],
    ['bf 12 ff ff 00 00 00 00', '(bf) r2 = &(void __percpu *)(r1)'],
    ['b7 01 00 00 05 00 00 00', '(b7) r1 = 5'],
    ['bf 21 08 00 00 00 00 00', '(bf) r1 = (s8)r2'],
    ['3f 21 01 00 00 00 00 00', '(3f) r1 s/= r2'],
    ['dc 01 00 00 10 00 00 00', '(dc) r1 = be16 r1'],
    ['d7 01 00 00 20 00 00 00', '(d7) r1 = bswap32 r1'],
    ['84 01 00 00 00 00 00 00', '(84) w1 = -w1'],
    ['61 12 08 00 00 00 00 00', '(61) r2 = *(u32 *)(r1 +8)'],
    ['a1 12 f8 ff 00 00 00 00', '(a1) r2 = *(u32 *)(r1 -8)'],
    ['d1 12 00 00 00 00 00 00', '(d1) r2 = *(s8 *)(r1 +0)'],
    ['a3 21 ff 7f 00 00 00 00', '(a3) *(u32 *)(r1 +32767) = r2'],
    ['72 01 00 00 ff ff ff ff', '(72) *(u8 *)(r1 +0) = -1'],
    ['fb 21 08 00 e1 00 00 00', '(fb) r2 = atomic64_xchg((u64 *)(r1 +8), r2)'],
    ['c3 21 08 00 f1 00 00 00', '(c3) r0 = atomic_cmpxchg((u32 *)(r1 +8), r0, r2)'],
    ['c3 21 08 00 01 00 00 00', '(c3) r2 = atomic_fetch_add((u32 *)(r1 +8), r2)'],
    ['db 21 08 00 a0 00 00 00', '(db) lock *(u64 *)(r1 +8) ^= r2'],
    ['c3 21 00 00 00 01 00 00', '(c3) r1 = load_acquire((u32 *)(r2 +0))'],
    ['cb 21 00 00 10 01 00 00', '(cb) store_release((u16 *)(r1 +0), r2)'],
    ['18 01 00 00 88 77 66 55 00 00 00 00 44 33 22 11', '(18) r1 = 0x1122334455667788'],
    ['e5 00 02 00 00 00 00 00', '(e5) may_goto pc+2'],
    ['06 00 00 00 fe ff ff ff', '(06) gotol pc-2'],
    ['15 01 01 00 ff ff ff ff', '(15) if r1 == 0xffffffff goto pc+1'],
    ['5e 21 fd ff 00 00 00 00', '(5e) if w1 != w2 goto pc-3'],
    ['85 10 00 00 03 00 00 00', '(85) call pc+3'],
    ['85 20 00 00 07 00 00 00', '(85) call kernel-function#7'],
    ['95 00 00 00 00 00 00 00', '(95) exit'],
    ['c2 00 00 00 00 00 00 00', '(c2) nospec'],
    ['79 12 00 00 00 00 00 00', '(79) r2 = *(u64 *)(r1 +0)'],
    ['e1 00 00 00 00 00 00 00', 'BUG_ldx_e1'],
    ['db 21 08 00 02 00 00 00', 'BUG_db'],
  ])('%s', (bytes, text) => {
    expect(print_bpf_insn(decode(bytes), 0)).toBe(text);
  });

  test('names from outside', () => {
    const insns = decode('85 20 00 00 07 00 00 00 05 00 01 00 00 00 00 00');
    expect(bpfInsnText(insns, 0, { call: () => 'bpf_arena_alloc_pages' })).toBe(
      'call bpf_arena_alloc_pages#7',
    );
    expect(bpfInsnText(insns, 1, { target: (slot) => `L${slot}` })).toBe('goto L3');
    expect(() => bpfInsnText(insns, 2)).toThrow(RangeError);
  });
});

describe('round trip', () => {
  const reg = fc.integer({ min: 0, max: 10 });
  const off = fc.integer({ min: -0x8000, max: 0x7fff });
  const imm = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff });
  const size = fc.constantFrom(I.BPF_B, I.BPF_H, I.BPF_W, I.BPF_DW);
  const insn = (code: number, fields: Partial<I.bpf_insn>): I.bpf_insn => ({
    code,
    dst_reg: 0,
    src_reg: 0,
    off: 0,
    imm: 0,
    ...fields,
  });
  const operations = [I.BPF_ADD, I.BPF_SUB, I.BPF_MUL, I.BPF_DIV, I.BPF_OR, I.BPF_AND, I.BPF_LSH, I.BPF_RSH];
  operations.push(I.BPF_MOD, I.BPF_XOR, I.BPF_MOV, I.BPF_ARSH);
  const alu = fc
    .tuple(
      fc.constantFrom(I.BPF_ALU, I.BPF_ALU64),
      fc.constantFrom(...operations),
      reg,
      reg,
      imm,
      fc.boolean(),
      fc.boolean(),
    )
    .map(([cls, op, dst_reg, src_reg, value, register, isSigned]) => {
      const sign = isSigned && (op === I.BPF_DIV || op === I.BPF_MOD) ? 1 : 0;
      return register
        ? insn(cls | op | I.BPF_X, { dst_reg, src_reg, off: sign })
        : insn(cls | op | I.BPF_K, { dst_reg, off: sign, imm: value });
    });
  const move = fc
    .tuple(reg, reg, fc.constantFrom([I.BPF_ALU64, 8], [I.BPF_ALU64, 32], [I.BPF_ALU, 8], [I.BPF_ALU, 16]))
    .map(([dst_reg, src_reg, [cls = 0, bits = 0]]) =>
      insn(cls | I.BPF_MOV | I.BPF_X, { dst_reg, src_reg, off: bits }),
    );
  const cast = fc
    .tuple(reg, reg, fc.constantFrom(1, 0x10000))
    .map(([dst_reg, src_reg, to]) => insn(0xbf, { dst_reg, src_reg, off: I.BPF_ADDR_SPACE_CAST, imm: to }));
  const memory = fc
    .tuple(size, fc.constantFrom(I.BPF_LDX, I.BPF_ST, I.BPF_STX), reg, reg, off, imm, fc.boolean())
    .map(([bits, cls, dst_reg, src_reg, at, value, extend]) => {
      if (cls === I.BPF_ST) return insn(cls | I.BPF_MEM | bits, { dst_reg, off: at, imm: value });
      const mode = cls === I.BPF_LDX && extend && bits !== I.BPF_DW ? I.BPF_MEMSX : I.BPF_MEM;
      return insn(cls | mode | bits, { dst_reg, src_reg, off: at });
    });
  const rmw = [
    I.BPF_XCHG,
    I.BPF_CMPXCHG,
    ...[I.BPF_ADD, I.BPF_OR, I.BPF_AND, I.BPF_XOR].flatMap((op) => [op, op | I.BPF_FETCH]),
  ];
  const atomic = fc
    .tuple(fc.constantFrom(I.BPF_W, I.BPF_DW), fc.constantFrom(...rmw), reg, reg, off)
    .map(([bits, op, dst_reg, src_reg, at]) =>
      insn(I.BPF_STX | I.BPF_ATOMIC | bits, { dst_reg, src_reg, off: at, imm: op }),
    );
  const ordered = fc
    .tuple(size, fc.constantFrom(I.BPF_LOAD_ACQ, I.BPF_STORE_REL), reg, reg, off)
    .map(([bits, op, dst_reg, src_reg, at]) =>
      insn(I.BPF_STX | I.BPF_ATOMIC | bits, { dst_reg, src_reg, off: at, imm: op }),
    );
  const branch = fc
    .tuple(
      fc.constantFrom(I.BPF_JMP, I.BPF_JMP32),
      fc.constantFrom(...CONDITIONS),
      reg,
      reg,
      off,
      imm,
      fc.boolean(),
    )
    .map(([cls, op, dst_reg, src_reg, to, value, register]) =>
      register
        ? insn(cls | op | I.BPF_X, { dst_reg, src_reg, off: to })
        : insn(cls | op | I.BPF_K, { dst_reg, off: to, imm: value }),
    );
  const others = fc.oneof(
    fc
      .tuple(reg, fc.constantFrom(0xd4, 0xdc, 0xd7), fc.constantFrom(16, 32, 64))
      .map(([dst_reg, code, bits]) => insn(code, { dst_reg, imm: bits })),
    fc.tuple(reg, fc.constantFrom(0x84, 0x87)).map(([dst_reg, code]) => insn(code, { dst_reg })),
    off.map((to) => insn(0x05, { off: to })),
    off.map((to) => insn(0xe5, { off: to })),
    imm.map((to) => insn(0x06, { imm: to })),
    imm.map((to) => insn(0x85, { src_reg: 1, imm: to })),
    fc.constant(insn(0x95, {})),
  );

  test('what is printed assembles to the same instruction', () => {
    const any = fc.oneof(alu, move, cast, memory, atomic, ordered, branch, others);
    fc.assert(
      fc.property(any, (original) => {
        const text = print_bpf_insn([original], 0);
        expect(assembleBpf(text, symbols).insns).toEqual([original]);
      }),
      { seed: 20260525, numRuns: 3000 },
    );
  });

  test('64-bit immediates', () => {
    fc.assert(
      fc.property(reg, imm, imm, (dst_reg, low, high) => {
        const original = [insn(0x18, { dst_reg, imm: low }), insn(0, { imm: high })];
        expect(assembleBpf(`${print_bpf_insn(original, 0)} ll`, symbols).insns).toEqual(original);
      }),
      { seed: 20260525 },
    );
  });
});
