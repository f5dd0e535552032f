import { describe, expect, test } from '@jest/globals';
import { SIGSEGV, VM_READ } from '../kernel.js';
import { CODE, outcome, USER } from './fake-faults.js';
import { X86_TRAP_DF, X86_TRAP_GP, X86_TRAP_PF, X86_TRAP_SS } from './processor.js';
import { HOLE, STACK, STACK_TOP, TEXT, type TestMachine, testMachine } from './testing.js';

function inKernel(config: Parameters<typeof testMachine>[0] = {}): TestMachine {
  const machine = testMachine(config);
  machine.text('leaf', 0x100, [0x48, 0x89, 0x07, 0xc3], 0x10);
  machine.set({ rip: CODE, rdi: HOLE });
  return machine;
}

function lines(machine: TestMachine, start: RegExp): string[] {
  return machine.console().filter((line) => start.test(line));
}

describe('a die notifier that stops the oops', () => {
  test('lets the instruction be tried again', () => {
    const machine = inKernel();
    machine.kernel.answers.notify_stop = ['DIE_OOPS'];
    expect(machine.miss(HOLE, 'write')).toMatchObject({ how: 'retry', pc: CODE });
    // Everything is printed all the same, and the kernel is tainted.
    expect(machine.console().at(-1)).toMatch(/^CR2: .* CR3:/);
    expect(machine.kernel.print_tainted()).toBe('Tainted: D');
    expect(machine.kernel.die_counter).toBe(1);
  });

  test('lets a fault with a reserved bit go on as any other', () => {
    const machine = testMachine();
    machine.cpu.setPrivilege('user');
    machine.set({ rip: 0x400000n });
    machine.kernel.answers.notify_stop = ['DIE_OOPS'];
    machine.kernel.answers.locked = { vm_start: USER, vm_end: USER + 0x1000n, vm_flags: VM_READ, pkey: 0 };
    expect(outcome(machine.raise(X86_TRAP_PF, 0xd, USER))).toMatchObject({ kind: 'signal', signo: SIGSEGV });
    expect(machine.entered()).toEqual(expect.arrayContaining(['pgtable_bad', 'bad_area_access_error']));
  });

  test('behind a hit guard page is too late: the machine ends', () => {
    const machine = inKernel();
    machine.kernel.answers.notify_stop = ['DIE_OOPS'];
    expect(outcome(machine.miss(STACK - 8n, 'write'))).toMatchObject({
      kind: 'panic',
      title: 'TASK stack guard hit',
    });
    const double = inKernel();
    double.kernel.answers.notify_stop = ['DIE_OOPS'];
    expect(outcome(double.raise(X86_TRAP_DF, 0))).toMatchObject({ kind: 'panic', title: 'Machine halted.' });
  });

  test('of a general protection or stack fault', () => {
    for (const [vector, event] of [
      [X86_TRAP_GP, 'DIE_GPF'],
      [X86_TRAP_SS, 'DIE_TRAP'],
    ] as const) {
      const machine = inKernel();
      machine.kernel.answers.notify_stop = [event];
      expect(machine.raise(vector, 0)).toMatchObject({ how: 'retry', pc: CODE });
      expect(machine.console()).toEqual([]);
    }
    // DIE_OOPS comes last: a kernel stack fault then ends as a signal to the task.
    const machine = inKernel();
    machine.kernel.answers.notify_stop = ['DIE_OOPS'];
    expect(outcome(machine.raise(X86_TRAP_SS, 0))).toMatchObject({ kind: 'signal', signo: 7 });
  });
});

describe('an implicit access of user mode', () => {
  function loadsSegment(): TestMachine {
    const machine = testMachine();
    machine.cpu.setPrivilege('user');
    machine.set({ rip: 0x400000n, rsp: 0x7ffe0000n, idtr_base: 0xfffffe0000000000n, idtr_limit: 0xfffn });
    machine.kernel.answers.arena = true;
    return machine;
  }
  const tables = (machine: TestMachine): string[] => lines(machine, /^(IDT|LDTR|TR):/);

  test('is an oops at once, and tells of the descriptor tables', () => {
    const machine = loadsSegment();
    machine.map(0xffffc90000600000n, 0x8000000000250163n);
    const gdt = 0xffffc90000600f00n;
    // The LDT in slot 10: base 0xffff888012345678, limit 0x9abcd. The TSS in slot 8 is half there.
    machine.ram.writeU64(0x250f50, 0x12898234_5678abcdn);
    machine.ram.writeU64(0x250f58, 0xffff8880n);
    machine.set({ gdtr_base: gdt, gdtr_limit: 0x7fn, ldtr: 0x50n, tr: 0x70n });
    expect(outcome(machine.raise(X86_TRAP_PF, 0, HOLE))).toMatchObject({ kind: 'oops' });
    expect(machine.entered()).not.toContain('fixup_exception');
    expect(machine.entered()).not.toContain('bpf_arena_handle_page_fault');
    expect(lines(machine, /^#PF/)[0]).toBe('#PF: supervisor read access in user mode');
    expect(tables(machine)).toEqual([
      'IDT: 0xfffffe0000000000 (limit=0xfff) GDT: 0xffffc90000600f00 (limit=0x7f)',
      'LDTR: 0x50 -- base=0xffff888012345678 limit=0x9abcd',
      'TR: 0x70 -- out of bounds',
    ]);
  });

  test('with selectors of nothing, or a GDT that is not there', () => {
    const machine = loadsSegment();
    machine.set({ gdtr_base: HOLE, gdtr_limit: 0x7fn, ldtr: 0n, tr: 0x40n });
    machine.raise(X86_TRAP_PF, 0, HOLE);
    expect(tables(machine).slice(1)).toEqual(['LDTR: NULL', 'TR: 0x40 -- GDT entry is not readable']);
  });
});

describe('the reason line', () => {
  test.each([
    [0x2, '0x0002', 'not-present page'],
    [0x9, '0x0009', 'reserved bit violation'],
    [0x29, '0x0029', 'reserved bit violation'],
    [0x21, '0x0021', 'protection keys violation'],
    [0x80000003, '0x80000003', 'RMP violation'],
    [0x1, '0x0001', 'permissions violation'],
  ])('of error code %i', (error_code, shown, reason) => {
    const machine = inKernel();
    machine.raise(X86_TRAP_PF, error_code, HOLE);
    expect(lines(machine, /^#PF: error_code/)).toEqual([`#PF: error_code(${shown}) - ${reason}`]);
    const low = (error_code & 0xffff).toString(16).padStart(4, '0');
    expect(lines(machine, /^Oops/)).toEqual([`Oops: Oops: ${low} [#1] SMP NOPTI`]);
  });

  test('a protection key at a kernel address warns, once', () => {
    const machine = inKernel();
    machine.raise(X86_TRAP_PF, 0x21, HOLE);
    expect(machine.console()[0]).toBe('------------[ cut here ]------------');
    machine.raise(X86_TRAP_PF, 0x21, HOLE);
    expect(lines(machine, /cut here/)).toHaveLength(1);
  });
});

describe('options of the kernel in the Oops line', () => {
  test.each([
    [{ SMP: false }, ' NOPTI'],
    [{ PTI: true }, ' SMP PTI'],
    [{ DEBUG_PAGEALLOC: true, KASAN: true }, ' SMP DEBUG_PAGEALLOC KASAN NOPTI'],
  ])('%o', (config, options) => {
    const machine = inKernel(config);
    machine.miss(HOLE, 'write');
    expect(lines(machine, /^Oops/)).toEqual([`Oops: Oops: 0002 [#1]${options}`]);
  });
});

describe('the registers of an oops', () => {
  test('debug registers are shown unless they are as a reset leaves them, PKRU with CR4.PKE', () => {
    const machine = inKernel({ PKE: true });
    machine.set({ dr0: 0xffffffff81000010n, dr7: 0x401n });
    machine.miss(HOLE, 'write');
    const zero = '0000000000000000';
    const block = [
      `DR0: ffffffff81000010 DR1: ${zero} DR2: ${zero}`,
      `DR3: ${zero} DR6: 00000000ffff0ff0 DR7: 0000000000000401`,
      'PKRU: 55555554',
    ];
    expect(lines(machine, /^(DR|PKRU)/)).toEqual([...block, ...block]);
    const stepped = inKernel();
    stepped.set({ dr6: 0xffff4ff0n });
    stepped.miss(HOLE, 'write');
    expect(lines(stepped, /^DR3/)[0]).toBe(`DR3: ${zero} DR6: 00000000ffff4ff0 DR7: 0000000000000400`);
    const plain = inKernel();
    plain.miss(HOLE, 'write');
    expect(lines(plain, /^(DR|PKRU)/)).toEqual([]);
  });

  test('behind the end of the trace are those of the first oops since boot', () => {
    const machine = inKernel();
    machine.miss(HOLE, 'write');
    machine.text('other', 0x200, [0x48, 0x8b, 0x07, 0xc3], 0x10);
    machine.set({ rip: TEXT + 0x200n });
    machine.miss(HOLE, 'read');
    expect(lines(machine, /^RIP/)).toEqual([
      'RIP: 0010:leaf+0x0/0x10',
      'RIP: 0010:leaf+0x0/0x10',
      'RIP: 0010:other+0x0/0x10',
      'RIP: 0010:leaf+0x0/0x10',
    ]);
  });

  test('the bases of GS are those after SWAPGS, whichever mode was interrupted', () => {
    const gs = (machine: TestMachine): string | undefined => lines(machine, /^FS/)[0];
    const machine = testMachine();
    machine.here.arch.prepareUser(machine.here, 0x400000n, 0x7ffe0000n);
    machine.set({ gs_base: 0x7f0000000040n, fs_base: 0x7f0000000080n });
    machine.raise(X86_TRAP_PF, 0xd, USER);
    expect(gs(machine)).toBe('FS:  00007f0000000080 GS:  00007f0000000040');
    expect(lines(machine, /^FS/)[1]).toBe(
      'FS:  00007f0000000080(0000) GS:ffff888000000000(0000) knlGS:00007f0000000040',
    );
    machine.here.arch.prepareCall(machine.here, CODE, STACK_TOP - 0x100n);
    expect(machine.cpu.read('gs_base')).toBe(0xffff888000000000n);
    expect(machine.cpu.read('kernel_gs_base')).toBe(0x7f0000000040n);
  });
});

describe('without VMAP_STACK', () => {
  test('a guard page is a page like any other', () => {
    const machine = inKernel({ VMAP_STACK: false });
    machine.miss(STACK - 8n, 'write');
    expect(machine.console()[0]).toBe('BUG: unable to handle page fault for address: ffffc900001ffff8');
  });
});

describe('a stack without its magic number', () => {
  test('is told between the tables and the registers', () => {
    const machine = inKernel();
    machine.ram.writeU64(machine.mmu.peek(STACK), 0n);
    machine.miss(HOLE, 'write');
    const at = machine.console().indexOf('Thread overran stack, or stack corrupted');
    expect(machine.console()[at - 1]).toMatch(/^PGD /);
    expect(machine.console()[at + 1]).toMatch(/^Oops: /);
    expect(machine.events('console')[at]?.level).toBe(0);
  });
});

describe('opcode bytes', () => {
  test('of user code are read without faulting, and a missing page is left in CR2', () => {
    const machine = testMachine();
    machine.cpu.setPrivilege('user');
    machine.map(0x401000n, 0x250025n);
    machine.ram.write(0x250000, Uint8Array.of(0x48, 0x8b, 0x07));
    machine.set({ rip: 0x401010n });
    machine.miss(USER, 'read');
    expect(machine.console()[1]).toBe('Code: Unable to access opcode bytes at 0x400fe6.');
    expect(machine.cpu.read('cr2')).toBe(0x400fe6n);
    machine.map(0x400000n, 0x251025n);
    machine.miss(USER, 'read');
    expect(machine.console()[3]).toBe(
      `Code: ${'00 '.repeat(26)}48 8b 07${' 00'.repeat(13)} <00>${' 00'.repeat(21)}`,
    );
  });

  test.each([
    ['below the kernel half', 0x400000n],
    ['behind the end of user space', 0x7fffffffffeen],
    ['of the vsyscall page', 0xffffffffff600100n],
  ])('%s are refused without being touched', (_where, rip) => {
    const machine = testMachine();
    machine.set({ rip });
    machine.raise(X86_TRAP_PF, 0x10, 0xffffc90000600000n);
    expect(lines(machine, /^Code/)[0]).toBe(
      `Code: Unable to access opcode bytes at 0x${(rip - 42n).toString(16)}.`,
    );
    expect(machine.cpu.read('cr2')).toBe(0xffffc90000600000n);
  });
});
