import { describe, expect, test } from '@jest/globals';
import { kfence_protect_page } from './kfence.js';
import { testMachine } from './testing.js';

const POOL = 0xffff888003e00000n;

describe('kfence_protect_page', () => {
  test.each([
    [0x8000000003e00163n, 0x800ffffffc1ff162n],
    [0x8000000003e92163n, 0x800ffffffc16d162n],
    [0x8000000003e93163n, 0x800ffffffc16c162n],
  ])('clears P and inverts the frame, and back (%#)', (present, hidden) => {
    const machine = testMachine();
    const { here, ram, cpu } = machine;
    const pte = machine.map(POOL, present);
    machine.mmu.pin(POOL);
    cpu.flushed.length = 0;
    expect(kfence_protect_page(here, POOL, true)).toBe(true);
    expect(ram.readU64(pte)).toBe(hidden);
    expect(machine.mmu.pinnedPages()).toEqual([]);
    // Asked for twice it does not invert twice.
    expect(kfence_protect_page(here, POOL, true)).toBe(true);
    expect(ram.readU64(pte)).toBe(hidden);
    expect(kfence_protect_page(here, POOL, false)).toBe(true);
    expect(ram.readU64(pte)).toBe(present);
    expect(cpu.flushed).toEqual([POOL.toString(16)]);
  });

  test('warns about a page that no PTE maps', () => {
    const machine = testMachine();
    expect(kfence_protect_page(machine.here, POOL, true)).toBe(false);
    expect(machine.console()).toEqual(['------------[ cut here ]------------']);
  });
});
