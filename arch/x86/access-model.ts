/**
 * What x86/access.c of kvm-unit-tests expects of each combination of entry bits, access and control bits:
 * an independent model of the walk, for the tests. Bits and rules as there, protection keys left out; SMEP,
 * which the sweep there never sets, is for supervisor fetches only.
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
  user: 22,
  write: 23,
  fetch: 24,
  twice: 25,
  nxe: 26,
  wp: 27,
  smep: 28,
} as const;

/** All bits a combination may have. */
export const ALL_BITS = Object.values(AC).reduce<number>((all, bit) => all | (1 << bit), 0);

const PF = { P: 1, W: 2, U: 4, RSVD: 8, I: 16 };
const A = 0x20n;
const D = 0x40n;

/** Does the test run this combination on a CPU with 36 physical address bits? */
export function isLegal(c: number): boolean {
  const on = (bit: number): number => (c >> bit) & 1;
  if (on(AC.fetch) === 1 && on(AC.write) === 1) return false;
  if (on(AC.pde13) === 1 && on(AC.pdePse) === 0) return false;
  let reserved = on(AC.pde51) + on(AC.pde36) + on(AC.pde13) + on(AC.pte51) + on(AC.pte36);
  if (on(AC.nxe) === 0) reserved += on(AC.pdeNx) + on(AC.pteNx);
  return reserved <= 1;
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
  const fault =
    (on(AC.user) && !u) ||
    (on(AC.write) && !w && !kw) ||
    (on(AC.fetch) && !x) ||
    (on(AC.fetch) && u && on(AC.smep) && !on(AC.user));
  if (fault) {
    if (on(AC.pdePse)) pde = pdeWord;
    return finish(true);
  }
  const marks = on(AC.write) ? A | D : A;
  if (on(AC.pdePse)) pde |= marks;
  else pte |= marks;
  return finish(false);
}
