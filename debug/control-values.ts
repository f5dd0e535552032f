/**
 * Values that a control register of x86-64 cannot have while 64-bit code runs: MOV to it, or WRMSR, raises #GP then. See
 * the SDM, volume 2, "MOV - Move to/from Control Registers", and volume 3, 2.2.1 and 2.5. arm64 has no such rule: what
 * its MMU does not model is refused by the MMU.
 */
import { MAXPHYADDR } from '../arch/x86/mmu.js';
import { hex } from '../emu/address.js';
import { type Flag, REGISTER_FLAGS } from './register-flags.js';

const PG = 1n << 31n;
const PE = 1n << 0n;
const NW = 1n << 29n;
const CD = 1n << 30n;
const PAE = 1n << 5n;
const LA57 = 1n << 12n;
const LME_LMA = (1n << 8n) | (1n << 10n);

/** What is wrong with a value; null when nothing is, and for other registers. `read`: another register's value. */
export function controlRefusal(read: (name: string) => bigint, name: string, value: bigint): string | null {
  const lost = (bits: bigint): boolean => (read(name) & bits) !== (value & bits);
  switch (name) {
    case 'cr0':
      if ((value & PG) === 0n || (value & PE) === 0n) return 'PG and PE are set as long as 64-bit code runs';
      if ((value & NW) !== 0n && (value & CD) === 0n) return 'NW is not set without CD';
      return reserved(value, REGISTER_FLAGS.cr0);
    case 'cr3':
      return value >> BigInt(MAXPHYADDR) === 0n
        ? null
        : `bits ${MAXPHYADDR} to 63 are reserved, the physical address has ${MAXPHYADDR} bits`;
    case 'cr4':
      if ((value & PAE) === 0n) return 'PAE is set as long as 64-bit code runs';
      if (lost(LA57)) return 'LA57 does not change as long as 64-bit code runs';
      return reserved(value, REGISTER_FLAGS.cr4);
    case 'cr8':
      return value < 16n ? null : 'bits 4 to 63 are reserved';
    case 'efer':
      if (lost(LME_LMA)) return 'LME and LMA do not change as long as paging is on';
      return reserved(value, REGISTER_FLAGS.efer);
    default:
      return null;
  }
}

function reserved(value: bigint, flags: readonly Flag[]): string | null {
  const known = flags.reduce((sum, [, bit]) => sum | (1n << BigInt(bit)), 0n);
  const others = value & ~known;
  return others === 0n ? null : `${hex(others)} is reserved in it`;
}
