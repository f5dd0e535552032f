/**
 * The kernel of a booted machine: the one object behind `arch/kernel.ts`, put together from the rooms that
 * implement its parts, as the linker does it.
 */
import type { ThisCpu } from '../arch/arch.js';
import type { ExtableHit, Kernel, mm_struct, pt_regs, task_struct, vm_area_struct } from '../arch/kernel.js';
import type { KernelConfig } from '../arch/kernel-config.js';
import type { BpfEnv } from '../bpf/env.js';
import { type BpfHooks, bpfHooks } from '../bpf/kernel_hooks.js';
import type { Delegate } from '../emu/path.js';
import { dump_stack_print_info, print_modules } from '../kernel/dump_stack.js';
import { ExceptionTables } from '../kernel/extable.js';
import type { Kallsyms } from '../kernel/kallsyms.js';
import { Panic } from '../kernel/panic.js';
import { ConsoleLog } from '../kernel/printk.js';
import { UserMemory } from '../mm/fault.js';
import { Kfence } from '../mm/kfence/core.js';
import type { Memory } from '../mm/memory.js';

/** The services of one machine. */
export class BootedKernel implements Kernel {
  readonly console = new ConsoleLog();
  readonly extables: ExceptionTables;
  readonly kfence = new Kfence();
  readonly init_mm: mm_struct;
  readonly reserved_pg_dir: number;
  readonly bpf_arena_handle_page_fault: BpfHooks['bpf_arena_handle_page_fault'];
  readonly bpf_prog_report_arena_violation: BpfHooks['bpf_prog_report_arena_violation'];
  readonly is_bpf_text_address: BpfHooks['is_bpf_text_address'];
  /** User address spaces as faults see them. */
  readonly userMemory: UserMemory;
  readonly #panic: Panic;

  constructor(
    memory: Memory,
    readonly config: KernelConfig,
    readonly kallsyms: Kallsyms,
    bpf: BpfEnv,
  ) {
    this.userMemory = new UserMemory(memory);
    this.init_mm = memory.init_mm;
    this.extables = new ExceptionTables(memory.ram);
    this.#panic = new Panic(this.console, { irqs_disabled: (here) => here.arch.irqs_disabled(here) });
    const reserved = memory.pages.takeFrame('reserved_pg_dir');
    if (reserved === null) throw new RangeError('the ram is full: no page for reserved_pg_dir');
    this.reserved_pg_dir = reserved;
    const hooks = bpfHooks(bpf, config);
    this.bpf_arena_handle_page_fault = hooks.bpf_arena_handle_page_fault;
    this.bpf_prog_report_arena_violation = hooks.bpf_prog_report_arena_violation;
    this.is_bpf_text_address = hooks.is_bpf_text_address;
  }

  get die_counter(): number {
    return this.#panic.die_counter;
  }
  set die_counter(count: number) {
    this.#panic.die_counter = count;
  }

  printk(here: ThisCpu, level: number, text: string): void {
    this.console.printk(here, level, text);
  }
  add_taint(letter: string): void {
    this.#panic.taints.add_taint(letter);
  }
  print_tainted(): string {
    return this.#panic.taints.print_tainted();
  }
  print_tainted_verbose(): string | null {
    return this.#panic.taints.print_tainted_verbose();
  }
  dump_stack_print_info(here: ThisCpu, level: number): void {
    dump_stack_print_info(here, level, here.arch.hardwareName);
  }
  print_modules(here: ThisCpu): void {
    print_modules(here);
  }
  make_task_dead(here: ThisCpu, signr: number): never {
    this.#panic.make_task_dead(here, signr);
  }
  panic(here: ThisCpu, text: string): never {
    this.#panic.panic(here, text);
  }
  warn(here: ThisCpu, site: string, at: string, text: string | null): void {
    this.#panic.warn(here, site, at, text);
  }
  once(site: string): boolean {
    return this.#panic.once(site);
  }

  sprint_symbol(address: bigint): string {
    return this.kallsyms.sprint_symbol(address);
  }
  sprint_backtrace(address: bigint): string {
    return this.kallsyms.sprint_backtrace(address);
  }
  kernel_text_address(address: bigint): boolean {
    return this.kallsyms.kernel_text_address(address);
  }
  search_exception_tables(address: bigint): ExtableHit | null {
    return this.extables.search_exception_tables(address);
  }

  lock_mm_and_find_vma(
    here: ThisCpu,
    mm: mm_struct,
    address: bigint,
    regs: pt_regs,
  ): Delegate<vm_area_struct | null> {
    return this.userMemory.lock_mm_and_find_vma(here, mm, address, regs);
  }
  handle_mm_fault(
    here: ThisCpu,
    vma: vm_area_struct,
    address: bigint,
    flags: number,
    regs: pt_regs,
  ): Delegate<number> {
    return this.userMemory.handle_mm_fault(here, vma, address, flags, regs);
  }

  kfence_handle_page_fault(here: ThisCpu, addr: bigint, is_write: boolean, regs: pt_regs): Delegate<boolean> {
    return this.kfence.kfence_handle_page_fault(here, addr, is_write, regs);
  }

  /** The task of a CPU before it has one. */
  noTask(): task_struct {
    return {
      comm: 'swapper',
      pid: 0,
      uid: 0,
      mm: null,
      active_mm: this.init_mm,
      stack: 0n,
      stackSize: 0,
      pagefault_disabled: 0,
      in_interrupt: 0,
      preempt_count: 0,
    };
  }
}
