import { afterAll, describe, expect, test } from '@jest/globals';
import { assemble } from '../../emu/assembler/assemble.js';
import { Keystone } from '../../emu/assembler/keystone.js';
import type { Isa } from '../../emu/disassembler.js';
import { drain } from '../../emu/path.js';
import { flatCpu } from '../fake-flat-cpu.js';
import type { KfuncBody } from '../kfunc.js';
import type { StructOpsTrampoline, TrampolineOptions } from './struct_ops_trampoline.js';
import { trampolineFunctions } from './trampoline.js';
import { prepareTrampolineArm64 } from './trampoline_arm64.js';
import { prepareTrampolineX86 } from './trampoline_x86.js';

const keystone = new Keystone();
afterAll(() => keystone.close());

/** What another assembler makes of the source. */
async function assembled(isa: Isa, address: bigint, source: string, symbols: Record<string, bigint>) {
  const lines = source
    .trim()
    .split('\n')
    .map((text, i) => ({ text, line: i + 1 }));
  const { bytes } = await assemble(
    { isa, address, lines, symbols: new Map(Object.entries(symbols)) },
    keystone,
  );
  return Buffer.from(bytes).toString('hex');
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const PLAIN: TrampolineOptions = { branchTracking: false, return_thunk: null, sls: false };

const X86 = 0xffffffffc0002000n;
const x86Symbols = {
  enter: 0xffffffff81234560n,
  exit: 0xffffffff81234600n,
  bpf_func: 0xffffffffc0000000n,
  thunk: 0xffffffff82000000n,
};
const x86What: StructOpsTrampoline = {
  image: X86,
  nr_args: 2,
  returns: false,
  prog: 0xffff888100123400n,
  bpf_func: x86Symbols.bpf_func,
  enter: x86Symbols.enter,
  exit: x86Symbols.exit,
};

describe('the trampoline of a struct_ops member on x86-64', () => {
  test('of two arguments that returns nothing', async () => {
    const source = `
push rbp
mov rbp, rsp
sub rsp, 0x30
mov [rbp-0x20], rbx
mov eax, 2
mov [rbp-0x18], rax
mov [rbp-0x10], rdi
mov [rbp-0x8], rsi
xor edi, edi
mov [rbp-0x30], rdi
movabs rdi, 0xffff888100123400
lea rsi, [rbp-0x30]
call enter
mov rbx, rax
test rax, rax
je skip
lea rdi, [rbp-0x10]
call bpf_func
skip: movabs rdi, 0xffff888100123400
mov rsi, rbx
lea rdx, [rbp-0x30]
call exit
mov rbx, [rbp-0x20]
leave
ret`;
    const code = prepareTrampolineX86(x86What, PLAIN);
    const expected = await assembled('x86-64', X86, source, x86Symbols);
    expect(hex(code)).toBe(expected + 'cc'.repeat(64));
  });

  test('of six arguments that returns something, with every option', async () => {
    const source = `
f3 0f 1e fa endbr64
push rbp
mov rbp, rsp
sub rsp, 0x58
mov [rbp-0x48], rbx
mov eax, 6
mov [rbp-0x40], rax
mov [rbp-0x38], rdi
mov [rbp-0x30], rsi
mov [rbp-0x28], rdx
mov [rbp-0x20], rcx
mov [rbp-0x18], r8
mov [rbp-0x10], r9
mov edi, 0x1234
mov [rbp-0x58], rdi
mov rdi, 0xffffffffc0123400
lea rsi, [rbp-0x58]
call enter
mov rbx, rax
test rax, rax
je skip
lea rdi, [rbp-0x38]
call bpf_func
mov [rbp-0x8], rax
skip: mov rdi, 0xffffffffc0123400
mov rsi, rbx
lea rdx, [rbp-0x58]
call exit
mov rax, [rbp-0x8]
mov rbx, [rbp-0x48]
leave
jmp thunk`;
    const what = { ...x86What, nr_args: 6, returns: true, prog: 0xffffffffc0123400n, cookie: 0x1234n };
    const options = { branchTracking: true, return_thunk: x86Symbols.thunk, sls: true };
    // The jump is five bytes long however near its target is.
    const code = prepareTrampolineX86(what, options);
    expect(hex(code)).toBe((await assembled('x86-64', X86, source, x86Symbols)) + 'cc'.repeat(64));
  });

  test('ends with int3 where a return must not be run past', () => {
    const code = prepareTrampolineX86(x86What, { ...PLAIN, sls: true });
    expect(hex(code.subarray(-67, -62))).toBe('c9c3cccccc');
    expect(code.length).toBe(prepareTrampolineX86(x86What, PLAIN).length + 1);
  });

  test('is refused for more arguments than registers, and when a call does not reach', () => {
    expect(() => prepareTrampolineX86({ ...x86What, nr_args: 7 }, PLAIN)).toThrow('registers carry 6');
    expect(() => prepareTrampolineX86({ ...x86What, bpf_func: 0xffff888000000000n }, PLAIN)).toThrow(
      'out of its reach',
    );
  });
});

const ARM64 = 0xffff800080012000n;
const arm64Symbols = {
  enter: 0xffff800080010000n,
  exit: 0xffff800080010100n,
  bpf_func: 0xffff800080018000n,
};
const arm64What: StructOpsTrampoline = {
  image: ARM64,
  nr_args: 2,
  returns: false,
  prog: 0xffff000012345678n,
  bpf_func: arm64Symbols.bpf_func,
  enter: arm64Symbols.enter,
  exit: arm64Symbols.exit,
};
const MOVE_PROG = `movn x19, #0xa987
movk x19, #0x1234, lsl #16
movk x19, #0x0000, lsl #32`;

describe('the trampoline of a struct_ops member on arm64', () => {
  test('of two arguments that returns nothing', async () => {
    const source = `
stp x29, x30, [sp, #-16]!
mov x29, sp
sub sp, sp, #64
movz w10, #2
str x10, [sp, #16]
str x0, [sp, #24]
str x1, [sp, #32]
str x19, [sp, #40]
str x20, [sp, #48]
str xzr, [sp]
${MOVE_PROG}
mov x0, x19
add x1, sp, #0
bl enter
mov x20, x0
cbz x0, skip
add x0, sp, #24
bl bpf_func
skip: mov x0, x19
mov x1, x20
add x2, sp, #0
bl exit
ldr x19, [sp, #40]
ldr x20, [sp, #48]
mov sp, x29
ldp x29, x30, [sp], #16
ret`;
    expect(hex(prepareTrampolineArm64(arm64What, PLAIN))).toBe(
      await assembled('arm64', ARM64, source, arm64Symbols),
    );
  });

  test('that returns something; a function that bl does not reach is called through x10', async () => {
    const source = `
d50324df bti jc
stp x29, x30, [sp, #-16]!
mov x29, sp
sub sp, sp, #64
movz w10, #1
str x10, [sp, #16]
str x0, [sp, #24]
str x19, [sp, #40]
str x20, [sp, #48]
movz x10, #0x5, lsl #32
movk x10, #0x7
str x10, [sp]
${MOVE_PROG}
mov x0, x19
add x1, sp, #0
bl enter
mov x20, x0
cbz x0, skip
add x0, sp, #24
movn x10, #0x7fff
movk x10, #0xa000, lsl #16
movk x10, #0x8000, lsl #32
blr x10
str x0, [sp, #32]
skip: mov x0, x19
mov x1, x20
add x2, sp, #0
bl exit
ldr x19, [sp, #40]
ldr x20, [sp, #48]
ldr x0, [sp, #32]
mov sp, x29
ldp x29, x30, [sp], #16
ret`;
    const what = {
      ...arm64What,
      nr_args: 1,
      returns: true,
      bpf_func: 0xffff8000a0008000n,
      cookie: 0x5_0000_0007n,
    };
    const code = prepareTrampolineArm64(what, { ...PLAIN, branchTracking: true });
    expect(hex(code)).toBe(await assembled('arm64', ARM64, source, arm64Symbols));
  });

  // emit_a64_mov_i64() is the JIT's: a value of 32 bits by w10, one with many ones from their side.
  test.each([
    [0x7n, 'movz w10, #7'],
    [0x1234_8001n, 'movz w10, #0x8001\nmovk w10, #0x1234, lsl #16'],
    [0xffff_ffff_ffff_fff0n, 'movn x10, #15'],
  ])('moves cookie %s as the JIT moves any immediate', async (cookie, source) => {
    const code = hex(prepareTrampolineArm64({ ...arm64What, cookie }, PLAIN));
    expect(code).toContain(await assembled('arm64', 0n, `${source}\nstr x10, [sp]`, {}));
  });

  test('is refused for more arguments than registers', () => {
    expect(() => prepareTrampolineArm64({ ...arm64What, nr_args: 9 }, PLAIN)).toThrow('registers carry 8');
  });
});

describe('the functions around a program', () => {
  function setup() {
    const { here, put } = flatCpu();
    const bodies = new Map(trampolineFunctions().map(({ name, body }) => [name, body]));
    const call = (name: string, ...args: bigint[]) => drain((bodies.get(name) as KfuncBody)(here, args));
    return { here, put, call };
  }

  test('link the contexts of programs that run inside each other', () => {
    const { here, put, call } = setup();
    const [outer, inner] = [put(0x100, [0n, 7n]), put(0x200, [0n, 7n])];
    expect(call('__bpf_prog_enter', 1n, outer)).toBe(1n);
    expect(call('__bpf_prog_enter', 1n, inner)).toBe(1n);
    expect([here.ram.readU64(0x108), here.ram.readU64(0x208)]).toEqual([0n, outer]);
    call('__bpf_prog_exit', 1n, 1n, inner);
    const again = put(0x300, [0n, 7n]);
    call('__bpf_prog_enter_sleepable', 2n, again);
    expect(here.ram.readU64(0x308)).toBe(outer);
  });

  test('skip a program that must not run inside itself, once it runs', () => {
    const { put, call } = setup();
    const [a, b, c] = [put(0x100, [0n, 0n]), put(0x200, [0n, 0n]), put(0x300, [0n, 0n])];
    const enter = (prog: bigint, ctx: bigint) => call('__bpf_prog_enter_sleepable_recur', prog, ctx);
    expect([enter(1n, a), enter(1n, b), enter(2n, c)]).toEqual([1n, 0n, 1n]);
    call('__bpf_prog_exit_sleepable_recur', 2n, 1n, c);
    call('__bpf_prog_exit_sleepable_recur', 1n, 0n, b);
    expect(enter(1n, b)).toBe(0n);
    call('__bpf_prog_exit_sleepable_recur', 1n, 0n, b);
    call('__bpf_prog_exit_sleepable_recur', 1n, 1n, a);
    expect(enter(1n, a)).toBe(1n);
  });
});
