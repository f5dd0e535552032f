import { expect, test } from '@jest/globals';
import { arm64 } from './index.js';
import { K, TestMachine } from './testing.js';

// Values of a pool page as the kernel has them: protected is the same with and without KPTI.
test.each([
  [false, 0x00e8_0000_43e0_0707n],
  [true, 0x00e8_0000_43e0_0f07n],
])('protecting swaps bit 0 for bit 11 and back (KPTI %s)', (KPTI, valid) => {
  const machine = new TestMachine({ KPTI });
  const { here, ram, log } = machine;
  machine.set(K, 3, valid);
  const ptep = machine.entryPa(K, 3);
  machine.mmu.pin(K);
  log.events.length = 0;

  expect(arm64.kfence_protect_page(here, K, true)).toBe(true);
  expect(ram.readU64(ptep)).toBe(0x00e8_0000_43e0_0f06n);
  expect(machine.find('tlb-flush')).toMatchObject({ va: K & ~0xfffn });

  log.events.length = 0;
  expect(arm64.kfence_protect_page(here, K, false)).toBe(true);
  expect(ram.readU64(ptep)).toBe(valid);
  expect(machine.find('tlb-flush')).toBeUndefined();
});

test('a block is left alone, and the answer is still true', () => {
  const machine = new TestMachine();
  const block = 0x00e8_0000_4020_0705n;
  machine.set(K, 2, block);
  expect(arm64.kfence_protect_page(machine.here, K, true)).toBe(true);
  expect(machine.ram.readU64(machine.entryPa(K, 2))).toBe(block);
});

test('an empty entry is refused: it would never become a valid one', () => {
  const machine = new TestMachine();
  machine.set(K, 3, 0n);
  expect(() => arm64.kfence_protect_page(machine.here, K, false)).toThrow('no page of the KFENCE pool');
});
