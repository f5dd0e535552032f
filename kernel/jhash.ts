/** jhash() of include/linux/jhash.h (bpf-next merge 8496d9020ff3) for whole 64-bit words. */

/** An arbitrary value to begin with, the header's JHASH_INITVAL. */
const JHASH_INITVAL = 0xdeadbeef;

const rol32 = (word: number, shift: number): number => (word << shift) | (word >>> (32 - shift));

/** Hash of words as they lie in memory, little endian; an unsigned number of 32 bits. */
export function jhash64(words: readonly bigint[], initval: number): number {
  const keys = words.flatMap((word) => [Number(word & 0xffff_ffffn), Number(word >> 32n)]);
  let a = (JHASH_INITVAL + keys.length * 4 + initval) | 0;
  let b = a;
  let c = a;
  const key = (at: number): number => keys[at] ?? 0;
  let at = 0;
  let left = keys.length;
  for (; left > 3; left -= 3, at += 3) {
    a = (a + key(at)) | 0;
    b = (b + key(at + 1)) | 0;
    c = (c + key(at + 2)) | 0;
    // __jhash_mix()
    a = ((a - c) ^ rol32(c, 4)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rol32(a, 6)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rol32(b, 8)) | 0;
    b = (b + a) | 0;
    a = ((a - c) ^ rol32(c, 16)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rol32(a, 19)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rol32(b, 4)) | 0;
    b = (b + a) | 0;
  }
  if (left === 0) return c >>> 0;
  if (left >= 3) c = (c + key(at + 2)) | 0;
  if (left >= 2) b = (b + key(at + 1)) | 0;
  a = (a + key(at)) | 0;
  // __jhash_final()
  c = ((c ^ b) - rol32(b, 14)) | 0;
  a = ((a ^ c) - rol32(c, 11)) | 0;
  b = ((b ^ a) - rol32(a, 25)) | 0;
  c = ((c ^ b) - rol32(b, 16)) | 0;
  a = ((a ^ c) - rol32(c, 4)) | 0;
  b = ((b ^ a) - rol32(a, 14)) | 0;
  c = ((c ^ b) - rol32(b, 24)) | 0;
  return c >>> 0;
}
