/**
 * Questions about the current task's stack: arch/x86/include/asm/stacktrace.h, arch/x86/kernel/dumpstack.c
 * and include/linux/sched/task_stack.h, bpf-next merge 8496d9020ff3. Which stacks
 * there are is in unwind-stacks.ts.
 */
import { fromSigned, toSigned } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { machineOf } from './machine.js';
import { mmuOf } from './mmu.js';
import { get_stack_info_noinstr, stack_type_name } from './unwind-stacks.js';

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

/** get_stack_guard_info(): the stack whose guard page holds `address`: on no stack itself, but the next page is. */
export function get_stack_guard_info(here: ThisCpu, address: bigint): stack_info | null {
  const at = toSigned(address);
  if (get_stack_info_noinstr(here, at) !== null) return null;
  const info = get_stack_info_noinstr(here, at + PAGE_SIZE);
  if (info === null) return null;
  const name = stack_type_name(info.type) ?? '';
  return { name, begin: fromSigned(info.begin), end: fromSigned(info.end) };
}

/** Below each stack there is one page that is not mapped. */
const PAGE_SIZE = 4096;

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
