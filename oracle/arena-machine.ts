/**
 * A booted machine on which the steps of a sequence are done for real: the kfuncs are called by BPF programs that
 * were compiled for it, kernel code and programs touch pages on two CPUs, and user code runs in processes of its own.
 */
import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { type mm_struct, VM_EXEC, VM_READ, VM_SHARED, VM_WRITE } from '../arch/kernel.js';
import { x86 } from '../arch/x86/index.js';
import { System } from '../boot/system.js';
import { arena_map_free } from '../bpf/arena/arena.js';
import {
  BPF_F_MMAPABLE,
  BPF_F_SEGV_ON_FAULT,
  BPF_MAP_TYPE_ARENA,
  type bpf_arena,
} from '../bpf/arena/arena_struct.js';
import { run_irq_work, run_workqueue } from '../bpf/arena/arena_work.js';
import { BpfMapFile } from '../bpf/arena/map_file.js';
import { ARENA_PAGE_OWNER, SCRATCH_PAGE_OWNER } from '../bpf/failures.js';
import { map_create } from '../bpf/map.js';
import type { bpf_prog } from '../bpf/program.js';
import { BPF_STDERR, bpf_stream_get, streamText } from '../bpf/stream/stream.js';
import { assembleBpf } from '../bpf/text/asm.js';
import { toSigned, u64 } from '../emu/address.js';
import type { Engine } from '../emu/cpu.js';
import { NO_EVENTS, type RunOutcome } from '../emu/events.js';
import { drain } from '../emu/path.js';
import { entryAt, isStop, PTE } from '../mm/descend.js';
import { map_page } from '../mm/map.js';
import { create_mm, mmap_region, type UserMm, vma_lookup } from '../mm/mmap.js';
import { vm_mmap_pgoff } from '../mm/mmap_call.js';
import { MAP_FIXED, MAP_SHARED, PROT_READ, PROT_WRITE } from '../mm/mmap_flags.js';
import { exit_mmap, vm_munmap } from '../mm/mmap_unmap.js';
import { TABLE_OWNER } from '../mm/page_alloc.js';
import type { Answer } from './arena-model.js';
import { GUARD_PAGES, guardPage, MARGIN, PROCESSES, type Setup, type Step, WORD } from './arena-steps.js';
import type { ArchName } from './case.js';

const ARCHES: Readonly<Record<ArchName, Arch>> = { 'x86-64': x86, arm64 };
const P = 4096;
const USER_TEXT = 0x40_0000n;
const USER_STACK = 0x7f_0000_0000n;
const RAM = 32 << 20;
/** In the page of user text, the loading function is first. */
const STORE = 0x100;

interface NativeCode {
  readonly load: Uint8Array;
  readonly store: Uint8Array;
}

/** Kernel functions with frames of their own, and user functions without. Arguments: address, value. */
const CODE: Readonly<Record<ArchName, { readonly kernel: NativeCode; readonly user: NativeCode }>> = {
  'x86-64': {
    kernel: {
      // push rbp; mov rbp, rsp; mov rax, [rdi] or mov [rdi], rsi; pop rbp; ret
      load: Buffer.from('554889e5488b075dc3', 'hex'),
      store: Buffer.from('554889e54889375dc3', 'hex'),
    },
    user: { load: Buffer.from('488b07c3', 'hex'), store: Buffer.from('488937c3', 'hex') },
  },
  arm64: {
    kernel: {
      // stp x29, x30, [sp, #-16]!; mov x29, sp; ldr x0, [x0] or str x1, [x0]; ldp x29, x30, [sp], #16; ret
      load: Buffer.from('fd7bbfa9fd030091000040f9fd7bc1a8c0035fd6', 'hex'),
      store: Buffer.from('fd7bbfa9fd030091010000f9fd7bc1a8c0035fd6', 'hex'),
    },
    user: {
      load: Buffer.from('000040f9c0035fd6', 'hex'),
      store: Buffer.from('010000f9c0035fd6', 'hex'),
    },
  },
};
const REPORT = /^ERROR: Arena (READ|WRITE) access at unmapped address (0x[0-9a-f]+)$/gm;

/** The context has what the program is to use: address or pointer, then a number of pages or a value. */
const ARGUMENTS_OF_CONTEXT = 'r3 = *(u64 *)(r1 + 8)\nr2 = *(u64 *)(r1 + 0)\n';
const PROGRAMS = {
  alloc: `${ARGUMENTS_OF_CONTEXT}r1 = map[a]\nr4 = -1\nr5 = 0\ncall bpf_arena_alloc_pages\nexit`,
  free: `${ARGUMENTS_OF_CONTEXT}r1 = map[a]\ncall bpf_arena_free_pages\nr0 = 0\nexit`,
  reserve: `${ARGUMENTS_OF_CONTEXT}r1 = map[a]\ncall bpf_arena_reserve_pages\nexit`,
  load: `${ARGUMENTS_OF_CONTEXT}r2 = addr_space_cast(r2, 0, 1)\nr0 = *(u64 *)(r2 + 0)\nexit`,
  store: `${ARGUMENTS_OF_CONTEXT}r2 = addr_space_cast(r2, 0, 1)\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nexit`,
  kernelLoad: `r1 = *(u64 *)(r1 + 0)\ncall kernel_load\nexit`,
  kernelStore: `${ARGUMENTS_OF_CONTEXT}r1 = r2\nr2 = r3\ncall kernel_store\nr0 = 0\nexit`,
  allocNonSleepable: `${ARGUMENTS_OF_CONTEXT}r1 = map[a]\nr4 = -1\nr5 = 0\ncall bpf_arena_alloc_pages\nexit`,
  freeNonSleepable: `${ARGUMENTS_OF_CONTEXT}r1 = map[a]\ncall bpf_arena_free_pages\nr0 = 0\nexit`,
} as const;
type ProgramName = keyof typeof PROGRAMS;
const NAMES = Object.keys(PROGRAMS) as ProgramName[];
const SYMBOLS = { constant: () => null };

/** What of the ram is taken. */
export interface Holdings {
  readonly total: number;
  readonly arena: number;
  readonly scratch: number;
  readonly tables: number;
}

/** Where leaf entries are in the ram. */
type Entries = readonly (readonly [page: number, at: number])[];

/** One look at the machine. Pages are physical addresses. */
export interface Sight {
  /** By page of the window. */
  readonly kernel: ReadonlyMap<number, number>;
  /** For each process: null without a mapping, else by page from its start. */
  readonly users: readonly (ReadonlyMap<number, number> | null)[];
}

export class ArenaMachine {
  readonly system: System;
  readonly arena: bpf_arena;
  readonly processes: readonly UserMm[];
  /** With the arena made, and all of it free. */
  readonly atStart: Holdings;
  readonly #arch: ArchName;
  readonly #setup: Setup;
  readonly #programs: ReadonlyMap<ProgramName, bpf_prog>;
  /** A page of kernel memory for the context of programs: its address, and where it is. */
  readonly #context: { readonly va: bigint; readonly pa: number };
  /** Where the kernel entries are that are looked at after each step. */
  readonly #watched: Entries;
  /** The same in each process. */
  readonly #watchedUsers: readonly Entries[];

  constructor(engine: Engine, arch: ArchName, setup: Setup) {
    this.#arch = arch;
    this.#setup = setup;
    const system = System.boot({ arch: ARCHES[arch], engine, sink: NO_EVENTS, ramBytes: RAM, cpus: 2 });
    this.system = system;
    const va = system.loadPages(P, system.memory.pgtable.PAGE_KERNEL, 'context');
    this.#context = { va, pa: system.here().mmu.peek(va) };
    const functionsOfText = new Map([
      ['kernel_load', this.#kernelFunction('kernel_load', CODE[arch].kernel.load)],
      ['kernel_store', this.#kernelFunction('kernel_store', CODE[arch].kernel.store)],
    ]);
    this.processes = Array.from({ length: PROCESSES }, (_, n) => this.#process(n));
    this.arena = this.#create();
    // Programs are refused while nobody knows where the arena is.
    if (!setup.map_extra) this.#mmap(0);
    this.#programs = this.#load(functionsOfText);
    this.#watched = this.#entries(system.memory.init_mm, this.arena.kern_vm_start, this.#pagesOfWindow());
    const pages = Array.from({ length: setup.mapped }, (_, page) => page);
    this.#watchedUsers = this.processes.map((mm) => this.#entries(mm, setup.user, pages));
    this.atStart = this.holdings();
  }

  /** Does a step, and says what it answered. Throws when guest code ends in a way that no step can. */
  perform(step: Step): Answer {
    const { failures } = this.system.bpf;
    if (step.failure !== null) failures.inject({ ...step.failure, times: 1 });
    try {
      return this.#perform(step);
    } finally {
      failures.clear();
    }
  }

  #perform(step: Step): Answer {
    switch (step.do) {
      case 'alloc': {
        const address = step.anywhere ? 0n : this.#address(step.page, step.off);
        if (step.by === 'kernel') return this.#allocFromKernel(address, step.count);
        return this.#run(step.by === 'program' ? 'alloc' : 'allocNonSleepable', 0, address, step.count, true);
      }
      case 'free': {
        const name = step.by === 'program' ? 'free' : 'freeNonSleepable';
        return this.#run(name, 0, this.#address(step.page, step.off), step.count, false);
      }
      case 'reserve': {
        const { value, ...rest } = this.#run(
          'reserve',
          0,
          this.#address(step.page, step.off),
          step.count,
          true,
        );
        return { ...rest, value: value === null ? null : BigInt.asIntN(32, value) };
      }
      case 'deferred':
        if (step.run !== 'worker') run_irq_work(this.system.bpf);
        if (step.run !== 'irq_work') drain(run_workqueue(this.system.here(), this.system.bpf));
        return { value: null, outcome: 'returned', reports: [] };
      case 'kernel touch': {
        const page = step.guard ? (1 << 20) + guardPage(step.page) : this.#pageOfWindow(step.page);
        const address = this.arena.kern_vm_start + BigInt(page * P + step.place);
        const name = step.store === null ? 'kernelLoad' : 'kernelStore';
        return this.#run(
          name,
          step.cpu,
          address,
          step.store ?? 0,
          step.store === null && step.place === WORD,
        );
      }
      case 'program touch': {
        const address = this.#address(step.page, step.place);
        const name = step.store === null ? 'load' : 'store';
        const answer = this.#run(name, step.cpu, address, step.store ?? 0, step.store === null);
        // What lies across two pages is not compared, but that a load which was skipped reads 0 is.
        return step.place === WORD || answer.reports.length > 0 ? answer : { ...answer, value: null };
      }
      case 'user touch':
        return this.#userTouch(step);
      case 'mmap':
        return this.#mmap(step.process);
      case 'munmap':
        return this.#munmap(step.process);
    }
  }

  /** What is mapped now, as far as steps can name it. */
  look(): Sight {
    const { memory, ram } = this.system;
    const { pgtable } = memory;
    const kernel = new Map<number, number>();
    for (const [page, at] of this.#watched) {
      const entry = ram.readU64(at);
      if (pgtable.pte_present(entry)) kernel.set(page, pgtable.pte_pa(entry));
    }
    const users = this.processes.map((mm, n) => {
      const entries = new Map<number, number>();
      for (const [page, at] of this.#watchedUsers[n] ?? []) {
        const entry = ram.readU64(at);
        if (pgtable.pte_present(entry)) entries.set(page, pgtable.pte_pa(entry));
      }
      return vma_lookup(mm, this.#setup.user) === null && entries.size === 0 ? null : entries;
    });
    return { kernel, users };
  }

  holdings(): Holdings {
    const { pages } = this.system.memory;
    return {
      total: pages.allocatedPages,
      arena: pages.count(ARENA_PAGE_OWNER),
      scratch: pages.count(SCRATCH_PAGE_OWNER),
      tables: pages.count(TABLE_OWNER),
    };
  }

  /** The processes end and the arena is destroyed. */
  destroy(): void {
    const { system } = this;
    for (const mm of this.processes) drain(exit_mmap(system.here(), mm));
    drain(arena_map_free(system.here(), system.bpf, this.arena.map));
  }

  close(): void {
    this.system.close();
  }

  #address(page: number, off: number): bigint {
    return this.#setup.user + BigInt(page * P + off);
  }

  #pageOfWindow(page: number): number {
    return Number((this.#address(page, 0) & 0xffff_ffffn) >> 12n);
  }

  #create(): bpf_arena {
    const { max_entries, user, map_extra, segvOnFault } = this.#setup;
    const attr = {
      map_type: BPF_MAP_TYPE_ARENA,
      key_size: 0,
      value_size: 0,
      max_entries,
      map_flags: BPF_F_MMAPABLE | (segvOnFault ? BPF_F_SEGV_ON_FAULT : 0),
      map_extra: map_extra ? user : 0n,
      name: 'a',
    };
    const map = drain(map_create(this.system.here(), this.system.bpf, attr, { CAP_BPF: true }));
    if (typeof map === 'number' || map.arena === null) throw new Error(`no arena: ${map}`);
    return map.arena;
  }

  #kernelFunction(name: string, code: Uint8Array): bigint {
    const start = this.system.textBase('kernel');
    this.system.loadText({ name, start, code });
    return start;
  }

  #load(functionsOfText: ReadonlyMap<string, bigint>): Map<ProgramName, bpf_prog> {
    const programs = new Map<ProgramName, bpf_prog>();
    for (const name of NAMES) {
      const { functions } = this.system.loadBpf({
        functions: [{ name, text: assembleBpf(PROGRAMS[name], SYMBOLS) }],
        maps: new Map([['a', this.arena.map]]),
        arena: 'a',
        functionsOfText,
        symbols: new Map(),
        sleepable: !name.endsWith('NonSleepable'),
        context: [],
      });
      const [main] = functions;
      if (main === undefined) throw new Error(`no program ${name}`);
      programs.set(name, main.prog);
    }
    return programs;
  }

  /** An address space with user code and a stack. */
  #process(n: number): UserMm {
    const { system } = this;
    const here = system.here();
    const mm = create_mm(here, system.memory, `process ${n}`);
    if (mm === null) throw new Error('the ram is full');
    const { load, store } = CODE[this.#arch].user;
    const text = this.#userPage(mm, USER_TEXT, VM_READ | VM_EXEC);
    system.ram.write(text, load);
    system.ram.write(text + STORE, store);
    this.#userPage(mm, USER_STACK - BigInt(P), VM_READ | VM_WRITE);
    return mm;
  }

  #userPage(mm: UserMm, va: bigint, vm_flags: number): number {
    const { system } = this;
    const { memory } = system;
    const pa = memory.pages.alloc_page(system.here(), 'process');
    if (pa === null) throw new Error('the ram is full');
    mmap_region(mm, va, P, vm_flags).anon_vma = true;
    const prot = system.arch.vm_get_page_prot(memory.pgtable, vm_flags | VM_SHARED, 0);
    if (map_page(system.here(), memory, mm, va, pa, prot) !== 0) throw new Error('the ram is full');
    memory.pages.page_add_rmap(pa);
    return pa;
  }

  /** The arena with its surroundings, and the upper guard. */
  #pagesOfWindow(): Set<number> {
    const pages = Math.max(this.#setup.max_entries, this.#setup.mapped) + 2 * MARGIN;
    const all = new Set<number>();
    for (let page = -2 * MARGIN; page < pages; page++) all.add(this.#pageOfWindow(page));
    for (let page = 0; page < GUARD_PAGES; page++) all.add((1 << 20) + page);
    return all;
  }

  /** Where the leaf entries of pages are; makes tables that are not there. */
  #entries(mm: mm_struct, start: bigint, pages: Iterable<number>): Entries {
    const { system } = this;
    return Array.from(pages, (page) => {
      const va = toSigned(start + BigInt(page) * BigInt(P));
      const at = entryAt(system.here(), system.memory, mm, va, PTE, true);
      if (isStop(at)) throw new Error(`page ${page} has no table`);
      return [page, at] as const;
    });
  }

  /** Runs a program with two numbers in its context. */
  #run(name: ProgramName, cpu: number, first: bigint, second: number, answers: boolean): Answer {
    const { system } = this;
    const prog = this.#programs.get(name);
    const stream = prog === undefined ? null : bpf_stream_get(BPF_STDERR, prog);
    if (prog === undefined || stream === null) throw new Error(`no program ${name}`);
    system.ram.writeU64(this.#context.pa, u64(first));
    system.ram.writeU64(this.#context.pa + 8, BigInt(second));
    expectReturn(name, drain(system.testRun(cpu, prog, this.#context.va, 'syscall')));
    const reports = [...streamText(stream).matchAll(REPORT)].map(([, how, where]) => `${how} ${where}`);
    // As if somebody had read it.
    stream.log = [];
    stream.capacity = 0;
    const value = answers ? system.register(cpu, system.arch.returnRegister) : null;
    return { value, outcome: 'returned', reports };
  }

  #allocFromKernel(address: bigint, count: number): Answer {
    const { system } = this;
    const map = system.maps.addressOf(this.arena.map);
    const registers = this.#arguments(map, address, BigInt(count), 0xffff_ffff_ffff_ffffn, 0n);
    const pc = system.callables.addressOf('bpf_arena_alloc_pages_sleepable');
    expectReturn('bpf_arena_alloc_pages_sleepable', drain(system.call(0, pc, registers)));
    return { value: system.register(0, system.arch.returnRegister), outcome: 'returned', reports: [] };
  }

  /** Registers of a call. */
  #arguments(...values: bigint[]): Map<string, bigint> {
    const names = this.system.arch.hostCall.argumentRegisters;
    return new Map(values.map((value, i) => [names[i] ?? '', value]));
  }

  #userTouch({ process, page, cpu, store }: Extract<Step, { do: 'user touch' }>): Answer {
    const { system } = this;
    const mm = this.#mm(process);
    const address = this.#address(page, WORD);
    const registers = this.#arguments(address, BigInt(store ?? 0));
    const pc = USER_TEXT + BigInt(store === null ? 0 : STORE);
    const outcome = drain(system.user(cpu, pc, USER_STACK, registers, null, mm));
    if (outcome.kind === 'signal' && outcome.signo === 11 && outcome.address === address) {
      return { value: null, outcome: 'segv', reports: [] };
    }
    expectReturn('user code', outcome);
    const value = store === null ? system.register(cpu, system.arch.returnRegister) : null;
    return { value, outcome: 'returned', reports: [] };
  }

  #mm(process: number): UserMm {
    const mm = this.processes[process];
    if (mm === undefined) throw new Error(`no process ${process}`);
    return mm;
  }

  #mmap(process: number): Answer {
    const { system } = this;
    const { user, mapped } = this.#setup;
    const mm = this.#mm(process);
    if (vma_lookup(mm, user) === null) {
      const file = new BpfMapFile(system.bpf, this.arena.map);
      const length = BigInt(mapped * P);
      const flags = MAP_SHARED | MAP_FIXED;
      const prot = PROT_READ | PROT_WRITE;
      const at = drain(vm_mmap_pgoff(system.here(), mm, file, user, length, prot, flags, 0n));
      if (at !== user) throw new Error(`mmap() says ${at}`);
    }
    return { value: null, outcome: 'returned', reports: [] };
  }

  #munmap(process: number): Answer {
    const { user, mapped } = this.#setup;
    const err = drain(vm_munmap(this.system.here(), this.#mm(process), user, BigInt(mapped * P)));
    if (err !== 0) throw new Error(`munmap() says ${err}`);
    return { value: null, outcome: 'returned', reports: [] };
  }
}

function expectReturn(what: string, outcome: RunOutcome): void {
  if (outcome.kind !== 'returned') throw new Error(`${what} ends as ${JSON.stringify(outcome, plain)}`);
}

function plain(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `0x${value.toString(16)}` : value;
}
