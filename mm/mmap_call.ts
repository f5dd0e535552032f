/**
 * mmap(): do_mmap() of mm/mmap.c, __mmap_region() of mm/vma.c and vm_mmap_pgoff() of mm/util.c (bpf-next
 * merge 8496d9020ff3).
 *
 * Left out: locked and huge pages, personalities, execute-only keys, MAP_DROPPABLE, MAP_SYNC, the limit on
 * the number of mappings, merging, and MAP_POPULATE: pages come with the first touch. Also the file of tmpfs
 * that the kernel puts behind shared anonymous memory (shmem_zero_setup()): that can be mapped here, but a
 * touch is a SIGBUS.
 */
import type { ThisCpu } from '../arch/arch.js';
import { VM_GROWSDOWN, VM_SHARED } from '../arch/kernel.js';
import { type Delegate, type Path, port } from '../emu/path.js';
import { EACCES, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM } from '../kernel/errno.js';
import {
  type file,
  find_vma_intersection,
  mmap_min_addr,
  type UserMm,
  Vma,
  vma_link,
  vma_unlink,
  zap_vma_range,
} from './mmap.js';
import { __get_unmapped_area, PAGE_ALIGN } from './mmap_area.js';
import {
  calc_vm_prot_bits,
  FMODE_READ,
  FMODE_WRITE,
  LEGACY_MAP_MASK,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_GROWSDOWN,
  MAP_PRIVATE,
  MAP_SHARED,
  MAP_SHARED_VALIDATE,
  MAP_TYPE,
  PROT_EXEC,
  PROT_WRITE,
  VM_MAYEXEC,
  VM_MAYREAD,
  VM_MAYSHARE,
  VM_MAYWRITE,
} from './mmap_flags.js';
import { mmap_write_lock, mmap_write_unlock } from './mmap_lock.js';
import { do_munmap } from './mmap_unmap.js';

/** The vm_flags that the kind of mapping adds to or takes from those it starts with; or a negative errno. */
function* flagsOfFile(here: ThisCpu, file: file, prot: number, flags: number, given: number): Path<number> {
  const { trace } = here;
  const fn = 'do_mmap';
  let vm_flags = given;
  const type = flags & MAP_TYPE;
  yield* trace.decide(fn, 'flags & MAP_TYPE', type);
  if (type === MAP_SHARED || type === MAP_SHARED_VALIDATE) {
    // MAP_SHARED ignores what it does not know.
    const unknown = type === MAP_SHARED_VALIDATE && (flags & ~LEGACY_MAP_MASK) !== 0;
    if (yield* trace.decide(fn, 'flags & ~flags_mask', unknown)) return -EOPNOTSUPP;
    const readOnlyFile = (file.f_mode & FMODE_WRITE) === 0;
    const refused = (prot & PROT_WRITE) !== 0 && readOnlyFile;
    if (yield* trace.decide(fn, '(prot & PROT_WRITE) && !(file->f_mode & FMODE_WRITE)', refused)) {
      return -EACCES;
    }
    vm_flags |= VM_SHARED | VM_MAYSHARE;
    if (readOnlyFile) vm_flags &= ~(VM_MAYWRITE | VM_SHARED);
  } else if (type !== MAP_PRIVATE) {
    return -EINVAL;
  }
  const unreadable = (file.f_mode & FMODE_READ) === 0;
  if (yield* trace.decide(fn, '!(file->f_mode & FMODE_READ)', unreadable)) return -EACCES;
  if (yield* trace.decide(fn, 'path_noexec(&file->f_path)', file.noexec)) {
    if (yield* trace.decide(fn, 'vm_flags & VM_EXEC', (prot & PROT_EXEC) !== 0)) return -EPERM;
    vm_flags &= ~VM_MAYEXEC;
  }
  const grows = (vm_flags & VM_GROWSDOWN) !== 0;
  return (yield* trace.decide(fn, 'vm_flags & (VM_GROWSDOWN | VM_GROWSUP)', grows)) ? -EINVAL : vm_flags;
}

function* flagsOfAnonymous(here: ThisCpu, flags: number, given: number): Path<number> {
  const type = flags & MAP_TYPE;
  yield* here.trace.decide('do_mmap', 'flags & MAP_TYPE', type);
  if (type === MAP_PRIVATE) return given;
  if (type !== MAP_SHARED) return -EINVAL;
  return (given & VM_GROWSDOWN) !== 0 ? -EINVAL : given | VM_SHARED | VM_MAYSHARE;
}

/**
 * Maps a file or anonymous memory. Needs the mmap lock for writing. Nothing is touched: pages come with
 * the first access.
 *
 * @param file null for anonymous memory
 * @param addr a hint, or with MAP_FIXED the address
 * @param len bytes, rounded up to pages
 * @param prot PROT_*
 * @param flags MAP_*
 * @param pgoff page of the file
 * @returns the address, or a negative errno
 */
export const do_mmap: (
  here: ThisCpu,
  mm: UserMm,
  file: file | null,
  addr: bigint,
  len: bigint,
  prot: number,
  flags: number,
  pgoff: bigint,
) => Delegate<bigint> = port(
  'do_mmap',
  ['mm', 'file', 'addr', 'len', 'prot', 'flags', 'pgoff'],
  function* (
    here: ThisCpu,
    mm: UserMm,
    file: file | null,
    addr: bigint,
    length: bigint,
    prot: number,
    given: number,
    pgoff: bigint,
  ): Path<bigint> {
    const { trace } = here;
    const fn = 'do_mmap';
    if (yield* trace.decide(fn, '!len', length === 0n)) return BigInt(-EINVAL);
    const noReplace = (given & MAP_FIXED_NOREPLACE) !== 0;
    const flags = noReplace ? given | MAP_FIXED : given;
    const fixed = (flags & MAP_FIXED) !== 0;
    const hint = fixed ? addr : round_hint_to_min(addr);
    const len = PAGE_ALIGN(length);
    if (yield* trace.decide(fn, '!len', len === 0n)) return BigInt(-ENOMEM);
    const wraps = pgoff + (len >> 12n) >= 1n << 64n;
    if (yield* trace.decide(fn, '(pgoff + (len >> PAGE_SHIFT)) < pgoff', wraps)) return BigInt(-EOVERFLOW);

    const grows = (flags & MAP_GROWSDOWN) !== 0 ? VM_GROWSDOWN : 0;
    const basic = calc_vm_prot_bits(prot) | grows | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC;
    const at = yield* __get_unmapped_area(here, mm, file, hint, len, pgoff, flags);
    if (yield* trace.decide(fn, 'IS_ERR_VALUE(addr)', at < 0n)) return at;
    if (yield* trace.decide(fn, 'flags & MAP_FIXED_NOREPLACE', noReplace)) {
      const taken = find_vma_intersection(mm, at, at + len) !== null;
      if (yield* trace.decide(fn, 'find_vma_intersection(mm, addr, addr + len)', taken))
        return BigInt(-EEXIST);
    }
    const vm_flags =
      file === null
        ? yield* flagsOfAnonymous(here, flags, basic)
        : yield* flagsOfFile(here, file, prot, flags, basic);
    if (vm_flags < 0) return BigInt(vm_flags);
    return yield* __mmap_region(here, mm, file, at, len, vm_flags, pgoff);
  },
);

/** round_hint_to_min(): a hint too low is raised. */
function round_hint_to_min(hint: bigint): bigint {
  const page = hint & ~0xfffn;
  return page !== 0n && page < mmap_min_addr ? PAGE_ALIGN(mmap_min_addr) : page;
}

/** Makes the VMA, after what was there has gone. The address or a negative errno. */
const __mmap_region = port(
  '__mmap_region',
  ['mm', 'file', 'addr', 'len', 'vm_flags', 'pgoff'],
  function* (
    here: ThisCpu,
    mm: UserMm,
    file: file | null,
    addr: bigint,
    len: bigint,
    vm_flags: number,
    pgoff: bigint,
  ): Path<bigint> {
    const { trace } = here;
    const end = addr + len;
    if (find_vma_intersection(mm, addr, end) !== null) {
      const err = yield* do_munmap(here, mm, addr, len);
      if ((yield* trace.decide('__mmap_setup', 'vms_gather_munmap_vmas()', err)) !== 0) return BigInt(err);
    }
    const vma = new Vma(mm, addr, end, vm_flags, null);
    vma.vm_file = file;
    vma.vm_pgoff = file === null ? 0n : pgoff;
    vma_link(vma);
    if (file === null) return addr;
    const err = yield* file.mmap(here, vma);
    if ((yield* trace.decide('__mmap_new_file_vma', 'mmap_file(vma->vm_file, vma)', err)) === 0) return addr;
    // unmap_region(): the file may have mapped pages before it failed.
    yield* zap_vma_range(here, vma, addr, Number(len));
    vma_unlink(vma);
    return BigInt(err);
  },
);

/** mmap(2) of a task with this address space. See do_mmap(). */
export const vm_mmap_pgoff: typeof do_mmap = port(
  'vm_mmap_pgoff',
  ['mm', 'file', 'addr', 'len', 'prot', 'flags', 'pgoff'],
  function* (
    here: ThisCpu,
    mm: UserMm,
    file: file | null,
    addr: bigint,
    len: bigint,
    prot: number,
    flags: number,
    pgoff: bigint,
  ): Path<bigint> {
    mmap_write_lock(here, mm);
    const ret = yield* do_mmap(here, mm, file, addr, len, prot, flags, pgoff);
    mmap_write_unlock(here, mm);
    return ret;
  },
);
