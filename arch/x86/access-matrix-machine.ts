/**
 * The machine on which combinations of x86/access.c run: real instructions on an engine of its own, one
 * address whose tables are those of the combination, and the marks and the page fault that come of it.
 */
import { accessType, type Cpu, type CpuStop, type Engine } from '../../emu/cpu.js';
import { NO_EVENTS } from '../../emu/events.js';
import { Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import { KeyedCpu } from './access-matrix-cpu.js';
import { assembleAccesses, type Kind, type Program } from './access-matrix-program.js';
import { AC, controlsOf, EXPECT, PAGE, pdeOf, predict, pteOf } from './access-model.js';
import { raisePageFault } from './entry.js';
import { X86Mmu } from './mmu.js';

/** Whose entries the combinations change. */
export const VA = 0xffff923400000000n;

/** Memory: the machine's own tables, pages of the program, then as the original has it. */
const RAM_SIZE = 34 << 20;
const ROOT_PA = 0x100000;
const OWN_TABLES_PA = 0x101000;
const PROGRAM_PA = 0x200000;
const TEST_TABLES_PA = 33 << 20;

/** Present, writable, for everybody, A and D. */
const TABLE = 0x67n;
const KERNEL_PAGE = 0x63n;
const USER_PAGE = 0x67n;
const CR4_LA57 = 1n << 12n;

/** Entries of PDE and PTE, with the key that goes into them. */
const PTE_SHIFT = 0;
const PTE_COUNT = 1 << 8;
const PDE_SHIFT = 8;
const PDE_COUNT = 1 << 10;
const BLOCK_BITS = ~((1 << AC.pdpteRo) - 1);

const A = 0x20;
const D = 0x40;
/** More instructions than any access takes. */
const BUDGET = 64;

/** A refused translation, as the engine reports it. */
export type Miss = Extract<CpuStop, { kind: 'miss' }>;

/** Delivers a page fault as the CPU does and returns its error code; null when it is none. */
export type Deliver = (miss: Miss) => number | null;

/** An address under test, and where its entries are: ac_test_t. */
export interface Target {
  readonly va: bigint;
  readonly pdpte: number;
  readonly pde: number;
  readonly pte: number;
  /** By level, the table that the entry of that level points to: page_tables of ac_test_t. */
  readonly tables: readonly number[];
}

export interface MachineOptions {
  readonly maxphyaddr: number;
  /** 5 sets CR4.LA57. */
  readonly levels: 4 | 5;
}

export class AccessMachine {
  readonly ram = new Ram(0, RAM_SIZE);
  readonly mmu: X86Mmu;
  readonly cpu: Cpu;
  readonly trace = new Trace(0, NO_EVENTS);
  /** Physical address of the machine's root table. */
  readonly root = ROOT_PA;

  /** What came of the last combination. */
  faulted = false;
  /** Error code of the fault. */
  code = 0;
  /** Something that is no question of rights: the program did not do what it does. */
  oddity: string | null = null;

  /** Delivers the page faults. */
  deliver: Deliver = (miss) => this.#deliver(miss);

  readonly #words: Uint32Array;
  readonly #program: Program;
  readonly #levels: 4 | 5;
  #target: Target;
  #nextTable = TEST_TABLES_PA;
  readonly #pteLow: Uint32Array;
  readonly #pteHigh: Uint32Array;
  readonly #pdeLow: Uint32Array;
  readonly #pdeHigh: Uint32Array;
  readonly #extraCr4: bigint;
  #block = -1;
  #serial = 0;
  #pdeLowBefore = 0;
  #pdeHighBefore = 0;
  #pteLowBefore = 0;
  #pteHighBefore = 0;

  constructor(engine: Engine, { maxphyaddr, levels }: MachineOptions) {
    const { ram } = this;
    this.#words = ram.words32;
    this.mmu = new X86Mmu(ram, maxphyaddr);
    this.#program = assembleAccesses();
    const sentinel = this.#program.sentinel;
    this.cpu = new KeyedCpu(engine.createCpu('x86-64', ram, { id: 0, filler: this.mmu, sentinel }));
    this.mmu.attach(this.cpu, this.trace);
    this.#extraCr4 = levels === 5 ? CR4_LA57 : 0n;
    this.#mapProgram(levels);
    this.#levels = levels;
    this.#target = this.target(VA);
    const words = (count: number, shift: number, word: (c: number) => bigint, part: bigint): Uint32Array =>
      Uint32Array.from({ length: 2 * count }, (_, i) => {
        const key = i >= count ? 1 << AC.pkey : 0;
        return Number((word(((i % count) << shift) | key) >> part) & 0xffff_ffffn);
      });
    this.#pteLow = words(PTE_COUNT, PTE_SHIFT, pteOf, 0n);
    this.#pteHigh = words(PTE_COUNT, PTE_SHIFT, pteOf, 32n);
    this.#pdeLow = words(PDE_COUNT, PDE_SHIFT, (c) => pdeOf(c, 0n), 0n);
    this.#pdeHigh = words(PDE_COUNT, PDE_SHIFT, (c) => pdeOf(c, 0n), 32n);
    for (const [name, value] of Object.entries(this.#program.registers)) this.cpu.write(name, value);
    this.cpu.write('cr3', BigInt(ROOT_PA));
    this.select(this.#target);
  }

  close(): void {
    this.cpu.close();
  }

  /**
   * Makes tables for an address: __ac_test_init(). Where the index of a level is the same as a buddy's, both
   * entries point to the same table, whatever is above them.
   * @param pud the table that the PDPTE points to, where that is to be another one
   */
  target(va: bigint, buddy: Target | null = null, pud: number | null = null): Target {
    const levels = this.#levels;
    const tables: number[] = [];
    for (let level: number = levels; level > 1; level--) {
      const index = indexOf(va, level);
      const root = this.ram.readU64(ROOT_PA + 8 * index);
      // Of five levels the program and the address share the entry of the root.
      const shared = level === levels && levels === 5 && root !== 0n ? Number(root & ~0xfffn) : null;
      const buddys = buddy !== null && index === indexOf(buddy.va, level) ? buddy.tables[level] : undefined;
      tables[level] = (level === 3 ? pud : null) ?? buddys ?? shared ?? this.#newTable();
    }
    let table = ROOT_PA;
    for (let level: number = levels; level > 3; level--) {
      const next = tables[level] ?? 0;
      this.ram.writeU64(table + 8 * indexOf(va, level), BigInt(next) | TABLE);
      table = next;
    }
    return {
      va,
      tables,
      pdpte: table + 8 * indexOf(va, 3),
      pde: (tables[3] ?? 0) + 8 * indexOf(va, 2),
      pte: (tables[2] ?? 0) + 8 * indexOf(va, 1),
    };
  }

  #newTable(): number {
    const table = this.#nextTable;
    this.#nextTable += 4096;
    return table;
  }

  /** Which address the next accesses are of. */
  select(target: Target): void {
    this.#target = target;
    this.cpu.write('rdi', target.va);
  }

  /** Writes the entries of a combination and makes its accesses. */
  run(c: number): void {
    this.setUp(c);
    this.access(c, true);
  }

  /** ac_test_setup_ptes() */
  setUp(c: number): void {
    const words = this.#words;
    const { pdpte, pde, pte, tables } = this.#target;
    const key = (c >> AC.pkey) & 1;
    const ptes = (c & (PTE_COUNT - 1)) + key * PTE_COUNT;
    const pdes = ((c >> PDE_SHIFT) & (PDE_COUNT - 1)) + key * PDE_COUNT;
    const large = ((c >> AC.pdePse) & 1) === 1;
    // A large page has no PTE. What is in its place must stay, and nobody may mark it.
    words[pte / 4] = this.#pteLow[ptes] ?? 0;
    words[pte / 4 + 1] = this.#pteHigh[ptes] ?? 0;
    words[pde / 4] = (this.#pdeLow[pdes] ?? 0) | (large ? 0 : (tables[2] ?? 0));
    words[pde / 4 + 1] = this.#pdeHigh[pdes] ?? 0;
    words[pdpte / 4] = (tables[3] ?? 0) | (((c >> AC.pdpteRo) & 1) === 1 ? 5 : 7);
  }

  /**
   * ac_test_do_access(), with the tables as they are.
   * @param flush whether an invlpg of the address comes first
   */
  access(c: number, flush: boolean): void {
    if ((c & BLOCK_BITS) !== this.#block) this.#enter(c);
    const { cpu, mmu } = this;
    const words = this.#words;
    this.#remember();
    this.#serial = (this.#serial + 1) & 0xffff;
    const before = (this.#serial << 8) | RET;
    words[TARGET] = before;
    mmu.cr2 = 0n;
    this.faulted = false;
    this.code = 0;
    this.oddity = null;

    const user = ((c >> AC.user) & 1) === 1;
    const kind: Kind = ((c >> AC.write) & 1) === 1 ? 'write' : ((c >> AC.fetch) & 1) === 1 ? 'fetch' : 'read';
    const stub =
      this.#program.stubs[((c >> AC.twice) & 1) === 1 ? 'twice' : 'once'][user ? 'user' : 'kernel'][kind];
    let stop = cpu.start(flush ? stub.start : stub.unflushed, BUDGET);
    if (
      stub.first !== null &&
      stop.kind === 'miss' &&
      stop.va === this.#target.va &&
      cpu.read('rip') === stub.first
    ) {
      this.deliver(stop);
      mmu.cr2 = 0n;
      stop = cpu.start(stub.second, BUDGET);
    }
    this.#conclude(stop, kind === 'fetch' ? this.#target.va : stub.access, kind, before);
    if (user) {
      cpu.setPrivilege('kernel');
      mmu.user = false;
    }
  }

  #conclude(stop: CpuStop, faultsAt: bigint, kind: Kind, before: number): void {
    const { cpu, mmu } = this;
    const { end, stored } = this.#program;
    const value = this.#words[TARGET];
    if (stop.kind !== 'miss') {
      this.oddity = `the engine stopped otherwise: ${stop.kind}`;
    } else if (stop.va === this.#target.va) {
      this.faulted = true;
      if (cpu.read('rip') !== faultsAt) this.oddity = `it faulted at 0x${cpu.read('rip').toString(16)}`;
      const code = this.deliver(stop);
      if (code === null) this.oddity = 'the engine refused what the tables allow';
      this.code = code ?? 0;
      if (mmu.cr2 !== this.#target.va) this.oddity = `CR2 is 0x${mmu.cr2.toString(16)}`;
      if (value !== before) this.oddity = 'the page was written although the access faulted';
    } else if (stop.va !== end) {
      this.oddity = `a fault at 0x${stop.va.toString(16)}`;
    } else if (kind === 'read') {
      const read = cpu.read('rax');
      if (read !== BigInt(before)) this.oddity = `read 0x${read.toString(16)}, not 0x${before.toString(16)}`;
    } else if (value !== (kind === 'write' ? stored : before)) {
      this.oddity = `the page holds 0x${(value ?? 0).toString(16)}`;
    }
  }

  #deliver({ va, access }: Miss): number | null {
    const { mmu } = this;
    const regs = mmu.capture();
    mmu.user = regs.user_mode;
    try {
      const walk = raisePageFault(this, mmu, regs, va, accessType(access));
      return walk.ok ? null : walk.code;
    } finally {
      mmu.release();
    }
  }

  /** How the last combination disagrees with the model; null when it does not. */
  disagreement(c: number): string | null {
    const want = predict(c);
    if (this.oddity === null && this.#agrees(want)) return null;
    const wanted = this.#show((want & EXPECT.fault) !== 0, want & EXPECT.code, want, want);
    const got = this.#show(this.faulted, this.code, null, want);
    return `expected ${wanted}; got ${got}${this.oddity === null ? '' : ` (${this.oddity})`}`;
  }

  #agrees(want: number): boolean {
    const words = this.#words;
    const faults = (want & EXPECT.fault) !== 0;
    if (faults !== this.faulted) return false;
    if (faults && (want & EXPECT.code) !== this.code) return false;
    const dontCare = (want & EXPECT.pdeADontCare) !== 0 ? A : 0;
    return (
      words[this.#target.pde / 4 + 1] === this.#pdeHighBefore &&
      words[this.#target.pte / 4 + 1] === this.#pteHighBefore &&
      (words[this.#target.pte / 4] ?? 0) === (this.#pteLowBefore | pteMarks(want)) >>> 0 &&
      (((words[this.#target.pde / 4] ?? 0) ^ (this.#pdeLowBefore | pdeMarks(want))) & ~dontCare) === 0
    );
  }

  /** `want`: the marks to be shown on the words of before; null shows the words of now. */
  #show(faulted: boolean, code: number, want: number | null, dontCare: number): string {
    const hex = (high: number, low: number): string =>
      `0x${((BigInt(high) << 32n) | BigInt(low >>> 0)).toString(16)}`;
    const words = this.#words;
    const low = (pa: number, before: number, marks: number): number =>
      want === null ? (words[pa / 4] ?? 0) : before | marks;
    const high = (pa: number, before: number): number => (want === null ? (words[pa / 4 + 1] ?? 0) : before);
    const pde = hex(
      high(this.#target.pde, this.#pdeHighBefore),
      low(this.#target.pde, this.#pdeLowBefore, pdeMarks(want ?? 0)),
    );
    const pte = hex(
      high(this.#target.pte, this.#pteHighBefore),
      low(this.#target.pte, this.#pteLowBefore, pteMarks(want ?? 0)),
    );
    const either = (dontCare & EXPECT.pdeADontCare) !== 0 ? ' (A either way)' : '';
    return `${faulted ? `a fault, error code 0x${code.toString(16)}` : 'no fault'}, pde ${pde}${either}, pte ${pte}`;
  }

  #remember(): void {
    const words = this.#words;
    this.#pdeLowBefore = words[this.#target.pde / 4] ?? 0;
    this.#pdeHighBefore = words[this.#target.pde / 4 + 1] ?? 0;
    this.#pteLowBefore = words[this.#target.pte / 4] ?? 0;
    this.#pteHighBefore = words[this.#target.pte / 4 + 1] ?? 0;
  }

  /** Control registers of a block of combinations. */
  #enter(c: number): void {
    const { cpu, mmu } = this;
    const controls = controlsOf(c);
    for (const [name, value] of Object.entries(controls)) {
      cpu.write(name, name === 'cr4' ? value | this.#extraCr4 : value);
    }
    mmu.refresh();
    this.#block = c & BLOCK_BITS;
  }

  #mapProgram(levels: 4 | 5): void {
    let next = OWN_TABLES_PA;
    let page = PROGRAM_PA;
    const { ram } = this;
    for (const { va, user, bytes } of this.#program.pages) {
      let table = ROOT_PA;
      for (let level = levels; level > 1; level--) {
        const entry = table + 8 * indexOf(va, level);
        if (ram.readU64(entry) === 0n) {
          ram.writeU64(entry, BigInt(next) | TABLE);
          next += 4096;
        }
        table = Number(ram.readU64(entry) & ~0xfffn);
      }
      ram.writeU64(table + 8 * indexOf(va, 1), BigInt(page) | (user ? USER_PAGE : KERNEL_PAGE));
      ram.write(page, bytes);
      page += 4096;
    }
  }
}

const RET = 0xc3;
const TARGET = Number(PAGE) / 4;

function indexOf(va: bigint, level: number): number {
  return Number((va >> BigInt(12 + 9 * (level - 1))) & 511n);
}

function pdeMarks(want: number): number {
  return ((want & EXPECT.pdeA) !== 0 ? A : 0) | ((want & EXPECT.pdeD) !== 0 ? D : 0);
}

function pteMarks(want: number): number {
  return ((want & EXPECT.pteA) !== 0 ? A : 0) | ((want & EXPECT.pteD) !== 0 ? D : 0);
}
