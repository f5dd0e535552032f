/** A booted system as the machine of a fixture. With build-machine.ts the only code here that knows boot/. */
import type { Arch, Pgtable, ThisCpu } from '../arch/arch.js';
import type { System } from '../boot/system.js';
import { arena_map_free, type bpf_arena, type bpf_map, RECOVERY_SZ } from '../bpf/arena.js';
import {
  bpf_arena_alloc_pages,
  bpf_arena_alloc_pages_non_sleepable,
  bpf_arena_alloc_pages_sleepable,
  bpf_arena_free_pages,
  bpf_arena_free_pages_non_sleepable,
  bpf_arena_reserve_pages,
} from '../bpf/arena_pages.js';
import { run_irq_work, run_workqueue } from '../bpf/arena_work.js';
import type { bpf_prog } from '../bpf/program.js';
import { bpf_prog_stream_read } from '../bpf/stream.js';
import { hex, toSigned, u64 } from '../emu/address.js';
import type { Event, EventLog, Primitive, RunOutcome } from '../emu/events.js';
import { drain } from '../emu/path.js';
import type { RaisedStop } from '../emu/run.js';
import { ENOENT } from '../kernel/errno.js';
import { descend, entryAt, isStop, PTE, setEntry, stoppedAt, stoppedBy } from '../mm/descend.js';
import { ENTRY_NONE } from '../mm/table_entries.js';
import { CONSTANTS } from './constants.js';
import { DataPages, isRefusal } from './data-pages.js';
import type { SystemKfence } from './kfence-machine.js';
import {
  type ArenaView,
  type CallContext,
  type EntryLevel,
  type EntryView,
  type Machine,
  MissingArena,
  type PagesCall,
  StepRefusal,
} from './machine.js';
import { type ArenaAddresses, MachineScope } from './machine-scope.js';

const PAGE = 4096n;
/** Levels as mm/ numbers them; the root's entries are those of the folded p4d. */
const LEVELS: readonly EntryLevel[] = ['pgd', 'pud', 'pmd', 'pte'];
/** Bytes that one table of leaf entries maps. */
const TABLE_SPAN = 0x20_0000;
const EMPTY_TABLE = new Uint8Array(4096);
const ALLOCATE = new Map(
  Object.entries({
    bpf_arena_alloc_pages,
    bpf_arena_alloc_pages_non_sleepable,
    bpf_arena_alloc_pages_sleepable,
  }),
);
const FREE = new Map(Object.entries({ bpf_arena_free_pages, bpf_arena_free_pages_non_sleepable }));
/** Longest stream read; a stream never holds more. */
const STREAM_MAX = 1 << 20;

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
  /** Arenas that are gone: what happened in them is told by their names all the same. */
  readonly #destroyed = new Map<string, bpf_arena>();
  readonly #extents = new Map<string, readonly [start: bigint, size: number]>();
  #userStack: bigint | null = null;

  constructor(
    readonly system: System,
    readonly log: EventLog,
    readonly kfence: SystemKfence | null = null,
  ) {
    this.arch = system.arch;
    this.pgtable = system.memory.pgtable;
    this.scope = new MachineScope({
      constants: CONSTANTS[this.arch.name],
      pgtable: this.pgtable,
      layout: this.arch.layout,
      symbols: this.symbols,
      labels: this.labels,
      arena: (name) => this.#addresses(name),
      kfence,
      entryOf: (va) => this.readEntry(0, va, null)?.value ?? 0n,
      physical: (va) => system.here().mmu.peek(va),
    });
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

  /** Makes a function or data known by name. */
  addSymbol(name: string, start: bigint, size: number): void {
    this.symbols.set(name, start);
    this.#extents.set(name, [start, size]);
  }

  get registerNames(): readonly string[] {
    return this.system.here().cpu.registerNames;
  }

  readRegister(cpu: number, name: string): bigint {
    return this.system.here(cpu).cpu.read(name);
  }

  call(
    cpu: number,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    context: CallContext,
    raised: RaisedStop | null,
  ): RunOutcome {
    const { current } = this.system.here(cpu);
    const hindrance = this.#hindrance(cpu);
    if (hindrance !== null) return this.#notRun(cpu, pc, hindrance);
    const { in_interrupt, pagefault_disabled, preempt_count } = current;
    const { irqs_disabled, ...counts } = context;
    Object.assign(current, counts);
    try {
      return drain(this.system.call(cpu, pc, registers, { irqs_disabled, raised }));
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
  ): RunOutcome {
    const hindrance = this.#hindrance(cpu);
    if (hindrance !== null) return this.#notRun(cpu, pc, hindrance);
    this.#userStack ??= this.#makeUserStack();
    return drain(this.system.user(cpu, pc, this.#userStack, registers, raised));
  }

  #makeUserStack(): bigint {
    try {
      return new DataPages(this.system).stack();
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
  #notRun(cpu: number, pc: bigint, why: string): RunOutcome {
    const { trace } = this.system.here(cpu);
    const outcome: RunOutcome = { kind: 'stopped', pc, why };
    trace.emit({ type: 'run', cpu, pc });
    trace.emit({ type: 'outcome', cpu, outcome });
    return outcome;
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

  pagesCall(cpu: number, call: PagesCall): bigint {
    const here = this.system.here(cpu);
    const { bpf } = this.system;
    const map = this.map(call.arena);
    const page_cnt = Number(BigInt.asUintN(32, call.page_cnt));
    const node_id = Number(BigInt.asIntN(32, call.node_id));
    const { fn, address, flags } = call;
    const args = { map: call.arena, address, page_cnt };
    return this.#hostCall(here, fn, args, () => {
      const allocate = ALLOCATE.get(fn);
      if (allocate !== undefined) return drain(allocate(here, bpf, map, address, page_cnt, node_id, flags));
      const free = FREE.get(fn);
      if (free !== undefined) {
        drain(free(here, bpf, map, address, page_cnt));
        return undefined;
      }
      return drain(bpf_arena_reserve_pages(here, bpf, map, address, page_cnt));
    });
  }

  runDeferred(cpu: number): void {
    const here = this.system.here(cpu);
    const { bpf } = this.system;
    this.#hostCall(here, 'run_irq_work', {}, () => {
      run_irq_work(bpf);
      return undefined;
    });
    this.#hostCall(here, 'run_workqueue', {}, () => {
      drain(run_workqueue(here, bpf));
      return undefined;
    });
  }

  streamRead(cpu: number, program: string, streamId: bigint, length: bigint): { ret: bigint; text: string } {
    const here = this.system.here(cpu);
    const prog = this.programs.get(program);
    const size = Number(BigInt.asUintN(32, length));
    const buffer = new Uint8Array(Math.min(size, STREAM_MAX));
    const copy = (offset: number, bytes: Uint8Array): boolean => {
      buffer.set(bytes, offset);
      return true;
    };
    // A program without code has no streams that anybody could have written.
    const read32 = (): number =>
      prog === undefined
        ? -ENOENT
        : bpf_prog_stream_read(prog, Number(BigInt.asUintN(32, streamId)), size, copy);
    const args = { program, stream_id: streamId, len: size };
    const ret = this.#hostCall(here, 'bpf_prog_stream_read', args, read32);
    const read = BigInt.asIntN(64, ret);
    return { ret, text: read > 0n ? new TextDecoder().decode(buffer.subarray(0, Number(read))) : '' };
  }

  destroyArena(cpu: number, name: string): void {
    const here = this.system.here(cpu);
    const map = this.map(name);
    this.#hostCall(here, 'arena_map_free', { map: name }, () => {
      drain(arena_map_free(here, this.system.bpf, map));
      return undefined;
    });
    this.maps.set(name, null);
    if (map.arena !== null) this.#destroyed.set(name, map.arena);
  }

  arena(name: string): ArenaView {
    const { arena } = this.map(name);
    if (arena === null) throw new Error(`map ${name} is no arena`);
    let used = 0;
    let scratched = 0;
    this.#eachEntry(arena, (entry) => {
      if (!this.pgtable.pte_present(entry)) return;
      if (this.pgtable.pte_pa(entry) === arena.scratch_page) scratched += 1;
      else used += 1;
    });
    const free = arena.rt.ranges().reduce((sum, [first, last]) => sum + last - first + 1, 0);
    return { pages: used, scratched, free };
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

  /** Calls into the kernel from outside guest code; both ends are in the event stream. */
  #hostCall(
    here: ThisCpu,
    fn: string,
    args: Readonly<Record<string, Primitive>>,
    call: () => bigint | number | undefined,
  ): bigint {
    const { trace } = here;
    const { cpu } = trace;
    trace.emit({ type: 'host-call', cpu, fn, phase: 'start', args, value: undefined });
    const value = call();
    trace.emit({ type: 'host-call', cpu, fn, phase: 'end', args, value });
    return u64(BigInt(value ?? 0));
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
      scratch: arena.scratch_page,
      max_entries: arena.map.max_entries,
    };
  }

  /** Visits every leaf entry of an arena's window that is not zero. */
  #eachEntry(arena: bpf_arena, visit: (entry: bigint) => void): void {
    const { memory, ram } = this.system;
    const here = this.system.here();
    const start = toSigned(arena.kern_vm_start);
    const end = start + RECOVERY_SZ;
    for (let va = start; va < end; va = (Math.floor(va / TABLE_SPAN) + 1) * TABLE_SPAN) {
      const table = descend(here, memory, memory.init_mm, va, PTE, false);
      if (isStop(table)) continue;
      const first = Math.floor(va / 4096) & 511;
      const last = Math.min(512, first + Math.ceil((end - va) / 4096));
      // Nearly all of two thousand tables are empty: those are not looked through.
      const offset = table - ram.base;
      if (Buffer.compare(ram.bytes.subarray(offset, offset + EMPTY_TABLE.length), EMPTY_TABLE) === 0)
        continue;
      for (let index = first; index < last; index += 1) {
        const entry = ram.readU64(table + index * 8);
        if (entry !== 0n) visit(entry);
      }
    }
  }
}

function inArena(name: string, arena: bpf_arena, address: bigint): string | null {
  const offset = address - arena.kern_vm.addr;
  if (offset < 0n || offset >= BigInt(arena.kern_vm.size)) return null;
  const band = address - arena.kern_vm_start;
  const first = arena.user_vm_start & 0xffff_ffffn;
  const page = (band - first) / PAGE;
  if (band >= first && page < BigInt(arena.map.max_entries)) {
    const rest = address & (PAGE - 1n);
    return `${name}.page(${page})${rest === 0n ? '' : ` + ${hex(rest)}`}`;
  }
  return band < 0n ? `${name}.kern - ${hex(-band)}` : `${name}.kern + ${hex(band)}`;
}
