/** Questions for arm64 MMUs, and kfault's and the engine's answers. */
import { Arm64Mmu } from '../arch/arm64/mmu.js';
import { ACCESS_FETCH, ACCESS_WRITE, accessType, permFor } from '../emu/cpu.js';
import { NO_EVENTS } from '../emu/events.js';
import { Trace } from '../emu/path.js';
import { Ram } from '../emu/ram.js';
import type { UnicornLibrary } from '../emu/unicorn/library.js';
import { OwnArm64Mmu } from '../emu/unicorn/own-mmu-arm64.js';
import { ACCESSES, type Case, coveredBy, fillFor, type Ours, Tables, type Theirs } from './case.js';
import { ControlCpu } from './control-cpu.js';

export interface Arm64Case extends Case {
  readonly ttbr0: bigint;
  readonly ttbr1: bigint;
  readonly tcr: bigint;
  readonly sctlr: bigint;
  /** With the rights of EL0. */
  readonly unprivileged: boolean;
  /** By LDTR or STTR of EL1 rather than by EL0. */
  readonly ldtr: boolean;
  readonly pan: boolean;
}

export const ARM64_RAM_BASE = 0x4000_0000;
export const ARM64_RAM_SIZE = 4 << 20;
const FIRST_TABLE = ARM64_RAM_BASE + 0x10000;
const TABLES = 14;
/** Where tables are: the roots first. One is the first page of the ram, and one the last. */
export const ARM64_TABLES: readonly number[] = Array.from({ length: TABLES }, (_, n) => {
  if (n === 4) return ARM64_RAM_BASE;
  return n === 6 ? ARM64_RAM_BASE + ARM64_RAM_SIZE - 4096 : FIRST_TABLE + n * 4096;
});

const PSTATE_EL1H = 5n;
const PSTATE_PAN = 1n << 22n;
const FSC = 0x3f;
const AF_AND_PAGE = 0x403n;
/** The fault status of an access that translated to where nothing is. */
const FSC_EXTABT = 0x10;

export const bit = (position: number): bigint => 1n << BigInt(position);
export const TCR_HA = bit(39);
export const TCR_HD = bit(40);
export const TCR_IPS = 7n << 32n;
export const TCR_E0PD = bit(55) | bit(56);
export const SCTLR_M = bit(0);
export const SCTLR_WXN = bit(19);
export const SCTLR_EPAN = bit(57);

/** True for an address of TTBR1_EL1. */
export function isHigh(va: bigint): boolean {
  return ((va >> 55n) & 1n) === 1n;
}

/** A flag of TCR_EL1 that each half has: its place for TTBR0, and for TTBR1. */
export function half(tcr: bigint, va: bigint, low: number, high: number): boolean {
  return (tcr & bit(isHigh(va) ? high : low)) !== 0n;
}

/**
 * The address that an abort reports. A branch drops the tag of its target where the top byte of instruction
 * addresses is ignored (Arm ARM, "Address tagging"; pseudocode AArch64.BranchAddr).
 */
function reported({ access, va, tcr }: Arm64Case): bigint {
  const ignored = half(tcr, va, 37, 38) && !half(tcr, va, 51, 52);
  if (access !== ACCESS_FETCH || !ignored) return va;
  return BigInt.asUintN(64, BigInt.asIntN(56, va));
}

/** The half of the addresses that is not asked about leads to the code. */
function withHome({ va, tcr, ttbr0, ttbr1 }: Arm64Case): Pick<Arm64Case, 'tcr' | 'ttbr0' | 'ttbr1'> {
  return isHigh(va)
    ? { tcr: (tcr & ~TCR_HOME_LOW) | 16n, ttbr0: BigInt(HOME), ttbr1 }
    : { tcr: (tcr & ~TCR_HOME_HIGH) | (16n << 16n), ttbr0, ttbr1: BigInt(HOME) };
}

/** The address without its tag: as good for data, and all that there is of it for code. */
function untagged({ va, tcr }: Arm64Case): bigint {
  return half(tcr, va, 37, 38) ? BigInt.asUintN(64, BigInt.asIntN(56, va)) : va;
}

/**
 * Where LDTR and STTR are for our MMU, in the half of the addresses that is not asked about: four tables, then
 * a page of code. Far from the tables of cases, so that no changed bit makes an entry lead there.
 */
const HOME = ARM64_RAM_BASE + 0x2c5000;
const HOME_CODE = HOME + 4 * 4096;
const HOME_LOW = 0x0000_0000_0001_0000n;
const HOME_HIGH = 0xffff_ffff_ffff_0000n;
/** ldtrb w0, [x1] at the start of the page; sttrb w0, [x1] at its end. */
const LDTRB = 0x38400820;
const STTRB = 0x38000820;
const STTRB_AT = 4092;
/** TCR_EL1: T0SZ, EPD0 and T1SZ, EPD1. */
const TCR_HOME_LOW = 0xbfn;
const TCR_HOME_HIGH = 0xbf_0000n;

function layHome(ram: Ram): void {
  for (let level = 0; level < 4; level++) {
    const table = HOME + level * 4096;
    const entry = BigInt(table + 4096) | AF_AND_PAGE;
    for (const index of level < 3 ? [0, 511] : [16, 496]) ram.writeU64(table + index * 8, entry);
  }
  ram.writeU64(HOME_CODE, BigInt(LDTRB));
  ram.writeU64(HOME_CODE + STTRB_AT - 4, BigInt(STTRB) << 32n);
}

/** kfault's MMU. The same one answers all cases, so that what it remembers of earlier walks is checked, too. */
export class Arm64Ours {
  private readonly ram = new Ram(ARM64_RAM_BASE, ARM64_RAM_SIZE);
  private readonly tables: Tables;
  private readonly cpu = new ControlCpu();
  private readonly mmu = new Arm64Mmu(this.ram);
  /** Has it seen that there is an LDTR? */
  private readonly sees: boolean;

  /** @param spare more pages that may hold tables */
  constructor(spare: readonly number[] = []) {
    this.tables = new Tables(this.ram, [...ARM64_TABLES, ...spare]);
    this.mmu.attach(this.cpu, new Trace(0, NO_EVENTS));
    layHome(this.ram);
    this.mmu.unprivilegedCode.note(HOME_CODE);
    this.sees = this.mmu.unprivilegedCode.possible;
  }

  answer(question: Arm64Case): Ours {
    const { cpu, mmu, tables } = this;
    const { access, va, unprivileged, pan } = question;
    const ldtr = unprivileged && question.ldtr && access !== ACCESS_FETCH;
    const el0 = unprivileged && !ldtr;
    tables.load(question.entries);
    const { tcr, ttbr0, ttbr1 } = ldtr ? withHome(question) : question;
    cpu.write('tcr_el1', tcr);
    cpu.write('sctlr_el1', question.sctlr);
    cpu.write('ttbr0_el1', ttbr0);
    cpu.write('ttbr1_el1', ttbr1);
    cpu.write('pstate', (el0 ? 0n : PSTATE_EL1H) | (pan ? PSTATE_PAN : 0n));
    const home = isHigh(va) ? HOME_LOW : HOME_HIGH;
    cpu.write('pc', access === ACCESS_WRITE ? home + BigInt(STTRB_AT) : home);
    mmu.user = el0;
    mmu.unprivilegedCode.possible = ldtr && this.sees;
    mmu.refresh();

    const { ok, pa, perms, code, levels } = mmu.translate(va, accessType(access), unprivileged);
    let flaw = tables.changes().size > 0 ? 'translate() wrote into the tables' : null;
    const granted = fillFor(this.mmu, question);
    const writes = tables.changes();
    // The first fetch is asked for again.
    const expected = ok && (access === ACCESS_FETCH || (granted & permFor(access)) !== 0);
    if ((granted !== 0) !== expected) flaw = `translate() says ${ok}, fill() grants ${granted}`;
    else if (ok && mmu.pa !== pa - (pa % 4096)) {
      flaw = `translate() says physical ${pa.toString(16)}, fill() ${mmu.pa.toString(16)}`;
    } else if ((granted & ~perms) !== 0) flaw = `fill() grants ${granted}, translate() ${perms}`;
    if (el0) {
      // The first access after an eret: nobody has told the MMU, which has seen code that may have done it.
      tables.restore();
      mmu.user = false;
      mmu.unprivilegedCode.possible = true;
      const again = fillFor(this.mmu, question);
      if (again !== granted) flaw = `fill() grants ${granted}, and ${again} to the first access of EL0`;
    }
    return {
      pa: ok ? pa : null,
      code,
      address: ok ? null : reported(question),
      rights: perms,
      writes,
      levels,
      granted,
      flaw,
    };
  }
}

/** The engine's MMU. */
export class Arm64Theirs {
  private readonly ram = new Ram(ARM64_RAM_BASE, ARM64_RAM_SIZE);
  private readonly mmu: OwnArm64Mmu;
  private readonly tables: Tables;

  constructor(library: UnicornLibrary) {
    this.mmu = new OwnArm64Mmu(library, this.ram);
    layHome(this.ram);
    this.tables = new Tables(this.ram, ARM64_TABLES);
  }

  answer(question: Arm64Case): Theirs {
    const { mmu, ram, tables } = this;
    const { access, va } = question;
    tables.load(question.entries);
    mmu.set(question);
    const answer = mmu.translate(va, access);
    const writes = tables.changes();
    if (!answer.translates) {
      return {
        ...{ pa: null, code: answer.code & FSC, address: answer.address, rights: 0, silent: 0 },
        writes,
      };
    }
    if (!ram.contains(answer.pa)) {
      // A translation asks nobody whether there is memory. The access would: nothing is, so it aborts.
      return { ...{ pa: null, code: FSC_EXTABT, address: reported(question), rights: 0, silent: 0 }, writes };
    }
    let rights = permFor(access);
    let silent = rights;
    for (const other of ACCESSES) {
      if (other === access) continue;
      tables.restore();
      if (!mmu.translates(untagged(question), other)) continue;
      rights |= permFor(other);
      if (coveredBy(tables.changes(), writes)) silent |= permFor(other);
    }
    return { pa: answer.pa, code: 0, address: null, rights, writes, silent };
  }

  close(): void {
    this.mmu.close();
  }
}
