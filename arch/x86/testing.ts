/**
 * What the tests of this room share: a machine without engine. Page tables are built by hand in a ram, the
 * CPU is a set of registers, and the kernel behind the fault path answers as the test says.
 */
import type { Cpu, CpuStop, Engine, RegisterSet } from '../../emu/cpu.js';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE } from '../../emu/cpu.js';
import type { AccessType, Event } from '../../emu/events.js';
import { EventLog } from '../../emu/events.js';
import { type Delegate, drain, type Path, port, Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import type { ExtableSpec, Resumption, ThisCpu } from '../arch.js';
import { FakeEndings } from '../fake-endings.js';
import {
  type ExtableHit,
  type Kernel,
  type mm_struct,
  type pt_regs,
  TaskDead,
  type task_struct,
  type vm_area_struct,
} from '../kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../kernel-config.js';
import { packExtable } from './extable-format.js';
import { x86 } from './index.js';
import { X86Mmu } from './mmu.js';
import { entryPa, tablePa } from './pgtable.js';

export const SENTINEL = 0xffffffff8100401an;
export const TEXT = 0xffffffff81000000n;
const TEXT_PA = 0x300000;
export const STACK = 0xffffc90000200000n;
const STACK_PA = 0x200000;
export const STACK_TOP = STACK + 0x4000n;
/** An empty PTE in a table that is there. */
export const HOLE = 0xffffc90000401008n;

const KERNEL_PAGE = 0x8000000000000163n;
const KERNEL_CODE = 0x121n;
const LARGE_PAGE = 0x80000000000001e3n;
const TABLE = 0x67n;

export class FakeCpu implements Cpu {
  readonly id = 0;
  readonly sentinel = SENTINEL;
  readonly executed = 0;
  readonly registers = new Map<string, bigint>();
  readonly written: string[] = [];
  readonly flushed: string[] = [];

  get registerNames(): readonly string[] {
    return [...this.registers.keys()];
  }
  read(register: string): bigint {
    return this.registers.get(register) ?? 0n;
  }
  write(register: string, value: bigint): void {
    this.written.push(register);
    this.registers.set(register, value);
  }
  registerSet(names: readonly string[]): RegisterSet {
    const values = new BigUint64Array(names.length);
    return {
      names,
      values,
      load: () => {
        for (let i = 0; i < names.length; i++) values[i] = this.read(names[i] ?? '');
      },
      store: () => {
        for (const [i, name] of names.entries()) this.write(name, values[i] ?? 0n);
      },
    };
  }
  privilege(): 'kernel' | 'user' {
    return (this.read('cs') & 3n) === 3n ? 'user' : 'kernel';
  }
  setPrivilege(privilege: 'kernel' | 'user'): void {
    this.registers.set('cs', privilege === 'user' ? 0x33n : 0x10n);
    this.registers.set('ss', privilege === 'user' ? 0x2bn : 0x18n);
  }
  start(): CpuStop {
    return { kind: 'halt' };
  }
  flushTlbPage(va: bigint): void {
    this.flushed.push(va.toString(16));
  }
  flushTlb(): void {
    this.flushed.push('all');
  }
  flushCode(): void {}
  close(): void {}
}

/** A symbol of the fake kernel's text. */
interface Symbol {
  readonly name: string;
  readonly start: bigint;
  readonly size: number;
  readonly bpf: boolean;
}

/** Answers of the stages behind the fault path. */
export interface Answers {
  kfence: boolean;
  arena: boolean;
  vma: vm_area_struct | null;
  /** What lock_vma_under_rcu() finds; null makes the fault take the mmap lock. */
  locked: vm_area_struct | null;
  /** Events whose notifier says NOTIFY_STOP. */
  notify_stop: string[];
  /** What handle_mm_fault() returns, one after the other; the last one again and again. */
  handle_mm_fault: number[];
}

export class FakeKernel extends FakeEndings implements Kernel {
  readonly init_mm: mm_struct = { name: 'init_mm', pgd: 0x100000 };
  die_counter = 0;
  readonly answers: Answers = {
    kfence: false,
    arena: false,
    vma: null,
    locked: null,
    notify_stop: [],
    handle_mm_fault: [0],
  };
  readonly symbols: Symbol[] = [];
  readonly extable = new Map<bigint, ExtableHit>();
  readonly reports: string[] = [];
  /** Locks given back, and flags of handle_mm_fault(), in order. */
  readonly mm: string[] = [];
  readonly #seen = new Set<string>();
  /** How often each rate limit may still say yes; it says so ten times when nothing is here. */
  readonly limits = new Map<string, number>();
  #taint = '';

  constructor(
    readonly config: KernelConfig,
    readonly log: EventLog,
  ) {
    super();
  }

  printk(here: ThisCpu, level: number, text: string): void {
    here.trace.emit({ type: 'console', cpu: 0, level, text, time: 0, caller: 'T100' });
  }
  add_taint(letter: string): void {
    this.#taint += letter;
  }
  print_tainted(): string {
    return this.#taint === '' ? 'Not tainted' : `Tainted: ${this.#taint}`;
  }
  print_tainted_verbose(): string | null {
    return null;
  }
  dump_stack_print_info(here: ThisCpu, level: number): void {
    const { pid, uid, comm } = here.current;
    this.printk(here, level, `CPU: 0 UID: ${uid} PID: ${pid} Comm: ${comm} ${this.print_tainted()} `);
  }
  print_modules(here: ThisCpu): void {
    this.printk(here, 4, 'Modules linked in:');
  }
  flush_tlb_kernel_range(here: ThisCpu, start: bigint, end: bigint): void {
    for (let va = start; va < end; va += 4096n) here.cpu.flushTlbPage(va);
  }
  flush_tlb_all(here: ThisCpu): void {
    here.cpu.flushTlb();
  }
  check_panic_on_warn(): void {}
  make_task_dead(here: ThisCpu, signal: number): never {
    if (here.arch.irqs_disabled(here)) {
      this.printk(here, 6, `note: ${here.current.comm}[${here.current.pid}] exited with irqs disabled`);
    }
    throw new TaskDead({ kind: 'oops', title: '', signal });
  }
  panic(here: ThisCpu, text: string): never {
    this.printk(here, 0, `Kernel panic - not syncing: ${text}`);
    throw new TaskDead({ kind: 'panic', title: text });
  }
  warn(here: ThisCpu, _site: string, _at: string, text: string | null): void {
    this.printk(here, 4, '------------[ cut here ]------------');
    if (text !== null) this.printk(here, 4, text);
    this.add_taint('W');
  }
  once(site: string): boolean {
    if (this.#seen.has(site)) return false;
    this.#seen.add(site);
    return true;
  }
  ___ratelimit(_here: ThisCpu, state: string): boolean {
    const left = this.limits.get(state) ?? 10;
    this.limits.set(state, left - 1);
    return left > 0;
  }

  #sprint(address: bigint, back: bigint): string {
    const symbol = this.#symbolAt(address - back);
    if (symbol === undefined) return `0x${address.toString(16)}`;
    return `${symbol.name}+0x${(address - symbol.start).toString(16)}/0x${symbol.size.toString(16)}`;
  }
  #symbolAt(address: bigint): Symbol | undefined {
    return this.symbols.find(({ start, size }) => address >= start && address < start + BigInt(size));
  }
  sprint_symbol(address: bigint): string {
    return this.#sprint(address, 0n);
  }
  sprint_backtrace(address: bigint): string {
    return this.#sprint(address, 1n);
  }
  kernel_text_address(address: bigint): boolean {
    return address === SENTINEL || this.#symbolAt(address) !== undefined;
  }
  is_bpf_text_address(address: bigint): boolean {
    return this.#symbolAt(address)?.bpf === true;
  }
  search_exception_tables(address: bigint): ExtableHit | null {
    return this.extable.get(address) ?? null;
  }

  notify_die(_here: ThisCpu, event: string): Delegate<boolean> {
    return answer(this.answers.notify_stop.includes(event));
  }
  hashed_pointer(address: bigint): string {
    return address.toString(16).padStart(16, '0');
  }
  lock_vma_under_rcu(): Delegate<vm_area_struct | null> {
    return answer(this.answers.locked);
  }
  vma_end_read(): void {
    this.mm.push('vma_end_read');
  }
  mmap_read_unlock(): void {
    this.mm.push('mmap_read_unlock');
  }
  lock_mm_and_find_vma(): Delegate<vm_area_struct | null> {
    return answer(this.answers.vma);
  }
  handle_mm_fault(_here: ThisCpu, _vma: vm_area_struct, _address: bigint, flags: number): Delegate<number> {
    const { handle_mm_fault } = this.answers;
    this.mm.push(`handle_mm_fault ${flags.toString(16)}`);
    const result = handle_mm_fault.length > 1 ? handle_mm_fault.shift() : handle_mm_fault[0];
    return answer(result ?? 0);
  }
  readonly #kfence = port('kfence_handle_page_fault', ['addr', 'is_write'], (_here, _addr, _write) =>
    answer(this.answers.kfence),
  );
  readonly #arena = port('bpf_arena_handle_page_fault', ['addr', 'is_write'], (_here, _addr, _write) =>
    answer(this.answers.arena),
  );
  kfence_handle_page_fault(
    here: ThisCpu,
    addr: bigint,
    is_write: boolean,
    _regs: pt_regs,
  ): Delegate<boolean> {
    return this.#kfence(here, addr, is_write);
  }
  bpf_arena_handle_page_fault(here: ThisCpu, addr: bigint, is_write: boolean): Delegate<boolean> {
    return this.#arena(here, addr, is_write);
  }
  bpf_prog_report_arena_violation(here: ThisCpu, write: boolean, addr: bigint): Delegate<void> {
    const r15 = (here.regs as { readonly r15?: bigint } | null)?.r15;
    this.reports.push(`${write ? 'WRITE' : 'READ'} ${addr.toString(16)} with r15=${r15?.toString(16)}`);
    return answer(undefined);
  }
}

// biome-ignore lint/correctness/useYield: it stands in for ported functions, which are generators
function* answer<T>(value: T): Path<T> {
  return value;
}

export interface TestMachine<C extends Cpu = FakeCpu> {
  readonly here: ThisCpu;
  readonly cpu: C;
  readonly mmu: X86Mmu;
  readonly kernel: FakeKernel;
  readonly ram: Ram;
  readonly log: EventLog;
  readonly task: task_struct;
  /** Stores a leaf PTE, building tables with `_PAGE_TABLE` above it; returns where the PTE is. */
  map(va: bigint, pte: bigint, root?: number): number;
  /** Puts a function at an address in the text page, with a symbol of its name. */
  text(name: string, offset: number, bytes: readonly number[], size?: number, bpf?: boolean): bigint;
  /** Makes an exception-table entry. */
  fixup(spec: Partial<ExtableSpec> & { readonly insn: bigint; readonly type: string }): void;
  /** Lets the machine take a TLB miss; what was thrown by the end of the task is returned. */
  miss(va: bigint, access: AccessType): Resumption | TaskDead;
  /** The same of an exception that the host asks for. */
  raise(vector: number, error_code: number, address?: bigint): Resumption | TaskDead;
  /** What becomes of a stop of the engine. */
  stop(stop: CpuStop): Resumption | TaskDead;
  set(registers: Readonly<Record<string, bigint>>): void;
  events<T extends Event['type']>(type: T): Extract<Event, { type: T }>[];
  /** Console lines since the start. */
  console(): string[];
  /** Functions entered since the start. */
  entered(): string[];
}

/** A machine whose kernel stack and one page of text are mapped, and which is about to run kernel code there. */
export function testMachine(config: Partial<KernelConfig> = {}, maxphyaddr?: number): TestMachine {
  const ram = new Ram(0, 4 << 20);
  const machine = machineAround(ram, new FakeCpu(), new X86Mmu(ram, maxphyaddr), config);
  machine.set({ dr6: 0xffff0ff0n, dr7: 0x400n });
  return machine;
}

/** The same with an engine. Close its CPU. */
export function engineMachine(engine: Engine, config: Partial<KernelConfig> = {}): TestMachine<Cpu> {
  const ram = new Ram(0, 4 << 20);
  const mmu = new X86Mmu(ram);
  const cpu = engine.createCpu('x86-64', ram, { id: 0, filler: mmu, sentinel: SENTINEL });
  return machineAround(ram, cpu, mmu, config);
}

function machineAround<C extends Cpu>(
  ram: Ram,
  cpu: C,
  mmu: X86Mmu,
  config: Partial<KernelConfig>,
): TestMachine<C> {
  const log = new EventLog();
  const kernel = new FakeKernel({ ...DEFAULT_CONFIG, ...config }, log);
  const trace = new Trace(0, log);
  const { init_mm } = kernel;
  const task: task_struct = {
    comm: 't',
    pid: 100,
    uid: 0,
    mm: init_mm,
    active_mm: init_mm,
    stack: STACK,
    stackSize: 0x4000,
    pagefault_disabled: 0,
    in_interrupt: 0,
    preempt_count: 0,
    signal_pending: 'none',
  };
  const here: ThisCpu = { cpu, mmu, ram, trace, arch: x86, kernel, current: task, regs: null };
  let nextTable = init_mm.pgd + 0x1000;
  let extables = 0x380000;

  const map = (va: bigint, pte: bigint, root = init_mm.pgd): number => {
    let table = root;
    for (const level of ['pgd', 'pud', 'pmd'] as const) {
      const pa = entryPa(level, table, va);
      if (ram.readU64(pa) === 0n) {
        ram.writeU64(pa, BigInt(nextTable) | TABLE);
        nextTable += 0x1000;
      }
      table = tablePa(ram.readU64(pa));
    }
    const pa = entryPa('pte', table, va);
    ram.writeU64(pa, pte);
    return pa;
  };
  /** The direct map, in pages of 2 MiB: entries are put over the tables that map() makes for its first page. */
  const mapDirectMap = (): void => {
    const start = x86.layout.directMap;
    map(start, 0n);
    const pmd = entryPa(
      'pmd',
      tablePa(ram.readU64(entryPa('pud', tablePa(ram.readU64(entryPa('pgd', init_mm.pgd, start))), start))),
      start,
    );
    for (let i = 0; i < ram.size >> 21; i++) ram.writeU64(pmd + 8 * i, BigInt(i << 21) | LARGE_PAGE);
  };
  for (let page = 0; page < 4; page++) {
    map(STACK + BigInt(page * 4096), BigInt(STACK_PA + page * 4096) | KERNEL_PAGE);
  }
  map(TEXT, BigInt(TEXT_PA) | KERNEL_CODE);
  map(HOLE, 0n);
  mapDirectMap();

  mmu.attach(cpu, trace);
  x86.setupCpu(here, init_mm);
  x86.prepareCall(here, TEXT, STACK_TOP - 0x100n);
  log.events.length = 0;

  const stop = (why: CpuStop): Resumption | TaskDead => {
    try {
      return drain(x86.handleStop(here, why));
    } catch (error) {
      if (error instanceof TaskDead) return error;
      throw error;
    }
  };
  const events = <T extends Event['type']>(type: T): Extract<Event, { type: T }>[] =>
    log.events.filter((event): event is Extract<Event, { type: T }> => event.type === type);
  return {
    here,
    cpu,
    mmu,
    kernel,
    ram,
    log,
    task,
    map,
    text(name, offset, bytes, size = bytes.length, bpf = false) {
      const start = TEXT + BigInt(offset);
      ram.write(TEXT_PA + offset, Uint8Array.from(bytes));
      kernel.symbols.push({ name, start, size, bpf });
      const code = ram.read(TEXT_PA + offset, size);
      if (!bpf) x86.addUnwindInfo(here, { name, start, code });
      return start;
    },
    fixup(spec) {
      const entry: ExtableSpec = { fixup: 0n, length: 1, clear: null, arena: null, data: {}, ...spec };
      const pa = extables;
      const va = TEXT + BigInt(pa - TEXT_PA);
      extables += 12;
      ram.write(pa, packExtable(entry, va));
      kernel.extable.set(spec.insn, { va, pa });
    },
    miss(va, access) {
      const code = { read: ACCESS_READ, write: ACCESS_WRITE, fetch: ACCESS_FETCH } as const;
      return stop({ kind: 'miss', va, access: code[access] });
    },
    raise(vector, error_code, address = 0n) {
      return stop({ kind: 'raised', number: vector, syndrome: BigInt(error_code), address });
    },
    stop,
    set(registers) {
      for (const [name, value] of Object.entries(registers)) cpu.write(name, value);
    },
    events,
    console: () => events('console').map(({ text }) => text),
    entered: () => events('enter').map(({ fn }) => fn),
  };
}
