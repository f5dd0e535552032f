/** Where the functions of the kernel image lie that host code stands in for. */
import type { Arch, KernelFunction } from '../arch/arch.js';
import { PAGE_SIZE } from '../arch/kernel.js';
import type { KernelSymbol } from '../kernel/kallsyms.js';
import { alignUp } from './text.js';

/**
 * Room at the start of kernel text for the kernel's own functions. What is loaded begins behind it, so that
 * one function more there moves nothing: the bytes of calls in fixtures stay right.
 */
export const IMAGE_ROOM = 0x10_0000n;
/** Where those begin that guest code can call. The bytes of these calls are in fixtures, too. */
const CALLABLE = IMAGE_ROOM / 2n;
/** Where those begin that BPF programs call, and the way to them. */
const BPF_CALLABLE = (IMAGE_ROOM * 3n) / 4n;
const GROUP_ROOM = 0x1000n;

/** The kernel image: functions that host code stands in for, and the place that calls return to. */
export interface Image {
  readonly symbols: readonly KernelSymbol[];
  readonly sentinel: bigint;
}

/** Lays the image out from the start of text. The function of the sentinel has a page of its own. */
export function placeImage(arch: Arch, more: readonly KernelFunction[]): Image {
  const { text } = arch.layout;
  const bottom = arch.kernelFunctions.find(({ name }) => name === arch.bottomFrame.fn);
  if (bottom === undefined) throw new Error(`${arch.bottomFrame.fn} is not among the kernel's functions`);
  const first = inARow(text.start, [bottom]);
  const behind = alignUp(text.start + BigInt(bottom.size), BigInt(PAGE_SIZE));
  const others = arch.kernelFunctions.filter(({ name }) => name !== bottom.name);
  return {
    symbols: [...first, ...inARow(behind, others), ...inARow(text.start + CALLABLE, more)],
    sentinel: text.start + BigInt(arch.bottomFrame.offset),
  };
}

/**
 * The places of functions that BPF programs call. Each group has room of its own, and a new function goes to the
 * end of its group: nothing moves.
 */
export function placeBpfFunctions(
  arch: Arch,
  groups: readonly (readonly KernelFunction[])[],
): KernelSymbol[] {
  const start = arch.layout.text.start + BPF_CALLABLE;
  return groups.flatMap((group, i) => inARow(start + BigInt(i) * GROUP_ROOM, group));
}

function inARow(start: bigint, functions: readonly KernelFunction[]): KernelSymbol[] {
  let at = start;
  return functions.map(({ name, size }) => {
    const symbol: KernelSymbol = { name, start: at, size, kind: 'text' };
    at = alignUp(at + BigInt(size), 16n);
    return symbol;
  });
}
