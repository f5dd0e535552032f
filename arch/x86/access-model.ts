/**
 * What x86/access.c of kvm-unit-tests expects of each combination of entry bits, access and control bits:
 * an independent model of the walk, for the tests. Bits and rules as there, with two changes: SMEP, which
 * the sweep there never sets, may be set and is for supervisor fetches only, and there is no forced
 * emulation.
 */

/** Bit numbers of a combination. */
export const AC = {
  pteRw: 0,
  pteUser: 1,
  pteA: 2,
  pteD: 3,
  pteNx: 4,
  pteP: 5,
  pte51: 6,
  pte36: 7,
  pdeRw: 8,
  pdeUser: 9,
  pdeA: 10,
  pdeD: 11,
  pdePse: 12,
  pdeNx: 13,
  pdeP: 14,
  pde51: 15,
  pde36: 16,
  pde13: 17,
  pdpteRo: 18,
  pkruAd: 19,
  pkruWd: 20,
  pkey: 21,
  user: 22,
  write: 23,
  fetch: 24,
  twice: 25,
  nxe: 26,
  wp: 27,
  smep: 28,
  pke: 29,
} as const;

/** All bits a combination may have. */
export const ALL_BITS = Object.values(AC).reduce<number>((all, bit) => all | (1 << bit), 0);

/** The CPU that the combinations run on. */
export interface ModelCpu {
  readonly maxphyaddr: number;
  /** It has protection keys. */
  readonly pku: boolean;
}

const PF = { P: 1, W: 2, U: 4, RSVD: 8, I: 16, PK: 32 };
const A = 0x20n;
const D = 0x40n;
const NX = 1n << 63n;
/** The page of both kinds of leaf. */
const PAGE = 0x200000n;

/** Does the sweep run this combination on such a CPU? */
export function isLegal(c: number, { maxphyaddr, pku }: ModelCpu): boolean {
  const on = (bit: number): number => (c >> bit) & 1;
  if (maxphyaddr >= 52 && on(AC.pte51) + on(AC.pde51) > 0) return false;
  if (maxphyaddr >= 37 && on(AC.pte36) + on(AC.pde36) > 0) return false;
  if (!pku && on(AC.pkruAd) + on(AC.pkruWd) + on(AC.pkey) + on(AC.pke) > 0) return false;
  if (on(AC.fetch) === 1 && on(AC.write) === 1) return false;
  if (on(AC.pke) === 0 && on(AC.pkruAd) + on(AC.pkruWd) > 0) return false;
  if (on(AC.pde13) === 1 && on(AC.pdePse) === 0) return false;
  let reserved = on(AC.pde51) + on(AC.pde36) + on(AC.pde13) + on(AC.pte51) + on(AC.pte36);
  if (on(AC.nxe) === 0) reserved += on(AC.pdeNx) + on(AC.pteNx);
  return reserved <= 1;
}

function bits(c: number, pairs: readonly (readonly [number, bigint])[]): bigint {
  return pairs.reduce((word, [bit, mask]) => (((c >> bit) & 1) === 1 ? word | mask : word), 0n);
}

/** The PTE of a combination. With a large PDE nobody reads it. */
export function pteOf(c: number): bigint {
  return (
    PAGE |
    bits(c, [
      [AC.pteP, 1n],
      [AC.pteRw, 2n],
      [AC.pteUser, 4n],
      [AC.pteA, A],
      [AC.pteD, D],
      [AC.pteNx, NX],
      [AC.pte51, 1n << 51n],
      [AC.pte36, 1n << 36n],
      [AC.pkey, 1n << 59n],
    ])
  );
}

/** The PDE: a large leaf, or an entry that points to the table at physical `table` and has key 2. */
export function pdeOf(c: number, table: bigint): bigint {
  const large = ((c >> AC.pdePse) & 1) === 1;
  const own = large ? PAGE | 0x80n | bits(c, [[AC.pkey, 1n << 59n]]) : table | (1n << 60n);
  return (
    own |
    bits(c, [
      [AC.pdeP, 1n],
      [AC.pdeRw, 2n],
      [AC.pdeUser, 4n],
      [AC.pdeA, A],
      [AC.pdeD, D],
      [AC.pdeNx, NX],
      [AC.pde51, 1n << 51n],
      [AC.pde36, 1n << 36n],
      [AC.pde13, 1n << 13n],
    ])
  );
}

/** Control registers of a combination; without SMAP, as the sweep runs. Key 2 forbids everything. */
export function controlsOf(c: number): Readonly<Record<'cr0' | 'cr4' | 'efer' | 'pkru', bigint>> {
  return {
    cr0: 0x80040033n | bits(c, [[AC.wp, 1n << 16n]]),
    cr4:
      0x6f0n |
      bits(c, [
        [AC.smep, 1n << 20n],
        [AC.pke, 1n << 22n],
      ]),
    efer: 0x501n | bits(c, [[AC.nxe, 1n << 11n]]),
    pkru:
      0x30n |
      bits(c, [
        [AC.pkruAd, 4n],
        [AC.pkruWd, 8n],
      ]),
  };
}

export interface Expected {
  readonly fault: boolean;
  readonly code: number;
  readonly pde: bigint;
  readonly pte: bigint;
  /** A in the PDE may be set or not. */
  readonly pdeADontCare: boolean;
}

/** ac_set_expected_status() and ac_emulate_access(). `pde` and `pte` are the words in memory. */
export function expected(c: number, pde: bigint, pte: bigint): Expected {
  const on = (bit: number): boolean => ((c >> bit) & 1) === 1;
  let words = { pde, pte };
  if (on(AC.twice)) {
    const first = once(c & ~((1 << AC.user) | (1 << AC.write) | (1 << AC.fetch)), words.pde, words.pte);
    words = { pde: first.pde, pte: first.pte };
  }
  return once(c, words.pde, words.pte);
}

function once(c: number, pdeWord: bigint, pteWord: bigint): Expected {
  const on = (bit: number): boolean => ((c >> bit) & 1) === 1;
  let pde = pdeWord;
  let pte = pteWord;
  let code = PF.P;
  if (on(AC.user)) code |= PF.U;
  if (on(AC.write)) code |= PF.W;
  if (on(AC.fetch)) code |= PF.I;
  const finish = (fault: boolean): Expected => ({
    fault,
    code: !on(AC.nxe) && !on(AC.smep) ? code & ~PF.I : code,
    pde,
    pte,
    pdeADontCare: fault && !on(AC.pdeA),
  });
  const invalid = (p: boolean): Expected => {
    code = p ? code | PF.RSVD : code & ~PF.P;
    return finish(true);
  };

  const pdeReserved = on(AC.pde51) || on(AC.pde36) || on(AC.pde13) || (on(AC.pdeNx) && !on(AC.nxe));
  if (!on(AC.pdeP) || pdeReserved) return invalid(on(AC.pdeP));
  let w = !on(AC.pdpteRo) && on(AC.pdeRw);
  let u = on(AC.pdeUser);
  let x = !on(AC.pdeNx);
  pde |= A;
  if (!on(AC.pdePse)) {
    const pteReserved = on(AC.pte51) || on(AC.pte36) || (on(AC.pteNx) && !on(AC.nxe));
    if (!on(AC.pteP) || pteReserved) return invalid(on(AC.pteP));
    w &&= on(AC.pteRw);
    u &&= on(AC.pteUser);
    x &&= !on(AC.pteNx);
  }
  const kw = !on(AC.wp) && !on(AC.user);
  let fault =
    (on(AC.user) && !u) ||
    (on(AC.write) && !w && !kw) ||
    (on(AC.fetch) && !x) ||
    (on(AC.fetch) && u && on(AC.smep) && !on(AC.user));
  if (u && !on(AC.fetch) && on(AC.pkey) && on(AC.pke)) {
    if (on(AC.pkruAd) || (on(AC.write) && on(AC.pkruWd) && !kw)) {
      fault = true;
      code |= PF.PK;
    }
  }
  if (fault) {
    if (on(AC.pdePse)) pde = pdeWord;
    return finish(true);
  }
  const marks = on(AC.write) ? A | D : A;
  if (on(AC.pdePse)) pde |= marks;
  else pte |= marks;
  return finish(false);
}
