/**
 * Walks and syndromes in words, for `explain` and the debugger.
 */
import { hex16 } from '../../emu/address.js';
import type { WalkEvent, WalkLevel } from '../../emu/events.js';
import {
  cm,
  ESR_ELx_EC,
  ESR_ELx_EC_IABT_CUR,
  ESR_ELx_EC_IABT_LOW,
  ESR_ELx_IL,
  ESR_ELx_ISV,
  esr_get_class_string,
  esr_is_data_abort,
  fsc,
  wnr,
} from './esr.js';
import { faultInfo } from './fault-info.js';
import { TABLE_ADDR } from './pgtable.js';

function isSet(entry: bigint, position: number): boolean {
  return ((entry >> BigInt(position)) & 1n) === 1n;
}

/** AP[2:1] as the architecture names it, and who may do what by it. */
function accessText(entry: bigint): string {
  const el0 = isSet(entry, 6);
  const readOnly = isSet(entry, 7);
  const el1 = readOnly ? 'read-only' : 'read/write';
  return `AP[2:1]=${readOnly ? 1 : 0}${el0 ? 1 : 0}: EL1 ${el1}, EL0 ${el0 ? el1 : 'no access'}`;
}

/** The bits of a leaf that permission and access flag checks look at. */
function leafText(entry: bigint): string {
  const parts = [accessText(entry), isSet(entry, 10) ? 'AF=1' : 'AF=0: access flag not set'];
  if (isSet(entry, 51)) parts.push('DBM=1');
  if (isSet(entry, 53)) parts.push('PXN=1');
  if (isSet(entry, 54)) parts.push('UXN=1');
  return parts.join(', ');
}

/** What a table descriptor takes away from everything below it. */
function tableText(entry: bigint): string {
  const parts: string[] = [];
  if (isSet(entry, 61)) parts.push('no access for EL0 below');
  if (isSet(entry, 62)) parts.push('no writes below');
  if (isSet(entry, 59)) parts.push('PXNTable: no execution by EL1 below');
  if (isSet(entry, 60)) parts.push('UXNTable: no execution by EL0 below');
  return parts.length === 0 ? '' : `, ${parts.join(', ')}`;
}

function entryText({ entry }: WalkLevel, level: number): string {
  if (!isSet(entry, 0)) {
    if (entry === 0n) return 'bit 0 = 0: invalid (none)';
    if (isSet(entry, 11)) return 'bit 0 = 0: invalid; bit 11 = 1: present for software (present-invalid)';
    return 'bit 0 = 0: invalid, the other bits are ignored';
  }
  if (level < 3 && isSet(entry, 1)) {
    return `table at 0x${(entry & TABLE_ADDR).toString(16)}${tableText(entry)}`;
  }
  if (level === 0) return 'bits 1:0 = 01: no blocks at level 0, invalid';
  if (level === 3 && !isSet(entry, 1)) return 'bits 1:0 = 01: reserved at level 3, invalid for hardware';
  const size = level === 3 ? 12n : level === 2 ? 21n : 30n;
  const what = level === 3 ? 'page' : level === 2 ? '2 MiB block' : '1 GiB block';
  const address = ((entry & TABLE_ADDR) >> size) << size;
  return `${what} at 0x${address.toString(16)}, ${leafText(entry)}`;
}

/** One line for each entry that the walk read, and one for what it came to. */
export function describeWalk(event: WalkEvent): string[] {
  const lines = event.levels.map((read, level) => {
    const index = (event.va >> BigInt(39 - 9 * level)) & 511n;
    const name = `${read.level.toUpperCase()}[${index}]`.padEnd(8);
    const place = `level ${level} at physical 0x${read.entryPa.toString(16).padStart(9, '0')}`;
    return `${name} ${place} = 0x${hex16(read.entry)}  ${entryText(read, level)}`;
  });
  const half = isSet(event.va, 55) ? 'TTBR1_EL1' : 'TTBR0_EL1';
  const who = event.user ? 'unprivileged' : 'privileged';
  const where = event.at === null ? 'before any table was read' : `at ${event.at.toUpperCase()}`;
  lines.push(
    `${who} ${event.access} of 0x${hex16(event.va)} through ${half}: ${event.verdict}, decided ${where}`,
  );
  return lines;
}

/** What the fields of ESR_EL1 say; a class without a status code has only the first lines. */
export function describeFault(_exception: string, code: bigint): string[] {
  const ec = ESR_ELx_EC(code);
  const lines = [
    `EC = 0x${ec.toString(16)}: ${esr_get_class_string(code)}`,
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
    lines.push(`WnR = ${wnr(code) ? '1: write' : '0: read'}`);
    if (cm(code)) lines.push('CM = 1: cache maintenance (WnR is always 1 with it)');
    lines.push((code & ESR_ELx_ISV) !== 0n ? 'ISV = 1' : 'ISV = 0: no syndrome of the instruction');
  }
  return lines;
}
