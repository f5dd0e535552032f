/** Kernel functions whose body is host code: how guest code gets there, and with which arguments. */
import type { HostCall } from '../arch.js';

/**
 * A function with a frame record: stp x29, x30, [sp, #-16]!; mov x29, sp; wfi; ldp x29, x30, [sp], #16; ret.
 * The kernel never waits with a call on its stack, so the wfi is for the host.
 */
const WORDS = Uint32Array.of(0xa9bf7bfd, 0x910003fd, 0xd503207f, 0xa8c17bfd, 0xd65f03c0);

export const hostCall: HostCall = {
  code: new Uint8Array(WORDS.buffer),
  resumeAt: 12,
  argumentRegisters: ['x0', 'x1', 'x2', 'x3', 'x4', 'x5', 'x6', 'x7'],
};
