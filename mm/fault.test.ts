import { describe, expect, test } from '@jest/globals';
import {
  FAULT_FLAG_TRIED,
  FAULT_FLAG_USER,
  FAULT_FLAG_VMA_LOCK,
  FAULT_FLAG_WRITE,
  type pt_regs,
  VM_EXEC,
  VM_FAULT_COMPLETED,
  VM_FAULT_MAJOR,
  VM_FAULT_OOM,
  VM_FAULT_RETRY,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
  VM_READ,
  VM_SHARED,
  VM_WRITE,
} from '../arch/kernel.js';
import { drain, type Path } from '../emu/path.js';
import { entryAt, PTE } from './descend.js';
import { UserMemory } from './fault.js';
import {
  create_mm,
  MmapError,
  mmap_region,
  type UserMm,
  type Vma,
  type vm_fault,
  zap_vma_range,
} from './mmap.js';
import { ARCHS, type ArchName, failPages, type TestMemory, testMemory } from './testing.js';

const TEXT = 0x40_0000n;
const DATA = 0x7f00_0000_0000n;
const USER: pt_regs = { instruction_pointer: TEXT, stack_pointer: 0n, user_mode: true };
const RW = VM_READ | VM_WRITE;
const READ = FAULT_FLAG_USER;
const WRITE = FAULT_FLAG_USER | FAULT_FLAG_WRITE;

interface User extends TestMemory {
  readonly mm: UserMm;
  readonly user: UserMemory;
  fault(vma: Vma, address: bigint, flags?: number): number;
  entry(address: bigint): bigint;
  /** Stores another entry for a page that is mapped; the page's physical address. */
  bend(address: bigint, entry: (pa: bigint) => bigint): bigint;
}

function machine(arch: ArchName): User {
  const base = testMemory(arch);
  const { here, memory } = base;
  const mm = create_mm(here, memory, 'user');
  if (mm === null) throw new Error('no memory');
  const user = new UserMemory(memory);
  const place = (address: bigint): number => entryAt(here, memory, mm, Number(address), PTE, false);
  return {
    ...base,
    mm,
    user,
    fault: (vma, address, flags = FAULT_FLAG_USER) =>
      drain(user.handle_mm_fault(here, vma, address, flags, USER)),
    entry: (address) => (place(address) < 0 ? 0n : memory.ram.readU64(place(address))),
    bend: (address, entry) => {
      const pa = BigInt(memory.pgtable.pte_pa(memory.ram.readU64(place(address))));
      memory.ram.writeU64(place(address), entry(pa));
      return pa;
    },
  };
}

describe.each(ARCHS)('handle_mm_fault on %s', (arch) => {
  // P RW U A D soft-dirty NX; page, AttrIndx 0, AP[1], inner shareable, AF, nG, PXN, UXN, DBM and software dirty.
  const writable = arch === 'x86-64' ? 0x8000_0000_0000_0867n : 0x00e8_0000_0000_0f43n;
  const readonly = arch === 'x86-64' ? 0x8000_0000_0000_0025n : 0x0060_0000_0000_0fc3n;
  const code = arch === 'x86-64' ? 0x25n : 0x0020_0000_0000_0fc3n;

  test.each([
    ['writable', RW, WRITE, writable],
    ['read-only, for want of a zero page', VM_READ, READ, readonly],
    ['executable, for want of a zero page', VM_READ | VM_EXEC, READ, code],
  ])(
    'maps a page of zeros of %s anonymous memory with the rights of the mapping',
    (_, vm_flags, flags, bits) => {
      const m = machine(arch);
      const vma = mmap_region(m.mm, DATA, 0x2000, vm_flags);
      failPages(m.memory, 0, 1, 'zero page');
      expect(m.fault(vma, DATA + 0x1234n, flags)).toBe(0);
      const page = m.memory.pgtable.pte_pa(m.entry(DATA + 0x1000n));
      expect(m.entry(DATA + 0x1000n)).toBe(BigInt(page) | bits);
      expect(m.memory.pages.ownerOf(page)).toBe('anonymous');
      expect(m.memory.pages.page_mapped(page)).toBe(true);
      expect(m.entry(DATA)).toBe(0n);
    },
  );

  test('maps the one zero page for reads, without the right to write, and copies it for a write', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x2000, RW);
    expect([m.fault(vma, DATA, READ), m.fault(vma, DATA + 0x1000n, READ)]).toEqual([0, 0]);
    const zero = m.memory.zeroPage() ?? 0;
    const special = arch === 'x86-64' ? 1n << 9n : 1n << 56n;
    const entry = BigInt(zero) | readonly | special;
    expect([m.entry(DATA), m.entry(DATA + 0x1000n)]).toEqual([entry, entry]);
    expect(m.memory.pages.count('anonymous')).toBe(0);

    expect(m.fault(vma, DATA, WRITE)).toBe(0);
    const page = m.memory.pgtable.pte_pa(m.entry(DATA));
    expect([m.entry(DATA), m.entry(DATA + 0x1000n)]).toEqual([BigInt(page) | writable, entry]);
    expect([page === zero, m.memory.pages.ownerOf(page)]).toEqual([false, 'anonymous']);
    expect(m.cpus[0]?.tlb.slice(0, 2)).toEqual([`flush ${DATA.toString(16)}`, `unpin ${DATA.toString(16)}`]);

    drain(zap_vma_range(m.here, vma, DATA, 0x2000));
    expect([m.memory.pages.count('anonymous'), m.memory.pages.count('zero page')]).toEqual([0, 1]);
  });

  test('drops translations from the first page that was taken out to the last, and none where there were none', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x10000, RW);
    /** Numbers of the pages whose translations a zap of the whole mapping drops. */
    const zapped = (): number[] => {
      m.cpus[0]?.tlb.splice(0);
      drain(zap_vma_range(m.here, vma, DATA, 0x10000));
      const flushed = m.cpus[0]?.tlb.filter((what) => what.startsWith('flush')) ?? [];
      return flushed.map((what) => Number(BigInt(`0x${what.slice(6)}`) - DATA) / 0x1000);
    };
    expect(zapped()).toEqual([]);
    m.fault(vma, DATA + 0x3000n, WRITE);
    m.fault(vma, DATA + 0x5000n, WRITE);
    expect(zapped()).toEqual([3, 4, 5]);
    // Nobody counts who maps the zero page, but it is translated like any other.
    m.fault(vma, DATA + 0x7000n, READ);
    expect(zapped()).toEqual([7]);
  });

  test('a shared mapping without operations has no pages to give', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW | VM_SHARED);
    expect([m.fault(vma, DATA, READ), m.fault(vma, DATA, WRITE)]).toEqual([VM_FAULT_SIGBUS, VM_FAULT_SIGBUS]);
    expect(m.entry(DATA)).toBe(0n);
  });

  test('makes a read-only page writable that is its own, and keeps it', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.fault(vma, DATA, WRITE);
    const page = m.bend(DATA, (pa) => pa | readonly);
    expect(m.fault(vma, DATA, WRITE)).toBe(0);
    expect(m.entry(DATA)).toBe(page | writable);
    expect(m.memory.pages.count('anonymous')).toBe(1);
  });

  test('copies a read-only page that somebody else has as well, and gives its share of that back', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.fault(vma, DATA, WRITE);
    const old = Number(m.bend(DATA, (pa) => pa | readonly));
    m.memory.pages.get_page(old);
    m.memory.ram.writeU64(old + 8, 0x4141n);
    expect(m.fault(vma, DATA, WRITE)).toBe(0);
    const page = m.memory.pgtable.pte_pa(m.entry(DATA));
    expect(page).not.toBe(old);
    expect(m.memory.ram.readU64(page + 8)).toBe(0x4141n);
    expect([m.memory.pages.page_ref_count(old), m.memory.pages.page_mapped(old)]).toEqual([1, false]);
  });

  test('makes an entry young and dirty, gives it no more rights, and drops one that allows all from the TLB', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.fault(vma, DATA, WRITE);
    const young = arch === 'x86-64' ? 1n << 5n : 1n << 10n;
    m.bend(DATA, (pa) => (pa | readonly) & ~young);
    expect(m.fault(vma, DATA, READ)).toBe(0);
    const page = BigInt(m.memory.pgtable.pte_pa(m.entry(DATA)));
    expect(m.entry(DATA)).toBe(page | readonly);

    m.bend(DATA, (pa) => pa | writable);
    expect(m.fault(vma, DATA, WRITE)).toBe(0);
    expect(m.cpus[0]?.tlb).toEqual([`flush ${DATA.toString(16)}`, `unpin ${DATA.toString(16)}`]);
    expect(m.fault(vma, DATA, WRITE | FAULT_FLAG_TRIED)).toBe(0);
    expect(m.cpus[0]?.tlb).toHaveLength(2);
  });

  test('runs out of memory for tables, for the page and for a copy', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    failPages(m.memory, 0, 1);
    expect(m.fault(vma, DATA, WRITE)).toBe(VM_FAULT_OOM);
    failPages(m.memory, 0, 1, 'anonymous');
    expect(m.fault(vma, DATA, WRITE)).toBe(VM_FAULT_OOM);
    m.fault(vma, DATA, READ);
    failPages(m.memory, 0, 1, 'anonymous');
    expect(m.fault(vma, DATA, WRITE)).toBe(VM_FAULT_OOM);
  });

  test('answers for a mapping what was chosen, with the lock given back where the answer says so', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    vma.chosen = { bits: VM_FAULT_RETRY | VM_FAULT_MAJOR, times: 1 };
    expect(drain(m.user.lock_mm_and_find_vma(m.here, m.mm, DATA, USER))?.vm_start).toBe(DATA);
    expect(m.fault(vma, DATA, WRITE)).toBe(VM_FAULT_RETRY | VM_FAULT_MAJOR);
    expect([m.mm.readers, m.entry(DATA)]).toEqual([0, 0n]);
    expect(() => m.user.mmap_read_unlock(m.mm)).toThrow(MmapError);

    vma.chosen = { bits: VM_FAULT_COMPLETED, times: 1 };
    drain(m.user.lock_vma_under_rcu(m.here, m.mm, DATA));
    expect(m.fault(vma, DATA, WRITE | FAULT_FLAG_VMA_LOCK)).toBe(VM_FAULT_COMPLETED);
    expect([vma.readers, m.memory.pgtable.pte_present(m.entry(DATA))]).toEqual([0, true]);
    expect(m.fault(vma, DATA, WRITE)).toBe(0);
  });

  test('gives up the first own page of a mapping under its own lock while somebody writes to the address space', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x2000, RW);
    m.mm.contended = true;
    drain(m.user.lock_vma_under_rcu(m.here, m.mm, DATA));
    expect(m.fault(vma, DATA, WRITE | FAULT_FLAG_VMA_LOCK)).toBe(VM_FAULT_RETRY);
    expect(vma.readers).toBe(0);
    drain(m.user.lock_mm_and_find_vma(m.here, m.mm, DATA, USER));
    expect(m.fault(vma, DATA, WRITE)).toBe(0);
    m.mm.contended = true;
    drain(m.user.lock_vma_under_rcu(m.here, m.mm, DATA));
    expect(m.fault(vma, DATA + 0x1000n, WRITE | FAULT_FLAG_VMA_LOCK)).toBe(0);
  });

  test('takes an entry that is neither none nor present for a page that cannot be had', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.fault(vma, DATA, WRITE);
    m.bend(DATA, () => 0x2000n);
    expect(m.fault(vma, DATA, READ)).toBe(VM_FAULT_SIGBUS);
  });

  test('asks the owner of a mapping for its page', () => {
    const m = machine(arch);
    const asked: number[] = [];
    const answers = [VM_FAULT_SIGSEGV, 0];
    const shared = m.memory.pages.alloc_page(m.here, 'bpf arena') ?? 0;
    const vma = mmap_region(m.mm, DATA, 0x4000, RW | VM_SHARED, {
      *fault(here, vmf: vm_fault): Path<number> {
        asked.push(vmf.pgoff);
        const answer = yield* here.trace.decide('arena_vm_fault', 'answer', answers.shift() ?? 0);
        if (answer === 0) {
          m.memory.pages.get_page(shared);
          vmf.page = shared;
        }
        return answer;
      },
    });
    expect(m.fault(vma, DATA + 0x3008n)).toBe(VM_FAULT_SIGSEGV);
    expect(m.entry(DATA + 0x3000n)).toBe(0n);
    expect(m.fault(vma, DATA + 0x3008n, FAULT_FLAG_USER | FAULT_FLAG_WRITE)).toBe(0);
    expect(asked).toEqual([3, 3]);
    expect(m.entry(DATA + 0x3000n)).toBe(BigInt(shared) | writable);

    drain(zap_vma_range(m.here, vma, DATA, 0x4000));
    expect(m.entry(DATA + 0x3000n)).toBe(0n);
    expect([m.memory.pages.page_ref_count(shared), m.memory.pages.page_mapped(shared)]).toEqual([1, false]);
    const page = (DATA + 0x3000n).toString(16);
    expect(m.cpus[0]?.tlb).toEqual([`flush ${page}`, `unpin ${page}`]);
  });
});

test('a protection key is in every entry of its mapping, the zero page included', () => {
  const m = machine('x86-64');
  const vma = mmap_region(m.mm, DATA, 0x2000, RW, null, 6);
  m.fault(vma, DATA, WRITE);
  m.fault(vma, DATA + 0x1000n, READ);
  expect([m.entry(DATA) >> 59n, m.entry(DATA + 0x1000n) >> 59n]).toEqual([0x16n, 0x16n]);
});

test('a mapping over another one, or outside of user space, is refused', () => {
  const { mm } = machine('x86-64');
  mmap_region(mm, DATA, 0x2000, RW);
  expect(() => mmap_region(mm, DATA + 0x1000n, 0x1000, RW)).toThrow(MmapError);
  expect(() => mmap_region(mm, 0xffff_8880_0000_0000n, 0x1000, RW)).toThrow(/user addresses are/);
  expect(() => mmap_region(mm, DATA + 0x800n, 0x1000, RW)).toThrow(/not whole pages/);
});
