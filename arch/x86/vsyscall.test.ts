import { describe, expect, test } from '@jest/globals';
import { Endless } from '../../emu/endless.js';
import {
  SEGV_MAPERR,
  SI_KERNEL,
  SIGSEGV,
  VM_FAULT_RETRY,
  VM_FAULT_SIGSEGV,
  VM_READ,
  VM_WRITE,
} from '../kernel.js';
import { outcome } from './fake-faults.js';
import { VSYSCALL_ADDR, X86_TRAP_PF } from './processor.js';
import { type TestMachine, testMachine } from './testing.js';

const GETTIMEOFDAY = VSYSCALL_ADDR;
const GETCPU = VSYSCALL_ADDR + 0x800n;
const USER_STACK = 0x7f0000001000n;
const BUFFER = 0x7f0000002000n;
const FETCH = 0x14;
const CALLER = 0x401234n;

/** User code has called an address of the page. */
function called(
  rip: bigint,
  config: Parameters<typeof testMachine>[0] = {},
  registers: Readonly<Record<string, bigint>> = {},
): TestMachine {
  const machine = testMachine(config);
  machine.cpu.setPrivilege('user');
  machine.map(USER_STACK, 0x250067n | (1n << 63n));
  machine.map(BUFFER, 0x251067n | (1n << 63n));
  machine.ram.writeU64(0x250100, CALLER);
  machine.set({ rip, rsp: USER_STACK + 0x100n, rax: 7n, ...registers });
  return machine;
}

const by = (message: string, rip: bigint, di = '0'): string =>
  `t[100] ${message} ip:${rip.toString(16)} cs:33 sp:7f0000001100 ax:7 si:0 di:${di}`;
const SEGV = { kind: 'signal', signo: SIGSEGV, code: SI_KERNEL, address: 0n };

describe('a call into the vsyscall page', () => {
  test.each(['xonly', 'emulate'] as const)('returns from the system call: vsyscall=%s', (vsyscall) => {
    const machine = called(GETCPU, { vsyscall }, { rdi: BUFFER, rsi: BUFFER + 8n });
    machine.ram.writeU64(0x251000, 0xffff_ffff_ffffn);
    machine.ram.writeU64(0x251008, 0xffff_ffff_ffffn);
    const code = vsyscall === 'emulate' ? FETCH | 1 : FETCH;
    expect(machine.raise(X86_TRAP_PF, code, GETCPU)).toMatchObject({ how: 'fixup', pc: CALLER });
    expect(machine.cpu.read('rax')).toBe(0n);
    expect(machine.cpu.read('rsp')).toBe(USER_STACK + 0x108n);
    // CPU 0, node 0: 32 bits each.
    expect(machine.ram.readU64(0x251000)).toBe(0xffff_0000_0000n);
    expect(machine.ram.readU64(0x251008)).toBe(0xffff_0000_0000n);
    expect(machine.console()).toEqual([]);
  });

  test('faults its buffer in', () => {
    const machine = called(GETCPU, {}, { rdi: 0x7f0000005000n });
    machine.kernel.answers.vma = { vm_start: 0n, vm_end: 1n << 46n, vm_flags: VM_READ | VM_WRITE, pkey: 0 };
    const { kernel } = machine;
    const answer = kernel.handle_mm_fault.bind(kernel);
    kernel.handle_mm_fault = (...args) => {
      machine.map(0x7f0000005000n, 0x252067n);
      return answer(...args);
    };
    expect(machine.raise(X86_TRAP_PF, FETCH, GETCPU)).toMatchObject({ pc: CALLER });
    expect(kernel.mm).toEqual([expect.stringMatching(/^handle_mm_fault /), 'mmap_read_unlock']);
  });

  test.each([
    ['with a read-only one', VM_READ],
    ['with none', null],
  ])('%s gets SIGSEGV', (_what, vm_flags) => {
    const machine = called(GETCPU, {}, { rdi: 0x7f0000005000n });
    if (vm_flags !== null)
      machine.kernel.answers.vma = { vm_start: 0n, vm_end: 1n << 46n, vm_flags, pkey: 0 };
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, GETCPU))).toEqual(SEGV);
    expect(machine.console()).toEqual([by('vsyscall fault (exploit attempt?)', GETCPU, '7f0000005000')]);
  });

  test('with a buffer whose protection key forbids it gets SIGSEGV', () => {
    const machine = called(GETCPU, { PKE: true }, { rdi: BUFFER });
    machine.map(BUFFER, 0x251067n | (1n << 63n) | (1n << 59n));
    machine.kernel.answers.vma = { vm_start: 0n, vm_end: 1n << 46n, vm_flags: VM_READ | VM_WRITE, pkey: 1 };
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, GETCPU))).toEqual(SEGV);
    expect(machine.kernel.mm).toEqual(['mmap_read_unlock']);
  });

  test.each([
    ['is waited for without end', 0n, VM_FAULT_RETRY],
    ['has a reserved bit in its entry', 0x251067n | (1n << 51n), 0],
  ])('a buffer that %s is a livelock', (_what, entry, answer) => {
    const machine = called(GETCPU, {}, { rdi: BUFFER });
    machine.map(BUFFER, entry);
    machine.kernel.answers.vma = { vm_start: 0n, vm_end: 1n << 46n, vm_flags: VM_READ | VM_WRITE, pkey: 0 };
    machine.kernel.answers.handle_mm_fault = [...new Array<number>(99).fill(answer), VM_FAULT_SIGSEGV];
    expect(() => machine.raise(X86_TRAP_PF, FETCH, GETCPU)).toThrow(Endless);
    expect(machine.kernel.mm.filter((what) => what.startsWith('handle_mm_fault'))).toHaveLength(16);
  });

  test('with a buffer in the kernel gets SIGSEGV for that address', () => {
    const machine = called(GETCPU, {}, { rdi: 0xffff888000000000n });
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, GETCPU))).toEqual({
      ...SEGV,
      code: SEGV_MAPERR,
      address: 0xffff888000000000n,
    });
  });

  test.each([
    ['not at the start of one', VSYSCALL_ADDR + 0x401n],
    ['behind the last one', VSYSCALL_ADDR + 0xc00n],
  ])('%s gets SIGSEGV', (_where, rip) => {
    const machine = called(rip);
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, rip))).toEqual(SEGV);
    const text =
      'misaligned vsyscall (exploit attempt or buggy program) -- look up the vsyscall kernel parameter if you need a workaround';
    expect(machine.console()).toEqual([by(text, rip)]);
    expect(machine.events('console')[0]?.level).toBe(4);
  });

  test('with a bad stack gets SIGSEGV', () => {
    const machine = called(GETCPU);
    machine.map(USER_STACK, 0n);
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, GETCPU))).toEqual(SEGV);
    expect(machine.console()).toEqual([by('vsyscall with bad stack (exploit attempt?)', GETCPU)]);
  });

  test('is a fault like any other with vsyscall=none', () => {
    const machine = called(GETCPU, { vsyscall: 'none' });
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, GETCPU))).toMatchObject({ code: SEGV_MAPERR });
    expect(machine.console()[0]).toBe(by('vsyscall attempted with vsyscall=none', GETCPU));
    expect(machine.console()[1]).toMatch(/^t\[100\]: segfault at ffffffffff600800 .* error 15 /);
  });

  test('for the time of day ends the run', () => {
    const machine = called(GETTIMEOFDAY);
    expect(outcome(machine.raise(X86_TRAP_PF, FETCH, GETTIMEOFDAY))).toMatchObject({ kind: 'stopped' });
  });

  test('that the CPU does not call a fetch warns', () => {
    const machine = called(GETCPU);
    expect(machine.raise(X86_TRAP_PF, 0x4, GETCPU)).toMatchObject({ pc: CALLER });
    expect(machine.console()).toEqual(['------------[ cut here ]------------']);
  });
});

describe('an access to the vsyscall page', () => {
  test.each([
    ['xonly', 0x4, 1],
    ['none', 0x4, 1],
    ['emulate', 0x4, 0],
    // Writes and what the kernel does are never emulated.
    ['xonly', 0x6, 0],
  ] as const)('vsyscall=%s, error code %i', (vsyscall, error_code, messages) => {
    const machine = called(0x400000n, { vsyscall });
    expect(outcome(machine.raise(X86_TRAP_PF, error_code, VSYSCALL_ADDR))).toMatchObject({ signo: SIGSEGV });
    const text =
      'vsyscall read attempt denied -- look up the vsyscall kernel parameter if you need a workaround';
    expect(machine.console().filter((line) => line === by(text, 0x400000n))).toHaveLength(messages);
  });

  test('is told to nobody when signals are not', () => {
    const machine = called(0x400000n, { show_unhandled_signals: false });
    machine.raise(X86_TRAP_PF, 0x4, VSYSCALL_ADDR);
    expect(machine.console()).toEqual([]);
  });

  test('by the kernel is a user address to SMAP', () => {
    const machine = testMachine();
    expect(outcome(machine.raise(X86_TRAP_PF, 0, VSYSCALL_ADDR))).toMatchObject({ kind: 'oops' });
    expect(machine.entered()).toContain('do_user_addr_fault');
  });
});
