/**
 * Physical addresses for the host, where page 0 is a page as any other: as a virtual and as a physical
 * address. What may be pinned, and for which half.
 */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_READ, PERM_READ, PERM_WRITE } from '../../emu/cpu.js';
import { NO_EVENTS } from '../../emu/events.js';
import { Trace } from '../../emu/path.js';
import { Ram } from '../../emu/ram.js';
import { FakeCpu } from './fake-cpu.js';
import { Arm64Mmu } from './mmu.js';
import { K, TestMachine, USER_DATA } from './testing.js';

const PAGE_KERNEL = 0x00e8_0000_0000_0703n;
const EL0_RW = 0x0068_0000_0000_0f43n;
const AF = 1n << 10n;
const READ_ONLY = 1n << 7n;
/** The last page of all addresses. */
const LAST = 0xffff_ffff_ffff_f000n;

const signed = (va: bigint): number => Number(BigInt.asIntN(64, va));

describe('a ram that starts at physical address 0', () => {
  /** One page at 0x5000, by tables at 0x1000 to 0x4000. */
  function mapped(page: bigint): Arm64Mmu {
    const ram = new Ram(0, 1 << 20);
    const mmu = new Arm64Mmu(ram);
    const cpu = new FakeCpu();
    for (const table of [0x1000, 0x2000, 0x3000]) ram.writeU64(table, BigInt(table + 0x1000) | 3n);
    ram.writeU64(0x4000 + 5 * 8, page);
    cpu.write('tcr_el1', 0x5_b510_3510n);
    cpu.write('sctlr_el1', 1n);
    cpu.write('ttbr0_el1', 0x1000n);
    cpu.write('ttbr1_el1', 0x1000n);
    mmu.attach(cpu, new Trace(0, NO_EVENTS));
    mmu.refresh();
    return mmu;
  }

  test('its first page can be read and written', () => {
    const mmu = mapped(PAGE_KERNEL);
    for (const offset of [0, 1, 8, 0xfff]) {
      expect([mmu.physical(0x5000 + offset), mmu.writable(0x5000 + offset)]).toEqual([offset, offset]);
    }
  });

  test('where EL1 must not write, the address is -1 for a write', () => {
    // Read-only; of EL0, with PAN; without access flag.
    for (const page of [PAGE_KERNEL | READ_ONLY, EL0_RW, PAGE_KERNEL & ~AF]) {
      const mmu = mapped(page);
      expect([mmu.physical(0x5000), mmu.writable(0x5000)]).toEqual([0, -1]);
    }
  });

  test('what does not translate, or is not in the ram, is -1', () => {
    const mmu = mapped(PAGE_KERNEL | 0x10_0000n);
    for (const va of [0x5000, 0x6000]) expect([mmu.physical(va), mmu.writable(va)]).toEqual([-1, -1]);
  });
});

test('the first bytes of page 0 are where they are, also as the first thing asked after a refresh', () => {
  const machine = new TestMachine();
  machine.becomeUserTask();
  const pa = machine.map(0n, EL0_RW);
  for (const va of [0n, 1n, 2n]) {
    machine.mmu.refresh();
    expect(machine.mmu.peek(va)).toBe(pa + Number(va));
  }
});

// SPSR_EL1 and PSTATE: M[3:0] is 0 at EL0, in AArch64 (EL0t) and in AArch32 (User, with M[4] set).
test.each([
  ['EL0t', 0x00n, true],
  ['AArch32 User', 0x10n, true],
  ['EL1t', 0x04n, false],
  ['EL1h', 0x05n, false],
])('a mode that guest code changed to is seen: %s', (_mode, pstate, user) => {
  const machine = new TestMachine({ PAN: false });
  machine.becomeUserTask();
  machine.map(USER_DATA, EL0_RW);
  machine.cpu.write('pstate', pstate);
  machine.mmu.user = false;
  expect(machine.mmu.fill(signed(USER_DATA), ACCESS_READ)).toBe(PERM_READ | PERM_WRITE);
  expect(machine.mmu.user).toBe(user);
});

describe('pin', () => {
  // The ends of both halves: TTBR0 translates what is 0 and above, TTBR1 what is below as a signed number.
  test.each([
    ['the first page', 0n],
    ['the second page', 0x1000n],
    ['the last page of the lower half', 0xffff_ffff_f000n],
    ['the first page of the upper half', 0xffff_0000_0000_0000n],
    ['the last page', LAST],
  ])('%s answers as the tables were', (_which, va) => {
    const machine = new TestMachine({ PAN: false });
    const { mmu } = machine;
    machine.becomeUserTask();
    const pa = machine.map(va, PAGE_KERNEL);
    expect(mmu.pin(va + 8n)).toBe(true);
    machine.set(va, 3, 0n);
    expect(mmu.fill(signed(va), ACCESS_READ)).toBe(PERM_READ | PERM_WRITE);
    expect(mmu.pa).toBe(pa);
    expect(mmu.translate(va + 8n, 'read', false)).toMatchObject({ ok: true, pa: pa + 8 });
    mmu.unpin(va);
    expect(mmu.fill(signed(va), ACCESS_READ)).toBe(0);
  });

  describe.each([true, false])('with HA %s', (HA) => {
    test('what does not translate, or is not in the ram, is not pinned', () => {
      const machine = new TestMachine({ HA });
      const { mmu, ram } = machine;
      const page = K & ~0xfffn;
      machine.map(page, PAGE_KERNEL);
      expect(mmu.pin(page)).toBe(true);
      // The walk before this one has found a page.
      expect(mmu.pin(page + 0x1000n)).toBe(false);
      machine.set(page + 0x2000n, 3, BigInt(ram.end) | PAGE_KERNEL);
      expect(mmu.pin(page + 0x2000n)).toBe(false);
      machine.map(page + 0x1000n, PAGE_KERNEL);
      machine.map(page + 0x2000n, PAGE_KERNEL);
      mmu.unpin(page);
      for (const va of [page + 0x1000n, page + 0x2000n]) {
        machine.set(va, 3, 0n);
        expect(mmu.fill(signed(va), ACCESS_READ)).toBe(0);
      }
    });

    // Arm ARM, "The Access flag": a descriptor without it is not cached in a TLB, unless hardware sets it.
    test('a page without access flag is pinned only where hardware sets it', () => {
      const machine = new TestMachine({ HA });
      const page = K & ~0xfffn;
      machine.map(page, PAGE_KERNEL & ~AF);
      expect(machine.mmu.pin(page)).toBe(HA);
      machine.set(page, 3, 0n);
      expect(machine.mmu.fill(signed(page), ACCESS_READ)).toBe(HA ? PERM_READ | PERM_WRITE : 0);
    });
  });
});
