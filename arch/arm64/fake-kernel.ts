/** A kernel that records what it is asked and answers from switches. */
import { type Path, port } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import { FakeEndings } from '../fake-endings.js';
import {
  type ExtableHit,
  type Kernel,
  type mm_struct,
  TaskDead,
  VM_FAULT_SIGSEGV,
  type vm_area_struct,
} from '../kernel.js';
import type { KernelConfig } from '../kernel-config.js';

/** Answers of the kernel's stages; a function may also do something. */
export interface Answers {
  kfence: (addr: bigint) => boolean;
  arena: (addr: bigint) => boolean;
  vma: vm_area_struct | null;
  /** lock_vma_under_rcu() finds `vma`, too. */
  vmaLock: boolean;
  /** notify_die() says NOTIFY_STOP. */
  notifyStop: boolean;
  handleMmFault: (addr: bigint, flags: number) => number;
}

export class FakeKernel extends FakeEndings implements Kernel {
  die_counter = 0;
  readonly console: string[] = [];
  readonly levels: number[] = [];
  readonly taints: string[] = [];
  /** Locks taken, and with a minus given back. */
  readonly locks: string[] = [];
  readonly warnings: string[] = [];
  readonly reports: { write: boolean; addr: bigint; ip: bigint }[] = [];
  readonly extable = new Map<bigint, ExtableHit>();
  readonly symbols = new Map<bigint, string>();
  readonly answers: Answers = {
    kfence: () => false,
    arena: () => false,
    vma: null,
    vmaLock: true,
    notifyStop: false,
    handleMmFault: () => VM_FAULT_SIGSEGV,
  };
  #title = '';

  constructor(
    readonly config: KernelConfig,
    readonly init_mm: mm_struct,
    readonly reserved_pg_dir: number,
  ) {
    super();
  }

  printk(_here: ThisCpu, level: number, text: string): void {
    if (this.console.length === 0) this.#title = text;
    this.console.push(text);
    this.levels.push(level);
  }
  add_taint(letter: string): void {
    this.taints.push(letter);
  }
  print_tainted(): string {
    return 'Not tainted';
  }
  print_tainted_verbose(): null {
    return null;
  }
  dump_stack_print_info(here: ThisCpu, level: number): void {
    const { comm, pid } = here.current;
    this.printk(here, level, `CPU: 0 UID: 0 PID: ${pid} Comm: ${comm} Not tainted 7.1.0-rc5 #1 PREEMPT `);
    this.printk(here, level, 'Hardware name: linux,dummy-virt (DT)');
  }
  print_modules(here: ThisCpu): void {
    this.printk(here, 4, 'Modules linked in:');
  }
  make_task_dead(_here: ThisCpu, signal: number): never {
    throw new TaskDead({ kind: 'oops', title: this.#title, signal });
  }
  panic(_here: ThisCpu, title: string): never {
    throw new TaskDead({ kind: 'panic', title });
  }
  flush_tlb_kernel_range(here: ThisCpu, start: bigint, end: bigint): void {
    for (let va = start; va < end; va += 4096n) {
      here.cpu.flushTlbPage(va);
      here.mmu.unpin(va);
      here.trace.emit({ type: 'tlb-flush', cpu: here.cpu.id, va, by: 'flush_tlb_kernel_range' });
    }
  }
  flush_tlb_all(here: ThisCpu): void {
    here.cpu.flushTlb();
  }
  check_panic_on_warn(): void {}
  warn(_here: ThisCpu, site: string, _at: string, text: string | null): void {
    this.warnings.push(`${site}: ${text ?? ''}`);
  }
  readonly #seen = new Set<string>();
  once(site: string): boolean {
    const first = !this.#seen.has(site);
    this.#seen.add(site);
    return first;
  }
  readonly #printed = new Map<string, number>();
  ___ratelimit(_here: ThisCpu, state: string): boolean {
    const printed = (this.#printed.get(state) ?? 0) + 1;
    this.#printed.set(state, printed);
    return printed <= 10;
  }
  sprint_symbol(address: bigint): string {
    return this.symbols.get(address) ?? `0x${address.toString(16)}`;
  }
  sprint_backtrace(address: bigint): string {
    return this.sprint_symbol(address);
  }
  kernel_text_address(): boolean {
    return true;
  }
  is_bpf_text_address(): boolean {
    return false;
  }
  search_exception_tables(address: bigint): ExtableHit | null {
    return this.extable.get(address) ?? null;
  }
  readonly notify_die = port(
    'notify_die',
    ['event'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, _event: string): Path<boolean> {
      return (here.kernel as FakeKernel).answers.notifyStop;
    },
  );
  hashed_pointer(address: bigint): string {
    return address.toString(16).padStart(16, '0');
  }
  readonly lock_vma_under_rcu = port(
    'lock_vma_under_rcu',
    ['mm', 'address'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, _mm: mm_struct, _address: bigint): Path<vm_area_struct | null> {
      const { kernel } = here;
      if (!(kernel instanceof FakeKernel) || !kernel.answers.vmaLock) return null;
      if (kernel.answers.vma !== null) kernel.locks.push('vma');
      return kernel.answers.vma;
    },
  );
  vma_end_read(): void {
    this.locks.push('-vma');
  }
  mmap_read_unlock(): void {
    this.locks.push('-mmap');
  }
  readonly lock_mm_and_find_vma = port(
    'lock_mm_and_find_vma',
    ['mm', 'address', 'regs'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, _mm: mm_struct, _address: bigint): Path<vm_area_struct | null> {
      const { answers, locks } = here.kernel as FakeKernel;
      if (answers.vma !== null) locks.push('mmap');
      return answers.vma;
    },
  );
  readonly handle_mm_fault = port(
    'handle_mm_fault',
    ['vma', 'address', 'flags', 'regs'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, _vma: vm_area_struct, address: bigint, flags: number): Path<number> {
      return (here.kernel as FakeKernel).answers.handleMmFault(address, flags);
    },
  );
  readonly kfence_handle_page_fault = port(
    'kfence_handle_page_fault',
    ['addr', 'is_write', 'regs'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, addr: bigint): Path<boolean> {
      return (here.kernel as FakeKernel).answers.kfence(addr);
    },
  );
  readonly bpf_arena_handle_page_fault = port(
    'bpf_arena_handle_page_fault',
    ['addr', 'is_write', 'fault_ip'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, addr: bigint): Path<boolean> {
      return (here.kernel as FakeKernel).answers.arena(addr);
    },
  );
  readonly bpf_prog_report_arena_violation = port(
    'bpf_prog_report_arena_violation',
    ['write', 'addr', 'fault_ip'],
    // biome-ignore lint/correctness/useYield: a stand-in
    function* (here: ThisCpu, write: boolean, addr: bigint, ip: bigint): Path<void> {
      (here.kernel as FakeKernel).reports.push({ write, addr, ip });
    },
  );
}
