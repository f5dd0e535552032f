import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import type { ExtableSpec } from '../arch.js';
import { ExtableSpecError, packExtable } from './extable.js';
import { K, LDR_X0_X1, STR_X0_X1, TEXT, TestMachine } from './testing.js';

const AT = 0xffff_8000_8100_0000n;
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;

function spec(more: Partial<ExtableSpec>): ExtableSpec {
  return {
    insn: AT - 0x100n,
    fixup: AT - 0x80n,
    type: 'BPF',
    length: 4,
    clear: null,
    arena: null,
    data: {},
    ...more,
  };
}

/** The three words of an entry as unsigned numbers. */
function words(entry: ExtableSpec): number[] {
  return [...new Uint32Array(packExtable(entry, AT).slice().buffer)];
}

describe('packExtable', () => {
  test('addresses are relative to their own fields', () => {
    const [insn, fixup] = words(spec({ type: 'UACCESS_ERR_ZERO' }));
    expect(insn).toBe(2 ** 32 - 0x100);
    expect(fixup).toBe(2 ** 32 - 0x84);
  });

  test.each<readonly [string, Partial<ExtableSpec>, number]>([
    // As the JIT's macros pack them: FIXUP_REG 31:27, ARENA_ACCESS 21, ARENA_REG 20:16, OFFSET 15:0.
    ['PROBE_MEM load into R2 = x1', { clear: 'x1' }, 0x0800_0000],
    [
      'arena load into x7, address in x0, offset 8',
      { clear: 'x7', arena: { register: 'x0', offset: 8 } },
      0x3820_0008,
    ],
    ['arena store, address in x19, offset -8', { arena: { register: 'x19', offset: -8 } }, 0x2833_fff8],
    [
      'arena atomic that fetches into x1, with the bit of a write',
      { clear: 'x1', arena: { register: 'x0', offset: 8 }, data: { write: 'true' } },
      0x0860_0008,
    ],
  ])('BPF: %s', (_, more, fixup) => {
    // The JIT leaves the filler's upper half in `data`.
    expect(words(spec(more)).slice(1)).toEqual([fixup, 0xd420_0001]);
  });

  test.each<readonly [string, Readonly<Record<string, string>>, number]>([
    ['UACCESS_ERR_ZERO', { err: 'x3', zero: 'x1' }, 0x0023_0002],
    ['UACCESS_ERR_ZERO', {}, 0x03ff_0002],
    ['KACCESS_ERR_ZERO', { err: 'x0' }, 0x03e0_0003],
    ['UACCESS_CPY', { write: 'true' }, 0x0001_0004],
    ['UACCESS_CPY', {}, 0x0000_0004],
    ['LOAD_UNALIGNED_ZEROPAD', { data: 'x2', addr: 'x30' }, 0x03c2_0005],
  ])('%s %j', (type, data, typeAndData) => {
    expect(words(spec({ type, data }))[2]).toBe(typeAndData);
  });

  test.each<readonly [string, Partial<ExtableSpec>, RegExp]>([
    ['a type of another architecture', { type: 'DEFAULT' }, /not a type .* on arm64: BPF, UACCESS/],
    ['a register that does not exist', { clear: 'x31' }, /x31 is not a register/],
    ['x5, which means "clear nothing"', { clear: 'x5' }, /x5 cannot be cleared/],
    ['an offset of 17 bits', { arena: { register: 'x0', offset: 32768 } }, /16 bits/],
    [
      'a missing register',
      { type: 'LOAD_UNALIGNED_ZEROPAD', data: { data: 'x0' } },
      /needs the register `addr`/,
    ],
    [
      'a direction that is none',
      { type: 'UACCESS_CPY', data: { write: 'yes' } },
      /`true` or `false`, not `yes`/,
    ],
    ['xzr, which cannot be cleared', { clear: 'xzr' }, /xzr cannot be cleared/],
    ['unknown data', { type: 'UACCESS_ERR_ZERO', data: { reg: 'x0' } }, /no data `reg`/],
    ['an instruction too far away', { insn: AT + 0x8000_0000n }, /more than 2 GiB/],
  ])('refuses %s', (_, more, message) => {
    expect(() => packExtable(spec(more), AT)).toThrow(ExtableSpecError);
    expect(() => packExtable(spec(more), AT)).toThrow(message);
  });
});

describe('handlers', () => {
  test('a program store is reported as a write and clears nothing', () => {
    const machine = new TestMachine();
    machine.code(STR_X0_X1);
    machine.addExtable({ type: 'BPF', arena: { register: 'x1', offset: 0x10 } });
    machine.cpu.write('x1', 0xffff_fff8n);
    expect(machine.miss(K, ACCESS_WRITE)).toMatchObject({ how: 'fixup', pc: TEXT + 4n });
    // A sum that goes beyond 4 GiB is not cut.
    expect(machine.kernel.reports).toEqual([{ write: true, addr: 0x1_0000_0008n, ip: TEXT }]);
  });

  test('the address is reported before the destination is cleared', () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    machine.addExtable({ type: 'BPF', clear: 'x1', arena: { register: 'x1', offset: 0 } });
    machine.cpu.write('x1', 0x3000n);
    machine.miss(K, ACCESS_READ);
    expect(machine.kernel.reports).toMatchObject([{ addr: 0x3000n }]);
    expect(machine.cpu.read('x1')).toBe(0n);
  });

  test('an atomic that fetches is a write and clears', () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    const arena = { register: 'x1', offset: 0 };
    machine.addExtable({ type: 'BPF', clear: 'x2', arena, data: { write: 'true' } });
    machine.cpu.write('x1', 0x3000n);
    machine.cpu.write('x2', 7n);
    machine.miss(K, ACCESS_READ);
    expect(machine.kernel.reports).toMatchObject([{ write: true, addr: 0x3000n }]);
    expect(machine.cpu.read('x2')).toBe(0n);
  });

  test('a program entry outside of an arena only clears', () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    machine.addExtable({ type: 'BPF', clear: 'x20' });
    machine.cpu.write('x20', 1n);
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'fixup', pc: TEXT + 4n });
    expect(machine.cpu.read('x20')).toBe(0n);
    expect(machine.kernel.reports).toEqual([]);
  });

  test('only registers that a handler changed are written back', () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    machine.addExtable({ type: 'KACCESS_ERR_ZERO', data: { err: 'x9' } });
    const { written } = machine.cpu as unknown as { written: string[] };
    written.length = 0;
    machine.miss(K, ACCESS_READ);
    expect(written).toEqual(['x9']);
  });

  test.each([
    [true, ACCESS_WRITE, 'fixup'],
    [false, ACCESS_READ, 'fixup'],
    [true, ACCESS_READ, 'dead'],
    [false, ACCESS_WRITE, 'dead'],
  ] as const)('UACCESS_CPY with write = %s, access %s: %s', (write, access, how) => {
    const machine = new TestMachine();
    machine.code(access === ACCESS_WRITE ? STR_X0_X1 : LDR_X0_X1);
    machine.addExtable({ type: 'UACCESS_CPY', data: { write: String(write) } });
    expect(machine.miss(K, access)).toMatchObject({ how });
  });

  test('LOAD_UNALIGNED_ZEROPAD: what lies in the next page becomes zero', () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    machine.map(K, PAGE_KERNEL);
    const end = (K & ~0xfffn) + 0x1000n;
    machine.words(end - 8n, 0x8877_6655_4433_2211n);
    machine.cpu.write('x1', end - 3n);
    machine.addExtable({ type: 'LOAD_UNALIGNED_ZEROPAD', data: { data: 'x0', addr: 'x1' } });
    expect(machine.miss(end, ACCESS_READ)).toMatchObject({ how: 'fixup', pc: TEXT + 0x40n });
    expect(machine.cpu.read('x0')).toBe(0x88_7766n);
  });

  test("LOAD_UNALIGNED_ZEROPAD whose own word is not there either is the caller's oops", () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    machine.cpu.write('x1', K);
    machine.addExtable({ type: 'LOAD_UNALIGNED_ZEROPAD', data: { data: 'x0', addr: 'x1' } });
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'dead', outcome: { kind: 'oops' } });
  });

  test('an entry of a type that does not exist is a BUG()', () => {
    const machine = new TestMachine();
    machine.addExtable({ type: 'UACCESS_ERR_ZERO' });
    machine.ram.words32[(machine.mmu.peek(TEXT + 0x1008n) - machine.ram.base) / 4] = 9;
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'dead', outcome: { kind: 'oops' } });
    expect(machine.kernel.console.slice(0, 3)).toEqual([
      '------------[ cut here ]------------',
      'kernel BUG at arch/arm64/mm/extable.c:105!',
      'Internal error: Oops - BUG: 00000000f2000800 [#1]  SMP',
    ]);
  });
});
