import { describe, expect, test } from '@jest/globals';
import { FAULT_FLAG_USER, FAULT_FLAG_WRITE, type pt_regs, VM_SHARED } from '../arch/kernel.js';
import { drain, type Path } from '../emu/path.js';
import { EACCES, EEXIST, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM } from '../kernel/errno.js';
import { entryAt, PTE } from './descend.js';
import { UserMemory } from './fault.js';
import { create_mm, type file, MmapError, mmap_region, type UserMm, type Vma, vma_lookup } from './mmap.js';
import { vm_mmap_pgoff } from './mmap_call.js';
import {
  FMODE_READ,
  FMODE_WRITE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_GROWSDOWN,
  MAP_PRIVATE,
  MAP_SHARED,
  MAP_SHARED_VALIDATE,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
  VM_MAYEXEC,
  VM_MAYWRITE,
} from './mmap_flags.js';
import { dup_mmap } from './mmap_fork.js';
import {
  mmap_read_lock,
  mmap_read_trylock,
  mmap_read_unlock,
  mmap_write_lock,
  mmap_write_unlock,
} from './mmap_lock.js';
import { do_mremap } from './mmap_remap.js';
import { exit_mmap, vm_munmap } from './mmap_unmap.js';
import { ARCHS, type ArchName, failPages, testMemory } from './testing.js';

const USER: pt_regs = { instruction_pointer: 0x40_0000n, stack_pointer: 0n, user_mode: true };
const RW = PROT_READ | PROT_WRITE;
const ANON = MAP_PRIVATE | MAP_ANONYMOUS;
const P = 0x1000n;
const AT = 0x5000_0000_0000n;
const neg = (errno: number): bigint => BigInt(-errno);

interface Call {
  file?: file | null;
  addr?: bigint;
  len?: bigint;
  prot?: number;
  flags?: number;
  pgoff?: bigint;
}

function task(arch: ArchName = 'x86-64') {
  const base = testMemory(arch);
  const { here, memory } = base;
  const mm = create_mm(here, memory, 'user');
  if (mm === null) throw new Error('no memory');
  const user = new UserMemory(memory);
  const place = (va: bigint, of: UserMm) => entryAt(here, memory, of, Number(va), PTE, false);
  return {
    ...base,
    mm,
    mmap: ({ file = null, addr = 0n, len = P, prot = RW, flags = ANON, pgoff = 0n }: Call) =>
      drain(vm_mmap_pgoff(here, mm, file, addr, len, prot, flags, pgoff)),
    munmap: (addr: bigint, len: bigint) => drain(vm_munmap(here, mm, addr, len)),
    mremap: (addr: bigint, old_len: bigint, new_len: bigint, flags = 0, new_addr = 0n) =>
      drain(do_mremap(here, mm, addr, old_len, new_len, flags, new_addr)),
    write: (va: bigint, of = mm) => {
      const vma = vma_lookup(of, va);
      if (vma === null) throw new Error('nothing is mapped there');
      return drain(user.handle_mm_fault(here, vma, va, FAULT_FLAG_USER | FAULT_FLAG_WRITE, USER));
    },
    entry: (va: bigint, of = mm) => (place(va, of) < 0 ? 0n : memory.ram.readU64(place(va, of))),
    page: (va: bigint, of = mm) => memory.pgtable.pte_pa(memory.ram.readU64(place(va, of))),
    ranges: () => mm.vmas.map(({ vm_start, vm_end }) => [vm_start, vm_end]),
  };
}

/** A file that counts its mappings, with one page. */
class Counting implements file {
  readonly name = 'counting';
  open = 0;
  readonly asked: string[] = [];
  constructor(
    readonly f_mode = FMODE_READ | FMODE_WRITE,
    readonly noexec = false,
    readonly answers: { mmap?: number; may_split?: number; mremap?: number } = {},
  ) {}
  *mmap(here: Parameters<file['mmap']>[0], vma: Vma): Path<number> {
    const err = yield* here.trace.decide('counting_mmap', 'err', this.answers.mmap ?? 0);
    if (err !== 0) return err;
    this.open += 1;
    const tell = (what: string, answer: number) => {
      this.asked.push(what);
      return here.trace.decide('counting', what, answer);
    };
    vma.vm_ops = {
      open: () => {
        this.open += 1;
        return [];
      },
      close: () => {
        this.open -= 1;
        return [];
      },
      may_split: (_here, _vma, addr) => tell(`may_split ${addr.toString(16)}`, this.answers.may_split ?? 0),
      mremap: (_here, moved) => tell(`mremap ${moved.vm_start.toString(16)}`, this.answers.mremap ?? 0),
      *fault(by, vmf): Path<number> {
        vmf.page = vma.vm_mm.memory.pages.alloc_page(by, 'file');
        return yield* by.trace.decide('counting_fault', 'vmf->pgoff', 0);
      },
    };
    return 0;
  }
}

describe('where a mapping goes', () => {
  // TASK_SIZE less 128 MiB: 0x7ffff7fff000 and 0xfffff8000000 are what a task without randomization has.
  test.each([
    ['x86-64', 0x7fff_f7ff_f000n],
    ['arm64', 0xffff_f800_0000n],
  ] as const)('on %s the first one ends at mmap_base, the next below it', (arch, base) => {
    const t = task(arch);
    expect([t.mmap({}), t.mmap({ len: 0x2000n }), t.mmap({ len: 1n })]).toEqual([
      base - P,
      base - 3n * P,
      base - 4n * P,
    ]);
    t.munmap(base - 3n * P, 0x2000n);
    expect(t.mmap({})).toBe(base - 2n * P);
  });

  test('a hint is taken where there is room, MAP_FIXED takes what is there away', () => {
    const t = task();
    expect(t.mmap({ addr: AT, len: 0x3000n })).toBe(AT);
    expect(t.mmap({ addr: AT + P })).toBe(0x7fff_f7ff_e000n);
    expect(t.mmap({ addr: AT + 0x3234n })).toBe(AT + 0x3000n);
    expect(t.mmap({ addr: AT + P, flags: ANON | MAP_FIXED_NOREPLACE })).toBe(neg(EEXIST));
    t.write(AT + P);
    expect(t.mmap({ addr: AT + P, flags: ANON | MAP_FIXED })).toBe(AT + P);
    expect(t.entry(AT + P)).toBe(0n);
    expect(t.ranges().slice(0, 4)).toEqual([
      [AT, AT + P],
      [AT + P, AT + 2n * P],
      [AT + 2n * P, AT + 3n * P],
      [AT + 3n * P, AT + 4n * P],
    ]);
    // A low hint is raised to mmap_min_addr; root may ask for less with MAP_FIXED.
    expect(t.mmap({ addr: 0x2000n })).toBe(0x10000n);
    expect(t.mmap({ addr: 0n, flags: ANON | MAP_FIXED })).toBe(0n);
    t.here.current.uid = 1000;
    expect(t.mmap({ addr: 0n, flags: ANON | MAP_FIXED })).toBe(neg(EPERM));
  });

  test('a stack keeps 256 pages below it free', () => {
    const t = task();
    const top = 0x7fff_f7ff_f000n;
    expect(t.mmap({ flags: ANON | MAP_GROWSDOWN })).toBe(top - P);
    expect(t.mmap({})).toBe(top - P - 256n * P - P);
  });

  test('above mmap_base when there is no room below it', () => {
    const t = task();
    t.mm.mmap_base = 0x3000n;
    // TASK_UNMAPPED_BASE: a third of the task, rounded up to a page.
    expect(t.mmap({ len: 0x4000n })).toBe(0x2aaa_aaaa_a000n + P);
  });
});

describe('mmap', () => {
  test.each([
    ['no length', { len: 0n }, EINVAL],
    ['a length that wraps', { len: 0xffff_ffff_ffff_f001n }, ENOMEM],
    ['more than there is', { len: 1n << 47n }, ENOMEM],
    ['a file offset that wraps', { pgoff: (1n << 64n) - 1n, len: 0x2000n }, EOVERFLOW],
    ['no kind of mapping', { flags: MAP_ANONYMOUS }, EINVAL],
    ['a fixed address inside a page', { addr: AT + 1n, flags: ANON | MAP_FIXED }, EINVAL],
    ['a shared stack', { flags: MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN }, EINVAL],
    ['a stack of a file', { file: new Counting(), flags: MAP_SHARED | MAP_GROWSDOWN }, EINVAL],
    ['an unknown kind of file mapping', { file: new Counting(), flags: 0xf }, EINVAL],
    [
      'MAP_SYNC, which only some files know',
      { file: new Counting(), flags: MAP_SHARED_VALIDATE | 0x8_0000 },
      EOPNOTSUPP,
    ],
    ['writing a read-only file', { file: new Counting(FMODE_READ), flags: MAP_SHARED }, EACCES],
    ['a file that cannot be read', { file: new Counting(FMODE_WRITE), flags: MAP_SHARED }, EACCES],
    [
      'executing where that is forbidden',
      { file: new Counting(3, true), flags: MAP_SHARED, prot: PROT_EXEC },
      EPERM,
    ],
    ['what the file refuses', { file: new Counting(3, false, { mmap: -ENOMEM }), flags: MAP_SHARED }, ENOMEM],
  ] satisfies [string, Call, number][])('refuses %s', (_what, call, errno) => {
    const t = task();
    expect(t.mmap(call)).toBe(neg(errno));
    expect(t.mm.vmas).toEqual([]);
    expect(t.mm.writer).toBeNull();
  });

  test('takes rights away that the file has not', () => {
    const t = task();
    const flagsOf = (file: file) => {
      const at = t.mmap({ file, flags: MAP_SHARED, prot: PROT_READ });
      return (vma_lookup(t.mm, at)?.vm_flags ?? 0) & (VM_SHARED | VM_MAYWRITE | VM_MAYEXEC);
    };
    expect(flagsOf(new Counting())).toBe(VM_SHARED | VM_MAYWRITE | VM_MAYEXEC);
    expect(flagsOf(new Counting(FMODE_READ))).toBe(VM_MAYEXEC);
    expect(flagsOf(new Counting(3, true))).toBe(VM_SHARED | VM_MAYWRITE);
  });
});

describe('munmap', () => {
  test('cuts anonymous memory; pages outside stay', () => {
    const t = task();
    t.mmap({ addr: AT, len: 0x4000n });
    for (let i = 0n; i < 4n; i++) t.write(AT + i * P);
    const before = t.memory.pages.count('anonymous');
    expect(t.munmap(AT + P, 0x1801n)).toBe(0);
    expect(t.ranges()).toEqual([
      [AT, AT + P],
      [AT + 3n * P, AT + 4n * P],
    ]);
    expect(t.memory.pages.count('anonymous')).toBe(before - 2);
    expect([t.entry(AT) !== 0n, t.entry(AT + P), t.entry(AT + 3n * P) !== 0n]).toEqual([true, 0n, true]);
    expect(t.munmap(AT + P, P)).toBe(0);
  });

  test.each([
    ['a start inside a page', AT + 1n, P],
    ['no length', AT, 0n],
    ['more than there is', AT, 1n << 47n],
  ])('refuses %s', (_what, start, len) => {
    expect(task().munmap(start, len)).toBe(-EINVAL);
  });

  test('the owner of a mapping hears of cuts and ends, and may refuse a cut', () => {
    const t = task();
    const file = new Counting();
    const at = t.mmap({ file, addr: AT, len: 0x4000n, flags: MAP_SHARED, pgoff: 16n });
    expect(t.munmap(at + P, P)).toBe(0);
    expect(file.asked).toEqual(['may_split 500000001000', 'may_split 500000002000']);
    expect([file.open, t.mm.vmas.map(({ vm_pgoff }) => vm_pgoff)]).toEqual([2, [16n, 18n]]);
    drain(exit_mmap(t.here, t.mm));
    expect([file.open, t.mm.vmas]).toEqual([0, []]);

    const stubborn = new Counting(3, false, { may_split: -EINVAL });
    t.mmap({ file: stubborn, addr: AT, len: 0x4000n, flags: MAP_SHARED });
    expect(t.munmap(AT, P)).toBe(-EINVAL);
    expect([stubborn.open, t.ranges()]).toEqual([1, [[AT, AT + 4n * P]]]);
  });
});

describe('mremap', () => {
  test.each([
    ['unknown flags', [AT, P, P, 8], EINVAL],
    ['an address inside a page', [AT + 1n, P, P], EINVAL],
    ['no new length', [AT, P, 0n], EINVAL],
    ['more than there is', [AT, P, 1n << 47n], EINVAL],
    ['a fixed place without leave to move', [AT, P, P, MREMAP_FIXED, AT + 0x10000n], EINVAL],
    ['a new place inside a page', [AT, P, P, 3, AT + 0x10001n], EINVAL],
    ['a new place beyond the end', [AT, P, P, 3, 0x7fff_ffff_f000n], EINVAL],
    ['a new size with MREMAP_DONTUNMAP', [AT, P, 2n * P, 5, 0n], EINVAL],
    ['a place over itself', [AT, 2n * P, 2n * P, 3, AT + P], EINVAL],
    ['nothing mapped', [AT - P, P, P], EFAULT],
    ['more than the mapping has', [AT, 8n * P, 9n * P, MREMAP_MAYMOVE], EFAULT],
    ['a copy of private memory', [AT, 0n, P, MREMAP_MAYMOVE], EINVAL],
    ['growing where there is no room', [AT, 2n * P, 4n * P], ENOMEM],
  ] as [string, [bigint, bigint, bigint, number?, bigint?], number][])('refuses %s', (_what, args, errno) => {
    const t = task();
    t.mmap({ addr: AT, len: 0x2000n });
    t.mmap({ addr: AT + 0x2000n, flags: MAP_SHARED | MAP_ANONYMOUS });
    expect(t.mremap(...args)).toBe(neg(errno));
    expect(t.mm.vmas).toHaveLength(2);
  });

  test('resizes in place, and moves with the pages where it must or is told to', () => {
    const t = task();
    t.mmap({ addr: AT, len: 0x2000n });
    t.write(AT);
    const page = t.page(AT);
    expect(t.mremap(AT, 2n * P, 4n * P)).toBe(AT);
    expect(t.mremap(AT, 4n * P, 2n * P)).toBe(AT);
    t.mmap({ addr: AT + 2n * P });
    const moved = t.mremap(AT, 2n * P, 4n * P, MREMAP_MAYMOVE);
    expect(moved).toBe(0x7fff_f7ff_f000n - 4n * P);
    expect([t.entry(AT), t.page(moved)]).toEqual([0n, page]);
    expect(vma_lookup(t.mm, AT)).toBeNull();
    expect(t.mremap(moved, 4n * P, 2n * P, MREMAP_MAYMOVE | MREMAP_FIXED, AT)).toBe(AT);
    expect([t.page(AT), t.ranges()[0]]).toEqual([page, [AT, AT + 2n * P]]);
    expect(t.mremap(AT, 2n * P, 2n * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0x6000_0000_0000n)).toBe(
      0x6000_0000_0000n,
    );
    expect([t.entry(AT), t.page(0x6000_0000_0000n), vma_lookup(t.mm, AT) !== null]).toEqual([0n, page, true]);
    expect(t.memory.pages.page_ref_count(page)).toBe(1);
  });

  test('an owner that refuses the copy gets its pages back', () => {
    const t = task();
    const file = new Counting(3, false, { mremap: -EINVAL });
    t.mmap({ file, addr: AT, len: 0x2000n, flags: MAP_SHARED });
    t.write(AT);
    const page = t.page(AT);
    const there = AT + 0x10000n;
    expect(t.mremap(AT, 2n * P, 2n * P, MREMAP_MAYMOVE | MREMAP_FIXED, there)).toBe(neg(EINVAL));
    expect(file.asked).toEqual(['mremap 500000010000']);
    expect([t.page(AT), t.entry(there), file.open, t.ranges()]).toEqual([page, 0n, 1, [[AT, AT + 2n * P]]]);
  });
});

describe.each(ARCHS)('fork on %s', (arch) => {
  test('private pages are shared until one side writes', () => {
    const t = task(arch);
    t.mmap({ addr: AT });
    t.write(AT);
    const page = t.page(AT);
    const child = drain(dup_mmap(t.here, t.mm, 'child'));
    if (child === null) throw new Error('no child');
    const { pgtable, pages } = t.memory;
    expect([t.page(AT, child), pages.page_ref_count(page)]).toEqual([page, 2]);
    expect([t.entry(AT), t.entry(AT, child)].map((entry) => pgtable.pte_write(entry))).toEqual([
      false,
      false,
    ]);
    expect(t.write(AT, child)).toBe(0);
    expect(t.page(AT, child)).not.toBe(page);
    expect(pages.page_ref_count(page)).toBe(1);
    failPages(t.memory, 0);
    expect(drain(dup_mmap(t.here, t.mm, 'orphan'))).toBeNull();
  });

  test('a copy that finds no memory is given back, and the parent writes through no old translation', () => {
    const t = task(arch);
    const far = AT + 0x4000_0000n;
    t.mmap({ addr: AT });
    t.mmap({ addr: far });
    t.write(AT);
    t.write(far);
    const { pages } = t.memory;
    // The root and three tables are there for the first mapping; the second one needs another.
    failPages(t.memory, 4);
    const before = t.cpus[0]?.tlb.length ?? 0;
    expect(drain(dup_mmap(t.here, t.mm, 'orphan'))).toBeNull();
    const flushed = t.cpus[0]?.tlb.slice(before) ?? [];
    expect([AT, far].map((va) => flushed.includes(`flush ${va.toString(16)}`))).toEqual([true, true]);
    expect(
      [AT, far].map((va) => [pages.page_ref_count(t.page(va)), pages.page_mapcount(t.page(va))]),
    ).toEqual([
      [1, 1],
      [1, 1],
    ]);
    expect(t.mm.writer).toBeNull();
  });
});

test('a lock that nobody would give back is an error, and a mapping may be in use', () => {
  const t = task();
  const { here, mm } = t;
  mmap_region(mm, AT, 0x1000, 3);
  mmap_read_lock(here, mm);
  expect(() => t.munmap(AT, P)).toThrow(
    /CPU 0 would wait for ever for the mmap lock of user, which is held for reading/,
  );
  mmap_read_unlock(mm);
  const [vma] = mm.vmas;
  if (vma === undefined) throw new Error('no mapping');
  vma.readers = 1;
  expect(() => t.munmap(AT, P)).toThrow(MmapError);
  expect(mm.writer).toBe(0);
  expect(mmap_read_trylock(mm)).toBe(false);
  expect(() => mmap_read_lock(here, mm)).toThrow(/which CPU 0 holds/);
  mmap_write_unlock(here, mm);
  expect(() => mmap_write_unlock(here, mm)).toThrow(/does not hold it/);
  mmap_write_lock(here, mm);
  expect(mm.writer).toBe(0);
});
