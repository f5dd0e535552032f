/**
 * The path with the real engine: guest code runs, faults, is handled and runs on.
 */
import { afterEach, describe, expect, test } from '@jest/globals';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import { arm64 } from './index.js';
import { EngineMachine, K, TEXT, USER_DATA, USER_TEXT } from './testing.js';

const engine = new NativeEngine();
const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_KERNEL_RO = 0x00e0_0000_0000_0783n;
const PAGE_SHARED = 0x0068_0000_0000_0f43n;
const RET = 0xd65f_03c0;

const opened: EngineMachine[] = [];
afterEach(() => {
  for (const { cpu } of opened.splice(0)) cpu.close();
});

function machineWithEngine(config = {}): EngineMachine {
  const machine = new EngineMachine(engine, config);
  opened.push(machine);
  return machine;
}

/** The arena's part: install a page where there is none, and say so. */
function recover(machine: EngineMachine): void {
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
    expect(machine.call(words, { x0: 0x55n, x1: K & ~0xfn })).toEqual({ kind: 'returned' });
    expect(machine.faults()).toEqual(esrs);
  });

  test('a load across two missing pages faults twice, at its first byte and at the second page', () => {
    const machine = machineWithEngine();
    machine.entryPa(K, 3);
    recover(machine);
    const end = (K & ~0xfffn) + 0x1000n;
    machine.call([0xf940_0020, RET], { x1: end - 4n });
    const addresses = machine.log.events.flatMap((event) => (event.type === 'fault' ? [event.address] : []));
    expect(addresses).toEqual([end - 4n, end]);
  });

  test('an exception-table fixup: the destination is cleared and the code goes on behind', () => {
    const machine = machineWithEngine();
    machine.addExtable({ type: 'BPF', clear: 'x0', arena: { register: 'x2', offset: 8 } });
    // ldr x0,[x1]; mov x3,#7; ret
    expect(machine.call([0xf940_0020, 0xd280_00e3, RET], { x0: 5n, x1: K, x2: 0x1000n })).toEqual({
      kind: 'returned',
    });
    expect([machine.cpu.read('x0'), machine.cpu.read('x3')]).toEqual([0n, 7n]);
    expect(machine.kernel.reports).toEqual([{ write: false, addr: 0x1008n, ip: TEXT }]);
  });

  test('a handler that installs nothing is a livelock', () => {
    const machine = machineWithEngine();
    machine.kernel.answers.arena = () => true;
    expect(machine.call([0xf940_0020, RET], { x1: K })).toMatchObject({
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
    expect(machine.call(words, { x1: K & ~0xfn })).toMatchObject({ kind: 'oops', signal: 11 });
    expect(machine.faults()).toEqual([esr]);
  });

  test('a misaligned exclusive on a mapped page', () => {
    const machine = machineWithEngine();
    machine.map(K, PAGE_KERNEL);
    expect(machine.call([0xc85f_7c20, RET], { x1: K + 2n })).toMatchObject({ kind: 'oops' });
    expect(machine.faults()).toEqual(['96000021']);
  });

  test('PAN: a plain load of a user page is refused, LDTR is not', () => {
    const machine = machineWithEngine();
    machine.becomeUserTask();
    machine.map(USER_DATA, PAGE_SHARED);
    machine.words(USER_DATA, 0x1234n);
    // ldtr x0,[x1]; ret
    expect(machine.call([0xf840_0820, RET], { x1: USER_DATA })).toEqual({ kind: 'returned' });
    expect(machine.cpu.read('x0')).toBe(0x1234n);
    expect(machine.call([0xf940_0020, RET], { x1: USER_DATA })).toMatchObject({ kind: 'oops' });
    expect(machine.faults()).toEqual(['9600000f']);
    // msr pan,#0; ldr x0,[x1]; ret
    const open = [0xd500_409f, 0xf940_0020, RET];
    expect(machine.call(open, { x0: 0n, x1: USER_DATA })).toEqual({ kind: 'returned' });
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
    machine.load(USER_TEXT, [0xf940_0020, 0xf940_0043, RET]);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    machine.cpu.write('x1', USER_DATA | (0x5an << 56n));
    machine.cpu.write('x2', K);
    expect(machine.run(USER_TEXT)).toEqual({ kind: 'signal', signo: 11, code: 1, address: K });
    expect(machine.cpu.read('x0')).toBe(0x77n);
    expect(machine.faults()).toEqual(['9200000f']);
    machine.cpu.write('x2', USER_DATA);
    arm64.prepareUser(machine.here, USER_TEXT, USER_DATA + 0x800n);
    expect(machine.run(USER_TEXT)).toEqual({ kind: 'returned' });
  });

  test('a system call ends the run at its instruction', () => {
    const machine = machineWithEngine();
    machine.becomeUserTask();
    machine.map(USER_TEXT, 0x0020_0000_0000_0fc3n);
    machine.load(USER_TEXT, [0xd400_0001]);
    arm64.prepareUser(machine.here, USER_TEXT, 0n);
    expect(machine.run(USER_TEXT)).toEqual({ kind: 'stopped', why: 'svc', pc: USER_TEXT });
  });
});
