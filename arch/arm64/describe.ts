/**
 * Walks and syndromes in words, for `explain` and the debugger.
 */

import { hex16 } from '../../emu/address.js';
import type { WalkEvent, WalkLevel } from '../../emu/events.js';
import { esr_get_class_string } from './class-string.js';
import {
  cm,
  ESR_ELx_EC,
  ESR_ELx_EC_IABT_CUR,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_IL,
  ESR_ELx_ISV,
  esr_is_data_abort,
  fsc,
  wnr,
} from './esr.js';
import { faultInfo } from './fault-info.js';
import { __swp_offset, __swp_type, pte_swp_exclusive, pte_swp_uffd_wp } from './pgtable.js';
import { TABLE_ADDR } from './pgtable-hwdef.js';
import { LEVEL_NAMES } from './walk.js';

function isSet(entry: bigint, position: number): boolean {
  return ((entry >> BigInt(position)) & 1n) === 1n;
}

/** AP[2:1] as the architecture names it, and who may do what by it. */
function accessText(entry: bigint): string {
  const el0 = isSet(entry, 6);
  const readOnly = isSet(entry, 7);
  const el1 = readOnly ? 'r/o' : 'r/w';
  return `AP[2:1]=${readOnly ? 1 : 0}${el0 ? 1 : 0} (EL1 ${el1}, EL0 ${el0 ? el1 : 'none'})`;
}

/** The bits of a leaf that permission and access flag checks look at, and nG. */
function leafText(entry: bigint): string {
  const flag = (name: string, position: number): string => `${name}=${isSet(entry, position) ? 1 : 0}`;
  const flags = [flag('AF', 10), flag('nG', 11), flag('DBM', 51), flag('PXN', 53), flag('UXN', 54)];
  return `${accessText(entry)} ${flags.join(' ')}`;
}

/** What a table descriptor takes away from everything below it: the fields that are not 0. */
function tableText(entry: bigint): string {
  const parts: string[] = [];
  const apTable = (isSet(entry, 62) ? 2 : 0) + (isSet(entry, 61) ? 1 : 0);
  if (apTable !== 0) parts.push(`APTable=${apTable >>> 1}${apTable & 1}`);
  if (isSet(entry, 59)) parts.push('PXNTable=1');
  if (isSet(entry, 60)) parts.push('UXNTable=1');
  return parts.length === 0 ? '' : ` ${parts.join(' ')}`;
}

/** What software reads from an entry that is neither none nor present. */
function swapText(entry: bigint): string {
  const offset = __swp_offset(entry).toString(16);
  const exclusive = pte_swp_exclusive(entry) ? ', exclusive' : '';
  const uffd = pte_swp_uffd_wp(entry) ? ', uffd-wp' : '';
  return `for software a swap entry: type ${__swp_type(entry)}, offset 0x${offset}${exclusive}${uffd}`;
}

/**
 * Index of an entry in its table. A first table may be smaller than a page and begin anywhere in one; in the
 * low half the address tells, because what is above the index is zero.
 */
function indexOf(va: bigint, { entryPa }: WalkLevel, level: number): number {
  return isSet(va, 55) ? (entryPa & 0xfff) / 8 : Number((va >> BigInt(39 - 9 * level)) & 511n);
}

/** What the entry is, and a second text: the bits of a leaf, or why an entry that is not 0 is invalid. */
function entryText({ entry }: WalkLevel, level: number): readonly [string, string | null] {
  if (!isSet(entry, 0)) {
    if (entry === 0n) return ['invalid: bit 0 = 0', null];
    if (isSet(entry, 11)) return ['invalid: bit 0 = 0', 'PTE_PRESENT_INVALID=1: present for software'];
    if (level === 3) return ['invalid: bit 0 = 0, other bits ignored', swapText(entry)];
    return ['invalid: bit 0 = 0, other bits ignored', null];
  }
  if (level < 3 && isSet(entry, 1)) {
    return [`table at 0x${(entry & TABLE_ADDR).toString(16)}${tableText(entry)}`, null];
  }
  if (level === 0) return ['invalid: bits 1:0 = 01', 'there are no blocks at level 0'];
  if (level === 3 && !isSet(entry, 1))
    return ['invalid: bits 1:0 = 01', 'reserved at level 3; valid for software, which looks at bit 0'];
  const size = level === 3 ? 12n : level === 2 ? 21n : 30n;
  const what = level === 3 ? 'page' : level === 2 ? '2 MiB block' : '1 GiB block';
  const address = ((entry & TABLE_ADDR) >> size) << size;
  return [`${what} at 0x${address.toString(16)}`, leafText(entry)];
}

/** For each entry that the walk read a line, and one more where there is more to tell; then what it came to. */
export function describeWalk(event: WalkEvent): string[] {
  const lines = event.levels.flatMap((read) => {
    const level = LEVEL_NAMES.indexOf(read.level);
    const name = `${read.level.toUpperCase()}[${indexOf(event.va, read, level)}]`.padEnd(8);
    const place = `level ${level} at 0x${read.entryPa.toString(16).padStart(9, '0')}`;
    const [what, bits] = entryText(read, level);
    const line = `${name} ${place} = ${hex16(read.entry)}  ${what}`;
    return bits === null ? [line] : [line, `${' '.repeat(9)}${bits}`];
  });
  const half = isSet(event.va, 55) ? 'TTBR1_EL1' : 'TTBR0_EL1';
  const who = event.user ? 'unprivileged' : 'privileged';
  const where = event.at === null ? 'before any table was read' : `at ${event.at.toUpperCase()}`;
  lines.push(`${who} ${event.access} of ${hex16(event.va)} through ${half}, decided ${where}:`);
  lines.push(`  ${event.verdict}`);
  return lines;
}

/** What the fields of ESR_EL1 say; a class without a status code has only the first lines. */
export function describeFault(_exception: string, code: bigint): string[] {
  const ec = ESR_ELx_EC(code);
  const lines = [
    `EC = 0x${ec.toString(16).padStart(2, '0')}: ${esr_get_class_string(code)}`,
    `IL = ${(code & ESR_ELx_IL) !== 0n ? '1: 32-bit instruction' : '0: 16-bit instruction'}`,
  ];
  const dataAbort = esr_is_data_abort(code);
  if (dataAbort || ec === ESR_ELx_EC_IABT_CUR || ec === ESR_ELx_EC_IABT_LOW) {
    const status = fsc(code);
    lines.push(
      `${dataAbort ? 'DFSC' : 'IFSC'} = 0x${status.toString(16).padStart(2, '0')}: ${faultInfo(status).name}`,
    );
  }
  if (dataAbort) {
    // WnR tells about the fault: an atomic that may not even read is reported as a read.
    lines.push(`WnR = ${wnr(code) ? '1: by a write' : '0: by a read'}`);
    if (cm(code)) lines.push('CM = 1: by cache maintenance (WnR is always 1 with it)');
    lines.push((code & ESR_ELx_ISV) !== 0n ? 'ISV = 1' : 'ISV = 0: no syndrome of the instruction');
  }
  return lines;
}
