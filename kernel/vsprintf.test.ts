import { expect, test } from '@jest/globals';
import { siphash_1u64 } from './siphash.js';
import { pointer_string, ptr_to_id } from './vsprintf.js';

test('SipHash-2-4 of eight bytes is that of the test vectors of its authors', () => {
  const key = [0x0706050403020100n, 0x0f0e0d0c0b0a0908n] as const;
  expect(siphash_1u64(0x0706050403020100n, key)).toBe(0x93f5f5799a932462n);
});

test('%p hides addresses, each behind its own 32 bits, but neither NULL nor errors', () => {
  expect(pointer_string(0xffff888000001000n)).toBe('ffff888000001000');
  const [one, other] = [ptr_to_id(0xffff888000001000n), ptr_to_id(0xffff888000001008n)];
  expect(one).toMatch(/^0{8}[0-9a-f]{8}$/);
  expect(one).not.toBe(other);
  expect(ptr_to_id(0xffff888000001000n)).toBe(one);
  expect(ptr_to_id(0n)).toBe('0000000000000000');
  expect(ptr_to_id(BigInt.asUintN(64, -12n))).toBe('fffffffffffffff4');
});
