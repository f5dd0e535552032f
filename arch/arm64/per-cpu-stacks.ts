/**
 * Stacks that each CPU has besides its tasks': as far as reports name them. Nothing runs on them here, and
 * nothing is mapped there: the places are chosen, as early boot leaves them, in the kernel image.
 */

/** A stack: its lowest address and its size in bytes. */
export interface Stack {
  readonly start: bigint;
  readonly size: number;
}

/** IRQ_STACK_SIZE and OVERFLOW_STACK_SIZE, arch/arm64/include/asm/memory.h. */
const IRQ_STACK_SIZE = 16384;
const OVERFLOW_STACK_SIZE = 4096;

const IRQ_STACKS = 0xffff_8000_80f0_0000n;
/** Aligned to twice the size, as the task's. */
const IRQ_STACK_DISTANCE = 2n * BigInt(IRQ_STACK_SIZE);
const OVERFLOW_STACKS = 0xffff_8000_80f8_0000n;

/** irq_stack_ptr of a CPU. */
export function irqStack(cpu: number): Stack {
  return { start: IRQ_STACKS + BigInt(cpu) * IRQ_STACK_DISTANCE, size: IRQ_STACK_SIZE };
}

/** overflow_stack of a CPU. */
export function overflowStack(cpu: number): Stack {
  return { start: OVERFLOW_STACKS + BigInt(cpu) * BigInt(OVERFLOW_STACK_SIZE), size: OVERFLOW_STACK_SIZE };
}
