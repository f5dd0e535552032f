import { describe, expect, test } from '@jest/globals';
import { loadDisassembler } from '../../emu/disassembler.js';
import { type RegisterReader, X86Decoder, type X86Instruction } from './instruction.js';

const decoder = new X86Decoder();

function decode(hex: string): X86Instruction {
  const instruction = decoder.decode(bytesOf(hex));
  if (instruction === null) throw new Error(`${hex} does not decode`);
  return instruction;
}

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
}

const DEFAULTS: Readonly<Record<string, bigint>> = {
  rax: 0x100n,
  rbx: 0xffff888000000000n,
  rdi: 0xffffc90000001000n,
  rsi: 0xffffc90000002000n,
  rsp: 0xffffc90000003000n,
  rbp: 0xffffc90000003080n,
  r15: 0xffffc90000004000n,
  rip: 0xffffffff81000000n,
  fs_base: 0x7f0000000000n,
  gs_base: 0xffff888007c00000n,
};

function registers(changes: Readonly<Record<string, bigint>> = {}): RegisterReader {
  return {
    read: (name) => {
      const value = changes[name] ?? DEFAULTS[name];
      if (value === undefined) throw new Error(`nobody needs ${name}`);
      return value;
    },
  };
}

/** direction, size, address, and SS where the access goes through it */
function accesses(hex: string, changes?: Readonly<Record<string, bigint>>): string[] {
  return decode(hex).memory.map((m) => {
    const address = m.address(registers(changes)).toString(16);
    return `${m.access} ${m.size} ${address}${m.stackSegment ? ' ss' : ''}`;
  });
}

describe('memory accesses', () => {
  test.each<[string, string, string[]]>([
    ['mov [rdi], rax', '48 89 07', ['write 8 ffffc90000001000']],
    ['mov al, [rdi]', '8a 07', ['read 1 ffffc90000001000']],
    ['add [rdi], eax', '01 07', ['readwrite 4 ffffc90000001000']],
    ['inc word [rdi]', '66 ff 07', ['readwrite 2 ffffc90000001000']],
    ['cmp qword [rdi], 0', '48 83 3f 00', ['read 8 ffffc90000001000']],
    ['xchg [rdi], rax', '48 87 07', ['readwrite 8 ffffc90000001000']],
    ['lock cmpxchg [rdi], eax', 'f0 0f b1 07', ['readwrite 4 ffffc90000001000']],
    ['lock cmpxchg16b [rdi]', 'f0 48 0f c7 0f', ['readwrite 16 ffffc90000001000']],
    ['cmovne rax, [rdi] (always reads)', '48 0f 45 07', ['read 8 ffffc90000001000']],
    ['push rbp', '55', ['write 8 ffffc90000002ff8 ss']],
    ['pop rbp', '5d', ['read 8 ffffc90000003000 ss']],
    ['call rel32', 'e8 00 00 00 00', ['write 8 ffffc90000002ff8 ss']],
    ['ret', 'c3', ['read 8 ffffc90000003000 ss']],
    ['leave reads [rbp]', 'c9', ['read 8 ffffc90000003080 ss']],
    ['push [rdi]', 'ff 37', ['read 8 ffffc90000001000', 'write 8 ffffc90000002ff8 ss']],
    [
      'pop [rsp] (address after the increment)',
      '8f 04 24',
      ['write 8 ffffc90000003008 ss', 'read 8 ffffc90000003000 ss'],
    ],
    ['mov rax, [rbp-8]', '48 8b 45 f8', ['read 8 ffffc90000003078 ss']],
    ['mov rax, [rsp+8]', '48 8b 44 24 08', ['read 8 ffffc90000003008 ss']],
    ['rep movsb: one element', 'f3 a4', ['write 1 ffffc90000001000', 'read 1 ffffc90000002000']],
    ['rep stosq: one element', 'f3 48 ab', ['write 8 ffffc90000001000']],
    ['mov rax, [rip+0x10]', '48 8b 05 10 00 00 00', ['read 8 ffffffff81000017']],
    ['add [rip-0x10], eax', '01 05 f0 ff ff ff', ['readwrite 4 ffffffff80fffff6']],
    ['push [rip+0]', 'ff 35 00 00 00 00', ['read 8 ffffffff81000006', 'write 8 ffffc90000002ff8 ss']],
    ['mov rax, gs:[0x28]', '65 48 8b 04 25 28 00 00 00', ['read 8 ffff888007c00028']],
    ['mov rax, fs:[rdi]', '64 48 8b 07', ['read 8 480000001000']],
    ['mov rax, [rbx+rax*8-8]', '48 8b 44 c3 f8', ['read 8 ffff8880000007f8']],
    ['mov rax, [edi-0x10]: 32-bit address', '67 48 8b 47 f0', ['read 8 ff0']],
    ['mov rax, [0xffffffff80000000]', '48 8b 04 25 00 00 00 80', ['read 8 ffffffff80000000']],
    ['mov [r15], al', '41 88 07', ['write 1 ffffc90000004000']],
    ['lea touches nothing', '48 8d 07', []],
    ['prefetchw touches nothing', '0f 0d 0f', []],
    ['endbr64', 'f3 0f 1e fa', []],
    ['long nop', '0f 1f 44 00 00', []],
  ])('%s', (_, hex, expected) => {
    expect(accesses(hex).sort()).toEqual([...expected].sort());
  });

  test('a bit offset in a register moves the access by whole operands, backwards if negative', () => {
    const at = (hex: string, rax: bigint): string[] => accesses(hex, { rax, rdi: 0x10000n });
    expect(at('48 0f ab 07', 63n)).toEqual(['readwrite 8 10000']);
    expect(at('48 0f ab 07', 64n)).toEqual(['readwrite 8 10008']);
    expect(at('48 0f ab 07', 2n ** 64n - 1n)).toEqual(['readwrite 8 fff8']);
    expect(at('0f ab 07', 0xffff_ffffn)).toEqual(['readwrite 4 fffc']);
    expect(at('0f a3 07', 32n)).toEqual(['read 4 10004']);
    expect(at('66 0f b3 07', 0x8000n)).toEqual(['readwrite 2 f000']);
    expect(at('48 0f ba 2f 05', 640n)).toEqual(['readwrite 8 10000']);
  });
});

describe('isWriteAt', () => {
  const rdi = 0xffffc90000001000n;

  test('a read-modify-write writes the byte it reads, also beyond a page boundary', () => {
    const crossing = registers({ rdi: 0xffffc90000001ffcn });
    expect(decode('48 01 07').isWriteAt(rdi, registers())).toBe(true);
    expect(decode('48 01 07').isWriteAt(0xffffc90000002000n, crossing)).toBe(true);
    expect(decode('48 8b 07').isWriteAt(rdi, registers())).toBe(false);
  });

  test('of two accesses, the one at the address counts', () => {
    const push = decode('ff 37');
    expect(push.isWriteAt(rdi, registers())).toBe(false);
    expect(push.isWriteAt(0xffffc90000002ff8n, registers())).toBe(true);
    expect(push.isWriteAt(0xffffc90000003000n, registers())).toBe(false);
    const movsb = decode('a4');
    expect(movsb.isWriteAt(DEFAULTS.rsi ?? 0n, registers())).toBe(false);
    expect(movsb.isWriteAt(rdi, registers())).toBe(true);
  });

  test('where one byte is read and written by two accesses, the read comes first', () => {
    expect(decode('ff 74 24 f8').isWriteAt(0xffffc90000002ff8n, registers())).toBe(false);
    expect(decode('a4').isWriteAt(rdi, registers({ rsi: rdi }))).toBe(false);
  });
});

describe('usesStackSegmentAt', () => {
  const wild = 0x0001_0000_0000_0000n;

  test('RSP and RBP as base, pushes and calls go through SS', () => {
    expect(decode('48 8b 45 00').usesStackSegmentAt(wild, registers({ rbp: wild }))).toBe(true);
    expect(decode('48 89 04 24').usesStackSegmentAt(wild, registers({ rsp: wild }))).toBe(true);
    expect(decode('50').usesStackSegmentAt(wild, registers({ rsp: wild + 8n }))).toBe(true);
    expect(decode('c3').usesStackSegmentAt(wild, registers({ rsp: wild }))).toBe(true);
    expect(decode('48 8b 07').usesStackSegmentAt(wild, registers({ rdi: wild }))).toBe(false);
  });

  test('RBP as index and an FS override do not', () => {
    const byIndex = registers({ rdi: 0n, rbp: wild });
    expect(decode('48 8b 04 2f').usesStackSegmentAt(wild, byIndex)).toBe(false);
    expect(decode('64 48 8b 45 00').usesStackSegmentAt(wild, registers({ rbp: wild, fs_base: 0n }))).toBe(
      false,
    );
  });

  test('overrides that 64-bit mode ignores change nothing', () => {
    const onStack = registers({ rbp: wild, rsp: wild });
    // ds: [rbp], es: [rbp], cs: [rsp], and ds: before a push
    for (const hex of ['3e 48 8b 45 00', '26 48 8b 45 00', '2e 48 8b 04 24', '3e 50']) {
      const at = hex === '3e 50' ? wild - 8n : wild;
      expect([hex, decode(hex).usesStackSegmentAt(at, onStack)]).toEqual([hex, true]);
    }
    // ss: [rdi]
    expect(decode('36 48 8b 07').usesStackSegmentAt(wild, registers({ rdi: wild }))).toBe(false);
  });

  test('a call through memory uses DS for the pointer and SS for the return address', () => {
    const call = decode('ff 17');
    expect(call.usesStackSegmentAt(wild, registers({ rdi: wild }))).toBe(false);
    expect(call.usesStackSegmentAt(wild - 8n, registers({ rsp: wild }))).toBe(true);
  });

  test('an access that begins below the hole is found by its first byte beyond', () => {
    const beyond = 0x0000_8000_0000_0000n;
    expect(decode('48 8b 45 00').usesStackSegmentAt(beyond, registers({ rbp: beyond - 4n }))).toBe(true);
  });
});

describe('decode', () => {
  test('what is no instruction, incomplete or too long is null', () => {
    expect(decoder.decode(bytesOf('06'))).toBeNull();
    expect(decoder.decode(bytesOf('48'))).toBeNull();
    expect(decoder.decode(bytesOf('e8 00 00'))).toBeNull();
    expect(decoder.decode(new Uint8Array(0))).toBeNull();
    expect(decoder.decode(bytesOf(`${'66'.repeat(15)} 90`))).toBeNull();
    expect(decoder.decode(bytesOf(`${'66'.repeat(14)} 90`))?.length).toBe(15);
  });

  test('remembers by bytes: the same object, but not for a shorter piece of them', () => {
    const bytes = bytesOf('48 89 07 90 90 90 90 90 90 90 90 90 90 90 90');
    const first = decoder.decode(bytes);
    expect(decoder.decode(Uint8Array.from(bytes))).toBe(first);
    bytes[0] = 0x90;
    expect(decoder.decode(bytes)?.length).toBe(1);
    expect(decoder.decode(bytesOf('48 89'))).toBeNull();
    expect(first?.mnemonic).toBe('mov');
  });

  test('sees the same lengths as Capstone', async () => {
    const disassembler = await loadDisassembler();
    const code = bytesOf(
      '55 4889e5 41574156 4883ec18 65488b0425 28000000 488945d0 31c0 f3480f1efa f3a4 f0480fb10f c5fc2807' +
        '48b8 0000000000c0ffff 0f1f840000000000 6641c7040f3412 ff25 10000000 c4e2fb f7c1 660f3a0fc108 0f0b c9 c3',
    );
    const seen = disassembler.disassemble('x86-64', code, 0n);
    let offset = 0;
    for (const instruction of seen) {
      expect(decoder.decode(code.subarray(offset, offset + 15))?.length).toBe(instruction.bytes.length);
      offset += instruction.bytes.length;
    }
    expect(seen.length).toBeGreaterThan(20);
  });
});
