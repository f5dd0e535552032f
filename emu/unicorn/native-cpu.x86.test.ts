import { afterEach, describe, expect, test } from '@jest/globals';
import { ACCESS_READ, EngineError, EXCEPTION_BUS, EXCEPTION_SYSCALL, type TlbFiller } from '../cpu.js';
import { Ram } from '../ram.js';
import { NativeEngine } from './native-engine.js';
import { CODE, DATA, RAM_BASE, RWX, SENTINEL, STACK, type TestMachine, testMachine } from './test-machine.js';

const engine = new NativeEngine();
const machines: TestMachine[] = [];

function machine(): TestMachine {
  const made = testMachine(engine, 'x86-64');
  machines.push(made);
  return made;
}

afterEach(() => {
  for (const { cpu } of machines.splice(0)) cpu.close();
});

const RET = 0xc3;
const LOAD = [0x48, 0x8b, 0x07]; // mov rax, [rdi]
const INC_RBX = [0x48, 0xff, 0xc3]; // inc rbx
/** A page of DATA that is not mapped. */
const HOLE = DATA + 0x1000n;

/** Calls CODE so that its ret ends at the sentinel. */
function call({ cpu, ram }: TestMachine, count = 1000) {
  ram.writeU64(RAM_BASE + 0x30ff8, SENTINEL);
  cpu.write('rsp', STACK + 0xff8n);
  return cpu.start(CODE, count);
}

describe('exceptions', () => {
  test.each([
    { name: 'int3', code: [0xcc], number: 3, length: 1n, executed: 1 },
    { name: 'int 0x80', code: [0xcd, 0x80], number: 0x80, length: 2n, executed: 1 },
    { name: 'syscall', code: [0x0f, 0x05], number: EXCEPTION_SYSCALL, length: 2n, executed: 1 },
    { name: 'div by zero', code: [0xf7, 0xf1], number: 0, length: 0n, executed: 0 },
    { name: 'a bad selector', code: [0x8e, 0xd9], number: 13, length: 0n, executed: 0 }, // mov ds, ecx
  ])('$name stops with its number, again and again', ({ code, number, length, executed }) => {
    const m = machine();
    m.load([...code, ...INC_RBX]);
    m.cpu.write('rcx', number === 13 ? 0xfff8n : 0n);
    for (let time = 0; time < 3; time++) {
      expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'exception', number });
      expect(m.cpu.read('rip')).toBe(CODE + length);
      expect(m.cpu.read('rbx')).toBe(0n);
      expect(m.cpu.executed).toBe(executed);
    }
  });

  test('ud2 is an invalid instruction', () => {
    const m = machine();
    m.load([0x90, 0x0f, 0x0b]);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'invalid-instruction' });
    expect(m.cpu.read('rip')).toBe(CODE + 1n);
    expect(m.cpu.executed).toBe(1);
  });

  test('a translation to outside the ram is a bus error', () => {
    const m = machine();
    m.load([...LOAD, RET]);
    m.pages.map(HOLE, 2 ** 40);
    m.cpu.write('rdi', HOLE + 8n);
    expect(call(m)).toEqual({ kind: 'exception', number: EXCEPTION_BUS });
    expect(m.cpu.read('rip')).toBe(CODE);
  });

  test('what a filler throws comes out of start, and the CPU goes on', () => {
    const ram = new Ram(RAM_BASE, 1 << 20);
    const failure = new TypeError('broken walker');
    let broken = false;
    const filler: TlbFiller = {
      pa: RAM_BASE,
      fill: () => {
        if (broken) throw failure;
        return RWX;
      },
    };
    const cpu = engine.createCpu('x86-64', ram, { id: 0, filler, sentinel: SENTINEL });
    ram.write(RAM_BASE, Uint8Array.from([...LOAD, 0xf4]));
    cpu.write('rdi', DATA);
    broken = true;
    expect(() => cpu.start(CODE, 10)).toThrow(failure);
    broken = false;
    expect(cpu.start(CODE, 10)).toEqual({ kind: 'halt' });
    cpu.close();
  });
});

describe('flags', () => {
  /** CF, PF, AF, ZF, SF and OF of a + b (SDM volume 1, 3.4.3.1). */
  const addFlags = (a: bigint, b: bigint): bigint => {
    const sum = BigInt.asUintN(64, a + b);
    const even = [...(sum & 0xffn).toString(2)].filter((bit) => bit === '1').length % 2 === 0;
    const set = (condition: boolean, bit: bigint) => (condition ? bit : 0n);
    return (
      set(sum < a, 0x001n) |
      set(even, 0x004n) |
      set(((a ^ b ^ sum) & 0x10n) !== 0n, 0x010n) |
      set(sum === 0n, 0x040n) |
      set(sum >> 63n === 1n, 0x080n) |
      set((~(a ^ b) & (a ^ sum) & (1n << 63n)) !== 0n, 0x800n)
    );
  };
  const ARITHMETIC = 0x8d5n;
  const ADD = [0x48, 0x01, 0xc3]; // add rbx, rax
  const operands = [
    [2n, 1n],
    [0x25ccb1b93fb80000n, 0x7daaf00000n],
    [0xffffffffffffffffn, 1n],
    [0x7fffffffffffffffn, 0x7fffffffffffffffn],
    [0x8000000000000000n, 0x8000000000000001n],
    [0xfn, 0xf1n],
    [0n, 0n],
    [0x10n, 0xfffffffffffffff0n],
  ] as const;

  test.each(operands)('of %d + %d are there at a miss and after it', (a, b) => {
    const m = machine();
    m.load([...ADD, ...LOAD, 0x9c, 0x59, 0xf4]); // add; mov rax, [rdi]; pushf; pop rcx; hlt
    m.cpu.write('rbx', a);
    m.cpu.write('rax', b);
    m.cpu.write('rdi', HOLE);
    m.cpu.write('rsp', STACK + 0x1000n);
    expect(m.cpu.start(CODE, 100)).toMatchObject({ kind: 'miss', va: HOLE });
    expect(m.cpu.read('rflags') & ARITHMETIC).toBe(addFlags(a, b));
    m.pages.map(HOLE, RAM_BASE + 0x21000);
    expect(m.cpu.start(CODE + 3n, 100)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('rcx') & ARITHMETIC).toBe(addFlags(a, b));
  });

  test.each(operands)('of %d + %d stay when an instruction that reads them fills the TLB', (a, b) => {
    const m = machine();
    // add; pushf; pop rcx; jmp .+2; pushf; pop rdx; hlt
    m.load([...ADD, 0x9c, 0x59, 0xeb, 0x00, 0x9c, 0x5a, 0xf4]);
    m.cpu.write('rbx', a);
    m.cpu.write('rax', b);
    m.cpu.write('rsp', STACK + 0x1000n);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('rcx') & ARITHMETIC).toBe(addFlags(a, b));
    expect(m.cpu.read('rdx') & ARITHMETIC).toBe(addFlags(a, b));
  });

  test('that come out right by chance at a fill are settled all the same', () => {
    const m = machine();
    // add; pushf; pop rcx; stc; jmp .+2; pushf; pop rdx; hlt
    m.load([...ADD, 0x9c, 0x59, 0xf9, 0xeb, 0x00, 0x9c, 0x5a, 0xf4]);
    // The sum has no flags, and 0 for an operand gives none either.
    m.cpu.write('rbx', 0x1003n);
    m.cpu.write('rax', 0x1004n);
    m.cpu.write('rsp', STACK + 0x1000n);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('rcx') & ARITHMETIC).toBe(0n);
    expect(m.cpu.read('rdx') & ARITHMETIC).toBe(1n);
  });
});

describe('privilege', () => {
  test('is the effective one: CPL 3 may not read cr0, CPL 0 may', () => {
    const m = machine();
    m.load([0x0f, 0x20, 0xc0, 0xf4]); // mov rax, cr0; hlt
    m.cpu.setPrivilege('user');
    expect(m.cpu.privilege()).toBe('user');
    expect([m.cpu.read('cs'), m.cpu.read('ss')]).toEqual([0x33n, 0x2bn]);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'exception', number: 13 });
    m.cpu.setPrivilege('kernel');
    expect([m.cpu.read('cs'), m.cpu.read('ss')]).toEqual([0x10n, 0x18n]);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('rax')).toBe(0x80050033n);
  });

  test('changes nothing else', () => {
    const m = machine();
    m.load([0x66, 0x48, 0x0f, 0x6e, 0xc0, 0xf4]); // movq xmm0, rax
    m.cpu.write('rax', 0x1234n);
    m.cpu.start(CODE, 10);
    const names = m.cpu.registerNames.filter((name) => name !== 'cs' && name !== 'ss');
    names.forEach((name, index) => {
      if (/^r(?!ip|flags)/.test(name)) m.cpu.write(name, 0xfedcba9800000000n + BigInt(index));
    });
    m.cpu.write('gs_base', 0xffff888000001000n);
    m.cpu.write('kernel_gs_base', 0x7f0000001000n);
    m.cpu.write('rflags', 0x246n);
    const before = names.map((name) => [name, m.cpu.read(name)]);
    m.cpu.setPrivilege('user');
    expect(names.map((name) => [name, m.cpu.read(name)])).toEqual(before);
    m.load([0x66, 0x48, 0x0f, 0x7e, 0xc0]); // movq rax, xmm0
    m.cpu.start(CODE, 1);
    expect(m.cpu.read('rax')).toBe(0x1234n);
  });

  test('has its own translations', () => {
    const m = machine();
    m.load([...LOAD, 0xeb, 0xfb]);
    m.cpu.write('rdi', DATA);
    m.cpu.start(CODE, 1);
    m.cpu.setPrivilege('user');
    m.pages.takeAsked();
    m.cpu.start(CODE, 1);
    expect(m.pages.takeAsked()).toContain(`r ${DATA.toString(16)}`);
  });

  test('cannot be changed by writing selectors', () => {
    const m = machine();
    expect(() => m.cpu.write('cs', 0x33n)).toThrow(EngineError);
    m.cpu.write('cs', 0x10n);
  });
});

describe('system state', () => {
  /** Reads DATA with AC clear, set and clear again. */
  const ACCESSES = [...LOAD, 0x0f, 0x01, 0xcb, ...LOAD, 0x0f, 0x01, 0xca, ...LOAD, 0xf4]; // stac; clac

  test('under SMAP, AC has its own translations, and the filler sees it in rflags', () => {
    const ram = new Ram(RAM_BASE, 1 << 20);
    const seen: boolean[] = [];
    const filler: TlbFiller = {
      pa: RAM_BASE,
      fill: (_va, access) => {
        if (access === ACCESS_READ) seen.push((cpu.read('rflags') & 0x40000n) !== 0n);
        return RWX;
      },
    };
    const cpu = engine.createCpu('x86-64', ram, { id: 0, filler, sentinel: SENTINEL });
    ram.write(RAM_BASE, Uint8Array.from(ACCESSES));
    cpu.write('rdi', DATA);
    cpu.write('cr4', cpu.read('cr4') | (1n << 21n));
    expect(cpu.start(CODE, 100)).toEqual({ kind: 'halt' });
    expect(seen).toEqual([false, true]);
    cpu.close();
  });

  test('a write to cr3 drops all translations, as the instruction does', () => {
    const m = machine();
    m.load([...LOAD, 0xf4]);
    m.cpu.write('rdi', DATA);
    m.cpu.start(CODE, 10);
    m.pages.takeAsked();
    m.cpu.write('cr3', 0x1000n);
    m.cpu.start(CODE, 10);
    expect(m.pages.takeAsked()).toContain(`r ${DATA.toString(16)}`);
  });

  test('a CPU starts in long mode at CPL 0, with paging and write protection on', () => {
    const { cpu } = machine();
    const state = ['cr0', 'cr4', 'efer', 'rflags', 'cs', 'ss'].map((name) => cpu.read(name));
    expect(state).toEqual([0x80050033n, 0x620n, 0xd01n, 0x2n, 0x10n, 0x18n]);
    expect(cpu.privilege()).toBe('kernel');
  });

  test('a single step by TF is a trap behind the instruction', () => {
    const m = machine();
    m.load([...INC_RBX, ...INC_RBX]);
    m.cpu.write('rflags', 0x102n);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'exception', number: 1 });
    expect([m.cpu.read('rip'), m.cpu.read('rbx'), m.cpu.executed]).toEqual([CODE + 3n, 1n, 1]);
  });
});
