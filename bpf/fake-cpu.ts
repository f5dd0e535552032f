/**
 * A CPU for tests that need no engine and no architecture: its stack is a list of addresses, its symbols
 * are a table. Whatever else is asked of it throws.
 */
import type { Arch, HandlerFrame, ThisCpu } from '../arch/arch.js';
import type { Kernel } from '../arch/kernel.js';
import { EventLog } from '../emu/events.js';
import { Trace } from '../emu/path.js';
import { Kallsyms } from '../kernel/kallsyms.js';

/** Frames of the handlers as a test's kernel has them: x86-64, shortened. */
export const KERNEL_SIDE: readonly HandlerFrame[] = [
  { fn: 'bpf_stream_stage_dump_stack', offset: 0xe6 },
  { fn: 'bpf_arena_handle_page_fault', offset: 0xd4 },
  { fn: 'page_fault_oops', offset: 0x92 },
  { fn: 'exc_page_fault', offset: 0x71 },
  { fn: 'asm_exc_page_fault', offset: 0x26 },
];
export const PROG_SIDE: readonly HandlerFrame[] = [
  { fn: 'bpf_stream_stage_dump_stack', offset: 0xe6 },
  { fn: 'bpf_prog_report_arena_violation', offset: 0x90 },
  { fn: 'ex_handler_bpf', offset: 0x4a },
  { fn: 'asm_exc_page_fault', offset: 0x26 },
];

/** Sizes of the functions in KERNEL_SIDE and PROG_SIDE, and of a kfunc and its outermost caller. */
const FUNCTIONS: readonly [name: string, size: number][] = [
  ['bpf_stream_stage_dump_stack', 0x1a0],
  ['bpf_arena_handle_page_fault', 0x140],
  ['page_fault_oops', 0x2d0],
  ['exc_page_fault', 0x120],
  ['asm_exc_page_fault', 0x30],
  ['bpf_prog_report_arena_violation', 0xb0],
  ['ex_handler_bpf', 0xa0],
  ['my_kfunc', 0x40],
  ['bpf_prog_report_rqspinlock_violation', 0x130],
  ['bpf_prog_report_may_goto_violation', 0x90],
  ['bpf_test_run', 0x3a0],
];

export interface FakeCpu {
  readonly here: ThisCpu;
  readonly log: EventLog;
  /** What the next stack walk visits, innermost first. */
  stack: bigint[];
  /** Warnings so far, as `site at`. */
  readonly warnings: string[];
  readonly kallsyms: Kallsyms;
  lookup(name: string): bigint;
  /** Address in a function of the table above. */
  in(name: string, offset: bigint): bigint;
}

/** @param parts the parts of ThisCpu and Arch that a test brings itself */
export function fakeCpu(parts: Partial<ThisCpu> = {}, arch: Partial<Arch> = {}): FakeCpu {
  const log = new EventLog();
  const warned = new Set<string>();
  const kallsyms = new Kallsyms();
  for (const [index, [name, size]] of FUNCTIONS.entries()) {
    const start = 0xffff_ffff_8100_0000n + BigInt(index) * 0x1000n;
    kallsyms.add({ name, start, size, kind: 'text' });
  }
  const kernel: Partial<Kernel> = {
    once: (site) => !warned.has(site) && warned.add(site).has(site),
    warn: (_here, site, at) => {
      fake.warnings.push(`${site} ${at}`);
    },
    sprint_symbol: (address) => kallsyms.sprint_symbol(address),
  };
  const fakeArch: Partial<Arch> = {
    kernelSideFrames: KERNEL_SIDE,
    progSideFrames: () => PROG_SIDE,
    bpfReports: {
      rqspinlock: { fn: 'bpf_prog_report_rqspinlock_violation', offset: 0x10b, size: 0x130 },
      may_goto: { fn: 'bpf_prog_report_may_goto_violation', offset: 0x6a, size: 0x90 },
    },
    stackAddresses: () => [...fake.stack],
    ...arch,
  };
  const here = {
    cpu: { id: 0, flushTlbPage: () => undefined, flushTlb: () => undefined },
    mmu: { unpin: () => undefined },
    trace: new Trace(0, log),
    arch: fakeArch,
    kernel,
    current: { comm: 'test_progs', pid: 123, uid: 0, preempt_count: 0 },
    regs: null,
    ...parts,
  } as unknown as ThisCpu;
  const fake: FakeCpu = {
    here,
    log,
    stack: [],
    warnings: [],
    kallsyms,
    lookup: (name) => kallsyms.kallsyms_lookup_name(name),
    in: (name, offset) => fake.lookup(name) + offset,
  };
  return fake;
}
