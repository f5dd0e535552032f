import { expect, test } from '@jest/globals';
import { ACCESS_READ } from '../../emu/cpu.js';
import { K, TestMachine } from './testing.js';

test('a pinned page without access flag is used without a write to the tables', () => {
  const machine = new TestMachine({ HA: true });
  const { mmu, ram } = machine;
  const page = K & ~0xfffn;
  const pa = machine.map(page, 0x00e8_0000_0000_0303n);
  const pte = machine.entryPa(page, 3);
  expect(mmu.pin(page)).toBe(true);
  machine.set(page, 3, 0n);
  expect(mmu.fill(Number(BigInt.asIntN(64, page)), ACCESS_READ)).not.toBe(0);
  expect(mmu.pa).toBe(pa);
  expect(ram.readU64(pte)).toBe(0n);
});
