import { afterAll, describe, expect, test } from '@jest/globals';
import { libraryPath, openLibrary } from '../emu/unicorn/library.js';
import type { Case } from './case.js';
import { compare } from './compare.js';
import { disagrees, minimise, simplerX86 } from './minimise.js';
import { arm64Bench, ask, type Bench, type Tally, x86Bench } from './oracle.js';
import { CR4_SMEP, type X86Case } from './x86-case.js';

const library = openLibrary(libraryPath());
const x86 = x86Bench(library);
const arm64 = arm64Bench(library);
afterAll(() => {
  x86.close();
  arm64.close();
});

function disagreements<C extends Case>({ disagreements }: Tally<C>): string[] {
  return disagreements.map(({ index, what }) => `case ${index}: ${what}`);
}

/** How many of the outcomes have a name that begins so. */
function share(tally: Tally<Case>, name: string): number {
  return [...tally.outcomes].reduce((sum, [outcome, n]) => (outcome.startsWith(name) ? sum + n : sum), 0);
}

describe("walks agree with the engine's own MMU", () => {
  test('x86-64: 800 random cases', () => {
    const tally = ask(x86, 20260717, { count: 800, enough: 5 });
    expect(disagreements(tally)).toEqual([]);
    expect(tally.cases).toBe(800);
    for (const name of [
      'translates, leaf pte',
      'not present',
      'reserved bit',
      'refused user',
      'refused supervisor',
    ]) {
      expect(share(tally, name)).toBeGreaterThan(20);
    }
    expect(share(tally, 'translates')).toBeGreaterThan(150);
  });

  test('arm64: 800 random cases', () => {
    const tally = ask(arm64, 20260717, { count: 800, enough: 5 });
    expect(disagreements(tally)).toEqual([]);
    expect(tally.cases).toBe(800);
    for (const name of ['translates, leaf pte', 'translation', 'permission', 'access flag', 'address size']) {
      expect(share(tally, name)).toBeGreaterThan(5);
    }
    expect(share(tally, 'translates')).toBeGreaterThan(130);
  });

  test('a seed asks the same questions each time', () => {
    const first = ask(x86, 3, { count: 100, enough: 5 });
    const second = ask(x86, 3, { count: 100, enough: 5 });
    expect(second).toEqual(first);
    expect(ask(x86, 4, { count: 100, enough: 5 }).outcomes).not.toEqual(first.outcomes);
  });
});

/** A bench whose engine takes no notice of SMEP. */
function withoutSmep(bench: Bench<X86Case>): Bench<X86Case> {
  return {
    ...bench,
    theirs: (question) => bench.theirs({ ...question, cr4: question.cr4 & ~CR4_SMEP }),
    afresh: () => withoutSmep(bench.afresh()),
  };
}

/** A bench whose MMU of ours takes A for set once it has been asked about an address for the second time. */
function forgetful(bench: Bench<X86Case>): Bench<X86Case> {
  const asked = new Set<bigint>();
  return {
    ...bench,
    ours: (question) => {
      const answer = bench.ours(question);
      if (!asked.has(question.va)) {
        asked.add(question.va);
        return answer;
      }
      return { ...answer, writes: new Map() };
    },
    afresh: () => forgetful(bench.afresh()),
  };
}

describe('a disagreement', () => {
  test('is found, and is made small', () => {
    const bench = withoutSmep(x86);
    const tally = ask(bench, 1, { count: 2000, enough: 1 });
    const found = tally.disagreements[0];
    if (found === undefined) throw new Error('no disagreement');
    expect(tally.cases).toBe(found.index + 1);
    const sequence = minimise(bench, 1, found.index, simplerX86) ?? [];
    expect(disagrees(bench, sequence)).toBe(true);
    expect(disagrees(x86, sequence)).toBe(false);
    const [question, ...more] = sequence;
    expect(more).toEqual([]);
    expect(question).toMatchObject({ user: false, ac: false, pkru: 0 });
    expect((question?.cr4 ?? 0n) & (CR4_SMEP | (1n << 21n) | (1n << 22n))).toBe(CR4_SMEP);
    // A way down, and nothing else.
    expect(question?.entries.size).toBeLessThanOrEqual(5);
  });

  test('that needs the questions before it keeps those that it needs', () => {
    const bench = forgetful(x86);
    const tally = ask(bench, 1, { count: 2000, enough: 1 });
    const found = tally.disagreements[0];
    if (found === undefined) throw new Error('no disagreement');
    expect(compare(bench.afresh(), bench.deviations, found.question).kind).not.toBe('disagree');
    const sequence = minimise(bench, 1, found.index, simplerX86) ?? [];
    expect(sequence).toHaveLength(2);
    expect(sequence[1]?.va).toBe(sequence[0]?.va);
  });
});
