import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import { SENTINEL } from './fake-cpu.js';
import { arm64 } from './index.js';
import { K, LDR_X0_X1, NOP, STACK, STR_X0_X1, TEXT, TestMachine, USER_DATA, USER_TEXT } from './testing.js';

const TOP = STACK + 16384n;
const FINAL = TOP - 0x140n + 0x128n;

/** 64-bit words of the frame at `va`, as they are in ram while the fault is handled. */
function frameDuringFault(machine: TestMachine, va: bigint): bigint[] {
  let words: bigint[] = [];
  machine.kernel.answers.arena = () => {
    words = Array.from({ length: 40 }, (_, i) => machine.ram.readU64(machine.mmu.peek(va + BigInt(i * 8))));
    return true;
  };
  machine.miss(K, ACCESS_READ);
  return words;
}

describe('struct pt_regs on the stack', () => {
  test.each([TOP - 0x400n, STACK + 0x2000n + 0x40n])(
    'from EL1 below sp = %s, crossing a page or not',
    (sp) => {
      const machine = new TestMachine();
      machine.code(LDR_X0_X1);
      for (let n = 0; n < 31; n++) machine.cpu.write(`x${n}`, BigInt(0x1000 + n));
      machine.cpu.write('sp', sp);
      const words = frameDuringFault(machine, sp - 0x140n);
      expect(words.slice(0, 31)).toEqual(Array.from({ length: 31 }, (_, n) => BigInt(0x1000 + n)));
      expect(words.slice(31, 34)).toEqual([sp, TEXT, 0x40_0005n]);
      // orig_x0; syscallno = NO_SYSCALL and pmr; sdei_ttbr1; stackframe { 0, 0, FRAME_META_TYPE_PT_REGS }; pad
      expect(words.slice(34, 40)).toEqual([0n, 0xffff_ffffn, 0n, 0n, 0n, 2n]);
    },
  );

  test('from EL0 at the top of the task stack, with a FINAL record', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.map(USER_TEXT, 0x0020_0000_0000_0fc3n);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA);
    machine.code(LDR_X0_X1, USER_TEXT);
    let type = 0n;
    machine.kernel.answers.vma = { vm_start: 0n, vm_end: 1n << 47n, vm_flags: 1, pkey: 0 };
    machine.kernel.answers.handleMmFault = () => {
      type = machine.ram.readU64(machine.mmu.peek(TOP - 0x140n + 0x138n));
      return 0;
    };
    machine.miss(USER_DATA, ACCESS_READ);
    expect(type).toBe(1n);
  });

  test('changes by a handler are visible in ram at once', () => {
    const machine = new TestMachine();
    machine.code(LDR_X0_X1);
    machine.addExtable({ type: 'BPF', clear: 'x7', arena: { register: 'x7', offset: 0 } });
    const sp = STACK + 0x2000n + 0x40n; // x7 on one page, pc on the next
    machine.cpu.write('sp', sp);
    machine.cpu.write('x7', 5n);
    machine.miss(K, ACCESS_READ);
    const at = (offset: bigint): bigint => machine.ram.readU64(machine.mmu.peek(sp - 0x140n + offset));
    expect([at(7n * 8n), at(0x100n)]).toEqual([0n, TEXT + 4n]);
  });

  test.each([
    ['ran over the end', STACK + 0x100n],
    ['points to nothing', 0xffff_9000_0000_0000n],
  ])('when sp %s, the kernel panics', (_, sp) => {
    const machine = new TestMachine();
    // No guard page: the vectors test sp, not the page.
    machine.map(STACK - 1n, 0x00e8_0000_0000_0703n);
    machine.cpu.write('sp', sp);
    expect(machine.miss(K, ACCESS_READ)).toEqual({
      how: 'dead',
      outcome: { kind: 'panic', title: 'kernel stack overflow' },
    });
    expect(machine.kernel.console.slice(0, 4)).toEqual([
      'Insufficient stack space to handle exception!',
      'ESR: 0x0000000096000005 -- DABT (current EL)',
      'FAR: 0xffff800123456008',
      'Task stack:     [0xffff800081008000..0xffff80008100c000]',
    ]);
  });
});

describe('registers after an exception', () => {
  test('FAR_EL1 and ESR_EL1 can be read', () => {
    const machine = new TestMachine();
    machine.code(STR_X0_X1);
    machine.kernel.answers.arena = () => true;
    machine.entryPa(K, 3);
    machine.miss(K, ACCESS_WRITE);
    expect(machine.cpu.read('far_el1')).toBe(K);
    expect(machine.cpu.read('esr_el1')).toBe(0x9600_0047n);
  });

  test('DC ZVA: FAR is the address in the register, not the start of the block', () => {
    const machine = new TestMachine();
    machine.code(0xd50b_7423); // dc zva, x3
    machine.entryPa(K, 3);
    machine.cpu.write('x3', K + 0x21n);
    machine.kernel.answers.arena = () => true;
    machine.miss(K & ~0x3fn, ACCESS_WRITE);
    expect(machine.find('fault')).toMatchObject({ address: K + 0x21n, code: 0x9600_0047n });
  });

  test('here.regs is set for the handlers only, also when the task dies', () => {
    const machine = new TestMachine();
    let during: unknown = null;
    machine.kernel.answers.kfence = () => {
      during = machine.here.regs;
      return false;
    };
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'dead' });
    expect(during).toMatchObject({ pc: TEXT });
    expect(machine.here.regs).toBeNull();
  });
});

describe('stops that are no fault', () => {
  test('a refusal that the tables do not confirm is tried again without an exception', () => {
    const machine = new TestMachine();
    machine.map(K, 0x00e8_0000_0000_0703n);
    expect(machine.miss(K, ACCESS_READ)).toMatchObject({ how: 'retry', pc: TEXT });
    expect(machine.log.events).toEqual([]);
  });

  test.each([
    [{ kind: 'exception', number: 2 }, 'svc', TEXT - 4n],
    [{ kind: 'exception', number: 7 }, 'brk', TEXT],
    [{ kind: 'exception', number: 13 }, 'smc', TEXT - 4n],
    [{ kind: 'exception', number: 4 }, 'data abort of the engine', TEXT],
    [{ kind: 'exception', number: 0x103 }, 'a physical address outside the ram', TEXT],
    [{ kind: 'exception', number: 99 }, 'exception 99 of the engine', TEXT],
    [{ kind: 'halt' }, 'wfi', TEXT - 4n],
  ] as const)('%j ends the run', (stop, why, pc) => {
    expect(new TestMachine().stop(stop)).toEqual({ how: 'end', outcome: { kind: 'stopped', why, pc } });
  });

  test.each([
    [
      'from EL0, mrs of an identification register',
      USER_TEXT,
      0xd538_0000,
      'mrs of an identification register',
    ],
    ['from EL1, msr ssbs, #1', TEXT, 0xd503_413f, 'msr ssbs'],
  ])('what the kernel emulates ends the run: %s', (_, pc, word, why) => {
    const machine = new TestMachine();
    if (pc === USER_TEXT) {
      machine.becomeUserTask();
      machine.map(USER_TEXT, 0x0020_0000_0000_0fc3n);
      arm64.prepareUser(machine.here, USER_TEXT, USER_DATA);
    }
    machine.code(word, pc);
    const outcome = { kind: 'stopped', why, pc };
    expect(machine.stop({ kind: 'invalid-instruction' })).toEqual({ how: 'end', outcome });
  });

  test('kernel code whose sp is not aligned gets as far as hardware would not, and that is said', () => {
    const machine = new TestMachine();
    machine.cpu.write('sp', TOP - 0x404n);
    expect(machine.miss(K, ACCESS_READ)).toEqual({
      how: 'end',
      outcome: { kind: 'stopped', why: expect.stringMatching(/^sp is not a multiple of 16/), pc: TEXT },
    });
    expect(machine.kernel.console).toEqual([]);
  });

  test.each(['exit', 'count'] as const)('%s never comes here', (kind) => {
    expect(() => new TestMachine().stop({ kind })).toThrow(`a stop of kind ${kind} is no exception`);
  });

  test('an unaligned exclusive that the engine itself refuses is an alignment fault', () => {
    const machine = new TestMachine();
    machine.map(K, 0x00e8_0000_0000_0703n);
    machine.code(0xc85f_7c20); // ldxr x0, [x1]
    machine.cpu.write('x1', K + 4n);
    machine.stop({ kind: 'exception', number: 4 });
    expect(machine.esr()).toBe('96000021');
    expect(machine.find('fault')?.address).toBe(K + 4n);
  });
});

describe('an undefined instruction', () => {
  test('of the kernel is an oops of its own', () => {
    const machine = new TestMachine();
    const title = 'Internal error: Oops - Undefined instruction: 0000000002000000 [#1]  SMP';
    expect(machine.stop({ kind: 'invalid-instruction' })).toMatchObject({ outcome: { kind: 'oops', title } });
    expect(machine.path().slice(0, 3)).toEqual(['el1h_64_sync_handler', 'el1_undef', 'die']);
    expect(machine.find('fault')).toMatchObject({ pc: TEXT, code: 0x0200_0000n });
  });

  test('of user code is SIGILL at the instruction; the other exceptions of a word are not emulated ones', () => {
    const machine = new TestMachine();
    machine.becomeUserTask();
    machine.map(USER_TEXT, 0x0020_0000_0000_0fc3n);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA);
    // msr ssbs, #1 is emulated for the kernel only.
    machine.code(0xd503_413f, USER_TEXT);
    expect(machine.stop({ kind: 'invalid-instruction' })).toEqual({
      how: 'dead',
      outcome: { kind: 'signal', signo: 4, code: 1, address: USER_TEXT },
    });
    expect(machine.path().slice(0, 2)).toEqual(['el0t_64_sync_handler', 'el0_undef']);
  });
});

describe('prepareCall', () => {
  test('lr is the sentinel, and the chain of frames ends in the final record of the task', () => {
    const machine = new TestMachine();
    arm64.prepareCall(machine.here, TEXT, TOP);
    const { cpu } = machine;
    expect([cpu.read('pc'), cpu.read('x30'), cpu.read('x29')]).toEqual([TEXT, SENTINEL, FINAL]);
    expect(cpu.read('sp')).toBe(TOP - 0x140n);
    const record = [0n, 8n, 16n].map((i) => machine.ram.readU64(machine.mmu.peek(FINAL + i)));
    expect(record).toEqual([0n, 0n, 1n]);
  });

  test('a call with less stack leaves the record where it is', () => {
    const machine = new TestMachine();
    arm64.prepareCall(machine.here, TEXT, STACK + 0x1008n);
    expect(machine.cpu.read('sp')).toBe(STACK + 0x1000n);
    expect(machine.cpu.read('x29')).toBe(FINAL);
  });

  test('user mode and back', () => {
    const machine = new TestMachine();
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA);
    expect([machine.mmu.user, machine.cpu.privilege()]).toEqual([true, 'user']);
    arm64.prepareCall(machine.here, TEXT, TOP);
    expect([machine.mmu.user, machine.cpu.privilege()]).toEqual([false, 'kernel']);
    machine.code(NOP);
  });
});
