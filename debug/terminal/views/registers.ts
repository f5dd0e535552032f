/** `info registers`: one in a line, as gdb has them, with a mark at those that have changed. */
import { hex16 } from '../../../emu/address.js';
import type { RegisterView } from '../../views.js';
import { changed, dim, type Line, line, name } from '../lines.js';

/** Flags that are set, as gdb names them; for registers whose single bits are what one reads. */
const FLAGS: Readonly<Record<string, readonly (readonly [string, number])[]>> = {
  rflags: [
    ['CF', 0],
    ['PF', 2],
    ['AF', 4],
    ['ZF', 6],
    ['SF', 7],
    ['TF', 8],
    ['IF', 9],
    ['DF', 10],
    ['OF', 11],
    ['NT', 14],
    ['RF', 16],
    ['AC', 18],
    ['ID', 21],
  ],
  cr0: [
    ['PE', 0],
    ['MP', 1],
    ['EM', 2],
    ['TS', 3],
    ['ET', 4],
    ['NE', 5],
    ['WP', 16],
    ['AM', 18],
    ['NW', 29],
    ['CD', 30],
    ['PG', 31],
  ],
  cr4: [
    ['DE', 3],
    ['PSE', 4],
    ['PAE', 5],
    ['MCE', 6],
    ['PGE', 7],
    ['OSFXSR', 9],
    ['OSXMMEXCPT', 10],
    ['UMIP', 11],
    ['LA57', 12],
    ['FSGSBASE', 16],
    ['PCIDE', 17],
    ['OSXSAVE', 18],
    ['SMEP', 20],
    ['SMAP', 21],
    ['PKE', 22],
    ['CET', 23],
    ['PKS', 24],
  ],
  efer: [
    ['SCE', 0],
    ['LME', 8],
    ['LMA', 10],
    ['NXE', 11],
  ],
  pstate: [
    ['N', 31],
    ['Z', 30],
    ['C', 29],
    ['V', 28],
    ['TCO', 25],
    ['DIT', 24],
    ['UAO', 23],
    ['PAN', 22],
    ['SS', 21],
    ['IL', 20],
    ['D', 9],
    ['A', 8],
    ['I', 7],
    ['F', 6],
  ],
};

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
