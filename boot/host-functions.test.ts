import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';
import { EventLog, type RunOutcome } from '../emu/events.js';
import { drain, type Path } from '../emu/path.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import { GFP_KERNEL } from '../mm/slab-cache.js';
import { callHost } from './host-functions.js';
import { System } from './system.js';

const engine = new NativeEngine(undefined, { reuse: true });

/** F calls `target` and returns what it returns; G calls F. Each has a frame. */
const CODE: Record<
  Arch['name'],
  { call: (distance: number) => Uint8Array; halt: Uint8Array; behind: number }
> = {
  'x86-64': {
    // push rbp; mov rbp, rsp; call target; pop rbp; ret
    call: (distance) => {
      const code = Buffer.from('554889e5e8000000005dc3', 'hex');
      code.writeInt32LE(distance - 9, 5);
      return code;
    },
    halt: Uint8Array.of(0xf4),
    behind: 9,
  },
  arm64: {
    // stp x29, x30, [sp, #-16]!; mov x29, sp; bl target; ldp x29, x30, [sp], #16; ret
    call: (distance) => {
      const bl = (0x94000000 | (((distance - 8) >> 2) & 0x3ffffff)) >>> 0;
      return new Uint8Array(Uint32Array.of(0xa9bf7bfd, 0x910003fd, bl, 0xa8c17bfd, 0xd65f03c0).buffer);
    },
    halt: new Uint8Array(Uint32Array.of(0xd503207f).buffer),
    behind: 12,
  },
};

describe.each([x86, arm64])('a $name kernel function whose body is host code', (arch) => {
  let system: System;
  let log: EventLog;
  beforeEach(() => {
    log = new EventLog();
    system = System.boot({ arch, engine, sink: log, config: { no_hash_pointers: true }, kfence: {} });
  });
  afterEach(() => system.close());

  const load = (name: string, target: string): bigint => {
    const start = system.textBase('kernel');
    const distance = Number(system.kernel.kallsyms.kallsyms_lookup_name(target) - start);
    system.loadText({ name, start, code: CODE[arch.name].call(distance) });
    return start;
  };
  const call = (pc: bigint, ...args: bigint[]): RunOutcome => {
    const registers = arch.hostCall.argumentRegisters;
    return drain(system.call(0, pc, new Map(args.map((arg, i) => [registers[i] ?? '', arg]))));
  };

  test('gets its arguments, returns its result, and its stack is that of the guest', () => {
    const { kernel } = system;
    load('F', '__kmalloc_noprof');
    const g = load('G', 'F');
    kernel.kfence.placements.push({ kind: 'guarded', slot: 72, side: 'left' });
    expect(call(g, 32n, BigInt(GFP_KERNEL))).toEqual({ kind: 'returned' });
    const object = kernel.kfence.objectPage(72);
    expect(system.here().cpu.read(arch.returnRegister)).toBe(object);
    const { stack_entries } = kernel.kfence.kfence_metadata?.[72]?.alloc_track ?? { stack_entries: [] };
    const names = stack_entries.map((at) => kernel.sprint_symbol(at).replace(/\/.*/, ''));
    const { behind } = CODE[arch.name];
    expect(names).toEqual([
      '__kfence_alloc+0xb4',
      `__kmalloc_noprof+0x${arch.hostCall.resumeAt.toString(16)}`,
      `F+0x${behind.toString(16)}`,
      `G+0x${behind.toString(16)}`,
      `${arch.bottomFrame.fn}+0x${arch.bottomFrame.offset.toString(16)}`,
    ]);
    // It is no exception.
    expect(log.events.some(({ type }) => type === 'fault' || type === 'resolved')).toBe(false);
    expect(system.here().regs).toBeNull();
  });

  test('kmalloc() of a known size is served by the cache that the code names', () => {
    const { kernel } = system;
    const cache = kernel.slab.kmem_cache_create({ name: 'kmalloc-rnd-01-64', size: 64 });
    const kmalloc = kernel.kallsyms.kallsyms_lookup_name('__kmalloc_cache_noprof');
    expect(call(kmalloc, cache.address, BigInt(GFP_KERNEL), 20n)).toEqual({ kind: 'returned' });
    expect(kernel.slab.virt_to_cache(system.here().cpu.read(arch.returnRegister))).toBe(cache);
  });

  test('is named in a report as the caller sees it', () => {
    load('F', 'kfree');
    const g = load('G', 'F');
    const { kernel } = system;
    kernel.kfence.placements.push({ kind: 'guarded', slot: 81, side: 'left' });
    const kmalloc = system.kernel.kallsyms.kallsyms_lookup_name('__kmalloc_noprof');
    call(kmalloc, 32n, BigInt(GFP_KERNEL));
    const object = kernel.kfence.objectPage(81);
    expect(call(g, object)).toEqual({ kind: 'returned' });
    const before = kernel.console.records.length;
    expect(call(g, object)).toEqual({ kind: 'returned' });
    const lines = kernel.console.lines(before).map((line) => line.replace(/\/0x[0-9a-f]+$/, ''));
    const behind = `0x${CODE[arch.name].behind.toString(16)}`;
    expect(lines.slice(1, 7)).toEqual([
      `BUG: KFENCE: invalid free in F+${behind}`,
      '',
      `Invalid free of 0x${object.toString(16)} (in kfence-#81):`,
      ` F+${behind}`,
      ` G+${behind}`,
      expect.stringMatching(/^ ret_from_fork/),
    ]);
    expect(kernel.kfence.counters.BUGS).toBe(1);
  });

  test('what it does not come back from ends the run', () => {
    const f = load('F', 'kfree');
    const { kernel } = system;
    Object.assign(kernel.kfence, { kfence_fault: 'panic' });
    expect(call(f, kernel.kfence.objectPage(0))).toEqual({
      kind: 'panic',
      title: 'Kernel panic - not syncing: kfence.fault=panic set ...',
    });
    expect(system.here().regs).toBeNull();
  });

  test('refuses under its name what its caller gives it, but does not take a defect of its own for that', () => {
    const free = system.kernel.kallsyms.kallsyms_lookup_name('kmem_cache_free_bulk');
    // More objects than an array can have elements.
    const refused = () => call(free, 0n, 2n ** 40n, 0x1000n);
    expect(refused).toThrow(GuestRefusal);
    expect(refused).toThrow(/^kmem_cache_free_bulk\(\): no array of pointers at 0x1000$/);
    // biome-ignore lint/correctness/useYield: it throws
    function* body(): Path<bigint> {
      throw new RangeError('Invalid array length');
    }
    const defect = () => drain(callHost(system.here(), { name: 'f', size: 16, body }));
    expect(defect).toThrow(RangeError);
    expect(defect).toThrow(/^Invalid array length$/);
  });

  test('other code that halts is no function', () => {
    const start = system.textBase('kernel');
    system.loadText({ name: 'halts', start, code: CODE[arch.name].halt });
    expect(call(start).kind).toBe('stopped');
  });
});

describe.each([x86, arm64])('without KFENCE (%#)', (arch) => {
  test('there is no such function and no pool', () => {
    const system = System.boot({ arch, engine, sink: new EventLog() });
    try {
      expect(system.kernel.kallsyms.kallsyms_lookup_name('kfree')).toBe(0n);
      expect(system.memory.pages.count('kfence pool')).toBe(0);
      expect(system.kernel.console.records).toEqual([]);
    } finally {
      system.close();
    }
  });
});
