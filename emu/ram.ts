/** Guest-physical memory of a machine. */
import { hex } from './address.js';

/** Smallest and largest ram a machine may have, in bytes. */
export const RAM_MIN = 1 << 20;
export const RAM_MAX = 4 * 2 ** 30;

/** A size or a physical address that the machine's ram cannot serve. */
export class RamError extends Error {
  override name = 'RamError';
}

/**
 * Guest-physical memory: one buffer that the engine maps and TypeScript reads and writes directly.
 *
 * Whoever maps it into an engine must keep the `Ram` referenced for as long as that engine lives.
 * Physical addresses are numbers and start at `base`. An access outside the ram throws a `RamError`;
 * callers that walk untrusted tables ask `contains` first.
 */
export class Ram {
  /** The memory behind it. */
  readonly memory: ArrayBuffer;
  readonly bytes: Uint8Array;
  /** The ram as 64-bit words; index = (pa - base) / 8. */
  readonly words64: BigUint64Array;
  /** The ram as 32-bit halves, little endian; index = (pa - base) / 4. For code that must not use bigint. */
  readonly words32: Uint32Array;
  readonly end: number;

  /**
   * @param base first physical address, a multiple of 4096
   * @param size bytes, a multiple of 4096, from RAM_MIN to RAM_MAX
   * @param memory to be used, `size` bytes; new memory, full of zeros, where it is not given
   */
  constructor(
    readonly base: number,
    readonly size: number,
    memory?: ArrayBuffer,
  ) {
    if (!Number.isSafeInteger(size) || size < RAM_MIN || size > RAM_MAX || size % 4096 !== 0) {
      throw new RamError(
        `ram of ${size} bytes: a machine's ram is ${RAM_MIN} to ${RAM_MAX} bytes (1 MiB to 4 GiB), in whole pages of 4096`,
      );
    }
    const buffer = memory ?? allocate(size);
    if (buffer.byteLength !== size) {
      throw new RamError(`ram of ${size} bytes: the memory given for it has ${buffer.byteLength}`);
    }
    this.memory = buffer;
    this.bytes = new Uint8Array(buffer);
    this.words64 = new BigUint64Array(buffer);
    this.words32 = new Uint32Array(buffer);
    this.end = base + size;
  }

  /** True when `length` bytes from `pa` lie in the ram. */
  contains(pa: number, length = 1): boolean {
    return pa >= this.base && pa + length <= this.end;
  }

  /** The 64-bit word at `pa` (a multiple of 8). */
  readU64(pa: number): bigint {
    const word = this.words64[(pa - this.base) / 8];
    if (word === undefined) throw this.outside(pa, 8);
    return word;
  }

  /** Stores a 64-bit word at `pa` (a multiple of 8). */
  writeU64(pa: number, value: bigint): void {
    const index = (pa - this.base) / 8;
    if (this.words64[index] === undefined) throw this.outside(pa, 8);
    this.words64[index] = value;
  }

  /** A copy of `length` bytes from `pa`. */
  read(pa: number, length: number): Uint8Array {
    if (!this.contains(pa, length)) throw this.outside(pa, length);
    return this.bytes.slice(pa - this.base, pa - this.base + length);
  }

  /** Stores bytes at `pa`. */
  write(pa: number, data: Uint8Array): void {
    if (!this.contains(pa, data.length)) throw this.outside(pa, data.length);
    this.bytes.set(data, pa - this.base);
  }

  /** Sets `length` bytes from `pa` to `value`. */
  fill(pa: number, length: number, value: number): void {
    if (!this.contains(pa, length)) throw this.outside(pa, length);
    this.bytes.fill(value, pa - this.base, pa - this.base + length);
  }

  private outside(pa: number, length: number): RamError {
    return new RamError(
      `${length} bytes at physical ${hex(pa)} are not an aligned part of the ram ${hex(this.base)}..${hex(this.end - 1)}`,
    );
  }
}

function allocate(size: number): ArrayBuffer {
  try {
    return new ArrayBuffer(size);
  } catch {
    throw new RamError(`ram of ${size} bytes: this computer has not enough memory for it; make it smaller`);
  }
}
