/** A booted system as the machine of a fixture. With build-machine.ts the only code here that knows boot/. */
import type { Arch, Pgtable, ThisCpu } from '../../arch/arch.js';
import type { LoadedFunction } from '../../boot/load-bpf.js';
import type { System } from '../../boot/system.js';
import { arena_map_free } from '../../bpf/arena/arena.js';
import {
  bpf_arena_alloc_pages,
  bpf_arena_alloc_pages_non_sleepable,
  bpf_arena_alloc_pages_sleepable,
  bpf_arena_free_pages,
  bpf_arena_free_pages_non_sleepable,
  bpf_arena_reserve_pages,
} from '../../bpf/arena/arena_pages.js';
import type { bpf_arena, bpf_map } from '../../bpf/arena/arena_struct.js';
import { run_irq_work, run_workqueue } from '../../bpf/arena/arena_work.js';
import type { bpf_prog } from '../../bpf/program.js';
import { hex, toSigned, u64 } from '../../emu/address.js';
import type { Event, EventLog, Primitive, RunOutcome } from '../../emu/events.js';
import type { Delegate, Path } from '../../emu/path.js';
import type { RaisedStop } from '../../emu/run.js';
import { entryAt, isStop, PTE, setEntry, stoppedAt, stoppedBy } from '../../mm/descend.js';
import { ENTRY_NONE } from '../../mm/table_entries.js';
import { DataPages, isRefusal, USER_STACK_END } from '../build/data-pages.js';
import { CONSTANTS } from '../format/constants.js';
import { arenaView, inArena } from './arena-view.js';
import { hostCall } from './host-call.js';
import type { SystemKfence } from './kfence-machine.js';
import {
  type CallContext,
  type EntryLevel,
  type EntryView,
  type Machine,
  MissingArena,
  type PagesCall,
  StepRefusal,
} from './machine.js';
import type { ArenaView } from './machine-arena.js';
import { type ArenaAddresses, MachineScope } from './machine-scope.js';
import { Processes } from './processes.js';
import { SystemArenas } from './system-arenas.js';
import { SystemBpf } from './system-bpf.js';

const PAGE = 4096n;
/** Levels as mm/ numbers them; the root's entries are those of the folded p4d. */
const LEVELS: readonly EntryLevel[] = ['pgd', 'pud', 'pmd', 'pte'];
const ALLOCATE = new Map(
  Object.entries({
    bpf_arena_alloc_pages,
    bpf_arena_alloc_pages_non_sleepable,
    bpf_arena_alloc_pages_sleepable,
  }),
);
const FREE = new Map(Object.entries({ bpf_arena_free_pages, bpf_arena_free_pages_non_sleepable }));

export class SystemMachine implements Machine {
  readonly arch: Arch;
  readonly pgtable: Pgtable;
  readonly scope: MachineScope;
  /** Addresses of functions and data, and of labels by function. */
  readonly symbols = new Map<string, bigint>();
  readonly labels = new Map<string, ReadonlyMap<string, bigint>>();
  /** Null once it is destroyed, or when it was refused. */
  readonly maps = new Map<string, bpf_map | null>();
  readonly programs = new Map<string, bpf_prog>();
  /** Functions of programs in BPF text. */
  readonly loadedBpf = new Map<string, LoadedFunction>();
  /** Programs that cannot sleep. */
  readonly nonSleepable = new Set<string>();
  readonly bpf: SystemBpf;
  /** Arenas that are gone: what happened in them is told by their names all the same. */
  readonly #destroyed = new Map<string, bpf_arena>();
  readonly #extents = new Map<string, readonly [start: bigint, size: number]>();
  #userStack: bigint | null = null;
  readonly processes: Processes;
  readonly arenas: SystemArenas;

  constructor(
    readonly system: System,
    readonly log: EventLog,
    readonly kfence: SystemKfence | null = null,
  ) {
    this.arch = system.arch;
    this.pgtable = system.memory.pgtable;
    this.processes = new Processes(system);
    this.scope = new MachineScope({
      constants: CONSTANTS[this.arch.name],
      pgtable: this.pgtable,
      layout: this.arch.layout,
      symbols: this.symbols,
      labels: this.labels,
      arena: (name) => this.#addresses(name),
      insns: (name) => this.loadedBpf.get(name)?.insns,
      mapPointer: (name) => system.maps.addressOf(this.map(name)),
      kfence,
      entryOf: (va) => this.readEntry(0, va, null)?.value ?? 0n,
      physical: (va) => system.here().mmu.peek(va),
    });
    this.bpf = new SystemBpf({
      system,
      programs: this.programs,
      loaded: this.loadedBpf,
      isSleepable: (program) => !this.nonSleepable.has(program),
      run: (cpu, pc, run) => {
        const hindrance = this.#hindrance(cpu);
        return hindrance === null ? run() : this.#notRun(cpu, pc, hindrance);
      },
      hostCall: (cpu, fn, args, call) => this.hostCall(system.here(cpu), fn, args, call),
    });
    this.arenas = new SystemArenas(this);
  }

  get events(): readonly Event[] {
    return this.log.events;
  }

  nameOf(address: bigint): string | null {
    for (const [name, map] of this.maps) {
      const arena = map?.arena ?? this.#destroyed.get(name);
      const shown = arena === undefined ? null : inArena(name, arena, address);
      if (shown !== null) return shown;
    }
    const { kernel } = this.system;
    if (kernel.kallsyms.lookup(address) !== null) return kernel.sprint_symbol(address);
    for (const [name, [start, size]] of this.#extents) {
      const offset = address - start;
      if (offset >= 0n && offset < BigInt(size)) return offset === 0n ? name : `${name} + ${hex(offset)}`;
    }
    return null;
  }

  /** Bytes of a function or data that is known by name; 0 for other names. */
  sizeOf(name: string): number {
    return this.#extents.get(name)?.[1] ?? 0;
  }

  /** Makes a function or data known by name. */
  addSymbol(name: string, start: bigint, size: number): void {
    this.symbols.set(name, start);
    this.#extents.set(name, [start, size]);
  }

  get registerNames(): readonly string[] {
    return this.system.here().cpu.registerNames;
  }

  readRegister(cpu: number, name: string): bigint {
    return this.system.register(cpu, name);
  }

  *call(
    cpu: number,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    context: CallContext,
    raised: RaisedStop | null,
  ): Path<RunOutcome> {
    const { current } = this.system.here(cpu);
    const hindrance = this.#hindrance(cpu);
    if (hindrance !== null) return yield* this.#notRun(cpu, pc, hindrance);
    const { in_interrupt, pagefault_disabled, preempt_count } = current;
    const { irqs_disabled, ...counts } = context;
    // In the middle of another step something may be counted already.
    current.in_interrupt += counts.in_interrupt;
    current.pagefault_disabled += counts.pagefault_disabled;
    current.preempt_count += counts.preempt_count;
    try {
      return yield* this.system.call(cpu, pc, registers, { irqs_disabled, raised });
    } finally {
      Object.assign(current, { in_interrupt, pagefault_disabled, preempt_count });
    }
  }

  advance(microseconds: number): void {
    this.system.kernel.clock.advance(microseconds);
  }

  taint(): string {
    return this.system.kernel.print_tainted();
  }

  user(
    cpu: number,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    raised: RaisedStop | null,
    process: string | null,
  ): Delegate<RunOutcome> {
    const hindrance = this.#hindrance(cpu);
    if (hindrance !== null) return this.#notRun(cpu, pc, hindrance);
    const stack = process === null ? this.userStack() : USER_STACK_END;
    return this.processes.as(cpu, process, (mm) => this.system.user(cpu, pc, stack, registers, raised, mm));
  }

  watch(cpu: number, decided: ((fn: string, test: string) => Delegate<void> | undefined) | null): () => void {
    const { trace } = this.system.here(cpu);
    const before = trace.onDecision;
    trace.onDecision = decided;
    return () => {
      trace.onDecision = before;
    };
  }

  userStack(): bigint {
    try {
      this.#userStack ??= new DataPages(this.system).stack();
      return this.#userStack;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      throw new StepRefusal(`no user stack can be had: ${error.message}`);
    }
  }

  /** Why nothing can run on a CPU; null when something can. */
  #hindrance(cpu: number): string | null {
    if (this.system.kernel.panicked) return 'the kernel has panicked: nothing runs on this machine any more';
    return this.#hasStack(cpu) ? null : "the top of the CPU's kernel stack is not mapped";
  }

  /** Where steps before have bent the tables, there may be no stack to start on. */
  #hasStack(cpu: number): boolean {
    const { current, mmu, ram } = this.system.here(cpu);
    const pa = mmu.peek(current.stack + BigInt(current.stackSize - 8));
    return pa >= 0 && ram.contains(pa, 8);
  }

  /** A run that ends before its first instruction. */
  #notRun(cpu: number, pc: bigint, why: string): Delegate<RunOutcome> {
    const { trace } = this.system.here(cpu);
    const outcome: RunOutcome = { kind: 'stopped', pc, why };
    trace.emit({ type: 'run', cpu, pc });
    trace.emit({ type: 'outcome', cpu, outcome });
    return trace.immediate(outcome);
  }

  readMemory(cpu: number, va: bigint, length: number): Uint8Array | null {
    return this.system.readVirtual(cpu, va, length);
  }

  writeMemory(cpu: number, va: bigint, bytes: Uint8Array): boolean {
    return this.system.writeVirtual(cpu, va, bytes);
  }

  readEntry(cpu: number, va: bigint, level: EntryLevel | null): EntryView | null {
    const found = this.#entry(cpu, va, level);
    if (found === null) return null;
    return { level: LEVELS[found.level] ?? 'pte', value: this.system.ram.readU64(found.pa) };
  }

  writeEntry(cpu: number, va: bigint, level: EntryLevel | null, value: bigint): boolean {
    const found = this.#entry(cpu, va, level);
    if (found === null || (level === null && found.stopped === ENTRY_NONE)) return false;
    setEntry(this.system.here(cpu), this.pgtable, found.level, found.pa, value);
    return true;
  }

  flushTlb(cpu: number, va: bigint | null): void {
    const { cpu: engine, mmu, trace } = this.system.here(cpu);
    if (va === null) engine.flushTlb();
    else engine.flushTlbPage(va & ~(PAGE - 1n));
    mmu.unpin(va);
    trace.emit({ type: 'tlb-flush', cpu, va, by: 'fixture' });
  }

  keepTlb(cpu: number, va: bigint): boolean {
    return this.system.here(cpu).mmu.pin(va);
  }

  pagesCall(cpu: number, call: PagesCall): Delegate<bigint> {
    const here = this.system.here(cpu);
    const { bpf } = this.system;
    const map = this.map(call.arena);
    const page_cnt = Number(BigInt.asUintN(32, call.page_cnt));
    const node_id = Number(BigInt.asIntN(32, call.node_id));
    const { fn, address, flags } = call;
    const args = { map: call.arena, address, page_cnt };
    const work = (): Delegate<bigint | number | undefined> => {
      const allocate = ALLOCATE.get(fn);
      if (allocate !== undefined) return allocate(here, bpf, map, address, page_cnt, node_id, flags);
      const free = FREE.get(fn);
      if (free !== undefined) return free(here, bpf, map, address, page_cnt) as Delegate<undefined>;
      return bpf_arena_reserve_pages(here, bpf, map, address, page_cnt);
    };
    return this.hostCall(here, fn, args, () => bpf.calls.during(map, fn, work));
  }

  *runDeferred(cpu: number): Path<void> {
    const here = this.system.here(cpu);
    const { bpf } = this.system;
    yield* this.hostCall(here, 'run_irq_work', {}, () => {
      run_irq_work(bpf);
      return here.trace.immediate(undefined);
    });
    yield* this.hostCall(here, 'run_workqueue', {}, function* () {
      yield* run_workqueue(here, bpf);
      return undefined;
    });
  }

  *destroyArena(cpu: number, name: string): Path<void> {
    const here = this.system.here(cpu);
    const map = this.map(name);
    const { bpf } = this.system;
    const holder = this.#holder(map);
    if (holder !== null) {
      throw new StepRefusal(
        `arena \`${name}\` cannot be destroyed here: ${holder} has it, and with it a reference`,
      );
    }
    yield* this.hostCall(here, 'arena_map_free', { map: name }, function* () {
      yield* bpf.calls.during(map, 'arena_map_free', () => arena_map_free(here, bpf, map));
      return undefined;
    });
    // With a mapping left, the kernel warns and leaks it all.
    if (map.arena !== null && bpf.arenas.has(map.arena)) return;
    this.maps.set(name, null);
    if (map.arena !== null) this.#destroyed.set(name, map.arena);
  }

  /** Who is in the middle of something with a map; null when nobody is. */
  #holder(map: bpf_map): string | null {
    const { bpf, cpus } = this.system;
    const fn = bpf.calls.on(map);
    if (fn !== null) return `${fn}(), which is under way,`;
    const { arena } = map;
    if (arena === null) return null;
    const lock = [arena.spinlock, arena.lock, arena.zap_mutex].find(({ owner }) => owner !== null);
    if (lock !== undefined) return `CPU ${lock.owner}, which holds ${lock.name},`;
    for (const here of cpus) {
      const prog = here.regs === null ? null : bpf.programs.bpf_prog_find_from_stack(here);
      if (prog !== null && prog.aux.arena === arena) {
        return `program ${prog.aux.name}, which runs on CPU ${here.cpu.id},`;
      }
    }
    return null;
  }

  arena(name: string): ArenaView {
    const { arena } = this.map(name);
    if (arena === null) throw new StepRefusal(`map \`${name}\` is no arena`);
    return arenaView(this.system, arena);
  }

  isScratch(entry: bigint): boolean {
    if (!this.pgtable.pte_present(entry)) return false;
    const pa = this.pgtable.pte_pa(entry);
    return [...this.maps.values()].some((map) => map?.arena?.scratch_page === pa);
  }

  close(): void {
    this.system.close();
  }

  /** The map of an arena that exists. */
  map(name: string): bpf_map {
    const map = this.maps.get(name);
    if (map === undefined || map === null) throw new MissingArena(name);
    return map;
  }

  /** Calls into the kernel from outside guest code: what hostCall() of host-call.ts does. */
  *hostCall(
    here: ThisCpu,
    fn: string,
    args: Readonly<Record<string, Primitive>>,
    call: () => Delegate<bigint | number | undefined>,
  ): Path<bigint> {
    return u64(BigInt((yield* hostCall(here, fn, args, call)) ?? 0));
  }

  /** Where the entry of a level is, or the last one a walk reaches; `stopped` says what stopped it there. */
  #entry(
    cpu: number,
    va: bigint,
    level: EntryLevel | null,
  ): { level: number; pa: number; stopped: number | null } | null {
    const { memory, arch } = this.system;
    const here = this.system.here(cpu);
    const signed = toSigned(va);
    if (Number.isNaN(signed)) return null;
    const isUser = va < arch.layout.user.end;
    const { current } = here;
    const mm = isUser ? (current.mm ?? current.active_mm) : memory.init_mm;
    const wanted = level === null ? PTE : LEVELS.indexOf(level);
    const pa = entryAt(here, memory, mm, signed, wanted, false);
    if (!isStop(pa)) return { level: wanted, pa, stopped: null };
    if (level !== null) return null;
    const at = stoppedAt(pa);
    return { level: at, pa: entryAt(here, memory, mm, signed, at, false), stopped: stoppedBy(pa) };
  }

  #addresses(name: string): ArenaAddresses | null {
    const arena = this.maps.get(name)?.arena ?? null;
    if (arena === null) return null;
    return {
      kern: arena.kern_vm_start,
      kern_vm: arena.kern_vm.addr,
      user: arena.user_vm_start,
      user_end: arena.user_vm_end,
      scratch: arena.scratch_page,
      max_entries: arena.map.max_entries,
    };
  }
}
