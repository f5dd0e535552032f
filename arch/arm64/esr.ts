/**
 * ESR_EL1: fields, fault status codes, and the words hardware builds.
 *
 * Names from arch/arm64/include/asm/esr.h, bpf-next merge 8496d9020ff3; encodings from Arm ARM (DDI 0487),
 * D24.2 "ESR_EL1". Left out: everything that is not an abort or an alignment exception.
 */

const ESR_ELx_EC_SHIFT = 26n;
export const ESR_ELx_EC_MASK = 0x3fn << ESR_ELx_EC_SHIFT;
export const ESR_ELx_IL = 1n << 25n;
export const ESR_ELx_ISV = 1n << 24n;
export const ESR_ELx_CM = 1n << 8n;
export const ESR_ELx_WNR = 1n << 6n;
export const ESR_ELx_FnV = 1n << 10n;
const ESR_ELx_FSC = 0x3fn;

export const ESR_ELx_EC_UNKNOWN = 0x00;
export const ESR_ELx_EC_IABT_LOW = 0x20;
export const ESR_ELx_EC_IABT_CUR = 0x21;
export const ESR_ELx_EC_PC_ALIGN = 0x22;
export const ESR_ELx_EC_DABT_LOW = 0x24;
export const ESR_ELx_EC_DABT_CUR = 0x25;
export const ESR_ELx_EC_SP_ALIGN = 0x26;

/** Fault status codes; those with a level have it added. */
export const ESR_ELx_FSC_ADDRSZ = 0x00;
export const ESR_ELx_FSC_FAULT = 0x04;
export const ESR_ELx_FSC_ACCESS = 0x08;
export const ESR_ELx_FSC_PERM = 0x0c;
export const ESR_ELx_FSC_EXTABT = 0x10;
export const ESR_ELx_FSC_SEA_TTW = 0x14;
/** ALIGN has no macro of its own in esr.h: fault_info row 33. */
export const FSC_ALIGNMENT = 0x21;

/** A class as it stands in the register. Tests on the path compare bigint: converting costs more. */
function classBits(ec: number): bigint {
  return BigInt(ec) << ESR_ELx_EC_SHIFT;
}

const IABT_LOW_BITS = classBits(ESR_ELx_EC_IABT_LOW);
const IABT_CUR_BITS = classBits(ESR_ELx_EC_IABT_CUR);
const DABT_LOW_BITS = classBits(ESR_ELx_EC_DABT_LOW);
const DABT_CUR_BITS = classBits(ESR_ELx_EC_DABT_CUR);

/** Bits of an ESR. Said to be of 64 bits, because then the engine computes it without allocating. */
function bits(esr: bigint, mask: bigint): bigint {
  return BigInt.asUintN(64, esr & mask);
}

/** ESR_ELx_EC() as a bigint. */
export function classOf(esr: bigint): bigint {
  return bits(esr >> ESR_ELx_EC_SHIFT, 0x3fn);
}

export function ESR_ELx_EC(esr: bigint): number {
  return Number(bits(esr >> ESR_ELx_EC_SHIFT, 0x3fn));
}

export function fsc(esr: bigint): number {
  return Number(bits(esr, ESR_ELx_FSC));
}

export function wnr(esr: bigint): boolean {
  return bits(esr, ESR_ELx_WNR) !== 0n;
}

export function cm(esr: bigint): boolean {
  return bits(esr, ESR_ELx_CM) !== 0n;
}

export function is_write_abort(esr: bigint): boolean {
  return wnr(esr) && !cm(esr);
}

export function esr_is_data_abort(esr: bigint): boolean {
  const ec = bits(esr, ESR_ELx_EC_MASK);
  return ec === DABT_LOW_BITS || ec === DABT_CUR_BITS;
}

export function is_el1_data_abort(esr: bigint): boolean {
  return bits(esr, ESR_ELx_EC_MASK) === DABT_CUR_BITS;
}

export function is_el1_instruction_abort(esr: bigint): boolean {
  return bits(esr, ESR_ELx_EC_MASK) === IABT_CUR_BITS;
}

export function is_el0_instruction_abort(esr: bigint): boolean {
  return bits(esr, ESR_ELx_EC_MASK) === IABT_LOW_BITS;
}

export function esr_fsc_is_translation_fault(esr: bigint): boolean {
  return bits(esr, 0x3cn) === 0x04n || bits(esr, 0x3fn) === 0x2bn;
}

/** The same for a status code by itself, as PAR_EL1.FST has it. */
export function fscIsTranslationFault(code: number): boolean {
  return (code & 0x3c) === ESR_ELx_FSC_FAULT || code === 0x2b;
}

export function esr_fsc_is_permission_fault(esr: bigint): boolean {
  return bits(esr, 0x3cn) === 0x0cn;
}

/** A synchronous tag check fault. */
export function esr_fsc_is_tag_check_fault(esr: bigint): boolean {
  return bits(esr, ESR_ELx_FSC) === 0x11n;
}

/** What goes into the ESR of an abort, besides its fault status code. */
export interface AbortKind {
  readonly fetch: boolean;
  /** Taken from EL0. */
  readonly user: boolean;
  readonly write: boolean;
  readonly cacheMaintenance: boolean;
}

/**
 * The ESR of a stage 1 abort taken to EL1: IL = 1 and ISV = 0 always; WnR and CM only for data.
 * Cache maintenance has both CM and WnR.
 */
export function abortEsr(kind: AbortKind, code: number): bigint {
  const words = kind.fetch
    ? kind.user
      ? FETCH_EL0
      : FETCH_EL1
    : kind.cacheMaintenance
      ? kind.user
        ? CACHE_EL0
        : CACHE_EL1
      : kind.write
        ? kind.user
          ? WRITE_EL0
          : WRITE_EL1
        : kind.user
          ? READ_EL0
          : READ_EL1;
  return words[code] ?? 0n;
}

/** The words of one kind of abort by fault status code: ready, because making a bigint costs. */
function words(base: number): readonly bigint[] {
  return Array.from({ length: 64 }, (_, code) => BigInt(base + code));
}

const FETCH_EL0 = words(0x8200_0000);
const FETCH_EL1 = words(0x8600_0000);
const READ_EL0 = words(0x9200_0000);
const READ_EL1 = words(0x9600_0000);
const WRITE_EL0 = words(0x9200_0040);
const WRITE_EL1 = words(0x9600_0040);
const CACHE_EL0 = words(0x9200_0140);
const CACHE_EL1 = words(0x9600_0140);

/** The ESR of an exception without syndrome: PC or SP alignment. */
export function plainEsr(ec: number): bigint {
  return (BigInt(ec) << ESR_ELx_EC_SHIFT) | ESR_ELx_IL;
}
