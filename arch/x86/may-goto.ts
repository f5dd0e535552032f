/**
 * arch_bpf_timed_may_goto() of arch/x86/net/bpf_timed_may_goto.S (bpf-next merge 8496d9020ff3) as code: r10 comes with
 * the distance of the loop's state from rbp and goes back with the count, all else stays as it is.
 */

const BEFORE = [
  ...[0x4e, 0x8d, 0x54, 0x15, 0x00], // lea r10, [rbp + r10]
  ...[0x55, 0x48, 0x89, 0xe5], // push rbp; mov rbp, rsp
  ...[0x50, 0x57, 0x56, 0x52, 0x51, 0x41, 0x50], // push rax, rdi, rsi, rdx, rcx, r8
  ...[0x4c, 0x89, 0xd7], // mov rdi, r10
  0xe8, // call
];
const BEHIND = [
  ...[0x49, 0x89, 0xc2], // mov r10, rax
  ...[0x41, 0x58, 0x59, 0x5a, 0x5e, 0x5f, 0x58], // pop r8, rcx, rdx, rsi, rdi, rax
  ...[0x5d, 0xc3], // pop rbp; ret
];

/** @param distance of bpf_check_timed_may_goto() from the start of the function */
export function timedMayGoto(distance: number): Uint8Array {
  const call = Buffer.alloc(4);
  call.writeInt32LE(distance - BEFORE.length - 4);
  return Uint8Array.from([...BEFORE, ...call, ...BEHIND]);
}
