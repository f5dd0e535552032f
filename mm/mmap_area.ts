/**
 * Where a mapping goes: __get_unmapped_area() and mm_get_unmapped_area() of mm/mmap.c, with
 * arch_get_unmapped_area_topdown() as mm/mmap.c has it for arm64 and arch/x86/kernel/sys_x86_64.c for
 * x86-64, and vm_unmapped_area() of mm/vma.c (bpf-next merge 8496d9020ff3).
 *
 * Always top-down, and without randomization: the same calls get the same addresses. Left out: huge
 * pages' alignment, MAP_32BIT, five-level address spaces, the legacy layout. The two architectures differ
 * in what they do with a hint (x86 rounds it down, arm64 up), which no caller here can see: do_mmap() has
 * rounded it already.
 */
import type { ThisCpu } from '../arch/arch.js';
import { PAGE_SIZE, VM_GROWSDOWN } from '../arch/kernel.js';
import { type Path, port } from '../emu/path.js';
import { EINVAL, ENOMEM, EPERM } from '../kernel/errno.js';
import { type file, find_vma, mmap_min_addr, stack_guard_gap, type UserMm, type Vma } from './mmap.js';
import { MAP_FIXED } from './mmap_flags.js';

const PAGE = BigInt(PAGE_SIZE);

/** PAGE_ALIGN() */
export function PAGE_ALIGN(value: bigint): bigint {
  return BigInt.asUintN(64, (value + PAGE - 1n) & -PAGE);
}

/** offset_in_page(value) != 0 */
export function misaligned(value: bigint): boolean {
  return (value & (PAGE - 1n)) !== 0n;
}

/** TASK_SIZE */
export function TASK_SIZE(mm: UserMm): bigint {
  return mm.memory.layout.user.end;
}

/** vm_start_gap(): a stack keeps some room below it free. */
function vm_start_gap(vma: Vma): bigint {
  if ((vma.vm_flags & VM_GROWSDOWN) === 0) return vma.vm_start;
  const gap = BigInt(stack_guard_gap);
  return vma.vm_start > gap ? vma.vm_start - gap : 0n;
}

/** Length and limits of a search: struct vm_unmapped_area_info. */
interface Search {
  readonly length: bigint;
  readonly low_limit: bigint;
  readonly high_limit: bigint;
  readonly topdown: boolean;
}

/** vm_unmapped_area(): the highest hole that fits, or the lowest. */
function vm_unmapped_area(mm: UserMm, info: Search): bigint | null {
  const holes: [start: bigint, end: bigint][] = [];
  let start = info.low_limit;
  for (const vma of mm.vmas) {
    holes.push([start, vm_start_gap(vma)]);
    if (vma.vm_end > start) start = vma.vm_end;
  }
  holes.push([start, info.high_limit]);
  if (info.topdown) holes.reverse();
  for (const [first, last] of holes) {
    const end = last < info.high_limit ? last : info.high_limit;
    if (end < first || end - first < info.length) continue;
    return info.topdown ? end - info.length : first;
  }
  return null;
}

/**
 * mm_get_unmapped_area(): an address with room for `len` bytes, or -ENOMEM. MAP_FIXED takes `addr` as it
 * is; without, it is only a hint.
 */
export const mm_get_unmapped_area = port(
  'mm_get_unmapped_area',
  ['mm', 'addr', 'len', 'flags'],
  function* (here: ThisCpu, mm: UserMm, addr: bigint, len: bigint, flags: number): Path<bigint> {
    const { trace } = here;
    const fn = 'arch_get_unmapped_area_topdown';
    const end = TASK_SIZE(mm);
    if (yield* trace.decide(fn, 'len > mmap_end - mmap_min_addr', len > end - mmap_min_addr)) {
      return BigInt(-ENOMEM);
    }
    if (yield* trace.decide(fn, 'flags & MAP_FIXED', (flags & MAP_FIXED) !== 0)) return addr;

    if (yield* trace.decide(fn, 'addr', addr !== 0n)) {
      const at = PAGE_ALIGN(addr);
      const valid = end - len >= at && at >= mmap_min_addr;
      const vma = find_vma(mm, at);
      const free = valid && (vma === null || at + len <= vm_start_gap(vma));
      if (yield* trace.decide(fn, '!vma || addr + len <= vm_start_gap(vma)', free)) return at;
    }
    const below = { length: len, low_limit: PAGE, high_limit: mm.mmap_base, topdown: true };
    const found = vm_unmapped_area(mm, below);
    yield* trace.decide(fn, 'offset_in_page(addr)', found === null);
    if (found !== null) return found;
    const unmappedBase = PAGE_ALIGN(end / 3n);
    const anywhere = { length: len, low_limit: unmappedBase, high_limit: end, topdown: false };
    return vm_unmapped_area(mm, anywhere) ?? BigInt(-ENOMEM);
  },
);

/** __get_unmapped_area(): what the file says, or the above. An address, or -ENOMEM, -EINVAL, -EPERM. */
export const __get_unmapped_area = port(
  '__get_unmapped_area',
  ['mm', 'file', 'addr', 'len', 'pgoff', 'flags'],
  function* (
    here: ThisCpu,
    mm: UserMm,
    file: file | null,
    addr: bigint,
    len: bigint,
    pgoff: bigint,
    flags: number,
  ): Path<bigint> {
    const { trace } = here;
    const fn = '__get_unmapped_area';
    if (yield* trace.decide(fn, 'len > TASK_SIZE', len > TASK_SIZE(mm))) return BigInt(-ENOMEM);
    yield* trace.decide(fn, 'file->f_op->get_unmapped_area', file?.get_unmapped_area !== undefined);
    const found =
      file?.get_unmapped_area === undefined
        ? yield* mm_get_unmapped_area(here, mm, addr, len, flags)
        : yield* file.get_unmapped_area(here, mm, addr, len, pgoff, flags);
    if (yield* trace.decide(fn, 'IS_ERR_VALUE(addr)', found < 0n)) return found;
    if (yield* trace.decide(fn, 'addr > TASK_SIZE - len', found > TASK_SIZE(mm) - len)) {
      return BigInt(-ENOMEM);
    }
    if (yield* trace.decide(fn, 'offset_in_page(addr)', misaligned(found))) return BigInt(-EINVAL);
    // cap_mmap_addr(): root has CAP_SYS_RAWIO.
    const low = found < mmap_min_addr && here.current.uid !== 0;
    return (yield* trace.decide(fn, 'security_mmap_addr(addr)', low)) ? BigInt(-EPERM) : found;
  },
);
