import { describe, expect, test } from '@jest/globals';
import { type Isa, instructionText, loadDisassembler } from '../disassembler.js';
import { parseArm64, sameArm64 } from './arm64-text.js';
import type { Scope } from './expression.js';
import { parseX86, sameX86 } from './x86-text.js';

const disassembler = await loadDisassembler();

const ADDRESS: Readonly<Record<Isa, bigint>> = { 'x86-64': 0xffffffff81000000n, arm64: 0xffff800080000000n };
const NAMES: Readonly<Record<string, bigint>> = {
  write_cmask: 0xffffffff81000105n,
  foo: 0xffffffff81002000n,
  bar: 0xffff800080001234n,
};
const scope: Scope = { resolve: (name) => (Object.hasOwn(NAMES, name) ? NAMES[name] : undefined) };

/** Is `text` taken for what the bytes are? */
function accepted(isa: Isa, hex: string, text: string): boolean {
  const bytes = Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
  if (isa === 'arm64') bytes.reverse();
  const [instruction] = disassembler.disassemble(isa, bytes, ADDRESS[isa]);
  const seen = instruction === undefined ? '' : instructionText(instruction);
  if (isa === 'x86-64') {
    const [said, is] = [parseX86(text, scope), parseX86(seen, scope)];
    return said !== null && is !== null && sameX86(said, is, ADDRESS[isa] + BigInt(bytes.length));
  }
  const [said, is] = [parseArm64(text, scope), parseArm64(seen, scope)];
  return said !== null && is !== null && sameArm64(said, is);
}

describe('x86: what people and objdump write is taken for the bytes', () => {
  test.each([
    [
      '48 89 07',
      'mov [rdi], rax',
      'mov QWORD PTR [rdi],rax',
      'MOV qword ptr [ rdi ], RAX',
      'mov [rdi+0x0], rax',
    ],
    ['48 c7 c0 ff ff ff ff', 'mov rax, -1', 'mov rax,0xffffffffffffffff'],
    ['48 b8 00 00 00 00 80 88 ff ff', 'movabs rax,0xffff888000000000', 'mov rax, 0xffff888000000000'],
    ['83 c0 80', 'add eax, -0x80', 'add eax,0xffffff80', 'add eax, -128'],
    ['6a ff', 'push -1', 'push 0xffffffffffffffff'],
    ['48 83 f8 10', 'cmp rax, 16', 'cmp rax, 0x10', 'cmp rax, 0b10000'],
    ['e8 00 01 00 00', 'call write_cmask', 'call ffffffff81000105 <write_cmask>', 'call 0xffffffff81000105'],
    ['e8 04 01 00 00', 'call write_cmask + 4', 'call ffffffff81000109 <write_cmask+0x4>'],
    ['74 fe', 'je 0xffffffff81000000', 'jz 0xffffffff81000000', 'jz short 0xffffffff81000000'],
    [
      '48 8b 05 f9 1f 00 00',
      'mov rax, [rip + foo]',
      'mov rax, foo[rip]',
      'mov rax, QWORD PTR [rip+0x1ff9]',
      'mov rax, [foo]',
    ],
    ['48 c7 c7 00 20 00 81', 'mov rdi, offset foo', 'mov rdi, 0xffffffff81002000'],
    [
      '65 48 8b 04 25 28 00 00 00',
      'mov rax, gs:[0x28]',
      'mov rax,QWORD PTR gs:0x28',
      'mov rax, qword ptr [gs:40]',
    ],
    ['48 8b 04 25 00 00 00 00', 'mov rax,QWORD PTR ds:0x0', 'mov rax, [0]'],
    [
      '48 8b 44 c3 f8',
      'mov rax, [rbx + rax*8 - 8]',
      'mov rax,QWORD PTR [rbx+rax*8-0x8]',
      'mov rax, [8*rax+rbx-8]',
    ],
    ['f3 a4', 'rep movsb', 'rep movs BYTE PTR es:[rdi],BYTE PTR ds:[rsi]'],
    ['f3 48 ab', 'rep stosq', 'rep stos QWORD PTR es:[rdi],rax'],
    ['f3 a6', 'repz cmpsb', 'repe cmpsb'],
    [
      'f0 48 0f c7 0f',
      'lock cmpxchg16b [rdi]',
      'lock cmpxchg16b XMMWORD PTR [rdi]',
      'lock cmpxchg16b oword ptr [rdi]',
    ],
    ['48 87 07', 'xchg rax, [rdi]', 'xchg QWORD PTR [rdi],rax'],
    ['0f 94 07', 'setz [rdi]', 'sete BYTE PTR [rdi]'],
    ['48 d1 27', 'sal qword ptr [rdi]', 'shl QWORD PTR [rdi],1'],
    ['66 2e 0f 1f 84 00 00 00 00 00', 'cs nop WORD PTR [rax+rax*1+0x0]', 'nop WORD PTR cs:[rax+rax*1+0x0]'],
    ['66 90', 'xchg ax,ax', 'nop'],
    ['f3 0f 1e fa', 'endbr64'],
    ['48 8d 07', 'lea rax, [rdi]', 'lea rax, qword ptr [rdi]'],
    ['c8 10 80 ff', 'enter 0x8010, 0xff'],
    ['ff 37', 'push [rdi]', 'push qword ptr [rdi]'],
  ])('%s', (hex, ...texts) => {
    expect(texts.filter((text) => !accepted('x86-64', hex, text))).toEqual([]);
  });
});

describe('x86: what says something else is not', () => {
  test.each([
    [
      '48 89 07',
      'mov [rdi], rbx',
      'mov [rsi], rax',
      'mov dword ptr [rdi], rax',
      'mov rax, [rdi]',
      'mov [rdi+8], rax',
      'mov fs:[rdi], rax',
      'mov [rdi], rax, rax',
      'mov [rdi]',
      'mov',
      '',
      'mov [rdi, rax',
      'mov [rdi*2], rax',
    ],
    ['48 c7 c0 ff ff ff ff', 'mov rax, 0xffffffff', 'mov rax, 1', 'mov eax, -1'],
    ['e8 00 01 00 00', 'call foo', 'call nowhere', 'call 0x105', 'call rax', 'jmp write_cmask'],
    ['f0 48 0f c7 0f', 'cmpxchg16b [rdi]'],
    ['f3 a4', 'movsb', 'rep movsq', 'repne movsb', 'rep movs byte ptr fs:[rdi], byte ptr [rsi]'],
    [
      '48 8b 05 f9 1f 00 00',
      'mov rax, [rip + write_cmask]',
      'mov rax, [rip + 0x2000]',
      'mov rax, offset foo',
    ],
    ['c7 07 05 00 00 00', 'mov [rdi], 5', 'mov qword ptr [rdi], 5'],
    ['d3 27', 'shl [rdi], cl'],
    ['0f b6 07', 'movzx eax, [rdi]'],
    ['66 ff 37', 'push [rdi]'],
    ['48 83 f8 08', 'cmp rax, 010', 'cmp rax, 08', 'cmp rax, 8h'],
    ['f3 0f 10 07', 'movsd xmm0, [rdi]'],
    ['90', 'constructor', 'toString', 'nop nop'],
  ])('%s', (hex, ...texts) => {
    expect(texts.filter((text) => accepted('x86-64', hex, text))).toEqual([]);
  });
});

describe('arm64: aliases and spellings are taken for the bytes', () => {
  test.each([
    ['f9000020', 'str x0, [x1]', 'str x0,[x1, #0]', 'STR X0, [X1]'],
    ['910003fd', 'mov x29, sp', 'mov fp, sp', 'add x29, sp, #0'],
    ['d65f03c0', 'ret', 'ret x30', 'ret lr'],
    ['a9bf7bfd', 'stp x29, x30, [sp, #-16]!', 'stp x29, x30, [sp, #-0x10]!', 'stp fp, lr, [sp, -16]!'],
    ['97ffffff', 'bl 0xffff80007ffffffc', 'bl\tffff80007ffffffc <memcpy+0x10>'],
    ['54000042', 'b.hs 0xffff800080000008', 'b.cs 0xffff800080000008', 'bcs #0xffff800080000008'],
    ['90000000', 'adrp x0, 0xffff800080000000', 'adrp x0, ffff800080000000 <bar-0x1234>'],
    ['b0000001', 'adrp x1, bar'],
    ['9108d021', 'add x1, x1, #0x234', 'add x1, x1, :lo12:bar', 'add x1, x1, #564'],
    ['d2a00020', 'movz x0, #1, lsl #16', 'mov x0, #0x10000', 'mov x0, #65536'],
    ['12800000', 'mov w0, #-1', 'movn w0, #0', 'mov w0, #0xffffffff'],
    ['aa0103e0', 'mov x0, x1', 'orr x0, xzr, x1'],
    ['eb01001f', 'cmp x0, x1', 'subs xzr, x0, x1'],
    ['9a9f17e0', 'cset x0, eq', 'csinc x0, xzr, xzr, ne'],
    ['36180080', 'tbz w0, #3, 0xffff800080000010', 'tbz x0, #3, 0xffff800080000010'],
    ['f85f8020', 'ldr x0, [x1, #-8]', 'ldur x0, [x1, #-8]'],
    ['f8627820', 'ldr x0, [x1, x2, lsl #3]', 'ldr x0, [x1,x2,LSL 3]'],
    ['7823109f', 'stclrh w3, [x4]', 'ldclrh w3, wzr, [x4]'],
    ['d503245f', 'bti c', 'hint #34'],
    ['d503233f', 'paciasp', 'hint #25'],
    ['d5033fdf', 'isb', 'isb sy'],
    ['d5384100', 'mrs x0, sp_el0', 'mrs x0, SP_EL0'],
    ['58000040', 'ldr x0, 0xffff800080000008', 'ldr x0, ffff800080000008 <bar>'],
  ])('%s', (word, ...texts) => {
    expect(texts.filter((text) => !accepted('arm64', word, text))).toEqual([]);
  });
});

describe('arm64: what says something else is not', () => {
  test.each([
    [
      'f9000020',
      'str x1, [x1]',
      'str w0, [x1]',
      'str x0, [x1, #8]',
      'str x0, [x1]!',
      'str x0, [x1], #0',
      'ldr x0, [x1]',
      'str x0, [x1',
      'str x0',
    ],
    ['d2a00020', 'mov x0, #1', 'movz x0, #1, lsl #32', 'movk x0, #1, lsl #16'],
    ['12800000', 'mov x0, #-1', 'mov w0, #1'],
    ['97ffffff', 'bl bar', 'bl nowhere', 'b 0xffff80007ffffffc', 'bl 0'],
    ['36180080', 'tbnz w0, #3, 0xffff800080000010', 'tbz w0, #4, 0xffff800080000010'],
    ['b6180080', 'tbz w0, #35, 0xffff800080000010'],
    ['9a9f17e0', 'cset x0, ne', 'csinc x0, xzr, xzr, constructor'],
    ['f8200041', 'ldadda x0, x1, [x2]', 'ldadd x1, x0, [x2]'],
  ])('%s', (word, ...texts) => {
    expect(texts.filter((text) => accepted('arm64', word, text))).toEqual([]);
  });
});
