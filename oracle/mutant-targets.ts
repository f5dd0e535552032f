/** Which files are mutated, which parts of them, and which tests stand by when the oracle does not notice. */
import type { ArchName } from './case.js';
import type { Mutant } from './mutate.js';

export interface Target {
  readonly arch: ArchName;
  /** Source, from the package root. */
  readonly file: string;
  /** Functions that are left alone, with the reason. */
  readonly without: Readonly<Record<string, string>>;
  /** Only these functions; all if left out. */
  readonly only?: readonly string[];
}

/** A mutant to be judged, and the text of the file that it is one of. */
export interface Job {
  readonly target: Target;
  readonly source: string;
  readonly mutant: Mutant;
}

/** Test files of the walkers, from the package root. */
export const UNIT_TESTS: Readonly<Record<ArchName, readonly string[]>> = {
  'x86-64': [
    ...['arch/x86/mmu', 'arch/x86/walk', 'arch/x86/access-matrix.test', 'oracle/deviations'],
    'oracle/remembered',
  ],
  arm64: [
    ...['arch/arm64/mmu', 'arch/arm64/walk', 'arch/arm64/unprivileged-code', 'oracle/deviations'],
    'oracle/remembered',
  ],
};

/** Results that stand for each other's mistakes. */
export const CODES: readonly (readonly string[])[] = [
  ['WALKED', 'NOT_PRESENT', 'RESERVED'],
  [
    ...['ALLOWED', 'USER_TO_SUPERVISOR', 'READ_ONLY', 'NO_EXECUTE', 'SMAP_REFUSES', 'SMEP_REFUSES'],
    'KEY_REFUSES',
  ],
  ['PERM_READ', 'PERM_WRITE', 'PERM_EXEC'],
  [
    ...['ESR_ELx_FSC_FAULT', 'ESR_ELx_FSC_ACCESS', 'ESR_ELx_FSC_PERM', 'ESR_ELx_FSC_ADDRSZ'],
    ...['ESR_ELx_FSC_SEA_TTW', 'ESR_ELx_FSC_EXTABT', 'NO_FAULT'],
  ],
];

const WORDS = 'makes words, no decision';
const KERNELS = 'a constant of the kernel that no walk of this machine gives out';
const FIRST = 'the state before the first refresh(), which reads all of it';
const WAY = 'finds a place to remember a walk at: it changes how long a walk takes, and no result';

export const TARGETS: readonly Target[] = [
  {
    arch: 'x86-64',
    file: 'arch/x86/walk.ts',
    without: {
      ...{ verdictOf: WORDS, halves: WORDS, levels: WORDS, nameOf: WORDS, decidingLevel: WORDS },
      ...{ REGION: WAY, X86_PF_SHSTK: KERNELS, X86_PF_SGX: KERNELS, X86_PF_RMP: KERNELS },
    },
  },
  {
    arch: 'x86-64',
    file: 'arch/x86/mmu.ts',
    without: {},
    only: [
      'fill',
      '#usableNow',
      '#mark',
      'explain',
      'isCanonical',
      'walkable',
      'pageOffset',
      'refresh',
      ...['A', 'D', 'EFLAGS_AC', 'supervisorWrite', '#answerPinned', 'pin', 'physical'],
    ],
  },
  {
    arch: 'arm64',
    file: 'arch/arm64/walk.ts',
    without: {
      ...{ placeOf: WAY, WAYS_LOG2: WAY, PER_REGION: WAY, NOWHERE: WAY },
      ...{ levels: WORDS, objection: WORDS },
    },
  },
  { arch: 'arm64', file: 'arch/arm64/walk-control.ts', without: { initialControl: FIRST } },
  { arch: 'arm64', file: 'arch/arm64/walk-rights.ts', without: { objection: WORDS } },
  {
    arch: 'arm64',
    file: 'arch/arm64/mmu.ts',
    without: {},
    only: [
      ...['fill', '#convert', '#e0pd', '#updateFlags', 'faultOf', '#leafOf', 'translate', 'refresh'],
      ...['PSTATE_PAN', 'PSTATE_UAO', 'PSTATE_EL_BITS', '#isUnprivilegedAccess', 'maintenanceFaultOf'],
      ...['writable', 'at_s1e1r', 'pin'],
    ],
  },
  { arch: 'arm64', file: 'arch/arm64/unprivileged-code.ts', without: {} },
  // Both walkers use it.
  { arch: 'x86-64', file: 'emu/cpu.ts', without: {}, only: ['permFor'] },
  { arch: 'arm64', file: 'emu/cpu.ts', without: {}, only: ['permFor'] },
];
