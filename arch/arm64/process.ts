/**
 * The register block of an oops.
 *
 * Ported from arch/arm64/kernel/process.c (print_pstate, __show_regs), bpf-next merge 8496d9020ff3. Left
 * out: AArch32 state, pseudo-NMI.
 */
import { hex16 } from '../../emu/address.js';
import type { ThisCpu } from '../arch.js';
import { KERN_DEFAULT } from '../kernel.js';
import type { Arm64PtRegs } from './regs.js';
import { stripPac } from './unwind.js';

const BTYPE_STRINGS = ['--', 'jc', '-c', 'j-'] as const;

/** NZCV and DAIF: capital when set. PAN to SSBS: a plus sign when set. */
export function pstateText(pstate: number): string {
  const set = (position: number): boolean => ((pstate >>> position) & 1) === 1;
  const letters = (names: string, positions: readonly number[]): string =>
    positions
      .map((position, i) => (set(position) ? names.charAt(i) : names.charAt(i).toLowerCase()))
      .join('');
  const sign = (position: number): string => (set(position) ? '+' : '-');
  const nzcv = letters('NZCV', [31, 30, 29, 28]);
  const daif = letters('DAIF', [9, 8, 7, 6]);
  const btype = BTYPE_STRINGS[(pstate >>> 10) & 3] ?? '--';
  return `${nzcv} ${daif} ${sign(22)}PAN ${sign(23)}UAO ${sign(25)}TCO ${sign(24)}DIT ${sign(12)}SSBS BTYPE=${btype}`;
}

/** Everything is printed without a level. */
export function __show_regs(here: ThisCpu, regs: Arm64PtRegs): void {
  const { kernel } = here;
  const line = (text: string): void => kernel.printk(here, KERN_DEFAULT, text);
  kernel.dump_stack_print_info(here, KERN_DEFAULT);
  line(`pstate: ${regs.pstate.toString(16).padStart(8, '0')} (${pstateText(regs.pstateBits)})`);
  if (regs.user_mode) {
    line(`pc : ${hex16(regs.pc)}`);
    line(`lr : ${hex16(regs.x(30))}`);
  } else {
    line(`pc : ${kernel.sprint_symbol(regs.pc)}`);
    line(`lr : ${kernel.sprint_symbol(stripPac(regs.x(30)))}`);
  }
  line(`sp : ${hex16(regs.sp)}`);
  for (let top = 29; top > 0; top -= 3) {
    const column = (n: number): string => `x${String(n).padEnd(2)}: ${hex16(regs.x(n))}`;
    line(`${column(top)} ${column(top - 1)} ${column(top - 2)}`);
  }
}
