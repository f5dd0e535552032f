/**
 * get_user() and put_user() of ported code: host code has no instruction that could fault, so what the fault
 * handler would make of one is done here (bpf-next merge 8496d9020ff3, arch/x86/include/asm/uaccess.h).
 *
 * Left out: signals while a page is waited for, and the oops of a reserved bit.
 */
import { Turns } from '../../emu/endless.js';
import type { Path } from '../../emu/path.js';
import type { ThisCpu } from '../arch.js';
import {
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_WRITE,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_RETRY,
} from '../kernel.js';
import { access_error } from './access-error.js';
import { mmuOf } from './mmu.js';
import { TASK_SIZE_MAX } from './processor.js';
import type { X86PtRegs } from './regs.js';

export function access_ok(address: bigint, size: number): boolean {
  return address + BigInt(size) <= TASK_SIZE_MAX;
}

/** The value of `size` bytes, or null: -EFAULT. */
export function* get_user(here: ThisCpu, regs: X86PtRegs, ptr: bigint, size: 4 | 8): Path<bigint | null> {
  let value = 0n;
  for (let i = size - 1; i >= 0; i--) {
    const pa = yield* reach(here, regs, ptr + BigInt(i), false);
    if (pa < 0) return null;
    value = (value << 8n) | BigInt(here.ram.read(pa, 1)[0] ?? 0);
  }
  return value;
}

/** False for -EFAULT; then nothing is stored. */
export function* put_user(
  here: ThisCpu,
  regs: X86PtRegs,
  ptr: bigint,
  size: 4 | 8,
  value: bigint,
): Path<boolean> {
  const places: number[] = [];
  for (let i = 0; i < size; i++) {
    const pa = yield* reach(here, regs, ptr + BigInt(i), true);
    if (pa < 0) return false;
    places.push(pa);
  }
  for (const [i, pa] of places.entries()) {
    here.ram.write(pa, Uint8Array.of(Number((value >> BigInt(8 * i)) & 0xffn)));
  }
  return true;
}

/** The physical address of a user byte, its page faulted in if need be; -1 when it cannot be had. */
function* reach(here: ThisCpu, regs: X86PtRegs, va: bigint, write: boolean): Path<number> {
  const { mm } = here.current;
  if (!access_ok(va, 1) || mm === null) return -1;
  const { kernel, trace } = here;
  const access = write ? 'write' : 'read';
  const flags = FAULT_FLAG_DEFAULT | (write ? FAULT_FLAG_WRITE : 0);
  const turns = new Turns(trace.patience);
  for (;;) {
    // Between stac and clac.
    const { ok, pa, code } = mmuOf(here).explain(va, access, false, true);
    if (ok) return pa;
    const vma = yield* kernel.lock_mm_and_find_vma(here, mm, va, regs);
    if (vma === null) return -1;
    const refused = access_error(here, code, vma);
    const fault = refused ? VM_FAULT_ERROR : yield* kernel.handle_mm_fault(here, vma, va, flags, regs);
    if ((fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) === 0) kernel.mmap_read_unlock(here, mm);
    if ((fault & VM_FAULT_ERROR) !== 0) return -1;
    turns.again(va);
  }
}
