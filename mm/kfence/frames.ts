/**
 * Functions of the kernel that stand between a caller of the allocators and the places where KFENCE saves
 * a stack. They are host code; what a stack shows of them is their return addresses.
 *
 * Sizes and offsets are chosen, the same on both architectures (so that they are whole instructions of A64):
 * no report prints them, because printing begins behind the allocator (get_stack_skipnr()), except where
 * nothing of the allocator is on the stack.
 */
import type { HandlerFrame, KernelFunction } from '../../arch/arch.js';

interface Frame extends KernelFunction {
  /** Where the call of the next inner function returns to. */
  readonly offset: number;
}

const FRAMES = {
  __kfence_alloc: { name: '__kfence_alloc', size: 0x430, offset: 0xb4 },
  kfence_guarded_free: { name: 'kfence_guarded_free', size: 0x1d0, offset: 0x9c },
  check_canary_byte: { name: 'check_canary_byte', size: 0xa0, offset: 0x6c },
  __kfence_free: { name: '__kfence_free', size: 0xe0, offset: 0x7c },
  rcu_guarded_free: { name: 'rcu_guarded_free', size: 0x30, offset: 0x20 },
  kfence_shutdown_cache: { name: 'kfence_shutdown_cache', size: 0x210, offset: 0x110 },
  kfence_check_canary_callback: { name: 'kfence_check_canary_callback', size: 0x80, offset: 0x50 },
  rcu_do_batch: { name: 'rcu_do_batch', size: 0x560, offset: 0x1c8 },
  rcu_core: { name: 'rcu_core', size: 0x380, offset: 0x188 },
  notifier_call_chain: { name: 'notifier_call_chain', size: 0xf0, offset: 0x5c },
  atomic_notifier_call_chain: { name: 'atomic_notifier_call_chain', size: 0x60, offset: 0x34 },
  panic: { name: 'panic', size: 0x50, offset: 0x38 },
  kfence_handle_fault: { name: 'kfence_handle_fault', size: 0x60, offset: 0x2c },
  kfence_protect: { name: 'kfence_protect', size: 0xd0, offset: 0x94 },
  kfence_unprotect: { name: 'kfence_unprotect', size: 0xd0, offset: 0x94 },
} as const satisfies Readonly<Record<string, Frame>>;

export type KfenceFrame = keyof typeof FRAMES;

/** What kallsyms needs to know of them. */
export const kfenceFunctions: readonly KernelFunction[] = Object.values(FRAMES);

export function frameOf(name: KfenceFrame): HandlerFrame {
  return { fn: name, offset: FRAMES[name].offset };
}

/** What %pS says about the place in a function from which it calls on. */
export function placeIn(name: KfenceFrame): string {
  const { offset, size } = FRAMES[name];
  return `${name}+0x${offset.toString(16)}/0x${size.toString(16)}`;
}
