/**
 * What the fault path must know of an A64 instruction, by a few bit masks: is it an atomic, an exclusive,
 * unprivileged, or a maintenance operation on an address; and which alignment it insists on.
 *
 * Encodings: Arm ARM (DDI 0487), C4.1 "A64 instruction set encoding", groups "Loads and stores" and
 * "System instructions". Known up to Armv8.7: LSE128, RCW and LSUI forms and 64-byte accesses are `none`.
 */

/** Kinds of instruction that a walk or an alignment check treats differently from a plain load or store. */
export type Arm64InstructionKind =
  /** LDADD…, STADD…, SWP, CAS, CASP: one read-modify-write. */
  | 'atomic'
  | 'load-exclusive'
  | 'store-exclusive'
  /** LDAR, LDLAR, LDAPR, LDAPUR. */
  | 'load-acquire'
  /** STLR, STLLR, STLUR. */
  | 'store-release'
  /** LDTR…: checked with the rights of EL0. */
  | 'load-unprivileged'
  /** STTR…: checked with the rights of EL0. */
  | 'store-unprivileged'
  /** DC or IC by virtual address, without DC ZVA. */
  | 'cache-maintenance'
  | 'dc-zva'
  /** AT: translates an address, reports in PAR_EL1. */
  | 'address-translation'
  /** Anything else, plain loads and stores included. */
  | 'none';

/** Maintenance of one cache line by virtual address. */
export type Arm64CacheOp =
  | 'dc ivac'
  | 'dc cvac'
  | 'dc cvau'
  | 'dc cvap'
  | 'dc cvadp'
  | 'dc civac'
  | 'ic ivau';

export interface Arm64InstructionFacts {
  readonly kind: Arm64InstructionKind;
  readonly isAtomic: boolean;
  readonly isLoadExclusive: boolean;
  readonly isStoreExclusive: boolean;
  /** LDTR/STTR family: at EL1 the access is checked as if it were made at EL0 (with UAO = 0). */
  readonly isUnprivileged: boolean;
  readonly isCacheMaintenance: boolean;
  /** DC ZVA: an ordinary store of a block as far as rights go, but not cache maintenance. */
  readonly isDcZva: boolean;
  readonly cacheOp: Arm64CacheOp | null;
  /** Bytes accessed, both registers of a pair together; 0 for `none` and for maintenance. */
  readonly size: number;
  /**
   * Alignment whose violation faults whatever the memory type and SCTLR_EL1.A, in bytes, without
   * FEAT_LSE2: the size for atomics, exclusives, acquires and releases, 1 for all others.
   */
  readonly alignment: number;
}

/** @param word the instruction as a 32-bit number, signed or unsigned */
export function classify(word: number): Arm64InstructionFacts {
  // Loads and stores have bits 27 and 25 as x1x0 in 28:25; system instructions start with 0xd5.
  if (((word >>> 24) & 0x3f) === 0x08) return exclusiveGroup(word);
  if (((word >>> 24) & 0x3f) === 0x19) return rcpcUnscaled(word);
  if (((word >>> 24) & 0x3f) === 0x38) return registerGroup(word);
  if (word >>> 19 === 0xd5080000 >>> 19) return systemGroup(word);
  return NONE;
}

/** Load/store exclusive pair and register, ordered, compare and swap (pair). */
function exclusiveGroup(word: number): Arm64InstructionFacts {
  const element = 1 << (word >>> 30);
  const o2 = bit(word, 23);
  const load = bit(word, 22);
  const o1 = bit(word, 21);
  if (o2 && o1) return hasRt2(word) ? NONE : facts('atomic', element);
  if (o2) return facts(load ? 'load-acquire' : 'store-release', element);
  if (!o1) return facts(load ? 'load-exclusive' : 'store-exclusive', element);
  // Bit 31 parts the exclusive pairs from CASP, where bit 30 alone gives the size.
  if (bit(word, 31)) return facts(load ? 'load-exclusive' : 'store-exclusive', 2 * element);
  return hasRt2(word) ? NONE : facts('atomic', bit(word, 30) ? 16 : 8);
}

/** LDAPUR and STLUR: load-acquire RCpc and store-release with an unscaled offset. */
function rcpcUnscaled(word: number): Arm64InstructionFacts {
  if ((word & 0x0020_0c00) !== 0) return NONE;
  const size = word >>> 30;
  const opc = (word >>> 22) & 3;
  if (opc === 0) return facts('store-release', 1 << size);
  return isAllocatedLoad(size, opc) ? facts('load-acquire', 1 << size) : NONE;
}

/** Of the register forms: atomic memory operations, LDAPR, and the unprivileged ones. */
function registerGroup(word: number): Arm64InstructionFacts {
  const size = word >>> 30;
  if ((word & 0x0020_0c00) === 0x0000_0800) {
    const opc = (word >>> 22) & 3;
    if (opc === 0) return facts('store-unprivileged', 1 << size);
    return isAllocatedLoad(size, opc) ? facts('load-unprivileged', 1 << size) : NONE;
  }
  if ((word & 0x0020_0c00) !== 0x0020_0000) return NONE;
  const opc = (word >>> 12) & 7;
  if (!bit(word, 15) || opc === 0) return facts('atomic', 1 << size);
  // LDAPR: A = 1, R = 0, Rs = 31, o3 = 1, opc = 4.
  return (word & 0x00ff_f000) === 0x00bf_c000 ? facts('load-acquire', 1 << size) : NONE;
}

/** SYS with CRn = 7: cache maintenance and address translation. */
function systemGroup(word: number): Arm64InstructionFacts {
  const crn = (word >>> 12) & 15;
  if (crn !== 7) return NONE;
  const op1 = (word >>> 16) & 7;
  const crm = (word >>> 8) & 15;
  const op2 = (word >>> 5) & 7;
  if (crm === 8 || (crm === 9 && op1 === 0 && op2 < 2)) return ADDRESS_TRANSLATION;
  if (op2 !== 1) return NONE;
  if (op1 === 0) return crm === 6 ? cache('dc ivac') : NONE;
  if (op1 !== 3) return NONE;
  switch (crm) {
    case 4:
      return DC_ZVA;
    case 5:
      return cache('ic ivau');
    case 10:
      return cache('dc cvac');
    case 11:
      return cache('dc cvau');
    case 12:
      return cache('dc cvap');
    case 13:
      return cache('dc cvadp');
    case 14:
      return cache('dc civac');
    default:
      return NONE;
  }
}

function bit(word: number, position: number): boolean {
  return ((word >>> position) & 1) !== 0;
}

/** CAS and CASP are allocated only with all ones in the place of Rt2. */
function hasRt2(word: number): boolean {
  return (word & 0x7c00) !== 0x7c00;
}

/** opc 1 loads, 2 loads and extends the sign to 64 bits, 3 to 32: what makes no sense is unallocated. */
function isAllocatedLoad(size: number, opc: number): boolean {
  return opc === 1 || (opc === 2 && size < 3) || (opc === 3 && size < 2);
}

function make(kind: Arm64InstructionKind, size: number, cacheOp: Arm64CacheOp | null): Arm64InstructionFacts {
  const isAtomic = kind === 'atomic';
  const isLoadExclusive = kind === 'load-exclusive';
  const isStoreExclusive = kind === 'store-exclusive';
  const ordered = kind === 'load-acquire' || kind === 'store-release';
  return {
    kind,
    isAtomic,
    isLoadExclusive,
    isStoreExclusive,
    isUnprivileged: kind === 'load-unprivileged' || kind === 'store-unprivileged',
    isCacheMaintenance: kind === 'cache-maintenance',
    isDcZva: kind === 'dc-zva',
    cacheOp,
    size,
    alignment: isAtomic || isLoadExclusive || isStoreExclusive || ordered ? size : 1,
  };
}

function facts(kind: Arm64InstructionKind, size: number): Arm64InstructionFacts {
  return make(kind, size, null);
}

function cache(op: Arm64CacheOp): Arm64InstructionFacts {
  return make('cache-maintenance', 0, op);
}

const NONE = make('none', 0, null);
const DC_ZVA = make('dc-zva', 0, null);
const ADDRESS_TRANSLATION = make('address-translation', 0, null);
