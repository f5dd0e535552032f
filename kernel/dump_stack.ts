/**
 * The lines that say where a report comes from: dump_stack_print_info() of lib/dump_stack.c and
 * print_modules() of kernel/module/main.c (bpf-next merge 8496d9020ff3).
 *
 * Left out: kdump, build ids, workqueue, stopper and sched_ext lines, the module that was unloaded last.
 */
import type { ThisCpu } from '../arch/arch.js';
import { KERN_DEFAULT } from '../arch/kernel.js';

/** Characters of a comm that the CPU line shows. */
const COMM_SHOWN = 20;

/**
 * Prints the CPU line, which ends in a blank without build id, the names of the taint flags when there are
 * any, and the name of the hardware when it is known.
 */
export function dump_stack_print_info(here: ThisCpu, level: number): void {
  const { kernel, current, arch } = here;
  const { release, version, preempt, hardware } = kernel.config;
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
  const name = hardware ?? arch.hardwareName ?? '';
  if (name !== '') kernel.printk(here, level, `Hardware name: ${name}`);
}

/** Bytes that one record can hold: PRINTKRB_RECORD_MAX. */
const RECORD_MAX = 1024;

/**
 * Prints the line with the modules; it is there without any module, too, but not without CONFIG_MODULES.
 * What a record has no room for any more begins another one.
 */
export function print_modules(here: ThisCpu): void {
  const { kernel } = here;
  const { MODULES, modules } = kernel.config;
  if (!MODULES) return;
  let text = 'Modules linked in:';
  for (const { name, flags } of modules) {
    const part = ` ${name}${flags === '' ? '' : `(${flags})`}`;
    // The byte behind a piece counts, too.
    if (text.length + part.length + 1 > RECORD_MAX) {
      kernel.printk(here, KERN_DEFAULT, text);
      text = '';
    }
    text += part;
  }
  kernel.printk(here, KERN_DEFAULT, text);
}
