/**
 * Who may do what with a page: the permission bits of a walk, packed, and what they come to.
 *
 * Arm ARM (DDI 0487), D8.4 "Memory access control"; pseudocode AArch64.S1DirectBasePermissions. Left out:
 * permission indirection and overlays.
 */
import { ACCESS_FETCH, type AccessCode, PERM_EXEC, PERM_READ, PERM_WRITE } from '../../emu/cpu.js';

/** Leaf attributes and hierarchical bits of a walk, packed into one small number. */
export const ATTR_EL0 = 1 << 0; // AP[1]
export const ATTR_RDONLY = 1 << 1; // AP[2]
export const ATTR_AF = 1 << 2;
export const ATTR_DBM = 1 << 3;
const ATTR_PXN = 1 << 4;
export const ATTR_UXN = 1 << 5;
const ATTR_TABLE_NO_EL0 = 1 << 6; // APTable[0]
const ATTR_TABLE_NO_WRITE = 1 << 7; // APTable[1]
const ATTR_TABLE_PXN = 1 << 8;
export const ATTR_TABLE_UXN = 1 << 9;

/** The bits of SCTLR_EL1 and PSTATE that a permission check looks at. */
export interface RightsControl {
  /** SCTLR_EL1.WXN: what can be written cannot be executed. */
  wxn: boolean;
  /** SCTLR_EL1.EPAN: PAN counts for pages that EL0 may only execute, too. */
  epan: boolean;
}

/** Attributes of a leaf, from the halves of its descriptor. */
export function leafAttr(low: number, high: number): number {
  return (
    ((low >>> 6) & 3) | // AP[2:1]
    ((low >>> 8) & 4) | // AF, bit 10
    ((high >>> 16) & 8) | // DBM, bit 51
    ((high >>> 17) & 0x30) // PXN, UXN, bits 53 and 54
  );
}

/** APTable, UXNTable and PXNTable of a table descriptor's high half. */
export function tableAttr(high: number): number {
  return (
    (((high >>> 29) & 3) * ATTR_TABLE_NO_EL0) |
    (((high >>> 27) & 1) * ATTR_TABLE_PXN) |
    (((high >>> 28) & 1) * ATTR_TABLE_UXN)
  );
}

/**
 * Rights of a translation, PERM_*, for EL0 and for LDTR/STTR (`unprivileged`) or for EL1 with the given
 * PSTATE.PAN. `attr` with ATTR_RDONLY set grants no write, whatever DBM says: hardware dirty state is the
 * caller's.
 */
export function rights(attr: number, unprivileged: boolean, pan: boolean, control: RightsControl): number {
  const writable = (attr & (ATTR_RDONLY | ATTR_TABLE_NO_WRITE)) === 0;
  const el0Read = (attr & (ATTR_EL0 | ATTR_TABLE_NO_EL0)) === ATTR_EL0;
  const el0Write = el0Read && writable;
  const el0Exec = (attr & (ATTR_UXN | ATTR_TABLE_UXN)) === 0;
  if (unprivileged) {
    let perms = el0Read ? PERM_READ : 0;
    if (el0Write) perms |= PERM_WRITE;
    if (el0Exec && !(control.wxn && el0Write)) perms |= PERM_EXEC;
    return perms;
  }
  const never = pan && (el0Read || (el0Exec && control.epan));
  let perms = never ? 0 : PERM_READ | (writable ? PERM_WRITE : 0);
  // PAN does not count for fetches, nor does it make a page less writable for WXN.
  if ((attr & (ATTR_PXN | ATTR_TABLE_PXN)) === 0 && !el0Write && !(control.wxn && writable)) {
    perms |= PERM_EXEC;
  }
  return perms;
}

/** Which bits stand against an access that `rights` does not grant, in words. */
export function objection(
  attr: number,
  access: AccessCode,
  unprivileged: boolean,
  pan: boolean,
  control: RightsControl,
): string {
  const has = (bits: number): boolean => (attr & bits) !== 0;
  const el0 = has(ATTR_EL0) && !has(ATTR_TABLE_NO_EL0);
  const writable = !has(ATTR_RDONLY | ATTR_TABLE_NO_WRITE);
  if (access === ACCESS_FETCH) {
    if (unprivileged) {
      if (has(ATTR_UXN)) return 'UXN=1';
      return has(ATTR_TABLE_UXN) ? 'UXNTable=1 above' : 'WXN: the page is writable';
    }
    if (has(ATTR_PXN)) return 'PXN=1';
    if (has(ATTR_TABLE_PXN)) return 'PXNTable=1 above';
    return el0 && writable ? 'EL0 may write the page' : 'WXN: the page is writable';
  }
  if (unprivileged && !el0) {
    return has(ATTR_EL0) ? 'APTable[0]=1 above: no access for EL0' : 'AP[1]=0: no access for EL0';
  }
  if (!unprivileged && pan && el0) return 'PSTATE.PAN=1, and EL0 may access the page';
  if (!unprivileged && pan && control.epan && !has(ATTR_UXN | ATTR_TABLE_UXN)) {
    return 'PSTATE.PAN=1 with EPAN=1, and EL0 may execute the page';
  }
  return has(ATTR_RDONLY) ? 'AP[2]=1: read-only' : 'APTable[1]=1 above: read-only';
}
