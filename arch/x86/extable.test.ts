import { describe, expect, test } from '@jest/globals';
import { packExtable } from './extable-format.js';
import { HOLE, TEXT, type TestMachine, testMachine } from './testing.js';

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
    ]);
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
