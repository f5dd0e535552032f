/** arm64 questions in the terms of a machine. */
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, type AccessCode } from '../emu/cpu.js';
import { ARM64_RAM_BASE, ARM64_RAM_SIZE, type Arm64Case, Arm64Ours, bit, isHigh } from './arm64-case.js';
import type { Scene, Stage } from './fixture.js';

const RET = 'd65f03c0  ret';

export const ARM64_STAGE: Stage = {
  arch: 'arm64',
  directMap: 0xffff_0000_0000_0000n - BigInt(ARM64_RAM_BASE),
  ret: 'c0035fd6',
  functions: [
    { symbol: 'kernel_read', user: false, asm: ['39400020  ldrb w0, [x1]', RET] },
    { symbol: 'kernel_write', user: false, asm: ['39000020  strb w0, [x1]', RET] },
    { symbol: 'kernel_jump', user: false, asm: ['d61f0020  br x1'] },
    { symbol: 'unprivileged_read', user: false, asm: ['38400820  ldtrb w0, [x1]', RET] },
    { symbol: 'unprivileged_write', user: false, asm: ['38000820  sttrb w0, [x1]', RET] },
    { symbol: 'user_read', user: true, asm: ['39400020  ldrb w0, [x1]', RET] },
    { symbol: 'user_write', user: true, asm: ['39000020  strb w0, [x1]', RET] },
    { symbol: 'user_jump', user: true, asm: ['d61f0020  br x1'] },
  ],
};

/** The ram of the question, in the machine's: behind what a booted kernel uses. */
const MOVED = 0x200_0000;
/** What is in the machine's ram but was in none goes where none is. */
const MACHINE_RAM = 64 << 20;
const AWAY = 0x4000_0000;
/** Places in the root tables that no kernel mapping uses. */
const LOW_SLOT = 0x0000_2a80_0000_0000n;
/** Bits 47 to 39: 48-bit addresses of the high half have no more of their own. */
const HIGH_SLOT = 0x0000_4000_0000_0000n;
const SLOT = 0x0000_ff80_0000_0000n;
/** Pages that questions leave alone: two for tables above the first one, and one for a root. */
const SPARE = ARM64_RAM_BASE + 0x8_0000;
const SPARE_PAGES = [SPARE, SPARE + 4096, SPARE + 2 * 4096];

const ADDRESS = 0x0000_ffff_ffff_f000n;
const TABLE = 3n;
/** The kernel's, without what questions choose: T0SZ and T1SZ 16, granules, walks, ASIDs. */
const TCR_KERNEL = 0x10_b550_3510n;
const SCTLR_KERNEL = 0x20_3474_d91dn;
const PSTATE_EL1H = 5n;
const PSTATE_PAN = bit(22);
/** IPS, HA, HD; for each half TBI, HPD, TBID, E0PD. */
const COMMON = (7n << 32n) | bit(39) | bit(40);
const OF_LOW = bit(37) | bit(41) | bit(51) | bit(55);
const OF_HIGH = bit(38) | bit(42) | bit(52) | bit(56);
const E0PD_LOW = bit(55);
const EPD = bit(7) | bit(23);
const SIZES = 0x3f_003fn;

/** The entry that the walk starts with, and its level. */
function first({ tcr, ttbr0, ttbr1, va, entries }: Arm64Case): { entry: bigint; level: number } | null {
  const size = 64 - Number((isHigh(va) ? tcr >> 16n : tcr) & 0x3fn);
  const level = 4 - Math.ceil((size - 12) / 9);
  const bytes = 1n << BigInt(size - (39 - 9 * level) + 3);
  const root = (isHigh(va) ? ttbr1 : ttbr0) & ADDRESS_OF_ROOT & ~(bytes - 1n);
  if (root < BigInt(ARM64_RAM_BASE) || root >= BigInt(ARM64_RAM_BASE + ARM64_RAM_SIZE)) return null;
  const index = BigInt.asUintN(size, va) >> BigInt(39 - 9 * level);
  return { entry: entries.get(Number(root + index * 8n)) ?? 0n, level };
}
const ADDRESS_OF_ROOT = 0x0000_ffff_ffff_fff8n;

/** The question as a machine can have it, with what that changes; null when nothing would be left of it. */
export function expressible(
  question: Arm64Case,
): { question: Arm64Case; pgd: bigint; notes: string[] } | null {
  const { tcr, va, entries } = question;
  const start = first(question);
  if (start === null) return null;
  const notes: string[] = [];
  const high = isHigh(va);
  const size = (high ? tcr >> 16n : tcr) & 0x3fn;
  if (size !== 16n) {
    notes.push(`T${high ? 1 : 0}SZ was ${size}, of a machine it is 16: other tables stand above the first.`);
  }
  if ((tcr & (high ? bit(23) : bit(7))) !== 0n) notes.push('EPD was set: a machine walks both halves.');
  // Tables above the first one, down to the place where the entry stands.
  const all = new Map(entries);
  let entry = start.entry;
  for (let level = start.level; level > 0; level--) {
    const table = SPARE + (level - 1) * 4096;
    all.set(table + Number((va >> BigInt(39 - 9 * level)) & 511n) * 8, entry);
    entry = BigInt(table) | TABLE;
  }
  const slot = Number((va >> 39n) & 511n);
  // A root of 4 KiB, for the walker that says what to expect.
  const root = SPARE + 2 * 4096;
  all.set(root + slot * 8, entry);
  return {
    question: {
      ...question,
      entries: all,
      ttbr0: BigInt(root),
      ttbr1: BigInt(root),
      tcr: TCR_KERNEL | (tcr & (COMMON | (high ? OF_HIGH : OF_LOW)) & ~EPD & ~SIZES),
    },
    pgd: entry,
    notes,
  };
}

/** Null when a machine cannot have it. */
export function arm64Scene(original: Arm64Case): Scene | null {
  const found = expressible(original);
  if (found === null) return null;
  const { question, notes } = found;
  const { access, unprivileged, pan, va, tcr, sctlr } = question;
  const { pa, code, address: reported } = new Arm64Ours(SPARE_PAGES).answer(question);
  const moved = (entry: bigint): bigint => {
    const offset = Number(entry & ADDRESS) - ARM64_RAM_BASE;
    if (offset < 0 || offset >= MACHINE_RAM) return entry;
    return entry + BigInt(offset < ARM64_RAM_SIZE ? MOVED : AWAY);
  };
  const inSlot = (old: bigint): bigint => (old & ~SLOT) | (isHigh(va) ? HIGH_SLOT : LOW_SLOT);
  const address = inSlot(va);
  const far = inSlot(reported ?? va);
  // User code is in the low half itself.
  const closed = (tcr & E0PD_LOW) !== 0n && unprivileged;
  if (closed && access === ACCESS_FETCH) return null;
  const ldtr = unprivileged && (question.ldtr || closed) && access !== ACCESS_FETCH;
  const user = unprivileged && !ldtr;
  return {
    pgd: moved(found.pgd),
    // Without tag, whatever that comes to.
    slot: BigInt.asUintN(48, address) | (isHigh(va) ? 0xffff_0000_0000_0000n : 0n),
    entries: new Map(
      [...question.entries]
        .filter(([at]) => Math.floor(at / 4096) * 4096 !== SPARE + 2 * 4096)
        .map(([at, entry]) => [at + MOVED, moved(entry)]),
    ),
    registers: {
      x1: address,
      tcr_el1: tcr,
      sctlr_el1: SCTLR_KERNEL | sctlr,
      ...(user ? {} : { pstate: pan ? PSTATE_EL1H | PSTATE_PAN : PSTATE_EL1H }),
    },
    user,
    landing: access === ACCESS_FETCH && pa !== null ? pa + MOVED : null,
    code: functionFor(access, user, ldtr),
    fault:
      pa !== null
        ? null
        : [`address: 0x${far.toString(16)}`, `esr: 0x${esr(code, access, user).toString(16)}`],
    notes,
  };
}

function functionFor(access: AccessCode, user: boolean, ldtr: boolean): string {
  const what = access === ACCESS_READ ? 'read' : access === ACCESS_WRITE ? 'write' : 'jump';
  return `${user ? 'user' : ldtr ? 'unprivileged' : 'kernel'}_${what}`;
}

/** ESR_EL1 of an abort. Arm ARM, "ESR_EL1": EC, IL, WnR, the status code. */
function esr(code: number, access: AccessCode, user: boolean): number {
  const fetch = access === ACCESS_FETCH;
  const level = fetch ? (user ? 0x82000000 : 0x86000000) : user ? 0x92000000 : 0x96000000;
  return level + code + (access === ACCESS_WRITE ? 0x40 : 0);
}
