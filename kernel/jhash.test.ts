import { expect, test } from '@jest/globals';
import { jhash64 } from './jhash.js';

// Computed with an implementation of hashlittle() of lookup3.c in another language, which was checked with
// the values that lookup3.c itself gives ("Four score and seven years ago": 0x17770551, 0xcd628161).
test.each([
  [[], 7, 0xdeadbef6],
  [[0xffffffff81000123n], 0, 0xe07d8419],
  [[0xffffffff81000123n, 0xffffffff81000456n], 1, 0xd4a4757d],
  [[1n, 2n, 3n], 0xffffffff, 0xd51e7757],
  [Array.from({ length: 8 }, (_, i) => 0xffffffff81000000n + BigInt(i * 0x111)), 0x12345678, 0xcf0b3892],
])('is what lookup3 gives (%#)', (words, initval, hash) => {
  expect(jhash64(words, initval)).toBe(hash);
});
