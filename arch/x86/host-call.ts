/** Kernel functions whose body is host code: how guest code gets there, and with which arguments. */
import type { HostCall } from '../arch.js';

/**
 * A function with a frame, so that both unwinders come through it: push rbp; mov rbp, rsp; hlt; pop rbp;
 * ret. The kernel never halts with a call on its stack, so the hlt is for the host.
 */
export const hostCall: HostCall = {
  code: Uint8Array.of(0x55, 0x48, 0x89, 0xe5, 0xf4, 0x5d, 0xc3),
  resumeAt: 5,
  argumentRegisters: ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9'],
};
