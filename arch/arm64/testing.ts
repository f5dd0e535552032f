/**
 * What the tests of this folder share: a machine of a ram with page tables by hand, a CPU without an engine
 * or with one, and a fake kernel.
 */
import type { AccessCode, Cpu, CpuStop, Engine } from '../../emu/cpu.js';
import { type Event, EventLog } from '../../emu/events.js';
import { type Delegate, drain, Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import { runGuest, type StopResult } from '../../emu/run.js';
import type { ExtableSpec, Resumption, ThisCpu } from '../arch.js';
import { type mm_struct, TaskDead, type task_struct } from '../kernel.js';
import { DEFAULT_CONFIG, type KernelConfig } from '../kernel-config.js';
import { FakeCpu, SENTINEL } from './fake-cpu.js';
import { FakeKernel } from './fake-kernel.js';
import { arm64 } from './index.js';
import { Arm64Mmu } from './mmu.js';
import { createMmu } from './uaccess-ttbr0.js';

export const RAM_BASE = 0x4000_0000;
export const RAM_SIZE = 4 << 20;

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

/**
 * A machine whose CPU has an engine, with the MMU that the configuration asks for, and runs the code it is
 * given. Its user closes the CPU.
 */
export class EngineMachine extends TestMachine {
  constructor(engine: Engine, config: Partial<KernelConfig> = {}) {
    const ram = new Ram(RAM_BASE, RAM_SIZE);
    const mmu = createMmu(ram, { ...DEFAULT_CONFIG, ...config });
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
