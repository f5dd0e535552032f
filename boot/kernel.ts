/**
 * The kernel of a booted machine: the one object behind `arch/kernel.ts`, put together from the rooms that
 * implement its parts, as the linker does it.
 */
import type { ThisCpu } from '../arch/arch.js';
import type { ExtableHit, Kernel, mm_struct, pt_regs, task_struct, vm_area_struct } from '../arch/kernel.js';
import type { KernelConfig } from '../arch/kernel-config.js';
import type { BpfEnv } from '../bpf/env.js';
import { type BpfHooks, bpfHooks } from '../bpf/kernel_hooks.js';
import type { Delegate, Path } from '../emu/path.js';
import { Clock } from '../kernel/clock.js';
import { dump_stack_print_info, print_modules } from '../kernel/dump_stack.js';
import { exit_to_user_mode_loop } from '../kernel/entry-common.js';
import { ExceptionTables } from '../kernel/extable.js';
import type { Kallsyms } from '../kernel/kallsyms.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import { Panic } from '../kernel/panic.js';
import { ConsoleLog } from '../kernel/printk.js';
import { Ratelimits } from '../kernel/ratelimit.js';
import { force_sig, force_sig_fault, unhandled_signal } from '../kernel/signal.js';
import { isTaintLetter } from '../kernel/taint.js';
import { pointer_string, ptr_to_id } from '../kernel/vsprintf.js';
import { UserMemory } from '../mm/fault.js';
import { kfence_handle_page_fault } from '../mm/kfence/core.js';
import { kfence_check_all_canary } from '../mm/kfence/init.js';
import { Kfence, type KfenceOptions } from '../mm/kfence/state.js';
import type { Memory } from '../mm/memory.js';
import { pagefault_out_of_memory } from '../mm/oom_kill.js';
import { Slab } from '../mm/slab.js';
import { flush_tlb_all, flush_tlb_kernel_range } from '../mm/tlb.js';

/** The services of one machine. */
export class BootedKernel implements Kernel {
  /** Time since boot; stands still unless somebody advances it. */
  readonly clock = new Clock();
  readonly console = new ConsoleLog(this.clock);
  readonly #ratelimits = new Ratelimits(this.clock);
  readonly extables: ExceptionTables;
  readonly kfence: Kfence;
  readonly slab: Slab;
  readonly init_mm: mm_struct;
  readonly reserved_pg_dir: number;
  machine: object | null = null;
  num_online_cpus = 1;
  readonly bpf_arena_handle_page_fault: BpfHooks['bpf_arena_handle_page_fault'];
  readonly bpf_prog_report_arena_violation: BpfHooks['bpf_prog_report_arena_violation'];
  readonly is_bpf_text_address: BpfHooks['is_bpf_text_address'];
  /** User address spaces as faults see them. */
  readonly userMemory: UserMemory;
  readonly memory: Memory;
  readonly #panic: Panic;
  readonly #bpf: BpfEnv;

  constructor(
    memory: Memory,
    readonly config: KernelConfig,
    readonly kallsyms: Kallsyms,
    bpf: BpfEnv,
    kfence: KfenceOptions | null = null,
  ) {
    this.memory = memory;
    const { clock } = this;
    const kallsyms_lookup_name = (name: string): bigint => kallsyms.kallsyms_lookup_name(name);
    this.kfence = new Kfence({ memory, clock, init: config, kallsyms_lookup_name }, kfence);
    this.slab = new Slab(memory, this.kfence, config);
    this.userMemory = new UserMemory(memory);
    this.init_mm = memory.init_mm;
    this.extables = new ExceptionTables(memory.ram);
    this.#panic = new Panic(this.console, bootTaint(config));
    this.#panic.panic_notifier_list.push((here) => kfence_check_all_canary(here, this.kfence));
    const reserved = memory.pages.takeFrame('reserved_pg_dir');
    if (reserved === null) throw new MachineRefusal('the ram is full: no page for reserved_pg_dir');
    this.reserved_pg_dir = reserved;
    this.#bpf = bpf;
    const hooks = bpfHooks(bpf, config);
    this.bpf_arena_handle_page_fault = hooks.bpf_arena_handle_page_fault;
    this.bpf_prog_report_arena_violation = hooks.bpf_prog_report_arena_violation;
    this.is_bpf_text_address = hooks.is_bpf_text_address;
  }

  get arena_takes_ret_ip(): boolean {
    return this.#bpf.variant === 'L2';
  }

  /** True behind a panic: nothing runs on the machine any more. */
  get panicked(): boolean {
    return this.#panic.panicked;
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
    dump_stack_print_info(here, level);
  }
  print_modules(here: ThisCpu): void {
    print_modules(here);
  }
  make_task_dead(here: ThisCpu, signr: number): never {
    this.#panic.make_task_dead(here, signr);
  }
  unhandled_signal(task: task_struct): boolean {
    return unhandled_signal(task);
  }
  force_sig_fault(here: ThisCpu, signo: number, code: number, address: bigint, pkey?: number): never {
    return force_sig_fault(here, signo, code, address, pkey);
  }
  force_sig(here: ThisCpu, signo: number): never {
    return force_sig(here, signo);
  }
  exit_to_user_mode_loop(here: ThisCpu, regs: pt_regs): Delegate<void> {
    return exit_to_user_mode_loop(here, regs);
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
  ___ratelimit(here: ThisCpu, state: string, func: string): boolean {
    return this.#ratelimits.___ratelimit(here, state, func);
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

  *notify_die(here: ThisCpu, event: string): Path<boolean> {
    return yield* here.trace.decide('notify_die', `a notifier stops ${event}`, false);
  }
  hashed_pointer(address: bigint): string {
    return this.config.no_hash_pointers ? pointer_string(address) : ptr_to_id(address);
  }

  lock_vma_under_rcu(here: ThisCpu, mm: mm_struct, address: bigint): Delegate<vm_area_struct | null> {
    return this.userMemory.lock_vma_under_rcu(here, mm, address);
  }
  vma_end_read(_here: ThisCpu, vma: vm_area_struct): void {
    this.userMemory.vma_end_read(vma);
  }
  mmap_read_unlock(_here: ThisCpu, mm: mm_struct): void {
    this.userMemory.mmap_read_unlock(mm);
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

  pagefault_out_of_memory(here: ThisCpu): void {
    pagefault_out_of_memory(here);
  }

  kfence_handle_page_fault(here: ThisCpu, addr: bigint, is_write: boolean, regs: pt_regs): Delegate<boolean> {
    return kfence_handle_page_fault(here, this.kfence, addr, is_write, regs);
  }
  flush_tlb_kernel_range(here: ThisCpu, start: bigint, end: bigint): void {
    flush_tlb_kernel_range(here, this.memory, start, end);
  }
  flush_tlb_all(here: ThisCpu): void {
    flush_tlb_all(here, this.memory);
  }
  check_panic_on_warn(here: ThisCpu, origin: string): void {
    this.#panic.check_panic_on_warn(here, origin);
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
      signal_pending: 'none',
    };
  }
}

/** Flags that are set at boot: those asked for, and those that the modules have brought. */
function bootTaint({ taint, modules }: KernelConfig): string {
  const letters = `${taint}${modules.map(({ flags }) => flags).join('')}`;
  return [...letters].filter(isTaintLetter).join('');
}
