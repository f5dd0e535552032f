/** Levels of page tables as commands name them. */
import type { EntryLevel } from '../../vector/machine/machine.js';

export const LEVELS: readonly EntryLevel[] = ['pgd', 'pud', 'pmd', 'pte'];

function isEntryLevel(word: string): word is EntryLevel {
  return LEVELS.some((level) => level === word);
}

/** Cuts the level off at the end of `a.page(3) pmd`; null when there is none. */
export function addressAndLevel(argument: string): readonly [string, EntryLevel | null] {
  const last = /^(.*\S)\s+(\S+)$/s.exec(argument);
  const word = last?.[2]?.toLowerCase() ?? '';
  return last !== null && isEntryLevel(word) ? [last[1] ?? '', word] : [argument, null];
}
