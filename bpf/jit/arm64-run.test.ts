import { afterEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import {
  CODE,
  DATA,
  RAM_BASE,
  SENTINEL,
  STACK,
  type TestMachine,
  testMachine,
} from '../../emu/unicorn/test-machine.js';
import {
  BPF_ADD,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_ATOMIC,
  BPF_B,
  BPF_CMPXCHG,
  BPF_DIV,
  BPF_DW,
  BPF_END,
  BPF_FETCH,
  BPF_H,
  BPF_JMP,
  BPF_JMP32,
  BPF_JNE,
  BPF_LDX,
  BPF_LOAD_ACQ,
  BPF_LSH,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MOD,
  BPF_MOV,
  BPF_MUL,
  BPF_NEG,
  BPF_OR,
  BPF_PROBE_ATOMIC,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_RSH,
  BPF_ST,
  BPF_STORE_REL,
  BPF_STX,
  BPF_SUB,
  BPF_W,
  BPF_X,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import { compile } from './arm64-testing.js';
import { type InterpreterMemory, interpret } from './fake-interpreter.js';
import type { JitOptions } from './jit.js';
import { CONDITIONS, EXIT, ldImm64, mov, raw, USER_VM_START } from './jit-testing.js';

const engine = new NativeEngine();
const machines: TestMachine[] = [];
afterEach(() => {
  for (const { cpu } of machines.splice(0)) cpu.close();
});

function machine(): TestMachine {
  const made = testMachine(engine, 'arm64');
  machines.push(made);
  return made;
}

/** The arena's first byte; offsets of the programs stay within a page. */
const ARENA = { kern_vm_start: DATA, user_vm_start: USER_VM_START };
/** Where results go, by R9: behind what the programs use. */
const RESULTS = 0x800n;
const PHYSICAL = RAM_BASE + 0x20000;

/** Stores R0 to R8 where R9 points. */
const DUMP: readonly bpf_insn[] = Array.from({ length: 9 }, (_, reg) =>
  raw(BPF_STX | BPF_MEM | BPF_DW, 9, reg, reg * 8),
);
const SEEDS = [0, 1, 2, 3, 4, 5, 6, 7, 8];

/** What native code makes of the registers, and of the page. */
function native(m: TestMachine, insns: readonly bpf_insn[], page: Uint8Array, options: Partial<JitOptions>) {
  const { code } = compile(insns, { fn: { stack_depth: 64, arena: ARENA }, place: { image: CODE }, options });
  m.ram.write(PHYSICAL, page);
  m.load([...code]);
  m.cpu.write('lr', SENTINEL);
  m.cpu.write('sp', STACK + 0x2000n);
  const stop = m.cpu.start(CODE, 10_000);
  expect(stop).toEqual({ kind: 'exit' });
  expect(m.cpu.read('sp')).toBe(STACK + 0x2000n);
  return m.ram.read(PHYSICAL, 4096).slice();
}

/** The same by the interpreter. */
function interpreted(insns: readonly bpf_insn[], page: Uint8Array): Uint8Array {
  const data = page.slice();
  const stack = new Uint8Array(64);
  const at = (address: bigint, bytes: number): DataView => {
    const [where, offset] = address >= DATA ? [data, address - DATA] : [stack, address - 0x1000n + 64n];
    return new DataView(where.buffer, Number(offset), bytes);
  };
  const memory: InterpreterMemory = {
    load(address, bytes) {
      const view = at(address, bytes);
      let value = 0n;
      for (let i = bytes - 1; i >= 0; i--) value = (value << 8n) | BigInt(view.getUint8(i));
      return value;
    },
    store(address, bytes, value) {
      const view = at(address, bytes);
      for (let i = 0; i < bytes; i++) view.setUint8(i, Number((value >> BigInt(8 * i)) & 0xffn));
    },
  };
  const registers = Array.from({ length: 11 }, (_, i) => (i === 10 ? 0x1000n : 0n));
  interpret(insns, { registers, memory, arena: ARENA });
  return data;
}

/** A program around the instructions: registers from the seeds, and all of them stored at its end. */
function program(seeds: readonly bigint[], insns: readonly bpf_insn[]): bpf_insn[] {
  return [
    ...SEEDS.flatMap((reg) => ldImm64(reg, seeds[reg] ?? 0n)),
    ...ldImm64(9, DATA + RESULTS),
    ...insns,
    ...DUMP,
    EXIT,
  ];
}

const reg = fc.integer({ min: 0, max: 8 });
const interesting = fc.constantFrom(
  0n,
  1n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  1n << 63n,
  (1n << 64n) - 1n,
);
const seeds = fc.array(fc.oneof(interesting, fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })), {
  minLength: 9,
  maxLength: 9,
});
const imm = fc.oneof(
  fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  fc.constantFrom(0, 1, -1, 0xfff, 0x1000, 0xfff000, -0xfff, -0x1000, -(2 ** 31), 0xff00ff, 0x55555555),
);
const width = fc.constantFrom(BPF_ALU, BPF_ALU64);
const X_OPS = [BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH];

const alu = fc.oneof(
  fc
    .record({ cls: width, op: fc.constantFrom(...X_OPS), dst: reg, src: reg })
    .map(({ cls, op, dst, src }) => raw(cls | BPF_X | op, dst, src)),
  fc
    .record({ cls: width, op: fc.constantFrom(...X_OPS.slice(0, 6), BPF_MOV), dst: reg, imm })
    .map(({ cls, op, dst, imm: value }) => raw(cls | op, dst, 0, 0, value)),
  fc
    .record({
      cls: width,
      op: fc.constantFrom(BPF_LSH, BPF_RSH, BPF_ARSH),
      dst: reg,
      by: fc.nat(31),
      more: fc.boolean(),
    })
    .map(({ cls, op, dst, by, more }) => raw(cls | op, dst, 0, 0, cls === BPF_ALU64 && more ? by + 32 : by)),
  fc
    .record({ cls: width, op: fc.constantFrom(BPF_DIV, BPF_MOD), dst: reg, src: reg, off: fc.nat(1) })
    .map(({ cls, op, dst, src, off }) => raw(cls | BPF_X | op, dst, src, off)),
  fc
    .record({ cls: width, op: fc.constantFrom(BPF_DIV, BPF_MOD), dst: reg, off: fc.nat(1), imm })
    .map(({ cls, op, dst, off, imm: value }) => raw(cls | op, dst, 0, off, value === 0 ? 1 : value)),
  fc
    .record({ cls: width, dst: reg, src: reg, off: fc.constantFrom(0, 8, 16, 32) })
    .map(({ cls, dst, src, off }) =>
      raw(cls | BPF_X | BPF_MOV, dst, src, cls === BPF_ALU && off === 32 ? 16 : off),
    ),
  fc.record({ cls: width, dst: reg }).map(({ cls, dst }) => raw(cls | BPF_NEG, dst)),
  fc
    .record({
      code: fc.constantFrom(BPF_ALU, BPF_ALU | BPF_X, BPF_ALU64),
      dst: reg,
      bits: fc.constantFrom(16, 32, 64),
    })
    .map(({ code, dst, bits }) => raw(code | BPF_END, dst, 0, 0, bits)),
  fc
    .record({ dst: reg, src: reg })
    .map(({ dst, src }) => raw(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 1, 1 << 16)),
);

/** A jump over the instruction behind it. */
const jump = fc
  .record({
    cls: fc.constantFrom(BPF_JMP, BPF_JMP32),
    op: fc.constantFrom(...CONDITIONS),
    x: fc.boolean(),
    dst: reg,
    src: reg,
    imm,
    over: alu,
  })
  .map(({ cls, op, x, dst, src, imm: value, over }) => [
    x ? raw(cls | BPF_X | op, dst, src, 1) : raw(cls | op, dst, 0, 1, value),
    over,
  ]);

const size = fc.constantFrom(BPF_B, BPF_H, BPF_W, BPF_DW);
const stackOff = fc.constantFrom(-8, -16, -24, -64);
/** Stores to the stack and loads back; what is loaded was stored, the stack having been cleared. */
const stack = fc
  .record({ size, off: stackOff, src: reg, dst: reg, sx: fc.boolean(), imm })
  .map(({ size: bytes, off, src, dst, sx, imm: value }) => [
    raw(BPF_ST | BPF_MEM | BPF_DW, 10, 0, off, value),
    raw(BPF_STX | BPF_MEM | bytes, 10, src, off),
    raw(BPF_LDX | (sx && bytes !== BPF_DW ? BPF_MEMSX : BPF_MEM) | bytes, dst, 10, off),
  ]);

const arenaOff = fc.constantFrom(0, 8, 16, 0x100, 0x7f8);
const ATOMICS = [BPF_ADD, BPF_OR, BPF_AND, BPF_XOR].flatMap((op) => [op, op | BPF_FETCH]);
/** R8 as the base, aligned: the arena address or, for accesses outside of it, a full one. */
function atomics(mode: number, base: bigint) {
  return fc
    .record({
      op: fc.constantFrom(...ATOMICS, BPF_XCHG, BPF_CMPXCHG, BPF_LOAD_ACQ, BPF_STORE_REL),
      size: fc.constantFrom(BPF_W, BPF_DW),
      off: arenaOff,
      value: fc.integer({ min: 0, max: 7 }),
    })
    .map(({ op, size: bytes, off, value }) => [
      ...ldImm64(8, base),
      op === BPF_LOAD_ACQ
        ? raw(BPF_STX | mode | bytes, value, 8, off, op)
        : raw(BPF_STX | mode | bytes, 8, value, off, op),
    ]);
}
const arenaAccess = fc
  .record({
    size,
    off: fc.integer({ min: 0, max: 0x7f0 }),
    other: fc.integer({ min: 0, max: 7 }),
    how: fc.nat(3),
    imm,
  })
  .map(({ size: bytes, off, other, how, imm: value }) => {
    const access = [
      raw(BPF_LDX | BPF_PROBE_MEM32 | bytes, other, 8, off),
      raw(BPF_LDX | BPF_PROBE_MEM32SX | (bytes === BPF_DW ? BPF_W : bytes), other, 8, off),
      raw(BPF_STX | BPF_PROBE_MEM32 | bytes, 8, other, off),
      raw(BPF_ST | BPF_PROBE_MEM32 | bytes, 8, 0, off, value),
    ][how];
    return [...ldImm64(8, 0n), ...(access === undefined ? [] : [access])];
  });

const PAGE = Uint8Array.from({ length: 4096 }, (_, i) => (i * 167 + 13) & 0xff);

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

function agree(parts: fc.Arbitrary<readonly bpf_insn[]>, options: Partial<JitOptions> = {}): void {
  const m = machine();
  fc.assert(
    fc.property(seeds, fc.array(parts, { minLength: 1, maxLength: 12 }), (values, chosen) => {
      const insns = program(values, chosen.flat());
      const expected = interpreted(insns, PAGE);
      expect(hex(native(m, insns, PAGE, options))).toBe(hex(expected));
    }),
    { seed: 20260521, numRuns: 60 },
  );
}

describe('native code does what the instructions say', () => {
  test('arithmetic, casts, jumps', () => {
    agree(
      fc.oneof(
        alu.map((insn) => [insn]),
        jump,
      ),
    );
  });

  test('stack, plain and PROBE_MEM32 accesses', () => {
    agree(fc.oneof(stack, arenaAccess));
  });

  test('arena atomics: FEAT_LSE, ldar and stlr', () => {
    agree(atomics(BPF_PROBE_ATOMIC, 0n));
  });

  test('atomics outside of an arena, with FEAT_LSE and as loops', () => {
    agree(atomics(BPF_ATOMIC, DATA));
    agree(atomics(BPF_ATOMIC, DATA), { lse: false });
  });
});

test('a loop counts down', () => {
  // r1 = 10; r0 = 0; do r0 += r1; while (--r1)
  const insns = [
    raw(BPF_ALU64 | BPF_MOV, 1, 0, 0, 10),
    raw(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0),
    raw(BPF_ALU64 | BPF_X | BPF_ADD, 0, 1),
    raw(BPF_ALU64 | BPF_SUB, 1, 0, 0, 1),
    raw(BPF_JMP | BPF_JNE, 1, 0, -3, 0),
    mov(6, 0),
    EXIT,
  ];
  const m = machine();
  native(m, insns, PAGE, {});
  expect(m.cpu.read('x0')).toBe(55n);
});
