import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  BPF_ADD,
  BPF_ALU,
  BPF_ALU64,
  BPF_AND,
  BPF_ARSH,
  BPF_B,
  BPF_CMPXCHG,
  BPF_DW,
  BPF_FETCH,
  BPF_H,
  BPF_JEQ,
  BPF_JGE,
  BPF_JGT,
  BPF_JLE,
  BPF_JLT,
  BPF_JMP,
  BPF_JMP32,
  BPF_JNE,
  BPF_JSET,
  BPF_JSGE,
  BPF_JSGT,
  BPF_JSLE,
  BPF_JSLT,
  BPF_LOAD_ACQ,
  BPF_LSH,
  BPF_MEM,
  BPF_MEMSX,
  BPF_MOV,
  BPF_MUL,
  BPF_NEG,
  BPF_OR,
  BPF_PROBE_MEM32,
  BPF_PROBE_MEM32SX,
  BPF_RSH,
  BPF_STORE_REL,
  BPF_SUB,
  BPF_W,
  BPF_X,
  BPF_XCHG,
  BPF_XOR,
  type bpf_insn,
} from '../insn.js';
import { atomic, castUser, ldx, probeAtomic, raw, st, stx } from './jit-testing.js';
import { codeOf, read } from './x86-testing.js';

// What iced-x86 reads of each instruction, with every pair of registers and with random numbers.

const SEED = { seed: 20260525, numRuns: 6 };

const R64 = 'rax rdi rsi rdx rcx r8 rbx r13 r14 r15 rbp'.split(' ');
const R32 = 'eax edi esi edx ecx r8d ebx r13d r14d r15d ebp'.split(' ');
const R16 = 'ax di si dx cx r8w bx r13w r14w r15w bp'.split(' ');
const R8 = 'al dil sil dl cl r8b bl r13b r14b r15b bpl'.split(' ');

interface Operands {
  readonly d: number;
  readonly s: number;
  readonly off: number;
  readonly imm: number;
}

interface Template {
  readonly name: string;
  /** False: the frame pointer cannot be the source, no exception-table entry could name it. */
  readonly frame?: boolean;
  make(o: Operands): bpf_insn;
  expect(o: Operands): string[];
}

const name = (names: readonly string[], reg: number): string => names[reg] ?? '?';
const hex = (value: number): string => `${value < 0 ? '-' : ''}0x${Math.abs(value).toString(16)}`;
const displacement = (off: number): string =>
  off === 0 ? '' : `${off < 0 ? '-' : '+'}${hex(Math.abs(off))}`;
const arenaBase = (reg: number): string => `${name(R64, reg)}+r12`;

interface Size {
  readonly size: number;
  readonly pointer: string;
  readonly names: readonly string[];
  readonly cut: (imm: number) => number;
}

const SIZES: readonly Size[] = [
  { size: BPF_B, pointer: 'byte ptr', names: R8, cut: (imm) => (imm << 24) >> 24 },
  { size: BPF_H, pointer: 'word ptr', names: R16, cut: (imm) => (imm << 16) >> 16 },
  { size: BPF_W, pointer: 'dword ptr', names: R32, cut: (imm) => imm },
  { size: BPF_DW, pointer: 'qword ptr', names: R64, cut: (imm) => imm },
];
const NARROW = SIZES.filter(({ size }) => size !== BPF_DW);
const RMW = SIZES.filter(({ size }) => size === BPF_W || size === BPF_DW);

const WIDTHS = [
  { alu: BPF_ALU64, jmp: BPF_JMP, names: R64, mark: '64', bits: 64 },
  { alu: BPF_ALU, jmp: BPF_JMP32, names: R32, mark: '32', bits: 32 },
];

const SIMPLE: readonly [number, string][] = [
  [BPF_ADD, 'add'],
  [BPF_SUB, 'sub'],
  [BPF_AND, 'and'],
  [BPF_OR, 'or'],
  [BPF_XOR, 'xor'],
];
const SHIFTS: readonly [number, string][] = [
  [BPF_LSH, 'shl'],
  [BPF_RSH, 'shr'],
  [BPF_ARSH, 'sar'],
];

const arithmetic: Template[] = WIDTHS.flatMap(({ alu, names, mark, bits }) => [
  ...SIMPLE.flatMap(([op, word]): Template[] => [
    {
      name: `${word}${mark} register`,
      make: ({ d, s }) => raw(alu | op | BPF_X, d, s),
      expect: ({ d, s }) => [`${word} ${name(names, d)},${name(names, s)}`],
    },
    {
      name: `${word}${mark} immediate`,
      make: ({ d, imm }) => raw(alu | op, d, 0, 0, imm),
      expect: ({ d, imm }) => [`${word} ${name(names, d)},${hex(imm)}`],
    },
  ]),
  ...SHIFTS.flatMap(([op, word]): Template[] => [
    {
      name: `${word}${mark} immediate`,
      make: ({ d, imm }) => raw(alu | op, d, 0, 0, (imm & (bits - 1)) | 1),
      expect: ({ d, imm }) => [`${word} ${name(names, d)},${hex((imm & (bits - 1)) | 1)}`],
    },
    {
      name: `${word}x${mark}`,
      make: ({ d, s }) => raw(alu | op | BPF_X, d, s),
      expect: ({ d, s }) =>
        s === 4
          ? [`${word} ${name(names, d)},cl`]
          : [`${word}x ${name(names, d)},${name(names, d)},${name(names, s)}`],
    },
  ]),
  {
    name: `mov${mark} register`,
    make: ({ d, s }) => raw(alu | BPF_MOV | BPF_X, d, s),
    expect: ({ d, s }) => (bits === 64 && d === s ? [] : [`mov ${name(names, d)},${name(names, s)}`]),
  },
  {
    name: `mov${mark} immediate`,
    make: ({ d, imm }) => raw(alu | BPF_MOV, d, 0, 0, imm),
    expect: ({ d, imm }) => {
      if (imm === 0) return [`xor ${name(R32, d)},${name(R32, d)}`];
      return [`mov ${name(bits === 64 && imm < 0 ? R64 : R32, d)},${hex(imm)}`];
    },
  },
  {
    name: `neg${mark}`,
    make: ({ d }) => raw(alu | BPF_NEG, d),
    expect: ({ d }) => [`neg ${name(names, d)}`],
  },
  {
    name: `imul${mark} register`,
    make: ({ d, s }) => raw(alu | BPF_MUL | BPF_X, d, s),
    expect: ({ d, s }) => [`imul ${name(names, d)},${name(names, s)}`],
  },
  {
    name: `imul${mark} immediate`,
    make: ({ d, imm }) => raw(alu | BPF_MUL, d, 0, 0, imm),
    // Its formatter leaves out the second of two equal registers.
    expect: ({ d, imm }) => [`imul ${name(names, d)},${hex(imm)}`],
  },
  ...[8, 16, ...(bits === 64 ? [32] : [])].map((from): Template => {
    const sources = from === 8 ? R8 : from === 16 ? R16 : R32;
    return {
      name: `movsx${mark} from ${from}`,
      make: ({ d, s }) => raw(alu | BPF_MOV | BPF_X, d, s, from),
      expect: ({ d, s }) => [`${from === 32 ? 'movsxd' : 'movsx'} ${name(names, d)},${name(sources, s)}`],
    };
  }),
]);

arithmetic.push({
  name: 'addr_space_cast to the user',
  make: ({ d, s }) => castUser(d, s),
  expect: ({ d, s }) => {
    const D = name(R64, d);
    const low = name(R32, d);
    const rest = [`shl ${D},0x20`, `or ${D},0x7f7d`, `rol ${D},0x20`, 'xor r11,r11', `test ${low},${low}`];
    return [...(d === s ? [] : [`mov ${low},${name(R32, s)}`]), ...rest, `cmove ${D},r11`];
  },
});

/** How plain and arena accesses differ. */
const SPACES = [
  { mark: '', mode: BPF_MEM, sx: BPF_MEMSX, at: (reg: number) => name(R64, reg), wide: R64, atomic },
  {
    mark: 'arena ',
    mode: BPF_PROBE_MEM32,
    sx: BPF_PROBE_MEM32SX,
    at: arenaBase,
    wide: R32,
    atomic: probeAtomic,
  },
];

const memory: Template[] = SPACES.flatMap((space) => {
  const operand = (pointer: string, reg: number, off: number): string =>
    `${pointer} [${space.at(reg)}${displacement(off)}]`;
  const load = ({ size, pointer }: Size, { d, s, off }: Operands): string => {
    if (size === BPF_DW) return `mov ${name(R64, d)},${operand(pointer, s, off)}`;
    if (size === BPF_W) return `mov ${name(R32, d)},${operand(pointer, s, off)}`;
    return `movzx ${name(space.wide, d)},${operand(pointer, s, off)}`;
  };
  const store = ({ pointer, names }: Size, { d, s, off }: Operands): string =>
    `mov ${operand(pointer, d, off)},${name(names, s)}`;
  return [
    ...SIZES.flatMap((one): Template[] => [
      {
        name: `${space.mark}load ${one.pointer}`,
        frame: space.mark === '',
        make: ({ d, s, off }) => ldx(space.mode, one.size, d, s, off),
        expect: (o) => [load(one, o)],
      },
      {
        name: `${space.mark}load-acquire ${one.pointer}`,
        make: ({ d, s, off }) => space.atomic(one.size, BPF_LOAD_ACQ, d, s, off),
        expect: (o) => [load(one, o)],
      },
      {
        name: `${space.mark}store ${one.pointer}`,
        make: ({ d, s, off }) => stx(space.mode, one.size, d, off, s),
        expect: (o) => [store(one, o)],
      },
      {
        name: `${space.mark}store-release ${one.pointer}`,
        make: ({ d, s, off }) => space.atomic(one.size, BPF_STORE_REL, d, s, off),
        expect: (o) => [store(one, o)],
      },
      {
        name: `${space.mark}store ${one.pointer} immediate`,
        make: ({ d, off, imm }) => st(space.mode, one.size, d, off, imm),
        expect: ({ d, off, imm }) => [`mov ${operand(one.pointer, d, off)},${hex(one.cut(imm))}`],
      },
    ]),
    ...NARROW.map(
      ({ size, pointer }): Template => ({
        name: `${space.mark}sign-extending load ${pointer}`,
        frame: space.mark === '',
        make: ({ d, s, off }) => ldx(space.sx, size, d, s, off),
        expect: ({ d, s, off }) => [
          `${size === BPF_W ? 'movsxd' : 'movsx'} ${name(R64, d)},${operand(pointer, s, off)}`,
        ],
      }),
    ),
    ...RMW.flatMap(({ size, pointer, names }) =>
      (
        [
          [BPF_ADD, 'lock add'],
          [BPF_AND, 'lock and'],
          [BPF_OR, 'lock or'],
          [BPF_XOR, 'lock xor'],
          [BPF_ADD | BPF_FETCH, 'lock xadd'],
          [BPF_XCHG, 'xchg'],
          [BPF_CMPXCHG, 'lock cmpxchg'],
        ] as const
      ).map(
        ([op, word]): Template => ({
          name: `${space.mark}${word} ${pointer}`,
          make: ({ d, s, off }) => space.atomic(size, op, d, s, off),
          expect: ({ d, s, off }) => [`${word} ${operand(pointer, d, off)},${name(names, s)}`],
        }),
      ),
    ),
  ];
});

const CONDITIONS: readonly [number, string][] = [
  [BPF_JEQ, 'je'],
  [BPF_JNE, 'jne'],
  [BPF_JSET, 'jne'],
  [BPF_JGT, 'ja'],
  [BPF_JGE, 'jae'],
  [BPF_JLT, 'jb'],
  [BPF_JLE, 'jbe'],
  [BPF_JSGT, 'jg'],
  [BPF_JSGE, 'jge'],
  [BPF_JSLT, 'jl'],
  [BPF_JSLE, 'jle'],
];

const jumps: Template[] = WIDTHS.flatMap(({ jmp, names, mark }) =>
  CONDITIONS.flatMap(([op, word]): Template[] => [
    {
      name: `${word}${mark} register (${op.toString(16)})`,
      make: ({ d, s }) => raw(jmp | op | BPF_X, d, s),
      expect: ({ d, s }) => [
        `${op === BPF_JSET ? 'test' : 'cmp'} ${name(names, d)},${name(names, s)}`,
        `${word} next`,
      ],
    },
    {
      name: `${word}${mark} immediate (${op.toString(16)})`,
      make: ({ d, imm }) => raw(jmp | op, d, 0, 0, imm),
      expect: ({ d, imm }) => {
        const D = name(names, d);
        if (op === BPF_JSET) return [`test ${D},${hex(imm)}`, `${word} next`];
        return [imm === 0 ? `test ${D},${D}` : `cmp ${D},${hex(imm)}`, `${word} next`];
      },
    },
  ]),
);

/** Every register as destination, every one and the frame pointer as source. */
const PAIRS = Array.from({ length: 10 }, (_, d) => d).flatMap((d) =>
  Array.from({ length: 11 }, (_, s): [number, number] => [d, s]),
);

const anyOff = fc.oneof(
  fc.constantFrom(0, 1, -1, 127, 128, -128, -129, 0x7fff, -0x8000),
  fc.integer({ min: -0x8000, max: 0x7fff }),
);
const anyImm = fc.oneof(
  fc.constantFrom(0, 1, -1, 127, 128, -128, -129, 0x7fffffff, -0x80000000),
  fc.integer(),
);

/** xchg has its operands in any order; a jump goes to the instruction behind it. */
function normalize(text: string, next: number): string {
  const swapped = text.replace(/^xchg (\w+),(.*\])$/, 'xchg $2,$1');
  return swapped.replace(/^(j\w+) 0x([0-9a-f]+)$/, (_, word: string, target: string) =>
    Number.parseInt(target, 16) === next ? `${word} next` : text,
  );
}

describe('iced-x86 reads', () => {
  test.each(
    [...arithmetic, ...memory, ...jumps].map((template): [string, Template] => [template.name, template]),
  )('%s', (_, { make, expect: wanted, frame = true }) => {
    const property = fc.property(anyOff, anyImm, (off, imm) => {
      const pairs = PAIRS.filter(([, s]) => frame || s !== 10);
      const operands = pairs.map(([d, s]) => ({ d, s, off, imm }));
      let next = 0;
      const found = read(codeOf(operands.map(make))).map(({ text, length }) => {
        next += length;
        return normalize(text, next);
      });
      expect(found).toEqual(operands.flatMap(wanted));
    });
    fc.assert(property, SEED);
  });
});
