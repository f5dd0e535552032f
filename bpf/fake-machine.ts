/**
 * Memory, an arena and a program for tests: real page tables in ram, no engine, stacks made up.
 */
import type { ThisCpu } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { DEFAULT_CONFIG } from '../arch/kernel-config.js';
import { x86 } from '../arch/x86/index.js';
import { type Delegate, drain, type Path, Trace } from '../emu/path.js';
import { Ram } from '../emu/ram.js';
import { Memory } from '../mm/memory.js';
import { apply_to_page_range, vmalloc_to_page } from '../mm/pgtable_walk.js';
import { failPages } from '../mm/testing.js';
import { arena_map_alloc } from './arena/arena.js';
import { BPF_F_MMAPABLE, type bpf_arena, type bpf_map, type MapAttr } from './arena/arena_struct.js';
import { BpfEnv } from './env.js';
import { type FakeCpu, fakeCpu } from './fake-cpu.js';
import type { BpfProgramSpec, bpf_prog } from './program.js';
import { BPF_STDERR, bpf_stream_get, streamText } from './stream/stream.js';

/** Default start of the user mapping. */
export const U = 0x7f7d26200000n;

export const DEFAULT_ATTR: MapAttr = {
  name: 'arena',
  key_size: 0,
  value_size: 0,
  max_entries: 16,
  map_flags: BPF_F_MMAPABLE,
  map_extra: U,
};

/** What a page of the arena is: nothing, the scratch page, or a page of its own. */
export type PageState = 'none' | 'scratch' | 'real';

export class FakeMachine {
  readonly cpu: FakeCpu;
  readonly here: ThisCpu;
  readonly memory: Memory;
  env: BpfEnv;

  constructor(arch: 'x86-64' | 'arm64' = 'x86-64', ramSize = 32 << 20) {
    const real = arch === 'arm64' ? arm64 : x86;
    const { layout, pgtable } = real;
    const ram = new Ram(layout.physBase, ramSize);
    const { vm_get_page_prot, pte_mkyoung, pte_mkspecial } = real;
    this.cpu = fakeCpu({ ram }, { vm_get_page_prot, pte_mkyoung, pte_mkspecial });
    this.here = this.cpu.here;
    this.memory = new Memory(ram, pgtable(DEFAULT_CONFIG), layout);
    this.memory.cpus.push(this.here);
    this.env = new BpfEnv({ memory: this.memory, kallsyms_lookup_name: this.cpu.lookup });
  }

  run<T>(path: Delegate<T>): T {
    return drain(path);
  }

  /** Another CPU of this machine, with its own trace over the same log and the same stack. */
  otherCpu(id: number): ThisCpu {
    return { ...this.here, cpu: { ...this.here.cpu, id }, trace: new Trace(id, this.cpu.log) };
  }

  /** Result of BPF_MAP_CREATE: the map or a negative errno. */
  create(attr: Partial<MapAttr> = {}, env = this.env): bpf_map | number {
    return this.run(arena_map_alloc(this.here, env, { ...DEFAULT_ATTR, ...attr }));
  }

  arena(attr: Partial<MapAttr> = {}): bpf_arena {
    const map = this.create(attr);
    if (typeof map === 'number' || map.arena === null) throw new Error(`no arena: ${map}`);
    return map.arena;
  }

  /** A program with an image of 256 bytes, the n-th in the image area. */
  program(name: string, n: number, spec: Partial<BpfProgramSpec> = {}): bpf_prog {
    const start = 0xffff_ffff_c000_0000n + BigInt(n) * 0x1000n;
    return this.env.programs.load({ name, start, code: new Uint8Array(256), ...spec });
  }

  /** Puts a kfunc called by these programs on the stack, innermost first, and its outermost caller. */
  callFrom(...programs: bpf_prog[]): void {
    const { cpu } = this;
    const frames = programs.map((prog) => prog.bpf_func + 0x2an);
    cpu.stack = [cpu.in('my_kfunc', 0x12n), ...frames, cpu.in('bpf_test_run', 0x1b0n)];
  }

  /** Physical page that a kernel address maps to, or null. */
  pageAt(kaddr: bigint): number | null {
    return vmalloc_to_page(this.here, this.memory, kaddr);
  }

  stateAt(arena: bpf_arena, kaddr: bigint): PageState {
    const page = this.pageAt(kaddr);
    if (page === null) return 'none';
    return page === arena.scratch_page ? 'scratch' : 'real';
  }

  /** States of the first `count` pages of the arena. */
  states(arena: bpf_arena, count: number): PageState[] {
    return Array.from({ length: count }, (_, n) => this.stateAt(arena, ka(arena, n)));
  }

  stderr(prog: bpf_prog): string {
    const stream = bpf_stream_get(BPF_STDERR, prog);
    return stream === null ? '' : streamText(stream);
  }

  /** First lines of the reports on a program's stderr. */
  reports(prog: bpf_prog): string[] {
    return this.stderr(prog)
      .split('\n')
      .filter((line) => line.startsWith('ERROR: '));
  }

  /** Physical address of the leaf entry of a kernel address that has its tables. */
  ptepAt(kaddr: bigint): number {
    let ptep = -1;
    function* note(here: ThisCpu, at: number): Path<number> {
      ptep = at;
      return yield* here.trace.decide('ptepAt', 'found', 0);
    }
    this.run(apply_to_page_range(this.here, this.memory, this.memory.init_mm, kaddr, 4096, note, null));
    return ptep;
  }

  entryAt(kaddr: bigint): bigint {
    return this.here.ram.readU64(this.ptepAt(kaddr));
  }

  setEntryAt(kaddr: bigint, value: bigint): void {
    this.here.ram.writeU64(this.ptepAt(kaddr), value);
  }

  /** Pages of ram that are in use, tables included. */
  pagesTaken(): number {
    return this.memory.pages.allocatedPages;
  }

  /** Lets the page allocator fail after `count` more pages. */
  failPagesAfter(count: number): void {
    failPages(this.memory, count);
  }

  /** vmalloc areas that exist. */
  vmAreas(): number {
    return this.memory.vmalloc.areas.length;
  }

  /** Addresses whose translations were flushed so far. */
  flushes(): bigint[] {
    return this.cpu.log.events.flatMap((event) =>
      event.type === 'tlb-flush' && event.va !== null ? [event.va] : [],
    );
  }
}

/** Kernel address of page `n` of an arena whose user mapping is known. */
export function ka(arena: bpf_arena, n: number): bigint {
  return arena.kern_vm_start + (arena.user_vm_start & 0xffff_ffffn) + BigInt(n) * 0x1000n;
}
