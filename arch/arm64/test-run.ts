/**
 * From el0t_64_sync() to a program that BPF_PROG_TEST_RUN runs. Each function is real code of the size that
 * reports show, with one call that returns to the offset they show.
 */
import type { ChainLink, TestRun, ThisCpu } from '../arch.js';
import { prepareCall } from './setup.js';

/** As a published stream report of an arm64 kernel prints them. */
const SYSCALL: readonly ChainLink[] = [
  { name: 'el0t_64_sync', size: 0x1a0, returnAt: 0x198 },
  { name: 'el0t_64_sync_handler', size: 0xe8, returnAt: 0xa0 },
  { name: 'el0_svc', size: 0xf8, returnAt: 0x48 },
  { name: 'do_el0_svc', size: 0x40, returnAt: 0x28 },
  { name: 'el0_svc_common.constprop.0', size: 0xf8, returnAt: 0x48 },
  { name: 'invoke_syscall', size: 0x120, returnAt: 0x50 },
  { name: '__arm64_sys_bpf', size: 0x48, returnAt: 0x2c },
  { name: '__sys_bpf', size: 0xb98, returnAt: 0x508 },
];

const RUN = {
  syscall: [{ name: 'bpf_prog_test_run_syscall', size: 0x328, returnAt: 0x100 }],
  // Chosen: no report that shows these two was found.
  skb: [
    { name: 'bpf_prog_test_run_skb', size: 0x820, returnAt: 0x2f4 },
    { name: 'bpf_test_run', size: 0x3a8, returnAt: 0x140 },
  ],
} as const;

const BRK = 0xd4202000;
/** stp x29, x30, [sp, #-16]!; mov x29, sp */
const PROLOGUE = [0xa9bf7bfd, 0x910003fd];
/** ldp x29, x30, [sp], #16; ret */
const EPILOGUE = [0xa8c17bfd, 0xd65f03c0];
/** blr x16, which holds the program's address all the way. */
const BLR_X16 = 0xd63f0200;
const B = 0x14000000;
const BL = 0x94000000;

/** `opcode` as it stands at `at`, with the distance to `target`; both in bytes. */
function relative(opcode: number, at: number, target: number): number {
  return (opcode | (((target - at) >> 2) & 0x3ffffff)) >>> 0;
}

export const testRun: TestRun = {
  chain: (kind) => [...SYSCALL, ...RUN[kind]],

  code({ size, returnAt }, place, next, out) {
    const words = new Uint32Array(size / 4).fill(BRK);
    const site = returnAt - 4;
    words[site / 4] = place === 'last' ? BLR_X16 : relative(BL, site, next);
    if (place === 'entry') words[returnAt / 4] = relative(B, returnAt, out);
    else {
      words.set(EPILOGUE, returnAt / 4);
      words.set(PROLOGUE);
      words[PROLOGUE.length] = relative(B, PROLOGUE.length * 4, site);
    }
    return new Uint8Array(words.buffer);
  },

  /** The entry code has no frame record: the chain ends in the registers of the user code. */
  prepare(here: ThisCpu, entry: bigint, stackTop: bigint, program: bigint, ctx: bigint): void {
    const { returnAt } = SYSCALL[0] ?? { returnAt: 0 };
    prepareCall(here, entry + BigInt(returnAt - 4), stackTop);
    here.cpu.write('x16', program);
    here.cpu.write('x0', ctx);
  },
};
