/**
 * arch_bpf_timed_may_goto() of arch/arm64/net/bpf_timed_may_goto.S (bpf-next merge 8496d9020ff3) as code: x9 comes with
 * the distance of the loop's state from x25 and goes back with the count, the registers of R0 to R5 stay as they are.
 */

/** Word of the call. */
const CALL = 6;
const WORDS = [
  0xa9bc7bfd, // stp x29, x30, [sp, #-64]!
  0x910003fd, // mov x29, sp
  0xa90103e8, // stp x8, x0, [sp, #16]
  0xa9020be1, // stp x1, x2, [sp, #32]
  0xa90313e3, // stp x3, x4, [sp, #48]
  0x8b190120, // add x0, x9, x25
  0x94000000, // bl
  0xaa0003e9, // mov x9, x0
  0xa94103e8, // ldp x8, x0, [sp, #16]
  0xa9420be1, // ldp x1, x2, [sp, #32]
  0xa94313e3, // ldp x3, x4, [sp, #48]
  0xa8c47bfd, // ldp x29, x30, [sp], #64
  0xd65f03c0, // ret
];

/** @param distance of bpf_check_timed_may_goto() from the start of the function */
export function timedMayGoto(distance: number): Uint8Array {
  const words = Uint32Array.from(WORDS);
  words[CALL] = (0x94000000 | ((distance / 4 - CALL) & 0x3ffffff)) >>> 0;
  return new Uint8Array(words.buffer);
}
