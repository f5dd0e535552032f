import { describe, expect, test } from '@jest/globals';
import {
  BPF_ADD,
  BPF_AND,
  BPF_ARSH,
  BPF_B,
  BPF_CMPXCHG,
  BPF_DW,
  BPF_FETCH,
  BPF_H,
  BPF_LOAD_ACQ,
  BPF_LSH,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MOV,
  BPF_OR,
  BPF_PROBE_MEM,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_PROBE_MEMSX,
  BPF_STORE_REL,
  BPF_W,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import {
  alu32,
  alu32k,
  alu64,
  alu64k,
  atomic,
  castUser,
  EXIT,
  ldImm64,
  ldx,
  mov,
  mov32,
  movK,
  probeAtomic,
  raw,
  st,
  stx,
} from './jit-testing.js';
import { codeOf, compile, extableOf, hexOf } from './x86-testing.js';

const squeeze = (hex: string): string => hex.replaceAll(/\s/g, '');

/** Instructions and what they become, as another encoder and objdump have it. */
const GOLDEN: readonly [string, bpf_insn | readonly bpf_insn[], string][] = [
  ['LDX PROBE_MEM32 B r2=[r1+8]', ldx(BPF_PROBE_MEM32, BPF_B, 2, 1, 8), '42 0f b6 74 27 08'],
  ['LDX PROBE_MEM32 H r2=[r1+8]', ldx(BPF_PROBE_MEM32, BPF_H, 2, 1, 8), '42 0f b7 74 27 08'],
  ['LDX PROBE_MEM32 W r2=[r1+8]', ldx(BPF_PROBE_MEM32, BPF_W, 2, 1, 8), '42 8b 74 27 08'],
  ['LDX PROBE_MEM32 DW r2=[r1+8]', ldx(BPF_PROBE_MEM32, BPF_DW, 2, 1, 8), '4a 8b 74 27 08'],
  ['LDX PROBE_MEM32SX B r2=[r1+8]', ldx(BPF_PROBE_MEM32SX, BPF_B, 2, 1, 8), '4a 0f be 74 27 08'],
  ['LDX PROBE_MEM32SX H r2=[r1+8]', ldx(BPF_PROBE_MEM32SX, BPF_H, 2, 1, 8), '4a 0f bf 74 27 08'],
  ['LDX PROBE_MEM32SX W r2=[r1+8]', ldx(BPF_PROBE_MEM32SX, BPF_W, 2, 1, 8), '4a 63 74 27 08'],
  ['LDX PROBE_MEM32 W r1=[r1+0x7fff]', ldx(BPF_PROBE_MEM32, BPF_W, 1, 1, 0x7fff), '42 8b bc 27 ff 7f 00 00'],
  ['LDX PROBE_MEM32 DW r0=[r6-8]', ldx(BPF_PROBE_MEM32, BPF_DW, 0, 6, -8), '4a 8b 44 23 f8'],
  ['LDX PROBE_MEM32 DW r9=[r7+0]', ldx(BPF_PROBE_MEM32, BPF_DW, 9, 7, 0), '4f 8b 7c 25 00'],
  ['LDX PROBE_MEM32 B r5=[r5+0]', ldx(BPF_PROBE_MEM32, BPF_B, 5, 5, 0), '47 0f b6 44 20 00'],
  ['STX PROBE_MEM32 B [r1+8]=r2', stx(BPF_PROBE_MEM32, BPF_B, 1, 8, 2), '42 88 74 27 08'],
  ['STX PROBE_MEM32 H [r1+8]=r2', stx(BPF_PROBE_MEM32, BPF_H, 1, 8, 2), '66 42 89 74 27 08'],
  ['STX PROBE_MEM32 W [r1+8]=r2', stx(BPF_PROBE_MEM32, BPF_W, 1, 8, 2), '42 89 74 27 08'],
  ['STX PROBE_MEM32 DW [r1+8]=r2', stx(BPF_PROBE_MEM32, BPF_DW, 1, 8, 2), '4a 89 74 27 08'],
  ['STX PROBE_MEM32 W [r1+0x7fff]=r2', stx(BPF_PROBE_MEM32, BPF_W, 1, 0x7fff, 2), '42 89 b4 27 ff 7f 00 00'],
  ['STX PROBE_MEM32 DW [r8-16]=r9', stx(BPF_PROBE_MEM32, BPF_DW, 8, -16, 9), '4f 89 7c 26 f0'],
  ['ST PROBE_MEM32 B [r1+8]=-2', st(BPF_PROBE_MEM32, BPF_B, 1, 8, -2), '42 c6 44 27 08 fe'],
  ['ST PROBE_MEM32 H [r1+8]=-2', st(BPF_PROBE_MEM32, BPF_H, 1, 8, -2), '66 42 c7 44 27 08 fe ff'],
  ['ST PROBE_MEM32 W [r1+8]=-2', st(BPF_PROBE_MEM32, BPF_W, 1, 8, -2), '42 c7 44 27 08 fe ff ff ff'],
  ['ST PROBE_MEM32 DW [r1+8]=-2', st(BPF_PROBE_MEM32, BPF_DW, 1, 8, -2), '4a c7 44 27 08 fe ff ff ff'],
  ['STX PROBE_ATOMIC W ADD [r1+8],r2', probeAtomic(BPF_W, BPF_ADD, 1, 2, 8), 'f0 42 01 74 27 08'],
  ['STX PROBE_ATOMIC DW ADD [r1+8],r2', probeAtomic(BPF_DW, BPF_ADD, 1, 2, 8), 'f0 4a 01 74 27 08'],
  ['STX PROBE_ATOMIC W AND [r1+8],r2', probeAtomic(BPF_W, BPF_AND, 1, 2, 8), 'f0 42 21 74 27 08'],
  ['STX PROBE_ATOMIC DW AND [r1+8],r2', probeAtomic(BPF_DW, BPF_AND, 1, 2, 8), 'f0 4a 21 74 27 08'],
  ['STX PROBE_ATOMIC W OR [r1+8],r2', probeAtomic(BPF_W, BPF_OR, 1, 2, 8), 'f0 42 09 74 27 08'],
  ['STX PROBE_ATOMIC DW OR [r1+8],r2', probeAtomic(BPF_DW, BPF_OR, 1, 2, 8), 'f0 4a 09 74 27 08'],
  ['STX PROBE_ATOMIC W XOR [r1+8],r2', probeAtomic(BPF_W, BPF_XOR, 1, 2, 8), 'f0 42 31 74 27 08'],
  ['STX PROBE_ATOMIC DW XOR [r1+8],r2', probeAtomic(BPF_DW, BPF_XOR, 1, 2, 8), 'f0 4a 31 74 27 08'],
  [
    'STX PROBE_ATOMIC W ADD FETCH [r1+8],r2',
    probeAtomic(BPF_W, BPF_ADD | BPF_FETCH, 1, 2, 8),
    'f0 42 0f c1 74 27 08',
  ],
  [
    'STX PROBE_ATOMIC DW ADD FETCH [r1+8],r2',
    probeAtomic(BPF_DW, BPF_ADD | BPF_FETCH, 1, 2, 8),
    'f0 4a 0f c1 74 27 08',
  ],
  ['STX PROBE_ATOMIC W XCHG [r1+8],r2', probeAtomic(BPF_W, BPF_XCHG, 1, 2, 8), '42 87 74 27 08'],
  ['STX PROBE_ATOMIC DW XCHG [r1+8],r2', probeAtomic(BPF_DW, BPF_XCHG, 1, 2, 8), '4a 87 74 27 08'],
  ['STX PROBE_ATOMIC W CMPXCHG [r1+8],r2', probeAtomic(BPF_W, BPF_CMPXCHG, 1, 2, 8), 'f0 42 0f b1 74 27 08'],
  [
    'STX PROBE_ATOMIC DW CMPXCHG [r1+8],r2',
    probeAtomic(BPF_DW, BPF_CMPXCHG, 1, 2, 8),
    'f0 4a 0f b1 74 27 08',
  ],
  [
    'STX PROBE_ATOMIC W LOAD_ACQ r0=[r1+0x7fff]',
    probeAtomic(BPF_W, BPF_LOAD_ACQ, 0, 1, 0x7fff),
    '42 8b 84 27 ff 7f 00 00',
  ],
  ['STX PROBE_ATOMIC W STORE_REL [r1+0]=r2', probeAtomic(BPF_W, BPF_STORE_REL, 1, 2, 0), '42 89 74 27 00'],
  ['STX ATOMIC DW ADD [r1+8],r2', atomic(BPF_DW, BPF_ADD, 1, 2, 8), 'f0 48 01 77 08'],
  ['STX ATOMIC DW ADD FETCH [r1+8],r2', atomic(BPF_DW, BPF_ADD | BPF_FETCH, 1, 2, 8), 'f0 48 0f c1 77 08'],
  ['STX ATOMIC DW XCHG [r1+8],r2', atomic(BPF_DW, BPF_XCHG, 1, 2, 8), '48 87 77 08'],
  ['STX ATOMIC DW CMPXCHG [r1+8],r2', atomic(BPF_DW, BPF_CMPXCHG, 1, 2, 8), 'f0 48 0f b1 77 08'],
  [
    'cast_user r1=r1',
    castUser(1, 1),
    '48 c1 e7 20 48 81 cf 7d 7f 00 00 48 c1 c7 20 4d 31 db 85 ff 49 0f 44 fb',
  ],
  [
    'cast_user r0=r6',
    castUser(0, 6),
    '89 d8 48 c1 e0 20 48 0d 7d 7f 00 00 48 c1 c0 20 4d 31 db 85 c0 49 0f 44 c3',
  ],
  [
    'cast_user r7=r7',
    castUser(7, 7),
    '49 c1 e5 20 49 81 cd 7d 7f 00 00 49 c1 c5 20 4d 31 db 45 85 ed 4d 0f 44 eb',
  ],
  ['ALU MOV32 w1=w1', mov32(1, 1), '89 ff'],
  ['ALU MOV32 w7=w7', mov32(7, 7), '45 89 ed'],
  ['w5=w0', mov32(5, 0), '41 89 c0'],
  ['LDX MEM B r2=[r1+8]', ldx(BPF_MEM, BPF_B, 2, 1, 8), '48 0f b6 77 08'],
  ['LDX MEM H r2=[r1+8]', ldx(BPF_MEM, BPF_H, 2, 1, 8), '48 0f b7 77 08'],
  ['LDX MEM W r2=[r1+8]', ldx(BPF_MEM, BPF_W, 2, 1, 8), '8b 77 08'],
  ['LDX MEM DW r2=[r1+8]', ldx(BPF_MEM, BPF_DW, 2, 1, 8), '48 8b 77 08'],
  ['LDX MEM DW r7=[r10-8]', ldx(BPF_MEM, BPF_DW, 7, 10, -8), '4c 8b 6d f8'],
  ['LDX MEM W r0=[r7+512]', ldx(BPF_MEM, BPF_W, 0, 7, 512), '41 8b 85 00 02 00 00'],
  ['LDX MEMSX B r2=[r1+8]', ldx(BPF_MEMSX, BPF_B, 2, 1, 8), '48 0f be 77 08'],
  ['LDX MEMSX H r2=[r1+8]', ldx(BPF_MEMSX, BPF_H, 2, 1, 8), '48 0f bf 77 08'],
  ['LDX MEMSX W r2=[r1+8]', ldx(BPF_MEMSX, BPF_W, 2, 1, 8), '48 63 77 08'],
  ['STX MEM B [r10-8]=r1', stx(BPF_MEM, BPF_B, 10, -8, 1), '40 88 7d f8'],
  ['STX MEM H [r10-8]=r1', stx(BPF_MEM, BPF_H, 10, -8, 1), '66 89 7d f8'],
  ['STX MEM W [r10-8]=r1', stx(BPF_MEM, BPF_W, 10, -8, 1), '89 7d f8'],
  ['STX MEM DW [r10-8]=r1', stx(BPF_MEM, BPF_DW, 10, -8, 1), '48 89 7d f8'],
  ['STX MEM B [r10-1]=r0', stx(BPF_MEM, BPF_B, 10, -1, 0), '88 45 ff'],
  ['ST MEM B [r10-8]=1', st(BPF_MEM, BPF_B, 10, -8, 1), 'c6 45 f8 01'],
  ['ST MEM H [r10-8]=1', st(BPF_MEM, BPF_H, 10, -8, 1), '66 c7 45 f8 01 00'],
  ['ST MEM W [r10-8]=1', st(BPF_MEM, BPF_W, 10, -8, 1), 'c7 45 f8 01 00 00 00'],
  ['ST MEM DW [r10-8]=1', st(BPF_MEM, BPF_DW, 10, -8, 1), '48 c7 45 f8 01 00 00 00'],
  [
    'LDX PROBE_MEM DW r2=[r1+16]',
    ldx(BPF_PROBE_MEM, BPF_DW, 2, 1, 16),
    '49 c7 c2 00 00 60 ff 49 89 fb 49 81 c3 10 00 00 00 4d 29 d3 49 ba 00 00 a0 00 00 80 00 00 4d 39 d3 77 04 31 f6 eb 04 48 8b 77 10',
  ],
  [
    'LDX PROBE_MEMSX W r7=[r6+0]',
    ldx(BPF_PROBE_MEMSX, BPF_W, 7, 6, 0),
    '49 c7 c2 00 00 60 ff 49 89 db 4d 29 d3 49 ba 00 00 a0 00 00 80 00 00 4d 39 d3 77 05 45 31 ed eb 04 4c 63 6b 00',
  ],
  ['ld_imm64 r1=0x7f7d26200000', ldImm64(1, 0x7f7d26200000n), '48 bf 00 00 20 26 7d 7f 00 00'],
  ['r0=0', movK(0, 0), '31 c0'],
  ['r2=1', movK(2, 1), 'be 01 00 00 00'],
  ['r7=-1', movK(7, -1), '49 c7 c5 ff ff ff ff'],
  ['w7=-1', alu32k(BPF_MOV, 7, -1), '41 bd ff ff ff ff'],
  ['r1 += r2', alu64(BPF_ADD, 1, 2), '48 01 f7'],
  ['w7 ^= w8', alu32(BPF_XOR, 7, 8), '45 31 f5'],
  ['r1 &= -4096', alu64k(BPF_AND, 1, -4096), '48 81 e7 00 f0 ff ff'],
  ['r0 += 0x12345', alu64k(BPF_ADD, 0, 0x12345), '48 05 45 23 01 00'],
  ['w2 += 1', alu32k(BPF_ADD, 2, 1), '83 c6 01'],
  ['r1 <<= r2', alu64(BPF_LSH, 1, 2), 'c4 e2 c9 f7 ff'],
];

describe('single instructions', () => {
  test.each(GOLDEN)('%s', (_, insns, hex) => {
    expect(hexOf(codeOf(insns))).toBe(squeeze(hex));
  });
});

// Read by objdump -d -M intel.
describe('what takes several native instructions', () => {
  test.each<[string, bpf_insn, string]>([
    // mov r10,rax; L: mov rax,[rdi+8]; mov r11,rax; or r11,rsi; lock cmpxchg [rdi+8],r11; jne L; mov rsi,rax; mov rax,r10
    [
      'r2 = atomic_fetch_or((u64 *)(r1 + 8), r2)',
      atomic(BPF_DW, BPF_OR | BPF_FETCH, 1, 2, 8),
      '4989c2 488b4708 4989c3 4909f3 f04c0fb15f08 75ee 4889c6 4c89d0',
    ],
    // mov r10,rax; L: mov eax,[r10+8]; mov r11d,eax; and r11d,esi; lock cmpxchg [r10+8],r11d; jne L; mov esi,eax; mov rax,r10
    [
      'w2 = atomic_fetch_and((u32 *)(r0 + 8), w2)',
      atomic(BPF_W, BPF_AND | BPF_FETCH, 0, 2, 8),
      '4989c2 418b4208 4189c3 4121f3 f0450fb15a08 75ee 89c6 4c89d0',
    ],
    // The old value goes to r10 instead of rax, and from there to rax.
    [
      'r0 = atomic_fetch_xor((u64 *)(r1 + 8), r0)',
      atomic(BPF_DW, BPF_XOR | BPF_FETCH, 1, 0, 8),
      '4989c2 488b4708 4989c3 4d31d3 f04c0fb15f08 75ee 4989c2 4c89d0',
    ],
    // push rax; push rdx; mov rax,rdi; xor edx,edx; div rsi; mov rdi,rax; pop rdx; pop rax
    ['r1 /= r2', alu64(0x30, 1, 2), '50 52 4889f8 31d2 48f7f6 4889c7 5a 58'],
    // push rdx; mov r11,3; cdq; idiv r11d; mov eax,edx; pop rdx
    ['w0 s%= 3', { ...alu32k(0x90, 0, 3), off: 1 }, '52 49c7c303000000 99 41f7fb 89d0 5a'],
    // push rax; mov r11,rax; mov rax,rdx; xor edx,edx; div r11; pop rax
    ['r3 %= r0', alu64(0x90, 3, 0), '50 4989c3 4889d0 31d2 49f7f3 58'],
    ['nospec', raw(0xc2), '0faee8'],
    ['r7 = be16 r7', raw(0xdc, 7, 0, 0, 16), '6641c1cd08 450fb7ed'],
    ['r1 = bswap32 r1', raw(0xd7, 1, 0, 0, 32), '0fcf'],
    ['r7 = be64 r7', raw(0xdc, 7, 0, 0, 64), '490fcd'],
    ['r7 = le32 r7', raw(0xd4, 7, 0, 0, 32), '4589ed'],
    ['r7 = le64 r7', raw(0xd4, 7, 0, 0, 64), ''],
  ])('%s', (_, insn, hex) => {
    expect(hexOf(codeOf(insn))).toBe(squeeze(hex));
  });

  // push rcx; mov rcx,rsi; shl rdi,cl; pop rcx, and so on
  test.each<[string, bpf_insn, string]>([
    ['r1 <<= r2', alu64(BPF_LSH, 1, 2), '51 4889f1 48d3e7 59'],
    ['w4 s>>= w2', alu32(BPF_ARSH, 4, 2), '4989cb 4889f1 41d3fb 4c89d9'],
    ['r1 <<= r4', alu64(BPF_LSH, 1, 4), '48d3e7'],
  ])('%s without BMI2', (_, insn, hex) => {
    expect(hexOf(codeOf(insn, { bmi2: false }))).toBe(squeeze(hex));
  });

  test('with BMI2 a count in rcx is still shifted by cl', () => {
    expect(hexOf(codeOf(alu64(BPF_LSH, 1, 4)))).toBe('48d3e7');
  });
});

describe('whole programs', () => {
  const IBT = { branchTracking: true };
  const PROLOGUE = 'f30f1efa 0f1f440000 0f1f00 55 4889e5 f30f1efa';

  test('a store to the arena', () => {
    const insns = [
      ...ldImm64(1, 0x7f7d26200000n),
      mov32(1, 1),
      movK(2, 1),
      stx(BPF_PROBE_MEM32, BPF_W, 1, 0x7fff, 2),
      movK(0, 0),
      EXIT,
    ];
    const jited = compile(insns, {}, IBT);
    const hex = `${PROLOGUE} 4154 49bc0090e60100c9ffff
      48bf000020267d7f0000 89ff be01000000 4289b427ff7f0000 31c0 415c c9 c3`;
    expect(hexOf(jited.code)).toBe(squeeze(hex));
    expect(jited.addrs).toEqual([0x20, 0x2a, 0x2a, 0x2c, 0x31, 0x39, 0x3b, 0x3f]);
    expect(jited.extableOffset).toBe(0x40);
    expect(extableOf(jited)).toEqual([{ words: [0xfffffff1, 0x80700108, 0x7fff0007], covers: 0x31 }]);
  });

  test('a load from the arena', () => {
    const insns = [
      ...ldImm64(1, 0x7f7d26200000n),
      mov32(1, 1),
      ldx(BPF_PROBE_MEM32, BPF_W, 1, 1, 0x7fff),
      movK(0, 0),
      EXIT,
    ];
    const jited = compile(insns, {}, IBT);
    const hex = `${PROLOGUE} 4154 49bc0090e60100c9ffff
      48bf000020267d7f0000 89ff 428bbc27ff7f0000 31c0 415c c9 c3`;
    expect(hexOf(jited.code)).toBe(squeeze(hex));
    expect(jited.extableOffset).toBe(0x3c);
    expect(extableOf(jited)).toEqual([{ words: [0xfffffff0, 0x80707008, 0x7fff0007], covers: 0x2c }]);
  });

  test('of everything something', () => {
    const insns = [
      mov(6, 1),
      ...ldImm64(7, 0xdeadbeefn),
      mov32(7, 7),
      stx(BPF_MEM, BPF_DW, 10, -8, 6),
      st(BPF_PROBE_MEM32, BPF_W, 7, 0, 1),
      ldx(BPF_PROBE_MEM32SX, BPF_B, 0, 7, -1),
      probeAtomic(BPF_DW, BPF_ADD | BPF_FETCH, 7, 6, 8),
      castUser(7, 7),
      mov(0, 7),
      EXIT,
    ];
    const jited = compile(insns, { stack_depth: 16 }, IBT);
    const hex = `${PROLOGUE} 4881ec10000000 4154 53 4155 49bc0090e60100c9ffff
      4889fb 41bdefbeadde 4589ed 48895df8 43c744250001000000 4b0fbe4425ff f04b0fc15c2508
      49c1e520 4981cd7d7f0000 49c1c520 4d31db 4585ed 4d0f44eb 4c89e8 415d 5b 415c c9 c3`;
    expect(hexOf(jited.code)).toBe(squeeze(hex));
    expect(jited.extableOffset).toBe(0x74);
    expect(extableOf(jited)).toEqual([
      { words: [0xffffffc6, 0x80100109, 0x00000007], covers: 0x3a },
      { words: [0xffffffc3, 0x80105006, 0xffff0007], covers: 0x43 },
      { words: [0xffffffbd, 0x80100107, 0x00080007], covers: 0x49 },
    ]);
  });
});

describe('exception-table entries', () => {
  test.each<[string, bpf_insn, number]>([
    ['load_acquire', probeAtomic(BPF_W, BPF_LOAD_ACQ, 0, 1, 0x7fff), 0x80500108],
    ['xchg', probeAtomic(BPF_W, BPF_XCHG, 1, 2, 0x7fff), 0x80700108],
    ['cmpxchg', probeAtomic(BPF_W, BPF_CMPXCHG, 1, 2, 0x7fff), 0x8070010a],
  ])('%s looks like a store through its dst', (_, insn, fixup) => {
    expect(extableOf(compile([insn, EXIT]))[0]?.words.slice(1)).toEqual([fixup, 0x7fff0007]);
  });

  test.each<[string, bpf_insn, object]>([
    ['load_acquire', probeAtomic(BPF_W, BPF_LOAD_ACQ, 0, 1, 8), { clear: 'rax', data: {} }],
    ['store_release', probeAtomic(BPF_W, BPF_STORE_REL, 1, 2, 8), { clear: null, data: {} }],
    ['add', probeAtomic(BPF_W, BPF_ADD, 1, 2, 8), { clear: null, data: {} }],
    [
      'fetch_add',
      probeAtomic(BPF_W, BPF_ADD | BPF_FETCH, 1, 2, 8),
      { clear: 'rsi', data: { write: 'true' } },
    ],
    ['xchg', probeAtomic(BPF_W, BPF_XCHG, 1, 2, 8), { clear: 'rsi', data: { write: 'true' } }],
    ['cmpxchg', probeAtomic(BPF_W, BPF_CMPXCHG, 1, 2, 8), { clear: 'rax', data: { write: 'true' } }],
  ])('%s by its kind', (_, insn, expected) => {
    const { extable } = compile([insn, EXIT], {}, { atomicEntries: 'by-kind' });
    expect(extable).toMatchObject([{ ...expected, arena: { register: 'rdi', offset: 8 } }]);
  });

  test('of a guarded load only the load is covered', () => {
    const jited = compile([ldx(BPF_PROBE_MEM, BPF_DW, 2, 1, 16), EXIT], { arena: null });
    // endbr64 is not there: 5 + 3 + 4 bytes of prologue, 39 of the guard.
    expect(extableOf(jited)).toEqual([{ words: [expect.any(Number), 0x00006804, 7], covers: 12 + 39 }]);
  });

  test('a register that pt_regs offsets do not cover', () => {
    const insn = ldx(BPF_PROBE_MEM, BPF_DW, 11, 1, 16);
    expect(() => compile([insn, EXIT])).toThrow('verifier error');
  });
});
