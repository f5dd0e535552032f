/**
 * The engine's question for a translation, answered: the hot path. What was refused last is kept for
 * the stop that follows.
 */
import {
  ACCESS_FETCH,
  ACCESS_WRITE,
  type AccessCode,
  PERM_EXEC,
  PERM_READ,
  PERM_WRITE,
  type TlbFiller,
} from '../cpu.js';
import type { Ram } from '../ram.js';
import type { NativeSlots } from './bindings.js';

/** An address as the library's callback delivers it: a signed number, or a signed bigint if it must be. */
export type PageKey = number | bigint;

/** The page of an address in the form in which the fill callback will see it. */
export function pageKey(va: bigint): PageKey {
  return addressKey(va & ~0xfffn);
}

/** An address as koffi delivers it, and takes it fastest: a signed number, or a bigint if it must be. */
export function addressKey(va: bigint): PageKey {
  const signed = BigInt.asIntN(64, va);
  const number = Number(signed);
  return Number.isSafeInteger(number) ? number : signed;
}

export class TlbAnswers {
  /** Kind of the last refused access; 0 when none was refused since `reset`. */
  refused: AccessCode | 0 = 0;
  /** True when the refusal is of a translation whose physical page is not in the ram. */
  outside = false;
  /** What the filler threw; nothing may leave a callback. */
  thrown: { readonly error: unknown } | null = null;
  /** Called when a read or write was answered in the middle of an instruction, while set. */
  afterData: (() => void) | null = null;
  /** One more page that is answered like the sentinel's, while set. */
  detour: PageKey | null = null;
  /** Pages filled although their address needs a bigint: arm64 tags. One flush by page misses them. */
  readonly tagged = new Set<bigint>();

  private readonly base: number;
  private readonly end: number;

  constructor(
    private filler: TlbFiller,
    ram: Ram,
    private readonly sentinelKey: PageKey,
    private readonly sentinelPa: number,
    private readonly slots: NativeSlots,
  ) {
    this.base = ram.base;
    this.end = ram.end;
  }

  /** Forgets everything, and asks `filler` from now on. */
  restart(filler: TlbFiller): void {
    this.filler = filler;
    this.detour = null;
    this.tagged.clear();
    this.reset();
  }

  reset(): void {
    this.refused = 0;
    this.outside = false;
    this.thrown = null;
  }

  /** The callback. Returns true when the entry at `slot` is filled in. */
  readonly answer = (_uc: number, va: PageKey, type: number, slot: number): boolean => {
    const access = type as AccessCode;
    if (access === ACCESS_FETCH && (va === this.sentinelKey || va === this.detour)) {
      this.store(slot, this.sentinelPa, PERM_EXEC);
      return true;
    }
    const rights = this.ask(va, access);
    if (rights === 0) {
      this.refused = access;
      return false;
    }
    const pa = this.filler.pa;
    if (!(pa >= this.base && pa < this.end)) {
      this.refused = access;
      this.outside = true;
      return false;
    }
    if (typeof va === 'bigint') this.tagged.add(va);
    this.store(slot, pa, rights);
    if (access !== ACCESS_FETCH && this.afterData !== null) this.afterData();
    return true;
  };

  /** Rights for an access, or 0 when it is refused or the filler's answer does not allow it. */
  ask(va: PageKey, access: AccessCode): number {
    try {
      const rights = this.filler.fill(va, access);
      return (rights & neededFor(access)) === 0 ? 0 : rights;
    } catch (error) {
      this.thrown ??= { error };
      return 0;
    }
  }

  private store(slot: number, pa: number, rights: number): void {
    const entry = this.slots.at(slot);
    entry[0] = pa;
    entry[1] = pa / 0x100000000;
    entry[2] = rights;
  }
}

function neededFor(access: AccessCode): number {
  if (access === ACCESS_WRITE) return PERM_WRITE;
  return access === ACCESS_FETCH ? PERM_EXEC : PERM_READ;
}
