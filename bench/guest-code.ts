/** Machine code that the benchmarks run; each function takes its arguments in `registers`, in this order. */
import type { Arch } from '../arch/arch.js';
import { arm64 } from '../arch/arm64/index.js';
import { x86 } from '../arch/x86/index.js';

export type ArchName = Arch['name'];

export const ARCHES: Readonly<Record<ArchName, Arch>> = { 'x86-64': x86, arm64 };
export const ARCH_NAMES: readonly ArchName[] = ['x86-64', 'arm64'];

/** A function, and which registers its arguments go into. */
export interface GuestFunction {
  readonly code: Uint8Array;
  readonly registers: readonly string[];
}

function guestFunction(registers: string, ...instructions: string[]): GuestFunction {
  return { code: Buffer.from(instructions.join(''), 'hex'), registers: registers.split(' ') };
}

interface GuestCode {
  /** Stores to one page after the other, for ever. Arguments: first address. */
  readonly storeForEver: GuestFunction;
  /** Stores to pages, in a frame of its own. Arguments: first address, number of pages. */
  readonly touchPages: GuestFunction;
  /** Loads from one page after the other. Arguments: first address, number of pages, distance in bytes. */
  readonly loadPages: GuestFunction;
  /** Six instructions, of which one loads and one stores. Arguments: address of 8 bytes, rounds. */
  readonly loop: GuestFunction;
  /** Instructions of one round of `loop`. */
  readonly loopLength: number;
  /** Reads 8 bytes, in a frame of its own. Arguments: address. */
  readonly readWord: GuestFunction;
  /** Returns at once. */
  readonly nothing: GuestFunction;
  /** A function with a frame that calls the code `distance` bytes behind its own start. */
  readonly caller: (distance: number) => Uint8Array;
}

const X86: GuestCode = {
  // 1: mov [rdi], rax; add rdi, 4096; jmp 1b
  storeForEver: guestFunction('rdi', '488907', '4881c700100000', 'ebf4'),
  // push rbp; mov rbp, rsp; 1: mov [rdi], rsi; add rdi, 4096; dec rsi; jnz 1b; pop rbp; ret
  touchPages: guestFunction('rdi rsi', '554889e5', '488937', '4881c700100000', '48ffce', '75f1', '5dc3'),
  // 1: mov rax, [rdi]; add rdi, rdx; dec rsi; jnz 1b; ret
  loadPages: guestFunction('rdi rsi rdx', '488b07', '4801d7', '48ffce', '75f5', 'c3'),
  // 1: mov rax, [rdi]; add rax, rsi; mov [rdi], rax; xor rdx, rax; dec rsi; jnz 1b; ret
  loop: guestFunction('rdi rsi', '488b07', '4801f0', '488907', '4831c2', '48ffce', '75ef', 'c3'),
  loopLength: 6,
  // push rbp; mov rbp, rsp; mov rax, [rdi]; pop rbp; ret
  readWord: guestFunction('rdi', '554889e5', '488b07', '5dc3'),
  nothing: guestFunction('rdi', 'c3'),
  caller: (distance) => {
    // push rbp; mov rbp, rsp; call …; leave; ret
    const code = Buffer.from('554889e5e800000000c9c3', 'hex');
    code.writeInt32LE(distance - 9, 5);
    return code;
  },
};

const ARM64: GuestCode = {
  // 1: str x1, [x0]; add x0, x0, #1, lsl #12; b 1b
  storeForEver: guestFunction('x0', '010000f9', '00044091', 'feffff17'),
  // stp x29, x30, [sp, #-16]!; mov x29, sp;
  // 1: str x1, [x0]; add x0, x0, #1, lsl #12; subs x1, x1, #1; b.ne 1b; ldp x29, x30, [sp], #16; ret
  touchPages: guestFunction(
    'x0 x1',
    'fd7bbfa9fd030091',
    '010000f9',
    '00044091',
    '210400f1',
    'a1ffff54',
    'fd7bc1a8c0035fd6',
  ),
  // 1: ldr x3, [x0]; add x0, x0, x2; subs x1, x1, #1; b.ne 1b; ret
  loadPages: guestFunction('x0 x1 x2', '030040f9', '0000028b', '210400f1', 'a1ffff54', 'c0035fd6'),
  // 1: ldr x3, [x0]; add x3, x3, x1; str x3, [x0]; eor x4, x4, x3; subs x1, x1, #1; b.ne 1b; ret
  loop: guestFunction(
    'x0 x1',
    '030040f9',
    '6300018b',
    '030000f9',
    '840003ca',
    '210400f1',
    '61ffff54',
    'c0035fd6',
  ),
  loopLength: 6,
  // stp x29, x30, [sp, #-16]!; mov x29, sp; ldr x0, [x0]; ldp x29, x30, [sp], #16; ret
  readWord: guestFunction('x0', 'fd7bbfa9fd030091', '000040f9', 'fd7bc1a8c0035fd6'),
  nothing: guestFunction('x0', 'c0035fd6'),
  caller: (distance) => {
    // stp x29, x30, [sp, #-16]!; mov x29, sp; bl …; ldp x29, x30, [sp], #16; ret
    const code = Buffer.from('fd7bbfa9fd03009100000094fd7bc1a8c0035fd6', 'hex');
    code.writeUInt32LE((0x94000000 | (((distance - 8) >> 2) & 0x3ffffff)) >>> 0, 8);
    return code;
  },
};

export const GUEST_CODE: Readonly<Record<ArchName, GuestCode>> = { 'x86-64': X86, arm64: ARM64 };

/** Registers for a call: the arguments in their places. */
export function argumentsOf(fn: GuestFunction, ...values: bigint[]): Map<string, bigint> {
  return new Map(values.map((value, i) => [fn.registers[i] ?? 'no such argument', value]));
}
