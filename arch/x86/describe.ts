/** Walks and error codes in words, for `explain` and the debugger. */
import { hex16 } from '../../emu/address.js';
import type { LevelName, WalkEvent, WalkLevel } from '../../emu/events.js';
import {
  _PAGE_ACCESSED,
  _PAGE_DIRTY,
  _PAGE_GLOBAL,
  _PAGE_NX,
  _PAGE_PKEY_MASK,
  _PAGE_PRESENT,
  _PAGE_PROTNONE,
  _PAGE_PSE,
  _PAGE_RW,
  _PAGE_USER,
  PHYSICAL_PMD_PAGE_MASK,
  PHYSICAL_PUD_PAGE_MASK,
  PTE_PFN_MASK,
} from './pgtable-types.js';
import {
  X86_PF_INSTR,
  X86_PF_PK,
  X86_PF_PROT,
  X86_PF_RMP,
  X86_PF_RSVD,
  X86_PF_SGX,
  X86_PF_SHSTK,
  X86_PF_USER,
  X86_PF_WRITE,
} from './walk.js';

/** One line per level that was read, and one with what came of it. */
export function describeWalk(event: WalkEvent): string[] {
  const lines = event.levels.map(describeLevel);
  const where = event.at === null ? 'before any table was read' : `at ${event.at.toUpperCase()}`;
  const who = event.user ? 'user' : 'supervisor';
  lines.push(`${who} ${event.access} of ${hex16(event.va)}: ${event.verdict}, decided ${where}`);
  return lines;
}

function describeLevel({ level, entryPa, entry }: WalkLevel): string {
  const name = `${level.toUpperCase()}[${(entryPa % 4096) / 8}]`.padEnd(8);
  const place = `at 0x${entryPa.toString(16).padStart(9, '0')}`;
  return `${name} ${place} = ${hex16(entry)}  ${describeEntry(level, entry)}`;
}

function describeEntry(level: LevelName, entry: bigint): string {
  const has = (bit: bigint): boolean => (entry & bit) !== 0n;
  if (!has(_PAGE_PRESENT)) {
    if (entry === 0n) return 'P=0: not present';
    // pte_present() and pmd_present() take bit 8 for presence: PROT_NONE, a protected page of KFENCE.
    const software = (level === 'pte' || level === 'pmd') && has(_PAGE_PROTNONE);
    return `P=0: not present${software ? `, _PAGE_PROTNONE=1: ${level}_present()` : ', other bits ignored'}`;
  }
  const flag = (name: string, bit: bigint): string => `${name}=${has(bit) ? 1 : 0}`;
  const rights = [
    flag('P', _PAGE_PRESENT),
    flag('RW', _PAGE_RW),
    flag('US', _PAGE_USER),
    flag('NX', _PAGE_NX),
  ];
  const leaf = level === 'pte' || has(_PAGE_PSE);
  const used = [
    flag('A', _PAGE_ACCESSED),
    ...(leaf ? [flag('D', _PAGE_DIRTY), flag('G', _PAGE_GLOBAL)] : []),
    ...(leaf && has(_PAGE_PKEY_MASK) ? [`PKEY=${(entry & _PAGE_PKEY_MASK) >> 59n}`] : []),
  ];
  return `${[...rights, ...used].join(' ')}  ${target(level, entry, leaf)}`;
}

function target(level: LevelName, entry: bigint, leaf: boolean): string {
  const at = (mask: bigint): string => `0x${(entry & mask).toString(16)}`;
  if (!leaf) return `table ${at(PTE_PFN_MASK)}`;
  switch (level) {
    case 'pgd':
    case 'p4d':
      return 'PS=1: reserved';
    case 'pud':
      return `1G page ${at(PHYSICAL_PUD_PAGE_MASK)}`;
    case 'pmd':
      return `2M page ${at(PHYSICAL_PMD_PAGE_MASK)}`;
    case 'pte':
      return `page ${at(PTE_PFN_MASK)}`;
  }
}

/** The bits of a page fault's error code that are set, and what the first one means when it is not. */
export function describeFault(exception: string, code: bigint): string[] {
  if (exception !== '#PF') return [`error code 0x${code.toString(16)}`];
  const bits = Number(code);
  const has = (bit: number): boolean => (bits & bit) !== 0;
  const lines = [
    protection(has(X86_PF_PROT), has(X86_PF_RSVD)),
    has(X86_PF_WRITE) ? 'X86_PF_WRITE: a write' : 'X86_PF_WRITE clear: not a write',
    has(X86_PF_USER) ? 'X86_PF_USER: a user-mode access' : 'X86_PF_USER clear: a supervisor-mode access',
  ];
  if (has(X86_PF_RSVD)) lines.push('X86_PF_RSVD: a reserved bit is set in an entry');
  if (has(X86_PF_INSTR)) lines.push('X86_PF_INSTR: an instruction fetch');
  if (has(X86_PF_PK)) lines.push('X86_PF_PK: the protection key forbids it');
  if (has(X86_PF_SHSTK)) lines.push('X86_PF_SHSTK: a shadow-stack access');
  if (has(X86_PF_SGX)) lines.push('X86_PF_SGX: SGX forbids it');
  if (has(X86_PF_RMP)) lines.push('X86_PF_RMP: the reverse map table forbids it');
  return lines;
}

/** Without RSVD the walk came to a page, and the access was refused; with it the walk was broken off. */
function protection(prot: boolean, rsvd: boolean): string {
  if (!prot) return 'X86_PF_PROT clear: an entry on the way is not present';
  return rsvd
    ? 'X86_PF_PROT: all entries that were read are present'
    : 'X86_PF_PROT: the page is present, and the access is not allowed';
}
