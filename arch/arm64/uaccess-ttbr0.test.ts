import { afterEach, describe, expect, test } from '@jest/globals';
import { ACCESS_READ, ACCESS_WRITE, type AccessCode, type Cpu } from '../../emu/cpu.js';
import { Ram } from '../../emu/ram.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { DEFAULT_CONFIG } from '../kernel-config.js';
import { LDTR_X1_X2, oopsed, PAGE_READONLY_EXEC, unable, vma } from './fake-tasks.js';
import { arm64 } from './index.js';
import {
  EngineMachine,
  K,
  LDR_X0_X1,
  RAM_BASE,
  RAM_SIZE,
  STACK,
  STR_X0_X1,
  TEXT,
  USER_DATA,
  USER_TEXT,
} from './testing.js';
import { SwPanMmu } from './uaccess-ttbr0.js';

const CONFIG = { ...DEFAULT_CONFIG, PAN: false, SW_TTBR0_PAN: true };
const PAN = 1n << 22n;
/** A user page that has been written. */
const PAGE_SHARED = 0x0068_0000_0000_0f43n;
const ASID = 1n << 48n;
const engine = new NativeEngine();

const opened: Cpu[] = [];
afterEach(() => {
  for (const cpu of opened.splice(0)) cpu.close();
});

function machine(): EngineMachine {
  const made = new EngineMachine(engine, CONFIG);
  opened.push(made.cpu);
  return made;
}

function userMachine(): EngineMachine {
  const made = machine();
  made.becomeUserTask();
  return made;
}

describe('software PAN', () => {
  test('the machine that is asked for one gets its walker', () => {
    expect(arm64.createMmu(new Ram(RAM_BASE, RAM_SIZE), CONFIG)).toBeInstanceOf(SwPanMmu);
    expect(arm64.createMmu(new Ram(RAM_BASE, RAM_SIZE), { ...CONFIG, PAN: true })).not.toBeInstanceOf(
      SwPanMmu,
    );
  });

  test('kernel code has no user tables; thread_info knows them, user mode has them', () => {
    const made = userMachine();
    const reserved = BigInt(made.kernel.reserved_pg_dir);
    const saved = ASID | BigInt(made.userMm.pgd);
    arm64.prepareCall(made.here, TEXT, STACK + 16384n);
    expect(made.cpu.read('ttbr0_el1')).toBe(reserved);
    expect(made.cpu.read('sp_el0')).toBe(STACK);
    expect(made.ram.readU64(made.mmu.peek(STACK + 8n))).toBe(saved);
    arm64.prepareUser(made.here, USER_TEXT, USER_DATA);
    expect(made.cpu.read('ttbr0_el1')).toBe(saved);
    arm64.prepareCall(made.here, TEXT, STACK + 16384n);
    expect(made.cpu.read('ttbr0_el1')).toBe(reserved);
  });

  test('the host sees user memory all the same', () => {
    const made = userMachine();
    arm64.prepareCall(made.here, TEXT, STACK + 16384n);
    const pa = made.map(USER_DATA, PAGE_SHARED);
    expect(made.mmu.peek(USER_DATA + 8n)).toBe(pa + 8);
    expect(made.cpu.read('ttbr0_el1')).toBe(BigInt(made.kernel.reserved_pg_dir));
  });

  test.each<readonly [string, number, AccessCode, string]>([
    ['load', LDR_X0_X1, ACCESS_READ, '96000004'],
    ['store', STR_X0_X1, ACCESS_WRITE, '96000044'],
  ])(
    'a plain %s of mapped user memory is refused: PAN is in the saved state only',
    (_, word, access, esr) => {
      const made = userMachine();
      made.map(USER_DATA, PAGE_SHARED);
      made.code(word);
      const title = unable('access to user memory outside uaccess routines', USER_DATA);
      expect(made.miss(USER_DATA, access)).toEqual(oopsed(title));
      expect(made.esr()).toBe(esr);
      expect(made.kernel.console.find((line) => line.startsWith('pstate:'))).toContain('+PAN');
      expect(made.cpu.read('pstate') & PAN).toBe(0n);
    },
  );

  test.each<readonly [string, number, AccessCode]>([
    ['read from unreadable memory', LDR_X0_X1, ACCESS_READ],
    ['write to read-only memory', STR_X0_X1, ACCESS_WRITE],
  ])('a kernel thread, NULL: %s', (what, word, access) => {
    const made = machine();
    made.code(word);
    expect(made.miss(0n, access)).toEqual(oopsed(unable(what, 0n)));
    expect(made.path()).toContain('do_page_fault');
  });

  test('kernel addresses are not concerned', () => {
    const made = machine();
    made.entryPa(K, 3);
    made.code(LDR_X0_X1);
    expect(made.miss(K, ACCESS_READ)).toEqual(oopsed(unable('paging request', K)));
  });
});

describe('uaccess routines switch TTBR0_EL1', () => {
  /** uaccess_ttbr0_enable(), `body`, uaccess_ttbr0_disable(), ret. */
  const uaccess = (...body: number[]): number[] => [
    0xd538_4103, // mrs x3, sp_el0
    0xf940_0463, // ldr x3, [x3, #8]
    0xd538_2005, // mrs x5, ttbr0_el1
    0xd518_2003, // msr ttbr0_el1, x3
    0xd503_3fdf, // isb
    ...body,
    0xd518_2005, // msr ttbr0_el1, x5
    0xd503_3fdf, // isb
  ];
  const RET = 0xd65f_03c0;

  test('between the two, user memory is there; behind them, it is not', () => {
    const made = userMachine();
    const pa = made.map(USER_DATA, PAGE_SHARED);
    made.ram.writeU64(pa, 0x1234n);
    made.load(TEXT, [...uaccess(LDTR_X1_X2), LDTR_X1_X2, RET]);
    arm64.prepareCall(made.here, TEXT, STACK + 16384n);
    made.cpu.write('x2', USER_DATA);
    const title = unable('access to user memory outside uaccess routines', USER_DATA);
    expect(made.run(TEXT)).toEqual({ kind: 'oops', title, signal: 11 });
    expect(made.cpu.read('x1')).toBe(0x1234n);
    expect(made.log.events.filter(({ type }) => type === 'fault')).toMatchObject([
      { pc: TEXT + 32n, address: USER_DATA },
    ]);
  });

  test('a page that comes with the first touch: the tables are back when the instruction is tried again', () => {
    const made = userMachine();
    made.load(TEXT, [...uaccess(LDTR_X1_X2), RET]);
    arm64.prepareCall(made.here, TEXT, STACK + 16384n);
    made.cpu.write('x2', USER_DATA);
    let during = -1n;
    made.kernel.answers.vma = vma(1);
    made.kernel.answers.handleMmFault = () => {
      during = made.cpu.read('ttbr0_el1');
      made.map(USER_DATA, PAGE_SHARED);
      return 0;
    };
    expect(made.run(TEXT)).toEqual({ kind: 'returned' });
    expect(made.log.events.filter(({ type }) => type === 'fault')).toHaveLength(1);
    // The handler itself runs without.
    expect(during).toBe(BigInt(made.kernel.reserved_pg_dir));
    expect(made.kernel.console).toEqual([]);
  });

  test('user code runs with its own tables, and again after a fault', () => {
    const made = userMachine();
    made.map(USER_TEXT, PAGE_READONLY_EXEC);
    made.map(USER_DATA - 4096n, PAGE_SHARED);
    made.load(USER_TEXT, [LDR_X0_X1, RET]);
    arm64.prepareUser(made.here, USER_TEXT, USER_DATA);
    made.cpu.write('x1', USER_DATA);
    made.kernel.answers.vma = vma(1);
    made.kernel.answers.handleMmFault = () => {
      made.ram.writeU64(made.map(USER_DATA, PAGE_SHARED), 7n);
      return 0;
    };
    expect(made.run(USER_TEXT)).toEqual({ kind: 'returned' });
    expect(made.cpu.read('x0')).toBe(7n);
  });
});
