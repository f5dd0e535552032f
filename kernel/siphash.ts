/** SipHash-2-4 of one word: siphash_1u64() of lib/siphash.c (bpf-next merge 8496d9020ff3). */
import { u64 } from '../emu/address.js';

/** siphash_key_t: two words of 64 bits. */
export type SiphashKey = readonly [bigint, bigint];

class State {
  v0: bigint;
  v1: bigint;
  v2: bigint;
  v3: bigint;

  constructor([k0, k1]: SiphashKey) {
    this.v0 = k0 ^ 0x736f6d6570736575n;
    this.v1 = k1 ^ 0x646f72616e646f6dn;
    this.v2 = k0 ^ 0x6c7967656e657261n;
    this.v3 = k1 ^ 0x7465646279746573n;
  }

  rounds(count: number): void {
    for (let i = 0; i < count; i++) {
      this.v0 = u64(this.v0 + this.v1);
      this.v1 = rotate(this.v1, 13n) ^ this.v0;
      this.v0 = rotate(this.v0, 32n);
      this.v2 = u64(this.v2 + this.v3);
      this.v3 = rotate(this.v3, 16n) ^ this.v2;
      this.v0 = u64(this.v0 + this.v3);
      this.v3 = rotate(this.v3, 21n) ^ this.v0;
      this.v2 = u64(this.v2 + this.v1);
      this.v1 = rotate(this.v1, 17n) ^ this.v2;
      this.v2 = rotate(this.v2, 32n);
    }
  }

  take(word: bigint): void {
    this.v3 ^= word;
    this.rounds(2);
    this.v0 ^= word;
  }
}

function rotate(value: bigint, by: bigint): bigint {
  return u64((value << by) | (value >> (64n - by)));
}

/** Hash of eight bytes, given as the word they are in little endian. */
export function siphash_1u64(first: bigint, key: SiphashKey): bigint {
  const state = new State(key);
  state.take(u64(first));
  // The length of the message, in its last byte.
  state.take(8n << 56n);
  state.v2 ^= 0xffn;
  state.rounds(4);
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}
