import { describe, expect, test } from '@jest/globals';
import { drain } from '../../emu/path.js';
import {
  SEGV_ACCERR,
  SEGV_MAPERR,
  SIGBUS,
  SIGKILL,
  SIGSEGV,
  VM_FAULT_COMPLETED,
  VM_FAULT_HWPOISON,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_READ,
  VM_WRITE,
} from '../kernel.js';
import { aboutToStore, CODE, outcome, USER, vma } from './fake-faults.js';
import { spurious_kernel_fault } from './fault.js';
import { HOLE, type TestMachine, testMachine } from './testing.js';

const AC = 0x40202n;

function codes(machine: TestMachine): bigint[] {
  return machine.events('fault').map(({ code }) => code);
}

const KERN = [
  'exc_page_fault',
  'handle_page_fault',
  'do_kern_addr_fault',
  'spurious_kernel_fault',
  'bad_area_nosemaphore',
  '__bad_area_nosemaphore',
  'kernelmode_fixup_or_oops',
  'fixup_exception',
];

describe('a kernel access to an empty vmalloc page', () => {
  test('asks the exception table, KFENCE and the arena, in this order, and goes on when the arena has it', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.kernel.answers.arena = true;
    const result = machine.miss(HOLE, 'write');
    expect(result).toEqual({ how: 'retry', pc: CODE, address: HOLE, entry: 0n });
    expect(machine.entered()).toEqual([
      ...KERN,
      'page_fault_oops',
      'kfence_handle_page_fault',
      'bpf_arena_handle_page_fault',
    ]);
    expect(machine.events('fault')).toMatchObject([
      { exception: '#PF', pc: CODE, address: HOLE, code: 2n, access: 'write' },
    ]);
    expect(machine.events('walk')).toMatchObject([
      { va: HOLE, verdict: 'not present', at: 'pte', user: false },
    ]);
    expect(machine.cpu.read('cr2')).toBe(HOLE);
    expect(machine.console()).toEqual([]);
    expect(machine.here.regs).toBeNull();
    expect(machine.here.arch.irqs_disabled(machine.here)).toBe(false);
  });

  test('KFENCE comes first, and a kernel without it does not ask', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.kernel.answers.kfence = true;
    expect(machine.miss(HOLE, 'read')).toMatchObject({ how: 'retry' });
    expect(machine.entered().at(-1)).toBe('kfence_handle_page_fault');

    const without = testMachine({ KFENCE: false });
    aboutToStore(without);
    without.kernel.answers.arena = true;
    without.miss(HOLE, 'write');
    expect(without.entered().slice(-2)).toEqual(['page_fault_oops', 'bpf_arena_handle_page_fault']);
  });

  test('is a write when it is the read of a read-modify-write', () => {
    const machine = testMachine();
    // add [rdi], rax; mov rax, [rdi]
    machine.text('rmw', 0x100, [0x48, 0x01, 0x07, 0x48, 0x8b, 0x07], 0x10);
    machine.kernel.answers.arena = true;
    machine.set({ rip: CODE, rdi: HOLE });
    machine.miss(HOLE, 'read');
    machine.set({ rip: CODE + 3n });
    machine.miss(HOLE, 'read');
    expect(codes(machine)).toEqual([2n, 0n]);
  });

  test('goes past both with P=1', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.map(HOLE, 0x8000000000201121n);
    machine.kernel.answers.arena = true;
    expect(outcome(machine.miss(HOLE, 'write'))).toEqual({ kind: 'oops', title: '', signal: SIGKILL });
    expect(codes(machine)).toEqual([3n]);
    expect(machine.entered()).not.toContain('bpf_arena_handle_page_fault');
    expect(machine.console()[2]).toBe('#PF: error_code(0x0003) - permissions violation');
  });
});

describe('spurious kernel faults', () => {
  const PTE_RW = 0x8000000000201163n;

  test('a stale read-only entry is retried, once both PMD and PTE allow the write', () => {
    const machine = testMachine();
    aboutToStore(machine);
    const pte = machine.map(HOLE, PTE_RW & ~2n);
    machine.mmu.pin(HOLE);
    machine.ram.writeU64(pte, PTE_RW);
    expect(machine.miss(HOLE, 'write')).toMatchObject({ how: 'retry', pc: CODE });
    expect(codes(machine)).toEqual([3n]);
    expect(machine.entered()).toEqual(KERN.slice(0, 4));
    expect(machine.mmu.pinnedPages()).toEqual([]);
  });

  test('a PMD without RW warns and is no spurious fault', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.map(HOLE, PTE_RW);
    const pmd = machine.mmu.explain(HOLE, 'read', false, false).levels[2]?.entryPa ?? 0;
    machine.ram.writeU64(pmd, machine.ram.readU64(pmd) & ~2n);
    expect(outcome(machine.miss(HOLE, 'write'))).toMatchObject({ kind: 'oops' });
    expect(machine.console().slice(0, 3)).toEqual([
      '------------[ cut here ]------------',
      'PMD has incorrect permission bits',
      'BUG: unable to handle page fault for address: ffffc90000401008',
    ]);
  });

  /** The entry of a level for HOLE in the kernel's tables. */
  function entryAt(machine: TestMachine, level: number): number {
    return machine.mmu.explain(HOLE, 'read', false, false).levels[level]?.entryPa ?? 0;
  }

  test.each([
    ['nothing at the PGD', 0, 0n, false],
    ['nothing at the PUD', 1, 0n, false],
    ['nothing at the PMD', 2, 0n, false],
    ['nothing at the PTE', 3, 0n, false],
    ['a writable page of 1 GiB', 1, 0x80000000000001e3n, true],
    ['a read-only page of 1 GiB', 1, 0x80000000000001a1n, false],
    ['a writable page of 2 MiB', 2, 0x80000000002001e3n, true],
    ['a read-only page of 2 MiB', 2, 0x80000000002001a1n, false],
  ])('%s', (_what, level, entry, spurious) => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.map(HOLE, PTE_RW);
    machine.ram.writeU64(entryAt(machine, level), entry);
    expect(drain(spurious_kernel_fault(machine.here, 3, HOLE))).toBe(spurious);
    expect(machine.console()).toEqual([]);
  });

  test('the tables are those of init_mm, whatever CR3 holds', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.map(HOLE, PTE_RW);
    machine.ram.write(0x3f0000, machine.ram.read(0x100000, 4096));
    machine.set({ cr3: 0x3f0000n });
    machine.mmu.refresh();
    machine.ram.writeU64(0x100000 + 8 * 402, 0n);
    expect(drain(spurious_kernel_fault(machine.here, 3, HOLE))).toBe(false);
  });

  test('a stale entry that forbids a fetch is retried', () => {
    const machine = testMachine();
    machine.map(HOLE, 0x201121n);
    machine.set({ rip: HOLE });
    expect(machine.raise(14, 0x11, HOLE)).toMatchObject({ how: 'retry' });
  });

  test('a fetch from a page that may not be executed is none', () => {
    const machine = testMachine();
    machine.map(HOLE, PTE_RW);
    machine.set({ rip: HOLE });
    expect(outcome(machine.miss(HOLE, 'fetch'))).toMatchObject({ kind: 'oops' });
    expect(codes(machine)).toEqual([0x11n]);
    expect(machine.console()[0]).toBe(
      'kernel tried to execute NX-protected page - exploit attempt? (uid: 0)',
    );
  });

  test('reserved bits in the kernel half are an ordinary oops', () => {
    const machine = testMachine();
    machine.text('leaf', 0x100, [0x48, 0x8b, 0x07], 0x10);
    machine.set({ rip: CODE });
    machine.map(HOLE, PTE_RW | (1n << 51n));
    machine.miss(HOLE, 'read');
    expect(machine.console()[2]).toBe('#PF: error_code(0x0009) - reserved bit violation');
  });
});

describe('kernel accesses to user addresses', () => {
  test('without AC they oops, whatever the exception table says', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.fixup({ insn: CODE, type: 'UACCESS', fixup: CODE + 0x80n });
    expect(outcome(machine.miss(0x10n, 'write'))).toMatchObject({ kind: 'oops', signal: SIGKILL });
    expect(machine.entered()).not.toContain('fixup_exception');
    expect(machine.console()[0]).toBe('BUG: kernel NULL pointer dereference, address: 0000000000000010');
    expect(machine.console().at(-1)).toBe('note: t[100] exited with irqs disabled');
  });

  test('with AC and no VMA the fixup is taken', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.fixup({ insn: CODE, type: 'UACCESS', fixup: CODE + 0x80n });
    machine.set({ rflags: AC });
    expect(machine.miss(0x10n, 'read')).toMatchObject({ how: 'fixup', pc: CODE + 0x80n });
    expect(machine.cpu.read('rip')).toBe(CODE + 0x80n);
    expect(machine.console()).toEqual([]);
  });

  test('with AC and a VMA handle_mm_fault() decides', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.set({ rflags: AC });
    machine.kernel.answers.vma = vma(VM_READ | VM_WRITE);
    expect(machine.miss(USER, 'write')).toMatchObject({ how: 'retry' });
    machine.kernel.answers.handle_mm_fault = [VM_FAULT_RETRY, VM_FAULT_COMPLETED];
    expect(machine.miss(USER, 'write')).toMatchObject({ how: 'retry' });
    machine.kernel.answers.handle_mm_fault = [VM_FAULT_SIGBUS];
    expect(outcome(machine.miss(USER, 'write'))).toMatchObject({ kind: 'oops' });
  });

  test('with page faults disabled, or IRQs off, the VMA is not looked at', () => {
    for (const [why, warns] of [
      ['pagefault_disable()', 0],
      ['cli', 1],
    ] as const) {
      const machine = testMachine();
      aboutToStore(machine);
      machine.fixup({ insn: CODE, type: 'UACCESS', fixup: CODE + 0x80n });
      machine.kernel.answers.vma = vma(VM_READ);
      machine.set({ rflags: why === 'cli' ? 0x40002n : AC });
      if (why !== 'cli') machine.task.pagefault_disabled = 1;
      expect(machine.miss(USER, 'read')).toMatchObject({ how: 'fixup', pc: CODE + 0x80n });
      expect(machine.console()).toHaveLength(warns);
    }
  });

  test('without SMAP an oops comes with interrupts on, so there is no note', () => {
    const machine = testMachine({ SMAP: false });
    aboutToStore(machine);
    expect(outcome(machine.miss(0x10n, 'read'))).toMatchObject({ kind: 'oops' });
    expect(machine.entered()).toContain('fixup_exception');
    expect(machine.console().at(-1)).not.toContain('note:');
  });

  test('executing them is an oops of its own', () => {
    const machine = testMachine();
    machine.map(USER, 0x201025n);
    machine.set({ rip: USER });
    machine.miss(USER, 'fetch');
    expect(codes(machine)).toEqual([0x11n]);
    expect(machine.console()[0]).toBe('unable to execute userspace code (SMEP?) (uid: 0)');
  });

  test('KFENCE and the arena may have them: what is not there is asked for', () => {
    for (const access of ['read', 'fetch'] as const) {
      for (const hook of ['kfence', 'arena'] as const) {
        const machine = testMachine();
        aboutToStore(machine);
        machine.kernel.answers[hook] = true;
        expect(machine.miss(0x10n, access)).toMatchObject({ how: 'retry' });
        expect(machine.console()).toEqual([]);
      }
    }
  });

  test('the last page below the hole counts as kernel space', () => {
    const machine = testMachine();
    aboutToStore(machine);
    machine.miss(0x7ffffffff000n, 'read');
    expect(machine.entered()).toContain('do_kern_addr_fault');
  });
});

describe('user accesses', () => {
  function user(va: bigint, access: 'read' | 'write' | 'fetch', pte: bigint, flags: number | null) {
    const machine = testMachine();
    machine.cpu.setPrivilege('user');
    machine.set({ rip: 0x400000n, rsp: 0x7ffe0000n });
    machine.kernel.answers.vma = flags === null ? null : vma(flags);
    if (pte !== 0n) machine.map(va, pte);
    return { machine, end: outcome(machine.miss(va, access)) };
  }

  test.each([
    ['a kernel page', 0xffff888000400000n, 'read', 0x8000000000201163n, null, 5n, 'error 5', SEGV_MAPERR],
    ['a kernel hole', 0xffff888000400000n, 'read', 0n, null, 4n, 'error 5', SEGV_MAPERR],
    ['no VMA', USER, 'read', 0n, null, 4n, 'error 4', SEGV_MAPERR],
    ['a read-only VMA', USER, 'write', 0x201025n, VM_READ, 7n, 'error 7', SEGV_ACCERR],
    ['a page without execution', USER, 'fetch', 0x8000000000201025n, VM_READ, 0x15n, 'error 15', SEGV_ACCERR],
    ['a VMA without any right', USER, 'read', 0x201120n, 0, 4n, 'error 4', SEGV_ACCERR],
    ['the end of user space', 0x7ffffffff000n, 'read', 0n, null, 4n, 'error 5', SEGV_MAPERR],
  ] as const)('to %s get SIGSEGV', (_what, va, access, pte, flags, code, error, si_code) => {
    const { machine, end } = user(va, access, pte, flags);
    expect(end).toEqual({ kind: 'signal', signo: SIGSEGV, code: si_code, address: va });
    expect(codes(machine)).toEqual([code]);
    const hex = va.toString(16);
    expect(machine.console()[0]).toBe(
      `t[100]: segfault at ${hex} ip 0000000000400000 sp 000000007ffe0000 ${error} likely on CPU 0 (core 0, socket 0)`,
    );
  });

  test('copy on write goes to handle_mm_fault(), and out of memory tries again', () => {
    const { machine: cow, end } = user(USER, 'write', 0x201025n, VM_READ | VM_WRITE);
    expect(end).toMatchObject({ how: 'retry', pc: 0x400000n });
    cow.kernel.answers.handle_mm_fault = [VM_FAULT_OOM];
    expect(cow.miss(USER, 'write')).toMatchObject({ how: 'retry' });
  });

  test('memory that hardware lost is told, and gets SIGBUS', () => {
    const { machine } = user(USER, 'write', 0n, VM_READ | VM_WRITE);
    machine.kernel.answers.handle_mm_fault = [VM_FAULT_HWPOISON];
    expect(outcome(machine.miss(USER, 'write'))).toEqual({
      kind: 'signal',
      signo: SIGBUS,
      code: 4,
      address: USER,
    });
    expect(machine.console().at(-1)).toBe(
      'MCE: Killing t:100 due to hardware memory corruption fault at 7f0000001000',
    );
  });

  test('reserved bits are a corrupted page table', () => {
    const { machine } = user(USER, 'read', (1n << 51n) | 0x201025n, VM_READ);
    expect(codes(machine)).toEqual([0xdn]);
    const lines = machine.console();
    expect(lines[0]).toBe('t: Corrupted page table at address 7f0000001000');
    expect(lines[1]).toMatch(/^PGD [0-9a-f]+067 P4D [0-9a-f]+067 .* PTE 8000000201025$/);
    expect(lines[2]).toBe('Oops: Bad pagetable: 000d [#1] SMP NOPTI');
    expect(lines.some((line) => line.startsWith('CR2:') && !line.includes('CR3'))).toBe(false);
    expect(lines).not.toContain('Call Trace:');
    expect(lines.at(-1)).toBe('note: t[100] exited with irqs disabled');
  });
});
