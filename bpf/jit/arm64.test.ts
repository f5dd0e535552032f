import { describe, expect, test } from '@jest/globals';
import {
  BPF_ADD,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_B,
  BPF_CALL,
  BPF_CMPXCHG,
  BPF_DW,
  BPF_FETCH,
  BPF_H,
  BPF_JMP,
  BPF_LD_IMM64,
  BPF_LOAD_ACQ,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MOV,
  BPF_OR,
  BPF_PROBE_MEM,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_PROBE_MEMSX,
  BPF_PSEUDO_CALL,
  BPF_PSEUDO_FUNC,
  BPF_PSEUDO_KFUNC_CALL,
  BPF_STORE_REL,
  BPF_W,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import {
  BTI_PAC,
  body,
  type Compilation,
  compile,
  extableHex,
  hexOf,
  IMAGE,
  KERN_VM_START,
} from './arm64-testing.js';
import {
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
  USER_VM_START,
} from './jit-testing.js';

const P32 = BPF_PROBE_MEM32;
const SX = BPF_PROBE_MEM32SX;

// Words that GNU as makes of the instructions in the kernel's order; objdump reads them back.
describe('one instruction', () => {
  test.each<readonly [string, bpf_insn | readonly bpf_insn[], string]>([
    ['r1 = 0x7f7d26200000 ll', ldImm64(1, USER_VM_START), 'd2cfefa0 f2a4c400'],
    ['r0 = 0', movK(0, 0), 'd2800008'],
    ['r2 = 1', movK(2, 1), 'd2800021'],
    ['r7 = -1', movK(7, -1), '92800014'],
    ['w1 = w1', mov32(1, 1), '2a0003e0'],
    ['r7 = r6', mov(7, 6), 'aa1303f4'],
    ['LDX PROBE_MEM32 B', ldx(P32, BPF_B, 2, 1, 8), '8b1c000b 39402161'],
    ['LDX PROBE_MEM32 H', ldx(P32, BPF_H, 2, 1, 8), '8b1c000b 79401161'],
    ['LDX PROBE_MEM32 W', ldx(P32, BPF_W, 2, 1, 8), '8b1c000b b9400961'],
    ['LDX PROBE_MEM32 DW', ldx(P32, BPF_DW, 2, 1, 8), '8b1c000b f9400561'],
    ['LDX PROBE_MEM32SX B', ldx(SX, BPF_B, 2, 1, 8), '8b1c000b 39802161'],
    ['LDX PROBE_MEM32SX H', ldx(SX, BPF_H, 2, 1, 8), '8b1c000b 79801161'],
    ['LDX PROBE_MEM32SX W', ldx(SX, BPF_W, 2, 1, 8), '8b1c000b b9800961'],
    ['LDX PROBE_MEM32 W r1 = [r1+0x7fff]', ldx(P32, BPF_W, 1, 1, 0x7fff), '8b1c000b d28fffea b86a6960'],
    ['LDX PROBE_MEM32 DW r0 = [r6-8]', ldx(P32, BPF_DW, 0, 6, -8), '8b1c026b 928000ea f86a6968'],
    ['STX PROBE_MEM32 B', stx(P32, BPF_B, 1, 8, 2), '8b1c000b 39002161'],
    ['STX PROBE_MEM32 H', stx(P32, BPF_H, 1, 8, 2), '8b1c000b 79001161'],
    ['STX PROBE_MEM32 W', stx(P32, BPF_W, 1, 8, 2), '8b1c000b b9000961'],
    ['STX PROBE_MEM32 DW', stx(P32, BPF_DW, 1, 8, 2), '8b1c000b f9000561'],
    ['STX PROBE_MEM32 W [r1+0x7fff]', stx(P32, BPF_W, 1, 0x7fff, 2), '8b1c000b d28fffea b82a6961'],
    ['ST PROBE_MEM32 B', st(P32, BPF_B, 1, 8, -2), '8b1c000c 9280002a 3900218a'],
    ['ST PROBE_MEM32 H', st(P32, BPF_H, 1, 8, -2), '8b1c000c 9280002a 7900118a'],
    ['ST PROBE_MEM32 W', st(P32, BPF_W, 1, 8, -2), '8b1c000c 9280002a b900098a'],
    ['ST PROBE_MEM32 DW', st(P32, BPF_DW, 1, 8, -2), '8b1c000c 9280002a f900058a'],
    ['ST PROBE_MEM32 W [r1+0x7fff]', st(P32, BPF_W, 1, 0x7fff, 1), '8b1c000c d280002a d28fffeb b82b698a'],
    ['arena add', probeAtomic(BPF_DW, BPF_ADD, 1, 2, 8), '9100200a 8b1c014a f821015f'],
    ['arena and', probeAtomic(BPF_DW, BPF_AND, 1, 2, 8), '9100200a 8b1c014a aa2103eb f82b115f'],
    ['arena or', probeAtomic(BPF_DW, BPF_OR, 1, 2, 8), '9100200a 8b1c014a f821315f'],
    ['arena xor', probeAtomic(BPF_DW, BPF_XOR, 1, 2, 8), '9100200a 8b1c014a f821215f'],
    ['arena fetch_add', probeAtomic(BPF_DW, BPF_ADD | BPF_FETCH, 1, 2, 8), '9100200a 8b1c014a f8e10141'],
    [
      'arena fetch_and',
      probeAtomic(BPF_DW, BPF_AND | BPF_FETCH, 1, 2, 8),
      '9100200a 8b1c014a aa2103eb f8eb1141',
    ],
    ['arena fetch_or', probeAtomic(BPF_DW, BPF_OR | BPF_FETCH, 1, 2, 8), '9100200a 8b1c014a f8e13141'],
    ['arena fetch_xor', probeAtomic(BPF_DW, BPF_XOR | BPF_FETCH, 1, 2, 8), '9100200a 8b1c014a f8e12141'],
    ['arena xchg', probeAtomic(BPF_DW, BPF_XCHG, 1, 2, 8), '9100200a 8b1c014a f8e18141'],
    ['arena cmpxchg', probeAtomic(BPF_DW, BPF_CMPXCHG, 1, 2, 8), '9100200a 8b1c014a c8e8fd41'],
    [
      'arena xchg W [r1+0x7fff]',
      probeAtomic(BPF_W, BPF_XCHG, 1, 2, 0x7fff),
      'd28fffea 8b0a000a 8b1c014a b8e18141',
    ],
    [
      'arena cmpxchg W [r1+0x7fff]',
      probeAtomic(BPF_W, BPF_CMPXCHG, 1, 2, 0x7fff),
      'd28fffea 8b0a000a 8b1c014a 88e8fd41',
    ],
    [
      'arena load_acquire W [r1+0x7fff]',
      probeAtomic(BPF_W, BPF_LOAD_ACQ, 0, 1, 0x7fff),
      'd28fffea 8b0a000a 8b1c014a 88dffd48',
    ],
    ['arena store_release DW', probeAtomic(BPF_DW, BPF_STORE_REL, 1, 2, 0), '8b1c000a c89ffd41'],
    ['arena load_acquire B', probeAtomic(BPF_B, BPF_LOAD_ACQ, 2, 1, 0), '8b1c000a 08dffd41'],
    ['cast_user r1 = r1', castUser(1, 1), '2a0003ea 528fefa0 d3607c00 b400004a aa0a000a aa0a03e0'],
    ['cast_user r0 = r6', castUser(0, 6), '2a1303ea 528fefa8 d3607d08 b400004a aa0a010a aa0a03e8'],
    ['LDX B', ldx(BPF_MEM, BPF_B, 2, 1, 8), '39402001'],
    ['LDX H', ldx(BPF_MEM, BPF_H, 2, 1, 8), '79401001'],
    ['LDX W', ldx(BPF_MEM, BPF_W, 2, 1, 8), 'b9400801'],
    ['LDX DW', ldx(BPF_MEM, BPF_DW, 2, 1, 8), 'f9400401'],
    ['LDX PROBE_MEM W', ldx(BPF_PROBE_MEM, BPF_W, 2, 1, 8), 'b9400801'],
    ['LDX MEMSX B', ldx(BPF_MEMSX, BPF_B, 2, 1, 8), '39802001'],
    ['LDX MEMSX H', ldx(BPF_MEMSX, BPF_H, 2, 1, 8), '79801001'],
    ['LDX MEMSX W', ldx(BPF_MEMSX, BPF_W, 2, 1, 8), 'b9800801'],
    ['LDX W, misaligned offset', ldx(BPF_MEM, BPF_W, 2, 1, 6), 'd28000ca b86a6801'],
    ['LDX DW, negative offset', ldx(BPF_MEM, BPF_DW, 2, 1, -8), '928000ea f86a6801'],
    ['STX B', stx(BPF_MEM, BPF_B, 1, 8, 2), '39002001'],
    ['STX H', stx(BPF_MEM, BPF_H, 1, 8, 2), '79001001'],
    ['STX W', stx(BPF_MEM, BPF_W, 1, 8, 2), 'b9000801'],
    ['STX DW', stx(BPF_MEM, BPF_DW, 1, 8, 2), 'f9000401'],
    ['ST B', st(BPF_MEM, BPF_B, 1, 8, 1), 'd280002a 3900200a'],
    ['ST H', st(BPF_MEM, BPF_H, 1, 8, 1), 'd280002a 7900100a'],
    ['ST W', st(BPF_MEM, BPF_W, 1, 8, 1), 'd280002a b900080a'],
    ['ST DW', st(BPF_MEM, BPF_DW, 1, 8, 1), 'd280002a f900040a'],
    ['bswap16', raw(0xd7, 1, 0, 0, 16), 'dac00400 d3403c00'],
    ['be16', raw(0xdc, 1, 0, 0, 16), '5ac00400 53003c00'],
    ['be32', raw(0xdc, 1, 0, 0, 32), '5ac00800'],
    ['bswap32', raw(0xd7, 1, 0, 0, 32), '5ac00800'],
    ['be64', raw(0xdc, 1, 0, 0, 64), 'dac00c00'],
    ['le16', raw(0xd4, 1, 0, 0, 16), '53003c00'],
    ['le32', raw(0xd4, 1, 0, 0, 32), '53007c00'],
    ['le64', raw(0xd4, 1, 0, 0, 64), ''],
    ['per-CPU address', raw(0xbf, 2, 1, -1), 'aa0003e1 d538d08a 8b0a0021'],
  ])('%s', (_, insns, words) => {
    expect(hexOf(body([insns].flat()))).toBe(words);
  });

  test('the frame pointer is reached from the stack pointer, or where that has no form itself', () => {
    const how: Compilation = { fn: { stack_depth: 20 } };
    // 32 bytes of stack: [sp, #24], [sp, #28]; -40 lies below it.
    expect(hexOf(body([stx(BPF_MEM, BPF_DW, 10, -8, 1)], how))).toBe('f9000fe0');
    expect(hexOf(body([ldx(BPF_MEM, BPF_W, 1, 10, -4)], how))).toBe('b9401fe0');
    expect(hexOf(body([ldx(BPF_MEM, BPF_DW, 1, 10, -40)], how))).toBe('928004ea f86a6b20');
    // mov x10, #1; str x10, [sp, #24]. With an offset that is not aligned: mov x11, #-7; [x25, x11].
    expect(hexOf(body([st(BPF_MEM, BPF_DW, 10, -8, 1)], how))).toBe('d280002a f9000fea');
    expect(hexOf(body([st(BPF_MEM, BPF_DW, 10, -7, 1)], how))).toBe('d280002a 928000cb f82b6b2a');
  });

  test('a speculation barrier is sb, or dsb nsh and isb', () => {
    const nospec = raw(0xc2);
    expect(hexOf(body([nospec]))).toBe('d503379f d5033fdf');
    expect(hexOf(body([nospec], { options: { sb: true } }))).toBe('d50330ff');
  });
});

describe('prologue and epilogue', () => {
  const split = (insns: readonly bpf_insn[], how: Compilation = {}) => {
    const { code, addrs } = compile(insns, how);
    return {
      prologue: hexOf(code.subarray(0, addrs[0])),
      epilogue: hexOf(code.subarray(addrs[insns.length])),
    };
  };
  const BASE = '92cffffc f2b0a01c f292001c';

  test('BTI, PAC, arena, r6, frame pointer, 16 bytes of stack', () => {
    const { prologue, epilogue } = split([mov(6, 1), st(BPF_MEM, BPF_DW, 10, -8, 0), EXIT], {
      fn: { stack_depth: 8 },
      options: BTI_PAC,
    });
    expect(prologue).toBe(
      `d50324df aa1e03e9 d503201f d503233f a9bf7bfd 910003fd a9bf6bff 910003fa d503249f a9bf67f3 a9bf7ffc 910003f9 d10043ff ${BASE}`,
    );
    expect(epilogue).toMatch(
      /^910043ff a8c17ffc a8c167f3 a8c16bff a8c17bfd aa0803e0 d50323bf d65f03c0( d503201f)? 5800004a d61f0140$/,
    );
  });

  test.each<readonly [string, Compilation, string]>([
    ['neither', {}, 'aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bff 910003fa'],
    [
      'BTI',
      { options: { branchTracking: true } },
      'd50324df aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bff 910003fa d503249f',
    ],
    ['PAC', { options: { pac: true } }, 'aa1e03e9 d503201f d503233f a9bf7bfd 910003fd a9bf6bff 910003fa'],
    // No landing pad for tail calls, and the counter's pointer is the caller's.
    [
      'BTI, subprogram',
      { fn: { is_subprog: true }, options: { branchTracking: true } },
      'd50324df aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bfa',
    ],
  ])('%s', (_, how, prologue) => {
    expect(split([EXIT], { ...how, fn: { arena: null, ...how.fn } }).prologue).toBe(prologue);
    const pac = how.options?.pac === true ? ' d50323bf' : '';
    expect(split([EXIT], { ...how, fn: { arena: null, ...how.fn } }).epilogue).toMatch(
      new RegExp(`^a8c16bff a8c17bfd aa0803e0${pac} d65f03c0`),
    );
  });

  test.each<readonly [string, readonly bpf_insn[], string, string]>([
    ['r6', [mov(6, 1)], 'a9bf7ff3', 'a8c17ff3'],
    ['r6, r9', [mov(6, 1), mov(1, 9)], 'a9bf5bf3', 'a8c15bf3'],
    ['r7, r8, r9', [mov(7, 8), mov(9, 1)], 'a9bf57f4 a9bf7ff6', 'a8c17ff6 a8c157f4'],
    ['r6 to r9', [mov(6, 7), mov(8, 9)], 'a9bf53f3 a9bf5bf5', 'a8c15bf5 a8c153f3'],
    ['the frame pointer alone', [mov(1, 10)], 'a9bf7ff9 910003f9', 'a8c17ff9'],
    // Fields count, whatever they mean: a call with src_reg 6 would do, too.
    ['a register in a field without meaning', [raw(BPF_ALU64 | BPF_MOV, 1, 6)], 'a9bf7ff3', 'a8c17ff3'],
  ])('saves %s', (_, insns, saves, restores) => {
    const { prologue, epilogue } = split([...insns, EXIT], { fn: { arena: null } });
    expect(prologue).toBe(`aa1e03e9 d503201f a9bf7bfd 910003fd a9bf6bff 910003fa ${saves}`);
    expect(epilogue.startsWith(`${restores} a8c16bff`)).toBe(true);
  });

  test('the PLT is aligned, its target and the filler lie behind the program', () => {
    for (const count of [1, 2]) {
      const insns = Array.from({ length: count }, () => movK(0, 0));
      const { code, gap, extableOffset } = compile([...insns, EXIT], {
        options: { dummy_tramp: 0xffff_8000_8001_2344n },
      });
      expect(code.length % 8).toBe(0);
      expect(extableOffset).toBe(code.length + 8);
      expect(hexOf(gap ?? new Uint8Array())).toBe('80012344 ffff8000');
    }
  });
});

describe('whole programs on a kernel with BTI and PAC', () => {
  const HEAD =
    'd50324df aa1e03e9 d503201f d503233f a9bf7bfd 910003fd a9bf6bff 910003fa d503249f a9bf7ffc 92cffffc f2b0a01c f292001c';
  const TAIL = 'a8c17ffc a8c16bff a8c17bfd aa0803e0 d50323bf d65f03c0';

  test('a store behind the last page', () => {
    const insns = [
      ...ldImm64(1, USER_VM_START),
      mov32(1, 1),
      movK(2, 1),
      stx(P32, BPF_W, 1, 0x7fff, 2),
      movK(0, 0),
      EXIT,
    ];
    const jited = compile(insns, { options: BTI_PAC });
    expect(hexOf(jited.code)).toBe(
      `${HEAD} d2cfefa0 f2a4c400 2a0003e0 d2800021 8b1c000b d28fffea b82a6961 d2800008 ${TAIL} d503201f 5800004a d61f0140`,
    );
    expect(jited.addrs).toEqual([0x34, 0x3c, 0x3c, 0x40, 0x44, 0x50, 0x54, 0x54]);
    expect(jited.extableOffset).toBe(0x80);
    expect(extableHex(jited)).toEqual(['ffffffcc 28207fff d4200001']);
  });

  test('a load behind the last page', () => {
    const insns = [
      ...ldImm64(1, USER_VM_START),
      mov32(1, 1),
      ldx(P32, BPF_W, 1, 1, 0x7fff),
      movK(0, 0),
      EXIT,
    ];
    const jited = compile(insns, { options: BTI_PAC });
    expect(hexOf(jited.code)).toBe(
      `${HEAD} d2cfefa0 f2a4c400 2a0003e0 8b1c000b d28fffea b86a6960 d2800008 ${TAIL} 5800004a d61f0140`,
    );
    expect(jited.extableOffset).toBe(0x78);
    expect(extableHex(jited)).toEqual(['ffffffd0 00207fff d4200001']);
  });

  test('every kind of access, with stack and callee-saved registers', () => {
    const insns = [
      mov(6, 1),
      raw(BPF_ALU | BPF_MOV, 7, 0, 0, 0xdeadbeef | 0),
      mov32(7, 7),
      stx(BPF_MEM, BPF_DW, 10, -8, 6),
      st(P32, BPF_W, 7, 0, 1),
      ldx(SX, BPF_B, 0, 7, -1),
      probeAtomic(BPF_DW, BPF_ADD | BPF_FETCH, 7, 6, 8),
      castUser(7, 7),
      mov(0, 7),
      EXIT,
    ];
    const jited = compile(insns, { fn: { stack_depth: 8 }, options: BTI_PAC });
    expect(hexOf(jited.code)).toBe(
      [
        'd50324df aa1e03e9 d503201f d503233f a9bf7bfd 910003fd a9bf6bff 910003fa d503249f a9bf53f3 a9bf73f9 910003f9 d10043ff',
        '92cffffc f2b0a01c f292001c aa0003f3 12a42a54 7297ddf4 2a1403f4 f90007f3 8b1c028c d280002a b900018a',
        '8b1c028b 9280000a 38aa6968 9100228a 8b1c014a f8f30153 2a1403ea 528fefb4 d3607e94 b400004a aa0a028a aa0a03f4',
        'aa1403e8 910043ff a8c173f9 a8c153f3 a8c16bff a8c17bfd aa0803e0 d50323bf d65f03c0 d503201f 5800004a d61f0140',
      ].join(' '),
    );
    expect(jited.extableOffset).toBe(0xc8);
    expect(extableHex(jited)).toEqual([
      'ffffff94 28340000 d4200001',
      'ffffff94 4034ffff d4200001',
      'ffffff94 28340008 d4200001',
    ]);
  });
});

describe('exception table', () => {
  const entry = (insn: bpf_insn, options = {}) => {
    const jited = compile([insn, EXIT], { options });
    return { jited, entries: extableHex(jited).map((words) => words.split(' ')[1]) };
  };

  test('PROBE_MEM only clears, in either mode', () => {
    expect(entry(ldx(BPF_PROBE_MEM, BPF_W, 2, 1, 8)).entries).toEqual(['08000000']);
    expect(entry(ldx(BPF_PROBE_MEMSX, BPF_W, 2, 1, 8)).entries).toEqual(['08000000']);
  });

  test('plain accesses have none, nor has a speculation barrier', () => {
    for (const insn of [
      ldx(BPF_MEM, BPF_W, 2, 1, 8),
      stx(BPF_MEM, BPF_W, 1, 8, 2),
      atomic(BPF_W, BPF_XCHG, 1, 2, 8),
      ldx(BPF_MEMSX, BPF_W, 2, 1, 8),
      raw(0xc2),
    ]) {
      expect(entry(insn).entries).toEqual([]);
    }
  });

  test('it names the last native instruction', () => {
    const { jited } = entry(probeAtomic(BPF_W, BPF_AND | BPF_FETCH, 1, 2, 0x7fff));
    expect(jited.extable[0]?.insn).toBe(IMAGE + BigInt(jited.addrs[1] ?? 0) - 4n);
  });

  // R1 = x0 is the destination, R2 = x1 the source, R0 = x8.
  test.each<readonly [string, bpf_insn, string, string]>([
    ['load_acquire r0 = [r1]', probeAtomic(BPF_W, BPF_LOAD_ACQ, 0, 1, 8), '28280008', '40200008'],
    ['store_release', probeAtomic(BPF_W, BPF_STORE_REL, 1, 2, 8), '28200008', '28200008'],
    ['add', probeAtomic(BPF_W, BPF_ADD, 1, 2, 8), '28200008', '28200008'],
    ['fetch_add', probeAtomic(BPF_W, BPF_ADD | BPF_FETCH, 1, 2, 8), '28200008', '08600008'],
    ['xchg', probeAtomic(BPF_W, BPF_XCHG, 1, 2, 8), '28200008', '08600008'],
    ['cmpxchg', probeAtomic(BPF_W, BPF_CMPXCHG, 1, 2, 8), '28200008', '40600008'],
  ])('%s: as at the merge, and by kind', (_, insn, store, byKind) => {
    expect(entry(insn).entries).toEqual([store]);
    expect(entry(insn, { atomicEntries: 'by-kind' }).entries).toEqual([byKind]);
  });
});

describe('calls', () => {
  const kfunc = raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL);
  const subprogram = raw(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL);
  const to = (target: bigint): Compilation => ({ fn: { arena: null }, place: { callTarget: () => target } });

  test('far away: three instructions for the address, blr', () => {
    expect(hexOf(body([kfunc], to(0xffff_8000_8012_3454n)))).not.toContain('d63f0140');
    expect(hexOf(body([kfunc], to(0xffff_8000_1012_3454n)))).toBe(
      '9299756a f2a2024a f2d0000a d63f0140 aa0003e8',
    );
  });

  test('within 128 MiB: bl; the exception table stays where it was with the long form', () => {
    const direct = compile([kfunc, ldx(BPF_PROBE_MEM, BPF_W, 1, 1, 0), EXIT], to(IMAGE));
    const indirect = compile([kfunc, ldx(BPF_PROBE_MEM, BPF_W, 1, 1, 0), EXIT], to(1n << 60n));
    // 6 instructions into the program: bl .-24.
    expect(hexOf(direct.code.subarray(direct.addrs[0], direct.addrs[1]))).toBe('97fffffa aa0003e8');
    expect(indirect.code.length - direct.code.length).toBe(16 - 4 - 4);
    expect(direct.extableOffset).toBe(indirect.extableOffset);
    const gap = hexOf(direct.gap ?? new Uint8Array());
    expect(gap).toBe('00000000 00000000 d4202000 d4202000');
  });

  test.each([
    ['-128 MiB', -(1n << 27n), true],
    ['one instruction more', -(1n << 27n) - 4n, false],
    ['128 MiB less an instruction', (1n << 27n) - 4n, true],
    ['128 MiB', 1n << 27n, false],
  ])('%s', (_, distance, isDirect) => {
    const at = IMAGE + 24n;
    expect(body([kfunc], to(at + distance)).length).toBe(isDirect ? 8 : 20);
  });

  test('what a subprogram leaves behind its shorter code is the end of the longer one', () => {
    const { code, gap } = compile([subprogram, EXIT], to(IMAGE + 0x1000n));
    expect(hexOf(code).endsWith('a8c16bff a8c17bfd aa0803e0 d65f03c0 5800004a d61f0140')).toBe(true);
    // Target of the PLT; the PLT of the longer code, and its target.
    expect(hexOf(gap ?? new Uint8Array())).toBe('00000000 00000000 5800004a d61f0140 00000000 00000000');
  });

  test('arch_bpf_timed_may_goto() leaves R0 alone', () => {
    const how = to(IMAGE);
    expect(hexOf(body([kfunc], { ...how, options: { arch_bpf_timed_may_goto: IMAGE } }))).toBe('97fffffa');
  });

  test('the address of a function has always three instructions', () => {
    const insns = [raw(BPF_LD_IMM64, 1, BPF_PSEUDO_FUNC), raw(0)];
    const place = { funcAddress: () => 0xffff_ffff_ffff_0000n };
    expect(hexOf(body(insns, { place }))).toBe('929fffe0 f2bfffe0 f2dfffe0');
  });
});

describe('immediates', () => {
  test.each<readonly [bigint, string]>([
    [0n, '52800000'],
    [0xffff_ffffn, '12800000'],
    [0x1_0000n, '52800000 72a00020'],
    [0xffff_0000n, '129fffe0'],
    [0xffff_ffff_ffff_ffffn, '92800000'],
    [KERN_VM_START, '92cfffe0 f2b0a000 f2920000'],
    [0x1234_0000_0000_5678n, 'd2e24680 f28acf00'],
    [0x1_0000_0000_0000n, 'd2e00020'],
    // As many blocks of ones as of zeros: not inverted.
    [0xffff_0000_ffff_0000n, 'd2ffffe0 f2bfffe0'],
  ])('r1 = %i ll', (value, words) => {
    expect(hexOf(body(ldImm64(1, value)))).toBe(words);
  });
});
