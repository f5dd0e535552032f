import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, type Cpu, type CpuStop } from './cpu.js';
import { EventLog } from './events.js';
import { drain, Trace } from './path.js';
import {
  DEFAULT_LIMITS,
  type Guest,
  type RaisedStop,
  type RunLimits,
  runGuest,
  type StopResult,
} from './run.js';

const MISS: CpuStop = { kind: 'miss', va: 0x5000n, access: ACCESS_READ };
const LIMITS: RunLimits = { ...DEFAULT_LIMITS, refaults: 3 };

interface Turn {
  readonly stop: CpuStop;
  /** Instructions that complete before the stop. */
  readonly executed?: number;
}

/** A guest whose engine and handler say what they are told to; the last turn repeats. */
function run(
  turns: readonly Turn[],
  results: readonly StopResult[],
  limits: RunLimits = LIMITS,
  now: () => number = () => 0,
  raised: RaisedStop | null = null,
): {
  outcome: unknown;
  log: EventLog;
  starts: { pc: bigint; count: number }[];
  stops: CpuStop[];
  written: [string, bigint][];
} {
  const log = new EventLog();
  const stops: CpuStop[] = [];
  const written: [string, bigint][] = [];
  const starts: { pc: bigint; count: number }[] = [];
  let handled = 0;
  const cpu = {
    executed: 0,
    read: () => 0x1234n,
    write: (name: string, value: bigint) => written.push([name, value]),
    start(pc: bigint, count: number): CpuStop {
      const turn = turns[Math.min(starts.length, turns.length - 1)] as Turn;
      starts.push({ pc, count });
      this.executed = turn.executed ?? 0;
      return turn.stop;
    },
  };
  const guest: Guest = {
    cpu: cpu as unknown as Cpu,
    trace: new Trace(0, log),
    pcRegister: 'pc',
    handleStop(stop) {
      stops.push(stop);
      const result = results[Math.min(handled, results.length - 1)] as StopResult;
      handled += 1;
      return new Trace(0, log).immediate(result);
    },
    now,
  };
  return { outcome: drain(runGuest(guest, 0x1000n, limits, raised)), log, starts, stops, written };
}

const retry = (entry: bigint, address = 0x5000n): StopResult => ({
  how: 'retry',
  pc: 0x1000n,
  address,
  entry,
});
const fixup: StopResult = { how: 'fixup', pc: 0x1004n, address: 0x5000n, entry: 0n };

describe('a run of guest code', () => {
  test('ends with its outcome as the last event, whatever came between', () => {
    const { outcome, log, starts } = run([{ stop: MISS }, { stop: { kind: 'exit' } }], [retry(0n)]);
    expect(outcome).toEqual({ kind: 'returned' });
    expect(log.events.map(({ type }) => type)).toEqual(['run', 'resolved', 'outcome']);
    expect(starts.map(({ pc }) => pc)).toEqual([0x1000n, 0x1000n]);
  });

  test('goes on where the fixup says', () => {
    const { starts } = run([{ stop: MISS }, { stop: { kind: 'exit' } }], [fixup]);
    expect(starts[1]?.pc).toBe(0x1004n);
  });

  test('is a livelock when the same instruction, address and entry come back too often', () => {
    const { outcome, starts } = run([{ stop: MISS }], [retry(0x60n)]);
    expect(outcome).toEqual({ kind: 'livelock', pc: 0x1000n, address: 0x5000n, turns: 3 });
    expect(starts).toHaveLength(3);
  });

  test('makes progress when the entry, the address or the instruction differ from turn to turn', () => {
    const exit = { stop: { kind: 'exit' } } as const;
    const six = [...Array.from({ length: 6 }, () => ({ stop: MISS })), exit];
    const entries = [0n, 1n, 0n, 1n, 0n, 1n].map((entry) => retry(entry));
    expect(run(six, entries).outcome).toEqual({ kind: 'returned' });
    const addresses = [0n, 1n, 2n, 3n, 4n, 5n].map((page) => retry(0n, page * 4096n));
    expect(run(six, addresses).outcome).toEqual({ kind: 'returned' });
    expect(run(six, [fixup]).outcome).toEqual({ kind: 'returned' });
  });

  test('stops at its budget of instructions exactly', () => {
    const limits = { ...LIMITS, instructions: 25_000_000 };
    const { outcome, starts } = run([{ stop: { kind: 'count' } }], [], limits);
    expect(outcome).toEqual({ kind: 'budget', instructions: 25_000_000 });
    expect(starts.map(({ count }) => count)).toEqual([10_000_000, 10_000_000, 5_000_000]);
  });

  test('pays for what ran before a fault, and for the instruction that faulted', () => {
    const limits = { ...LIMITS, instructions: 100 };
    const { outcome, starts } = run([{ stop: MISS, executed: 29 }], [fixup], limits);
    expect(outcome).toEqual({ kind: 'budget', instructions: 100 });
    expect(starts.map(({ count }) => count)).toEqual([100, 70, 40, 10]);
  });

  test('stops when its time is over, also when it only faults', () => {
    let clock = 0;
    const tick = (): number => {
      clock += 300;
      return clock;
    };
    const limits = { ...LIMITS, instructions: 1e9, milliseconds: 1000 };
    expect(run([{ stop: { kind: 'count' } }], [], limits, tick).outcome).toEqual({
      kind: 'deadline',
      milliseconds: 1000,
    });
    clock = 0;
    expect(run([{ stop: MISS }], [fixup], limits, tick).outcome).toEqual({
      kind: 'deadline',
      milliseconds: 1000,
    });
  });

  test('reports what is raised before anything runs, with pc at the first instruction, and only once', () => {
    const raised: RaisedStop = { kind: 'raised', number: 14, syndrome: 0xdn, address: 0x5000n };
    const exit = { stop: { kind: 'exit' } } as const;
    const first = run([exit], [retry(0n)], { ...LIMITS, instructions: 2 }, () => 0, raised);
    expect(first.stops).toEqual([raised]);
    expect(first.written).toEqual([['pc', 0x1000n]]);
    expect(first.starts).toEqual([{ pc: 0x1000n, count: 1 }]);
    expect(first.outcome).toEqual({ kind: 'returned' });
    const fixed = run([exit], [fixup], LIMITS, () => 0, raised);
    expect(fixed.starts.map(({ pc }) => pc)).toEqual([0x1004n]);
  });

  test('ends when the handler says so', () => {
    const outcome = { kind: 'oops', title: 'BUG', signal: 9 } as const;
    expect(run([{ stop: MISS }], [{ how: 'end', outcome }]).outcome).toEqual(outcome);
  });
});
