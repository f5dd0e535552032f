import { describe, expect, test } from '@jest/globals';
import { Ram } from '../emu/ram.js';
import { type ExceptionTable, ExceptionTables, ExtableError } from './extable.js';

const BASE = 0x4000_0000;
const SIZE = 12;

/** Writes entries for instructions in the kernel's relative form and describes the table. */
function table(ram: Ram, part: Partial<ExceptionTable>, insns: readonly bigint[]): ExceptionTable {
  const whole: ExceptionTable = {
    kind: 'kernel',
    va: 0xffff_8000_8100_0000n,
    pa: BASE + 0x1000,
    count: insns.length,
    entrySize: SIZE,
    range: null,
    ...part,
  };
  const view = new DataView(ram.bytes.buffer);
  for (const [i, insn] of insns.entries()) {
    const field = whole.va + BigInt(i * SIZE);
    view.setInt32(whole.pa - BASE + i * SIZE, Number(insn - field), true);
  }
  return whole;
}

describe('search_exception_tables', () => {
  test('matches the instruction exactly, before and behind the table, and gives both addresses', () => {
    const ram = new Ram(BASE, 1 << 20);
    const tables = new ExceptionTables(ram);
    const insns = [0xffff_8000_8000_0010n, 0xffff_8000_8000_0400n, 0xffff_8000_8200_0000n];
    tables.register(table(ram, {}, insns));
    expect(insns.map((insn) => tables.search_exception_tables(insn))).toEqual([
      { va: 0xffff_8000_8100_0000n, pa: BASE + 0x1000 },
      { va: 0xffff_8000_8100_000cn, pa: BASE + 0x100c },
      { va: 0xffff_8000_8100_0018n, pa: BASE + 0x1018 },
    ]);
    expect(tables.search_exception_tables(0xffff_8000_8000_0014n)).toBeNull();
    expect(tables.search_exception_tables(0xffff_8000_8000_000fn)).toBeNull();
    expect(tables.search_exception_tables(0n)).toBeNull();
    expect(tables.search_exception_tables(0x8000_0000_0000_0000n)).toBeNull();
  });

  test('asks kernel, modules, programs; the last two only about their own text', () => {
    const ram = new Ram(BASE, 1 << 20);
    const tables = new ExceptionTables(ram);
    const insn = 0xffff_8000_8000_0010n;
    const range = { start: 0xffff_8000_8000_0000n, end: 0xffff_8000_8000_1000n };
    const elsewhere = { start: range.end, end: range.end + 0x1000n };
    const bpf = table(ram, { kind: 'bpf', pa: BASE + 0x2000, range }, [insn]);
    const stranger = table(ram, { kind: 'bpf', pa: BASE + 0x3000, range: elsewhere }, [insn]);
    const module = table(ram, { kind: 'module', pa: BASE + 0x4000, range }, [insn]);
    const kernel = table(ram, { pa: BASE + 0x5000 }, [insn]);
    for (const each of [stranger, bpf, module, kernel]) tables.register(each);
    const found: (number | undefined)[] = [];
    for (const each of [kernel, module, bpf, stranger]) {
      found.push(tables.search_exception_tables(insn)?.pa);
      tables.unregister(each);
    }
    expect(found).toEqual([BASE + 0x5000, BASE + 0x4000, BASE + 0x2000, undefined]);
  });

  test('reads the bytes at the time of the search', () => {
    const ram = new Ram(BASE, 1 << 20);
    const tables = new ExceptionTables(ram);
    tables.register(table(ram, {}, [0xffff_8000_8000_0010n]));
    table(ram, {}, [0xffff_8000_8000_0020n]);
    expect(tables.search_exception_tables(0xffff_8000_8000_0010n)).toBeNull();
    expect(tables.search_exception_tables(0xffff_8000_8000_0020n)).not.toBeNull();
  });
});

test('refuses a table that is not sorted', () => {
  const ram = new Ram(BASE, 1 << 20);
  const unsorted = table(ram, {}, [0xffff_8000_8000_0020n, 0xffff_8000_8000_0010n]);
  expect(() => new ExceptionTables(ram).register(unsorted)).toThrow(ExtableError);
});
