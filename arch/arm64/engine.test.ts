/**
 * The path with the real engine: guest code runs, faults, is handled and runs on.
 */
import { afterEach, describe, expect, test } from '@jest/globals';
import type { Cpu, CpuStop } from '../../emu/cpu.js';
import { drain } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import { runGuest, type StopResult } from '../../emu/run.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { TaskDead } from '../kernel.js';
import { arm64 } from './index.js';
import { Arm64Mmu } from './mmu.js';
import {
  K,
  RAM_BASE,
  RAM_SIZE,
  SENTINEL,
  STACK,
  TEXT,
  TestMachine,
  USER_DATA,
  USER_TEXT,
} from './testing.js';

const engine = new NativeEngine();
const LIMITS = { instructions: 10_000, milliseconds: 5000, refaults: 16 };
const TOP = STACK + 16384n;
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_KERNEL_RO = 0x00e0_0000_0000_0783n;
const PAGE_SHARED = 0x0068_0000_0000_0f43n;
const RET = 0xd65f_03c0;

const opened: Cpu[] = [];
afterEach(() => {
  for (const cpu of opened.splice(0)) cpu.close();
});

function machineWithEngine(config = {}): TestMachine {
  const ram = new Ram(RAM_BASE, RAM_SIZE);
  const mmu = new Arm64Mmu(ram);
  const cpu = engine.createCpu('arm64', ram, { id: 0, filler: mmu, sentinel: SENTINEL });
  opened.push(cpu);
  return new TestMachine(config, { cpu, ram, mmu });
}

function load(machine: TestMachine, at: bigint, words: readonly number[]): void {
  words.forEach((word, i) => {
    machine.code(word, at + BigInt(i * 4));
  });
  machine.cpu.flushCode();
}

/** Runs until the outcome; what kills the task is one, too. */
function run(machine: TestMachine, pc: bigint) {
  const { here, cpu } = machine;
  const guest = {
    cpu,
    trace: here.trace,
    pcRegister: 'pc',
    now: () => 0,
    *handleStop(stop: CpuStop) {
      try {
        return (yield* arm64.handleStop(here, stop)) as StopResult;
      } catch (error) {
        if (error instanceof TaskDead) return { how: 'end', outcome: error.outcome } as StopResult;
        throw error;
      }
    },
  };
  machine.log.events.length = 0;
  return drain(runGuest(guest, pc, LIMITS));
}

function call(machine: TestMachine, words: readonly number[], registers: Readonly<Record<string, bigint>>) {
  load(machine, TEXT, words);
  arm64.prepareCall(machine.here, TEXT, TOP);
  for (const [name, value] of Object.entries(registers)) machine.cpu.write(name, value);
  return run(machine, TEXT);
}

/** ESR of each fault, in order. */
function faults(machine: TestMachine): string[] {
  return machine.log.events.flatMap((event) => (event.type === 'fault' ? [event.code.toString(16)] : []));
}

/** The arena's part: install a page where there is none, and say so. */
function recover(machine: TestMachine): void {
  machine.kernel.answers.arena = (addr) => {
    machine.map(addr, PAGE_KERNEL);
    return true;
  };
}

describe('recovered faults', () => {
  // ldr x0,[x1]; str x0,[x1]; ldadd x0,x1,[x2]; dc zva,x1; stxr w3,x0,[x1]; dc civac,x1 …
  test.each([
    ['ldr', [0xf940_0020, RET], ['96000007']],
    ['str', [0xf900_0020, RET], ['96000047']],
    ['ldadd', [0xf820_0023, RET], ['96000007']],
    ['dc zva', [0xd50b_7421, RET], ['96000047']],
    ['ldxr', [0xc85f_7c20, RET], ['96000007']],
    ['dc civac', [0xd50b_7e21, RET], ['96000147']],
    ['ldr x1, [x1]: the base is its own destination', [0xf940_0021, RET], ['96000007']],
  ])('%s', (_, words, esrs) => {
    const machine = machineWithEngine();
    machine.entryPa(K, 3);
    recover(machine);
    expect(call(machine, words, { x0: 0x55n, x1: K & ~0xfn })).toEqual({ kind: 'returned' });
    expect(faults(machine)).toEqual(esrs);
  });

  test('a load across two missing pages faults twice, at its first byte and at the second page', () => {
    const machine = machineWithEngine();
    machine.entryPa(K, 3);
    recover(machine);
    const end = (K & ~0xfffn) + 0x1000n;
    call(machine, [0xf940_0020, RET], { x1: end - 4n });
    const addresses = machine.log.events.flatMap((event) => (event.type === 'fault' ? [event.address] : []));
    expect(addresses).toEqual([end - 4n, end]);
  });

  test('an exception-table fixup: the destination is cleared and the code goes on behind', () => {
    const machine = machineWithEngine();
    machine.addExtable({ type: 'BPF', clear: 'x0', arena: { register: 'x2', offset: 8 } });
    // ldr x0,[x1]; mov x3,#7; ret
    expect(call(machine, [0xf940_0020, 0xd280_00e3, RET], { x0: 5n, x1: K, x2: 0x1000n })).toEqual({
      kind: 'returned',
    });
    expect([machine.cpu.read('x0'), machine.cpu.read('x3')]).toEqual([0n, 7n]);
    expect(machine.kernel.reports).toEqual([{ write: false, addr: 0x1008n, ip: TEXT }]);
  });

  test('a handler that installs nothing is a livelock', () => {
    const machine = machineWithEngine();
    machine.kernel.answers.arena = () => true;
    expect(call(machine, [0xf940_0020, RET], { x1: K })).toMatchObject({
      kind: 'livelock',
      address: K,
      turns: 16,
    });
  });
});

describe('faults that kill', () => {
  test.each([
    ['str to a read-only page', [0xf900_0020, RET], '9600004f'],
    ['ldadd to a read-only page', [0xf820_0023, RET], '9600004f'],
    ['ldxr and stxr to a read-only page', [0xc85f_7c22, 0xc803_7c20, RET], '9600004f'],
    ['blr to a page that is not executable', [0xd63f_0020, RET], '8600000f'],
    ['ldtr from a kernel page', [0xf840_0820, RET], '9600000f'],
    ['sttr to a kernel page', [0xf800_0820, RET], '9600004f'],
    ['br to a misaligned address', [0x9100_0821, 0xd61f_0020], '8a000000'],
  ])('%s', (_, words, esr) => {
    const machine = machineWithEngine();
    machine.map(K, PAGE_KERNEL_RO);
    expect(call(machine, words, { x1: K & ~0xfn })).toMatchObject({ kind: 'oops', signal: 11 });
    expect(faults(machine)).toEqual([esr]);
  });

  test('a misaligned exclusive on a mapped page', () => {
    const machine = machineWithEngine();
    machine.map(K, PAGE_KERNEL);
    expect(call(machine, [0xc85f_7c20, RET], { x1: K + 2n })).toMatchObject({ kind: 'oops' });
    expect(faults(machine)).toEqual(['96000021']);
  });

  test('PAN: a plain load of a user page is refused, LDTR is not', () => {
    const machine = machineWithEngine();
    machine.becomeUserTask();
    machine.map(USER_DATA, PAGE_SHARED);
    machine.words(USER_DATA, 0x1234n);
    // ldtr x0,[x1]; ret
    expect(call(machine, [0xf840_0820, RET], { x1: USER_DATA })).toEqual({ kind: 'returned' });
    expect(machine.cpu.read('x0')).toBe(0x1234n);
    expect(call(machine, [0xf940_0020, RET], { x1: USER_DATA })).toMatchObject({ kind: 'oops' });
    expect(faults(machine)).toEqual(['9600000f']);
    // msr pan,#0; ldr x0,[x1]; ret
    const open = [0xd500_409f, 0xf940_0020, RET];
    expect(call(machine, open, { x0: 0n, x1: USER_DATA })).toEqual({ kind: 'returned' });
  });
});

describe('user code', () => {
  test('runs at EL0, with tagged addresses, and gets signals', () => {
    const machine = machineWithEngine();
    machine.becomeUserTask();
    machine.map(USER_TEXT, 0x0020_0000_0000_0fc3n);
    machine.map(USER_DATA, PAGE_SHARED);
    machine.map(K, PAGE_KERNEL);
    machine.words(USER_DATA, 0x77n);
    // ldr x0,[x1]; ldr x3,[x2]; ret
    load(machine, USER_TEXT, [0xf940_0020, 0xf940_0043, RET]);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    machine.cpu.write('x1', USER_DATA | (0x5an << 56n));
    machine.cpu.write('x2', K);
    expect(run(machine, USER_TEXT)).toEqual({ kind: 'signal', signo: 11, code: 1, address: K });
    expect(machine.cpu.read('x0')).toBe(0x77n);
    expect(faults(machine)).toEqual(['9200000f']);
    machine.cpu.write('x2', USER_DATA);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    expect(run(machine, USER_TEXT)).toEqual({ kind: 'returned' });
  });

  test('a system call ends the run at its instruction', () => {
    const machine = machineWithEngine();
    machine.becomeUserTask();
    machine.map(USER_TEXT, 0x0020_0000_0000_0fc3n);
    load(machine, USER_TEXT, [0xd400_0001]);
    arm64.prepareUser(machine.here, USER_TEXT, 0n);
    expect(run(machine, USER_TEXT)).toEqual({ kind: 'stopped', why: 'svc', pc: USER_TEXT });
  });
});
