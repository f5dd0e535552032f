import { describe, expect, test } from '@jest/globals';
import type { Ptep, ThisCpu } from '../arch/arch.js';
import { drain, type Path } from '../emu/path.js';
import { EBUSY, EINVAL, ENOMEM } from '../kernel/errno.js';
import { entryAt, PTE } from './descend.js';
import { map_kernel_range, map_page, unmap_kernel_range } from './map.js';
import { create_mm } from './mmap.js';
import { TABLE_OWNER } from './page_alloc.js';
import {
  apply_to_existing_page_range,
  apply_to_page_range,
  populate_kernel_tables,
  vmalloc_to_page,
} from './pgtable_walk.js';
import { PMD, PUD } from './table_entries.js';
import { ARCHS, type ArchName, failPages, ptepOf, type TestMemory, testMemory } from './testing.js';

/** kern_vm_start of the specification's example, and an address of arm64's vmalloc range. */
const VA: Record<ArchName, bigint> = {
  'x86-64': 0xffff_c900_01e6_9000n,
  arm64: 0xffff_8001_01e6_9000n,
};
const M2 = 2 << 20;
const WINDOW = 0x1_0000_8000;

interface Visit {
  readonly addr: bigint;
  readonly pte: Ptep;
}

interface Collected {
  readonly visits: Visit[];
  /** What the callback answers at the n-th call. */
  readonly answers: readonly number[];
}

function* collect(here: ThisCpu, pte: Ptep, addr: bigint, data: Collected): Path<number> {
  data.visits.push({ addr, pte });
  return yield* here.trace.decide('collect', 'answer', data.answers[data.visits.length - 1] ?? 0);
}

function apply(
  machine: TestMemory,
  walk: typeof apply_to_page_range,
  addr: bigint,
  size: number,
  answers: readonly number[] = [],
): { ret: number; visits: Visit[] } {
  const data: Collected = { visits: [], answers };
  const { here, memory } = machine;
  const ret = drain(walk(here, memory, memory.init_mm, addr, size, collect, data));
  return { ret, visits: data.visits };
}

const addresses = (visits: readonly Visit[]): bigint[] => visits.map(({ addr }) => addr);
const tables = ({ memory }: TestMemory): number => memory.pages.count(TABLE_OWNER);

describe.each(ARCHS)('apply_to_page_range on %s', (arch) => {
  const va = VA[arch];

  test('makes the three tables of a page, root first, and hands out the PTE of each page', () => {
    const machine = testMemory(arch);
    const { ret, visits } = apply(machine, apply_to_page_range, va, 0x2000);
    expect(ret).toBe(0);
    expect(addresses(visits)).toEqual([va, va + 0x1000n]);
    expect(machine.pteWrites().map(({ level }) => level)).toEqual(['p4d', 'pud', 'pmd']);
    const [first, second] = visits;
    expect((second?.pte ?? 0) - (first?.pte ?? 0)).toBe(8);
    // The walk of the page ends in exactly this entry.
    machine.memory.ram.writeU64(first?.pte ?? 0, machine.memory.pgtable.mk_pte(0x4123_4000, 0x3n));
    expect(ptepOf(machine, va)).toBe(first?.pte);
  });

  test('goes over from one PTE table to the next', () => {
    const machine = testMemory(arch);
    const start = (va & ~BigInt(M2 - 1)) + BigInt(M2 - 0x1000);
    const { visits } = apply(machine, apply_to_page_range, start, 0x3000);
    expect(addresses(visits)).toEqual([start, start + 0x1000n, start + 0x2000n]);
    expect(new Set(visits.map(({ pte }) => Math.floor(pte / 4096))).size).toBe(2);
  });

  test('ends at the first answer that is not 0, with that answer', () => {
    const { ret, visits } = apply(testMemory(arch), apply_to_page_range, va, 0x4000, [0, -EBUSY]);
    expect(ret).toBe(-EBUSY);
    expect(visits).toHaveLength(2);
  });

  test.each([
    ['is empty', 0n, 0],
    ['wraps', 0xffff_ffff_ffff_f000n, 0x2000],
  ])('refuses a range that %s, with a WARN every time', (_, addr, size) => {
    const machine = testMemory(arch);
    for (let i = 0; i < 2; i++) {
      const { ret, visits } = apply(machine, apply_to_page_range, addr === 0n ? va : addr, size);
      expect([ret, visits.length]).toEqual([-EINVAL, 0]);
    }
    const warnings = machine.cpus[0]?.console.lines().filter((line) => line.startsWith('WARNING'));
    expect(warnings).toHaveLength(2);
  });

  test.each([
    ['PMD', PMD, 'apply_to_pmd_range'],
    ['PUD', PUD, 'apply_to_pud_range'],
  ])('refuses to go below a huge page in a %s, with one WARN', (_, level, fn) => {
    for (const walk of [apply_to_page_range, apply_to_existing_page_range]) {
      const machine = testMemory(arch);
      const { memory, here } = machine;
      const pages = level === PMD ? 512 : 512 * 512;
      const start = va & ~(BigInt(pages) * 4096n - 1n);
      const prot = memory.pgtable.PAGE_KERNEL;
      expect(
        map_kernel_range(here, memory, memory.init_mm, start, 0x8000_0000, pages, prot, { huge: true }),
      ).toBe(0);
      expect([apply(machine, walk, va, 4096).ret, apply(machine, walk, va, 4096).ret]).toEqual([
        -EINVAL,
        -EINVAL,
      ]);
      const warnings = machine.cpus[0]?.console.lines().filter((line) => line.startsWith('WARNING'));
      expect(warnings).toEqual([`WARNING: mm/memory.c at ${fn}, CPU#0: t/100`]);
    }
  });

  test('clears a bad entry and goes on with a new table; without creating it skips what the entry covers', () => {
    const machine = testMemory(arch);
    const { memory, here } = machine;
    map_page(here, memory, memory.init_mm, va, 0x4123_4000, memory.pgtable.PAGE_KERNEL);
    const pmd = entryAt(here, memory, memory.init_mm, Number(BigInt.asIntN(64, va)), PMD, false);
    // Not a table on either architecture: x86 wants RW and dirty, arm64 bit 1.
    const bad = arch === 'x86-64' ? 0x5001n : 0x5000n;
    memory.ram.writeU64(pmd, bad);
    const skipped = apply(machine, apply_to_existing_page_range, va, 4096);
    expect([skipped.ret, skipped.visits.length, memory.ram.readU64(pmd)]).toEqual([0, 0, bad]);
    machine.pteWrites();
    const { ret, visits } = apply(machine, apply_to_page_range, va, 4096);
    expect([ret, visits.length]).toEqual([0, 1]);
    expect(machine.pteWrites().map(({ level, old, value }) => [level, old === bad, value === 0n])).toEqual([
      ['pmd', true, true],
      ['pmd', false, false],
    ]);
  });

  test('gives up without memory for a table; tables made before stay', () => {
    const machine = testMemory(arch);
    failPages(machine.memory, 2, 1, TABLE_OWNER);
    expect(apply(machine, apply_to_page_range, va, 4096)).toEqual({ ret: -ENOMEM, visits: [] });
    expect(tables(machine)).toBe(3);
    expect(apply(machine, apply_to_page_range, va, 4096).ret).toBe(0);
    expect(tables(machine)).toBe(4);
  });
});

describe.each(ARCHS)('apply_to_existing_page_range on %s', (arch) => {
  const va = VA[arch];

  test('visits what is there, makes no table, and tells of each run of empty entries once', () => {
    const machine = testMemory(arch);
    const { memory, here } = machine;
    const prot = memory.pgtable.PAGE_KERNEL;
    const far = va + 0x8000_0000n;
    for (const at of [va + 0x3000n, va + 0x4000n, far])
      map_page(here, memory, memory.init_mm, at, 0x4123_4000, prot);
    const before = tables(machine);
    const { ret, visits } = apply(machine, apply_to_existing_page_range, va, WINDOW);
    expect(ret).toBe(0);
    expect(addresses(visits)).toEqual([va + 0x3000n, va + 0x4000n, far]);
    expect(tables(machine)).toBe(before);
    const decided = machine.cpus[0]?.log.events.flatMap((event) =>
      event.type === 'decide' && event.fn === 'apply_to_pte_range' ? [event.value] : [],
    );
    expect(decided).toEqual([false, true, true, false, true, false]);
  });

  test('lets another CPU come in between its look at an entry and the callback', () => {
    const machine = testMemory(arch);
    const { memory, here } = machine;
    map_page(here, memory, memory.init_mm, va, 0x4123_4000, memory.pgtable.PAGE_KERNEL);
    here.trace.pausing = true;
    const data: Collected = { visits: [], answers: [] };
    const path = apply_to_existing_page_range(here, memory, memory.init_mm, va, 4096, collect, data);
    const iterator = path[Symbol.iterator]();
    let step = iterator.next();
    while (step.done !== true && !(step.value.type === 'decide' && step.value.fn === 'apply_to_pte_range')) {
      step = iterator.next();
    }
    expect(data.visits).toHaveLength(0);
    memory.ram.writeU64(ptepOf(machine, va), 0n);
    while (step.done !== true) step = iterator.next();
    expect(data.visits).toHaveLength(1);
  });
});

test('a short walk tells of each empty entry, and finds what comes while it does', () => {
  const machine = testMemory('x86-64');
  const { memory, here } = machine;
  const va = VA['x86-64'];
  const prot = memory.pgtable.PAGE_KERNEL;
  map_page(here, memory, memory.init_mm, va + 0x8000n, 0x4123_4000, prot);
  let decisions = 0;
  here.trace.onDecision = (fn) => {
    if (fn !== 'apply_to_pte_range') return;
    decisions += 1;
    // While the second page is looked at: the first has been, the third has not.
    if (decisions !== 2) return;
    for (const at of [va, va + 0x1000n, va + 0x2000n])
      map_page(here, memory, memory.init_mm, at, 0x4123_4000, prot);
  };
  const { visits } = apply(machine, apply_to_existing_page_range, va, 9 * 4096);
  expect(addresses(visits)).toEqual([va + 0x2000n, va + 0x8000n]);
  expect(decisions).toBe(9);
});

test('an x86 entry with nothing but accessed and dirty bits is empty', () => {
  const machine = testMemory('x86-64');
  const va = VA['x86-64'];
  apply(machine, apply_to_page_range, va, 4096);
  machine.memory.ram.writeU64(ptepOf(machine, va), 0x60n);
  expect(apply(machine, apply_to_existing_page_range, va, 4096).visits).toHaveLength(0);
  machine.memory.ram.writeU64(ptepOf(machine, va), 0x62n);
  expect(apply(machine, apply_to_existing_page_range, va, 4096).visits).toHaveLength(1);
});

describe.each(ARCHS)('populate_kernel_tables on %s', (arch) => {
  const va = VA[arch];
  const populate = (machine: TestMemory) =>
    drain(populate_kernel_tables(machine.here, machine.memory, va, va + BigInt(WINDOW)));

  test('makes 2049 PTE tables, 5 PMD tables and a PUD table for the window of an arena, in one event', () => {
    const machine = testMemory(arch);
    expect(populate(machine)).toBe(0);
    expect(tables(machine)).toBe(1 + 1 + 5 + 2049);
    expect(machine.pteWrites()).toHaveLength(0);
    const populated = machine.cpus[0]?.log.events.filter(({ type }) => type === 'populate');
    expect(populated).toEqual([
      { type: 'populate', cpu: 0, start: va, end: va + BigInt(WINDOW), tables: 2055 },
    ]);
  });

  test('leaves nothing to allocate in the window, and finds its own tables again', () => {
    const machine = testMemory(arch);
    populate(machine);
    failPages(machine.memory, 0);
    for (const at of [va, va + BigInt(WINDOW - 0x1000)]) {
      expect(apply(machine, apply_to_page_range, at, 4096).ret).toBe(0);
    }
    expect(populate(machine)).toBe(0);
  });

  test('keeps the tables made before the memory ended', () => {
    const machine = testMemory(arch);
    // The PUD table and the first PMD table come before the first PTE table.
    failPages(machine.memory, 2 + 99, 1, TABLE_OWNER);
    expect(populate(machine)).toBe(-ENOMEM);
    expect(tables(machine)).toBe(1 + 2 + 99);
  });
});

describe.each(ARCHS)('mapping on %s', (arch) => {
  const va = VA[arch];

  test('vmalloc_to_page finds small and huge pages, and nothing where nothing is', () => {
    const machine = testMemory(arch);
    const { memory, here } = machine;
    const { PAGE_KERNEL } = memory.pgtable;
    const huge = (va & ~0x3fff_ffffn) + 0x4000_0000n;
    const both = 512 * 512 + 512;
    map_page(here, memory, memory.init_mm, va, 0x4123_4000, PAGE_KERNEL);
    map_kernel_range(here, memory, memory.init_mm, huge, 0x8000_0000, both, PAGE_KERNEL, { huge: true });
    const page = (at: bigint) => vmalloc_to_page(here, memory, at);
    expect(page(va + 0xfffn)).toBe(0x4123_4000);
    expect(page(va + 0x1000n)).toBeNull();
    expect(page(huge + 0x1234_5678n)).toBe(0x9234_5000);
    expect(page(huge + 0x4000_0000n + 0x5678n)).toBe(0xc000_5000);
    expect(page(0xffff_ffff_0000_0000n)).toBeNull();
  });

  test('uses the largest leaves that address, frame and length allow', () => {
    const machine = testMemory(arch);
    const { memory, here } = machine;
    const start = (va & ~0x3fff_ffffn) + 0x4000_0000n - BigInt(M2) - 0x1000n;
    const pages = 1 + 512 + 512 * 512 + 512 + 1;
    const pa = 0x8000_0000 - M2 - 0x1000;
    map_kernel_range(here, memory, memory.init_mm, start, pa, pages, memory.pgtable.PAGE_KERNEL, {
      huge: true,
    });
    const leaves = machine
      .pteWrites()
      .filter(({ value }) => memory.pages.ownerOf(Number(value & 0xff_ffff_f000n)) === null);
    expect(leaves.map(({ level }) => level)).toEqual(['pte', 'pmd', 'pud', 'pmd', 'pte']);
  });

  test('refuses to map over something', () => {
    const { memory, here } = testMemory(arch);
    const { PAGE_KERNEL } = memory.pgtable;
    expect(map_page(here, memory, memory.init_mm, va, 0x4123_4000, PAGE_KERNEL)).toBe(0);
    expect(map_page(here, memory, memory.init_mm, va, 0x4123_4000, PAGE_KERNEL)).toBe(-EBUSY);
  });

  test('unmapping clears what is there and flushes every CPU; the tables stay', () => {
    const machine = testMemory(arch, 32 << 20, 2);
    const { memory, here } = machine;
    const { PAGE_KERNEL } = memory.pgtable;
    for (const at of [va, va + 0x5000n]) map_page(here, memory, memory.init_mm, at, 0x4123_4000, PAGE_KERNEL);
    const before = tables(machine);
    machine.pteWrites();
    unmap_kernel_range(here, memory, va, va + 0x10_0000n);
    expect(machine.pteWrites().map(({ by, pa }) => [by, pa])).toEqual([
      ['ptep_get_and_clear', ptepOf(machine, va)],
      ['ptep_get_and_clear', ptepOf(machine, va + 0x5000n)],
    ]);
    expect(tables(machine)).toBe(before);
    expect(machine.cpus.map(({ tlb }) => tlb)).toEqual([
      ['flush all', 'unpin all'],
      ['flush all', 'unpin all'],
    ]);
  });
});

test('a root entry that appears later reaches the address spaces that share the kernel half', () => {
  const machine = testMemory('x86-64');
  const { memory, here } = machine;
  const mm = create_mm(here, memory, 'user');
  if (mm === null) throw new Error('no memory');
  const va = Number(BigInt.asIntN(64, VA['x86-64']));
  apply(machine, apply_to_page_range, VA['x86-64'], 4096);
  drain(populate_kernel_tables(here, memory, 0xffff_d000_0000_0000n, 0xffff_d000_0000_1000n));
  expect(entryAt(here, memory, mm, va, PTE, false)).toBe(ptepOf(machine, VA['x86-64']));
  const later = 0xffff_d000_0000_0000n;
  expect(entryAt(here, memory, mm, Number(BigInt.asIntN(64, later)), PTE, false)).toBe(
    ptepOf(machine, later),
  );
});

test('on arm64 a user root is all the user’s', () => {
  const machine = testMemory('arm64');
  const { memory, here } = machine;
  apply(machine, apply_to_page_range, VA.arm64, 4096);
  const mm = create_mm(here, memory, 'user');
  if (mm === null) throw new Error('no memory');
  expect(memory.ram.read(mm.pgd, 4096).every((byte) => byte === 0)).toBe(true);
});
