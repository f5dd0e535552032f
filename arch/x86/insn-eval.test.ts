import { describe, expect, test } from '@jest/globals';
import { insn_decode_kernel, insn_get_addr_ref } from './insn-eval.js';
import { X86Decoder } from './instruction.js';

const decoder = new X86Decoder();
/** Registers in the order of their numbers hold 0x1000, 0x2000, …. */
const NAMES = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'].concat([
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
]);
const registers = {
  read(name: string): bigint {
    if (name === 'rip') return 0xffffffff81000000n;
    if (name === 'fs_base') return 0x7f0000000000n;
    if (name === 'gs_base') return 0xffff888000000000n;
    return BigInt(NAMES.indexOf(name) + 1) * 0x1000n;
  },
};

function bytesOf(hex: string): Uint8Array {
  const bytes = new Uint8Array(15);
  bytes.set(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
  return bytes;
}

function decode(hex: string): ReturnType<typeof insn_decode_kernel> {
  const bytes = bytesOf(hex);
  return insn_decode_kernel(bytes, decoder.decode(bytes)?.length ?? 0);
}

describe('insn_get_addr_ref()', () => {
  // Where iced-x86 finds exactly one operand in memory, both must come to the same address.
  test.each([
    ['48 8b 07', 'mov rax, [rdi]'],
    ['48 8b 47 f8', 'mov rax, [rdi - 8]'],
    ['48 8b 87 00 10 00 80', 'mov rax, [rdi - 0x7ffff000]'],
    ['48 8b 04 24', 'mov rax, [rsp]'],
    ['4a 8b 44 e3 10', 'mov rax, [rbx + r12*8 + 0x10]'],
    ['49 8b 45 00', 'mov rax, [r13]'],
    ['43 8b 04 75 00 00 00 01', 'mov eax, [r14*2 + 0x1000000]'],
    ['48 8b 05 34 12 00 00', 'mov rax, [rip + 0x1234]'],
    ['65 48 8b 04 25 28 00 00 00', 'mov rax, gs:[0x28]'],
    ['64 48 8b 00', 'mov rax, fs:[rax]'],
    ['67 8b 44 24 fc', 'mov eax, [esp - 4]'],
    ['0f b6 98 c4 00 00 00', 'movzx ebx, byte [rax + 0xc4]'],
    ['f0 48 0f b1 13', 'lock cmpxchg [rbx], rdx'],
    ['66 0f 38 00 07', 'pshufb xmm0, [rdi]'],
    ['66 0f 3a 0f 07 04', 'palignr xmm0, [rdi], 4'],
    ['c5 f9 6f 06', 'vmovdqa xmm0, [rsi]'],
    ['c4 e2 79 00 06', 'vpshufb xmm0, xmm0, [rsi]'],
    ['c7 05 00 00 00 00 01 00 00 00', 'mov dword [rip], 1'],
    ['80 3c 08 00', 'cmp byte [rax + rcx], 0'],
  ])('%s: %s', (hex) => {
    const operand = decoder.decode(bytesOf(hex))?.memory[0];
    expect(operand?.address(registers).toString(16)).toBe(
      insn_get_addr_ref(decode(hex), registers)?.toString(16),
    );
  });

  test.each([
    ['f3 48 ab', 'rep stosq', 0x1000n],
    ['50', 'push rax', 0x1000n],
    ['41 50', 'push r8: REX.B counts', 0x9000n],
    ['0f 30', 'wrmsr', 0x1000n],
    ['c3', 'ret', 0x1000n],
  ])('%s (%s) has no ModRM and counts as [rax]', (hex, _text, address) => {
    expect(insn_get_addr_ref(decode(hex), registers)).toBe(address);
  });

  test('VEX does not extend register numbers', () => {
    // vmovdqa xmm0, [r14]
    expect(insn_get_addr_ref(decode('c4 c1 79 6f 06'), registers)).toBe(0x7000n);
  });

  test.each([
    ['ff d7', 'call rdi'],
    ['0f 22 d8', 'mov cr3, rax'],
  ])('%s (%s) addresses nothing', (hex) => {
    expect(insn_get_addr_ref(decode(hex), registers)).toBeNull();
  });
});

describe('opnd_bytes', () => {
  test.each([
    ['48 8b 07', 8],
    ['8b 07', 4],
    ['66 8b 07', 2],
    ['66 66 8b 07', 2],
    ['8a 07', 4],
    ['ff 17', 8],
    ['ff 07', 4],
    ['ff 77 08', 8],
    ['58', 8],
    ['74 00', 8],
    ['0f 84 00 00 00 00', 8],
    ['0f a0', 8],
    ['c4 e1 f9 7e 07', 8],
  ])('of %s is %i', (hex, size) => {
    expect(decode(hex).opnd_bytes).toBe(size);
  });
});

describe('ModRM', () => {
  // An instruction has one if its length grows with a SIB byte and a displacement of 32 bits.
  test('is where iced-x86 finds one, in both maps of opcodes', () => {
    const differ: string[] = [];
    for (const map of ['', '0f']) {
      for (let opcode = 0; opcode < 256; opcode++) {
        const op = `${map}${opcode.toString(16).padStart(2, '0')}`;
        // Prefixes, escapes, VEX and EVEX; and moves from and to CRn and DRn, which ignore mod.
        if (/^(0f|26|2e|36|3e|4.|62|6[4-7]|c4|c5|f0|f2|f3|0f38|0f3a|0f2[0-3])$/.test(op)) continue;
        const short = decoder.decode(bytesOf(`${op}00`))?.length;
        const long = decoder.decode(bytesOf(`${op}80`))?.length;
        if (short === undefined || long === undefined) continue;
        const address = insn_get_addr_ref(
          insn_decode_kernel(bytesOf(`${op}80 01 00 00 00`), long),
          registers,
        );
        if (long > short !== (address === 0x1001n)) differ.push(op);
      }
    }
    expect(differ).toEqual([]);
  });
});
