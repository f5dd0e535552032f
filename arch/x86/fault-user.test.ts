import { describe, expect, test } from '@jest/globals';
import { Endless } from '../../emu/endless.js';
import {
  BUS_ADRERR,
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_USER,
  FAULT_FLAG_VMA_LOCK,
  FAULT_FLAG_WRITE,
  SEGV_ACCERR,
  SEGV_MAPERR,
  SEGV_PKUERR,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
  type task_struct,
  VM_EXEC,
  VM_FAULT_COMPLETED,
  VM_FAULT_FALLBACK,
  VM_FAULT_HWPOISON_LARGE,
  VM_FAULT_MAJOR,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
  VM_READ,
  VM_WRITE,
} from '../kernel.js';
import { CODE, outcome, USER, vma } from './fake-faults.js';
import { machineOf } from './machine.js';
import { X86_TRAP_PF } from './processor.js';
import { type TestMachine, testMachine } from './testing.js';

const FIXUP = CODE + 0x80n;
/** IF and AC: between stac and clac. */
const OPEN = 0x40202n;
const RW = VM_READ | VM_WRITE;

/** User code that is about to touch memory. */
function inUser(config: Parameters<typeof testMachine>[0] = {}): TestMachine {
  const machine = testMachine(config);
  machine.cpu.setPrivilege('user');
  machine.set({ rip: 0x400000n, rsp: 0x7ffe0000n });
  return machine;
}

/** Kernel code between stac and clac, with an entry in the exception table. */
function inUaccess(signal: task_struct['signal_pending'] = 'none'): TestMachine {
  const machine = testMachine();
  machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3], 0x10);
  machine.fixup({ insn: CODE, type: 'UACCESS', fixup: FIXUP });
  machine.set({ rip: CODE, rdi: USER, rflags: OPEN });
  machine.task.signal_pending = signal;
  machine.kernel.answers.vma = vma(RW);
  return machine;
}

const flags = (bits: number): string => `handle_mm_fault ${(FAULT_FLAG_DEFAULT | bits).toString(16)}`;
const RETRY = { how: 'retry' };

describe('a user fault', () => {
  test('takes the lock of its mapping, and gives it back', () => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(RW);
    expect(machine.miss(USER, 'write')).toMatchObject(RETRY);
    expect(machine.kernel.mm).toEqual([
      flags(FAULT_FLAG_USER | FAULT_FLAG_WRITE | FAULT_FLAG_VMA_LOCK),
      'vma_end_read',
    ]);
  });

  test('takes the mmap lock when the mapping cannot be locked', () => {
    const machine = inUser();
    machine.kernel.answers.vma = vma(VM_EXEC);
    expect(machine.miss(USER, 'fetch')).toMatchObject(RETRY);
    expect(machine.kernel.mm).toEqual([flags(FAULT_FLAG_USER | FAULT_FLAG_INSTRUCTION), 'mmap_read_unlock']);
  });

  test('that completed has given the lock back already', () => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(RW);
    machine.kernel.answers.handle_mm_fault = [VM_FAULT_COMPLETED];
    expect(machine.miss(USER, 'read')).toMatchObject(RETRY);
    expect(machine.kernel.mm).toHaveLength(1);
  });

  test.each([
    ['once more under the mmap lock', VM_FAULT_RETRY, 0],
    ['and remembers that it had to read from disk', VM_FAULT_RETRY | VM_FAULT_MAJOR, FAULT_FLAG_TRIED],
  ])('that has to wait is tried %s', (_how, answer, tried) => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(RW);
    machine.kernel.answers.vma = vma(RW);
    machine.kernel.answers.handle_mm_fault = [answer, VM_FAULT_RETRY, 0];
    expect(machine.miss(USER, 'read')).toMatchObject(RETRY);
    expect(machine.kernel.mm).toEqual([
      flags(FAULT_FLAG_USER | FAULT_FLAG_VMA_LOCK),
      flags(FAULT_FLAG_USER | tried),
      flags(FAULT_FLAG_USER | FAULT_FLAG_TRIED),
      'mmap_read_unlock',
    ]);
  });

  test('that has to wait for ever is a livelock', () => {
    const machine = inUser();
    machine.kernel.answers.vma = vma(RW);
    machine.kernel.answers.handle_mm_fault = new Array<number>(16).fill(VM_FAULT_RETRY);
    expect(() => machine.miss(USER, 'read')).toThrow(Endless);
    expect(machine.kernel.mm).toHaveLength(16);
  });

  test.each([
    ['locked', 'vma_end_read'],
    ['vma', 'mmap_read_unlock'],
  ] as const)('that its mapping forbids gives the lock back: %s', (which, unlock) => {
    const machine = inUser();
    machine.kernel.answers[which] = vma(VM_READ);
    expect(outcome(machine.miss(USER, 'write'))).toMatchObject({ signo: SIGSEGV, code: SEGV_ACCERR });
    expect(machine.kernel.mm).toEqual([unlock]);
  });

  test.each([
    ['a write to VM_WRITE', 0x7, VM_WRITE, true],
    ['a write without it', 0x6, VM_READ, false],
    ['a read of a page that is there', 0x5, RW, false],
    ['a read of a mapping without rights', 0x4, 0, false],
    ['a read of one with any right', 0x4, VM_EXEC, true],
    ['an SGX fault', 0x8006, RW, false],
    ['a shadow-stack access', 0x44, RW, false],
  ])('access_error(): %s', (_what, error_code, vm_flags, allowed) => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(vm_flags);
    const result = outcome(machine.raise(X86_TRAP_PF, error_code, USER));
    expect(result).toMatchObject(allowed ? RETRY : { signo: SIGSEGV, code: SEGV_ACCERR });
  });

  test.each([
    ['SIGBUS', VM_FAULT_SIGBUS, { signo: SIGBUS, code: BUS_ADRERR }],
    ['a lost huge page', VM_FAULT_HWPOISON_LARGE, { signo: SIGBUS, code: 4 }],
    ['SIGSEGV', VM_FAULT_SIGSEGV, { signo: SIGSEGV, code: SEGV_MAPERR }],
    ['out of memory', VM_FAULT_OOM, RETRY],
    ['nothing that there is', VM_FAULT_FALLBACK, { kind: 'oops', signal: SIGSEGV }],
  ])('handle_mm_fault() says %s', (_what, fault, expected) => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(RW);
    machine.kernel.answers.handle_mm_fault = [fault];
    expect(outcome(machine.miss(USER, 'read'))).toMatchObject(expected);
  });

  test('answers a signal before it waits, and the signal is delivered at the exit', () => {
    for (const pending of ['signal', 'fatal'] as const) {
      const machine = inUser();
      machine.task.signal_pending = pending;
      machine.kernel.answers.locked = vma(RW);
      machine.kernel.answers.handle_mm_fault = [VM_FAULT_RETRY];
      const end = pending === 'fatal' ? { kind: 'signal', signo: SIGKILL } : { kind: 'stopped' };
      expect(outcome(machine.miss(USER, 'read'))).toMatchObject(end);
      expect(machine.entered()).not.toContain('kernelmode_fixup_or_oops');
      expect(machine.kernel.mm).toHaveLength(1);
    }
  });

  test('out of memory says so ten times, unless a signal kills anyway', () => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(RW);
    machine.kernel.answers.handle_mm_fault = [VM_FAULT_OOM];
    for (let i = 0; i < 12; i++) machine.miss(USER, 'read');
    const text = 'Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF';
    expect(machine.console()).toEqual(new Array(10).fill(text));
    const dying = inUser();
    dying.task.signal_pending = 'fatal';
    dying.kernel.answers.locked = vma(RW);
    dying.kernel.answers.handle_mm_fault = [VM_FAULT_OOM];
    expect(outcome(dying.miss(USER, 'read'))).toMatchObject({ kind: 'signal', signo: SIGKILL });
    expect(dying.console()).toEqual([]);
  });

  test('tells of ten signals, and no more', () => {
    const machine = inUser();
    for (let i = 0; i < 6; i++) {
      machine.miss(USER, 'read');
      machine.raise(13, 0);
    }
    const lines = machine.console().filter((line) => line.includes('t[100]'));
    expect(lines).toHaveLength(10);
  });

  test('a task that a fatal signal waits for gets that, and nothing is said', () => {
    for (const fault of [
      (machine: TestMachine) => machine.miss(USER, 'read'),
      (machine: TestMachine) => machine.raise(13, 0),
    ]) {
      const machine = inUser();
      machine.task.signal_pending = 'fatal';
      expect(outcome(fault(machine))).toEqual({ kind: 'signal', signo: SIGKILL, code: 0, address: 0n });
      expect(machine.console()).toEqual([]);
    }
  });

  test('of the first task everything is told, also when it dies', () => {
    const machine = inUser();
    machine.task.signal_pending = 'fatal';
    Object.assign(machine.task, { pid: 1 });
    machine.miss(USER, 'read');
    expect(machine.console()[0]).toMatch(/^t\[1\]: segfault/);
  });

  test('says nothing when it is told not to', () => {
    const machine = inUser({ show_unhandled_signals: false });
    expect(outcome(machine.miss(USER, 'read'))).toMatchObject({ signo: SIGSEGV });
    expect(machine.console()).toEqual([]);
  });

  test('leaves its facts in the thread: the mode is always user, P is set for kernel addresses', () => {
    const machine = inUser();
    machine.miss(0xffff888000400000n, 'read');
    const thread = machineOf(machine.here).thread(machine.task);
    expect(thread).toMatchObject({ trap_nr: 14, error_code: 5, cr2: 0xffff888000400000n });
  });

  test('of init is an emergency', () => {
    const machine = inUser();
    machine.task.pid = 1;
    machine.miss(USER, 'read');
    expect(machine.events('console').map(({ level }) => level)).toEqual([0, 0]);
  });
});

describe('protection keys', () => {
  test.each([
    ['the CPU says so', 0x25, 1, SEGV_PKUERR],
    ['PKRU says so of a page that is not there', 0x4, 1, SEGV_PKUERR],
    ['the key may be used', 0x7, 0, SEGV_ACCERR],
    ['keys do not matter to fetches', 0x15, 1, SEGV_ACCERR],
  ])('%s', (_why, error_code, pkey, code) => {
    const machine = inUser({ PKE: true });
    machine.kernel.answers.locked = vma(VM_READ, pkey);
    const expected = code === SEGV_PKUERR ? { signo: SIGSEGV, code, pkey } : { signo: SIGSEGV, code };
    expect(outcome(machine.raise(X86_TRAP_PF, error_code, USER))).toMatchObject(expected);
  });

  test('write-disable forbids writes only', () => {
    const machine = inUser({ PKE: true });
    machineOf(machine.here).thread(machine.task).pkru = 2 << 2;
    machine.kernel.answers.locked = vma(RW, 1);
    expect(machine.raise(X86_TRAP_PF, 0x4, USER)).toMatchObject(RETRY);
    expect(outcome(machine.raise(X86_TRAP_PF, 0x6, USER))).toMatchObject({ code: SEGV_PKUERR, pkey: 1 });
  });

  test('a CPU without them does not ask', () => {
    const machine = inUser();
    machine.kernel.answers.locked = vma(RW, 1);
    expect(machine.raise(X86_TRAP_PF, 0x4, USER)).toMatchObject(RETRY);
  });
});

describe('a kernel fault between stac and clac', () => {
  test('takes the mmap lock only', () => {
    const machine = inUaccess();
    machine.kernel.answers.locked = vma(RW);
    expect(machine.miss(USER, 'write')).toMatchObject(RETRY);
    expect(machine.kernel.mm).toEqual([flags(FAULT_FLAG_WRITE), 'mmap_read_unlock']);
  });

  test.each([
    ['no memory', VM_FAULT_OOM, 'none'],
    ['SIGBUS', VM_FAULT_SIGBUS, 'none'],
    ['SIGSEGV', VM_FAULT_SIGSEGV, 'none'],
    ['a wait while a signal kills', VM_FAULT_RETRY, 'fatal'],
    ['an error while a signal kills', VM_FAULT_OOM, 'fatal'],
  ] as const)('goes to the fixup: %s', (_what, fault, pending) => {
    const machine = inUaccess(pending);
    machine.kernel.answers.handle_mm_fault = [fault];
    expect(machine.miss(USER, 'write')).toMatchObject({ how: 'fixup', pc: FIXUP });
  });

  test('does not answer a signal that does not kill', () => {
    const machine = inUaccess('signal');
    machine.kernel.answers.handle_mm_fault = [VM_FAULT_RETRY, 0];
    expect(machine.miss(USER, 'write')).toMatchObject(RETRY);
    expect(machine.kernel.mm).toHaveLength(3);
  });

  test('of a kernel thread has no mapping to look for', () => {
    const machine = inUaccess();
    machine.task.mm = null;
    expect(machine.miss(USER, 'write')).toMatchObject({ how: 'fixup' });
    expect(machine.kernel.mm).toEqual([]);
  });

  test('with preemption off or in an interrupt does not look for it', () => {
    for (const field of ['preempt_count', 'in_interrupt'] as const) {
      const machine = inUaccess();
      machine.task[field] = 1;
      expect(machine.miss(USER, 'write')).toMatchObject({ how: 'fixup' });
      expect(machine.kernel.mm).toEqual([]);
    }
  });

  test('without mapping and fixup is an oops with interrupts on', () => {
    const machine = inUaccess();
    machine.kernel.extable.clear();
    machine.kernel.answers.vma = null;
    expect(outcome(machine.miss(USER, 'write'))).toMatchObject({ kind: 'oops', signal: SIGKILL });
    expect(machine.console().at(-1)).not.toContain('note:');
  });
});
