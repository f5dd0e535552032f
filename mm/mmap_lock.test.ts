import { describe, expect, test } from '@jest/globals';
import { type pt_regs, VM_GROWSDOWN, VM_READ, VM_WRITE } from '../arch/kernel.js';
import { drain } from '../emu/path.js';
import { UserMemory } from './fault.js';
import { create_mm, MmapError, mmap_region, type UserMm } from './mmap.js';
import { type TestMemory, testMemory } from './testing.js';

const TEXT = 0x40_0000n;
const DATA = 0x7f00_0000_0000n;
const KERNEL_PC = 0xffff_ffff_8100_0000n;
/** Where kernel code expects faults. */
const UACCESS_PC = 0xffff_ffff_8100_1000n;
const USER: pt_regs = { instruction_pointer: TEXT, stack_pointer: 0n, user_mode: true };
const KERNEL: pt_regs = { instruction_pointer: KERNEL_PC, stack_pointer: 0n, user_mode: false };
const UACCESS: pt_regs = { ...KERNEL, instruction_pointer: UACCESS_PC };
const RW = VM_READ | VM_WRITE;

interface User extends TestMemory {
  readonly mm: UserMm;
  readonly user: UserMemory;
  /** Start of the mapping found: an address, because a whole machine hangs on a mapping. */
  find(address: bigint, regs?: pt_regs): bigint | null;
  lock(address: bigint): bigint | null;
}

function machine(): User {
  const base = testMemory('x86-64');
  const { here, memory } = base;
  const mm = create_mm(here, memory, 'user');
  if (mm === null) throw new Error('no memory');
  here.kernel.search_exception_tables = (address) => (address === UACCESS_PC ? { va: 0n, pa: 0 } : null);
  const user = new UserMemory(memory);
  return {
    ...base,
    mm,
    user,
    find: (address, regs = USER) =>
      drain(user.lock_mm_and_find_vma(here, mm, address, regs))?.vm_start ?? null,
    lock: (address) => drain(user.lock_vma_under_rcu(here, mm, address))?.vm_start ?? null,
  };
}

describe('lock_mm_and_find_vma', () => {
  test('finds the mapping of an address, and none between and behind mappings', () => {
    const m = machine();
    mmap_region(m.mm, DATA, 0x1000, RW);
    mmap_region(m.mm, TEXT, 0x1000, VM_READ);
    expect([m.find(TEXT), m.find(TEXT + 0xfffn), m.find(DATA)]).toEqual([TEXT, TEXT, DATA]);
    expect(m.mm.readers).toBe(3);
    expect([m.find(TEXT + 0x1000n), m.find(DATA + 0x1000n), m.find(TEXT - 1n)]).toEqual([null, null, null]);
    expect(m.mm.readers).toBe(3);
  });

  test('grows a stack down to the address, but not over its limit nor into the gap below it', () => {
    const m = machine();
    mmap_region(m.mm, DATA, 0x1000, RW | VM_GROWSDOWN);
    expect(m.find(DATA - 0x2001n)).toBe(DATA - 0x3000n);
    expect(m.find(DATA - BigInt(8 << 20))).toBeNull();
    mmap_region(m.mm, DATA - 0x20_0000n, 0x1000, RW);
    const gapEnd = DATA - 0x20_0000n + 0x1000n + 0x10_0000n;
    expect(m.find(gapEnd - 1n)).toBeNull();
    expect(m.find(gapEnd)).toBe(gapEnd);
    expect(m.mm.readers).toBe(2);
  });

  test('grows a stack for kernel code only where faults are expected', () => {
    const m = machine();
    mmap_region(m.mm, DATA, 0x1000, RW | VM_GROWSDOWN);
    expect(m.find(DATA - 1n, KERNEL)).toBeNull();
    expect(m.find(DATA - 1n, UACCESS)).toBe(DATA - 0x1000n);
    expect(m.mm.readers).toBe(1);
  });

  test('waits for the lock only where kernel code expects faults, and then the writer is done', () => {
    const m = machine();
    const vma = mmap_region(m.mm, DATA, 0x1000, RW);
    m.mm.contended = true;
    vma.write_locked = true;
    expect(m.find(DATA, KERNEL)).toBeNull();
    expect([m.mm.contended, m.lock(DATA)]).toEqual([true, null]);
    expect(m.find(DATA, UACCESS)).toBe(DATA);
    expect([m.mm.contended, m.lock(DATA)]).toEqual([false, DATA]);
    m.mm.contended = true;
    expect(m.find(DATA)).toBe(DATA);
    expect(m.find(DATA, KERNEL)).toBe(DATA);
  });

  test('a task that is about to be killed does not wait', () => {
    const m = machine();
    mmap_region(m.mm, DATA, 0x1000, RW);
    m.here.current.signal_pending = 'fatal';
    expect(m.find(DATA)).toBe(DATA);
    m.mm.contended = true;
    expect([m.find(DATA), m.mm.readers]).toEqual([null, 1]);
    m.here.current.signal_pending = 'signal';
    expect(m.find(DATA)).toBe(DATA);
  });

  test('knows no mapping of the kernel', () => {
    const m = machine();
    expect(drain(m.user.lock_mm_and_find_vma(m.here, m.memory.init_mm, DATA, USER)) === null).toBe(true);
  });
});

describe('lock_vma_under_rcu', () => {
  test('locks the mapping of the address, but grows no stack and waits for nobody', () => {
    const m = machine();
    const vma = mmap_region(m.mm, DATA, 0x1000, RW | VM_GROWSDOWN);
    expect([m.lock(DATA - 1n), m.lock(DATA + 0x1000n), vma.readers]).toEqual([null, null, 0]);
    m.mm.contended = true;
    expect([m.lock(DATA), vma.readers]).toEqual([DATA, 1]);
    vma.write_locked = true;
    expect([m.lock(DATA), vma.readers]).toEqual([null, 1]);
    m.user.vma_end_read(vma);
    expect(vma.readers).toBe(0);
    expect(() => m.user.vma_end_read(vma)).toThrow(MmapError);
  });

  test('knows no mapping of the kernel', () => {
    const m = machine();
    expect(drain(m.user.lock_vma_under_rcu(m.here, m.memory.init_mm, DATA)) === null).toBe(true);
  });
});

test('a lock that nobody holds cannot be given back', () => {
  const m = machine();
  expect(() => m.user.mmap_read_unlock(m.mm)).toThrow(MmapError);
  expect(() => m.user.mmap_read_unlock(m.memory.init_mm)).toThrow(MmapError);
  expect(() => m.user.vma_end_read({ vm_start: 0n, vm_end: 1n, vm_flags: 0, pkey: 0 })).toThrow(MmapError);
});
