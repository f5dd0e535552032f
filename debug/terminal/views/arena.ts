/** Arena pages: a picture of them, and their ranges. */
import { hex16 } from '../../../emu/address.js';
import type { ArenaPageState, ArenaPagesView } from '../../views.js';
import { bad, dim, good, hanging, type Line, line, type Span, strong } from '../lines.js';

const LETTERS: Readonly<Record<ArenaPageState, string>> = {
  free: '.',
  allocated: 'A',
  scratch: 'S',
  reserved: 'r',
  deferred: 'd',
};
const ORDER: readonly ArenaPageState[] = ['allocated', 'scratch', 'reserved', 'deferred', 'free'];

/** Arenas with more pages are shown by their ranges only. */
const PICTURE_MAX = 4096;
/** Columns of page numbers in front of a row. */
const MARGIN = 6;

export function arenaLines(arenas: readonly ArenaPagesView[], columns: number | null): Line[] {
  if (arenas.length === 0) return [line(dim('There are no arenas.'))];
  return arenas.flatMap((arena) => oneArena(arena, columns));
}

function oneArena(arena: ArenaPagesView, columns: number | null): Line[] {
  const { name, kernel, user, pages, ranges } = arena;
  const counts = new Map<ArenaPageState, number>();
  for (const { first, last, state } of ranges) counts.set(state, (counts.get(state) ?? 0) + last - first + 1);
  const summary = ORDER.filter((state) => counts.has(state)).map((state) => `${counts.get(state)} ${state}`);
  const out = [
    hanging(2, strong(`arena ${name}`), `: ${pages} pages: ${summary.join(', ')}`),
    hanging(4, dim('  page 0: kernel '), hex16(kernel), dim(', user '), hex16(user)),
  ];
  if (pages <= PICTURE_MAX) out.push(...picture(arena, columns));
  for (const { first, last, state } of ranges) {
    const which = first === last ? `page ${first}` : `pages ${first}-${last}`;
    const from = hex16(kernel + BigInt(first) * 4096n);
    out.push(hanging(4, '  ', which.padEnd(14), ` ${from}  `, styled(state, state)));
  }
  return out;
}

/** A letter for each page; rows that are like the one before are left out, as od does it. */
function picture({ pages, ranges }: ArenaPagesView, columns: number | null): Line[] {
  const room = (columns ?? 80) - MARGIN;
  const perRow = room >= 64 ? 64 : room >= 32 ? 32 : 16;
  const out: Line[] = [];
  let before: string | null = null;
  let skipped = false;
  for (let first = 0; first < pages; first += perRow) {
    const count = Math.min(perRow, pages - first);
    const spans: Span[] = [];
    for (const range of ranges) {
      const from = Math.max(range.first, first);
      const to = Math.min(range.last, first + count - 1);
      if (from <= to) spans.push(styled(range.state, LETTERS[range.state].repeat(to - from + 1)));
    }
    const text = spans.map((span) => span.text).join('');
    if (text === before && first + perRow < pages) {
      if (!skipped) out.push(hanging(0, dim('     *')));
      skipped = true;
      continue;
    }
    skipped = false;
    before = text;
    out.push(hanging(MARGIN, dim(String(first).padStart(MARGIN - 1)), ' ', ...spans));
  }
  const legend = ORDER.filter((state) => ranges.some((range) => range.state === state));
  out.push(hanging(MARGIN, dim(`      ${legend.map((state) => `${LETTERS[state]} ${state}`).join('  ')}`)));
  return out;
}

function styled(state: ArenaPageState, text: string): Span {
  switch (state) {
    case 'free':
      return dim(text);
    case 'allocated':
      return good(text);
    case 'scratch':
      return bad(text);
    case 'reserved':
    case 'deferred':
      return { text, style: 'changed' };
  }
}
