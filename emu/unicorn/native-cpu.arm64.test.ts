import { afterEach, describe, expect, test } from '@jest/globals';
import {
  ACCESS_FETCH,
  ACCESS_READ,
  ACCESS_WRITE,
  EngineError,
  EXCEPTION_PC_ALIGNMENT,
  PERM_EXEC,
  PERM_READ,
} from '../cpu.js';
import { NativeEngine } from './native-engine.js';
import {
  CODE,
  DATA,
  RAM_BASE,
  SENTINEL,
  STACK,
  type TestMachine,
  testMachine,
  words,
} from './test-machine.js';

const engine = new NativeEngine();
const machines: TestMachine[] = [];

function machine(code: readonly number[], shared?: TestMachine): TestMachine {
  const made = testMachine(engine, 'arm64', shared);
  machines.push(made);
  made.load(words(...code));
  return made;
}

afterEach(() => {
  for (const { cpu } of machines.splice(0)) cpu.close();
});

const NOP = 0xd503201f;
const RET = 0xd65f03c0;
const WFI = 0xd503207f;
const INC_X5 = 0x910004a5; // add x5, x5, #1
const LOAD = 0xf9400020; // ldr x0, [x1]
const STORE = 0xf9000020; // str x0, [x1]
/** A page of DATA that is not mapped. */
const HOLE = DATA + 0x1000n;
const PSTATE_PAN = 1n << 22n;

/** Calls CODE so that its ret ends at the sentinel. */
function call({ cpu }: TestMachine, count = 1000) {
  cpu.write('lr', SENTINEL);
  cpu.write('sp', STACK + 0x1000n);
  return cpu.start(CODE, count);
}

describe('a run', () => {
  test('ends at the sentinel with pc on it', () => {
    const m = machine([INC_X5, RET]);
    for (const count of [2, 1000]) {
      expect(call(m, count)).toEqual({ kind: 'exit' });
      expect(m.cpu.read('pc')).toBe(SENTINEL);
      expect(m.cpu.executed).toBe(2);
    }
    expect(m.cpu.read('x5')).toBe(2n);
    expect(call(m, 1)).toEqual({ kind: 'count' });
    expect(m.cpu.read('pc')).toBe(CODE + 4n);
  });

  test('executes exactly the count in a loop', () => {
    // 1: add x5, x5, #1; subs x2, x2, #1; b.ne 1b; ret
    const m = machine([INC_X5, 0xf1000442, 0x54ffffc1, RET]);
    m.cpu.write('x2', 100n);
    expect(call(m)).toEqual({ kind: 'exit' });
    expect(m.cpu.executed).toBe(301);
    m.cpu.write('x2', 100n);
    expect(call(m, 31)).toEqual({ kind: 'count' });
    expect(m.cpu.read('x5')).toBe(111n);
    expect(m.cpu.read('pc')).toBe(CODE + 4n);
  });

  test('stops behind wfi', () => {
    const m = machine([NOP, WFI, NOP]);
    for (const count of [2, 3, 100]) {
      expect(m.cpu.start(CODE, count)).toEqual({ kind: 'halt' });
      expect(m.cpu.read('pc')).toBe(CODE + 8n);
      expect(m.cpu.executed).toBe(2);
    }
  });
});

describe('a miss', () => {
  test.each([
    { name: 'load', code: LOAD, access: ACCESS_READ },
    { name: 'store', code: STORE, access: ACCESS_WRITE },
    { name: 'ldadd x0, x2, [x1]', code: 0xf8200022, access: ACCESS_READ },
    { name: 'ldtr x0, [x1]', code: 0xf8400820, access: ACCESS_READ },
    { name: 'ldr x0, [x1], #16', code: 0xf8410420, access: ACCESS_READ },
    { name: 'stp x0, x1, [x1, #-16]!', code: 0xa9bf0420, access: ACCESS_WRITE, at: -16n },
  ])('of $name leaves everything as it was, and the retry goes through', ({ code, access, at = 0n }) => {
    const m = machine([INC_X5, code, INC_X5, RET]);
    m.cpu.write('x1', HOLE + 0x120n);
    m.cpu.write('x0', 0x55n);
    expect(call(m)).toEqual({ kind: 'miss', va: HOLE + 0x120n + at, access });
    expect(['pc', 'x0', 'x1', 'x5'].map((name) => m.cpu.read(name))).toEqual([
      CODE + 4n,
      0x55n,
      HOLE + 0x120n,
      1n,
    ]);
    expect(m.cpu.executed).toBe(1);
    m.pages.map(HOLE, RAM_BASE + 0x21000);
    expect(m.cpu.start(CODE + 4n, 1000)).toEqual({ kind: 'exit' });
    expect(m.cpu.read('x5')).toBe(2n);
  });

  test('of dc zva is a write', () => {
    const m = machine([0xd50b7421, RET]); // dc zva, x1
    m.cpu.write('x1', HOLE + 0x123n);
    m.pages.map(HOLE, RAM_BASE + 0x21000, PERM_READ);
    expect(call(m)).toMatchObject({ kind: 'miss', access: ACCESS_WRITE });
    expect(m.cpu.read('pc')).toBe(CODE);
  });

  test('of the second page of an access reports its first byte', () => {
    const m = machine([STORE, RET]);
    m.cpu.write('x1', HOLE - 3n);
    m.cpu.write('x0', 0x1122334455667788n);
    expect(call(m)).toEqual({ kind: 'miss', va: HOLE, access: ACCESS_WRITE });
    expect(m.ram.read(RAM_BASE + 0x20ffd, 3)).toEqual(new Uint8Array(3));
  });

  test('at a tagged or out-of-range address is exact', () => {
    const m = machine([LOAD, RET]);
    for (const va of [0x12ffc90000010008n, 0x0012000000000008n, 0x8000000000000000n]) {
      m.cpu.write('x1', va);
      expect(call(m)).toEqual({ kind: 'miss', va, access: ACCESS_READ });
    }
  });

  test('of a fetch is at the target; of a target that is misaligned it is none', () => {
    const m = machine([0xd61f0020]); // br x1
    m.cpu.write('x1', HOLE + 0x10n);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'miss', va: HOLE + 0x10n, access: ACCESS_FETCH });
    expect(m.cpu.read('pc')).toBe(HOLE + 0x10n);
    expect(m.cpu.executed).toBe(1);
    for (const target of [HOLE + 0x12n, CODE + 0x102n]) {
      m.cpu.write('x1', target);
      expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'exception', number: EXCEPTION_PC_ALIGNMENT });
      expect(m.cpu.read('pc')).toBe(target);
    }
  });

  test('of code that goes on into a missing page comes after the last instruction before it', () => {
    const m = machine([]);
    m.load(words(INC_X5, INC_X5), CODE + 0xfff8n);
    const miss = { kind: 'miss', va: CODE + 0x10000n, access: ACCESS_FETCH };
    expect(m.cpu.start(CODE + 0xfff8n, 10)).toEqual(miss);
    expect(m.cpu.read('pc')).toBe(CODE + 0x10000n);
    expect(m.cpu.read('x5')).toBe(2n);
  });

  test('of a page that may not be executed is a fetch', () => {
    const m = machine([NOP]);
    m.pages.map(CODE, RAM_BASE, PERM_READ);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'miss', va: CODE, access: ACCESS_FETCH });
  });
});

describe('exceptions', () => {
  test.each([
    { name: 'svc', code: 0xd4000001, stop: { kind: 'exception', number: 2 }, length: 4n },
    { name: 'brk', code: 0xd4200000, stop: { kind: 'exception', number: 7 }, length: 0n },
    { name: 'udf', code: 0x00000000, stop: { kind: 'invalid-instruction' }, length: 0n },
    { name: 'mrs of no register', code: 0xd53bff06, stop: { kind: 'invalid-instruction' }, length: 0n },
  ])('$name stops, again and again', ({ code, stop, length }) => {
    const m = machine([NOP, code, INC_X5]);
    for (let time = 0; time < 3; time++) {
      expect(m.cpu.start(CODE, 100)).toEqual(stop);
      expect(m.cpu.read('pc')).toBe(CODE + 4n + length);
      expect(m.cpu.read('x5')).toBe(0n);
      expect(m.cpu.executed).toBe(length === 0n ? 1 : 2);
    }
  });

  test('FP and SIMD instructions are none', () => {
    const m = machine([0x1e6e1000, 0x3d800020, WFI]); // fmov d0, #1.0; str q0, [x1]
    m.cpu.write('x1', DATA);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'halt' });
    expect(m.ram.readU64(RAM_BASE + 0x20000)).toBe(0x3ff0000000000000n);
  });
});

describe('cache maintenance', () => {
  /** SYS with Rt = x3. */
  const sys = (op1: number, crm: number, op2: number) =>
    (0xd5080003 | (op1 << 16) | (7 << 12) | (crm << 8) | (op2 << 5)) >>> 0;

  test.each([
    { name: 'dc ivac', code: sys(0, 6, 1), write: true },
    { name: 'ic ivau', code: sys(3, 5, 1), write: false },
    { name: 'dc cvac', code: sys(3, 10, 1), write: false },
    { name: 'dc cvau', code: sys(3, 11, 1), write: false },
    { name: 'dc cvap', code: sys(3, 12, 1), write: false },
    { name: 'dc cvadp', code: sys(3, 13, 1), write: false },
    { name: 'dc civac', code: sys(3, 14, 1), write: false },
  ])('$name stops where its address does not translate, and goes through once it does', ({ code, write }) => {
    const m = machine([INC_X5, code, INC_X5, INC_X5, WFI]);
    const va = HOLE + 0x123n;
    m.cpu.write('x3', va);
    for (let time = 1n; time <= 2n; time++) {
      expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'cache-op', va, write });
      expect(m.cpu.read('pc')).toBe(CODE + 4n);
      expect(m.cpu.read('x5')).toBe(time);
      expect(m.cpu.executed).toBe(1);
    }
    m.pages.map(HOLE, RAM_BASE + 0x21000);
    expect(m.cpu.start(CODE + 4n, 100)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('x5')).toBe(4n);
  });

  test('of a page that may only be read stops dc ivac alone', () => {
    const m = machine([sys(3, 10, 1), sys(0, 6, 1), WFI]);
    m.pages.map(HOLE, RAM_BASE + 0x21000, PERM_READ | PERM_EXEC);
    m.cpu.write('x3', HOLE);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'cache-op', va: HOLE, write: true });
    expect(m.cpu.read('pc')).toBe(CODE + 4n);
  });

  test('by set and way, and of everything, asks for nothing', () => {
    const m = machine([sys(0, 6, 2), sys(0, 5, 0), sys(0, 1, 0), WFI]); // dc isw; ic iallu; ic ialluis
    m.cpu.write('x3', HOLE);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'halt' });
  });
});

describe('privilege', () => {
  test('is the effective one: EL0 may not read sctlr_el1, EL1 may', () => {
    const m = machine([0xd5381006, WFI]); // mrs x6, sctlr_el1
    m.cpu.setPrivilege('user');
    expect(m.cpu.privilege()).toBe('user');
    expect(m.cpu.read('current_el')).toBe(0n);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'invalid-instruction' });
    m.cpu.setPrivilege('kernel');
    expect(m.cpu.read('current_el')).toBe(4n);
    expect(m.cpu.start(CODE, 10)).toEqual({ kind: 'halt' });
    expect(m.cpu.read('x6')).toBe(m.cpu.read('sctlr_el1'));
  });

  test('keeps general registers, sp, pc and flags; the level left keeps its stack pointer', () => {
    const { cpu } = machine([NOP]);
    for (let n = 0; n < 31; n++) cpu.write(`x${n}`, 0xfedc000000000000n + BigInt(n));
    cpu.write('sp', STACK);
    cpu.write('pc', CODE);
    cpu.write('nzcv', 0xa0000000n);
    const names = [...Array.from({ length: 31 }, (_, n) => `x${n}`), 'sp', 'pc', 'nzcv'];
    const before = names.map((name) => cpu.read(name));
    cpu.setPrivilege('user');
    expect(names.map((name) => cpu.read(name))).toEqual(before);
    expect(cpu.read('sp_el1')).toBe(STACK);
    cpu.write('sp', 0x7ffff000n);
    expect(cpu.read('sp_el0')).toBe(0x7ffff000n);
    cpu.setPrivilege('kernel');
    expect([cpu.read('sp'), cpu.read('sp_el0')]).toEqual([0x7ffff000n, 0x7ffff000n]);
    cpu.write('sp', STACK);
    expect([cpu.read('sp_el1'), cpu.read('sp_el0')]).toEqual([STACK, 0x7ffff000n]);
  });

  test('and PAN each have their own translations', () => {
    const m = machine([LOAD]);
    m.cpu.write('x1', DATA);
    const asks = () => {
      m.pages.takeAsked();
      m.cpu.start(CODE, 1);
      return m.pages.takeAsked().filter((asked) => asked.startsWith('r')).length;
    };
    expect([asks(), asks()]).toEqual([1, 0]);
    m.cpu.write('pstate', m.cpu.read('pstate') | PSTATE_PAN);
    expect([asks(), asks()]).toEqual([1, 0]);
    m.cpu.setPrivilege('user');
    expect([asks(), asks()]).toEqual([1, 0]);
  });

  test('cannot be changed through pstate', () => {
    const { cpu } = machine([NOP]);
    expect(() => cpu.write('pstate', 0n)).toThrow(EngineError);
    expect(() => cpu.write('current_el', 0n)).toThrow(EngineError);
    cpu.write('pstate', 0x5n);
    expect(cpu.read('pstate')).toBe(0x5n);
  });
});

describe('translations', () => {
  test('of one page go with a flush at either level, and only that page', () => {
    const m = machine([LOAD]);
    m.pages.map(HOLE, RAM_BASE + 0x21000);
    const asks = (va: bigint) => {
      m.pages.takeAsked();
      m.cpu.write('x1', va);
      m.cpu.start(CODE, 1);
      return m.pages.takeAsked().filter((asked) => asked.startsWith('r')).length;
    };
    for (const privilege of ['kernel', 'user'] as const) {
      m.cpu.setPrivilege(privilege);
      expect([asks(DATA), asks(HOLE), asks(DATA), asks(HOLE)]).toEqual([1, 1, 0, 0]);
    }
    m.cpu.flushTlbPage(DATA + 8n);
    expect(m.cpu.privilege()).toBe('user');
    for (const privilege of ['kernel', 'user'] as const) {
      m.cpu.setPrivilege(privilege);
      expect([asks(HOLE), asks(DATA)]).toEqual([0, 1]);
    }
    m.cpu.flushTlb();
    expect([asks(HOLE), asks(DATA)]).toEqual([1, 1]);
  });

  test('under a tagged address go with the page', () => {
    const m = machine([LOAD]);
    const tagged = 0x3400c90000010000n;
    m.pages.map(tagged, RAM_BASE + 0x21000);
    m.cpu.write('x1', tagged);
    expect(m.cpu.start(CODE, 1)).toEqual({ kind: 'count' });
    m.pages.unmap(tagged);
    m.cpu.flushTlbPage(0x0000c90000010000n);
    expect(m.cpu.start(CODE, 1)).toEqual({ kind: 'miss', va: tagged, access: ACCESS_READ });
  });

  test('belong to one CPU; the ram belongs to all', () => {
    const a = machine([STORE, WFI]);
    const b = machine([LOAD, WFI], a);
    a.load(words(LOAD, WFI), CODE + 0x100n);
    for (const { cpu } of [a, b]) cpu.write('x1', DATA);
    b.cpu.start(CODE, 10);
    a.load(words(STORE, WFI));
    a.cpu.write('x0', 0x1111n);
    a.cpu.start(CODE, 10);
    b.cpu.start(CODE + 0x100n, 10);
    expect(b.cpu.read('x0')).toBe(0x1111n);
    for (const { pages } of [a, b]) pages.unmap(DATA);
    a.cpu.flushTlbPage(DATA);
    expect(a.cpu.start(CODE, 10)).toEqual({ kind: 'miss', va: DATA, access: ACCESS_WRITE });
    expect(b.cpu.start(CODE + 0x100n, 10)).toEqual({ kind: 'halt' });
  });
});

describe('registers', () => {
  test('are read and written by name, all 64 bits', () => {
    const { cpu } = machine([NOP]);
    expect(cpu.registerNames).toEqual(
      expect.arrayContaining([
        ...Array.from({ length: 31 }, (_, n) => `x${n}`),
        'sp',
        'ttbr0_el1',
        'far_el1',
      ]),
    );
    const narrow = new Set(['pstate', 'nzcv', 'current_el', 'vbar_el1', 'sp_el1', 'fp', 'lr']);
    for (const [index, name] of cpu.registerNames.entries()) {
      if (narrow.has(name)) continue;
      const value = 0xfedc000000000000n + BigInt(index);
      cpu.write(name, value);
      expect([name, cpu.read(name)]).toEqual([name, value]);
    }
    expect(cpu.read('fp')).toBe(cpu.read('x29'));
    expect(cpu.read('lr')).toBe(cpu.read('x30'));
  });

  test('in a set are what they are one by one, and are written back', () => {
    const { cpu } = machine([NOP]);
    const set = cpu.registerSet(cpu.registerNames);
    cpu.write('ttbr1_el1', 0xffffffff00001000n);
    cpu.write('sp_el0', DATA);
    cpu.write('sp', STACK);
    set.values.fill(0xffffffffffffffffn);
    set.load();
    expect([...set.values]).toEqual(cpu.registerNames.map((name) => cpu.read(name)));

    const names = ['x0', 'x30', 'sp', 'pstate', 'sp_el0', 'esr_el1'];
    const some = cpu.registerSet(names);
    some.values.set([1n, 0xffffffffffffffffn, STACK + 16n, 0x60000005n, DATA + 8n, 0x96000047n]);
    some.store();
    expect(names.map((name) => cpu.read(name))).toEqual([...some.values]);
  });
});

test('a sentinel at which no instruction can lie is refused', () => {
  const { ram, pages } = machine([NOP]);
  expect(() => engine.createCpu('arm64', ram, { id: 0, filler: pages, sentinel: SENTINEL + 2n })).toThrow(
    EngineError,
  );
});
