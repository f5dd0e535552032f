import { afterAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { CpuStop } from '../../emu/cpu.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { CODE, DATA, RAM_BASE, SENTINEL, STACK, testMachine } from '../../emu/unicorn/test-machine.js';
import {
  BPF_ADD,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_ATOMIC,
  BPF_B,
  BPF_CLASS,
  BPF_CMPXCHG,
  BPF_DIV,
  BPF_DW,
  BPF_END,
  BPF_EXIT,
  BPF_FETCH,
  BPF_H,
  BPF_JA,
  BPF_JMP,
  BPF_JMP32,
  BPF_LDX,
  BPF_LSH,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MOD,
  BPF_MOV,
  BPF_MUL,
  BPF_NEG,
  BPF_OR,
  BPF_PROBE_MEM,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEMSX,
  BPF_REG_FP,
  BPF_RSH,
  BPF_ST,
  BPF_STX,
  BPF_SUB,
  BPF_W,
  BPF_X,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import { type InterpreterMemory, interpret } from './fake-interpreter.js';
import {
  alu32k,
  alu64,
  alu64k,
  CONDITIONS,
  castUser,
  EXIT,
  ldImm64,
  mov32,
  raw,
  USER_VM_START,
} from './jit-testing.js';
import { compile } from './x86-testing.js';

// Random programs, run by the engine as the JIT compiles them, and by an interpreter.

const SEED = { seed: 20260526, numRuns: 400 };

const machine = testMachine(new NativeEngine(), 'x86-64');
afterAll(() => machine.cpu.close());

const STACK_PA = RAM_BASE + 0x30000;
const RETURN = 0xff8;
/** rbp of the program, which is R10. */
const FRAME = STACK + BigInt(RETURN - 8);
/** Bytes below the frame pointer that programs work on; R0 to R9 are stored below them at the end. */
const SCRATCH = 64;
const STACK_DEPTH = SCRATCH + 80;

const saveAll = Array.from({ length: 10 }, (_, reg) =>
  raw(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_FP, reg, -SCRATCH - 8 * (reg + 1)),
);

interface Outcome {
  readonly registers: bigint[];
  readonly scratch: string;
}

const frameBytes = (at: number, length: number): Uint8Array =>
  machine.ram.read(STACK_PA + RETURN - 8 + at, length);

/** What the native code leaves behind. The registers that a callee must preserve are looked at too. */
function runNative(insns: readonly bpf_insn[], bmi2: boolean): Outcome {
  const { cpu, ram } = machine;
  const fn = { stack_depth: STACK_DEPTH };
  const jited = compile([...insns, ...saveAll, EXIT], fn, { bmi2 }, { image: CODE });
  machine.load([...jited.code]);
  const kept = ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15'];
  for (const [i, register] of kept.entries()) cpu.write(register, BigInt(0x1111 * (i + 1)));
  ram.write(STACK_PA, new Uint8Array(RETURN));
  ram.writeU64(STACK_PA + RETURN, SENTINEL);
  cpu.write('rsp', STACK + BigInt(RETURN));
  const stop = cpu.start(CODE, 100_000);
  expect(stop).toEqual({ kind: 'exit' });
  expect(kept.map((register) => cpu.read(register))).toEqual(kept.map((_, i) => BigInt(0x1111 * (i + 1))));
  expect(cpu.read('rsp')).toBe(STACK + BigInt(RETURN + 8));
  const view = new DataView(Uint8Array.from(frameBytes(-STACK_DEPTH, 80)).buffer);
  const registers = saveAll.map((_, reg) => view.getBigUint64(8 * (9 - reg), true));
  return { registers, scratch: Buffer.from(frameBytes(-SCRATCH, SCRATCH)).toString('hex') };
}

function runInterpreted(insns: readonly bpf_insn[]): Outcome {
  const bytes = new Uint8Array(SCRATCH);
  const index = (address: bigint): number => Number(address - FRAME) + SCRATCH;
  const memory: InterpreterMemory = {
    load: (address, size) => {
      const at = index(address);
      return bytes.subarray(at, at + size).reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
    },
    store: (address, size, value) => {
      for (let i = 0; i < size; i++) bytes[index(address) + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    },
  };
  const registers = [...Array.from({ length: 10 }, () => 0n), FRAME];
  const arena = { kern_vm_start: 0n, user_vm_start: USER_VM_START };
  return {
    registers: interpret([...insns, EXIT], { registers, memory, arena }),
    scratch: Buffer.from(bytes).toString('hex'),
  };
}

const reg = fc.integer({ min: 0, max: 9 });
const imm = fc.oneof(
  fc.constantFrom(0, 1, -1, 2, 31, 32, 63, 127, 128, -128, -129, 0x7fffffff, -0x80000000),
  fc.integer(),
);
const value = fc.oneof(
  fc.constantFrom(0n, 1n, (1n << 64n) - 1n, 1n << 63n, 1n << 31n, 0xffffffffn, (1n << 63n) - 1n),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
const width = fc.constantFrom(BPF_ALU, BPF_ALU64);
const source = fc.constantFrom(0, BPF_X);

/** Instructions that belong together: nothing jumps between them. */
type Group = readonly bpf_insn[];
const single = (insn: bpf_insn): Group => [insn];

const simple = fc
  .tuple(
    width,
    source,
    fc.constantFrom(BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_MOV),
    reg,
    reg,
    imm,
  )
  .map(([w, x, op, d, s, k]) => single(raw(w | x | op, d, x === 0 ? 0 : s, 0, x === 0 ? k : 0)));
const negation = fc.tuple(width, reg).map(([w, d]) => single(raw(w | BPF_NEG, d)));
const shift = fc
  .tuple(
    width,
    source,
    fc.constantFrom(BPF_LSH, BPF_RSH, BPF_ARSH),
    reg,
    reg,
    fc.integer({ min: 0, max: 63 }),
  )
  .map(([w, x, op, d, s, k]) =>
    single(raw(w | x | op, d, x === 0 ? 0 : s, 0, x === 0 ? k & (w === BPF_ALU64 ? 63 : 31) : 0)),
  );
const moveSigned = fc
  .tuple(width, reg, reg, fc.constantFrom(8, 16, 32))
  .map(([w, d, s, from]) => single(raw(w | BPF_MOV | BPF_X, d, s, w === BPF_ALU && from === 32 ? 8 : from)));
const cast = fc.tuple(reg, reg).map(([d, s]) => single(castUser(d, s)));
const end = fc
  .tuple(fc.constantFrom(BPF_ALU, BPF_ALU | BPF_X, BPF_ALU64), reg, fc.constantFrom(16, 32, 64))
  .map(([w, d, bits]) => single(raw(w | BPF_END, d, 0, 0, bits)));
/** The divisor is small and positive: the verifier sees to it that it is neither 0 nor, signed, -1. */
const division = fc
  .tuple(width, fc.constantFrom(BPF_DIV, BPF_MOD), fc.constantFrom(0, 1), reg, reg)
  .map(([w, op, signed, d, s]) => [
    alu64k(BPF_AND, s, 0x7fff),
    alu64k(BPF_OR, s, 1),
    raw(w | BPF_X | op, d, s, signed),
  ]);
const divisionK = fc
  .tuple(width, fc.constantFrom(BPF_DIV, BPF_MOD), fc.constantFrom(0, 1), reg, imm)
  .map(([w, op, signed, d, k]) => single(raw(w | op, d, 0, signed, k === 0 || k === -1 ? 7 : k)));

const slotOf = fc.integer({ min: 1, max: SCRATCH / 8 }).map((n) => -8 * n);
const load = fc
  .tuple(fc.constantFrom(BPF_B, BPF_H, BPF_W, BPF_DW), fc.boolean(), reg, slotOf)
  .map(([size, sx, d, off]) =>
    single(raw(BPF_LDX | (sx && size !== BPF_DW ? BPF_MEMSX : BPF_MEM) | size, d, BPF_REG_FP, off)),
  );
const store = fc
  .tuple(fc.constantFrom(BPF_B, BPF_H, BPF_W, BPF_DW), fc.boolean(), reg, slotOf, imm)
  .map(([size, x, s, off, k]) =>
    single(raw((x ? BPF_STX : BPF_ST) | BPF_MEM | size, BPF_REG_FP, x ? s : 0, off, x ? 0 : k)),
  );
/** cmpxchg of 32 bits leaves the upper half of rax alone when it swaps; the verifier puts a move behind it. */
const atomics = fc
  .tuple(
    fc.constantFrom(BPF_W, BPF_DW),
    fc.constantFrom(
      ...[BPF_ADD, BPF_AND, BPF_OR, BPF_XOR].flatMap((op) => [op, op | BPF_FETCH]),
      BPF_XCHG,
      BPF_CMPXCHG,
    ),
    reg,
    slotOf,
    fc.boolean(),
  )
  .map(([size, op, s, off, copied]) => {
    const base = copied ? s : BPF_REG_FP;
    const insn = raw(BPF_STX | BPF_ATOMIC | size, base, copied ? (s + 1) % 10 : s, off, op);
    return [
      ...(copied ? [alu64(BPF_MOV, s, BPF_REG_FP)] : []),
      // R0 would be compared with: there it is not the address.
      ...(copied && op === BPF_CMPXCHG && s === 0 ? [] : [insn]),
      ...(op === BPF_CMPXCHG && size === BPF_W ? [mov32(0, 0)] : []),
      ...(copied ? [alu32k(BPF_MOV, s, off)] : []),
    ];
  });

/** Jumps over as many groups as `off` says, for a start. */
const jump = fc
  .tuple(
    fc.constantFrom(BPF_JMP, BPF_JMP32),
    fc.constantFrom(BPF_JA, ...CONDITIONS),
    source,
    reg,
    reg,
    imm,
    fc.integer({ min: 0, max: 60 }),
  )
  .map(([w, op, x, d, s, k, over]) =>
    single(
      op === BPF_JA ? raw(w | op, 0, 0, over) : raw(w | op | x, d, x === 0 ? 0 : s, over, x === 0 ? k : 0),
    ),
  );

const isJump = ({ code }: bpf_insn): boolean =>
  (BPF_CLASS(code) === BPF_JMP || BPF_CLASS(code) === BPF_JMP32) && code !== (BPF_JMP | BPF_EXIT);

/** The groups one behind the other, jumps with their distance in slots. */
function link(groups: readonly Group[]): bpf_insn[] {
  return groups.flatMap((group, i) =>
    group.map((insn) => {
      if (!isJump(insn)) return insn;
      const slots = groups.slice(i + 1, i + 1 + insn.off).reduce((sum, { length }) => sum + length, 0);
      return insn.code === (BPF_JMP32 | BPF_JA) ? { ...insn, off: 0, imm: slots } : { ...insn, off: slots };
    }),
  );
}

const body = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: simple },
      { weight: 1, arbitrary: negation },
      { weight: 3, arbitrary: shift },
      { weight: 2, arbitrary: moveSigned },
      { weight: 1, arbitrary: cast },
      { weight: 1, arbitrary: end },
      { weight: 2, arbitrary: division },
      { weight: 1, arbitrary: divisionK },
      { weight: 2, arbitrary: load },
      { weight: 2, arbitrary: store },
      { weight: 2, arbitrary: atomics },
      { weight: 4, arbitrary: jump },
    ),
    { minLength: 1, maxLength: 120 },
  )
  .map(link);
const start = fc.array(value, { minLength: 10, maxLength: 10 });

describe('native code does what the program says', () => {
  test.each([true, false])('with BMI2: %s', (bmi2) => {
    const property = fc.property(start, body, (values, insns) => {
      const whole = [...values.flatMap((v, r) => ldImm64(r, v)), ...insns];
      expect(runNative(whole, bmi2)).toEqual(runInterpreted(whole));
    });
    fc.assert(property, SEED);
  });
});

/** Runs a program with an argument in R1. */
function runWith(insns: readonly bpf_insn[], r1: bigint, kern_vm_start = 0n): { stop: CpuStop; r0: bigint } {
  const { cpu, ram } = machine;
  const arena = kern_vm_start === 0n ? null : { kern_vm_start, user_vm_start: USER_VM_START };
  machine.load([...compile(insns, { arena }, {}, { image: CODE }).code]);
  ram.writeU64(STACK_PA + RETURN, SENTINEL);
  cpu.write('rsp', STACK + BigInt(RETURN));
  cpu.write('rdi', r1);
  return { stop: cpu.start(CODE, 100), r0: cpu.read('rax') };
}

describe('guarded loads', () => {
  const DATA_PA = RAM_BASE + 0x20000;
  const LOAD = [raw(BPF_LDX | BPF_PROBE_MEM | BPF_DW, 0, 1, 8), EXIT];
  const done: CpuStop = { kind: 'exit' };

  test('read kernel memory', () => {
    machine.ram.writeU64(DATA_PA + 0x18, 0x1122334455667788n);
    expect(runWith(LOAD, DATA + 0x10n)).toEqual({ stop: done, r0: 0x1122334455667788n });
    const signed = [raw(BPF_LDX | BPF_PROBE_MEMSX | BPF_B, 0, 1, 8), EXIT];
    expect(runWith(signed, DATA + 0x10n)).toEqual({ stop: done, r0: 0xffffffffffffff88n });
  });

  // TASK_SIZE_MAX + PAGE_SIZE is the last address below, VSYSCALL_ADDR the first above.
  test.each([0n, 0x1000n, 0x7ffffffff000n, 0x800000000000n, 0xffffffffff600000n, 0xfffffffffffffff0n])(
    'do not touch %d',
    (address) => {
      expect(runWith(LOAD, BigInt.asUintN(64, address - 8n))).toEqual({ stop: done, r0: 0n });
    },
  );

  test.each([0xffff800000000000n, 0xffffffffff5ffff8n])('touch %d', (address) => {
    expect(runWith(LOAD, address - 8n).stop).toMatchObject({ kind: 'miss', va: address });
  });
});

describe('arena accesses', () => {
  test('lie at kern_vm_start plus the low half', () => {
    const at = RAM_BASE + 0x20000;
    machine.ram.writeU64(at + 0x20, 0x1111222233334444n);
    machine.ram.writeU64(at + 8, 0n);
    const insns = [
      mov32(1, 1),
      raw(BPF_LDX | BPF_PROBE_MEM32 | BPF_DW, 0, 1, 0x20),
      raw(BPF_STX | BPF_PROBE_MEM32 | BPF_W, 1, 0, 8),
      EXIT,
    ];
    const outcome = runWith(insns, 0x7f7d00000010n, DATA - 0x10n);
    expect(outcome).toEqual({ stop: { kind: 'exit' }, r0: 0x1111222233334444n });
    expect(machine.ram.readU64(at + 8)).toBe(0x33334444n);
  });
});
