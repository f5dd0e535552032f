import { afterEach, describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, EngineError, PERM_READ, type TlbFiller } from '../cpu.js';
import { Ram } from '../ram.js';
import { registeredCallbacks } from './bindings.js';
import { NativeEngine } from './native-engine.js';
import { CODE, DATA, RAM_BASE, SENTINEL, STACK, type TestMachine, testMachine } from './test-machine.js';

const engine = new NativeEngine();
const machines: TestMachine[] = [];

function machine(shared?: TestMachine): TestMachine {
  const made = testMachine(engine, 'x86-64', shared);
  machines.push(made);
  return made;
}

afterEach(() => {
  for (const { cpu } of machines.splice(0)) cpu.close();
});

const RET = 0xc3;
const LOAD = [0x48, 0x8b, 0x07]; // mov rax, [rdi]
const STORE = [0x48, 0x89, 0x07]; // mov [rdi], rax
const INC_RBX = [0x48, 0xff, 0xc3]; // inc rbx
/** A page of DATA that is not mapped. */
const HOLE = DATA + 0x1000n;

/** Calls CODE so that its ret ends at the sentinel. */
function call({ cpu, ram }: TestMachine, count = 1000) {
  ram.writeU64(RAM_BASE + 0x30ff8, SENTINEL);
  cpu.write('rsp', STACK + 0xff8n);
  return cpu.start(CODE, count);
}

describe('a run', () => {
  test('ends at the sentinel with pc on it and the stack popped', () => {
    const m = machine();
    m.load([...INC_RBX, RET]);
    expect(call(m)).toEqual({ kind: 'exit' });
    expect(m.cpu.read('rip')).toBe(SENTINEL);
    expect(m.cpu.read('rsp')).toBe(STACK + 0x1000n);
    expect(m.cpu.read('rbx')).toBe(1n);
    expect(m.cpu.executed).toBe(2);
  });

  test('whose budget ends at the sentinel has exited; one that ends before has not', () => {
    const m = machine();
    m.load([...INC_RBX, RET]);
    expect(call(m, 2)).toEqual({ kind: 'exit' });
    expect(call(m, 1)).toEqual({ kind: 'count' });
    expect(m.cpu.read('rip')).toBe(CODE + 3n);
  });

  test('executes exactly the count, also in a loop that was translated before', () => {
    const m = machine();
    // 1: inc rbx; dec rcx; jnz 1b; ret
    m.load([...INC_RBX, 0x48, 0xff, 0xc9, 0x75, 0xf8, RET]);
    m.cpu.write('rcx', 100n);
    expect(call(m)).toEqual({ kind: 'exit' });
    expect(m.cpu.executed).toBe(301);
    m.cpu.write('rcx', 100n);
    m.cpu.write('rbx', 0n);
    expect(m.cpu.start(CODE, 31)).toEqual({ kind: 'count' });
    expect(m.cpu.read('rbx')).toBe(11n);
    expect(m.cpu.read('rip')).toBe(CODE + 3n);
    expect(m.cpu.start(m.cpu.read('rip'), 1)).toEqual({ kind: 'count' });
    expect(m.cpu.read('rcx')).toBe(89n);
  });

  test('stops behind hlt, even when hlt is the last instruction of the budget', () => {
    const m = machine();
    m.load([0x90, 0xf4, 0x90]);
    for (const count of [2, 3, 100]) {
      expect(m.cpu.start(CODE, count)).toEqual({ kind: 'halt' });
      expect(m.cpu.read('rip')).toBe(CODE + 2n);
      expect(m.cpu.executed).toBe(2);
    }
    expect(m.cpu.start(CODE, 1)).toEqual({ kind: 'count' });
  });

  test('finds nothing in the rest of the sentinel page', () => {
    const m = machine();
    m.load([0xff, 0xe7]); // jmp rdi
    for (const offset of [0x100n, 0xc00n, 0xc80n]) {
      const va = (SENTINEL & ~0xfffn) + offset;
      m.cpu.write('rdi', va);
      if (offset === 0xc00n) continue; // the engine's own instruction is there
      expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'miss', va, access: ACCESS_FETCH });
      expect(m.cpu.read('rip')).toBe(va);
    }
  });
});

describe('a miss', () => {
  test.each([
    { name: 'load', code: LOAD, access: ACCESS_READ },
    { name: 'store', code: STORE, access: ACCESS_WRITE },
  ])('of a $name leaves everything as it was, and the retry goes through', ({ code, access }) => {
    const m = machine();
    m.load([...INC_RBX, ...code, ...INC_RBX, RET]);
    m.cpu.write('rdi', HOLE + 0x123n);
    m.cpu.write('rax', 0x55n);
    expect(call(m)).toEqual({ kind: 'miss', va: HOLE + 0x123n, access });
    expect(m.cpu.read('rip')).toBe(CODE + 3n);
    expect(m.cpu.read('rbx')).toBe(1n);
    expect(m.cpu.read('rax')).toBe(0x55n);
    expect(m.cpu.executed).toBe(1);
    m.pages.map(HOLE, RAM_BASE + 0x21000);
    expect(m.cpu.start(m.cpu.read('rip'), 1000)).toEqual({ kind: 'exit' });
    expect(m.cpu.read('rbx')).toBe(2n);
  });

  test('of the second page of an access reports its first byte, and stores nothing', () => {
    const m = machine();
    m.load([...STORE, RET]);
    m.cpu.write('rdi', HOLE - 3n);
    m.cpu.write('rax', 0x1122334455667788n);
    expect(call(m)).toEqual({ kind: 'miss', va: HOLE, access: ACCESS_WRITE });
    expect(m.ram.read(RAM_BASE + 0x20ffd, 3)).toEqual(new Uint8Array(3));
  });

  test('at an address that is not canonical is exact', () => {
    const m = machine();
    m.load([...LOAD, RET]);
    for (const va of [0x8000000000000123n, 0x0000800000000008n, 0xffff7ffffffffff0n, 0x0020000000000000n]) {
      m.cpu.write('rdi', va);
      expect(call(m)).toEqual({ kind: 'miss', va, access: ACCESS_READ });
    }
  });

  test('of an access that wraps at the top of the address space is at 0', () => {
    const m = machine();
    m.load([...LOAD, RET]);
    m.pages.map(0xfffffffffffff000n, RAM_BASE + 0x22000);
    m.cpu.write('rdi', 0xfffffffffffffffcn);
    expect(call(m)).toEqual({ kind: 'miss', va: 0n, access: ACCESS_READ });
  });

  test('of a fetch is at the target, and a step that only jumps there is complete', () => {
    const m = machine();
    m.load([0xff, 0xe7]); // jmp rdi
    m.cpu.write('rdi', HOLE + 0x10n);
    expect(m.cpu.start(CODE, 1)).toEqual({ kind: 'count' });
    expect(m.cpu.read('rip')).toBe(HOLE + 0x10n);
    expect(m.cpu.start(HOLE + 0x10n, 1)).toEqual({ kind: 'miss', va: HOLE + 0x10n, access: ACCESS_FETCH });
    expect(m.cpu.executed).toBe(0);
    expect(m.cpu.start(CODE, 2)).toEqual({ kind: 'miss', va: HOLE + 0x10n, access: ACCESS_FETCH });
    expect(m.cpu.executed).toBe(1);
  });

  test('is told by the rights of a page that translates', () => {
    const m = machine();
    m.load([0x48, 0x01, 0x07, RET]); // add [rdi], rax
    m.pages.map(HOLE, RAM_BASE + 0x21000, PERM_READ);
    m.cpu.write('rdi', HOLE);
    expect(call(m)).toEqual({ kind: 'miss', va: HOLE, access: ACCESS_WRITE });
  });
});

describe('code that runs into a page that does not translate', () => {
  const END = CODE + 0x10000n; // the first page behind the code
  const setup = (tail: readonly number[], before: readonly number[] = [...INC_RBX, ...INC_RBX]) => {
    const m = machine();
    const start = END - BigInt(tail.length + before.length);
    m.load([...before, ...tail], start);
    return { m, start, straddler: END - BigInt(tail.length) };
  };
  // The first bytes of mov rax, 0x2211; the rest is in the missing page.
  const HEAD = [0x48, 0xc7, 0xc0, 0x11];

  test('stops at the instruction that needs it, after those before it', () => {
    const { m, start, straddler } = setup(HEAD);
    expect(m.cpu.start(start, 100)).toEqual({ kind: 'miss', va: END, access: ACCESS_FETCH });
    expect(m.cpu.read('rip')).toBe(straddler);
    expect(m.cpu.read('rbx')).toBe(2n);
    expect(m.cpu.executed).toBe(2);
    // Again from there, and then with the page present.
    expect(m.cpu.start(straddler, 1)).toEqual({ kind: 'miss', va: END, access: ACCESS_FETCH });
    m.ram.write(RAM_BASE + 0x25000, Uint8Array.from([0x22, 0, 0, 0xf4]));
    m.pages.map(END, RAM_BASE + 0x25000);
    expect(m.cpu.start(straddler, 100)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('rax')).toBe(0x2211n);
  });

  test('steps one instruction at a time before it', () => {
    const { m, start } = setup(HEAD);
    expect(m.cpu.start(start, 1)).toEqual({ kind: 'count' });
    expect(m.cpu.read('rip')).toBe(start + 3n);
    expect(m.cpu.start(start, 2)).toEqual({ kind: 'count' });
    expect(m.cpu.start(start, 3)).toEqual({ kind: 'miss', va: END, access: ACCESS_FETCH });
  });

  test('stops on the page itself when no instruction lies across', () => {
    const { m, start } = setup([]);
    expect(m.cpu.start(start, 100)).toEqual({ kind: 'miss', va: END, access: ACCESS_FETCH });
    expect(m.cpu.read('rip')).toBe(END);
    expect(m.cpu.executed).toBe(2);
  });

  test('misses data first when an instruction before it does', () => {
    const { m, start, straddler } = setup(HEAD, [...INC_RBX, ...LOAD]);
    m.cpu.write('rdi', HOLE);
    expect(m.cpu.start(start, 100)).toEqual({ kind: 'miss', va: HOLE, access: ACCESS_READ });
    expect(m.cpu.read('rip')).toBe(straddler - 3n);
    expect(m.cpu.executed).toBe(1);
  });

  test('leaves no translation behind', () => {
    const { m, start } = setup(HEAD);
    m.cpu.start(start, 100);
    m.pages.takeAsked();
    m.cpu.write('rdi', END);
    m.load([0xff, 0xe7]);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'miss', va: END, access: ACCESS_FETCH });
  });
});

describe('translations', () => {
  /** Reads DATA and tells what the engine asked for it. */
  const touch = (m: TestMachine, va = DATA): readonly string[] => {
    m.pages.takeAsked();
    m.cpu.write('rdi', va);
    m.cpu.start(CODE, 1);
    return m.pages.takeAsked().filter((asked) => asked.startsWith('r'));
  };

  test('stay until they are flushed; a flushed page is asked for again, others are not', () => {
    const m = machine();
    m.load(LOAD);
    m.pages.map(HOLE, RAM_BASE + 0x21000);
    touch(m);
    touch(m, HOLE);
    m.pages.unmap(DATA);
    m.pages.unmap(HOLE);
    expect(touch(m)).toEqual([]);
    m.cpu.flushTlbPage(DATA + 0x123n);
    expect(touch(m, HOLE)).toEqual([]);
    m.cpu.write('rdi', DATA);
    expect(m.cpu.start(CODE, 1)).toEqual({ kind: 'miss', va: DATA, access: ACCESS_READ });
    m.cpu.flushTlb();
    m.cpu.write('rdi', HOLE);
    expect(m.cpu.start(CODE, 1)).toEqual({ kind: 'miss', va: HOLE, access: ACCESS_READ });
  });

  test.each(['kernel', 'user'] as const)('of both privileges go with one flush made in %s mode', (mode) => {
    const m = machine();
    m.load(LOAD);
    for (const privilege of ['kernel', 'user'] as const) {
      m.cpu.setPrivilege(privilege);
      touch(m);
    }
    m.cpu.setPrivilege(mode);
    m.cpu.write('rax', 7n);
    m.cpu.flushTlbPage(DATA);
    expect(m.cpu.read('rax')).toBe(7n);
    expect(m.cpu.privilege()).toBe(mode);
    for (const privilege of ['kernel', 'user'] as const) {
      m.cpu.setPrivilege(privilege);
      expect(touch(m)).toEqual([`r ${DATA.toString(16)}`]);
    }
  });

  test('belong to one CPU; the ram belongs to all', () => {
    const a = machine();
    const b = machine(a);
    a.load([...STORE, 0xf4]);
    b.load([...STORE, 0xf4]);
    a.load([...LOAD, 0xf4], CODE + 0x100n);
    b.cpu.flushCode();
    for (const { cpu } of [a, b]) cpu.write('rdi', DATA);
    a.cpu.write('rax', 0x1111n);
    a.cpu.start(CODE, 10);
    b.cpu.start(CODE + 0x100n, 10);
    expect(b.cpu.read('rax')).toBe(0x1111n);
    for (const { pages } of [a, b]) pages.unmap(DATA);
    a.cpu.flushTlbPage(DATA);
    expect(a.cpu.start(CODE, 10)).toEqual({ kind: 'miss', va: DATA, access: ACCESS_WRITE });
    expect(b.cpu.start(CODE + 0x100n, 10)).toEqual({ kind: 'halt' });
  });
});

describe('registers', () => {
  test('are read and written by name, all 64 bits', () => {
    const { cpu } = machine();
    const selectors = /^([cdefgs]s|ldtr|tr)$/;
    expect(cpu.registerNames).toEqual(expect.arrayContaining(['rax', 'rsp', 'r15', 'rip', 'cr3', 'gs_base']));
    for (const [index, name] of cpu.registerNames.entries()) {
      if (selectors.test(name) || /^(rflags|cr\d|efer|dr[67]|.dtr_limit)$/.test(name)) continue;
      const value = 0xfedc000000000000n + BigInt(index);
      cpu.write(name, value);
      expect([name, cpu.read(name)]).toEqual([name, value]);
    }
    cpu.write('gdtr_limit', 0x7fn);
    expect(cpu.read('gdtr_limit')).toBe(0x7fn);
    cpu.write('ldtr', 0x50n);
    cpu.write('tr', 0x40n);
    expect([cpu.read('ldtr'), cpu.read('tr')]).toEqual([0x50n, 0x40n]);
    expect(cpu.read('gdtr_base')).toBe(0xfedc000000000000n + BigInt(cpu.registerNames.indexOf('gdtr_base')));
  });

  test('in a set are what they are one by one, selectors zero-extended', () => {
    const { cpu } = machine();
    const set = cpu.registerSet(cpu.registerNames);
    cpu.write('r11', 0xffffffffffffffffn);
    cpu.write('gdtr_base', 0xfffffe0000001000n);
    cpu.write('kernel_gs_base', 0xffff888000000000n);
    set.values.fill(0xffffffffffffffffn);
    set.load();
    expect([...set.values]).toEqual(cpu.registerNames.map((name) => cpu.read(name)));
    expect(set.values[cpu.registerNames.indexOf('cs')]).toBe(0x10n);
  });

  test('in a set are written back', () => {
    const { cpu } = machine();
    const names = ['rax', 'r15', 'rip', 'cs', 'cr2', 'kernel_gs_base', 'gdtr_base', 'gdtr_limit'];
    const set = cpu.registerSet(names);
    set.values.set([1n, 0xffffffffffffffffn, CODE, 0x10n, DATA, STACK, 0xfffffe0000001000n, 0x7fn]);
    set.store();
    expect(names.map((name) => cpu.read(name))).toEqual([...set.values]);
    set.values[3] = 0x33n;
    expect(() => set.store()).toThrow(EngineError);
  });

  test('that do not exist are named in the error', () => {
    const { cpu } = machine();
    expect(() => cpu.read('x0')).toThrow(/no register "x0"/);
    expect(() => cpu.write('toString', 0n)).toThrow(EngineError);
    expect(() => cpu.registerSet(['rax', 'xyz'])).toThrow(/no register "xyz"/);
  });
});

describe('a life', () => {
  test('ends with close, which may come twice; nothing else works afterwards', () => {
    const { cpu } = machine();
    const set = cpu.registerSet(['rax']);
    cpu.close();
    cpu.close();
    for (const use of [
      () => cpu.start(CODE, 1),
      () => cpu.read('rax'),
      () => cpu.write('rax', 0n),
      () => set.load(),
      () => cpu.flushTlb(),
      () => cpu.flushTlbPage(DATA),
      () => cpu.flushCode(),
      () => cpu.privilege(),
      () => cpu.setPrivilege('user'),
    ]) {
      expect(use).toThrow(EngineError);
    }
  });

  test('takes nothing from the next one: many machines, one after the other and at once', () => {
    const ram = new Ram(RAM_BASE, 1 << 20);
    const filler: TlbFiller = { pa: RAM_BASE, fill: () => 0 };
    const make = (id: number) => engine.createCpu('x86-64', ram, { id, filler, sentinel: SENTINEL });
    const before = registeredCallbacks();
    for (let id = 0; id < 100; id++) make(id).close();
    expect(registeredCallbacks()).toBe(before);
    const many = Array.from({ length: 50 }, (_, id) => make(id));
    expect(registeredCallbacks()).toBeGreaterThan(before);
    for (const cpu of many) {
      expect(cpu.start(CODE, 1)).toEqual({ kind: 'miss', va: CODE, access: ACCESS_FETCH });
      cpu.close();
    }
    expect(registeredCallbacks()).toBe(before);
  });

  test('does not begin with a ram that cannot be mapped, nor with a count of nothing', () => {
    const filler: TlbFiller = { pa: 0, fill: () => 0 };
    const options = { id: 0, filler, sentinel: SENTINEL };
    expect(() => engine.createCpu('x86-64', new Ram(0x100800, 1 << 20), options)).toThrow(EngineError);
    const { cpu } = machine();
    for (const count of [0, -1, 1.5, Number.NaN]) expect(() => cpu.start(CODE, count)).toThrow(EngineError);
  });
});
