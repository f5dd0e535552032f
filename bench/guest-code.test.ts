import { describe, expect, test } from '@jest/globals';
import { instructionText, loadDisassembler } from '../emu/disassembler.js';
import { ARCH_NAMES, type ArchName, GUEST_CODE } from './guest-code.js';

const disassembler = await loadDisassembler();

function text(arch: ArchName, code: Uint8Array): string[] {
  return disassembler.disassemble(arch, code, 0x1000n).map(instructionText);
}

/** What each function is to do, in assembly; its jumps go back to `1000`, or behind its prologue. */
const EXPECTED: Readonly<Record<ArchName, Readonly<Record<string, readonly string[]>>>> = {
  'x86-64': {
    storeForEver: ['mov qword ptr [rdi], rax', 'add rdi, 0x1000', 'jmp 0x1000'],
    touchPages: [
      'push rbp',
      'mov rbp, rsp',
      'mov qword ptr [rdi], rsi',
      'add rdi, 0x1000',
      'dec rsi',
      'jne 0x1004',
      'pop rbp',
      'ret',
    ],
    loadPages: ['mov rax, qword ptr [rdi]', 'add rdi, rdx', 'dec rsi', 'jne 0x1000', 'ret'],
    loop: [
      'mov rax, qword ptr [rdi]',
      'add rax, rsi',
      'mov qword ptr [rdi], rax',
      'xor rdx, rax',
      'dec rsi',
      'jne 0x1000',
      'ret',
    ],
    readWord: ['push rbp', 'mov rbp, rsp', 'mov rax, qword ptr [rdi]', 'pop rbp', 'ret'],
    nothing: ['ret'],
  },
  arm64: {
    storeForEver: ['str x1, [x0]', 'add x0, x0, #1, lsl #12', 'b #0x1000'],
    touchPages: [
      'stp x29, x30, [sp, #-0x10]!',
      'mov x29, sp',
      'str x1, [x0]',
      'add x0, x0, #1, lsl #12',
      'subs x1, x1, #1',
      'b.ne #0x1008',
      'ldp x29, x30, [sp], #0x10',
      'ret',
    ],
    loadPages: ['ldr x3, [x0]', 'add x0, x0, x2', 'subs x1, x1, #1', 'b.ne #0x1000', 'ret'],
    loop: [
      'ldr x3, [x0]',
      'add x3, x3, x1',
      'str x3, [x0]',
      'eor x4, x4, x3',
      'subs x1, x1, #1',
      'b.ne #0x1000',
      'ret',
    ],
    readWord: [
      'stp x29, x30, [sp, #-0x10]!',
      'mov x29, sp',
      'ldr x0, [x0]',
      'ldp x29, x30, [sp], #0x10',
      'ret',
    ],
    nothing: ['ret'],
  },
};

describe.each(ARCH_NAMES)('%s', (arch) => {
  const { caller, loopLength, ...functions } = GUEST_CODE[arch];

  test.each(Object.entries(functions))('%s is the code that is meant', (name, fn) => {
    expect(text(arch, fn.code)).toEqual(EXPECTED[arch][name]);
  });

  test('a round of the loop is what it is counted as', () => {
    // All but the return.
    expect(text(arch, functions.loop.code)).toHaveLength(loopLength + 1);
  });

  test.each([0x40, -0x800])('a caller calls what is %d bytes from its start', (distance) => {
    const call = arch === 'arm64' ? 'bl #' : 'call ';
    expect(text(arch, caller(distance))).toContain(`${call}0x${(0x1000 + distance).toString(16)}`);
  });
});
