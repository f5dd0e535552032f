/**
 * What architecture code includes from the rest of the kernel: the declarations its C counterpart gets
 * from headers. The implementations live in kernel/, mm/ and bpf/ and are wired where a machine is booted.
 */
import type { RunOutcome } from '../emu/events.js';
import type { Delegate } from '../emu/path.js';
import type { ThisCpu } from './arch.js';
import type { KernelConfig } from './kernel-config.js';

/** printk levels, include/linux/kern_levels.h. DEFAULT is what a record without a level gets. */
export const KERN_EMERG = 0;
export const KERN_ALERT = 1;
export const KERN_CRIT = 2;
export const KERN_ERR = 3;
export const KERN_WARNING = 4;
export const KERN_DEFAULT = 4;
export const KERN_NOTICE = 5;
export const KERN_INFO = 6;
export const KERN_DEBUG = 7;

export const SIGBUS = 7;
export const SIGKILL = 9;
export const SIGSEGV = 11;
export const SEGV_MAPERR = 1;
export const SEGV_ACCERR = 2;
export const SEGV_PKUERR = 4;
export const BUS_ADRALN = 1;
export const BUS_ADRERR = 2;
export const BUS_OBJERR = 3;
/** Memory that hardware reported as broken, and somebody needs it now. */
export const BUS_MCEERR_AR = 4;
export const SI_KERNEL = 0x80;

export const PAGE_SIZE = 4096;
export const PAGE_SHIFT = 12;

/** An address space. `pgd` is the physical address of the root table. */
export interface mm_struct {
  readonly name: string;
  readonly pgd: number;
}

/** VM_* bits of vm_flags, include/linux/mm.h. */
export const VM_READ = 0x1;
export const VM_WRITE = 0x2;
export const VM_EXEC = 0x4;
export const VM_SHARED = 0x8;
export const VM_GROWSDOWN = 0x100;

export interface vm_area_struct {
  readonly vm_start: bigint;
  readonly vm_end: bigint;
  vm_flags: number;
  /** vma_pkey(): x86 protection key, 0 to 15. */
  readonly pkey: number;
}

/** FAULT_FLAG_* and VM_FAULT_*, include/linux/mm_types.h. */
export const FAULT_FLAG_WRITE = 0x1;
export const FAULT_FLAG_ALLOW_RETRY = 0x4;
export const FAULT_FLAG_KILLABLE = 0x10;
export const FAULT_FLAG_TRIED = 0x20;
export const FAULT_FLAG_USER = 0x40;
export const FAULT_FLAG_INSTRUCTION = 0x100;
export const FAULT_FLAG_INTERRUPTIBLE = 0x200;
export const FAULT_FLAG_VMA_LOCK = 0x1000;
export const FAULT_FLAG_DEFAULT = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE | FAULT_FLAG_INTERRUPTIBLE;
export const VM_FAULT_OOM = 0x1;
export const VM_FAULT_SIGBUS = 0x2;
export const VM_FAULT_MAJOR = 0x4;
export const VM_FAULT_HWPOISON = 0x10;
export const VM_FAULT_HWPOISON_LARGE = 0x20;
export const VM_FAULT_SIGSEGV = 0x40;
export const VM_FAULT_NOPAGE = 0x100;
export const VM_FAULT_RETRY = 0x400;
export const VM_FAULT_FALLBACK = 0x800;
export const VM_FAULT_COMPLETED = 0x4000;
export const VM_FAULT_ERROR =
  VM_FAULT_OOM |
  VM_FAULT_SIGBUS |
  VM_FAULT_HWPOISON |
  VM_FAULT_HWPOISON_LARGE |
  VM_FAULT_SIGSEGV |
  VM_FAULT_FALLBACK;

/** The task that runs. Fields carry the kernel's names. */
export interface task_struct {
  comm: string;
  pid: number;
  /** Effective uid. */
  uid: number;
  /** null for a kernel thread. */
  mm: mm_struct | null;
  active_mm: mm_struct;
  /** Kernel stack: lowest address and THREAD_SIZE in bytes. */
  readonly stack: bigint;
  readonly stackSize: number;
  /** pagefault_disable() depth. */
  pagefault_disabled: number;
  /** Depth of interrupt context; 0 is task context. */
  in_interrupt: number;
  preempt_count: number;
  /** signal_pending() and fatal_signal_pending(): `fatal` is both. */
  signal_pending: 'none' | 'signal' | 'fatal';
}

/** Saved registers: the part that common code reads. Each architecture extends it with its field names. */
export interface pt_regs {
  /** instruction_pointer(regs) */
  readonly instruction_pointer: bigint;
  /** kernel_stack_pointer(regs) */
  readonly stack_pointer: bigint;
  /** user_mode(regs) */
  readonly user_mode: boolean;
}

/** faulthandler_disabled(), include/linux/uaccess.h. */
export function faulthandler_disabled({ current }: ThisCpu): boolean {
  const { pagefault_disabled, preempt_count, in_interrupt } = current;
  return pagefault_disabled !== 0 || preempt_count !== 0 || in_interrupt !== 0;
}

/** fault_signal_pending(), include/linux/sched/signal.h. Kernel code answers only signals that kill. */
export function fault_signal_pending({ current }: ThisCpu, fault: number, regs: pt_regs): boolean {
  if ((fault & VM_FAULT_RETRY) === 0) return false;
  return current.signal_pending === 'fatal' || (regs.user_mode && current.signal_pending === 'signal');
}

/** Thrown by make_task_dead() and panic(): the code that faulted does not go on. Never an error. */
export class TaskDead {
  constructor(readonly outcome: RunOutcome) {}
}

/** An entry of an exception table, found in ram. */
export interface ExtableHit {
  /** Virtual address of the entry. */
  readonly va: bigint;
  /** Physical address of the entry (entries never straddle a page of their table's buffer). */
  readonly pa: number;
}

/** Services of the kernel as architecture code sees them. */
export interface Kernel {
  readonly config: KernelConfig;
  readonly init_mm: mm_struct;
  /** arm64: physical address of a page of zeros that stands in TTBR0 while no user tables may be used. */
  readonly reserved_pg_dir?: number;
  /** num_online_cpus(); 1 if left out. */
  readonly num_online_cpus?: number;
  /** What the architecture keeps for the whole machine, in a type of its own; null until it first asks for it. */
  machine: object | null;
  /** die counter since boot, as `[#%d]` prints it; the first oops makes it 1. */
  die_counter: number;

  /** One printk record without its trailing newline. */
  printk(here: ThisCpu, level: number, text: string): void;
  /** TAINT_* letters, e.g. `D`, `W`. */
  add_taint(letter: string): void;
  /** `Not tainted`, or `Tainted: ` and 20 flag characters. */
  print_tainted(): string;
  /** `Tainted: [D]=DIE, …`, or null when not tainted. */
  print_tainted_verbose(): string | null;
  /** dump_stack_print_info(): the CPU line and its followers. */
  dump_stack_print_info(here: ThisCpu, level: number): void;
  /** print_modules(). */
  print_modules(here: ThisCpu): void;
  /** kernel/exit.c; ends the run by throwing TaskDead. */
  make_task_dead(here: ThisCpu, signr: number): never;
  /** kernel/signal.c: is nobody there to handle a signal that the task gets? */
  unhandled_signal(task: task_struct): boolean;
  /**
   * kernel/signal.c, for force_sig_pkuerr() and force_sig_mceerr() as well: the task gets a signal that it cannot
   * put off. Ends the run by throwing TaskDead.
   */
  force_sig_fault(here: ThisCpu, signo: number, code: number, address: bigint, pkey?: number): never;
  /** The same without a code and an address of its own. */
  force_sig(here: ThisCpu, signo: number): never;
  /** kernel/entry/common.c: what is done before a return to user mode. */
  exit_to_user_mode_loop(here: ThisCpu, regs: pt_regs): Delegate<void>;
  /** kernel/panic.c; ends the run by throwing TaskDead. */
  panic(here: ThisCpu, text: string): never;
  /** WARN with its banner. `at` is what %pS prints for the place, `site` is `file:line`. */
  warn(here: ThisCpu, site: string, at: string, text: string | null): void;
  /** notify_die(): true when a notifier says NOTIFY_STOP. Nobody is registered here: a decision that says no. */
  notify_die(here: ThisCpu, event: string): Delegate<boolean>;
  /** %p: the pointer hashed, or as it is with no_hash_pointers. 16 digits, no prefix. */
  hashed_pointer(address: bigint): string;
  /** True the first time it is called with `site` since boot (WARN_ONCE and friends). */
  once(site: string): boolean;
  /**
   * lib/ratelimit.c: may a message be printed? At most 10 in 5 seconds for each `state`; what was not printed is
   * counted, and told in the name of `func` when a new interval begins.
   */
  ___ratelimit(here: ThisCpu, state: string, func: string): boolean;

  /** %pS */
  sprint_symbol(address: bigint): string;
  /** %pB: looks up address - 1 and prints the offset of the address. */
  sprint_backtrace(address: bigint): string;
  /** kernel_text_address(): core text, module text, BPF images. */
  kernel_text_address(address: bigint): boolean;
  /** True when the address lies in the image of a BPF program. */
  is_bpf_text_address(address: bigint): boolean;

  /** search_exception_tables(): kernel, then modules, then BPF. */
  search_exception_tables(address: bigint): ExtableHit | null;

  /**
   * mm/mmap_lock.c; null when there is no VMA at the address, or it cannot be locked without the mmap lock.
   * What it returns is given back with vma_end_read().
   */
  lock_vma_under_rcu(here: ThisCpu, mm: mm_struct, address: bigint): Delegate<vm_area_struct | null>;
  vma_end_read(here: ThisCpu, vma: vm_area_struct): void;
  /** mm/mmap_lock.c; what it returns is given back with mmap_read_unlock(). */
  lock_mm_and_find_vma(
    here: ThisCpu,
    mm: mm_struct,
    address: bigint,
    regs: pt_regs,
  ): Delegate<vm_area_struct | null>;
  mmap_read_unlock(here: ThisCpu, mm: mm_struct): void;
  /** mm/memory.c; returns VM_FAULT_* bits. */
  handle_mm_fault(
    here: ThisCpu,
    vma: vm_area_struct,
    address: bigint,
    flags: number,
    regs: pt_regs,
  ): Delegate<number>;

  /** mm/oom_kill.c: what becomes of VM_FAULT_OOM in user mode. */
  pagefault_out_of_memory(here: ThisCpu): void;

  /** mm/tlb.c and its kin: drops translations of [start, end), or all of them, from every CPU. */
  flush_tlb_kernel_range(here: ThisCpu, start: bigint, end: bigint): void;
  flush_tlb_all(here: ThisCpu): void;
  /** kernel/panic.c: panics when a warning is to be the end, `origin` having warned. */
  check_panic_on_warn(here: ThisCpu, origin: string): void;

  /** mm/kfence/core.c */
  kfence_handle_page_fault(here: ThisCpu, addr: bigint, is_write: boolean, regs: pt_regs): Delegate<boolean>;
  /**
   * kernel/bpf/arena.c, or the stub without CONFIG_BPF_SYSCALL.
   * @param ret_ip what the link register holds where there is one, else 0: only with `arena_takes_ret_ip`
   */
  bpf_arena_handle_page_fault(
    here: ThisCpu,
    addr: bigint,
    is_write: boolean,
    fault_ip: bigint,
    ret_ip?: bigint,
  ): Delegate<boolean>;
  /** A later kernel, whose arena code is told the return address. False if left out. */
  readonly arena_takes_ret_ip?: boolean;
  /** kernel/bpf/arena.c, called by the exception-table handler of BPF programs. */
  bpf_prog_report_arena_violation(
    here: ThisCpu,
    write: boolean,
    addr: bigint,
    fault_ip: bigint,
  ): Delegate<void>;
}
