/**
 * The library's own arm64 MMU: the EL1&0 regime of its largest model. It has PAN, UAO and the hierarchical
 * permission disables; it has no hardware access flag, no E0PD, no EPAN, and no limit to output addresses.
 */
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode, EngineError } from '../cpu.js';
import type { Ram } from '../ram.js';
import { systemRegister } from './arm64-registers.js';
import { NativeBuffer } from './bindings.js';
import { CalibrationError } from './calibration.js';
import { UC_ARM64_REG_PSTATE, UC_ARM64_REG_X0, UC_ERR_EXCEPTION, UC_TLB_CPU } from './constants.js';
import type { UnicornLibrary } from './library.js';
import { type OwnAnswer, onlyPlace, placesOf, Translator } from './own-mmu.js';
import { RawEngine, type SavedContext } from './raw-engine.js';
import type { StructureRegister } from './register-table.js';

/** What translation depends on, registers as they are written. */
export interface OwnArm64State {
  readonly ttbr0: bigint;
  readonly ttbr1: bigint;
  readonly tcr: bigint;
  readonly sctlr: bigint;
  /** EL0, or LDTR and STTR. */
  readonly unprivileged: boolean;
  /** If unprivileged, as LDTR and STTR of EL1 are; a fetch is EL0's all the same. */
  readonly ldtr: boolean;
  readonly pan: boolean;
}

const SCR_EL3 = systemRegister(3, 6, 1, 1, 0);
const SCR_RW_NS = 0x401n;
const HCR_EL2 = systemRegister(3, 4, 1, 1, 0);
const HCR_RW = 1n << 31n;
const SCTLR_EL1 = systemRegister(3, 0, 1, 0, 0);
const TTBR0_EL1 = systemRegister(3, 0, 2, 0, 0);
const TTBR1_EL1 = systemRegister(3, 0, 2, 0, 1);
const TCR_EL1 = systemRegister(3, 0, 2, 0, 2);
const MAIR_EL1 = systemRegister(3, 0, 10, 2, 0);
const MAIR = 0xffn;

const PSTATE_EL1H = 5n;
const PSTATE_EL0T = 0n;
const PSTATE_PAN = 1n << 22n;

const X1 = UC_ARM64_REG_X0 + 1;

/**
 * A place of its own, for code that makes the access: the half of the addresses that is not asked about
 * leads there. The physical address is far from any ram; tables of cases must not lead there.
 */
const HOME_PA = 0xff_ff00_0000;
/** In both halves. */
const HOME_LOW = 0x0000_0000_0001_0000n;
const HOME_HIGH = 0xffff_ffff_ffff_0000n;
const PAGE = 4096;
const CODE = 4 * PAGE;
/** A page for both privileges, readable and executable: AF, SH, AP = 11. */
const HOME_LEAF = 0x7c3n;

/** Offsets of accesses among the home's code, each followed by wfi. */
const PLACES = { read: 0, write: 8, fetch: 16, ldtr: 24, sttr: 32 } as const;
const WFI = 0xd503207f;
/** ldrb w0, [x1]; strb w0, [x1]; br x1; ldtrb w0, [x1]; sttrb w0, [x1] */
const CODE_WORDS = [0x39400020, 0x39000020, 0xd61f0020, 0x38400820, 0x38000820];

/** TCR_EL1 fields of the halves: T0SZ, EPD0, TG0, TBI0, HPD0, TBID0, E0PD0, and those of the other. */
const TCR_LOW = 0x3fn | (1n << 7n) | (3n << 14n) | (1n << 37n) | (1n << 41n) | (1n << 51n) | (1n << 55n);
const TCR_HIGH =
  (0x3fn << 16n) | (1n << 23n) | (3n << 30n) | (1n << 38n) | (1n << 42n) | (1n << 52n) | (1n << 56n);
/** 48 bits and the 4 KiB granule. */
const TCR_LOW_HOME = 16n;
const TCR_HIGH_HOME = (16n << 16n) | (2n << 30n);
const SCTLR_ON = 1n;

function homeRegion(): NativeBuffer {
  const home = new NativeBuffer(CODE + PAGE);
  const { view } = home;
  const put = (table: number, index: number, value: bigint): void => {
    view.setBigUint64(table * PAGE + index * 8, value, true);
  };
  const at = (page: number): bigint => BigInt(HOME_PA + page * PAGE);
  for (const level of [0, 1, 2]) {
    for (const index of [0, 511]) put(level, index, at(level + 1) | 3n);
  }
  for (const index of [16, 496]) put(3, index, at(4) | HOME_LEAF);
  CODE_WORDS.forEach((word, index) => {
    view.setUint32(CODE + index * 8, word, true);
    view.setUint32(CODE + index * 8 + 4, WFI, true);
  });
  return home;
}

export class OwnArm64Mmu {
  private readonly engine: RawEngine;
  private readonly translator: Translator;
  private readonly context: SavedContext;
  private readonly structure = new NativeBuffer(32);
  private readonly home = homeRegion();
  private readonly sctlr: bigint;
  private readonly syndromeAt: number;
  private readonly addressAt: number;
  private state: OwnArm64State | null = null;

  /**
   * @param ram its memory, all zeros
   * @throws CalibrationError when the library does not show its syndromes
   */
  constructor(library: UnicornLibrary, ram: Ram) {
    const regions = [
      { pa: ram.base, bytes: ram.bytes },
      { pa: HOME_PA, bytes: this.home.bytes },
    ];
    this.engine = new RawEngine(library.bindings, 'arm64', regions, { tlb: UC_TLB_CPU });
    try {
      this.translator = new Translator(library, this.engine);
      this.context = this.engine.allocateContext();
      this.write(SCR_EL3, SCR_RW_NS);
      this.write(HCR_EL2, HCR_RW);
      this.write(MAIR_EL1, MAIR);
      this.sctlr = this.read(SCTLR_EL1);
      const found = this.findSyndrome(ram);
      this.syndromeAt = found.syndrome;
      this.addressAt = found.address;
    } catch (error) {
      this.engine.close();
      throw error;
    }
  }

  /** Sets the CPU's state for the questions that follow. */
  set(state: OwnArm64State): void {
    this.state = state;
  }

  /** Only whether it translates. */
  translates(va: bigint, access: AccessCode): boolean {
    return this.ask(va, access) !== null;
  }

  private ask(va: bigint, access: AccessCode): number | null {
    const state = this.needState();
    this.apply(state, state.unprivileged);
    return this.translator.ask(va, access);
  }

  private needState(): OwnArm64State {
    if (this.state === null) throw new EngineError('no state is set');
    return this.state;
  }

  /**
   * @param va a multiple of 4 for a fetch
   */
  translate(va: bigint, access: AccessCode): OwnAnswer {
    const { context } = this;
    const state = this.needState();
    const pa = this.ask(va, access);
    if (pa !== null) return { translates: true, pa };
    this.make(state, va, access);
    this.engine.saveContext(context);
    return {
      translates: false,
      code: context.view.getUint32(this.syndromeAt, true),
      address: context.view.getBigUint64(this.addressAt, true),
    };
  }

  close(): void {
    this.engine.close();
  }

  private write(register: StructureRegister, value: bigint): void {
    register.prepare(this.structure.view);
    this.structure.view.setBigUint64(register.offset, value, true);
    this.engine.writeStructure(register.id, this.structure);
  }

  private read(register: StructureRegister): bigint {
    register.prepare(this.structure.view);
    this.structure.view.setBigUint64(register.offset, 0n, true);
    this.engine.readStructure(register.id, this.structure);
    return this.structure.view.getBigUint64(register.offset, true);
  }

  private apply(state: OwnArm64State, el0: boolean): void {
    const mode = el0 ? PSTATE_EL0T : PSTATE_EL1H;
    // The mode takes effect with the next write of a system register.
    this.engine.write(UC_ARM64_REG_PSTATE, state.pan ? mode | PSTATE_PAN : mode);
    this.write(TTBR0_EL1, state.ttbr0);
    this.write(TTBR1_EL1, state.ttbr1);
    this.write(TCR_EL1, state.tcr);
    this.write(SCTLR_EL1, this.sctlr | state.sctlr | SCTLR_ON);
  }

  /**
   * Executes the access, for its exception. The code is in the half of the addresses that `va` is not in,
   * whose control state is changed for that; it has no part in the translation of `va`.
   */
  private make(state: OwnArm64State, va: bigint, access: AccessCode): void {
    const high = ((va >> 55n) & 1n) === 1n;
    const root = BigInt(HOME_PA);
    const { tcr } = state;
    const elsewhere = high
      ? { ...state, ttbr0: root, tcr: (tcr & ~TCR_LOW) | TCR_LOW_HOME }
      : { ...state, ttbr1: root, tcr: (tcr & ~TCR_HIGH) | TCR_HIGH_HOME };
    const ldtr = state.unprivileged && state.ldtr && access !== ACCESS_FETCH;
    this.apply(elsewhere, state.unprivileged && !ldtr);
    const { engine } = this;
    engine.write(X1, va);
    engine.flushTlb();
    const pc = (high ? HOME_LOW : HOME_HIGH) + BigInt(placeOf(access, ldtr));
    const rc = engine.start(pc, 0, 0);
    if (rc !== UC_ERR_EXCEPTION) {
      throw new CalibrationError(
        `the engine refuses to translate 0x${va.toString(16)}, but executing the access returned ${rc}`,
      );
    }
  }

  /** Makes aborts of known syndromes: an empty table, for each access at both privileges. */
  private findSyndrome(ram: Ram): { readonly syndrome: number; readonly address: number } {
    const { engine, context } = this;
    const syndromes: Set<number>[] = [];
    const addresses: Set<number>[] = [];
    for (const [unprivileged, access, esr, va] of [
      [false, ACCESS_READ, 0x96000004n, 0x5ac3_e1f2_0918n],
      [false, ACCESS_WRITE, 0x96000044n, 0x5ac3_e1f2_0918n],
      [false, ACCESS_FETCH, 0x86000004n, 0x1b2c_3d49_5e60n],
      [true, ACCESS_READ, 0x92000004n, 0x1b2c_3d49_5e6fn],
      [true, ACCESS_FETCH, 0x82000004n, 0x5ac3_e1f2_0918n],
    ] as const) {
      const state: OwnArm64State = {
        ...{
          ttbr0: BigInt(ram.base),
          ttbr1: BigInt(ram.base),
          tcr: TCR_LOW_HOME | TCR_HIGH_HOME | (5n << 32n),
        },
        ...{ sctlr: 0n, unprivileged, ldtr: false, pan: false },
      };
      this.make(state, va, access);
      // The address is in the register, too; and after a branch in pc.
      engine.write(X1, 0n);
      engine.saveContext(context);
      syndromes.push(placesOf(context.bytes, esr, 4));
      addresses.push(placesOf(context.bytes, va, 8));
    }
    return {
      syndrome: onlyPlace(syndromes, 'the syndrome'),
      address: onlyPlace(addresses, 'the fault address'),
    };
  }
}

function placeOf(access: AccessCode, ldtr: boolean): number {
  switch (access) {
    case ACCESS_READ:
      return ldtr ? PLACES.ldtr : PLACES.read;
    case ACCESS_WRITE:
      return ldtr ? PLACES.sttr : PLACES.write;
    case ACCESS_FETCH:
      return PLACES.fetch;
  }
}
