/**
 * The command BPF_PROG_STREAM_READ_BY_FD: prog_stream_read() of kernel/bpf/syscall.c (bpf-next merge
 * 8496d9020ff3) and copy_to_user() as far as it needs it. Left out: capabilities, which reading needs none of,
 * references to the program, and bytes behind the fields of the command.
 */
import type { ThisCpu } from '../../arch/arch.js';
import {
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_WRITE,
  fault_signal_pending,
  PAGE_SIZE,
  VM_FAULT_COMPLETED,
  VM_FAULT_ERROR,
  VM_FAULT_RETRY,
  VM_WRITE,
} from '../../arch/kernel.js';
import { pageOf, u64 } from '../../emu/address.js';
import { type Delegate, type Path, port } from '../../emu/path.js';
import { ENOENT } from '../../kernel/errno.js';
import type { bpf_prog } from '../program.js';
import { bpf_stream_get, bpf_stream_read } from './stream.js';

export const BPF_PROG_STREAM_READ_BY_FD = 37;

/** union bpf_attr, the fields of this command. */
export interface ProgStreamReadAttr {
  /** u64: user address. */
  readonly stream_buf: bigint;
  /** u32 */
  readonly stream_buf_len: number;
  /** u32 */
  readonly stream_id: number;
  /** u32 */
  readonly prog_fd: number;
}

/** What the caller's process brings along. */
export interface StreamReaderProcess {
  /** bpf_prog_get(): the program, -EBADF for no file descriptor, -EINVAL for one of something else. */
  bpf_prog_get(fd: number): bpf_prog | number;
  /** copy_to_user(): bytes that did not arrive at the user address, counted from the end. */
  copy_to_user(here: ThisCpu, to: bigint, from: Uint8Array): Delegate<number>;
}

/** Bytes read, 0 when there are none, or -EBADF, -EINVAL, -ENOENT, -EFAULT, looked for in this order. */
export const prog_stream_read = port(
  'prog_stream_read',
  ['attr'],
  function* (here: ThisCpu, attr: ProgStreamReadAttr, process: StreamReaderProcess): Path<number> {
    const { trace } = here;
    const fn = 'prog_stream_read';
    const prog = process.bpf_prog_get(attr.prog_fd);
    yield* trace.decide(fn, 'bpf_prog_get(prog_fd)', typeof prog === 'number' ? prog : prog.aux.name);
    if (typeof prog === 'number') return prog;

    const stream = bpf_stream_get(attr.stream_id, prog);
    yield* trace.decide('bpf_prog_stream_read', '!stream', stream === null);
    if (stream === null) return -ENOENT;
    // The length becomes an int on the way.
    const len = attr.stream_buf_len | 0;
    return yield* bpf_stream_read(here, stream, len, (offset, bytes) =>
      process.copy_to_user(here, u64(attr.stream_buf + BigInt(offset)), bytes),
    );
  },
);

/**
 * copy_to_user() to the address space that is loaded: pages that are not there yet are brought in, as the fault
 * path does it for the kernel. What arrived before a byte that cannot be written stays there.
 * @returns bytes that did not arrive
 */
export function* copy_to_user(here: ThisCpu, to: bigint, from: Uint8Array): Path<number> {
  let done = 0;
  // __access_ok()
  if (to + BigInt(from.length) > here.arch.layout.user.end) return from.length;
  while (done < from.length) {
    const va = to + BigInt(done);
    const length = Math.min(from.length - done, PAGE_SIZE - Number(va & BigInt(PAGE_SIZE - 1)));
    const pa = yield* writable(here, va);
    if (pa < 0 || !here.ram.contains(pa, length)) return from.length - done;
    here.ram.write(pa, from.subarray(done, done + length));
    done += length;
  }
  here.mmu.codeChanged?.();
  return 0;
}

/** Physical address of a user byte that may be written, after a fault if need be; -1 when it may not. */
function* writable(here: ThisCpu, va: bigint): Path<number> {
  const { ok, pa } = here.mmu.translate(va, 'write', true);
  if (ok) return pa;
  yield* faultIn(here, va);
  const again = here.mmu.translate(va, 'write', true);
  return again.ok ? again.pa : -1;
}

/** The part of the fault path that maps a page; whether it did is seen in the tables. */
function* faultIn(here: ThisCpu, va: bigint): Path<void> {
  const { kernel, current, regs } = here;
  const { mm } = current;
  if (mm === null || regs === null || current.pagefault_disabled > 0) return;
  let flags = FAULT_FLAG_DEFAULT | FAULT_FLAG_WRITE;
  for (;;) {
    const vma = yield* kernel.lock_mm_and_find_vma(here, mm, va, regs);
    if (vma === null) return;
    if ((vma.vm_flags & VM_WRITE) === 0) {
      kernel.mmap_read_unlock(here, mm);
      return;
    }
    const fault = yield* kernel.handle_mm_fault(here, vma, va, flags, regs);
    if (fault_signal_pending(here, fault, regs)) return;
    // With VM_FAULT_RETRY and VM_FAULT_COMPLETED the lock is gone already.
    if ((fault & VM_FAULT_RETRY) !== 0) {
      flags |= FAULT_FLAG_TRIED;
      continue;
    }
    if ((fault & VM_FAULT_COMPLETED) === 0) kernel.mmap_read_unlock(here, mm);
    if ((fault & VM_FAULT_ERROR) === 0) here.cpu.flushTlbPage(pageOf(va));
    return;
  }
}
