/**
 * Where the mode of the code decides about an access, with code that runs: the engine's own TLB, keyed by its
 * modes, stands between the walks and the instructions.
 */
import { afterEach, describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { arm64 } from './index.js';
import { EngineMachine, K, STACK, TEXT, USER_DATA, USER_TEXT } from './testing.js';

const engine = new NativeEngine();
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_SHARED = 0x0068_0000_0000_0f43n;
const PAGE_READONLY_EXEC = 0x0020_0000_0000_0fc3n;
const PAGE_EXECONLY = 0x0020_0000_0000_0f83n;

const LDR_X0_X1 = 0xf940_0020;
const STR_X0_X1 = 0xf900_0020;
const LDTR_X0_X1 = 0xf840_0820;
const STTR_X0_X1 = 0xf800_0820;
const LDTRSB_W0_X1 = 0x38c0_0820;
const MSR_PAN_0 = 0xd500_409f;
const MSR_PAN_1 = 0xd500_419f;
const MSR_UAO_0 = 0xd500_407f;
const MSR_UAO_1 = 0xd500_417f;
const LDADD_X0_X3_X1 = 0xf820_0023;
const SWP_X0_X3_X1 = 0xf820_8023;
const CAS_X0_X3_X1 = 0xc8a0_7c23;
const LDXR_X0_X1 = 0xc85f_7c20;
const DC_ZVA_X1 = 0xd50b_7421;
const ERET = 0xd69f_03e0;
const MSR_ELR_EL1_X3 = 0xd518_4023;
const MSR_SPSR_EL1_X4 = 0xd518_4004;
const RET = 0xd65f_03c0;
const BR_X1 = 0xd61f_0020;

const opened: EngineMachine[] = [];
afterEach(() => {
  for (const { cpu } of opened.splice(0)) cpu.close();
});

/** A user task with a page of data and one of the kernel's. */
function machineWithEngine(config = {}): EngineMachine {
  const machine = new EngineMachine(engine, config);
  opened.push(machine);
  machine.becomeUserTask();
  machine.map(USER_DATA, PAGE_SHARED);
  machine.map(K, PAGE_KERNEL);
  machine.words(USER_DATA, 0x1234n);
  machine.words(K & ~0xfn, 0x5678n);
  return machine;
}

const KERNEL = K & ~0xfn;

describe('at EL1 with PAN', () => {
  // Whether each access ends in a fault, and with which ESR.
  test.each<readonly [string, readonly number[], bigint, readonly string[]]>([
    ['ldr of a user page', [LDR_X0_X1], USER_DATA, ['9600000f']],
    ['str to a user page', [STR_X0_X1], USER_DATA, ['9600004f']],
    ['ldtr of a user page', [LDTR_X0_X1], USER_DATA, []],
    ['ldtrsb of a user page', [LDTRSB_W0_X1], USER_DATA, []],
    ['sttr to a user page', [STTR_X0_X1], USER_DATA, []],
    ['ldtr of a kernel page', [LDTR_X0_X1], KERNEL, ['9600000f']],
    ['sttr to a kernel page', [STTR_X0_X1], KERNEL, ['9600004f']],
    ['ldr, after the same page was used by ldtr', [LDTR_X0_X1, LDR_X0_X1], USER_DATA, ['9600000f']],
    ['ldtr, after the same page was used by ldr', [LDR_X0_X1, LDTR_X0_X1], KERNEL, ['9600000f']],
    ['ldr with PAN cleared', [MSR_PAN_0, LDR_X0_X1, STR_X0_X1], USER_DATA, []],
    [
      'ldr with PAN cleared and set again',
      [MSR_PAN_0, LDR_X0_X1, MSR_PAN_1, LDR_X0_X1],
      USER_DATA,
      ['9600000f'],
    ],
    ['ldtr of a user page with UAO', [MSR_UAO_1, LDTR_X0_X1], USER_DATA, ['9600000f']],
    ['sttr to a user page with UAO', [MSR_UAO_1, STTR_X0_X1], USER_DATA, ['9600004f']],
    ['ldtr and sttr of a kernel page with UAO', [MSR_UAO_1, LDTR_X0_X1, STTR_X0_X1], KERNEL, []],
    ['ldtr of a user page with UAO, PAN cleared', [MSR_PAN_0, MSR_UAO_1, LDTR_X0_X1], USER_DATA, []],
    [
      'ldtr of a kernel page, UAO set and cleared',
      [MSR_UAO_1, LDTR_X0_X1, MSR_UAO_0, LDTR_X0_X1],
      KERNEL,
      ['9600000f'],
    ],
  ])('%s', (_, words, address, faults) => {
    const machine = machineWithEngine();
    const outcome = machine.call([...words, RET], { x1: address });
    expect(machine.faults()).toEqual(faults);
    expect(outcome).toMatchObject(faults.length === 0 ? { kind: 'returned' } : { kind: 'oops' });
  });

  // WnR: an atomic is a write only where it may read and not write.
  test.each([
    ['ldadd', LDADD_X0_X3_X1],
    ['swp', SWP_X0_X3_X1],
    ['cas', CAS_X0_X3_X1],
  ])('%s: a read for every fault that a load would take, a write for the others', (_, word) => {
    const AF = 1n << 10n;
    for (const [address, entry, esr] of [
      [KERNEL, PAGE_KERNEL & ~AF, '9600000b'],
      [KERNEL, PAGE_KERNEL | 0x80n, '9600004f'],
      [KERNEL, PAGE_KERNEL | (1n << 40n), '96000003'],
      [USER_DATA, PAGE_SHARED, '9600000f'],
    ] as const) {
      const machine = machineWithEngine();
      machine.map(address, entry);
      machine.call([word, RET], { x1: address });
      expect(machine.faults()[0]).toBe(esr);
    }
  });

  test.each([
    ['ldxr', LDXR_X0_X1, '9600000b'],
    ['dc zva', DC_ZVA_X1, '9600004b'],
    ['ldtr of a user page', LDTR_X0_X1, '9600000b'],
  ])('%s of a page with AF = 0', (_, word, esr) => {
    const machine = machineWithEngine();
    machine.map(KERNEL, PAGE_KERNEL & ~(1n << 10n));
    machine.map(USER_DATA, PAGE_SHARED & ~(1n << 10n));
    machine.call([word, RET], { x1: word === LDTR_X0_X1 ? USER_DATA : KERNEL });
    expect(machine.faults()[0]).toBe(esr);
  });

  test('an execute-only page is closed by EPAN, and open to ldr without it', () => {
    const machine = machineWithEngine();
    machine.map(USER_DATA, PAGE_EXECONLY);
    expect(machine.call([LDR_X0_X1, RET], { x1: USER_DATA })).toMatchObject({ kind: 'oops' });
    expect(machine.faults()).toEqual(['9600000f']);
    expect(machine.call([LDTR_X0_X1, RET], { x1: USER_DATA })).toMatchObject({ kind: 'oops' });
    expect(machine.call([MSR_PAN_0, LDR_X0_X1, RET], { x1: USER_DATA })).toEqual({ kind: 'returned' });
    machine.setBits('sctlr_el1', 0n, 1n << 57n);
    expect(machine.call([LDR_X0_X1, RET], { x1: USER_DATA })).toEqual({ kind: 'returned' });
  });

  test('E0PD1 closes the kernel half to ldtr, before any table is read', () => {
    const machine = machineWithEngine();
    machine.setBits('tcr_el1', 1n << 56n, 0n);
    // AT S1E1R translates the address, so that the kernel takes the fault for a spurious one and tries again.
    expect(machine.call([LDR_X0_X1, LDTR_X0_X1, RET], { x1: KERNEL })).toMatchObject({ kind: 'livelock' });
    expect(new Set(machine.faults())).toEqual(new Set(['96000004']));
    expect(machine.find('walk')).toMatchObject({ levels: [], at: null, user: true });
  });
});

describe('at EL0', () => {
  test.each([
    ['without E0PD1', 0n, '9200000f'],
    ['with E0PD1', 1n << 56n, '92000004'],
  ])('the kernel half, %s', (_, bits, esr) => {
    const machine = machineWithEngine();
    machine.map(USER_TEXT, PAGE_READONLY_EXEC);
    machine.load(USER_TEXT, [LDR_X0_X1, RET]);
    machine.setBits('tcr_el1', bits, 0n);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    machine.cpu.write('x1', KERNEL);
    expect(machine.run(USER_TEXT)).toMatchObject({ kind: 'signal', signo: 11 });
    expect(machine.faults()).toEqual([esr]);
  });

  test('a jump to the kernel half', () => {
    const machine = machineWithEngine();
    machine.map(USER_TEXT, PAGE_READONLY_EXEC);
    machine.load(USER_TEXT, [BR_X1]);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    machine.cpu.write('x1', TEXT);
    expect(machine.run(USER_TEXT)).toMatchObject({ kind: 'signal', signo: 11 });
    expect(machine.faults()).toEqual(['8200000f']);
  });

  test('a jump to a tagged address drops the tag, unless TBID0 says that it counts', () => {
    const machine = machineWithEngine();
    machine.map(USER_TEXT, PAGE_READONLY_EXEC);
    const target = (USER_TEXT + 8n) | (0x5an << 56n);
    machine.load(USER_TEXT, [BR_X1, 0, RET]);
    const go = () => {
      arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
      machine.cpu.write('x1', target);
      return machine.run(USER_TEXT);
    };
    expect(go()).toEqual({ kind: 'returned' });
    machine.setBits('tcr_el1', 1n << 51n, 0n);
    expect(go()).toMatchObject({ kind: 'signal', signo: 11, address: target });
    expect(machine.faults()).toEqual(['82000004']);
  });

  test('reached by an eret of kernel code for a second time, when its text is in the TLB', () => {
    const machine = machineWithEngine();
    machine.map(USER_TEXT, PAGE_READONLY_EXEC);
    machine.load(USER_TEXT, [RET]);
    machine.load(USER_TEXT + 0x100n, [LDR_X0_X1, RET]);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    expect(machine.run(USER_TEXT)).toEqual({ kind: 'returned' });
    const outcome = machine.call([MSR_ELR_EL1_X3, MSR_SPSR_EL1_X4, ERET], {
      x1: KERNEL,
      x3: USER_TEXT + 0x100n,
      x4: 0n,
    });
    expect(outcome).toMatchObject({ kind: 'signal', signo: 11, address: KERNEL });
    expect(machine.faults()).toEqual(['9200000f']);
  });
});

test('halves of 39 bits: the kernel runs from three levels', () => {
  const machine = machineWithEngine();
  // The kernel's addresses of before, with bits 47:39 as in the highest 512 GiB.
  const up = (va: bigint): bigint => va | (0x1ffn << 39n);
  const { ram, kernel } = machine;
  const first = Number(
    ram.readU64(kernel.init_mm.pgd + Number((TEXT >> 39n) & 511n) * 8) & 0xffff_ffff_f000n,
  );
  machine.load(TEXT, [LDR_X0_X1, RET]);
  machine.cpu.write('ttbr1_el1', BigInt(first));
  machine.setBits('tcr_el1', 25n << 16n, 0x3fn << 16n);
  machine.here.current = { ...machine.here.current, stack: up(STACK) };
  arm64.prepareCall(machine.here, up(TEXT), up(STACK) + 16384n);
  machine.cpu.write('x1', up(KERNEL));
  expect(machine.run(up(TEXT))).toEqual({ kind: 'returned' });
  expect(machine.cpu.read('x0')).toBe(0x5678n);
  // What was the kernel's address before is now out of range.
  arm64.prepareCall(machine.here, up(TEXT), up(STACK) + 16384n);
  machine.cpu.write('x1', KERNEL);
  expect(machine.run(up(TEXT))).toMatchObject({ kind: 'oops' });
  expect(machine.faults()).toEqual(['96000004']);
});
