/**
 * Reads that may fail: copy_from_kernel_nofault() of mm/maccess.c with the test of arch/x86/mm/maccess.c,
 * and copy_from_user_nmi() of arch/x86/lib/usercopy.c (bpf-next merge 8496d9020ff3).
 *
 * A page that is not there faults, and the exception table takes the fault; of it remains what CR2 holds.
 */
import { u64 } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { mmuOf } from './mmu.js';
import { TASK_SIZE_MAX, VSYSCALL_ADDR } from './processor.js';

const PAGE = 0xfffn;

/** False for user addresses, the vsyscall page, and what is not canonical: by the first address alone. */
function copy_from_kernel_nofault_allowed(src: bigint): boolean {
  if (src < TASK_SIZE_MAX + 4096n) return false;
  if ((src & ~PAGE) === VSYSCALL_ADDR) return false;
  return BigInt.asIntN(48, src) === BigInt.asIntN(64, src);
}

/** The bytes, or null; a range that is refused by its address is not touched. */
export function copy_from_kernel_nofault(here: ThisCpu, src: bigint, size: number): Uint8Array | null {
  return copy_from_kernel_nofault_allowed(src) ? copy(here, src, size, false) : null;
}

/** Bytes of user memory without faulting pages in, or null. */
export function copy_from_user_nmi(here: ThisCpu, src: bigint, size: number): Uint8Array | null {
  // __access_ok(): the range neither wraps nor leaves user space.
  if (src + BigInt(size) > TASK_SIZE_MAX) return null;
  return copy(here, src, size, true);
}

/** All or nothing. The rights are those of a kernel that has opened user memory (stac) for user addresses. */
function copy(here: ThisCpu, src: bigint, size: number, user: boolean): Uint8Array | null {
  const mmu = mmuOf(here);
  const bytes = new Uint8Array(size);
  let done = 0;
  while (done < size) {
    const from = u64(src + BigInt(done));
    const length = Math.min(size - done, 4096 - Number(from & PAGE));
    const { ok, pa } = mmu.explain(from, 'read', false, user);
    if (!ok || !here.ram.contains(pa, length)) {
      mmu.setCr2(from);
      return null;
    }
    bytes.set(here.ram.read(pa, length), done);
    done += length;
  }
  return bytes;
}
