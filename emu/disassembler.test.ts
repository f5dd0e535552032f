import { describe, expect, test } from '@jest/globals';
import { BAD_INSTRUCTION, type DisassembledInstruction, type Isa, loadDisassembler } from './disassembler.js';

const disassembler = await loadDisassembler();

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
}

function one(isa: Isa, hex: string, address: bigint): DisassembledInstruction | undefined {
  return disassembler.disassemble(isa, bytesOf(hex), address)[0];
}

const KERNEL = 0xffffffff81000000n;

describe('disassemble', () => {
  test('addresses of kernel code are unsigned and go on from instruction to instruction', () => {
    const code = disassembler.disassemble('x86-64', bytesOf('55 48 89 e5 f3 0f 1e fa c3'), KERNEL);
    expect(code.map((i) => [i.address, i.bytes.length, i.mnemonic, i.operands])).toEqual([
      [KERNEL, 1, 'push', 'rbp'],
      [KERNEL + 1n, 3, 'mov', 'rbp, rsp'],
      [KERNEL + 4n, 4, 'endbr64', ''],
      [KERNEL + 8n, 1, 'ret', ''],
    ]);
  });

  test('a branch target is unsigned hexadecimal, also when the sum wraps', () => {
    expect(one('x86-64', 'e8 00 01 00 00', KERNEL)).toMatchObject({
      operands: '0xffffffff81000105',
      target: 0xffffffff81000105n,
    });
    expect(one('x86-64', 'e8 fb ff ff 7f', 0xffffffffff000000n)?.target).toBe(0x7f000000n);
    expect(one('x86-64', 'eb fe', 5n)).toMatchObject({ operands: '0x5', target: 5n });
    expect(one('arm64', 'ff ff ff 97', 0xffff800080000000n)).toMatchObject({
      operands: '#0xffff80007ffffffc',
      target: 0xffff80007ffffffcn,
    });
    expect(one('arm64', '40 00 00 b4', 0xffff800080000000n)?.target).toBe(0xffff800080000008n);
    expect(one('arm64', '40 00 00 58', 0xffff800080000000n)?.target).toBe(0xffff800080000008n);
  });

  test('what refers to no place in code or data has no target', () => {
    expect(one('x86-64', 'ff d0', KERNEL)?.target).toBeNull();
    expect(one('x86-64', '6a ff', KERNEL)?.target).toBeNull();
    expect(one('arm64', '20 84 40 f8', KERNEL)).toMatchObject({ operands: 'x0, [x1], #8', target: null });
    expect(one('arm64', '01 00 00 d4', KERNEL)?.target).toBeNull();
  });

  test('a RIP-relative operand refers to a place counted from the next instruction', () => {
    expect(one('x86-64', '48 8b 05 10 00 00 00', KERNEL)?.target).toBe(KERNEL + 0x17n);
    expect(one('x86-64', '48 8b 05 f0 ff ff ff', KERNEL)?.target).toBe(KERNEL + 7n - 0x10n);
    expect(one('x86-64', 'ff 15 00 00 00 00', KERNEL)?.target).toBe(KERNEL + 6n);
  });

  test('names targets where the caller knows them', () => {
    const symbolize = (address: bigint): string | null =>
      address === KERNEL + 0x105n ? 'write_cmask+0x4' : null;
    const code = disassembler.disassemble('x86-64', bytesOf('e8 00 01 00 00 e8 00 01 00 00'), KERNEL, {
      symbolize,
    });
    expect(code.map((i) => i.operands)).toEqual([
      '0xffffffff81000105 <write_cmask+0x4>',
      '0xffffffff8100010a',
    ]);
  });

  test('bytes that are no instruction are shown as such, and the rest goes on', () => {
    const code = disassembler.disassemble('x86-64', bytesOf('90 06 c3 48'), 0n);
    expect(code.map((i) => [i.mnemonic, i.bytes.length])).toEqual([
      ['nop', 1],
      [BAD_INSTRUCTION, 1],
      ['ret', 1],
      [BAD_INSTRUCTION, 1],
    ]);
    const words = disassembler.disassemble('arm64', bytesOf('ff ff ff ff 1f 20 03 d5 c0 03'), 0n);
    expect(words.map((i) => [i.mnemonic, i.address, i.bytes.length])).toEqual([
      [BAD_INSTRUCTION, 0n, 4],
      ['nop', 4n, 4],
      [BAD_INSTRUCTION, 8n, 2],
    ]);
  });

  test('more than fifteen bytes are not one instruction', () => {
    const prefixed = (prefixes: number): string => `${'66'.repeat(prefixes)}90`;
    expect(one('x86-64', prefixed(14), 0n)?.bytes.length).toBe(15);
    expect(one('x86-64', prefixed(15), 0n)?.bytes.length).not.toBe(16);
  });

  test('stops after as many instructions as were asked for, good or bad', () => {
    expect(disassembler.disassemble('x86-64', bytesOf('90 06 90 90'), 0n, { count: 2 })).toHaveLength(2);
    expect(disassembler.disassemble('x86-64', bytesOf('90'), 0n, { count: 0 })).toEqual([]);
    expect(disassembler.disassemble('x86-64', new Uint8Array(0), 0n)).toEqual([]);
  });
});
