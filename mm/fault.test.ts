import { describe, expect, test } from '@jest/globals';
import {
  FAULT_FLAG_USER,
  FAULT_FLAG_WRITE,
  type pt_regs,
  VM_EXEC,
  VM_FAULT_OOM,
  VM_FAULT_SIGBUS,
  VM_FAULT_SIGSEGV,
  VM_GROWSDOWN,
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
import { ARCHS, type ArchName, type TestMemory, testMemory } from './testing.js';

const TEXT = 0x40_0000n;
const DATA = 0x7f00_0000_0000n;
const USER: pt_regs = { instruction_pointer: TEXT, stack_pointer: 0n, user_mode: true };
const KERNEL: pt_regs = { instruction_pointer: 0xffff_ffff_8100_0000n, stack_pointer: 0n, user_mode: false };
const RW = VM_READ | VM_WRITE;

interface User extends TestMemory {
  readonly mm: UserMm;
  readonly user: UserMemory;
  fault(vma: Vma, address: bigint, flags?: number): number;
  /** Start of the mapping found: an address, because a whole machine hangs on a mapping. */
  find(address: bigint, regs?: pt_regs): bigint | null;
  entry(address: bigint): bigint;
}

function machine(arch: ArchName): User {
  const base = testMemory(arch);
  const { here, memory } = base;
  const mm = create_mm(here, memory, 'user');
  if (mm === null) throw new Error('no memory');
  const user = new UserMemory(memory);
  return {
    ...base,
    mm,
    user,
    fault: (vma, address, flags = FAULT_FLAG_USER) =>
      drain(user.handle_mm_fault(here, vma, address, flags, USER)),
    find: (address, regs = USER) =>
      drain(user.lock_mm_and_find_vma(here, mm, address, regs))?.vm_start ?? null,
    entry: (address) => {
      const at = entryAt(here, memory, mm, Number(address), PTE, false);
      return at < 0 ? 0n : memory.ram.readU64(at);
    },
  };
}

describe.each(ARCHS)('handle_mm_fault on %s', (arch) => {
  // P RW U A D soft-dirty NX; page, AttrIndx 0, AP[1], inner shareable, AF, nG, PXN, UXN, DBM and software dirty.
  const writable = arch === 'x86-64' ? 0x8000_0000_0000_0867n : 0x00e8_0000_0000_0f43n;
  const readonly = arch === 'x86-64' ? 0x8000_0000_0000_0025n : 0x0060_0000_0000_0fc3n;
  const code = arch === 'x86-64' ? 0x25n : 0x0020_0000_0000_0fc3n;

  test.each([
    ['writable', RW, writable],
    ['read-only', VM_READ, readonly],
    ['executable', VM_READ | VM_EXEC, code],
  ])('maps a zero page of %s anonymous memory with the rights of the mapping', (_, vm_flags, bits) => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x2000, vm_flags);
    expect(m.fault(vma, DATA + 0x1234n)).toBe(0);
    const page = m.memory.pgtable.pte_pa(m.entry(DATA + 0x1000n));
    expect(m.entry(DATA + 0x1000n)).toBe(BigInt(page) | bits);
    expect(m.memory.pages.ownerOf(page)).toBe('anonymous');
    expect(m.memory.pages.page_mapped(page)).toBe(true);
    expect(m.entry(DATA)).toBe(0n);
  });

  test('makes an entry that refused the write what the mapping allows, and keeps the page', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.fault(vma, DATA);
    const at = entryAt(m.here, m.memory, m.mm, Number(DATA), PTE, false);
    const page = m.memory.pgtable.pte_pa(m.entry(DATA));
    m.memory.ram.writeU64(at, BigInt(page) | readonly);
    expect(m.fault(vma, DATA, FAULT_FLAG_USER | FAULT_FLAG_WRITE)).toBe(0);
    expect(m.entry(DATA)).toBe(BigInt(page) | writable);
    expect(m.memory.pages.count('anonymous')).toBe(1);
  });

  test('runs out of memory for tables and for the page, and ends as it is told to', () => {
    const m = machine(arch);
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.memory.pages.failAfter(0, 1);
    expect(m.fault(vma, DATA)).toBe(VM_FAULT_OOM);
    m.memory.pages.failAfter(0, 1, 'anonymous');
    expect(m.fault(vma, DATA)).toBe(VM_FAULT_OOM);
    m.user.failNext(VM_FAULT_SIGBUS);
    expect([m.fault(vma, DATA), m.fault(vma, DATA)]).toEqual([VM_FAULT_SIGBUS, 0]);
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
    expect(m.cpus[0]?.tlb).toHaveLength(8);
  });
});

describe('lock_mm_and_find_vma', () => {
  test('finds the mapping of an address, and none between and behind mappings', () => {
    const m = machine('x86-64');
    mmap_region(m.mm, DATA, 0x1000, RW);
    mmap_region(m.mm, TEXT, 0x1000, VM_READ);
    expect([m.find(TEXT), m.find(TEXT + 0xfffn), m.find(DATA)]).toEqual([TEXT, TEXT, DATA]);
    expect([m.find(TEXT + 0x1000n), m.find(DATA + 0x1000n), m.find(TEXT - 1n)]).toEqual([null, null, null]);
  });

  test('grows a stack down to the address, but not over its limit nor into the gap below it', () => {
    const m = machine('x86-64');
    mmap_region(m.mm, DATA, 0x1000, RW | VM_GROWSDOWN);
    expect(m.find(DATA - 0x2001n)).toBe(DATA - 0x3000n);
    expect(m.find(DATA - BigInt(8 << 20))).toBeNull();
    mmap_region(m.mm, DATA - 0x20_0000n, 0x1000, RW);
    const gapEnd = DATA - 0x20_0000n + 0x1000n + 0x10_0000n;
    expect(m.find(gapEnd - 1n)).toBeNull();
    expect(m.find(gapEnd)).toBe(gapEnd);
  });

  test('waits for the lock only where kernel code expects faults', () => {
    const m = machine('x86-64');
    mmap_region(m.mm, DATA, 0x1000, RW);
    m.mm.contended = true;
    expect([m.find(DATA), m.find(DATA, KERNEL)]).toEqual([DATA, null]);
    m.mm.contended = false;
    expect(m.find(DATA, KERNEL)).toBe(DATA);
  });

  test('knows no mapping of the kernel', () => {
    const m = machine('x86-64');
    expect(drain(m.user.lock_mm_and_find_vma(m.here, m.memory.init_mm, DATA, USER)) === null).toBe(true);
  });
});

test('a mapping over another one, or outside of user space, is refused', () => {
  const { mm } = machine('x86-64');
  mmap_region(mm, DATA, 0x2000, RW);
  expect(() => mmap_region(mm, DATA + 0x1000n, 0x1000, RW)).toThrow(MmapError);
  expect(() => mmap_region(mm, 0xffff_8880_0000_0000n, 0x1000, RW)).toThrow(/user addresses are/);
  expect(() => mmap_region(mm, DATA + 0x800n, 0x1000, RW)).toThrow(/not whole pages/);
});
