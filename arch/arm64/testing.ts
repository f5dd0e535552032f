/**
 * What the tests of this folder share: a ram with page tables by hand, a CPU without an engine, and a kernel
 * that records what it is asked and answers from switches.
 */
import {
  type AccessCode,
  type Cpu,
  type CpuStop,
  type Engine,
  EngineError,
  type Privilege,
  type RegisterSet,
} from '../../emu/cpu.js';
import { type Event, EventLog } from '../../emu/events.js';
import { type Delegate, drain, type Path, port, Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import { runGuest, type StopResult } from '../../emu/run.js';
import type { ExtableSpec, Resumption, ThisCpu } from '../arch.js';
import {
  type ExtableHit,
  type Kernel,
  type mm_struct,
  TaskDead,
  type task_struct,
  VM_FAULT_SIGSEGV,
  type vm_area_struct,
} from '../kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../kernel-config.js';
import { arm64 } from './index.js';
import { Arm64Mmu } from './mmu.js';

export const RAM_BASE = 0x4000_0000;
export const RAM_SIZE = 4 << 20;
export const SENTINEL = 0xffff_8000_80ff_f010n;

/** Kernel code, and an address of a page that is missing until a test maps it. */
export const TEXT = 0xffff_8000_8001_0000n;
export const K = 0xffff_8001_2345_6008n;
export const STACK = 0xffff_8000_8100_8000n;
export const USER_TEXT = 0x40_0000n;
export const USER_DATA = 0x7f00_0000_0000n;

export const LDR_X0_X1 = 0xf940_0020;
export const STR_X0_X1 = 0xf900_0020;
export const NOP = 0xd503_201f;

const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const PAGE_KERNEL_EXEC = 0x00c8_0000_0000_0703n;
const KERNEL_TABLE = 0x1000_0000_0000_0403n;
const USER_TABLE = 0x0800_0000_0000_0403n;

/** Registers in a map; runs nothing. */
export class FakeCpu implements Cpu {
  readonly id = 0;
  readonly sentinel = SENTINEL;
  readonly values = new Map<string, bigint>();
  readonly written: string[] = [];
  flushes = 0;
  readonly executed = 0;
  get registerNames(): readonly string[] {
    return [...this.values.keys()];
  }
  read(register: string): bigint {
    return this.values.get(register) ?? 0n;
  }
  write(register: string, value: bigint): void {
    this.written.push(register);
    this.values.set(register, value);
  }
  registerSet(names: readonly string[]): RegisterSet {
    const values = new BigUint64Array(names.length);
    return {
      names,
      values,
      load: () =>
        names.forEach((name, i) => {
          values[i] = this.read(name);
        }),
      store: () =>
        names.forEach((name, i) => {
          this.values.set(name, values[i] ?? 0n);
        }),
    };
  }
  privilege(): Privilege {
    return (this.read('pstate') & 0xfn) === 0n ? 'user' : 'kernel';
  }
  setPrivilege(privilege: Privilege): void {
    this.values.set('pstate', privilege === 'kernel' ? 5n : 0n);
  }
  start(): CpuStop {
    throw new EngineError('this CPU has no engine');
  }
  flushTlbPage(): void {
    this.flushes += 1;
  }
  flushTlb(): void {
    this.flushes += 1;
  }
  flushCode(): void {}
  close(): void {}
}

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

export class FakeKernel implements Kernel {
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
  ) {}

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

/** How handling a stop ended: the guest goes on, or the task is dead. */
export type Ending = Resumption | { readonly how: 'dead'; readonly outcome: TaskDead['outcome'] };

/** A booted CPU: two pages of code and the stack are mapped, everything else is up to the test. */
export class TestMachine {
  readonly log = new EventLog();
  readonly kernel: FakeKernel;
  readonly here: ThisCpu;
  readonly ram: Ram;
  readonly mmu: Arm64Mmu;
  readonly cpu: Cpu;
  /** A user address space with no pages. */
  readonly userMm: mm_struct;
  #nextPage = RAM_BASE;

  /** @param parts a CPU with an engine, whose filler is `mmu` over `ram`; a FakeCpu without */
  constructor(
    config: Partial<KernelConfig> = {},
    parts: { readonly cpu: Cpu; readonly ram: Ram; readonly mmu: Arm64Mmu } | null = null,
  ) {
    this.ram = parts?.ram ?? new Ram(RAM_BASE, RAM_SIZE);
    this.mmu = parts?.mmu ?? new Arm64Mmu(this.ram);
    this.cpu = parts?.cpu ?? new FakeCpu();
    const full = { ...DEFAULT_CONFIG, ...config };
    const init_mm: mm_struct = { name: 'init_mm', pgd: this.page() };
    this.userMm = { name: 'user', pgd: this.page() };
    this.kernel = new FakeKernel(full, init_mm, this.page());
    const trace = new Trace(0, this.log);
    const current: task_struct = {
      comm: 'kfault',
      pid: 42,
      uid: 0,
      mm: null,
      active_mm: init_mm,
      stack: STACK,
      stackSize: 16384,
      pagefault_disabled: 0,
      in_interrupt: 0,
      preempt_count: 0,
      signal_pending: 'none',
    };
    const { ram, mmu, cpu, kernel } = this;
    this.here = { cpu, mmu, ram, trace, arch: arm64, kernel, current, regs: null };
    mmu.attach(cpu, trace);
    // Downwards, so that neighbours in one space are none in the other.
    for (let offset = 12288n; offset >= 0n; offset -= 4096n) this.map(STACK + offset, PAGE_KERNEL);
    for (const offset of [0n, 4096n]) this.map(TEXT + offset, PAGE_KERNEL_EXEC);
    arm64.setupCpu(this.here, init_mm);
    arm64.prepareCall(this.here, TEXT, STACK + 16384n);
  }

  /** Physical address of a fresh page of zeros. */
  page(): number {
    const pa = this.#nextPage;
    this.#nextPage += 4096;
    return pa;
  }

  /** Physical address of the entry of `level` (0 to 3) for an address; makes the tables above it. */
  entryPa(va: bigint, level: number): number {
    const kernel = va >> 63n === 1n;
    let table = kernel ? this.kernel.init_mm.pgd : this.userMm.pgd;
    for (let l = 0; ; l++) {
      const pa = table + Number((va >> BigInt(39 - 9 * l)) & 511n) * 8;
      if (l === level) return pa;
      if (this.ram.readU64(pa) === 0n) {
        this.ram.writeU64(pa, BigInt(this.page()) | (kernel ? KERNEL_TABLE : USER_TABLE));
      }
      table = Number(this.ram.readU64(pa) & 0xffff_ffff_f000n);
    }
  }

  /** Sets the entry of `level` for an address. */
  set(va: bigint, level: number, entry: bigint): void {
    this.ram.writeU64(this.entryPa(va, level), entry);
  }

  /** Maps a fresh page at `va` with the bits of `prot`; its physical address. */
  map(va: bigint, prot: bigint): number {
    const pa = this.page();
    this.set(va, 3, prot | BigInt(pa));
    return pa;
  }

  /** Maps a fresh page at USER_DATA below tables that take nothing away, as the tables of users do (PXNTable). */
  mapBare(entry: bigint): void {
    this.map(USER_DATA, entry);
    for (const level of [0, 1, 2]) {
      const pa = this.entryPa(USER_DATA, level);
      this.ram.writeU64(pa, this.ram.readU64(pa) & ~(1n << 59n));
    }
  }

  /** Sets and clears bits of a register, and makes the walker look. */
  setBits(register: string, set: bigint, clear: bigint): void {
    this.cpu.write(register, (this.cpu.read(register) & ~clear) | set);
    this.mmu.refresh();
    this.cpu.flushTlb();
  }

  /** Makes a user task of the current one, and EL0 the mode. */
  becomeUserCode(): void {
    this.becomeUserTask();
    arm64.prepareUser(this.here, USER_TEXT, USER_DATA);
  }

  /** Makes a user task of the current one. */
  becomeUserTask(): void {
    this.here.current.mm = this.userMm;
    this.here.current.active_mm = this.userMm;
    arm64.switch_mm(this.here, this.userMm);
  }

  /** Stores an instruction word, at a mapped address. */
  code(word: number, at = TEXT): void {
    const pa = this.mmu.peek(at);
    this.ram.words32[(pa - RAM_BASE) / 4] = word;
    this.mmu.codeChanged();
  }

  /** Stores 64-bit words, at a mapped address. */
  words(at: bigint, ...values: bigint[]): void {
    values.forEach((value, i) => {
      this.ram.writeU64(this.mmu.peek(at + BigInt(i * 8)), value);
    });
  }

  /** Puts an exception-table entry at a fixed place behind the code and makes the search find it. */
  addExtable(spec: Partial<ExtableSpec> & { type: string }): void {
    const va = TEXT + 0x1000n + BigInt(this.kernel.extable.size * 12);
    const full: ExtableSpec = {
      insn: TEXT,
      fixup: TEXT + 0x40n,
      length: 4,
      clear: null,
      arena: null,
      data: {},
      ...spec,
    };
    const pa = this.mmu.peek(va);
    this.ram.write(pa, arm64.packExtable(full, va));
    this.kernel.extable.set(full.insn, { va, pa });
  }

  /** Handles a refused access by the instruction at TEXT, or at pc if it was set. */
  miss(va: bigint, access: AccessCode): Ending {
    return this.stop({ kind: 'miss', va, access });
  }

  stop(stop: CpuStop): Ending {
    this.log.events.length = 0;
    try {
      return drain(arm64.handleStop(this.here, stop) as Delegate<Resumption>);
    } catch (error) {
      if (error instanceof TaskDead) return { how: 'dead', outcome: error.outcome };
      throw error;
    }
  }

  /** Entered functions of the last stop, in order. */
  path(): string[] {
    return this.log.events.flatMap((event) => (event.type === 'enter' ? [event.fn] : []));
  }

  /** The ESR of the last stop. */
  esr(): string {
    return this.find('fault')?.code.toString(16) ?? 'none';
  }

  find<T extends Event['type']>(type: T): Extract<Event, { type: T }> | undefined {
    return this.log.events.find((event): event is Extract<Event, { type: T }> => event.type === type);
  }
}

const LIMITS = { instructions: 10_000, milliseconds: 5000, refaults: 16 };

/** A machine whose CPU has an engine, and runs the code it is given. Its user closes the CPU. */
export class EngineMachine extends TestMachine {
  constructor(engine: Engine, config: Partial<KernelConfig> = {}) {
    const ram = new Ram(RAM_BASE, RAM_SIZE);
    const mmu = new Arm64Mmu(ram);
    super(config, {
      cpu: engine.createCpu('arm64', ram, { id: 0, filler: mmu, sentinel: SENTINEL }),
      ram,
      mmu,
    });
  }

  /** Stores instruction words, at a mapped address. */
  load(at: bigint, words: readonly number[]): void {
    words.forEach((word, i) => {
      this.code(word, at + BigInt(i * 4));
    });
    this.cpu.flushCode();
  }

  /** Runs until the outcome; what kills the task is one, too. */
  run(pc: bigint) {
    const { here, cpu } = this;
    const guest = {
      cpu,
      trace: here.trace,
      pcRegister: 'pc',
      now: () => 0,
      *handleStop(stop: CpuStop) {
        try {
          return (yield* arm64.handleStop(here, stop)) as StopResult;
        } catch (error) {
          if (error instanceof TaskDead) return { how: 'end', outcome: error.outcome } as StopResult;
          throw error;
        }
      },
    };
    this.log.events.length = 0;
    return drain(runGuest(guest, pc, LIMITS));
  }

  /** Calls `words`, loaded at TEXT, as the host calls kernel code. */
  call(words: readonly number[], registers: Readonly<Record<string, bigint>> = {}) {
    this.load(TEXT, words);
    arm64.prepareCall(this.here, TEXT, STACK + 16384n);
    for (const [name, value] of Object.entries(registers)) this.cpu.write(name, value);
    return this.run(TEXT);
  }

  /** ESR of each fault of the last run, in order. */
  faults(): string[] {
    return this.log.events.flatMap((event) => (event.type === 'fault' ? [event.code.toString(16)] : []));
  }
}
