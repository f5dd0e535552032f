import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, type Cpu, EngineError, type TlbFiller } from '../cpu.js';
import type { Ram } from '../ram.js';
import { registeredCallbacks } from './bindings.js';
import { NativeEngine } from './native-engine.js';
import type { Isa } from './raw-engine.js';
import { CODE, DATA, RAM_BASE, RWX, SENTINEL, TestPages, words } from './test-machine.js';

const SIZE = 1 << 20;
const ISAS: readonly Isa[] = ['x86-64', 'arm64'];

/** Stores to DATA and to the page behind it, then faults on an instruction that nobody knows. */
const DIRTY: Readonly<Record<Isa, readonly number[]>> = {
  // mov [rdi], rdi; mov [rdi + 4096], rdi; ud2
  'x86-64': [0x48, 0x89, 0x3f, 0x48, 0x89, 0xbf, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x0b],
  // str x0, [x0]; add x1, x0, #1, lsl #12; str x0, [x1]; udf #0
  arm64: words(0xf9000000, 0x91400401, 0xf9000020, 0x00000000),
};
const POINTER = { 'x86-64': 'rdi', arm64: 'x0' } as const;

interface Machine {
  readonly ram: Ram;
  readonly pages: TestPages;
  readonly cpu: Cpu;
}

function machine(engine: NativeEngine, isa: Isa): Machine {
  const ram = engine.createRam(RAM_BASE, SIZE);
  const pages = new TestPages();
  pages.map(CODE, RAM_BASE);
  pages.map(DATA, RAM_BASE + 0x20000);
  pages.map(DATA + 0x1000n, RAM_BASE + 0x21000);
  return { ram, pages, cpu: engine.createCpu(isa, ram, { id: 0, filler: pages, sentinel: SENTINEL }) };
}

function close(engine: NativeEngine, { cpu, ram }: Machine): void {
  cpu.close();
  engine.releaseRam(ram);
}

/** Every register that can be read. The sentinel and what a write changes elsewhere are left to the engine. */
function state(cpu: Cpu): Record<string, bigint> {
  return Object.fromEntries(cpu.registerNames.map((name) => [name, cpu.read(name)]));
}

/** Leaves as much behind as a guest and a host can. */
function use({ ram, cpu }: Machine, isa: Isa): void {
  ram.bytes.fill(0xa5);
  ram.write(RAM_BASE, Uint8Array.from(DIRTY[isa]));
  cpu.write(POINTER[isa], DATA);
  expect(cpu.start(CODE, 10)).toEqual({ kind: 'invalid-instruction' });
  expect(ram.readU64(RAM_BASE + 0x21000)).toBe(DATA);
  cpu.setPrivilege('user');
  // Control registers too: the CPU may leave its mode of operation.
  cpu.registerNames.forEach((name, i) => {
    try {
      cpu.write(name, 0x40n * BigInt(i + 1));
    } catch (error) {
      // Selectors and the exception level cannot be written.
      if (!(error instanceof EngineError)) throw error;
    }
  });
}

describe.each(ISAS)('a machine made of the parts of another one, %s', (isa) => {
  test('has the same memory and the same engine', () => {
    const engine = new NativeEngine(undefined, { reuse: true });
    const first = machine(engine, isa);
    close(engine, first);
    const before = registeredCallbacks();
    const second = machine(engine, isa);
    expect(second.ram.memory).toBe(first.ram.memory);
    expect(registeredCallbacks()).toBe(before);
    close(engine, second);
    engine.close();
  });

  test('finds zeros in all of its ram, and every register as in a CPU that nobody used', () => {
    const unused = new NativeEngine();
    const fresh = machine(unused, isa);
    const expected = state(fresh.cpu);
    const privilege = fresh.cpu.privilege();
    close(unused, fresh);

    const engine = new NativeEngine(undefined, { reuse: true });
    const first = machine(engine, isa);
    use(first, isa);
    expect(state(first.cpu)).not.toEqual(expected);
    close(engine, first);
    const second = machine(engine, isa);
    expect(second.ram.bytes.every((byte) => byte === 0)).toBe(true);
    expect(state(second.cpu)).toEqual(expected);
    expect(second.cpu.privilege()).toBe(privilege);
    expect(second.cpu.executed).toBe(0);
    close(engine, second);
    engine.close();
  });

  test('asks for every translation again, and runs the code that is there now', () => {
    const engine = new NativeEngine(undefined, { reuse: true });
    const first = machine(engine, isa);
    use(first, isa);
    close(engine, first);

    const second = machine(engine, isa);
    // Where the first one had a store there is now something that nobody knows.
    second.ram.write(RAM_BASE, Uint8Array.from(isa === 'x86-64' ? [0x0f, 0x0b] : [0, 0, 0, 0]));
    expect(second.cpu.start(CODE, 10)).toEqual({ kind: 'invalid-instruction' });
    expect(second.pages.takeAsked()).toEqual([`x ${CODE.toString(16)}`]);
    second.ram.write(RAM_BASE, Uint8Array.from(DIRTY[isa]));
    second.cpu.flushCode();
    second.pages.unmap(DATA);
    second.cpu.write(POINTER[isa], DATA);
    expect(second.cpu.start(CODE, 10)).toEqual({ kind: 'miss', va: DATA, access: ACCESS_READ + 1 });
    expect(first.pages.takeAsked().at(-1)).toBe(`w ${(DATA + 0x1000n).toString(16)}`);
    close(engine, second);
    engine.close();
  });

  test('is not made where ram, place, number or sentinel differ', () => {
    const engine = new NativeEngine(undefined, { reuse: true });
    const first = machine(engine, isa);
    close(engine, first);
    expect(engine.createRam(RAM_BASE, 2 * SIZE).memory).not.toBe(first.ram.memory);
    expect(engine.createRam(RAM_BASE + 0x100000, SIZE).memory).not.toBe(first.ram.memory);
    const ram = engine.createRam(RAM_BASE, SIZE);
    expect(ram.memory).toBe(first.ram.memory);
    const before = registeredCallbacks();
    const filler = first.pages;
    const other = engine.createCpu(isa, ram, { id: 1, filler, sentinel: SENTINEL });
    const elsewhere = engine.createCpu(isa, ram, { id: 0, filler, sentinel: SENTINEL + 0x1000n });
    expect(registeredCallbacks()).toBeGreaterThan(before);
    other.close();
    elsewhere.close();
    engine.releaseRam(ram);
    engine.close();
  });

  test('is not made of a CPU whose callback threw: that one is freed, and the next works', () => {
    const engine = new NativeEngine(undefined, { reuse: true });
    const none = registeredCallbacks();
    const broken: TlbFiller = {
      pa: 0,
      fill: () => {
        throw new Error('a walker with a defect');
      },
    };
    const ram = engine.createRam(RAM_BASE, SIZE);
    const cpu = engine.createCpu(isa, ram, { id: 0, filler: broken, sentinel: SENTINEL });
    expect(() => cpu.start(CODE, 1)).toThrow('a walker with a defect');
    // A run that goes well afterwards does not make it a sound one.
    broken.fill = () => 0;
    expect(cpu.start(CODE, 1).kind).toBe('miss');
    cpu.close();
    engine.releaseRam(ram);
    expect(registeredCallbacks()).toBe(none);

    const next = machine(engine, isa);
    use(next, isa);
    close(engine, next);
    engine.close();
    expect(registeredCallbacks()).toBe(none);
  });
});

test('both architectures and several machines at once share what is idle without sharing what is in use', () => {
  const engine = new NativeEngine(undefined, { reuse: true });
  const none = registeredCallbacks();
  const machines = [...ISAS, ...ISAS].map((isa) => machine(engine, isa));
  expect(new Set(machines.map(({ ram }) => ram.memory)).size).toBe(4);
  for (const each of machines) close(engine, each);
  const again = [...ISAS, ...ISAS].map((isa) => machine(engine, isa));
  expect(new Set(again.map(({ ram }) => ram.memory)).size).toBe(4);
  for (const each of again) close(engine, each);
  engine.close();
  expect(registeredCallbacks()).toBe(none);
});

test('what lies idle stays below a limit: the oldest is freed', () => {
  const engine = new NativeEngine(undefined, { reuse: true });
  const none = registeredCallbacks();
  const size = 128 << 20;
  const filler = new TestPages();
  filler.map(CODE, RAM_BASE, RWX);
  const rams = Array.from({ length: 6 }, () => engine.createRam(RAM_BASE, size));
  for (const ram of rams) engine.createCpu('x86-64', ram, { id: 0, filler, sentinel: SENTINEL }).close();
  const all = registeredCallbacks();
  for (const ram of rams) engine.releaseRam(ram);
  // 512 MiB of them are kept.
  expect(registeredCallbacks() - none).toBe(((all - none) * 4) / 6);
  expect(engine.createRam(RAM_BASE, size).memory).toBe(rams[5]?.memory);
  engine.close();
});
