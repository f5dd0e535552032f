import { afterEach, expect, test } from '@jest/globals';
import type { ThisCpu } from '../arch/arch.js';
import { x86 } from '../arch/x86/index.js';
import { NO_EVENTS } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { NativeEngine } from '../emu/unicorn/native-engine.js';
import { __kmalloc_noprof, kmem_cache_alloc_noprof, kmem_cache_free } from '../mm/slab.js';
import { GFP_KERNEL, type kmem_cache } from '../mm/slab-cache.js';
import { System } from './system.js';

/**
 * Reports of real kernels, from published logs: pool, object, task and time are set up as they tell, the same
 * thing goes wrong, and the lines about it must come out again. How long ago things were is not compared: v6.0
 * did not say it, and to the console that the other kernel wrote to 91 ms and more went by inside of the report.
 */
interface RealReport {
  readonly name: string;
  readonly release: string;
  /** Null where pointers were hashed. */
  readonly pool: bigint | null;
  readonly slot: number;
  readonly side: 'left' | 'right';
  readonly size: number;
  /** Created for the test; a kmalloc cache otherwise. */
  readonly cache?: string;
  readonly task: { readonly pid: number; readonly cpu: number };
  /** Microseconds since boot: of the allocation and the free. */
  readonly times: { readonly alloc: number; readonly free?: number };
  readonly fn: {
    readonly name: string;
    readonly offset: number;
    readonly size: number;
    readonly module?: string;
  };
  /** What goes wrong there: an instruction with the object in a register, or a byte that the free finds. */
  readonly access?: { readonly code: string; readonly register: string };
  readonly changed?: { readonly at: number; readonly to: number };
  /** Lines of the report. */
  readonly title: string;
  readonly detail: string;
  readonly object: string;
  readonly allocated: string;
  readonly freed?: string;
}

const NEXT_20220831 = '6.0.0-rc3-next-20220831-00002-g6db6c886e5af';
/** Three reports of one boot: each object's page says the same. */
const POOL = 0xffff888136c00000n;

const REPORTS: readonly RealReport[] = [
  {
    // https://lore.kernel.org/all/Yw9zu4RV8Z9QzYiL@feng-clx/
    name: 'v6.0, read in front of an object',
    release: NEXT_20220831,
    pool: POOL,
    slot: 89,
    side: 'left',
    size: 32,
    task: { pid: 180, cpu: 1 },
    times: { alloc: 10_776_914 },
    fn: { name: 'test_out_of_bounds_read', offset: 0x114, size: 0x257 },
    access: { code: '41 8a 47 ff', register: 'r15' },
    title: 'BUG: KFENCE: out-of-bounds read in test_out_of_bounds_read+0x114/0x257',
    detail: 'Out-of-bounds read at 0xffff888136cb3fff (1B left of kfence-#89):',
    object: 'kfence-#89: 0xffff888136cb4000-0xffff888136cb401f, size=32, cache=kmalloc-32',
    allocated: 'allocated by task 180 on cpu 1 at 10.776914s:',
  },
  {
    // The same mail.
    name: 'v6.0, read of a freed object',
    release: NEXT_20220831,
    pool: POOL,
    slot: 106,
    side: 'left',
    size: 32,
    task: { pid: 184, cpu: 1 },
    times: { alloc: 12_544_884, free: 12_544_915 },
    fn: { name: 'test_use_after_free_read', offset: 0x103, size: 0x191 },
    access: { code: '41 8a 06', register: 'r14' },
    title: 'BUG: KFENCE: use-after-free read in test_use_after_free_read+0x103/0x191',
    detail: 'Use-after-free read at 0xffff888136cd6000 (in kfence-#106):',
    object: 'kfence-#106: 0xffff888136cd6000-0xffff888136cd601f, size=32, cache=kmalloc-32',
    allocated: 'allocated by task 184 on cpu 1 at 12.544884s:',
    freed: 'freed by task 184 on cpu 1 at 12.544915s:',
  },
  {
    // The same mail.
    name: 'v6.0, a byte behind an object was changed',
    release: NEXT_20220831,
    pool: POOL,
    slot: 114,
    side: 'left',
    size: 32,
    cache: 'test',
    task: { pid: 191, cpu: 1 },
    times: { alloc: 13_376_879, free: 13_376_917 },
    fn: { name: 'test_corruption', offset: 0xfd, size: 0x228 },
    changed: { at: 32, to: 0x2a },
    title: 'BUG: KFENCE: memory corruption in test_corruption+0xfd/0x228',
    detail: 'Corrupted memory at 0xffff888136ce6020 [ 0x2a . . . . . . . . . . . . . . . ] (in kfence-#114):',
    object: 'kfence-#114: 0xffff888136ce6000-0xffff888136ce601f, size=32, cache=test',
    allocated: 'allocated by task 191 on cpu 1 at 13.376879s:',
    freed: 'freed by task 191 on cpu 1 at 13.376917s:',
  },
  {
    // https://lore.kernel.org/all/CA+fCnZfkMuk8dtk+5_7DK_h0Pxv_JNgJDL3D-8pBXOByzVOtzQ@mail.gmail.com/
    name: 'v6.12, the same in a module, with hashed pointers',
    release: '6.12.0-rc6-00221-g3738290bfc99',
    pool: null,
    slot: 20,
    side: 'left',
    size: 120,
    task: { pid: 3613, cpu: 7 },
    times: { alloc: 118_176_015, free: 118_176_094 },
    fn: { name: 'kmalloc_track_caller_oob_right', offset: 0x27b, size: 0x530, module: 'kasan_test' },
    changed: { at: 120, to: 0x78 },
    title: 'BUG: KFENCE: memory corruption in kmalloc_track_caller_oob_right+0x27b/0x530 [kasan_test]',
    detail: 'Corrupted memory at 0x00000000e59a4b3f [ ! . . . . . . . . . . . . . . . ] (in kfence-#20):',
    object: 'kfence-#20: 0x0000000036299d7e-0x000000000c1813d3, size=120, cache=kmalloc-128',
    allocated: 'allocated by task 3613 on cpu 7 at 118.176015s (0.091581s ago):',
    freed: 'freed by task 3613 on cpu 7 at 118.176094s (0.132012s ago):',
  },
];

const engine = new NativeEngine(undefined, { reuse: true });
let system: System | null = null;
afterEach(() => {
  system?.close();
  system = null;
});

function boot({ pool, release, task }: RealReport): System {
  return System.boot({
    arch: x86,
    engine,
    sink: NO_EVENTS,
    config: { release, no_hash_pointers: pool !== null },
    cpus: task.cpu + 1,
    kfence: pool === null ? {} : { pool },
  });
}

/** Code for the function of a report: its instruction at the offset, `int3` around it. Says its start. */
function load({ kernel, text }: System, here: ThisCpu, { fn, access }: RealReport): bigint {
  const start = text.base('kernel');
  const code = new Uint8Array(fn.size).fill(0xcc);
  // A return behind the instruction, to where calls return to.
  if (access !== undefined) code.set(Buffer.from(`${access.code} c3`.replaceAll(' ', ''), 'hex'), fn.offset);
  text.store(here, 'kernel', start, code);
  const { name, size, module } = fn;
  kernel.kallsyms.add({
    name,
    start,
    size,
    ...(module === undefined ? { kind: 'text' } : { kind: 'module', module }),
  });
  return start;
}

function reportOf(real: RealReport): string[] {
  const { fn, task, times, slot, side, size, changed, access } = real;
  system = boot(real);
  const { kernel } = system;
  const { slab, kfence, clock, kallsyms } = kernel;
  const before = kernel.console.records.length;
  const here = system.here(task.cpu);
  here.current.pid = task.pid;
  const start = load(system, here, real);
  const until = (time: number): void => clock.advance(time - clock.microseconds);

  const test: kmem_cache | null =
    real.cache === undefined ? null : slab.kmem_cache_create({ name: real.cache, size });
  until(times.alloc);
  kfence.placements.push({ kind: 'guarded', slot, side });
  const object = drain(
    test === null
      ? __kmalloc_noprof(here, slab, size, GFP_KERNEL)
      : kmem_cache_alloc_noprof(here, slab, test, GFP_KERNEL),
  );
  const free = (): void => {
    kfence.callers = [kallsyms.kallsyms_lookup_name('kmem_cache_free') + 0x40n, start + BigInt(fn.offset)];
    drain(kmem_cache_free(here, slab, test ?? slab.cacheOf('kmalloc-32') ?? never(), object));
  };
  if (changed !== undefined) {
    const { ram } = system;
    ram.write(kfence.physical(object + BigInt(changed.at)), Uint8Array.of(changed.to));
  }
  if (times.free !== undefined) {
    until(times.free);
    free();
  }
  if (access !== undefined) {
    const registers = new Map([[access.register, object]]);
    expect(drain(system.call(task.cpu, start + BigInt(fn.offset), registers))).toEqual({ kind: 'returned' });
  }
  return kernel.console.lines(before);
}

function never(): never {
  throw new Error('there is always a kmalloc-32');
}

/** Hashed pointers are 32 bits: all the same then. */
function unhashed(line: string): string {
  return line.replaceAll(/0x0{8}[0-9a-f]{8}\b/g, '0x00000000########');
}

test.each(REPORTS.map((real): [string, RealReport] => [real.name, real]))('%s', (_, real) => {
  const lines = reportOf(real);
  expect(lines.filter((line) => line.startsWith('BUG: '))).toEqual([real.title]);
  const withoutAgo = (line: string): string => line.replace(/ \(\d+\.\d{6}s ago\):$/, ':');
  const interesting = lines.map(unhashed);
  expect(interesting[3]).toBe(unhashed(real.detail));
  const at = interesting.indexOf(unhashed(real.object));
  expect(at).toBeGreaterThan(3);
  const tracks = interesting.slice(at).filter((line) => / by task \d+ on cpu /.test(line));
  const expected = real.freed === undefined ? [real.allocated] : [real.allocated, real.freed];
  expect(tracks.map(withoutAgo)).toEqual(expected.map(withoutAgo));
  for (const line of tracks) expect(line).toMatch(/s \(\d+\.\d{6}s ago\):$/);
});
