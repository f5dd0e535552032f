/**
 * A booted machine: one architecture, its CPUs over one ram, and the kernel's rooms wired together.
 */
import type { Arch, ExtableSpec, TestRunKind, ThisCpu } from '../arch/arch.js';
import { type mm_struct, PAGE_SIZE, type task_struct, VM_SHARED } from '../arch/kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../arch/kernel-config.js';
import { BpfEnv } from '../bpf/env.js';
import type { bpf_prog } from '../bpf/program.js';
import { hex, u64 } from '../emu/address.js';
import type { Engine } from '../emu/cpu.js';
import { type EventSink, NO_EVENTS, type RunOutcome } from '../emu/events.js';
import { type Path, Trace } from '../emu/path.js';
import { type Ram, RamError } from '../emu/ram.js';
import { DEFAULT_LIMITS, type RaisedStop, type RunLimits, runGuest } from '../emu/run.js';
import { EBUSY } from '../kernel/errno.js';
import { Kallsyms, type KernelSymbol } from '../kernel/kallsyms.js';
import { MachineRefusal } from '../kernel/machine-refusal.js';
import { createTask, pidOfCpu } from '../kernel/task.js';
import { kfenceFunctions } from '../mm/kfence/frames.js';
import { kfenceBoot } from '../mm/kfence/init.js';
import type { KfenceOptions } from '../mm/kfence/state.js';
import { map_kernel_range, map_page } from '../mm/map.js';
import { Memory } from '../mm/memory.js';
import { create_mm, mmap_region, type UserMm, type Vma } from '../mm/mmap.js';
import { alloc_thread_stack, get_vm_area, VM_ALLOC } from '../mm/vmalloc.js';
import { BpfCallables } from './bpf-callables.js';
import { guestOf } from './guest.js';
import { type HostFunction, HostFunctions } from './host-functions.js';
import { readVirtual, writeVirtual } from './host-view.js';
import { IMAGE_ROOM, type Image, placeImage } from './image.js';
import { BootedKernel } from './kernel.js';
import { type BpfSpec, type LoadedBpf, loadBpf } from './load-bpf.js';
import { MapPointers } from './map-pointers.js';
import { NestedRuns } from './nested.js';
import { type ProgramSpec, storeExtable, storeProgram } from './program-images.js';
import { slabFunctions } from './slab-functions.js';
import { alignUp, type TextKind, TextSpace } from './text.js';

export interface TaskOptions {
  readonly comm?: string | undefined;
  /** Of CPU 0's task, further CPUs have the next ones; or of each CPU's. */
  readonly pid?: number | readonly number[] | undefined;
  readonly uid?: number | undefined;
  readonly signal_pending?: task_struct['signal_pending'] | undefined;
}

export interface SystemOptions {
  readonly arch: Arch;
  readonly engine: Engine;
  /** Gets every event from the end of boot on. */
  readonly sink: EventSink;
  readonly config?: Partial<KernelConfig> | undefined;
  /** Bytes, a multiple of 4096. */
  readonly ramBytes?: number | undefined;
  /** 1 to 8. */
  readonly cpus?: number | undefined;
  /** current of CPU 0; each further CPU has a task of its own, with the next pid unless there is a list. */
  readonly task?: TaskOptions | undefined;
  readonly limits?: Partial<RunLimits> | undefined;
  /** KFENCE as it is built and booted; without it, it is off (kfence.sample_interval=0) and has no pool. */
  readonly kfence?: KfenceOptions | null | undefined;
}

/** Enough for the tables of a few arenas (8 MiB each) and their pages. */
const DEFAULT_RAM = 64 * 2 ** 20;
/** Below that there is no room for the kernel's own tables, stacks and text. */
export const SMALLEST_RAM = 4 * 2 ** 20;
export const MAX_CPUS = 8;

/** The task that runs where nobody says which. */
const DEFAULT_TASK = { comm: 'kfault', pid: 100, uid: 0 };

/** A range of user memory. */
export interface UserRange {
  /** VM_* */
  readonly vm_flags: number;
  /** x86-64: protection key. */
  readonly pkey?: number | undefined;
}

/** Code to be put into text, already assembled for its address. */
export interface TextSpec {
  readonly name: string;
  readonly start: bigint;
  readonly code: Uint8Array;
}

/** How kernel code starts. */
export interface CallOptions {
  /** With interrupts off. */
  readonly irqs_disabled?: boolean;
  /** An exception that is reported at the first instruction before it runs. */
  readonly raised?: RaisedStop | null;
}

/** A machine with a kernel in it. `close` frees its engines. */
export class System {
  readonly arch: Arch;
  readonly config: KernelConfig;
  readonly ram: Ram;
  readonly memory: Memory;
  readonly kernel: BootedKernel;
  readonly bpf: BpfEnv;
  readonly limits: RunLimits;
  readonly cpus: readonly ThisCpu[];
  readonly text: TextSpace;
  /** Pointers to maps that guest code has. */
  readonly maps: MapPointers;
  /** Functions that BPF programs call. */
  readonly callables: BpfCallables;
  readonly #engine: Engine;
  readonly #image: Image;
  readonly #hostFunctions = new HostFunctions();
  readonly #runs = new NestedRuns();
  #user: UserMm | null = null;
  #closed = false;

  /** Boots a machine. Throws a RamError or a MachineRefusal that says what cannot be had. */
  static boot(options: SystemOptions): System {
    return new System(options);
  }

  private constructor(options: SystemOptions) {
    const { arch } = options;
    this.arch = arch;
    this.config = { ...DEFAULT_CONFIG, ...options.config };
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    const count = options.cpus ?? 1;
    if (!Number.isInteger(count) || count < 1 || count > MAX_CPUS) {
      throw new RangeError(`${count} CPUs: a machine has 1 to ${MAX_CPUS}`);
    }
    const bytes = options.ramBytes ?? DEFAULT_RAM;
    if (bytes < SMALLEST_RAM) {
      throw new RamError(
        `ram of ${bytes} bytes: the kernel's own tables, stacks and text need ${SMALLEST_RAM} (4 MiB)`,
      );
    }
    this.#engine = options.engine;
    this.ram = options.engine.createRam(arch.layout.physBase, bytes);
    this.memory = new Memory(this.ram, arch.pgtable(this.config), arch.layout);
    const kallsyms = new Kallsyms();
    this.bpf = new BpfEnv({
      memory: this.memory,
      kallsyms_lookup_name: (name) => kallsyms.kallsyms_lookup_name(name),
    });
    const kfence = this.config.KFENCE ? (options.kfence ?? null) : null;
    this.kernel = new BootedKernel(this.memory, this.config, kallsyms, this.bpf, kfence);
    this.kernel.num_online_cpus = count;
    this.text = new TextSpace(this.memory, arch.layout, arch.textFiller);
    // Nobody calls the allocators of a machine that was not booted for it.
    const functions = kfence === null ? [] : slabFunctions(this.kernel.slab);
    this.maps = new MapPointers(this.memory);
    this.callables = new BpfCallables(this);
    this.#image = placeImage(arch, kfence === null ? [] : [...functions, ...kfenceFunctions]);

    const cpus: ThisCpu[] = [];
    this.cpus = cpus;
    try {
      for (let id = 0; id < count; id++) cpus.push(this.#createCpu(id, options.engine));
      const boot = this.here();
      this.#mapDirectMap(boot);
      if (kfence !== null) kfenceBoot(boot, this.kernel.kfence);
      for (const here of cpus) this.#startCpu(here, options.task ?? {});
      for (const symbol of this.#image.symbols) {
        this.kernel.kallsyms.add(symbol);
        // Host code stands in for these functions; their bytes are filler.
        this.text.map(boot, symbol.start, symbol.size);
        const fn = functions.find(({ name }) => name === symbol.name);
        this.#storeFunction(boot, symbol, new Uint8Array(), fn ?? null);
      }
      this.text.reserve('kernel', arch.layout.text.start + IMAGE_ROOM);
    } catch (error) {
      this.close();
      throw error;
    }
    for (const here of cpus) here.trace.sink = options.sink;
  }

  /** CPU `id`. Throws a RangeError when there is none. */
  here(id = 0): ThisCpu {
    const here = this.cpus[id];
    if (here === undefined) throw new RangeError(`CPU ${id}: this machine has ${this.cpus.length}`);
    return here;
  }

  /** Next free address for code, aligned to 16 bytes. */
  textBase(kind: TextKind): bigint {
    return this.text.base(kind);
  }

  /** Puts a function into kernel text: code, symbol, unwind information. */
  loadText(spec: TextSpec): void {
    const boot = this.here();
    const { name, start, code } = spec;
    this.text.store(boot, 'kernel', start, code);
    this.kernel.kallsyms.add({ name, start, size: code.length, kind: 'text' });
    this.arch.addUnwindInfo(boot, { name, start, code });
    this.#flushCode();
  }

  /**
   * Puts the image of a BPF program or subprogram into memory, with its exception table behind the code,
   * as the JIT does it.
   */
  loadProgram(spec: ProgramSpec): bpf_prog {
    const prog = storeProgram(this, spec);
    this.#flushCode();
    return prog;
  }

  /**
   * Loads a program from BPF instructions: verifies, compiles and stores it. Throws a VerifierError or a JitError for
   * what the kernel refuses.
   */
  loadBpf(spec: BpfSpec): LoadedBpf {
    const loaded = loadBpf(this, spec);
    this.#flushCode();
    return loaded;
  }

  /**
   * Gives a function of the kernel image its code, once more if it has some; what is not given of it is filler.
   * @param host its body, for code that stops for the host
   */
  placeFunction(symbol: KernelSymbol, code: Uint8Array, host: HostFunction | null): void {
    const { kallsyms } = this.kernel;
    if (kallsyms.kallsyms_lookup_name(symbol.name) !== symbol.start) kallsyms.add(symbol);
    this.text.map(this.here(), symbol.start, symbol.size);
    this.#storeFunction(this.here(), symbol, code, host);
    this.#flushCode();
  }

  /** The exception table of kernel text: once, with all its entries. */
  loadKernelExtable(entries: readonly ExtableSpec[]): void {
    if (entries.length === 0) return;
    storeExtable(this, 'kernel', alignUp(this.textBase('kernel'), 4n), entries, null);
  }

  /**
   * Maps fresh pages at a free place of the vmalloc space or at `at`; returns their address.
   * Throws a MachineRefusal, VmallocError or PageAllocatorError when they cannot be had.
   */
  loadPages(size: number, prot: bigint, owner: string, at?: bigint): bigint {
    const boot = this.here();
    const options = at === undefined ? {} : { at };
    const area = get_vm_area(boot, this.memory, size, VM_ALLOC, options);
    if (area === null) throw new MachineRefusal(`no room for ${size} bytes in the vmalloc space`);
    this.#mapFresh(boot, this.memory.init_mm, area.addr, size, prot, owner);
    return area.addr;
  }

  /**
   * Maps a range of the address space of CPU 0's task, which is made if need be.
   * @param size bytes, whole pages
   * @param populate with fresh pages; the task is the only one that has them
   */
  loadUserPages(at: bigint, size: number, user: UserRange, owner: string, populate: boolean): Vma {
    const mm = this.userMm();
    const { vm_flags, pkey = 0 } = user;
    const vma = mmap_region(mm, at, size, vm_flags, null, pkey);
    if (!populate) return vma;
    vma.anon_vma = true;
    const prot = this.arch.vm_get_page_prot(this.memory.pgtable, vm_flags | VM_SHARED, pkey);
    this.#mapFresh(this.here(), mm, at, size, prot, owner);
    return vma;
  }

  /**
   * Makes CPU 0's task a kernel thread: it has no address space of its own, and at the most still the
   * tables of the one that ran before it (`borrow`).
   */
  becomeKthread(borrow: boolean): void {
    const here = this.here();
    const lent = borrow ? this.userMm() : this.memory.init_mm;
    here.current.mm = null;
    here.current.active_mm = lent;
    this.arch.switch_mm(here, borrow ? lent : null);
  }

  /** The address space of the task of CPU 0; made, and switched to, when it is first asked for. */
  userMm(): UserMm {
    if (this.#user === null) {
      const boot = this.here();
      const mm = create_mm(boot, this.memory, boot.current.comm);
      if (mm === null) throw new MachineRefusal('the ram is full: no page for the root table of a task');
      boot.current.mm = mm;
      boot.current.active_mm = mm;
      this.arch.switch_mm(boot, mm);
      this.#user = mm;
    }
    return this.#user;
  }

  /**
   * Runs kernel code on the kernel stack of a CPU until it returns or ends otherwise. Registers that are
   * not given are zero, the stack pointer and what the return needs excepted. While a run is under way on
   * that CPU, this one is nested in it, below it on its stack, and puts everything back.
   */
  *call(
    id: number,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    options: CallOptions = {},
  ): Path<RunOutcome> {
    const here = this.here(id);
    const stackTop = this.#runs.begin(here);
    try {
      this.#clearRegisters(here);
      this.arch.prepareCall(here, pc, stackTop);
      if (options.irqs_disabled === true) this.arch.disableInterrupts(here);
      return yield* this.#run(here, pc, registers, options.raised ?? null);
    } finally {
      this.#runs.end(here);
    }
  }

  /**
   * Runs a program as BPF_PROG_TEST_RUN does, below the frames of the system call.
   * @param ctx what R1 points to; 0n without a context
   */
  *testRun(id: number, prog: bpf_prog, ctx: bigint, kind: TestRunKind): Path<RunOutcome> {
    const here = this.here(id);
    const entry = this.callables.placeChain(kind);
    const stackTop = this.#runs.begin(here);
    try {
      this.#clearRegisters(here);
      this.arch.testRun.prepare(here, entry, stackTop, prog.bpf_func, ctx);
      return yield* this.#run(here, here.cpu.read(this.arch.pcRegister), new Map(), null);
    } finally {
      this.#runs.end(here);
    }
  }

  /**
   * Runs user code in user mode, in the address space of CPU 0's task, or in `mm`, which then is that of the
   * CPU's current task already. `stackTop` is the first sp.
   */
  *user(
    id: number,
    pc: bigint,
    stackTop: bigint,
    registers: ReadonlyMap<string, bigint>,
    raised: RaisedStop | null = null,
    mm: UserMm = this.userMm(),
  ): Path<RunOutcome> {
    const here = this.here(id);
    if (here.current.mm !== mm) {
      here.current.mm = mm;
      here.current.active_mm = mm;
      this.arch.switch_mm(here, mm);
    }
    this.#runs.begin(here);
    try {
      this.#clearRegisters(here);
      this.arch.prepareUser(here, pc, stackTop);
      return yield* this.#run(here, pc, registers, raised);
    } finally {
      this.#runs.end(here);
    }
  }

  /** A register of a CPU, as its last run left it. */
  register(id: number, name: string): bigint {
    return this.#runs.register(this.here(id), name);
  }

  /** Memory through the current tables of a CPU, whatever the rights; null when a byte is not mapped. */
  readVirtual(id: number, va: bigint, length: number): Uint8Array | null {
    return readVirtual(this.here(id), va, length);
  }

  /** The same for storing; false when a byte is not mapped, and then nothing is stored. */
  writeVirtual(id: number, va: bigint, bytes: Uint8Array): boolean {
    this.memory.pages.exposed = true;
    const stored = writeVirtual(this.here(id), va, bytes);
    // It may have been code.
    if (stored) this.#flushCode();
    return stored;
  }

  /** Frees the engines. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { cpu } of this.cpus) cpu.close();
    this.#engine.releaseRam(this.ram);
  }

  #run(
    here: ThisCpu,
    pc: bigint,
    registers: ReadonlyMap<string, bigint>,
    raised: RaisedStop | null,
  ): Path<RunOutcome> {
    // From now on frames that nobody owns may have been written to, through the direct map.
    this.memory.pages.exposed = true;
    this.maps.refresh();
    for (const [name, value] of registers) here.cpu.write(name, u64(value));
    here.mmu.refresh();
    return runGuest(guestOf(here, this.#hostFunctions), pc, this.limits, raised);
  }

  #clearRegisters({ cpu }: ThisCpu): void {
    for (const name of this.arch.generalRegisters) cpu.write(name, 0n);
  }

  #flushCode(): void {
    for (const { cpu, mmu } of this.cpus) {
      cpu.flushCode();
      mmu.codeChanged?.();
    }
  }

  #mapFresh(here: ThisCpu, mm: mm_struct, start: bigint, size: number, prot: bigint, owner: string): void {
    for (let offset = 0; offset < size; offset += PAGE_SIZE) {
      const va = start + BigInt(offset);
      const pa = this.memory.pages.alloc_page(here, owner);
      if (pa === null) throw new MachineRefusal(`the ram is full: no page for ${owner}`);
      const err = map_page(here, this.memory, mm, va, pa, prot);
      if (err === -EBUSY) throw new MachineRefusal(`${hex(va)} is mapped already`);
      if (err !== 0) throw new MachineRefusal(`the ram is full: no page for the tables of ${owner}`);
      if (mm !== this.memory.init_mm) this.memory.pages.page_add_rmap(pa);
    }
  }

  /** Code and unwind information of a function whose pages are there. */
  #storeFunction(boot: ThisCpu, symbol: KernelSymbol, own: Uint8Array, host: HostFunction | null): void {
    const { name, start, size } = symbol;
    const given = host === null ? own : this.arch.hostCall.code;
    const code = new Uint8Array(size).fill(this.arch.textFiller[0] ?? 0);
    code.set(given);
    if (given.length > 0) this.text.store(boot, 'kernel', start, given);
    if (host !== null) this.#hostFunctions.place(this.arch, host, start);
    this.arch.addUnwindInfo(boot, { name, start, code });
  }

  #createCpu(id: number, engine: Engine): ThisCpu {
    const { arch, ram } = this;
    const mmu = arch.createMmu(ram, this.config);
    const cpu = engine.createCpu(arch.name, ram, { id, filler: mmu, sentinel: this.#image.sentinel });
    const trace = new Trace(id, NO_EVENTS);
    trace.patience = { ...this.limits, now: () => performance.now() };
    mmu.attach(cpu, trace);
    const current = this.kernel.noTask();
    const here: ThisCpu = { cpu, mmu, ram, trace, arch, kernel: this.kernel, current, regs: null };
    this.memory.cpus.push(here);
    return here;
  }

  #mapDirectMap(here: ThisCpu): void {
    const { directMap, physBase, linearMapHuge } = this.arch.layout;
    const { pgtable, init_mm } = this.memory;
    const pages = this.ram.size / PAGE_SIZE;
    const prot = pgtable.PAGE_LINEAR;
    const err = map_kernel_range(here, this.memory, init_mm, directMap, physBase, pages, prot, {
      huge: linearMapHuge,
    });
    if (err !== 0) throw new RamError('the ram is too small for the tables of its own direct map');
  }

  #startCpu(here: ThisCpu, task: TaskOptions): void {
    const { id } = here.cpu;
    const { THREAD_ALIGN } = this.arch.layout;
    const stack = alloc_thread_stack(here, this.memory, 'kernel stack', THREAD_ALIGN);
    if (stack === null) throw new RamError('the ram is too small for the kernel stacks');
    here.current = createTask({
      comm: task.comm ?? DEFAULT_TASK.comm,
      pid: pidOfCpu(task.pid ?? DEFAULT_TASK.pid, id),
      uid: task.uid ?? DEFAULT_TASK.uid,
      mm: null,
      active_mm: this.memory.init_mm,
      stack: stack.stack,
      stackSize: stack.size,
      signal_pending: task.signal_pending ?? 'none',
    });
    this.arch.setupCpu(here, this.memory.init_mm);
  }
}
