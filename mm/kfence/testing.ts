/** What the tests of this room share: a booted KFENCE in page tables of either architecture, no engine. */
import type { ThisCpu } from '../../arch/arch.js';
import type { pt_regs } from '../../arch/kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../../arch/kernel-config.js';
import { NO_EVENTS } from '../../emu/events.js';
import { drain } from '../../emu/path.js';
import type { TestCpu } from '../../kernel/testing.js';
import { pointer_string, ptr_to_id } from '../../kernel/vsprintf.js';
import { map_kernel_range } from '../map.js';
import type { Memory } from '../memory.js';
import { GFP_KERNEL, type kmem_cache } from '../slab-cache.js';
import { type ArchName, ptepOf, type TestMemory, testMemory } from '../testing.js';
import { flush_tlb_all, flush_tlb_kernel_range } from '../tlb.js';
import { kfence_alloc, kfence_free, kfence_handle_page_fault } from './core.js';
import { kfenceFunctions } from './frames.js';
import { kfence_check_all_canary, kfenceBoot } from './init.js';
import { type GuardedPlacement, Kfence, type KfenceOptions } from './state.js';

const REGS: pt_regs = { instruction_pointer: 0n, stack_pointer: 0n, user_mode: false };
/** Where functions of the kernel are that only their names matter of. */
const TEXT = 0xffff_ffff_8100_0000n;
const FUNCTION_SIZE = 0x1000n;
/** Bytes of the direct map that are mapped, at the end of the ram. */
const MAPPED = 4 << 20;

export interface TestOptions extends KfenceOptions {
  readonly arch?: ArchName;
  readonly config?: Partial<KernelConfig>;
  /** Bytes. */
  readonly ram?: number;
  readonly cpus?: number;
  /** Left out, the direct map is mapped as boot maps it. */
  readonly directMap?: false;
}

/** A machine with 64 MiB of ram, the pool in the last two, pointers as they are. */
export class TestKfence {
  readonly kfence: Kfence;
  readonly memory: Memory;
  readonly here: ThisCpu;
  readonly cpu: TestCpu;
  readonly test: TestMemory;
  /** What boot has printed. */
  readonly boot: readonly string[];
  /** The stack of whoever calls: functions F, G and H, one byte behind their calls. */
  readonly names = new Map<string, bigint>();
  #seen = 0;

  constructor(options: TestOptions = {}) {
    const { arch = 'x86-64', config, ram = 64 << 20, cpus = 1, directMap, ...kfence } = options;
    this.test = testMemory(arch, ram, cpus);
    const { memory, here } = this.test;
    this.memory = memory;
    const [cpu] = this.test.cpus;
    if (cpu === undefined) throw new Error('no CPU');
    this.cpu = cpu;
    for (const { name } of kfenceFunctions) this.#place(name);
    this.kfence = new Kfence(
      {
        memory,
        clock: cpu.clock,
        init: { ...DEFAULT_CONFIG, ...config },
        kallsyms_lookup_name: (name) => this.names.get(name) ?? 0n,
      },
      kfence,
    );
    this.here = Object.assign(
      here,
      this.#surroundings(here, { ...DEFAULT_CONFIG, no_hash_pointers: true, ...config }),
    );
    cpu.panic.panic_notifier_list.push((each) => kfence_check_all_canary(each, this.kfence));
    const { trace } = this.here;
    trace.sink = NO_EVENTS;
    if (directMap !== false) this.#mapDirectMap();
    kfenceBoot(this.here, this.kfence);
    trace.sink = cpu.log;
    this.boot = this.console();
    this.kfence.callers = this.stack('F', 'G');
  }

  /** What KFENCE asks of a kernel and an architecture, with the real parts where there are any. */
  #surroundings(here: ThisCpu, config: KernelConfig): Partial<ThisCpu> {
    const { memory, cpu } = this;
    const kernel = Object.assign(here.kernel, {
      config,
      init_mm: memory.init_mm,
      die_counter: 0,
      panic: cpu.panic.panic.bind(cpu.panic),
      make_task_dead: cpu.panic.make_task_dead.bind(cpu.panic),
      check_panic_on_warn: cpu.panic.check_panic_on_warn.bind(cpu.panic),
      hashed_pointer: (p: bigint) => (config.no_hash_pointers ? pointer_string(p) : ptr_to_id(p)),
      sprint_symbol: (at: bigint) => this.#symbol(at),
      flush_tlb_kernel_range: (on: ThisCpu, start: bigint, end: bigint) =>
        flush_tlb_kernel_range(on, memory, start, end),
      flush_tlb_all: (on: ThisCpu) => flush_tlb_all(on, memory),
    });
    const arch = {
      ...here.arch,
      hardwareName: null,
      irqs_disabled: () => false,
      show_stack: null,
      panicNotifierLines: () => [],
      arch_stack_walk: (_: ThisCpu, __: pt_regs, visit: (addr: bigint) => boolean) => {
        for (const at of this.stack('F', 'G')) if (!visit(at)) return;
      },
      show_regs: (on: ThisCpu) => {
        on.kernel.printk(on, 4, 'show_regs');
      },
    };
    return { kernel, arch };
  }

  /** Only the part that the pool may be in: entries for all of it would take longer than most tests. */
  #mapDirectMap(): void {
    const { memory, here } = this;
    const { layout, ram, pgtable, init_mm } = memory;
    const size = Math.min(ram.size, MAPPED);
    const start = layout.directMap + BigInt(ram.size - size);
    const options = { huge: layout.linearMapHuge };
    map_kernel_range(here, memory, init_mm, start, ram.end - size, size / 4096, pgtable.PAGE_LINEAR, options);
  }

  #place(name: string): bigint {
    const known = this.names.get(name);
    if (known !== undefined) return known;
    const at = TEXT + BigInt(this.names.size) * FUNCTION_SIZE;
    this.names.set(name, at);
    return at;
  }

  /** Addresses in functions of these names: `<name>+0x4/0x10`. */
  stack(...names: string[]): bigint[] {
    return names.map((name) => this.#place(name) + 4n);
  }

  #symbol(at: bigint): string {
    for (const [name, start] of this.names) {
      if (at >= start && at < start + FUNCTION_SIZE) return `${name}+0x${(at - start).toString(16)}/0x10`;
    }
    return `0x${at.toString(16)}`;
  }

  /** An address of the pool by its offset. */
  at(offset: number): bigint {
    return this.kfence.__kfence_pool + BigInt(offset);
  }

  alloc(
    cache: kmem_cache,
    size: number,
    where: Omit<GuardedPlacement, 'kind'> = {},
    gfp = GFP_KERNEL,
  ): bigint {
    this.kfence.placements.push({ kind: 'guarded', ...where });
    return drain(kfence_alloc(this.here, this.kfence, cache, size, gfp));
  }

  /** An allocation that goes where the gate and the random numbers want it. */
  allocSampled(cache: kmem_cache, size: number): bigint {
    return drain(kfence_alloc(this.here, this.kfence, cache, size, GFP_KERNEL));
  }

  free(addr: bigint): void {
    drain(kfence_free(this.here, this.kfence, addr));
  }

  /** What the fault handler says when an access is refused. */
  fault(addr: bigint, write = false): boolean {
    this.here.regs = REGS;
    try {
      return drain(kfence_handle_page_fault(this.here, this.kfence, addr, write, REGS));
    } finally {
      this.here.regs = null;
    }
  }

  pte(addr: bigint): bigint {
    return this.memory.ram.readU64(ptepOf(this.test, addr));
  }

  /** An access to the page would fault. */
  isProtected(addr: bigint): boolean {
    return (this.pte(addr) & 1n) === 0n;
  }

  store(addr: bigint, ...bytes: number[]): void {
    this.memory.ram.write(this.kfence.physical(addr), Uint8Array.from(bytes));
  }

  bytes(addr: bigint, length: number): number[] {
    return [...this.memory.ram.read(this.kfence.physical(addr), length)];
  }

  /** Lines of the console since the last call. */
  console(): string[] {
    const lines = this.cpu.console.lines(this.#seen);
    this.#seen = this.cpu.console.records.length;
    return lines;
  }

  /** The second lines of the reports since the last call. */
  details(): string[] {
    const lines = this.console();
    return lines.flatMap((line, i) => (line.startsWith('BUG: KFENCE: ') ? [lines[i + 2] ?? ''] : []));
  }
}

let address = 0n;

/** A cache as kmem_cache_create() makes it. */
export function cache(
  name: string,
  object_size: number,
  align: number,
  more: Partial<kmem_cache> = {},
): kmem_cache {
  address += 256n;
  return { name, object_size, size: object_size, align, flags: 0, ctor: null, address, ...more };
}

export const kmalloc32 = (): kmem_cache => cache('kmalloc-32', 32, 32);
