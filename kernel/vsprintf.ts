/** Pointers as lib/vsprintf.c prints them: pointer_string(), ptr_to_id() (bpf-next merge 8496d9020ff3). */
import { type SiphashKey, siphash_1u64 } from './siphash.js';

/** The kernel's key is random; ours is the same in every run, so that what is printed is, too. */
const ptr_key: SiphashKey = [0x6b66_6175_6c74_0001n, 0x7074_725f_6b65_7901n];

const MAX_ERRNO = 4095n;

/** 16 digits: %px. */
export function pointer_string(address: bigint): string {
  return address.toString(16).padStart(16, '0');
}

/** %p: a hash of 32 bits. NULL and error pointers are no addresses and are printed as they are. */
export function ptr_to_id(address: bigint): string {
  if (address === 0n || address >= (1n << 64n) - MAX_ERRNO) return pointer_string(address);
  return pointer_string(siphash_1u64(address, ptr_key) & 0xffff_ffffn);
}
