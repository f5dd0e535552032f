import { afterAll, describe, expect, test } from '@jest/globals';
import { type Isa, loadDisassembler } from '../disassembler.js';
import { type Assembled, AssemblerError, assemble, assembleWithBytes, measure } from './assemble.js';
import { formatWithBytes } from './format.js';
import { Keystone } from './keystone.js';
import type { AssembleRequest } from './layout.js';

const keystone = new Keystone();
afterAll(() => keystone.close());

const BASE: Readonly<Record<Isa, bigint>> = { 'x86-64': 0xffffffff81000000n, arm64: 0xffff800080010000n };

function request(isa: Isa, source: string): AssembleRequest {
  const address = BASE[isa];
  const symbols = new Map([
    ['write_cmask', address + 0x2000n],
    ['far', address + 0x200000n],
  ]);
  return { isa, address, lines: source.split('\n').map((text, i) => ({ text, line: i + 1 })), symbols };
}

async function hex(isa: Isa, source: string): Promise<string> {
  const { bytes } = await assemble(request(isa, source), keystone);
  return Buffer.from(bytes).toString('hex');
}

/** Line and message of what is wrong. */
async function problem(isa: Isa, source: string): Promise<string> {
  try {
    return `no error: ${await hex(isa, source)}`;
  } catch (error) {
    if (error instanceof AssemblerError) return `${error.line}: ${error.message}`;
    throw error;
  }
}

/** Keystone may not be asked. */
const noKeystone = new Keystone({ module: '/nonexistent' });

const X86 = `entry: push rbp
mov rbp, rsp          # frame
call write_cmask
1: lea rax, [rip + data]
add dword ptr [rip + data + 4], 10
mov rdi, qword ptr gs:[0x28]   ; per cpu
mov qword ptr [rdi + 16], 5
test rax, rax
jz done
cmp rax, 10           // decimal
jne 1b
jmp 2f
lock cmpxchg qword ptr [rdi], rsi
rep movsb
2: nop
.skip 100
jmp done
.skip 20, 0xcc
done:
leave
ret
.balign 8, 0xcc
data: .quad 0x1234`;

/** The image that GNU as 2.40 makes of it. */
const X86_IMAGE =
  '554889e5e8f71f0000488d05b00000008305ad0000000a65488b3c252800000048c74710050000004885c00f848a000000' +
  `4883f80a75d2eb07f0480fb137f3a490${'00'.repeat(100)}eb14${'cc'.repeat(20)}c9c3cccccc3412000000000000`;

const ARM64 = `stp x29, x30, [sp, #-16]!
mov x29, sp
1: adr x0, data       // address
ldr x3, data
cbz x0, 1f
b.ne 1b
cmp x0, #10           ; decimal
tbz w0, #3, done
mov x0, #0xffff000000000000
movk x0, #0x1234, lsl #16
ldr x0, [x1, #-8]
str x0, [x1], #8
1: nop
done: ldp x29, x30, [sp], #16
ret
.balign 16
data: .quad 0x1234`;

/** The image that llvm-mc 14 makes of it. */
const ARM64_IMAGE =
  'fd7bbfa9fd030091c0010010a3010058000100b4a1ffff541f2800f1c0001836e0ffffd28046a2f220805ff8208400f8' +
  '1f2003d5fd7bc1a8c0035fd61f2003d53412000000000000';

describe('a function', () => {
  test('is what other assemblers make of it: labels, short and long jumps, data', async () => {
    expect(await hex('x86-64', X86)).toBe(X86_IMAGE);
    expect(await hex('arm64', ARM64)).toBe(ARM64_IMAGE);
  });

  test('reports its labels, and each line with its place', async () => {
    const { labels, lines, bytes } = await assemble(request('x86-64', X86), keystone);
    const end = BASE['x86-64'] + BigInt(X86_IMAGE.length / 2);
    expect([...labels]).toEqual([
      ['entry', BASE['x86-64']],
      ['done', end - 13n],
      ['data', end - 8n],
    ]);
    expect(lines[1]).toEqual({
      line: 2,
      offset: 1,
      bytes: Uint8Array.of(0x48, 0x89, 0xe5),
      text: 'mov rbp, rsp',
      instruction: true,
    });
    expect(lines.at(-1)).toMatchObject({ line: 23, instruction: false, offset: bytes.length - 8 });
  });

  test('refers to other functions: call, address, page and offset', async () => {
    expect(await hex('x86-64', 'jmp far\nmov rdi, offset far\nmovabs rsi, far + 8')).toBe(
      'e9fbff1f00' + '48c7c700002081' + '48be08002081ffffffff',
    );
    expect(
      await hex('arm64', 'bl write_cmask\nadrp x1, far\nadd x1, x1, :lo12:far\nldr x0, [x1, :lo12:far]'),
    ).toBe('00080094' + '01100090' + '21000091' + '200040f9');
  });

  test('a jump grows when what it jumps over does', async () => {
    const over = (bytes: number): Promise<string> => hex('x86-64', `jmp 1f\n.skip ${bytes}\n1: ret`);
    expect((await over(127)).slice(0, 4)).toBe('eb7f');
    expect((await over(128)).slice(0, 10)).toBe('e980000000');
    // Each of two jumps is short only as long as the other is.
    const two = await hex('x86-64', 'jmp 2f\n1: .skip 123\njmp 1b\n.skip 2\n2: ret');
    expect(two.slice(0, 4)).toBe('eb7f');
  });

  test('a numbered label is the nearest of its name, backwards or forwards', async () => {
    expect(await hex('x86-64', '1: nop\n1: jmp 1b\njmp 1f\n1: nop\n1: ret')).toBe('90ebfeeb0090c3');
  });

  test('empty lines and comments make nothing', async () => {
    expect(await hex('x86-64', '\n  # only words\n ; and more\n// still')).toBe('');
    expect(await hex('arm64', 'mov x0, #1 // #2')).toBe('200080d2');
  });
});

describe('lines with their bytes', () => {
  const source = `f3 0f 1e fa      endbr64
entry:
48 89 07         mov [rdi], rax
e8 f4 1f 00 00   call write_cmask
74 f6            je entry
c3               ret`;

  test('are taken as they are; no assembler is started', async () => {
    const expected = 'f30f1efa488907e8f41f000074f6c3';
    const assembled = await assemble(request('x86-64', source), noKeystone);
    expect(Buffer.from(assembled.bytes).toString('hex')).toBe(expected);
    const sync = assembleWithBytes(request('x86-64', source), await loadDisassembler());
    expect(sync).toEqual(assembled);
    const arm = 'f8200041 ldadd x0, x1, [x2]\n97ffffff bl . - 4\nd503245f bti c';
    const { bytes } = await assemble(request('arm64', arm), noKeystone);
    expect(Buffer.from(bytes).toString('hex')).toBe('410020f8ffffff975f2403d5');
  });

  test('may stand beside lines without', async () => {
    expect(
      await hex('x86-64', 'f3 0f 1e fa endbr64\npush rbp\njmp 1f\n48 8b 07 mov rax, [rdi]\n1: ret'),
    ).toBe('f30f1efa55eb03488b07c3');
  });

  test('without waiting, a line without bytes is an error', async () => {
    const disassembler = await loadDisassembler();
    expect(() => assembleWithBytes(request('x86-64', `${source}\nnop`), disassembler)).toThrow(
      '"nop" has no bytes in front of it',
    );
  });

  test.each<[Isa, string, string]>([
    [
      'x86-64',
      '90 nop\n48 89 07 mov [rdi], rbx',
      '2: the bytes 48 89 07 are "mov qword ptr [rdi], rax", not "mov [rdi], rbx", which would be 48 89 1f here',
    ],
    [
      'x86-64',
      'e8 00 00 00 00 call write_cmask',
      '1: the bytes e8 00 00 00 00 are "call 0xffffffff81000005", not "call write_cmask", which would be e8 fb 1f 00 00 here',
    ],
    ['x86-64', '48 89 07 endbr64', '1: the bytes 48 89 07 are "mov qword ptr [rdi], rax", not "endbr64"'],
    ['x86-64', '90 90 nop', '1: the bytes 90 90 are 2 instructions, "nop" and "nop"; give each a line'],
    [
      'x86-64',
      '48 89 mov [rdi], rax',
      '1: the bytes 48 89 are no instruction that the disassembler knows, so no text can be checked; if they are right, use .byte',
    ],
    [
      'x86-64',
      '48 89 07',
      '1: after the bytes 48 89 07 the instruction is missing: "mov qword ptr [rdi], rax"',
    ],
    ['x86-64', '01 02 .byte 1, 2', '1: a directive stands without bytes in front of it'],
    [
      'arm64',
      'f9000020 str x1, [x1]',
      '1: the bytes f9000020 are "str x0, [x1]", not "str x1, [x1]", which would be f9000021 here',
    ],
    [
      'arm64',
      '20 00 00 f9 str x0, [x1]',
      '1: on arm64 the instruction stands in front as one word, such as f9000020',
    ],
    [
      'arm64',
      'ffffffff nop',
      '1: the bytes ffffffff are no instruction that the disassembler knows, so no text can be checked; if they are right, use .inst',
    ],
  ])('%s: %s', async (isa, text, expected) => {
    expect(await problem(isa, text)).toBe(expected);
  });
});

describe('what does not assemble', () => {
  test.each<[Isa, string, string | RegExp]>([
    [
      'x86-64',
      'nop\nmov rax, rbxx',
      '2: cannot assemble "mov rax, rbxx": "rbxx" is no register or symbol that Keystone knows; if it is right, put its bytes in front of it',
    ],
    [
      'x86-64',
      'call nowhere',
      '1: cannot assemble "call nowhere": "nowhere" is neither a label of this function nor a known symbol',
    ],
    [
      'x86-64',
      'mov rax, [rip + nowhere]',
      '1: cannot assemble "mov rax, [rip + nowhere]": "nowhere" is neither a label of this function nor a known symbol',
    ],
    ['x86-64', 'mov rax, [rdi', '1: cannot assemble "mov rax, [rdi": "[rdi" is no operand'],
    ['x86-64', 'jmp [', '1: cannot assemble "jmp [": "[" is no operand'],
    ['x86-64', 'mov rax, far', /can be read in two ways: write "offset far"/],
    [
      'x86-64',
      'endbr64',
      '1: cannot assemble "endbr64": Keystone says invalid mnemonic; if it is right, put its bytes in front of it',
    ],
    ['x86-64', 'mov [rdi], 5', /^1: cannot assemble/],
    ['x86-64', 'jmp 1f', /"1f" is neither a label/],
    ['x86-64', 'a: nop\na: nop', '2: the label a is there twice'],
    ['x86-64', 'far: nop', '1: the label far is already the name of something else'],
    ['x86-64', 'rax: nop', '1: a label cannot be called rax: it is a word of the assembly language'],
    ['x86-64', '.bytes 1', /unknown directive \.bytes; known are/],
    ['x86-64', '.byte 256', '1: cannot assemble ".byte 256": 256 does not fit a byte'],
    ['x86-64', '.skip 0xffffffffff', '1: cannot assemble ".skip 0xffffffffff": more than 1048576 bytes'],
    ['x86-64', '.skip 1000000\n.skip 1000000', '2: more than 1048576 bytes of code'],
    ['x86-64', '.balign 3', /must be a power of two/],
    ['x86-64', 'toString', /invalid mnemonic/],
    ['x86-64', 'x'.repeat(10_000), /^1: cannot assemble "x{80}…": /],
    ['arm64', '.byte 1\nnop', '2: "nop" does not stand at a multiple of 4 bytes; use .balign 4'],
    ['arm64', 'ldr x0, =0x1234', /there are no literal pools/],
    ['arm64', 'ldr x0, 0x10', /^1: cannot assemble/],
    ['arm64', 'bl nowhere', /"nowhere" is neither a label/],
    ['arm64', 'x0: nop', /cannot be called x0/],
  ])('%s: %s', async (isa, text, expected) => {
    const seen = await problem(isa, text);
    if (typeof expected === 'string') expect(seen).toBe(expected);
    else expect(seen).toMatch(expected);
  });

  test('what ends a process that runs Keystone ends only its worker', async () => {
    const before = process.exitCode;
    expect(await problem('x86-64', 'nop\nmov ah, byte ptr [r8]')).toMatch(
      /^2: cannot assemble "mov ah, byte ptr \[r8\]": Keystone broke down over it/,
    );
    expect(process.exitCode).toBe(before);
    expect(await hex('x86-64', 'nop')).toBe('90');
  });

  test('what Keystone makes must be what was written', async () => {
    expect(await problem('x86-64', 'mov rax, qword ptr [xmm0]')).toBe(
      '1: cannot assemble "mov rax, qword ptr [xmm0]": Keystone makes 48 8b 00 of it, which is ' +
        '"mov rax, qword ptr [rax]"; if that is meant, write it so, otherwise put the right bytes in front',
    );
    // Its `cmp rax, 10` compares with 16; we write it another way.
    expect(await hex('x86-64', 'cmp rax, 10\nadd rsp, 24\nmov rax, [rdi + 16]')).toBe(
      '4883f80a' + '4883c418' + '488b4710',
    );
  });
});

describe('measure', () => {
  test('knows the length without the addresses of others, and does not compare texts', async () => {
    expect(await measure(request('x86-64', X86), keystone)).toBe(X86_IMAGE.length / 2);
    expect(await measure(request('x86-64', 'e8 00 00 00 00 call far\njmp write_cmask'), keystone)).toBe(10);
    expect(await measure(request('arm64', ARM64), keystone)).toBe(ARM64_IMAGE.length / 2);
  });
});

describe('formatWithBytes', () => {
  async function format(isa: Isa, source: string): Promise<[string[], Assembled]> {
    const { lines } = request(isa, source);
    const assembled = await assemble(request(isa, source), keystone);
    return [formatWithBytes(isa, lines, assembled), assembled];
  }

  test('puts bytes in a column, labels on their own lines, and keeps comments', async () => {
    const source =
      'entry: push rbp # frame\n\n# a word\nmov   [rdi+8], rax\n1: 2: jmp 1b ; back\n.byte 1\nend:  # here';
    expect((await format('x86-64', source))[0]).toEqual([
      'entry:',
      '55           push rbp  # frame',
      '',
      '# a word',
      '48 89 47 08  mov   [rdi+8], rax',
      '1:',
      '2:',
      'eb fe        jmp 1b  ; back',
      '             .byte 1',
      'end:  # here',
    ]);
    expect((await format('arm64', 'nop // none'))[0]).toEqual(['d503201f  nop  // none']);
  });

  test.each<[Isa, string]>([
    ['x86-64', X86],
    ['arm64', ARM64],
  ])('%s: the result assembles to the same without an assembler, and stays', async (isa, source) => {
    const [once, assembled] = await format(isa, source);
    const again = request(isa, once.join('\n'));
    const same = await assemble(again, noKeystone);
    expect(same.bytes).toEqual(assembled.bytes);
    expect(formatWithBytes(isa, again.lines, same)).toEqual(once);
  });
});
