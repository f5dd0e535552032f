/**
 * Kernel functions that programs and trampolines call and whose body is host code: what boot/ gives a place
 * in kernel text, and how a body reads what its caller has in memory.
 */
import type { KernelFunction, ThisCpu } from '../arch/arch.js';
import { hex, u64 } from '../emu/address.js';
import type { Path } from '../emu/path.js';
import { GuestRefusal } from '../kernel/guest-refusal.js';
import type { BpfEnv } from './env.js';
import { type bpf_prog, main_prog } from './program.js';

/** Gets the arguments that registers carry, and says what goes to the return register. */
export type KfuncBody = (here: ThisCpu, args: readonly bigint[]) => Path<bigint>;

/** One such function. The size is what kallsyms and stack dumps show. */
export interface Kfunc extends KernelFunction {
  readonly body: KfuncBody;
}

/** Argument `i` as an unsigned number of 32 bits. */
export function argU32(args: readonly bigint[], i: number): number {
  return Number(BigInt.asUintN(32, args[i] ?? 0n));
}

/** Argument `i` as a signed number of 32 bits. */
export function argS32(args: readonly bigint[], i: number): number {
  return Number(BigInt.asIntN(32, args[i] ?? 0n));
}

/** An int as the return register carries it. */
export function returnInt(value: number): bigint {
  return BigInt.asUintN(64, BigInt(value));
}

/** Physical address of an aligned word of kernel memory. Throws a GuestRefusal when it is not mapped. */
export function kernelWord(here: ThisCpu, va: bigint, size: 4 | 8): number {
  const pa = here.mmu.peek(va);
  if (pa < 0 || pa % size !== 0)
    throw new GuestRefusal(`no aligned memory of the kernel at ${hex(va)}, where it needs ${size} bytes`);
  return pa;
}

/** The 64-bit words of an array, which may cross pages. Throws like kernelWord(). */
export function kernelWords(here: ThisCpu, va: bigint, count: number): bigint[] {
  return Array.from({ length: count }, (_, i) =>
    here.ram.readU64(kernelWord(here, u64(va + BigInt(i * 8)), 8)),
  );
}

/**
 * The main program that calls a kfunc, by the prog->aux that the verifier makes it hand over (fixup_kfunc_call()).
 * Native code that somebody else compiled hands over an address of another machine: then it is the innermost
 * program on the stack. Throws a GuestRefusal when there is none either.
 */
export function callingProg(here: ThisCpu, env: BpfEnv, handed: bigint): bpf_prog {
  const aux = env.programs.auxAt(handed);
  const prog = aux === null ? env.programs.bpf_prog_find_from_stack(here) : main_prog(aux.prog);
  if (prog !== null) return prog;
  throw new GuestRefusal(
    `it is called with ${hex(handed)} for the prog->aux of its caller, which is none, and no BPF program is on the stack`,
  );
}

/** A group of such functions, in the order of their addresses: what is known of them without a machine. */
export type KfuncSizes<Name extends string = string> = Readonly<Record<Name, number>>;

/** The functions of a group with their bodies. */
export function kfuncs<Name extends string>(
  sizes: KfuncSizes<Name>,
  bodies: Readonly<Record<NoInfer<Name>, KfuncBody>>,
): Kfunc[] {
  return (Object.keys(sizes) as Name[]).map((name) => ({ name, size: sizes[name], body: bodies[name] }));
}
