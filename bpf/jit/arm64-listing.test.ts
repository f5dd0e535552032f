import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { instructionText, loadDisassembler } from '../../emu/disassembler.js';
import {
  BPF_ADD,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_ATOMIC,
  BPF_B,
  BPF_CMPXCHG,
  BPF_DIV,
  BPF_DW,
  BPF_FETCH,
  BPF_H,
  BPF_LDX,
  BPF_LSH,
  BPF_MEM,
  BPF_MOD,
  BPF_MUL,
  BPF_OR,
  BPF_PROBE_ATOMIC,
  BPF_PROBE_MEM32,
  BPF_RSH,
  BPF_STX,
  BPF_SUB,
  BPF_W,
  BPF_X,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import { body, type Compilation, IMAGE } from './arm64-testing.js';
import { ldImm64, raw } from './jit-testing.js';

const disassembler = await loadDisassembler();

/** What Capstone reads. */
function listing(insns: readonly bpf_insn[], how: Compilation = {}): string[] {
  return disassembler.disassemble('arm64', body(insns, how), IMAGE).map(instructionText);
}

/** Numbers of the registers as the kernel documents them: R0 to R9. */
const NUMBER = [8, 0, 1, 2, 3, 4, 19, 20, 21, 22];
const x = (bpf: number): string => `x${NUMBER[bpf]}`;
const w = (bpf: number): string => `w${NUMBER[bpf]}`;

const reg = fc.nat(9);
const SEED = { seed: 20260521, numRuns: 60 };

describe('Capstone reads what is meant', () => {
  test.each([
    ['add', BPF_ADD],
    ['sub', BPF_SUB],
    ['and', BPF_AND],
    ['orr', BPF_OR],
    ['eor', BPF_XOR],
    ['mul', BPF_MUL],
    ['udiv', BPF_DIV],
    ['lsl', BPF_LSH],
    ['lsr', BPF_RSH],
    ['asr', BPF_ARSH],
  ])('%s of two registers', (mnemonic, op) => {
    fc.assert(
      fc.property(reg, reg, (dst, src) => {
        expect(listing([raw(BPF_ALU64 | BPF_X | op, dst, src)])).toEqual([
          `${mnemonic} ${x(dst)}, ${x(dst)}, ${x(src)}`,
        ]);
        expect(listing([raw(BPF_ALU | BPF_X | op, dst, src)])).toEqual([
          `${mnemonic} ${w(dst)}, ${w(dst)}, ${w(src)}`,
        ]);
      }),
      SEED,
    );
  });

  test('remainders', () => {
    fc.assert(
      fc.property(reg, reg, fc.nat(1), (dst, src, off) => {
        expect(listing([raw(BPF_ALU64 | BPF_X | BPF_MOD, dst, src, off)])).toEqual([
          `${off === 1 ? 'sdiv' : 'udiv'} x10, ${x(dst)}, ${x(src)}`,
          `msub ${x(dst)}, x10, ${x(src)}, ${x(dst)}`,
        ]);
      }),
      SEED,
    );
  });

  // Whatever the immediate, the sum of what movz, movn and movk leave is the value.
  test('64-bit immediates', () => {
    const block = fc.oneof(fc.constantFrom(0n, 0xffffn), fc.bigInt({ min: 0n, max: 0xffffn }));
    fc.assert(
      fc.property(fc.tuple(block, block, block, block), (blocks) => {
        const value = blocks.reduce((sum, bits) => (sum << 16n) | bits, 0n);
        expect(moved(listing(ldImm64(1, value)))).toBe(value);
      }),
      { ...SEED, numRuns: 300 },
    );
  });

  test('logical immediates, or the value in x10', () => {
    const pattern = fc
      .record({ size: fc.constantFrom(2, 4, 8, 16, 32), ones: fc.nat(31), turn: fc.nat(31) })
      .map(({ size, ones, turn }) => replicate(size, (ones % (size - 1)) + 1, turn % size));
    fc.assert(
      fc.property(fc.oneof(pattern, fc.integer()), reg, (imm, dst) => {
        const text = listing([raw(BPF_ALU | BPF_AND, dst, 0, 0, imm)]);
        const last = text.at(-1) ?? '';
        const value = BigInt(imm >>> 0);
        if (text.length === 1) {
          expect(last).toMatch(new RegExp(`^and ${w(dst)}, ${w(dst)}, #`));
          expect(BigInt.asUintN(32, BigInt(last.split('#')[1] ?? ''))).toBe(value);
        } else {
          expect(last).toBe(`and ${w(dst)}, ${w(dst)}, w10`);
          expect(BigInt.asUintN(32, moved(text.slice(0, -1)))).toBe(value);
        }
      }),
      { ...SEED, numRuns: 300 },
    );
    for (const imm of [1, -2, 0xff00ff, 0x55555555, 0x7fffffff, 0xf000000f | 0]) {
      expect(listing([raw(BPF_ALU | BPF_AND, 1, 0, 0, imm)])).toHaveLength(1);
    }
  });

  test.each([
    ['ldrb w', 'strb w', BPF_B, 1],
    ['ldrh w', 'strh w', BPF_H, 2],
    ['ldr w', 'str w', BPF_W, 4],
    ['ldr x', 'str x', BPF_DW, 8],
  ] as const)('%s, %s', (load, store, size, bytes) => {
    fc.assert(
      fc.property(reg, reg, fc.integer({ min: 1, max: 0xfff }), (dst, src, times) => {
        const off = times * bytes;
        const at = (base: string): string => `[${base}, #${off < 10 ? off : `0x${off.toString(16)}`}]`;
        if (off > 0x7fff) return;
        expect(listing([raw(BPF_LDX | BPF_MEM | size, dst, src, off)])).toEqual([
          `${load}${NUMBER[dst]}, ${at(x(src))}`,
        ]);
        expect(listing([raw(BPF_STX | BPF_PROBE_MEM32 | size, dst, src, off)])).toEqual([
          `add x11, ${x(dst)}, x28`,
          `${store}${NUMBER[src]}, ${at('x11')}`,
        ]);
      }),
      SEED,
    );
  });

  test('atomics', () => {
    fc.assert(
      fc.property(reg, reg, (dst, src) => {
        const arena = (op: number): string[] =>
          listing([raw(BPF_STX | BPF_PROBE_ATOMIC | BPF_DW, dst, src, 0, op)]);
        const base = `add x10, ${x(dst)}, x28`;
        expect(arena(BPF_ADD | BPF_FETCH)).toEqual([base, `ldaddal ${x(src)}, ${x(src)}, [x10]`]);
        expect(arena(BPF_XCHG)).toEqual([base, `swpal ${x(src)}, ${x(src)}, [x10]`]);
        expect(arena(BPF_CMPXCHG)).toEqual([base, `casal x8, ${x(src)}, [x10]`]);
        const loop = raw(BPF_STX | BPF_ATOMIC | BPF_W, dst, src, 0, BPF_OR);
        expect(listing([loop], { options: { lse: false } }).slice(0, 3)).toEqual([
          `ldxr w11, [${x(dst)}]`,
          `orr w11, w11, ${w(src)}`,
          `stxr w12, w11, [${x(dst)}]`,
        ]);
      }),
      SEED,
    );
  });
});

test('atomics without FEAT_LSE are loops', () => {
  const loop = (op: number, off: number): string[] =>
    listing([raw(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, off, op)], { options: { lse: false } });
  const at = (word: number): string => `#0x${(IMAGE + BigInt(word * 4)).toString(16)}`;
  expect(loop(BPF_ADD, 8)).toEqual([
    'add x10, x0, #8',
    'ldxr x11, [x10]',
    'add x11, x11, x1',
    'stxr w12, x11, [x10]',
    `cbnz w12, ${at(1)}`,
  ]);
  expect(loop(BPF_AND | BPF_FETCH, 0)).toEqual([
    'mov x9, x1',
    'ldxr x1, [x0]',
    'and x11, x1, x9',
    'stlxr w12, x11, [x0]',
    `cbnz w12, ${at(1)}`,
    'dmb ish',
  ]);
  expect(loop(BPF_XCHG, 0)).toEqual([
    'mov x11, x1',
    'ldxr x1, [x0]',
    'stlxr w12, x11, [x0]',
    `cbnz w12, ${at(1)}`,
    'dmb ish',
  ]);
  expect(loop(BPF_CMPXCHG, 0)).toEqual([
    'mov x11, x8',
    'ldxr x8, [x0]',
    'eor x12, x8, x11',
    `cbnz x12, ${at(7)}`,
    'stlxr w12, x1, [x0]',
    `cbnz w12, ${at(1)}`,
    'dmb ish',
  ]);
});

/** An element of `size` bits with a run of ones, turned, all over 32 bits. */
function replicate(size: number, ones: number, turn: number): number {
  let value = 0;
  for (let bit = 0; bit < 32; bit++) {
    if ((bit + turn) % size < ones) value |= 1 << bit;
  }
  return value;
}

/** What the register holds after movz, movn, movk, or the mov that stands for them. */
function moved(lines: readonly string[]): bigint {
  let value = 0n;
  for (const line of lines) {
    const match = /^(mov[znk]?) ([wx])\d+, #(-?\w+)(?:, lsl #(\d+))?$/.exec(line);
    if (match === null) throw new Error(line);
    const [, mnemonic, kind, number = '', shift = '0'] = match;
    const by = BigInt(shift);
    const sign = number.startsWith('-');
    const bits = sign ? -BigInt(number.slice(1)) : BigInt(number);
    if (mnemonic === 'movk') value = (value & ~(0xffffn << by)) | (bits << by);
    else value = mnemonic === 'movn' ? ~(bits << by) : bits << by;
    value = BigInt.asUintN(kind === 'w' ? 32 : 64, value);
  }
  return value;
}
