/**
 * What the BPF code of one machine has in common: where its dependencies come in and where its state is.
 */
import type { ThisCpu } from '../arch/arch.js';
import type { vm_area_struct } from '../arch/kernel.js';
import type { Delegate } from '../emu/path.js';
import type { Memory } from '../mm/memory.js';
import type { bpf_arena } from './arena.js';
import { ArenaWork } from './arena_work.js';
import { BpfPrograms } from './program.js';
import type { TaskLine } from './report.js';
import { StackDumps, type SymbolLookup } from './stack_dump.js';

/** Allocations of kernel objects that can be made to fail. Pages and tables fail in the page allocator. */
export type BpfAllocation = 'bpf_arena' | 'range_node' | 'arena_free_span' | 'pages';

export interface BpfEnvOptions {
  readonly memory: Memory;
  /** kallsyms_lookup_name(): for the frames of the handlers, which are host code. */
  readonly kallsyms_lookup_name: SymbolLookup;
  /** bpf_jit_supports_arena(); true on x86-64 and arm64. */
  readonly jit_supports_arena?: boolean;
  /** Nodes that exist and are online: 0 to nr_node_ids - 1. */
  readonly nr_node_ids?: number;
  /** zap_vma_range(): takes pages out of a user mapping. By default there are no user mappings. */
  readonly zap_vma_range?: BpfEnv['zap_vma_range'];
}

/** The BPF side of one machine. */
export class BpfEnv {
  readonly memory: Memory;
  readonly programs = new BpfPrograms();
  readonly dumps: StackDumps;
  readonly work = new ArenaWork();
  /** Arenas that exist. */
  readonly arenas = new Set<bpf_arena>();
  readonly jit_supports_arena: boolean;
  readonly nr_node_ids: number;
  readonly zap_vma_range: (
    here: ThisCpu,
    vma: vm_area_struct,
    address: bigint,
    size: number,
  ) => Delegate<void>;
  /** CPU line of the latest report. */
  taskLine: TaskLine | null = null;
  /** Asked before each allocation of a kernel object: true makes it fail. */
  allocationFails: (what: BpfAllocation) => boolean = () => false;

  constructor(options: BpfEnvOptions) {
    this.memory = options.memory;
    this.dumps = new StackDumps(this.programs, options.kallsyms_lookup_name);
    this.jit_supports_arena = options.jit_supports_arena ?? true;
    this.nr_node_ids = options.nr_node_ids ?? 1;
    this.zap_vma_range = options.zap_vma_range ?? (() => []);
  }

  /** WARN_ON_ONCE(test) in a function of kernel/bpf/arena.c. */
  warnOnce(here: ThisCpu, fn: string, test: string): void {
    const site = 'kernel/bpf/arena.c';
    if (here.kernel.once(`${site}:${fn}:${test}`)) here.kernel.warn(here, site, fn, null);
  }
}
