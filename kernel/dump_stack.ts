/**
 * The lines that say where a report comes from: dump_stack_print_info() of lib/dump_stack.c and
 * print_modules() of kernel/module/main.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: kdump, build ids, workqueue, stopper and sched_ext lines, unloaded modules.
 */
import type { ThisCpu } from '../arch/arch.js';
import { KERN_DEFAULT } from '../arch/kernel.js';

/** A module as its line names it. */
export interface LoadedModule {
  readonly name: string;
  /** Taint letters, e.g. `OE`; empty for none. */
  readonly flags: string;
}

/** Characters of a comm that the CPU line shows. */
const COMM_SHOWN = 20;

/**
 * Prints the CPU line, which ends in a blank without build id, the names of the taint flags when there are
 * any, and the name of the hardware when it is known.
 */
export function dump_stack_print_info(
  here: ThisCpu,
  level: number,
  hardwareName: string | null = null,
): void {
  const { kernel, current } = here;
  const { release, version, preempt } = kernel.config;
  const uid = current.uid >>> 0;
  const comm = current.comm.slice(0, COMM_SHOWN);
  const taint = kernel.print_tainted();
  const build = version.split(' ', 1)[0] ?? '';
  kernel.printk(
    here,
    level,
    `CPU: ${here.cpu.id} UID: ${uid} PID: ${current.pid} Comm: ${comm} ${taint} ${release} ${build} ${preempt} `,
  );
  const verbose = kernel.print_tainted_verbose();
  if (verbose !== null) kernel.printk(here, level, verbose);
  if (hardwareName !== null) kernel.printk(here, level, `Hardware name: ${hardwareName}`);
}

/** Prints the line with the modules; it is there without any module, too. */
export function print_modules(here: ThisCpu, modules: readonly LoadedModule[] = []): void {
  const names = modules.map(({ name, flags }) => ` ${name}${flags === '' ? '' : `(${flags})`}`);
  here.kernel.printk(here, KERN_DEFAULT, `Modules linked in:${names.join('')}`);
}
