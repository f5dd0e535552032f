/**
 * The one place where an address changes its form.
 *
 * Three forms exist:
 * - `bigint`, unsigned 64-bit: whatever a person or a port of kernel code reads;
 * - "signed number": the 64-bit address read as two's complement. Exact while |address| < 2^53, which
 *   holds for every canonical 48-bit address of either half. The walkers and the TLB-fill callback use it;
 * - physical addresses, always plain numbers.
 */

// Number() of a bigint is a call into the runtime; read from the same memory as two halves it is none.
// Written and read within one call, so that nothing is kept here.
const word = new BigUint64Array(1);
const halves = new Int32Array(word.buffer);

/** Two's-complement number of an address, or NaN when it does not fit exactly (|address| >= 2^53). */
export function toSigned(va: bigint): number {
  word[0] = va;
  const signed = (halves[1] ?? 0) * 4294967296 + ((halves[0] ?? 0) >>> 0);
  return signed >= Number.MIN_SAFE_INTEGER && signed <= Number.MAX_SAFE_INTEGER ? signed : Number.NaN;
}

/** Unsigned 64-bit address of a signed number. */
export function fromSigned(va: number): bigint {
  return BigInt.asUintN(64, BigInt(va));
}

/** Wraps a sum or difference to 64 bits. */
export function u64(value: bigint): bigint {
  return BigInt.asUintN(64, value);
}

const PAGE_BITS = 0xffff_ffff_ffff_f000n;

/** `va` rounded down to its 4 KiB page. */
export function pageOf(va: bigint): bigint {
  return BigInt.asUintN(64, va & PAGE_BITS);
}

/** Hexadecimal with `0x` and no padding, as `%#lx` prints it (zero is `0x0`). */
export function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}

/** Sixteen hexadecimal digits without `0x`, as `%016lx` prints it. */
export function hex16(value: bigint | number): string {
  return value.toString(16).padStart(16, '0');
}
