import { afterAll, describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ } from '../cpu.js';
import { NativeEngine } from './native-engine.js';
import { CODE, DATA, RAM_BASE, SENTINEL, STACK, type TestMachine, testMachine } from './test-machine.js';

const engine = new NativeEngine(undefined, { reuse: true });
afterAll(() => engine.close());

const ISAS = [
  {
    isa: 'x86-64' as const,
    pc: 'rip',
    counter: 'rbx',
    size: 3n,
    /** inc rbx, three times; then mov rax, [rdi]; inc rbx; back to the start. */
    code: [
      [0x48, 0xff, 0xc3],
      [0x48, 0xff, 0xc3],
      [0x48, 0xff, 0xc3],
      [0x48, 0x8b, 0x07],
      [0x48, 0xff, 0xc3],
      [0xeb, 0xef],
    ],
    base: 'rdi',
    /** jmp rdi */
    jump: [0xff, 0xe7],
  },
  {
    isa: 'arm64' as const,
    pc: 'pc',
    counter: 'x1',
    size: 4n,
    /** add x1, x1, #1, three times; ldr x2, [x0]; add; b to the start. */
    code: [0x91000421, 0x91000421, 0x91000421, 0xf9400002, 0x91000421, 0x17fffffb].map((word) => [
      word & 0xff,
      (word >>> 8) & 0xff,
      (word >>> 16) & 0xff,
      (word >>> 24) & 0xff,
    ]),
    base: 'x0',
    /** br x0 */
    jump: [0x00, 0x00, 0x1f, 0xd6],
  },
];

describe.each(ISAS)('breaks on $isa', ({ isa, pc, counter, size, code, base, jump }) => {
  function machine(): TestMachine {
    const made = testMachine(engine, isa);
    made.load(code.flat());
    if (isa === 'x86-64') {
      made.ram.writeU64(RAM_BASE + 0x30ff8, SENTINEL);
      made.cpu.write('rsp', STACK + 0xff8n);
    }
    made.cpu.write(base, DATA);
    made.cpu.write(counter, 0n);
    return made;
  }
  const at = (i: number): bigint => CODE + BigInt(i) * size;
  const run = ({ cpu }: TestMachine, from: bigint, count: number) => {
    const { kind } = cpu.start(from, count);
    return [kind, cpu.executed, (cpu.read(pc) - CODE) / size, cpu.read(counter)];
  };

  test('before the instruction, each time it is come to, but not at the first of a start', () => {
    const m = machine();
    m.cpu.breakAt?.([at(2)]);
    expect(run(m, CODE, 1000)).toEqual(['count', 2, 2n, 2n]);
    expect(run(m, at(2), 1000)).toEqual(['count', 6, 2n, 6n]);
    expect(run(m, at(2), 1)).toEqual(['count', 1, 3n, 7n]);
    expect(run(m, at(3), 3)).toEqual(['count', 3, 0n, 8n]);
    m.cpu.close();
  });

  test('in code that has run before they were set, and not any more when they are gone', () => {
    const m = machine();
    expect(run(m, CODE, 12)).toEqual(['count', 12, 0n, 8n]);
    m.cpu.breakAt?.([at(4), at(1)]);
    expect(run(m, CODE, 12)).toEqual(['count', 1, 1n, 9n]);
    expect(run(m, at(1), 12)).toEqual(['count', 3, 4n, 11n]);
    m.cpu.breakAt?.([at(1)]);
    expect(run(m, at(4), 12)).toEqual(['count', 3, 1n, 13n]);
    m.cpu.breakAt?.([]);
    expect(run(m, at(1), 12)).toEqual(['count', 12, 1n, 21n]);
    m.cpu.close();
  });

  test('leave what else stops a start as it is', () => {
    const m = machine();
    m.cpu.breakAt?.([at(4)]);
    m.cpu.write(base, DATA + 0x1000n);
    expect(m.cpu.start(CODE, 100)).toEqual({ kind: 'miss', va: DATA + 0x1000n, access: ACCESS_READ });
    expect([m.cpu.executed, m.cpu.read(pc)]).toEqual([3, at(3)]);
    m.cpu.write(base, DATA);
    expect(run(m, at(3), 100)).toEqual(['count', 1, 4n, 3n]);
    m.cpu.close();
  });

  test('in front of what cannot be fetched, and of a block that leads to it', () => {
    const m = machine();
    const [lost, end] = [DATA + 0x1000n, CODE + 0x10000n];
    const last = end - 2n * size;
    m.load(jump, CODE);
    m.load([...(code[0] ?? []), ...(code[0] ?? [])], last);
    for (const [target, ran, missed] of [
      [lost, 0, lost],
      [last, 2, end],
    ] as const) {
      m.cpu.breakAt?.([target]);
      m.cpu.write(base, target);
      expect([m.cpu.start(CODE, 100), m.cpu.executed, m.cpu.read(pc)]).toEqual([
        { kind: 'count' },
        1,
        target,
      ]);
      expect([m.cpu.start(target, 100), m.cpu.executed]).toEqual([
        { kind: 'miss', va: missed, access: ACCESS_FETCH },
        ran,
      ]);
    }
    m.cpu.close();
  });

  test('do not outlive the machine they were set on', () => {
    const m = machine();
    m.cpu.breakAt?.([at(1)]);
    m.cpu.close();
    engine.releaseRam(m.ram);
    const next = machine();
    expect(run(next, CODE, 12)).toEqual(['count', 12, 0n, 8n]);
    next.cpu.close();
  });

  test('accesses are told by their physical address, whatever the address they are made at', () => {
    const m = machine();
    const seen: unknown[] = [];
    const tell = (pa: number, bytes: number, write: boolean): boolean => {
      seen.push([pa.toString(16), bytes, write]);
      return false;
    };
    m.cpu.tellAccesses?.([{ pa: RAM_BASE + 0x20004, size: 1 }], tell);
    expect(run(m, CODE, 3)).toEqual(['count', 3, 3n, 3n]);
    expect(seen).toEqual([]);
    expect(run(m, at(3), 1)).toEqual(['count', 1, 4n, 3n]);
    expect(seen).toEqual([[(RAM_BASE + 0x20000).toString(16), 8, false]]);
    m.cpu.write(base, DATA + 8n);
    m.cpu.start(at(3), 1);
    expect(seen.length).toBe(1);
    m.pages.map(DATA + 0x4000n, RAM_BASE + 0x20000);
    m.cpu.write(base, DATA + 0x4000n);
    m.cpu.start(at(3), 1);
    expect(seen.length).toBe(2);
    m.cpu.tellAccesses?.([], tell);
    m.cpu.start(at(3), 1);
    expect(seen.length).toBe(2);
    m.cpu.close();
  });

  test('an access that is told can end the start behind its instruction', () => {
    const m = machine();
    const ranges = [{ pa: RAM_BASE + 0x20000, size: 8 }];
    m.cpu.tellAccesses?.(ranges, () => true);
    expect(run(m, CODE, 1000)).toEqual(['count', 4, 4n, 3n]);
    expect(run(m, at(4), 1000)).toEqual(['count', 6, 4n, 7n]);
    expect(run(m, at(3), 1)).toEqual(['count', 1, 4n, 7n]);
    // Also when it would have ended there, or in front of a break.
    expect(run(m, at(4), 6)).toEqual(['count', 6, 4n, 11n]);
    m.cpu.breakAt?.([at(4)]);
    expect(run(m, at(4), 1000)).toEqual(['count', 6, 4n, 15n]);
    m.cpu.breakAt?.([at(3)]);
    expect(run(m, at(4), 1000)).toEqual(['count', 5, 3n, 19n]);
    m.cpu.breakAt?.([]);
    // An instruction that faults afterwards has not completed.
    m.cpu.write(base, DATA + 0xffcn);
    m.cpu.tellAccesses?.([{ pa: RAM_BASE + 0x20ff8, size: 8 }], () => true);
    const stop = m.cpu.start(at(1), 1000);
    expect([stop.kind, m.cpu.executed, m.cpu.read(pc)]).toEqual(['miss', 2, at(3)]);
    m.cpu.close();
  });
});
