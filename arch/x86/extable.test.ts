import { describe, expect, test } from '@jest/globals';
import { drain } from '../../emu/path.js';
import { SIGSEGV } from '../kernel.js';
import { fixup_exception } from './extable.js';
import { packExtable } from './extable-format.js';
import { TASK_SIZE_MAX, X86_TRAP_GP } from './processor.js';
import { HOLE, STACK_TOP, TEXT, type TestMachine, testMachine } from './testing.js';

const CODE = TEXT + 0x100n;
const FIXUP = TEXT + 0x180n;
const USER = 0x7f0000001000n;

/** A machine at an instruction that loads from `rdi`, with an entry for it. */
function machineWith(type: string, data: Readonly<Record<string, string>> = {}): TestMachine {
  const machine = testMachine();
  machine.text('leaf', 0x100, [0x48, 0x8b, 0x07, 0xc3], 0x10);
  machine.set({ rip: CODE, rdi: HOLE });
  machine.fixup({ insn: CODE, type, fixup: FIXUP, data });
  return machine;
}

function words(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer);
  return [0, 4, 8].map((offset) => view.getUint32(offset, true));
}

const BASE = { fixup: 0n, length: 4, clear: null, arena: null, data: {} } as const;

describe('packing', () => {
  test('instruction and fixup are relative to their own words', () => {
    const entry = packExtable({ ...BASE, insn: TEXT, fixup: TEXT + 0x10n, type: 'DEFAULT' }, TEXT + 0x1000n);
    expect(words(entry)).toEqual([0xfffff000, 0xfffff00c, 1]);
  });

  // Of arena atomics `[r1 + 0x7fff]` of a program: xchg r2, cmpxchg, load_acq r0, and a load r9 = [r6].
  test.each([
    ['xchg', 8, null, 'rdi', 0x80700108],
    ['lock cmpxchg', 10, null, 'rdi', 0x8070010a],
    ['load_acq', 8, null, 'rax', 0x80500108],
    ['load', 5, 'r15', 'rbx', 0x80280005],
  ] as const)('a BPF entry of %s', (_what, length, clear, register, fixup) => {
    const arena = { register, offset: 0x7fff };
    const entry = packExtable({ ...BASE, insn: TEXT, type: 'BPF', length, clear, arena }, TEXT);
    expect(words(entry)).toEqual([0, fixup, 0x7fff0007]);
  });

  test('a negative offset is in the upper half of the data; without arena there is none', () => {
    const arena = { register: 'rdi', offset: -8 };
    expect(words(packExtable({ ...BASE, insn: TEXT, type: 'BPF', arena }, TEXT))[2]).toBe(0xfff80007);
    expect(words(packExtable({ ...BASE, insn: TEXT, type: 'BPF', clear: 'rax' }, TEXT))).toEqual([
      0, 0x5004, 7,
    ]);
  });

  test('composed types, registers and flags', () => {
    const data = (type: string, fields: Readonly<Record<string, string>>): number =>
      words(packExtable({ ...BASE, insn: TEXT, type, data: fields }, TEXT))[2] ?? 0;
    expect(data('EFAULT_REG', { reg: 'rsi' })).toBe(0xfff20611);
    expect(data('UCOPY_LEN8', { reg: 'r15' })).toBe(0x00080f13);
    expect(data('FAULT', { clear_ax: 'true', clear_dx: 'true' })).toBe(0x3002);
    expect(data('IMM_REG', { reg: 'rax', imm: '-14' })).toBe(0xfff20011);
  });

  test('what does not fit is refused', () => {
    const pack = (entry: object): (() => Uint8Array) => {
      return () => packExtable({ ...BASE, insn: TEXT, type: 'DEFAULT', ...entry }, TEXT);
    };
    expect(pack({ type: 'COPY' })).toThrow('no exception-table type COPY');
    expect(pack({ fixup: 0n })).not.toThrow();
    expect(pack({ insn: 0xffffc90000000000n })).toThrow('more than 2 GiB');
    expect(pack({ type: 'BPF', arena: { register: 'rip', offset: 0 } })).toThrow('rip');
    expect(pack({ type: 'BPF', arena: { register: 'rax', offset: 0x8000 } })).toThrow('32768');
    expect(pack({ data: { err: 'rax' } })).toThrow('err');
  });
});

describe('fixups', () => {
  test.each([
    ['DEFAULT', {}, {}],
    ['DEFAULT', { clear_ax: 'true', clear_dx: 'true' }, { rax: 0n, rdx: 0n }],
    ['FAULT', {}, { rax: 14n }],
    ['FAULT_SGX', {}, { rax: 0x4000000en }],
    ['EFAULT_REG', { reg: 'rsi' }, { rsi: 0xfffffffffffffff2n }],
    ['POP_ZERO', { reg: 'rbx' }, { rbx: 0n, rsp: 0xffffc90000203f08n - 0x10n }],
    ['RDMSR_SAFE', { reg: 'rcx' }, { rax: 0n, rdx: 0n, rcx: 0xfffffffffffffffbn }],
    ['UCOPY_LEN8', { reg: 'r15' }, { rcx: 0x2bn }],
  ] as const)('%s %o', (type, data, want) => {
    const machine = machineWith(type, data);
    machine.set({
      rax: 0x11n,
      rdx: 0x22n,
      rsi: 0x33n,
      rbx: 0x44n,
      rcx: 5n,
      r15: 3n,
      rsp: 0xffffc90000203ef0n,
    });
    expect(machine.miss(HOLE, 'read')).toMatchObject({ how: 'fixup', pc: FIXUP });
    for (const [register, value] of Object.entries(want)) {
      expect([register, machine.cpu.read(register)]).toEqual([register, value]);
    }
    expect(machine.console()).toEqual([]);
  });

  test('what is not changed is not written to the CPU', () => {
    const machine = machineWith('EFAULT_REG', { reg: 'rsi' });
    machine.cpu.written.length = 0;
    machine.miss(HOLE, 'read');
    expect(machine.cpu.written.sort()).toEqual(['cr2', 'rip', 'rsi']);
  });

  test('an unchecked MSR access is told once', () => {
    const machine = machineWith('WRMSR');
    machine.set({ rcx: 0x1a0n, rax: 0xffffffff12345678n, rdx: 1n });
    machine.miss(HOLE, 'read');
    machine.set({ rip: CODE });
    machine.miss(HOLE, 'read');
    expect(machine.console()).toEqual([
      'unchecked MSR access error: WRMSR to 0x1a0 (tried to write 0x0000000112345678) at rIP: 0xffffffff81000100 (leaf+0x0/0x10)',
      'Call Trace:',
      ' <TASK>',
      ' 0xffffffff8100401a',
      ' </TASK>',
    ]);
    const read = machineWith('RDMSR');
    read.set({ rcx: 0xffffffff_00000010n, rax: 1n, rdx: 2n });
    read.miss(HOLE, 'read');
    const where = 'at rIP: 0xffffffff81000100 (leaf+0x0/0x10)';
    expect(read.console()[0]).toBe(`unchecked MSR access error: RDMSR from 0x10 ${where}`);
    expect([read.cpu.read('rax'), read.cpu.read('rdx')]).toEqual([0n, 0n]);
  });

  test.each([
    ['WRMSR_IN_MCE', 'WRMSR to 0x400 (tried to write 0x0000000000000001)'],
    ['RDMSR_IN_MCE', 'RDMSR from 0x400'],
  ])('%s is the end of the machine', (type, access) => {
    const machine = machineWith(type);
    machine.set({ rcx: 0x400n, rax: 1n, rdx: 0n });
    const result = machine.miss(HOLE, 'read');
    expect(result).toMatchObject({ outcome: { kind: 'panic', title: 'MCA architectural violation!' } });
    const where = 'at rIP: 0xffffffff81000100 (leaf+0x0/0x10)';
    expect(machine.console()[0]).toBe(`mce: MSR access error: ${access} ${where}`);
    expect(machine.events('console')[0]?.level).toBe(0);
  });

  test('ERETU makes the frame that it could not return with one of this exception', () => {
    const machine = machineWith('ERETU');
    // The frame lies above the event's own: its orig_ax is where sp points to.
    const sp = 0xffffc90000203e00n;
    const pa = machine.mmu.peek(sp);
    machine.ram.writeU64(pa + 16, 0x30033n);
    machine.ram.writeU64(pa + 40, 0x4002bn);
    machine.set({ rsp: sp });
    expect(machine.miss(HOLE, 'write')).toMatchObject({ how: 'fixup', pc: FIXUP });
    const word = (offset: number): bigint => machine.ram.readU64(pa + offset);
    // Error code; cs and ss of the frame, without the event's bits; CR2 as event data behind it.
    expect([word(0), word(16), word(40), word(48)]).toEqual([2n, 0x33n, 0x2bn, HOLE]);
  });

  test('ERETU without a frame is no fixup', () => {
    const machine = machineWith('ERETU');
    machine.set({ rsp: STACK_TOP - 0x10n });
    machine.miss(HOLE, 'write');
    expect(machine.console()[0]).toContain('BUG: unable to handle page fault');
  });

  test('FPU_RESTORE warns, once', () => {
    const machine = machineWith('FPU_RESTORE');
    for (let i = 0; i < 2; i++) {
      machine.set({ rip: CODE });
      expect(machine.miss(HOLE, 'read')).toMatchObject({ how: 'fixup', pc: FIXUP });
    }
    expect(machine.console()).toEqual([
      '------------[ cut here ]------------',
      'Bad FPU state detected at 0xffffffff81000100, reinitializing FPU registers.',
    ]);
  });

  test('CLEAR_FS leaves the null selector with base 0', () => {
    const machine = machineWith('CLEAR_FS');
    machine.set({ fs_base: 0x7f00n });
    expect(machine.miss(HOLE, 'read')).toMatchObject({ how: 'fixup', pc: FIXUP });
    expect(machine.cpu.read('fs_base')).toBe(0n);
  });

  test.each([
    ['DEFAULT_MCE_SAFE', {}],
    ['FAULT_MCE_SAFE', { rax: 14n }],
    ['WRMSR_SAFE', { rax: 0x11n, rdx: 0x22n, rcx: 0xfffffffffffffffbn }],
    ['UACCESS', { rax: 0x11n }],
  ])('%s', (type, want) => {
    const machine = machineWith(type, { reg: 'rcx' });
    machine.set({ rax: 0x11n, rdx: 0x22n });
    expect(machine.miss(HOLE, 'read')).toMatchObject({ how: 'fixup', pc: FIXUP });
    for (const [register, value] of Object.entries(want)) expect(machine.cpu.read(register)).toBe(value);
  });

  test('UACCESS of a general protection fault is told address 0, and so does not warn', () => {
    const machine = machineWith('UACCESS');
    machine.set({ rdi: 0xdead000000000000n });
    expect(machine.raise(X86_TRAP_GP, 0)).toMatchObject({ how: 'fixup', pc: FIXUP });
    expect(machine.console()).toEqual([]);
  });

  test('UACCESS warns of an address that no user access can have, once', () => {
    const machine = machineWith('UACCESS');
    const fixup = (address: bigint): unknown => {
      const regs = machine.mmu.capture();
      const { here } = machine;
      try {
        return drain(fixup_exception(here, regs, X86_TRAP_GP, 0, address));
      } finally {
        machine.mmu.release();
      }
    };
    for (const address of [0n, TASK_SIZE_MAX, TASK_SIZE_MAX + 4096n]) expect(fixup(address)).toBe(true);
    expect(machine.console()).toEqual([]);
    for (let i = 0; i < 2; i++) expect(fixup(TASK_SIZE_MAX + 4097n)).toBe(true);
    expect(machine.console()).toEqual([
      '------------[ cut here ]------------',
      'General protection fault in user access. Non-canonical address?',
    ]);
  });

  test('a type without handler is a BUG()', () => {
    const machine = machineWith('DEFAULT');
    const hit = machine.kernel.extable.get(CODE);
    machine.ram.words32[((hit?.pa ?? 0) + 8) / 4] = 4;
    expect(machine.miss(HOLE, 'read')).toMatchObject({ outcome: { kind: 'oops', signal: SIGSEGV } });
    expect(machine.console().slice(0, 3)).toEqual([
      '------------[ cut here ]------------',
      'kernel BUG at arch/x86/mm/extable.c:398!',
      'Oops: invalid opcode: 0000 [#1] SMP NOPTI',
    ]);
  });

  test.each([
    ['an entry whose fixup is too far for an instruction', [0x48, 0x8b, 0x07], 16n, 0xffdn],
    ['bytes that are no instruction', [0x06, 0x90, 0x90], 3n, 0xffdn],
    ['a length that is another', [0x48, 0x8b, 0x07], 4n, 0xffdn],
    ['a load of 32 bits', [0x8b, 0x07], 2n, 0xffdn],
    ['another instruction', [0x48, 0x03, 0x07], 3n, 0xffdn],
    ['a move between registers', [0x48, 0x8b, 0xc7], 3n, 0xffdn],
    ['a fault that is not at the next word', [0x48, 0x8b, 0x07], 3n, 0xff5n],
    ['a page in front that is not there either', [0x48, 0x8b, 0x07], 3n, null],
  ])('ZEROPAD fails for %s', (_what, bytes, length, offset) => {
    const machine = testMachine();
    const page = HOLE & ~0xfffn;
    if (offset !== null) machine.map(page, 0x8000000000201163n);
    machine.text('leaf', 0x100, bytes, 0x20);
    machine.fixup({ insn: CODE, type: 'ZEROPAD', fixup: CODE + length });
    machine.set({ rip: CODE, rdi: page + (offset ?? 0xffdn) });
    machine.miss(page + 0x1000n, 'read');
    expect(machine.console()[0]).toContain('BUG: unable to handle page fault');
  });

  test('ZEROPAD sees through prefixes', () => {
    const machine = testMachine();
    machine.map(HOLE & ~0xfffn, 0x8000000000201163n);
    machine.ram.writeU64(0x201ff8, 0x8877665544332211n);
    // mov rax, ds:[rdi]
    machine.text('leaf', 0x100, [0x3e, 0x48, 0x8b, 0x07], 0x20);
    machine.fixup({ insn: CODE, type: 'ZEROPAD', fixup: CODE + 4n });
    machine.set({ rip: CODE, rdi: (HOLE & ~0xfffn) + 0xfffn });
    expect(machine.miss((HOLE & ~0xfffn) + 0x1000n, 'read')).toMatchObject({ how: 'fixup' });
    expect(machine.cpu.read('rax')).toBe(0x88n);
  });

  test('ZEROPAD gives the bytes that are there', () => {
    const machine = testMachine();
    const page = USER & ~0xfffn;
    machine.map(page, 0x8000000000201067n);
    machine.ram.writeU64(0x201ff8, 0x8877665544332211n);
    // mov rax, [rdi], three bytes before the end of the page; the fixup is the next instruction.
    machine.text('load_unaligned_zeropad', 0x100, [0x48, 0x8b, 0x07, 0xc3], 0x10);
    machine.fixup({ insn: CODE, type: 'ZEROPAD', fixup: CODE + 3n, data: { reg: 'rax' } });
    machine.set({ rip: CODE, rdi: page + 0xffdn, rflags: 0x40202n });
    expect(machine.miss(page + 0x1000n, 'read')).toMatchObject({ how: 'fixup', pc: CODE + 3n });
    expect(machine.cpu.read('rax')).toBe(0x887766n);
  });

  test('ZEROPAD loads the register that the instruction names: its entry has none', () => {
    const machine = testMachine();
    const page = USER & ~0xfffn;
    machine.map(page, 0x8000000000201067n);
    machine.ram.writeU64(0x201ff8, 0x8877665544332211n);
    // mov r9, [rdi]
    machine.text('load_unaligned_zeropad', 0x100, [0x4c, 0x8b, 0x0f, 0xc3], 0x10);
    machine.fixup({ insn: CODE, type: 'ZEROPAD', fixup: CODE + 3n });
    machine.set({ rip: CODE, rdi: page + 0xffcn, rax: 0x1111n, rflags: 0x40202n });
    expect(machine.miss(page + 0x1000n, 'read')).toMatchObject({ how: 'fixup', pc: CODE + 3n });
    expect(machine.cpu.read('r9')).toBe(0x88776655n);
    expect(machine.cpu.read('rax')).toBe(0x1111n);
  });

  test('ZEROPAD fails for any instruction but a 64-bit mov from memory', () => {
    const machine = testMachine();
    // add rax, [rdi]
    machine.text('leaf', 0x100, [0x48, 0x03, 0x07, 0xc3], 0x10);
    machine.fixup({ insn: CODE, type: 'ZEROPAD', fixup: CODE + 3n });
    machine.set({ rip: CODE, rdi: HOLE - 3n });
    machine.miss(HOLE, 'read');
    expect(machine.console()[0]).toContain('BUG: unable to handle page fault');
  });

  test('ZEROPAD fails when the fault is somewhere else', () => {
    const machine = machineWith('ZEROPAD', { reg: 'rax' });
    machine.miss(HOLE, 'read');
    expect(machine.console()[0]).toContain('BUG: unable to handle page fault');
  });
});

describe('programs', () => {
  test('a load is reported before its register is cleared, which may be the address', () => {
    const machine = testMachine();
    machine.text('bpf_prog', 0x100, [0x47, 0x8b, 0x7c, 0x27, 0x10, 0xc3], 0x10, true);
    machine.fixup({
      insn: CODE,
      type: 'BPF',
      length: 5,
      clear: 'r15',
      arena: { register: 'r15', offset: 0x10 },
    });
    machine.set({ rip: CODE, r15: 0x6000n });
    expect(machine.miss(HOLE, 'read')).toMatchObject({ how: 'fixup', pc: CODE + 5n });
    expect(machine.kernel.reports).toEqual(['READ 6010 with r15=6000']);
    expect(machine.cpu.read('r15')).toBe(0n);
    expect(machine.entered()).not.toContain('page_fault_oops');
  });

  test('a store changes no register, and a negative offset wraps', () => {
    const machine = testMachine();
    machine.text('bpf_prog', 0x100, [0x42, 0x89, 0x44, 0x27, 0xf8], 0x10, true);
    machine.fixup({ insn: CODE, type: 'BPF', length: 5, arena: { register: 'rdi', offset: -8 } });
    machine.set({ rip: CODE, rdi: 4n });
    machine.cpu.written.length = 0;
    expect(machine.miss(HOLE, 'write')).toMatchObject({ pc: CODE + 5n });
    expect(machine.kernel.reports).toEqual(['WRITE fffffffffffffffc with r15=0']);
    expect(machine.cpu.written.sort()).toEqual(['cr2', 'rip']);
  });

  test('an atomic that fetches is a write and clears', () => {
    const machine = testMachine();
    machine.text('bpf_prog', 0x100, [0x42, 0x87, 0x44, 0x27, 0x08], 0x10, true);
    const arena = { register: 'rdi', offset: 8 };
    machine.fixup({ insn: CODE, type: 'BPF', length: 5, clear: 'rax', arena, data: { write: 'true' } });
    machine.set({ rip: CODE, rdi: 0x1000n, rax: 5n });
    expect(machine.miss(HOLE, 'write')).toMatchObject({ pc: CODE + 5n });
    expect(machine.kernel.reports).toEqual(['WRITE 1008 with r15=0']);
    expect(machine.cpu.read('rax')).toBe(0n);
  });

  test('a load that is not of an arena is not reported', () => {
    const machine = testMachine();
    machine.text('bpf_prog', 0x100, [0x48, 0x8b, 0x07], 0x10, true);
    machine.fixup({ insn: CODE, type: 'BPF', length: 3, clear: 'rax' });
    machine.set({ rip: CODE, rax: 1n });
    machine.miss(HOLE, 'read');
    expect(machine.kernel.reports).toEqual([]);
    expect(machine.cpu.read('rax')).toBe(0n);
  });
});
