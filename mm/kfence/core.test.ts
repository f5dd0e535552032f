import { expect, test } from '@jest/globals';
import type { pt_regs } from '../../arch/kernel.js';
import { drain } from '../../emu/path.js';
import { testCpu } from '../../kernel/testing.js';
import { KFENCE_POOL_SIZE, Kfence } from './core.js';

const REGS: pt_regs = { instruction_pointer: 0n, stack_pointer: 0n, user_mode: false };

test('the default pool has 512 pages', () => {
  expect(KFENCE_POOL_SIZE).toBe(0x20_0000);
});

test('without a pool no address is KFENCE’s, low ones included, enabled or not', () => {
  const { here } = testCpu();
  const kfence = new Kfence();
  for (const enabled of [false, true]) {
    kfence.kfence_enabled = enabled;
    for (const addr of [0n, 0x1000n, 0xffff_8880_0000_0000n, 0xffff_ffff_ffff_ffffn]) {
      expect(kfence.is_kfence_address(addr)).toBe(false);
      expect(drain(kfence.kfence_handle_page_fault(here, addr, true, REGS))).toBe(false);
    }
  }
});
