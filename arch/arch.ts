/**
 * What an architecture must offer. Nothing outside arch/ tests which one it is.
 */
import type { Cpu, CpuStop, TlbFiller } from '../emu/cpu.js';
import type { AccessType, LevelName, RunOutcome, WalkEvent, WalkLevel } from '../emu/events.js';
import type { Delegate, Trace } from '../emu/path.js';
import type { Ram } from '../emu/ram.js';
import type { Kernel, mm_struct, pt_regs, task_struct } from './kernel.js';
import type { KernelConfig } from './kernel-config.js';

/** The CPU that a path runs on, with what belongs to it. First argument of every ported function. */
export interface ThisCpu {
  readonly cpu: Cpu;
  readonly mmu: Mmu;
  readonly ram: Ram;
  readonly trace: Trace;
  readonly arch: Arch;
  readonly kernel: Kernel;
  /** current */
  current: task_struct;
  /**
   * Registers of the exception being handled, null outside of one. Stack walks of the handlers start
   * here: the handlers are host code and have no frames of their own in ram.
   */
  regs: pt_regs | null;
}

/** Result of a recorded walk. */
export interface Translation {
  readonly ok: boolean;
  /** Physical address of `va` (with the page offset) when ok. */
  readonly pa: number;
  /** PERM_* that the translation grants in the mode asked for, when ok. */
  readonly perms: number;
  readonly levels: readonly WalkLevel[];
  readonly verdict: string;
  readonly at: LevelName | null;
  /** x86: the error code; arm64: the fault status code (FSC). Meaningful when not ok. */
  readonly code: number;
}

/**
 * The hardware walk of one CPU: answers the engine's TLB fills, and explains.
 * Control registers are cached; whoever writes one through the host calls `refresh`.
 */
export interface Mmu extends TlbFiller {
  /** Reads the control registers from the CPU again. */
  refresh(): void;
  /** The mode in which data accesses are checked; kept by the entry code and by exception returns. */
  user: boolean;
  /** Walks for an access with full record and touches nothing: no A/D or AF update, no event. */
  translate(va: bigint, access: AccessType, user: boolean): Translation;
  /** Physical address of `va` through the current tables, whatever the rights; -1 if not mapped. */
  peek(va: bigint): number;
  /**
   * Keeps answering for the page of `va` as the tables translate it now, whatever becomes of them,
   * until it is flushed: a stale TLB entry on purpose. False if the page does not translate now.
   */
  pin(va: bigint): boolean;
  /** Forgets pinned pages: one, or all with null. Part of every TLB flush of this CPU. */
  unpin(va: bigint | null): void;
  /** The host has written to memory that may hold code. Absent where no translation depends on code. */
  codeChanged?(): void;
}

/** Physical address of a table entry: what a `pte_t *` is. */
export type Ptep = number;

/** Page-table format of an architecture: the kernel's predicates and accessors under its names. */
export interface Pgtable {
  readonly PAGE_KERNEL: bigint;
  readonly PAGE_KERNEL_RO: bigint;
  readonly PAGE_KERNEL_ROX: bigint;
  readonly PAGE_KERNEL_EXEC: bigint;
  /** Protection of the direct map. */
  readonly PAGE_LINEAR: bigint;
  readonly PAGE_SHARED: bigint;
  readonly PAGE_SHARED_EXEC: bigint;
  readonly PAGE_READONLY: bigint;
  readonly PAGE_READONLY_EXEC: bigint;

  /** mk_pte(pfn_to_page(pa >> 12), prot) */
  mk_pte(pa: number, prot: bigint): bigint;
  /** A leaf one level up: 2 MiB, `pa` aligned to it. */
  mk_pmd(pa: number, prot: bigint): bigint;
  /** A 1 GiB leaf. */
  mk_pud(pa: number, prot: bigint): bigint;

  pte_none(v: bigint): boolean;
  pte_present(v: bigint): boolean;
  pte_write(v: bigint): boolean;
  pte_dirty(v: bigint): boolean;
  pte_young(v: bigint): boolean;
  /** pte_mkdirty(): the entry as a write leaves it, so that a writable page takes the next one without a fault. */
  pte_mkdirty(v: bigint): bigint;
  /** Physical address of the page: pte_pfn(v) << 12. */
  pte_pa(v: bigint): number;
  pmd_none(v: bigint): boolean;
  pmd_bad(v: bigint): boolean;
  pmd_present(v: bigint): boolean;
  pmd_leaf(v: bigint): boolean;
  pud_none(v: bigint): boolean;
  pud_bad(v: bigint): boolean;
  pud_present(v: bigint): boolean;
  pud_leaf(v: bigint): boolean;
  p4d_none(v: bigint): boolean;
  p4d_bad(v: bigint): boolean;
  p4d_present(v: bigint): boolean;
  /** Physical address of the table that a non-leaf entry points to. */
  tablePa(v: bigint): number;

  /** Entry of `level` that points to the table at `pa`: pmd_populate_kernel() and friends. */
  tableEntry(level: 'pgd' | 'pud' | 'pmd', pa: number, owner: 'kernel' | 'user'): bigint;

  ptep_get(here: ThisCpu, ptep: Ptep): bigint;
  /** One store; emits a pte-write event. */
  set_pte(here: ThisCpu, ptep: Ptep, value: bigint): void;
  set_pmd(here: ThisCpu, pmdp: Ptep, value: bigint): void;
  set_pud(here: ThisCpu, pudp: Ptep, value: bigint): void;
  set_p4d(here: ThisCpu, p4dp: Ptep, value: bigint): void;
  ptep_get_and_clear(here: ThisCpu, ptep: Ptep): bigint;
  /** Compare-and-exchange of the whole word, strictly from 0. True iff it stored. */
  ptep_try_set(here: ThisCpu, ptep: Ptep, value: bigint): boolean;
  /** The architecture has no ptep_try_set() of its own: the stub answers false. */
  readonly ptep_try_set_is_stub?: boolean;
  /** flush_tlb_before_set() invalidates: an entry must not go from one page to another in one step. */
  readonly flushes_tlb_before_set?: boolean;
}

/** A range of virtual addresses, end exclusive. */
export interface VaRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** Where things are, KASLR off. */
export interface AddressLayout {
  /** First physical address of ram. */
  readonly physBase: number;
  /** Virtual address of physical address `physBase` in the direct map (PAGE_OFFSET). */
  readonly directMap: bigint;
  readonly vmalloc: VaRange;
  /** Kernel text. */
  readonly text: VaRange;
  readonly modules: VaRange;
  /** BPF images; within reach of a direct call to kernel text. */
  readonly bpf: VaRange;
  /** User addresses; end exclusive. */
  readonly user: VaRange;
  readonly THREAD_SIZE: number;
  /** Alignment of kernel stacks in bytes. */
  readonly THREAD_ALIGN: number;
  /** The direct map uses 2 MiB and 1 GiB leaves where it can. */
  readonly linearMapHuge: boolean;
}

/** One frame of a stack walk, as arch_bpf_stack_walk() hands it to its callback. */
export type StackVisitor = (ip: bigint, sp: bigint, bp: bigint) => boolean;

/** A function of the kernel image that host code stands in for; it gets a place in kallsyms. */
export interface KernelFunction {
  readonly name: string;
  readonly size: number;
}

/** Return address of a handler frame: function and offset, as the modelled kernels print them. */
export interface HandlerFrame {
  readonly fn: string;
  readonly offset: number;
}

/** How guest code calls a kernel function whose body is host code. */
export interface HostCall {
  /** A whole function: it makes its frame, stops with kind `halt`, and returns. */
  readonly code: Uint8Array;
  /** Where pc is, in bytes from the start, when it has stopped: the host takes over there. */
  readonly resumeAt: number;
  readonly argumentRegisters: readonly string[];
}

/** A function of the kernel that here does nothing but call the next one. */
export interface ChainLink extends KernelFunction {
  /** Offset that its call returns to. */
  readonly returnAt: number;
}

/** Which function runs a program for BPF_PROG_TEST_RUN: `syscall` for SEC("syscall"), `skb` for socket filters. */
export type TestRunKind = 'syscall' | 'skb';

/**
 * The way from a system call to a program that BPF_PROG_TEST_RUN runs: real code with real frames, so that
 * stacks below the program are those that reports show.
 */
export interface TestRun {
  /** Outermost first: entry code. The last one calls the program. */
  chain(kind: TestRunKind): readonly ChainLink[];
  /**
   * The whole function.
   * @param place which one it is
   * @param next where the function that it calls is, in bytes from its start; not looked at for `last`
   * @param out where the run ends, the same; looked at for `entry` only
   */
  code(link: ChainLink, place: 'entry' | 'middle' | 'last', next: number, out: number): Uint8Array;
  /** Registers and stack at the call of the entry code, which is at `entry`. The stack grows down from `stackTop`. */
  prepare(here: ThisCpu, entry: bigint, stackTop: bigint, program: bigint, ctx: bigint): void;
}

/** How an exception ended. */
export type Resumption =
  | {
      readonly how: 'retry' | 'fixup';
      /** Where the guest goes on. */
      readonly pc: bigint;
      /** Fault address and last table entry read, to recognise an instruction that makes no progress. */
      readonly address: bigint;
      readonly entry: bigint;
    }
  | { readonly how: 'end'; readonly outcome: RunOutcome };

/** A function that reports to a program: its frame in the dump, and its size. */
export interface ReportFunction extends HandlerFrame {
  readonly size: number;
}

/** Description of a function's code for the unwinder's tables. */
export interface TextFunction {
  readonly name: string;
  readonly start: bigint;
  readonly code: Uint8Array;
}

export interface Arch {
  readonly name: 'x86-64' | 'arm64';
  readonly layout: AddressLayout;
  /** The page-table format under this configuration. */
  pgtable(config: KernelConfig): Pgtable;
  /** A walker for a CPU; the engine gets it as its filler before the CPU exists. */
  createMmu(ram: Ram, config: KernelConfig): Mmu & { attach(cpu: Cpu, trace: Trace): void };
  /** Brings a CPU into the state it has after boot: control registers, segments, mode. */
  setupCpu(here: ThisCpu, mm: mm_struct): void;
  /** Protection of the pages of a user mapping (VM_* bits); private ones that may be written begin read-only. */
  vm_get_page_prot(pgtable: Pgtable, vm_flags: number, pkey: number): bigint;
  /** The entry of a page that no reference counts belong to, e.g. the zero page. */
  pte_mkspecial(entry: bigint): bigint;
  pte_mkyoung(entry: bigint): bigint;
  /** Switches the user half (x86: CR3, arm64: TTBR0) to `mm`, or to the kernel's own with null. */
  switch_mm(here: ThisCpu, mm: mm_struct | null): void;

  /** Names of the general registers that calls and expectations use, in printing order. */
  readonly generalRegisters: readonly string[];
  /** Name of the program counter. */
  readonly pcRegister: string;
  /** Name of the stack pointer. */
  readonly spRegister: string;
  /** Register with the first integer return value. */
  readonly returnRegister: string;
  /** Prepares registers and stack for calling kernel code at `pc` that returns to the sentinel. */
  prepareCall(here: ThisCpu, pc: bigint, stackTop: bigint): void;
  /** The same for user code at `pc`; enters user mode. */
  prepareUser(here: ThisCpu, pc: bigint, stackTop: bigint): void;

  /**
   * show_stack() of the code that runs, for dump_stack() in a panic that no report came before; null where
   * it is not modelled, and then the dump is left out.
   */
  readonly show_stack: ((here: ThisCpu, level: number) => void) | null;
  /** local_irq_disable() in the kernel code that prepareCall() has prepared. */
  disableInterrupts(here: ThisCpu): void;
  /** local_irq_save() of a kernel function: disables, and says what local_irq_restore() needs. */
  local_irq_save(here: ThisCpu): bigint;
  local_irq_restore(here: ThisCpu, flags: bigint): void;
  /** smp_send_stop(), when the machine panics. Absent where it prints nothing. */
  smp_send_stop?(here: ThisCpu): void;
  /** What the architecture's own panic notifiers print, behind all others. One record each. */
  panicNotifierLines(here: ThisCpu): readonly { readonly level: number; readonly text: string }[];

  /**
   * Turns an engine stop into the exception hardware would raise, pushes its frame onto the kernel
   * stack and runs the kernel's entry for it. Throws TaskDead when the code that faulted cannot go on.
   * Stops that are no exception of the laboratory end the run with outcome `stopped`.
   */
  handleStop(here: ThisCpu, stop: CpuStop): Delegate<Resumption>;

  /** Walks the kernel stack outwards, starting at here.regs; stops when the visitor returns false. */
  arch_bpf_stack_walk(here: ThisCpu, visit: StackVisitor): void;
  /**
   * The addresses that such a walk comes to, innermost first. The same array again for as long as walks
   * come to the same addresses: who keeps something per stack compares arrays. Nobody changes it.
   */
  stackAddresses(here: ThisCpu): readonly bigint[];
  /** irqs_disabled(), as the exception being handled left it. */
  irqs_disabled(here: ThisCpu): boolean;
  /** What dumps call the hardware, or null for no such line. */
  readonly hardwareName: string | null;

  /** Builds unwinder tables for kernel text (not for BPF images), where the architecture needs them. */
  addUnwindInfo(here: ThisCpu, fn: TextFunction): void;

  /** Functions of the image for which kallsyms needs an entry. */
  readonly kernelFunctions: readonly KernelFunction[];
  /** Frames between a report and the exception entry, innermost first: hook called by the fault path. */
  readonly kernelSideFrames: readonly HandlerFrame[];
  /**
   * The same when the exception-table handler of a BPF program reports, for the exception that is being handled.
   * For exceptions of one kind it is the same array each time.
   */
  progSideFrames(here: ThisCpu): readonly HandlerFrame[];
  /** bpf_prog_report_rqspinlock_violation() and bpf_prog_report_may_goto_violation(), which dump stacks, too. */
  readonly bpfReports: Readonly<Record<'rqspinlock' | 'may_goto', ReportFunction>>;
  /** Function and offset that code called from the host returns to (the sentinel's symbol). */
  readonly bottomFrame: HandlerFrame;
  /** Bytes that fill unused kernel text (int3, brk). */
  readonly textFiller: Uint8Array;

  /** mm/kfence needs it: protects or unprotects one page of the pool. */
  kfence_protect_page(here: ThisCpu, addr: bigint, protect: boolean): boolean;
  /**
   * Maps the pool by single pages. False when it cannot be.
   * @param newTable a zeroed page for a table, or null when there is none
   */
  arch_kfence_init_pool(here: ThisCpu, pool: bigint, size: number, newTable: () => number | null): boolean;

  /** Visits the address of `regs` and the return addresses behind it while the visitor says true. */
  arch_stack_walk(here: ThisCpu, regs: pt_regs, visit: (addr: bigint) => boolean): void;
  /** Prints registers and the trace that they begin. */
  show_regs(here: ThisCpu, regs: pt_regs): void;
  /** BUG() in host code: `site` is `file:line`, `at` what %pS says about the place. */
  die_bug(here: ThisCpu, site: string, at: string): never;
  readonly hostCall: HostCall;
  readonly testRun: TestRun;
  /**
   * Code of arch_bpf_timed_may_goto().
   * @param distance of bpf_check_timed_may_goto() from its start, in bytes
   */
  timedMayGoto(distance: number): Uint8Array;
  /** The registers as they are now, without an exception. Give them back with `releaseRegs`. */
  captureRegs(here: ThisCpu): pt_regs;
  /** A general register or pc as `regs` holds it, by the CPU's name for it; undefined for others. */
  savedRegister(regs: pt_regs, name: string): bigint | undefined;
  /** Changes it; false for others. Code goes on with it when `regs` are those of an exception. */
  setSavedRegister(regs: pt_regs, name: string, value: bigint): boolean;
  releaseRegs(here: ThisCpu): void;

  /** Exception-table entry bytes for an instruction, as the kernel's macros and the JIT pack them. */
  packExtable(entry: ExtableSpec, at: bigint): Uint8Array;
  /** Size of one exception-table entry in bytes. */
  readonly extableEntrySize: number;

  /** One line per level, and what decided: for `explain` and the debugger. */
  describeWalk(event: WalkEvent): string[];
  /** Meaning of the bits of an error code or ESR, for people. */
  describeFault(exception: string, code: bigint): string[];
  /** What fault events call exceptions. */
  readonly exceptionNames: readonly string[];
}

/** An exception-table entry as a fixture or a JIT asks for it. */
export interface ExtableSpec {
  /** Address of the instruction that may fault. */
  readonly insn: bigint;
  /** Address to go on at; unused by EX_TYPE_BPF. */
  readonly fixup: bigint;
  /** Name of the type without its prefix, e.g. `BPF`, `UACCESS`, `DEFAULT`, `KACCESS_ERR_ZERO`. */
  readonly type: string;
  /** Length of the instruction in bytes (x86 EX_TYPE_BPF skips it). */
  readonly length: number;
  /** EX_TYPE_BPF: register to clear (load), or null for a store; others: the register operands by role. */
  readonly clear: string | null;
  /** EX_TYPE_BPF on arena memory: register holding the 32-bit arena address, and the offset. */
  readonly arena: { readonly register: string; readonly offset: number } | null;
  /** Remaining data of the type, e.g. { err: 'x0', zero: 'x1' } or { reg: 'rax', imm: '-14' }. */
  readonly data: Readonly<Record<string, string>>;
}
