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

/** The kernel image: functions that host code stands in for, and the place that calls return to. */
export interface Image {
  readonly symbols: readonly KernelSymbol[];
  readonly sentinel: bigint;
}

/** Lays the image out from the start of text. The function of the sentinel has a page of its own. */
export function placeImage(arch: Arch, more: readonly KernelFunction[]): Image {
  const symbols: KernelSymbol[] = [];
  let at = arch.layout.text.start;
  const place = (name: string, size: number): void => {
    symbols.push({ name, start: at, size, kind: 'text' });
    at = alignUp(at + BigInt(size), 16n);
  };
  const bottom = arch.kernelFunctions.find(({ name }) => name === arch.bottomFrame.fn);
  if (bottom === undefined) throw new Error(`${arch.bottomFrame.fn} is not among the kernel's functions`);
  const sentinel = at + BigInt(arch.bottomFrame.offset);
  place(bottom.name, bottom.size);
  at = alignUp(at, BigInt(PAGE_SIZE));
  for (const { name, size } of arch.kernelFunctions) if (name !== bottom.name) place(name, size);
  at = arch.layout.text.start + CALLABLE;
  for (const { name, size } of more) place(name, size);
  return { symbols, sentinel };
}
