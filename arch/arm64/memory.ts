/**
 * Which half an address belongs to, for software.
 *
 * Ported from arch/arm64/include/asm/{memory,processor,uaccess,cpufeature}.h, bpf-next merge 8496d9020ff3, for 48-bit
 * addresses. Left out: KASAN tags, 32-bit tasks.
 */
import type { KernelConfig } from '../kernel-config.js';

/** TASK_SIZE_64: end of the user half. */
export const TASK_SIZE = 0x0001_0000_0000_0000n;
/** Start of the kernel half, where the direct map begins. */
export const PAGE_OFFSET = 0xffff_0000_0000_0000n;

const BIT_55 = 1n << 55n;

/** Clears the top byte of a user address, and leaves a kernel address (bit 55 set) as it is. */
export function untagged_addr(addr: bigint): bigint {
  return BigInt.asUintN(64, addr & BIT_55) === 0n ? BigInt.asUintN(56, addr) : addr;
}

/** Below TASK_SIZE. Addresses between the halves belong to neither. */
export function is_ttbr0_addr(addr: bigint): boolean {
  return addr < TASK_SIZE;
}

/** Software PAN is in use: CONFIG_ARM64_SW_TTBR0_PAN on a CPU without PAN of its own. */
export function system_uses_ttbr0_pan(config: KernelConfig): boolean {
  return config.SW_TTBR0_PAN && !config.PAN;
}

export function is_ttbr1_addr(addr: bigint): boolean {
  return addr >= PAGE_OFFSET;
}
