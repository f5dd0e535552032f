/** `info registers`: one in a line, as gdb has them, with a mark at those that have changed. */
import { hex16 } from '../../../emu/address.js';
import { type Flag, REGISTER_FLAGS } from '../../register-flags.js';
import type { RegisterView } from '../../views.js';
import { changed, dim, type Line, line, name } from '../lines.js';

const FLAGS: Readonly<Record<string, readonly Flag[]>> = REGISTER_FLAGS;

/** `[ ZF PF IF ]`; nothing for a register without flags. */
export function flagsText(register: string, value: bigint): string {
  const key =
    register === 'eflags' ? 'rflags' : register === 'cpsr' || register === 'nzcv' ? 'pstate' : register;
  const flags = FLAGS[key];
  if (flags === undefined) return '';
  const set = flags.filter(([, bit]) => ((value >> BigInt(bit)) & 1n) === 1n).map(([flag]) => flag);
  return `[ ${set.map((flag) => `${flag} `).join('')}]`;
}

/** A line for each register; `*` in front of what is not as it was at the stop before. */
export function registerLines(registers: readonly RegisterView[]): Line[] {
  const longest = Math.max(0, ...registers.map((register) => register.name.length));
  return registers.map((register) => {
    const mark = register.changed ? changed('*') : ' ';
    const digits = register.changed ? changed(hex16(register.value)) : hex16(register.value);
    const flags = flagsText(register.name, register.value);
    const what = register.symbol === null ? dim(flags) : name(register.symbol);
    return line(mark, register.name.padEnd(longest + 2), digits, '  ', what);
  });
}
