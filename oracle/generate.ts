/** How random questions follow each other, whatever the architecture: new tables, then small changes to them. */
import type { Random } from './random.js';

/** Indices that addresses are made of: the ends of tables and of halves, and others. */
export const INDICES = [0, 0, 1, 2, 255, 256, 257, 510, 511, 511];

export abstract class Generator<Case extends { readonly entries: ReadonlyMap<number, bigint> }> {
  /** The tables as they were made, and with what became of them. */
  private made: Case | null = null;
  private current: Case | null = null;
  /** Addresses that the tables of the current case were made for. */
  protected addresses: bigint[] = [];

  constructor(protected readonly random: Random) {}

  /** A question with new tables, and `addresses` for them. */
  protected abstract fresh(): Case;
  /** The question with one thing changed. */
  protected abstract change(from: Case): Case;
  /** An entry of any level. */
  protected abstract anyEntry(): bigint;

  /** The question as it is asked: what the architecture rules out is put right. */
  protected asked(question: Case): Case {
    return question;
  }

  /** The next question: new tables, or a small change to the last one. */
  next(): Case {
    const { random, made, current } = this;
    let next: Case;
    if (made === null || current === null || random.chance(0.15)) {
      next = this.made = this.fresh();
    } else {
      next = random.chance(0.6) ? made : current;
      do next = this.change(next);
      while (random.chance(0.4));
    }
    this.current = this.asked(next);
    return this.current;
  }

  /** One bit of one entry, or another entry of the same kind. */
  protected changeEntry(from: Case): ReadonlyMap<number, bigint> {
    const { random } = this;
    const entries = new Map(from.entries);
    const pas = [...entries.keys()];
    if (pas.length === 0) return entries;
    const pa = random.pick(pas);
    const old = entries.get(pa) ?? 0n;
    const others = pas.filter((other) => other !== pa);
    if (random.chance(0.7)) entries.set(pa, old ^ (1n << BigInt(random.below(64))));
    else if (random.chance(0.3) && others.length > 0) entries.set(pa, entries.get(random.pick(others)) ?? 0n);
    else entries.set(pa, this.anyEntry());
    return entries;
  }
}
