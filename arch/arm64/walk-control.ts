/**
 * The system registers that control stage 1 translation of the EL1&0 regime, decoded for the walker.
 *
 * Arm ARM (DDI 0487), D24.2 "TCR_EL1", "SCTLR_EL1", "TTBR0_EL1" and D8.2 "Translation process". Modelled is a
 * PE with FEAT_TTST, FEAT_HPDS, FEAT_HAFDBS, FEAT_E0PD, FEAT_PAN3 and FEAT_PAuth (for TBID), without
 * FEAT_LPA2. Not looked at: cacheability and shareability of walks, ASIDs (the engine's TLB has none), NFDn
 * (no SVE first-fault loads), HWUn, MAIR_EL1 (all memory is Normal).
 */
import type { RightsControl } from './walk-rights.js';

/** A value of a control register that this machine does not model. */
export class ControlRegisterError extends Error {
  override name = 'ControlRegisterError';
}

/** Control state of the regime. */
export interface WalkControl extends RightsControl {
  /** Physical address of the first table of each half. */
  ttbr0: number;
  ttbr1: number;
  /** Bytes in each half, 2^(64 - TnSZ): 2^16 to 2^48. The low half starts at 0, the high half ends at 2^64. */
  limit0: number;
  limit1: number;
  /** No walks for the half: every access is a level 0 translation fault. */
  epd0: boolean;
  epd1: boolean;
  /** The same for accesses of EL0, and LDTR and STTR of EL1. */
  e0pd0: boolean;
  e0pd1: boolean;
  /** Hierarchical bits are ignored. */
  hpd0: boolean;
  hpd1: boolean;
  /** Bits 63:56 of a data address are ignored. */
  tbi0: boolean;
  tbi1: boolean;
  /** With TBI, the top byte of an instruction address counts all the same. */
  tbid0: boolean;
  tbid1: boolean;
  /** First physical address that is too large, from TCR_EL1.IPS. */
  paLimit: number;
  /** Hardware sets the access flag. */
  ha: boolean;
  /** With `ha`, hardware makes a read-only leaf with DBM = 1 writable when it is written. */
  hd: boolean;
}

/** The registers as the CPU has them. */
export interface ControlRegisters {
  readonly tcr_el1: bigint;
  readonly sctlr_el1: bigint;
  readonly ttbr0_el1: bigint;
  readonly ttbr1_el1: bigint;
}

const TWO_48 = 2 ** 48;

/** Two halves of 48 bits, no tables yet, everything optional off. */
export function initialControl(): WalkControl {
  return {
    ttbr0: 0,
    ttbr1: 0,
    limit0: TWO_48,
    limit1: TWO_48,
    epd0: false,
    epd1: false,
    e0pd0: false,
    e0pd1: false,
    hpd0: false,
    hpd1: false,
    tbi0: false,
    tbi1: false,
    tbid0: false,
    tbid1: false,
    paLimit: TWO_48,
    ha: false,
    hd: false,
    wxn: false,
    epan: false,
  };
}

/** Output address size of TCR_EL1.IPS, in bits. */
const IPS_BITS: readonly number[] = [32, 36, 40, 42, 44, 48];
const TG0_NAMES: readonly string[] = ['4 KiB', '64 KiB', '16 KiB', 'reserved'];
const TG1_NAMES: readonly string[] = ['reserved', '16 KiB', '4 KiB', '64 KiB'];

/** Smallest and largest TnSZ of a 4 KiB granule: 48 bits, and 16 bits with FEAT_TTST. */
const MIN_TNSZ = 16;
const MAX_TNSZ = 48;

/**
 * Level of the first table: as many levels of 9 bits as it takes above the 12 bits of a page.
 *
 * @param limit bytes in the half
 */
export function firstLevel(limit: number): number {
  if (limit > 2 ** 39) return 0;
  if (limit > 2 ** 30) return 1;
  return limit > 2 ** 21 ? 2 : 3;
}

/** Bytes of the first table, to which it is aligned: 8 for each entry that the half has room for. */
function firstTableSize(limit: number): number {
  return (limit / 2 ** (39 - 9 * firstLevel(limit))) * 8;
}

/**
 * Decodes the registers into `control`, which stays as it is when something is refused.
 *
 * Address bits of TTBRn below the size of the table are treated as zero, which the architecture allows
 * (D8.2.5). A half that is switched off (EPDn) may have any granule and size.
 *
 * @throws ControlRegisterError for a granule, an address size, an output size, or a mode that is not modelled
 */
export function decodeControl(control: WalkControl, registers: ControlRegisters): void {
  const { tcr_el1: tcr, sctlr_el1: sctlr } = registers;
  const field = (shift: number, mask: number): number => Number((tcr >> BigInt(shift)) & BigInt(mask));
  const flag = (position: number): boolean => field(position, 1) === 1;
  const refuse = (name: string, register: bigint, what: string): never => {
    throw new ControlRegisterError(`${name} = 0x${register.toString(16)}: ${what}`);
  };
  const epd0 = flag(7);
  const epd1 = flag(23);
  const granule = (name: string, value: number, names: readonly string[], modelled: number): void => {
    if (value === modelled) return;
    const text = `${name} = ${value} (${names[value]}) is not modelled, ${modelled} (4 KiB) is`;
    refuse('TCR_EL1', tcr, `the granule ${text}`);
  };
  if (!epd0) granule('TG0', field(14, 3), TG0_NAMES, 0);
  if (!epd1) granule('TG1', field(30, 3), TG1_NAMES, 2);
  const limit = (name: string, value: number, off: boolean): number => {
    if (value >= MIN_TNSZ && value <= MAX_TNSZ) return 2 ** (64 - value);
    if (off) return TWO_48;
    const range = `${MIN_TNSZ} (48 bits) to ${MAX_TNSZ} (16 bits)`;
    return refuse('TCR_EL1', tcr, `${name} = ${value} is not modelled, ${range} are`);
  };
  const limit0 = limit('T0SZ', field(0, 0x3f), epd0);
  const limit1 = limit('T1SZ', field(16, 0x3f), epd1);
  const bits =
    IPS_BITS[field(32, 7)] ??
    refuse('TCR_EL1', tcr, `IPS = ${field(32, 7)} is not modelled, 0 (32 bits) to 5 (48 bits) are`);
  if (flag(59)) refuse('TCR_EL1', tcr, 'DS = 1 (52-bit addresses) is not modelled, 0 is');
  if ((sctlr & 1n) === 0n) refuse('SCTLR_EL1', sctlr, 'M = 0 (MMU off) is not modelled, 1 is');
  if ((sctlr & (1n << 1n)) !== 0n) {
    refuse('SCTLR_EL1', sctlr, 'A = 1 (alignment checks of all accesses) is not modelled, 0 is');
  }
  if ((sctlr & (1n << 25n)) !== 0n) {
    refuse('SCTLR_EL1', sctlr, 'EE = 1 (big-endian tables) is not modelled, 0 is');
  }

  const table = (ttbr: bigint, size: number): number =>
    Number(ttbr & 0xffff_ffff_fffen & ~(BigInt(firstTableSize(size)) - 1n));
  control.ttbr0 = table(registers.ttbr0_el1, limit0);
  control.ttbr1 = table(registers.ttbr1_el1, limit1);
  control.limit0 = limit0;
  control.limit1 = limit1;
  control.paLimit = 2 ** bits;
  control.epd0 = epd0;
  control.epd1 = epd1;
  control.tbi0 = flag(37);
  control.tbi1 = flag(38);
  control.ha = flag(39);
  control.hd = flag(40);
  control.hpd0 = flag(41);
  control.hpd1 = flag(42);
  control.tbid0 = flag(51);
  control.tbid1 = flag(52);
  control.e0pd0 = flag(55);
  control.e0pd1 = flag(56);
  control.wxn = (sctlr & (1n << 19n)) !== 0n;
  control.epan = (sctlr & (1n << 57n)) !== 0n;
}
