import { describe, expect, test } from '@jest/globals';
import { encodeInsns } from '../insn.js';
import { assembleBpf, BpfAsmError, type BpfText } from './asm.js';

const CONSTANTS: Readonly<Record<string, bigint>> = {
  PAGE_SIZE: 4096n,
  'a.page(1) + 8': 0x1_0000_1008n,
  OFF: 16n,
};
const symbols = { constant: (text: string): bigint | null => CONSTANTS[text] ?? null };
const assemble = (text: string): BpfText => assembleBpf(text, symbols);
const hex = (text: string): string => Buffer.from(encodeInsns(assemble(text).insns)).toString('hex');

describe('encodings', () => {
  // Bytes of llvm-mc 14, -triple=bpfel -mcpu=v3.
  test.each([
    ['r1 = 5', 'b701000005000000'],
    ['r1 = -5', 'b7010000fbffffff'],
    ['w1 += w2', '0c21000000000000'],
    ['r1 += 1000', '07010000e8030000'],
    ['r1 -= r2', '1f21000000000000'],
    ['r1 *= 3', '2701000003000000'],
    ['w1 /= w2', '3c21000000000000'],
    ['r1 |= 0x7fffffff', '47010000ffffff7f'],
    ['w1 &= 255', '54010000ff000000'],
    ['r1 <<= 3', '6701000003000000'],
    ['w1 >>= 1', '7401000001000000'],
    ['r1 ^= r9', 'af91000000000000'],
    ['r1 s>>= 3', 'c701000003000000'],
    ['w1 s>>= w2', 'cc21000000000000'],
    ['r1 = -r1', '8701000000000000'],
    ['w1 = -w1', '8401000000000000'],
    ['r1 = r10', 'bfa1000000000000'],
    ['w3 = w4', 'bc43000000000000'],
    ['w3 = 7', 'b403000007000000'],
    ['r1 = be16 r1', 'dc01000010000000'],
    ['r1 = be64 r1', 'dc01000040000000'],
    ['r1 = le32 r1', 'd401000020000000'],
    ['r1 = 0x7f7d26200000 ll', '1801000000002026000000007d7f0000'],
    ['r2 = *(u32 *)(r1 + 8)', '6112080000000000'],
    ['w2 = *(u8 *)(r1 - 4)', '7112fcff00000000'],
    ['r2 = *(u16 *)(r1 + 0)', '6912000000000000'],
    ['r2 = *(u64 *)(r1 + 0x7fff)', '7912ff7f00000000'],
    ['*(u64 *)(r1 + 0) = r2', '7b21000000000000'],
    ['*(u32 *)(r1 + 4) = w2', '6321040000000000'],
    ['*(u8 *)(r10 - 1) = r2', '732affff00000000'],
    ['lock *(u64 *)(r1 + 8) += r2', 'db21080000000000'],
    ['lock *(u32 *)(r1 + 8) |= w2', 'c321080040000000'],
    ['lock *(u64 *)(r1 + 8) &= r2', 'db21080050000000'],
    ['lock *(u64 *)(r1 + 8) ^= r2', 'db210800a0000000'],
    ['if r1 s> 5 goto +2', '6501020005000000'],
    ['if w1 != w2 goto -3', '5e21fdff00000000'],
    ['if w1 < 100 goto +4', 'a601040064000000'],
    ['goto +0', '0500000000000000'],
    ['call 12', '850000000c000000'],
    ['exit', '9500000000000000'],
  ])('%s', (text, bytes) => {
    expect(hex(text)).toBe(bytes);
  });

  // include/uapi/linux/bpf.h: what that assembler does not know.
  test.each([
    ['r1 %= 7', '9701000007000000'],
    ['r1 s/= r2', '3f21010000000000'],
    ['w1 s%= 3', '9401010003000000'],
    ['r1 = (s8)r2', 'bf21080000000000'],
    ['w1 = (s16)w2', 'bc21100000000000'],
    ['r1 = (s32)r2', 'bf21200000000000'],
    ['r1 = bswap32 r1', 'd701000020000000'],
    ['r2 = *(s8 *)(r1 - 4)', '9112fcff00000000'],
    ['r2 = *(s16 *)(r1 + 2)', '8912020000000000'],
    ['r2 = *(s32 *)(r1 + 8)', '8112080000000000'],
    ['*(u8 *)(r1 + 0) = 1', '7201000001000000'],
    ['*(u16 *)(r1 + 0) = 1', '6a01000001000000'],
    ['*(u32 *)(r1 + 0) = 0xffffffff', '62010000ffffffff'],
    ['*(u64 *)(r1 + 0) = -1', '7a010000ffffffff'],
    ['r2 = atomic_fetch_add((u64 *)(r1 + 8), r2)', 'db21080001000000'],
    ['w2 = atomic_fetch_or((u32 *)(r1 + 8), w2)', 'c321080041000000'],
    ['r2 = atomic_fetch_and((u64 *)(r1 + 8), r2)', 'db21080051000000'],
    ['r2 = atomic64_fetch_xor((u64 *)(r1 +8), r2)', 'db210800a1000000'],
    ['r2 = xchg_64(r1 + 8, r2)', 'db210800e1000000'],
    ['w2 = xchg32_32(r1 + 8, w2)', 'c3210800e1000000'],
    ['w2 = xchg_32(r1 + 8, w2)', 'c3210800e1000000'],
    ['r0 = cmpxchg_64(r1 - 8, r0, r2)', 'db21f8fff1000000'],
    ['w0 = cmpxchg32_32(r1 + 8, w0, w2)', 'c3210800f1000000'],
    ['r0 = atomic_cmpxchg((u32 *)(r1 +8), r0, r2)', 'c3210800f1000000'],
    ['r1 = load_acquire((u32 *)(r2 + 0))', 'c321000000010000'],
    ['w1 = load_acquire((u8 *)(r2 + 1))', 'd321010000010000'],
    ['store_release((u16 *)(r1 + 0), r2)', 'cb21000010010000'],
    ['r1 = addr_space_cast(r1, 0, 1)', 'bf11010001000000'],
    ['r2 = addr_space_cast(r1, 1, 0)', 'bf12010000000100'],
    ['if r1 & 3 goto +1', '4501010003000000'],
    ['if r1 == 0xffffffff goto +1', '15010100ffffffff'],
    ['gotol +70000', '0600000070110100'],
    ['may_goto +2', 'e500020000000000'],
    ['call pc+3', '8510000003000000'],
    ['.insn 0xa3, 1, 2, 0x7fff, -2', 'a321ff7ffeffffff'],
    ['r1 = map[arena]', '18110000000000000000000000000000'],
    ['r1 = map[arena][0]+16', '18210000000000000000000010000000'],
    ['r2 = -1 ll', '18020000ffffffff00000000ffffffff'],
  ])('%s', (text, bytes) => {
    expect(hex(text)).toBe(bytes);
  });

  test('constants and expressions of the caller', () => {
    expect(hex('r2 = PAGE_SIZE')).toBe('b702000000100000');
    expect(hex('r2 = a.page(1) + 8 ll')).toBe('18020000081000000000000001000000');
    expect(hex('r2 = *(u32 *)(r1 + OFF)')).toBe('6112100000000000');
    expect(hex('if r1 > PAGE_SIZE goto +1')).toBe('2501010000100000');
    expect(hex('if r1 > PAGE_SIZE\tgoto +1')).toBe('2501010000100000');
  });

  // The same program by hand, before the verifier: a store through a cast pointer with the largest offset.
  test('a program that writes to an arena', () => {
    expect(
      hex(`
        r1 = 0x1122334455667788 ll
        r1 = addr_space_cast(r1, 0, 1)
        r2 = 1
        *(u32 *)(r1 + 0x7fff) = r2
        r0 = 0
        exit
      `),
    ).toBe(
      '1801000088776655' +
        '0000000044332211' +
        'bf11010001000000' +
        'b702000001000000' +
        '6321ff7f00000000' +
        'b700000000000000' +
        '9500000000000000',
    );
  });
});

describe('what belongs to instructions', () => {
  test('labels count slots, and a 64-bit immediate has two', () => {
    const { insns } = assemble('again: r1 = 1 ll\nif r1 == 0 goto out\nr2 = 1 ll\nmay_goto again\nout: exit');
    expect(insns[2]?.off).toBe(3);
    expect(insns[5]?.off).toBe(-6);
  });

  test('source lines, calls, maps and symbols by slot', () => {
    const text = assemble(
      [
        'int3: // a comment alone',
        ';   *(page) = 1; @ progs/stream.c:100',
        'r1 = map[arena]  # and another',
        'r1 = map[arena][0]+0xffff0000',
        '; return x["//"]; @ stream.c:101',
        'r2 = jiffies ll',
        'call bpf_arena_alloc_pages#123',
        'exit',
      ].join('\n'),
    );
    expect([...text.lines]).toEqual([
      [0, { text: '  *(page) = 1;', file: 'progs/stream.c', line: 100 }],
      [4, { text: 'return x["//"];', file: 'stream.c', line: 101 }],
    ]);
    expect([...text.maps]).toEqual([
      [0, { name: 'arena', offset: null }],
      [2, { name: 'arena', offset: 0xffff0000 }],
    ]);
    expect([...text.symbols]).toEqual([[4, 'jiffies']]);
    expect([...text.calls]).toEqual([[6, 'bpf_arena_alloc_pages']]);
    expect([...text.places]).toEqual([
      [0, 3],
      [1, 3],
      [2, 4],
      [3, 4],
      [4, 6],
      [5, 6],
      [6, 7],
      [7, 8],
    ]);
  });

  test('lines of a log', () => {
    expect(hex('12: (61) r2 = *(u32 *)(r1 +8)\n  13: (05) goto pc+1')).toBe(
      '61120800000000000500010000000000',
    );
  });
});

describe('mistakes, with their places', () => {
  test.each([
    ['r1 = 1\n  r11 = 1', 2, 3, 'r11: registers are numbered 0 to 10'],
    ['r1 = 1 2', 1, 6, '"1 2" has no value'],
    ['r1 = nobody', 1, 6, '"nobody" has no value'],
    ['r1 = 0x100000000', 1, 6, 'immediate 4294967296 does not fit 32 bits with a sign'],
    ['r1 = 0xffffffff', 1, 6, 'immediate 4294967295 does not fit 32 bits with a sign'],
    ['r2 = *(u32 *)(r1 + 0x8000)', 1, 20, 'offset 32768 does not fit 16 bits with a sign'],
    ['r2 = *(u24 *)(r1 + 0)', 1, 8, 'expected a type: u8, u16, u32, u64, s8, s16 or s32'],
    ['r2 = *(s64 *)(r1 + 0)', 1, 8, 's64: 64 bits have nothing to extend, u64'],
    ['w2 = *(u64 *)(r1 + 0)', 1, 6, 'u64 fills 64 bits: r2'],
    ['r2 = *(u32 *)(w1 + 0)', 1, 15, 'w1: an address takes 64 bits, r1'],
    ['r1 += w2', 1, 7, 'both registers must be r, or both w'],
    ['r1 = -r2', 1, 7, 'a register is negated in place'],
    ['*(u64 *)(r1 + 0) = w2', 1, 20, 'w2: 64 bits are in r2'],
    ['r3 = xchg_64(r1 + 8, r2)', 1, 6, 'the old value comes back in the register of the new one'],
    ['r1 = cmpxchg_64(r1 + 8, r0, r2)', 1, 6, 'cmpxchg compares with r0 and returns r0'],
    ['lock *(u16 *)(r1 + 8) += r2', 1, 7, 'u16: this atomic instruction has u32 and u64'],
    ['goto +40000', 1, 6, '40000 slots do not fit 16 bits: use gotol'],
    [
      'if r1 == 5 goto +40000',
      1,
      17,
      '40000 slots do not fit 16 bits: only goto has a long form; let it jump to a gotol',
    ],
    [
      'may_goto -40000',
      1,
      10,
      '-40000 slots do not fit 16 bits: only goto has a long form; let it jump to a gotol',
    ],
    ['goto nowhere', 1, 6, 'there is no label nowhere'],
    ['a: r1 = 1\na: exit', 2, 1, 'label a is there twice'],
    ['if r1 = 5 goto +1', 1, 7, 'expected a comparison such as == or s>'],
    ['mov r1, 5', 1, 1, '"mov r1, 5" is no BPF instruction'],
    ['exit now', 1, 6, 'nothing more is expected here, found "now"'],
    ['(61) r2 = 5', 1, 1, 'the byte says 61, but this is b7'],
    ['; x = 1;', 1, 1, 'a source line ends with its place: @ file.c:12'],
    ['; x @ a.c:1\n; y @ a.c:2\nexit', 2, 1, 'two source lines for one instruction'],
    ['.insn 256, 0, 0, 0, 0', 1, 7, 'code 256 does not fit 8 bits'],
  ])('%j', (text, line, column, message) => {
    let error: unknown;
    try {
      assemble(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(BpfAsmError);
    expect(error).toMatchObject({ line, column, message });
  });
});
