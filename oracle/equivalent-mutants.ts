/**
 * Mutants that change no result. They are only excused where neither the oracle nor a test has noticed
 * them: a way remembered wrongly and believed all the same, say, is noticed.
 */

export interface Equivalent {
  readonly file: string;
  /** Function, method or constant. */
  readonly where: string;
  /** Part of the source line. */
  readonly line: string;
  /** `from -> to`; all changes of the line if left out. */
  readonly changes?: readonly string[];
  readonly why: string;
}

const X86_WALK = 'arch/x86/walk.ts';
const X86_MMU = 'arch/x86/mmu.ts';
const ARM64_WALK = 'arch/arm64/walk.ts';
const ARM64_CONTROL = 'arch/arm64/walk-control.ts';
const ARM64_RIGHTS = 'arch/arm64/walk-rights.ts';
const UNPRIVILEGED = 'arch/arm64/unprivileged-code.ts';
const ARM64_MMU = 'arch/arm64/mmu.ts';

const SLOWER =
  'the walk nearby is not remembered, or not believed: it reads all tables again, with the same result';
const MARKER = 'a number that stands for nothing but itself';
const FAULTS_PA = 'a fault has no physical address: nobody reads it';
const OUT_OF_RANGE = 'what is out of range of 48 bits is refused by the walk, too';
const ASKS = 'the CPU is asked for its mode more often than it has to be';

export const EQUIVALENT: readonly Equivalent[] = [
  {
    file: X86_MMU,
    where: '#usableNow',
    line: 'access !== ACCESS_FETCH && !walker.isUserPage',
    // Of the two comparisons of the line, the other is noticed.
    changes: ['!== -> ==='],
    why: ASKS,
  },
  {
    file: X86_WALK,
    where: '#remember',
    line: '0 = entry',
    changes: ['1 -> 2'],
    why: 'the topmost entry is believed where the one below is the same, and is still watched',
  },
  {
    file: X86_WALK,
    where: '#remember',
    line: 'tableWord + 1024 <=',
    changes: ['>= -> >', '>= -> <', '0 -> 1', '1024 -> 0x401', '<= -> <'],
    why: SLOWER,
  },
  { file: X86_WALK, where: 'walk', line: 'this.#holdsRoot(way)', changes: ['|| -> &&'], why: SLOWER },
  { file: X86_WALK, where: 'RESERVED', line: '', changes: ['2 -> 3'], why: MARKER },
  { file: X86_WALK, where: 'KEY_REFUSES', line: '', changes: ['6 -> 7'], why: MARKER },
  {
    file: X86_WALK,
    where: 'update',
    line: 'this.key =',
    changes: ['+ -> -', 'this.nxe -> !(this.nxe)', '2 -> 3'],
    why: 'other keys, and still another one for each root, level count and NXE',
  },
  { file: X86_WALK, where: 'isUserPage', line: 'return', changes: ['& -> |', '0 -> 1'], why: ASKS },
  {
    file: X86_WALK,
    where: '#walkAll',
    line: 'const lo = va | 0',
    why: 'bit 0 of the address is in the page',
  },
  {
    file: X86_WALK,
    where: '#walkAll',
    line: 'let highs = 0',
    why: 'of the high halves only NX is looked at',
  },
  {
    file: X86_WALK,
    where: '#walkAll',
    line: 'let high = -1',
    why: 'all reserved bits are set without bit 32, too',
  },
  {
    file: X86_WALK,
    where: 'keyAllows',
    line: '(disabled & 2) !== 0',
    changes: ['2 -> 3'],
    why: 'where the access-disable bit is set, the line before has returned',
  },
  {
    file: X86_MMU,
    where: 'fill',
    line: 'this.#mark(write)',
    changes: ['&& -> ||'],
    why: '#mark leaves alone what is marked',
  },
  {
    file: X86_MMU,
    where: '#mark',
    line: '!trace.listening',
    changes: ['|| -> &&'],
    why: 'an event for which nobody listens',
  },
  {
    file: X86_MMU,
    where: 'explain',
    line: 'walker.decidingLevel(refusal)',
    changes: ['|| -> &&'],
    why: 'without a refusal the deciding level is the last one, too',
  },
  { file: X86_MMU, where: 'explain', line: 'pa: ok ?', changes: ['0 -> 1'], why: FAULTS_PA },
  {
    file: ARM64_WALK,
    where: '#remember',
    line: 'table + 4096 > ram.end',
    changes: ['< -> <=', '> -> >=', '4096 -> 0x1001'],
    why: SLOWER,
  },
  { file: ARM64_WALK, where: 'NO_FAULT', line: '', why: MARKER },
  { file: ARM64_WALK, where: '#walkAll', line: 'if (level === 2)', changes: ['2 -> 3'], why: SLOWER },
  {
    file: ARM64_WALK,
    where: 'refuse',
    line: '= 0;',
    why: 'level and attributes are of a leaf, and here is none',
  },
  {
    file: ARM64_CONTROL,
    where: 'decodeControl',
    line: 'firstTableSize(size)',
    changes: ['1n -> 2n'],
    why: 'bit 0 is cleared by the mask before it',
  },
  {
    file: ARM64_RIGHTS,
    where: 'ATTR_TABLE_UXN',
    line: '',
    changes: ['9 -> 0xa'],
    why: 'a place of its own among packed bits, as before',
  },
  {
    file: ARM64_RIGHTS,
    where: 'rights',
    line: 'PERM_READ | (writable ? PERM_WRITE : 0)',
    changes: ['0 -> 1'],
    why: '1 is PERM_READ, which is there already',
  },
  {
    file: ARM64_MMU,
    where: 'maintenanceFaultOf',
    line: 'const needed =',
    changes: ['0 -> 1'],
    why: '1 is PERM_READ: EL1 may read every page without PAN, and EL0 needs it anyway',
  },
  { file: UNPRIVILEGED, where: 'WORDS_PER_PAGE', line: '', changes: ['1024 -> 0x401'], why: ASKS },
  {
    file: UNPRIVILEGED,
    where: '#holds',
    line: 'i < first + WORDS_PER_PAGE',
    changes: ['< -> <='],
    why: ASKS,
  },
  { file: UNPRIVILEGED, where: '#holds', line: 'return true', changes: ['=== -> !=='], why: ASKS },
  { file: ARM64_MMU, where: '#convert', line: 'TWO_48', why: OUT_OF_RANGE },
  {
    file: ARM64_MMU,
    where: 'fill',
    line: 'ATTR_EL0 | ATTR_UXN',
    changes: ['& -> |', '| -> &', '&& -> ||'],
    why: ASKS,
  },
  {
    file: ARM64_MMU,
    where: '#updateFlags',
    line: 'const value =',
    changes: ['0n -> 1n'],
    why: 'bit 0 of a valid descriptor is set',
  },
  { file: ARM64_MMU, where: 'translate', line: 'pa: ok ?', changes: ['0 -> 1'], why: FAULTS_PA },
];
