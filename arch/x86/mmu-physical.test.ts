/**
 * Physical addresses for the host: of reads, and of what the CPU pushes. A page is answered for only when
 * all of it lies in the ram, and what does not translate is -1.
 */
import { describe, expect, test } from '@jest/globals';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, PERM_READ } from '../../emu/cpu.js';
import { HOLE, testMachine } from './testing.js';

const NX = 1n << 63n;
const PAGE = 0xffffc90000600000n;
const USER = 0x7f0000000000n;
/** P, RW, A and D. */
const KERNEL_RW = 0x63n;
/** No canonical address with four levels of tables. */
const BEYOND = 0x800000000000;

const signed = (va: bigint): number => Number(BigInt.asIntN(64, va));

describe.each(['physical', 'supervisorWrite'] as const)('%s', (ask) => {
  test.each([0, 8, 0x7f8, 0x800, 0xff8, 0xfff])('offset %s in its page, and no other bits', (offset) => {
    const { map, mmu } = testMachine();
    // An odd page number: bit 12 of the address is no part of the offset.
    map(PAGE + 0x1000n, 0x201000n | KERNEL_RW);
    expect(mmu[ask](signed(PAGE + 0x1000n) + offset)).toBe(0x201000 + offset);
  });

  test('the first and the last page of the ram lie in it', () => {
    const { map, mmu, ram } = testMachine();
    for (const frame of [ram.base, ram.end - 4096]) {
      map(PAGE, BigInt(frame) | KERNEL_RW);
      expect(mmu[ask](signed(PAGE))).toBe(frame);
      expect(mmu[ask](signed(PAGE) + 0xfff)).toBe(frame + 0xfff);
    }
  });

  test('-1 for a page behind the ram, a hole, and an address that is not canonical', () => {
    const { map, mmu, ram } = testMachine();
    map(PAGE, BigInt(ram.end) | KERNEL_RW);
    expect([signed(PAGE), signed(HOLE), BEYOND].map((va) => mmu[ask](va))).toEqual([-1, -1, -1]);
  });
});

test('an address has its place whatever the rights; the push of an exception needs a writable kernel page', () => {
  const { map, mmu } = testMachine();
  map(PAGE, 0x201000n | 0x21n);
  map(USER, 0x202000n | 0x67n);
  expect([mmu.physical(signed(PAGE)), mmu.supervisorWrite(signed(PAGE))]).toEqual([0x201000, -1]);
  expect([mmu.physical(signed(USER)), mmu.supervisorWrite(signed(USER))]).toEqual([0x202000, -1]);
});

describe('a pinned page of the user grants its rights and no others', () => {
  test.each([
    ['read-only', 0x201000n | 0x65n],
    ['read-only and clean', 0x201000n | 0x25n],
  ])('%s', (_which, pte) => {
    const { cpu, map, mmu, ram } = testMachine();
    const at = map(USER, NX | pte);
    cpu.setPrivilege('user');
    mmu.user = true;
    expect(mmu.pin(USER)).toBe(true);
    // The TLB has the right to read; the tables have nothing any more.
    ram.writeU64(at, 0n);
    expect(mmu.fill(signed(USER), ACCESS_READ)).toBe(PERM_READ);
    expect(mmu.fill(signed(USER), ACCESS_FETCH)).toBe(0);
    expect(mmu.fill(signed(USER), ACCESS_WRITE)).toBe(0);
  });

  test('writable and clean: a read does not grant the write, which has to set D', () => {
    const { cpu, map, mmu, ram } = testMachine();
    const at = map(USER, NX | 0x201000n | 0x27n);
    cpu.setPrivilege('user');
    mmu.user = true;
    mmu.pin(USER);
    ram.writeU64(at, 0n);
    expect(mmu.fill(signed(USER), ACCESS_READ)).toBe(PERM_READ);
    expect(mmu.fill(signed(USER), ACCESS_WRITE)).toBe(0);
  });
});
