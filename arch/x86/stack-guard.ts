/**
 * Questions about the current task's stack: arch/x86/include/asm/stacktrace.h, arch/x86/kernel/dumpstack.c
 * and include/linux/sched/task_stack.h, bpf-next merge 8496d9020ff3. Left out: all stacks but the task's.
 */
import type { ThisCpu } from '../arch.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';

export const VMALLOC_START = 0xffff_c900_0000_0000n;
/** The last byte: the kernel compares it as if it were behind that. */
export const VMALLOC_END = 0xffff_e8ff_ffff_ffffn;

/** struct stack_info, as far as printed. */
export interface stack_info {
  readonly name: string;
  readonly begin: bigint;
  readonly end: bigint;
}

export function is_vmalloc_addr(address: bigint): boolean {
  return address >= VMALLOC_START && address < VMALLOC_END;
}

/** get_stack_info(): the stack of the current task that holds `address`. */
export function get_stack_info(here: ThisCpu, address: bigint): stack_info | null {
  const { stack, stackSize } = here.current;
  const end = stack + BigInt(stackSize);
  return address >= stack && address < end ? { name: 'TASK', begin: stack, end } : null;
}

/** The stack whose guard page holds `address`: on no stack itself, but the next page is. */
export function get_stack_guard_info(here: ThisCpu, address: bigint): stack_info | null {
  // Only addresses below a stack can be in its guard page.
  if (address >= here.current.stack) return null;
  return get_stack_info(here, address + 0x1000n);
}

const STACK_END_MAGIC = 0x57ac6e9dn;

/**
 * set_task_stack_end_magic(). The kernel does it when it creates the task; here it is done before the task
 * runs for the first time.
 */
export function set_task_stack_end_magic(here: ThisCpu): void {
  const { current, ram } = here;
  const thread = machineOf(here).thread(current);
  const pa = mmuOf(here).peek(current.stack);
  if (thread.stackEndSet || pa < 0) return;
  thread.stackEndSet = true;
  ram.writeU64(pa, STACK_END_MAGIC);
}

/** task_stack_end_corrupted(): the lowest word of the stack is not what it was at the task's creation. */
export function task_stack_end_corrupted(here: ThisCpu): boolean {
  const { current } = here;
  const pa = mmuOf(here).peek(current.stack);
  return machineOf(here).thread(current).stackEndSet && pa >= 0 && here.ram.readU64(pa) !== STACK_END_MAGIC;
}
