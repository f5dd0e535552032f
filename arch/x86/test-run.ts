/**
 * From entry_SYSCALL_64_after_hwframe() to a program that BPF_PROG_TEST_RUN runs. Each function is real code
 * of the size that reports show, with one call that returns to the offset they show.
 */
import type { ChainLink, TestRun, ThisCpu } from '../arch.js';
import { PT_REGS_SIZE } from './regs.js';
import { prepareCall } from './setup.js';

/** As a published stream report of an x86-64 kernel prints them. */
const SYSCALL: readonly ChainLink[] = [
  { name: 'entry_SYSCALL_64_after_hwframe', size: 0x7e, returnAt: 0x76 },
  { name: 'do_syscall_64', size: 0x140, returnAt: 0x68 },
  { name: '__x64_sys_bpf', size: 0x30, returnAt: 0x1e },
  { name: '__sys_bpf', size: 0x2bf0, returnAt: 0xd68 },
];

const RUN = {
  syscall: [{ name: 'bpf_prog_test_run_syscall', size: 0x240, returnAt: 0x102 }],
  // Chosen: no report that shows these two was found.
  skb: [
    { name: 'bpf_prog_test_run_skb', size: 0x8b0, returnAt: 0x396 },
    { name: 'bpf_test_run', size: 0x360, returnAt: 0x182 },
  ],
} as const;

/** int3 */
const FILLER = 0xcc;
const NOP = 0x90;
/** push rbp; mov rbp, rsp */
const PROLOGUE = [0x55, 0x48, 0x89, 0xe5];
/** pop rbp; ret */
const EPILOGUE = [0x5d, 0xc3];
/** call rax, which holds the program's address all the way. */
const CALL_RAX = [0xff, 0xd0];

/** Offsets in pt_regs. */
const ORIG_AX = 120n;
const CS = 136n;
const FLAGS = 144n;
const SS = 160n;
/** __NR_bpf, __USER_CS, RFLAGS of user code, __USER_DS. */
const USER_REGS: readonly (readonly [bigint, bigint])[] = [
  [ORIG_AX, 321n],
  [CS, 0x33n],
  [FLAGS, 0x246n],
  [SS, 0x2bn],
];

/** `opcode` with the distance to `target` behind it, as it stands at `at`. */
function relative(opcode: number, at: number, target: number): number[] {
  const distance = Buffer.alloc(4);
  distance.writeInt32LE(target - at - 5);
  return [opcode, ...distance];
}

const CALL = 0xe8;
const JMP = 0xe9;

export const testRun: TestRun = {
  chain: (kind) => [...SYSCALL, ...RUN[kind]],

  code({ size, returnAt }, place, next, out) {
    const code = new Uint8Array(size).fill(FILLER);
    const site = returnAt - (place === 'last' ? CALL_RAX.length : 5);
    code.set(place === 'last' ? CALL_RAX : relative(CALL, site, next), site);
    if (place === 'entry') {
      code.set(relative(JMP, returnAt, out), returnAt);
      return code;
    }
    code.set(EPILOGUE, returnAt);
    code.set(PROLOGUE);
    const start = PROLOGUE.length;
    if (site - start >= 5) code.set(relative(JMP, start, site), start);
    else code.fill(NOP, start, site);
    return code;
  },

  /** The stack begins with the registers of the user code that has made the system call. */
  prepare(here: ThisCpu, entry: bigint, stackTop: bigint, program: bigint, ctx: bigint): void {
    const regs = (stackTop & ~0xfn) - BigInt(PT_REGS_SIZE);
    const { returnAt } = SYSCALL[0] ?? { returnAt: 0 };
    prepareCall(here, entry + BigInt(returnAt - 5), regs + 8n);
    const pa = here.mmu.peek(regs);
    for (let offset = 0; offset < PT_REGS_SIZE; offset += 8) here.ram.writeU64(pa + offset, 0n);
    for (const [offset, value] of USER_REGS) here.ram.writeU64(pa + Number(offset), value);
    here.cpu.write('rax', program);
    here.cpu.write('rdi', ctx);
  },
};
