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

/** Names of the bits, as the program prints them, in the order of the bits. */
export const NAMES: readonly string[] = [
  ...['pte.rw', 'pte.user', 'pte.a', 'pte.d', 'pte.nx', 'pte.p', 'pte.51', 'pte.36'],
  ...['pde.rw', 'pde.user', 'pde.a', 'pde.d', 'pde.pse', 'pde.nx', 'pde.p', 'pde.51', 'pde.36', 'pde.13'],
  ...['pdpte.ro', 'pkru.ad', 'pkru.wd', 'pkey=1', 'user', 'write', 'fetch', 'twice'],
  ...['efer.nx', 'cr0.wp', 'cr4.smep', 'cr4.pke'],
];

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
/** The page of both kinds of leaf: where code and data of the program are. */
export const PAGE = 0x2000000n;

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

/**
 * Control registers of a combination; without SMAP, as the sweep runs. Key 2 forbids everything; with CR4.PKE
 * clear every key but 0 does, because nobody may look.
 */
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
      ((c >> AC.pke) & 1) === 0
        ? 0xffff_fffcn
        : 0x30n |
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

/** What is expected of an access, as one number: these bits, OR-ed. */
export const EXPECT = {
  /** The error code, if it faults. */
  code: 0x3f,
  fault: 1 << 6,
  /** Marks that the access leaves: A or D is set in the PDE, in the PTE. */
  pdeA: 1 << 7,
  pdeD: 1 << 8,
  pteA: 1 << 9,
  pteD: 1 << 10,
  /** A in the PDE may be set or not. */
  pdeADontCare: 1 << 11,
} as const;

const MARKS = EXPECT.pdeA | EXPECT.pdeD | EXPECT.pteA | EXPECT.pteD;

/** ac_set_expected_status() and ac_emulate_access(): bits of EXPECT. */
export function predict(c: number): number {
  const second = once(c);
  if (((c >> AC.twice) & 1) === 0) return second;
  return second | (once(c & ~((1 << AC.user) | (1 << AC.write) | (1 << AC.fetch))) & MARKS);
}

/** The same as words. `pde` and `pte` are those in memory before. */
export function expected(c: number, pde: bigint, pte: bigint): Expected {
  const bits = predict(c);
  const mark = (a: number, d: number): bigint => ((bits & a) !== 0 ? A : 0n) | ((bits & d) !== 0 ? D : 0n);
  return {
    fault: (bits & EXPECT.fault) !== 0,
    code: bits & EXPECT.code,
    pde: pde | mark(EXPECT.pdeA, EXPECT.pdeD),
    pte: pte | mark(EXPECT.pteA, EXPECT.pteD),
    pdeADontCare: (bits & EXPECT.pdeADontCare) !== 0,
  };
}

function once(c: number): number {
  const on = (bit: number): boolean => ((c >> bit) & 1) === 1;
  let code = PF.P;
  if (on(AC.user)) code |= PF.U;
  if (on(AC.write)) code |= PF.W;
  if (on(AC.fetch)) code |= PF.I;
  const fault = (marks: number): number => {
    if (!on(AC.nxe) && !on(AC.smep)) code &= ~PF.I;
    return code | EXPECT.fault | marks | (on(AC.pdeA) ? 0 : EXPECT.pdeADontCare);
  };
  const invalid = (p: boolean, marks: number): number => {
    code = p ? code | PF.RSVD : code & ~PF.P;
    return fault(marks);
  };

  const pdeReserved = on(AC.pde51) || on(AC.pde36) || on(AC.pde13) || (on(AC.pdeNx) && !on(AC.nxe));
  if (!on(AC.pdeP) || pdeReserved) return invalid(on(AC.pdeP), 0);
  const large = on(AC.pdePse);
  let w = !on(AC.pdpteRo) && on(AC.pdeRw);
  let u = on(AC.pdeUser);
  let x = !on(AC.pdeNx);
  const above = large ? 0 : EXPECT.pdeA;
  if (!large) {
    const pteReserved = on(AC.pte51) || on(AC.pte36) || (on(AC.pteNx) && !on(AC.nxe));
    if (!on(AC.pteP) || pteReserved) return invalid(on(AC.pteP), above);
    w &&= on(AC.pteRw);
    u &&= on(AC.pteUser);
    x &&= !on(AC.pteNx);
  }
  const kw = !on(AC.wp) && !on(AC.user);
  let refused =
    (on(AC.user) && !u) ||
    (on(AC.write) && !w && !kw) ||
    (on(AC.fetch) && !x) ||
    (on(AC.fetch) && u && on(AC.smep) && !on(AC.user));
  if (u && !on(AC.fetch) && on(AC.pkey) && on(AC.pke)) {
    if (on(AC.pkruAd) || (on(AC.write) && on(AC.pkruWd) && !kw)) {
      refused = true;
      code |= PF.PK;
    }
  }
  if (refused) return fault(above);
  if (!on(AC.write)) return above | (large ? EXPECT.pdeA : EXPECT.pteA);
  return above | (large ? EXPECT.pdeA | EXPECT.pdeD : EXPECT.pteA | EXPECT.pteD);
}
