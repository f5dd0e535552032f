/** Where the engine's x86-64 MMU is no such CPU as kfault's. */
import type { WalkLevel } from '../emu/events.js';
import type { Entries, Ours } from './case.js';
import type { Deviation } from './compare.js';
import { EFER_NXE, X86_MAXPHYADDR, X86_RAM_SIZE, type X86Case } from './x86-case.js';

const PRESENT = 0x1n;
const ACCESSED = 0x20n;
const LARGE = 0x80n;
const NX = 1n << 63n;
/** Reserved in every entry, whatever its level. */
const BEYOND = 0x000f_ffff_ffff_ffffn & ~((1n << BigInt(X86_MAXPHYADDR)) - 1n);
const RSVD_AND_P = 0x9;

/** What the entries of a walk become when those above the last one get A. */
function withAccessed({ levels }: Ours): Entries {
  const writes = new Map<number, bigint>();
  for (const { entryPa, entry } of levels.slice(0, -1)) {
    if ((entry & ACCESSED) === 0n) writes.set(entryPa, entry | ACCESSED);
  }
  return writes;
}

/** The PDPTE of a 1 GiB page without A, if it is what refused the access. */
function refusedGigabyte({ efer }: X86Case, ours: Ours): WalkLevel | null {
  const last = ours.levels.at(-1);
  if (ours.pa !== null || last?.level !== 'pud') return null;
  const reserved = (efer & EFER_NXE) === 0n ? BEYOND | NX : BEYOND;
  const mask = PRESENT | LARGE | ACCESSED | reserved;
  return (last.entry & mask) === (PRESENT | LARGE) ? last : null;
}

export const X86_DEVIATIONS: readonly Deviation<X86Case>[] = [
  {
    name: 'absent-table',
    engine:
      'reads zeros where a table is outside the ram: not present, where all ones have reserved bits set',
    manual:
      'both allowed: SDM volume 3 leaves open what is read where no memory is. kfault has what the host bridge of a PC answers, all ones (PCI Local Bus Specification 3.0, 3.3.3.1 "Master Initiated Termination", Master-Abort)',
    answers: (_question, ours) => {
      const last = ours.levels.at(-1);
      if (last === undefined || last.entryPa < X86_RAM_SIZE) return null;
      return { ...ours, code: ours.code & ~RSVD_AND_P };
    },
    avoided: (_question, ours) => {
      const last = ours.levels.at(-1);
      if (last === undefined || last.entryPa < X86_RAM_SIZE) return null;
      return ours.pa === null && (ours.code & RSVD_AND_P) === RSVD_AND_P;
    },
  },
  {
    name: 'accessed-above-a-fault',
    engine: 'sets A in the entries above the one at which a walk faults',
    manual:
      'both allowed: SDM volume 3, "Accessed and Dirty Flags" has A set when an entry is used for a translation, and leaves open whether a walk that faults uses those above',
    answers: (_question, ours) => {
      const writes = withAccessed(ours);
      return ours.pa === null && writes.size > 0 ? { ...ours, writes } : null;
    },
    avoided: (_question, ours) => {
      if (ours.pa !== null || withAccessed(ours).size === 0) return null;
      return ours.writes.size === 0;
    },
  },
  {
    name: 'accessed-in-a-refused-1GiB-leaf',
    engine: 'sets A in the PDPTE of a 1 GiB page before it looks at the rights and the low reserved bits',
    manual:
      'both allowed: SDM volume 3, "Accessed and Dirty Flags" leaves open whether a refused access uses the leaf. In a 2 MiB or 4 KiB leaf the engine leaves A alone, too',
    answers: (question, ours) => {
      const leaf = refusedGigabyte(question, ours);
      if (leaf === null) return null;
      return { ...ours, writes: new Map([...ours.writes, [leaf.entryPa, leaf.entry | ACCESSED]]) };
    },
    avoided: (question, ours) => {
      const leaf = refusedGigabyte(question, ours);
      return leaf === null ? null : !ours.writes.has(leaf.entryPa);
    },
  },
];
