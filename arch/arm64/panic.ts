/**
 * What panic() prints of the architecture's own.
 *
 * Ported from show_stack() of arch/arm64/kernel/stacktrace.c, smp_send_stop() of kernel/smp.c,
 * arm64_panic_block_dump() of kernel/setup.c, dump_cpu_features() of kernel/cpufeature.c and dump_mem_limit() of
 * mm/init.c, bpf-next merge 8496d9020ff3. Left out: CPUs that do not stop, KASLR and mem=.
 */
import type { ThisCpu } from '../arch.js';
import { KERN_CRIT, KERN_EMERG } from '../kernel.js';
import { Arm64PtRegs } from './regs.js';
import { dump_backtrace } from './stacktrace.js';

/**
 * The map of capabilities as %*pb prints it. Chosen: its bits are numbered when the kernel is built, and
 * depend on the CPU.
 */
const SYSTEM_CPUCAPS = '0x0000,00000003,80000008,4240500b';

/**
 * The frames of host code from show_stack() to panic(), as published reports print them. Chosen: offset and size in
 * vpanic(), which are those of panic() when it was one function.
 */
const PANIC_FRAMES: readonly string[] = [
  'show_stack+0x18/0x24 (C)',
  'dump_stack_lvl+0x60/0x80',
  'dump_stack+0x18/0x24',
  'vpanic+0x168/0x360',
  'panic+0x58/0x5c',
];

/**
 * The stack of a panic: the handlers, which are host code, by name, and then what the exception came out of.
 * Nothing where there was no exception: that code is all the host's.
 */
export function show_stack(here: ThisCpu, level: number): void {
  const { regs } = here;
  if (!(regs instanceof Arm64PtRegs)) return;
  dump_backtrace(here, regs, level, here.current, [...PANIC_FRAMES, ...regs.handlers]);
}

/** See Arch.smp_send_stop. A machine with one CPU has none to stop. */
export function smp_send_stop(here: ThisCpu): void {
  const { kernel } = here;
  if ((kernel.num_online_cpus ?? 1) > 1) kernel.printk(here, KERN_CRIT, 'SMP: stopping secondary CPUs');
}

/** See Arch.panicNotifierLines. The kernel is where it was linked for, and uses all of the memory. */
export function panicNotifierLines(): readonly { level: number; text: string }[] {
  const emerg = (text: string): { level: number; text: string } => ({ level: KERN_EMERG, text });
  return [
    emerg('Kernel Offset: disabled'),
    emerg(`CPU features: ${SYSTEM_CPUCAPS}`),
    emerg('Memory Limit: none'),
  ];
}
