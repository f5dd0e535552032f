/**
 * What the BPF code of one machine has in common: where its dependencies come in and where its state is.
 */
import type { ThisCpu } from '../arch/arch.js';
import type { vm_area_struct } from '../arch/kernel.js';
import type { Delegate } from '../emu/path.js';
import type { Memory } from '../mm/memory.js';
import { zap_vma_range } from '../mm/mmap.js';
import type { bpf_arena } from './arena/arena_struct.js';
import { ArenaWork } from './arena/arena_work.js';
import { Failures, nothingFails } from './failures.js';
import { MapCalls } from './map_calls.js';
import { BpfPrograms } from './program.js';
import { BprintfBuffers } from './stream/bprintf.js';
import { StackDumps, type SymbolLookup } from './stream/stack_dump.js';
import type { TaskLine } from './stream/task_line.js';
import type { bpf_struct_ops_map } from './struct_ops/struct_ops.js';

/** Allocations of kernel objects that can be made to fail. Pages and tables fail in the page allocator. */
export type BpfAllocation = ArenaAllocation | StreamAllocation;
/** See OBJECTS in failures.ts. */
export type ArenaAllocation =
  | 'bpf_arena'
  | 'vm_area'
  | 'range_node'
  | 'arena_free_span'
  | 'vma_list'
  | 'pages';
/** An element of a stream; a pool of the kernel, and a range for it. */
export type StreamAllocation = 'bpf_stream_elem' | 'gen_pool' | 'gen_pool_chunk';

/**
 * Which arena.c: `v4` is that of the merge modelled; `L1` the later one whose allocation takes scratch
 * pages away and whose zap_pages() holds the mmap lock; `L2` is L1 with the return address as a hint to
 * the program that called a leaf function.
 */
export const ARENA_VARIANTS = ['v4', 'L1', 'L2'] as const;
export type ArenaVariant = (typeof ARENA_VARIANTS)[number];

export interface BpfEnvOptions {
  readonly memory: Memory;
  /** kallsyms_lookup_name(): for the frames of the handlers, which are host code. */
  readonly kallsyms_lookup_name: SymbolLookup;
  /** bpf_jit_supports_arena(); true on x86-64 and arm64. */
  readonly jit_supports_arena?: boolean;
  /** Nodes that exist and are online: 0 to nr_node_ids - 1. */
  readonly nr_node_ids?: number;
  /** `v4` if left out. */
  readonly variant?: ArenaVariant;
  /** Instead of that of mm/mmap.ts. */
  readonly zap_vma_range?: BpfEnv['zap_vma_range'];
}

/** The BPF side of one machine. */
export class BpfEnv {
  readonly memory: Memory;
  readonly programs = new BpfPrograms();
  readonly dumps: StackDumps;
  readonly work = new ArenaWork();
  /** Calls under way on maps. */
  readonly calls = new MapCalls();
  /** Arenas that exist. */
  readonly arenas = new Set<bpf_arena>();
  /** bpf_jit_supports_arena(); may be changed before the first arena is made. */
  jit_supports_arena: boolean;
  readonly nr_node_ids: number;
  /** May be changed before the first arena is made. */
  variant: ArenaVariant;
  readonly zap_vma_range: (
    here: ThisCpu,
    vma: vm_area_struct,
    address: bigint,
    size: number,
  ) => Delegate<void>;
  /** CPU line of the latest report. */
  taskLine: TaskLine | null = null;
  /** Asked before each allocation of a kernel object: true makes it fail. */
  allocationFails: (what: BpfAllocation) => boolean = nothingFails;
  /** Failures to order: sets the above, and the page allocator's. */
  readonly failures: Failures;
  /** Buffers in which texts are formatted. */
  readonly bprintf = new BprintfBuffers();
  /** struct_ops maps by the address of their table (kdata). */
  readonly structOps = new Map<bigint, bpf_struct_ops_map>();

  constructor(options: BpfEnvOptions) {
    this.memory = options.memory;
    this.dumps = new StackDumps(this.programs, options.kallsyms_lookup_name);
    this.jit_supports_arena = options.jit_supports_arena ?? true;
    this.nr_node_ids = options.nr_node_ids ?? 1;
    this.variant = options.variant ?? 'v4';
    this.zap_vma_range = options.zap_vma_range ?? zap_vma_range;
    this.failures = new Failures(this);
  }

  /** WARN_ON_ONCE(test) in a function of kernel/bpf/arena.c. */
  warnOnce(here: ThisCpu, fn: string, test: string): void {
    const site = 'kernel/bpf/arena.c';
    if (here.kernel.once(`${site}:${fn}:${test}`)) here.kernel.warn(here, site, fn, null);
  }
}
