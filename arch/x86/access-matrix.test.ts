import { afterAll, describe, expect, test } from '@jest/globals';
import { type Event, EventLog } from '../../emu/events.js';
import { drain, Trace } from '../../emu/path.js';
import { NativeEngine } from '../../emu/unicorn/native-engine.js';
import type { ThisCpu } from '../arch.js';
import { TaskDead, type task_struct } from '../kernel.js';
import { DEFAULT_CONFIG } from '../kernel-config.js';
import { BENIGN, Matrix, nameOf, pairwise, parseFilter } from './access-matrix.js';
import { AccessMachine, type MachineOptions, VA } from './access-matrix-machine.js';
import { AC, EXPECT, isLegal, type ModelCpu, NAMES, predict } from './access-model.js';
import { x86 } from './index.js';
import { FakeKernel } from './testing.js';

const engine = new NativeEngine();
const machines: AccessMachine[] = [];

afterAll(() => {
  for (const machine of machines) machine.close();
});

function machineWith(options: MachineOptions): AccessMachine {
  const machine = new AccessMachine(engine, options);
  machines.push(machine);
  return machine;
}

/** Combinations of which the machine and the model say different things, in words. */
function wrong(machine: AccessMachine, combinations: readonly number[]): string[] {
  const found: string[] = [];
  for (const c of combinations) {
    machine.run(c);
    const disagreement = machine.disagreement(c);
    if (disagreement !== null) found.push(`${nameOf(c)}: ${disagreement}`);
  }
  return found.slice(0, 5);
}

const bits = (...names: (keyof typeof AC)[]): number => names.reduce((all, name) => all | (1 << AC[name]), 0);

/** From where pairs of flags are changed: with one flag missing nearly everything faults in the same way. */
const BASES: Readonly<Record<string, number>> = {
  'a small page, supervisor': BENIGN,
  'a small page, user': BENIGN | bits('user'),
  'a small page, user, twice': BENIGN | bits('user', 'twice'),
  'a small page of a key that forbids writes': BENIGN | bits('pke', 'pkey', 'pkruWd', 'write'),
  'a large page, supervisor': BENIGN | bits('pdePse'),
  'a large page, user': BENIGN | bits('pdePse', 'user'),
  'a supervisor page': BENIGN & ~bits('pdeUser', 'pteUser'),
  SMEP: BENIGN | bits('smep', 'fetch'),
  'no flag': 0,
};

describe('real instructions fault and mark as kvm-unit-tests expects', () => {
  const cpus: readonly [MachineOptions, ModelCpu][] = [
    [
      { maxphyaddr: 46, levels: 4 },
      { maxphyaddr: 46, pku: true },
    ],
    [
      { maxphyaddr: 46, levels: 5 },
      { maxphyaddr: 46, pku: true },
    ],
    [
      { maxphyaddr: 36, levels: 4 },
      { maxphyaddr: 36, pku: true },
    ],
    [
      { maxphyaddr: 37, levels: 4 },
      { maxphyaddr: 37, pku: true },
    ],
    [
      { maxphyaddr: 51, levels: 4 },
      { maxphyaddr: 51, pku: true },
    ],
    [
      { maxphyaddr: 52, levels: 4 },
      { maxphyaddr: 52, pku: false },
    ],
  ];
  test.each(cpus)('every flag and every pair of flags on %j', (options, cpu) => {
    const machine = machineWith(options);
    const bases = Object.values(BASES).filter((base) => isLegal(base, cpu));
    expect(bases).not.toEqual([]);
    for (const base of bases) expect(wrong(machine, pairwise(base, cpu))).toEqual([]);
  });

  test('flags that go together are all there', () => {
    const cpu = { maxphyaddr: 36, pku: true };
    const all = new Set(Object.values(BASES).flatMap((base) => pairwise(base, cpu)));
    const together = (a: number, b: number): boolean =>
      [...all].some((c) => ((c >> a) & 1) === 1 && ((c >> b) & 1) === 1);
    const missing: string[] = [];
    for (let a = 0; a < NAMES.length; a++) {
      for (let b = 0; b < a; b++) if (!together(a, b)) missing.push(nameOf((1 << a) | (1 << b)));
    }
    // A fetch is no write, and only one reserved bit is set at a time.
    const reserved = ['pte.51', 'pte.36', 'pde.51', 'pde.36', 'pde.13'];
    const pairs = reserved.flatMap((a, i) => reserved.slice(0, i).map((b) => `${b} ${a}`));
    expect(missing.sort()).toEqual(['write fetch', ...pairs].sort());
  });

  test('the kernel is told of the same faults: events, CR2, the frame on its stack', () => {
    const machine = machineWith({ maxphyaddr: 46, levels: 4 });
    const { cpu, mmu, ram } = machine;
    let faults: string[] = [];
    let code = 0;
    const sink = {
      emit(event: Event): void {
        if (event.type !== 'fault') return;
        code = Number(event.code);
        faults.push(
          `${event.exception} 0x${event.address.toString(16)} CR2 0x${cpu.read('cr2').toString(16)}`,
        );
      },
    };
    const kernel = new FakeKernel({ ...DEFAULT_CONFIG, show_unhandled_signals: false }, new EventLog());
    const stack = 0xffffffff81002000n;
    const current: task_struct = {
      ...{ comm: 't', pid: 100, uid: 0, mm: kernel.init_mm, active_mm: kernel.init_mm },
      ...{ stack, stackSize: 0x1000, pagefault_disabled: 0, in_interrupt: 0, preempt_count: 0 },
      signal_pending: 'none',
    };
    const trace = new Trace(0, sink);
    const here: ThisCpu = { cpu, mmu, ram, trace, arch: x86, kernel, current, regs: null };
    machine.deliver = (miss) => {
      faults = [];
      cpu.write('cr2', 0n);
      const user = cpu.privilege() === 'user';
      const top = user ? stack + 0x1000n : cpu.read('rsp') & ~15n;
      const rip = cpu.read('rip');
      try {
        drain(x86.handleStop(here, miss));
      } catch (thrown) {
        if (!(thrown instanceof TaskDead)) throw thrown;
      }
      expect(faults).toEqual([`#PF 0x${VA.toString(16)} CR2 0x${VA.toString(16)}`]);
      expect(ram.readU64(mmu.peek(top - 40n))).toBe(rip);
      expect(ram.readU64(mmu.peek(top - 32n))).toBe(user ? 0x33n : 0x10n);
      // An oops may read code that is not there, which changes it.
      mmu.cr2 = VA;
      return code;
    };
    const cpuModel = { maxphyaddr: 46, pku: true };
    for (const base of [BENIGN, BENIGN | bits('user')]) {
      const faulting = pairwise(base, cpuModel).filter((c) => (predict(c) & EXPECT.fault) !== 0);
      expect(faulting.length).toBeGreaterThan(100);
      expect(wrong(machine, faulting)).toEqual([]);
    }
  });
});

describe('the matrix', () => {
  test('has as many combinations as the program runs', () => {
    const count = (maxphyaddr: number, pku: boolean): number =>
      new Matrix({ maxphyaddr, pku, smep: false }).count;
    expect(count(46, true)).toBe(19_169_280);
    expect([count(37, true), count(51, true)]).toEqual([19_169_280, 19_169_280]);
    expect(count(52, true)).toBe(9_338_880);
    expect(count(46, false)).toBe(1_916_928);
    expect(count(52, false)).toBe(933_888);
  });

  test('a part of it has the numbers that it has in the whole', () => {
    const matrix = new Matrix({ maxphyaddr: 46, pku: false, smep: false });
    const list = (from: number, to: number): [number, number][] => {
      const seen: [number, number][] = [];
      matrix.visit({ from, to }, (c, index) => seen.push([c, index]) > 0);
      return seen;
    };
    const whole = list(0, 60_000);
    expect(whole.map(([, index]) => index)).toEqual(Array.from({ length: 60_000 }, (_, i) => i));
    expect(list(29_000, 60_000)).toEqual(whole.slice(29_000));
    expect(whole.every(([c], i) => i === 0 || c > (whole[i - 1]?.[0] ?? 0))).toBe(true);
    expect(whole.every(([c]) => isLegal(c, { maxphyaddr: 46, pku: false }))).toBe(true);
    expect(matrix.countOf(parseFilter(''), 29_000, 60_000)).toBe(31_000);
  });

  test('a filter leaves what has its flags', () => {
    const matrix = new Matrix({ maxphyaddr: 46, pku: false, smep: false });
    const filter = parseFilter('user, pde.nx !efer.nx');
    let seen = 0;
    matrix.visit({ filter }, (c) => {
      if ((c & bits('user', 'pdeNx', 'nxe')) !== bits('user', 'pdeNx')) throw new Error(nameOf(c));
      seen += 1;
      return true;
    });
    expect(seen).toBe(matrix.countOf(filter));
    // pde.nx is reserved, so nothing else may be: 14 flags are free, and the access is one of three.
    expect(seen).toBe(2 ** 14 * 3);
    expect(() => parseFilter('pte.x')).toThrow('there is no flag "pte.x"');
    expect(() => parseFilter('user !user')).toThrow('user: set and clear at once');
  });
});
