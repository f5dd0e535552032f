/** What the tests of traces and unwinders share: registers and words on a stack, and what is printed then. */
import { KERN_DEFAULT } from '../kernel.js';
import { __KERNEL_CS, __KERNEL_DS, PT_REGS_SIZE, X86PtRegs } from './regs.js';
import { show_trace_log_lvl } from './show-trace.js';
import { STACK, STACK_TOP, TEXT, type TestMachine } from './testing.js';

/** sp in the middle of the task's stack. */
export const SP = STACK_TOP - 0x400n;
/** task_pt_regs() */
export const TASK_REGS = STACK_TOP - BigInt(PT_REGS_SIZE);

const PLACES = { bp: 4, r10: 7, orig_ax: 15, ip: 16, cs: 17, flags: 18, sp: 19, ss: 20 } as const;
type Place = keyof typeof PLACES;

/** The words of a struct pt_regs of kernel code; everything that is not given is 0. */
export function regsWords(values: Partial<Record<Place, bigint>>): bigint[] {
  const words = new Array<bigint>(PT_REGS_SIZE / 8).fill(0n);
  const all = {
    cs: BigInt(__KERNEL_CS),
    ss: BigInt(__KERNEL_DS),
    orig_ax: 0xffff_ffff_ffff_ffffn,
    ...values,
  };
  for (const [name, value] of Object.entries(all)) words[PLACES[name as Place]] = value;
  return words;
}

export function makeRegs(values: Partial<Record<Place, bigint>>): X86PtRegs {
  const regs = new X86PtRegs();
  regs.words.set(regsWords(values));
  return regs;
}

/** Stores words from an address of the stack upwards. */
export function store(machine: TestMachine, at: bigint, words: readonly bigint[]): void {
  words.forEach((word, i) => {
    machine.ram.writeU64(machine.mmu.peek(at + BigInt(i * 8)), word);
  });
}

/** Takes away what calling the code has left on the stack. */
export function clearStack(machine: TestMachine): void {
  store(machine, STACK, new Array<bigint>(Number(STACK_TOP - STACK) / 8).fill(0n));
}

/** What the trace from these registers prints. */
export function trace(machine: TestMachine, values: Partial<Record<Place, bigint>>): string[] {
  machine.log.events.length = 0;
  show_trace_log_lvl(machine.here, makeRegs(values), KERN_DEFAULT);
  return machine.console();
}

/** Code that calls with a frame pointer: push rbp; mov rbp,rsp; call; pop rbp; ret. Returns to +9. */
export const FRAMED = [0x55, 0x48, 0x89, 0xe5, 0xe8, 0, 0, 0, 0, 0x5d, 0xc3];
/** Code that calls without: sub rsp,8; call; add rsp,8; ret. Returns to +9. */
export const FRAMELESS = [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3];
/** mov [rdi],rax; ret */
export const LEAF = [0x48, 0x89, 0x07, 0xc3];

/** A function of the image that host code stands in for: filler, with what is known of it as entry code. */
export function entryCode(machine: TestMachine, name: string, offset: number, size: number): bigint {
  return machine.text(name, offset, new Array<number>(size).fill(0xcc));
}

export { STACK, STACK_TOP, TEXT };
