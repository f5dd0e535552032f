/**
 * Port of mm/maccess.c (bpf-next merge 8496d9020ff3): reads of memory that may not be there. A page that
 * is not mapped, or not for the kind of address, ends the read; nobody is told.
 *
 * Left out: the architecture's copy_from_kernel_nofault_allowed(): whoever calls knows whose address it is.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import { u64 } from '../emu/address.js';
import { EFAULT } from './errno.js';

/** Physical address of a byte that can be read, or -1. */
function readable(here: ThisCpu, va: bigint, user: boolean): number {
  const { ok, pa } = here.mmu.translate(va, 'read', user);
  return ok && here.ram.contains(pa) ? pa : -1;
}

/** `size` bytes, or null when one of them cannot be read. */
export function copy_from_nofault(here: ThisCpu, src: bigint, size: number, user = false): Uint8Array | null {
  const bytes = new Uint8Array(size);
  for (let done = 0; done < size; ) {
    const from = u64(src + BigInt(done));
    const length = Math.min(size - done, PAGE_SIZE - Number(from & BigInt(PAGE_SIZE - 1)));
    const pa = readable(here, from, user);
    if (pa < 0) return null;
    bytes.set(here.ram.read(pa, length), done);
    done += length;
  }
  return bytes;
}

/**
 * strncpy_from_kernel_nofault() and strncpy_from_user_nofault(): a string of at most `count` bytes, its NUL
 * included; a longer one is cut and gets a NUL for its last byte.
 * @returns the bytes with their NUL, or -EFAULT; null when `count` is 0
 */
export function strncpy_from_nofault(
  here: ThisCpu,
  src: bigint,
  count: number,
  user = false,
): Uint8Array | number | null {
  if (count <= 0) return null;
  const bytes: number[] = [];
  while (bytes.length < count) {
    const from = u64(src + BigInt(bytes.length));
    const length = Math.min(count - bytes.length, PAGE_SIZE - Number(from & BigInt(PAGE_SIZE - 1)));
    const pa = readable(here, from, user);
    if (pa < 0) return -EFAULT;
    const piece = here.ram.read(pa, length);
    const end = piece.indexOf(0);
    for (const byte of end < 0 ? piece : piece.subarray(0, end + 1)) bytes.push(byte);
    if (end >= 0) return Uint8Array.from(bytes);
  }
  bytes[count - 1] = 0;
  return Uint8Array.from(bytes);
}
