/** Lines for a terminal: text with styles, broken to the width of the screen, painted last. */
import pc from 'picocolors';
import { printable } from '../../vector/format/fixture-error.js';

/** What a piece of a line is; how it looks is the palette's affair. */
export type Style = 'plain' | 'dim' | 'strong' | 'here' | 'changed' | 'good' | 'bad' | 'name';

export interface Span {
  readonly text: string;
  readonly style: Style;
}

export interface Line {
  readonly spans: readonly Span[];
  /** Columns that further rows are indented by when the line is broken. */
  readonly hang: number;
  /** Broken anywhere, and nothing is lost: text of the kernel's and of the user's. */
  readonly verbatim: boolean;
}

const span = (style: Style) => (text: string | number | bigint) => ({ text: String(text), style });
export const dim = span('dim');
export const strong = span('strong');
export const here = span('here');
export const changed = span('changed');
export const good = span('good');
export const bad = span('bad');
export const name = span('name');

const spanOf = (part: string | Span): Span =>
  typeof part === 'string' ? { text: part, style: 'plain' } : part;

/** A line that is broken at blanks, its further rows indented by `hang`. */
export function hanging(hang: number, ...parts: readonly (string | Span)[]): Line {
  return { spans: parts.map(spanOf), hang, verbatim: false };
}

/** A line that is broken at blanks; further rows begin two columns in from the first one's text. */
export function line(...parts: readonly (string | Span)[]): Line {
  const text = parts.map((part) => spanOf(part).text).join('');
  return hanging(text.length - text.trimStart().length + 2, ...parts);
}

/** Text of somebody else's: shown as it is, blanks and all. */
export function verbatim(...parts: readonly (string | Span)[]): Line {
  return { spans: parts.map(spanOf), hang: 0, verbatim: true };
}

/** Each line of a text, broken at blanks where it is too long. */
export function textLines(text: string, ...styles: readonly [Style?]): Line[] {
  const [style = 'plain'] = styles;
  return text.split('\n').map((row) => line({ text: row, style }));
}

/** The text of a line without its styles. */
export function plainText({ spans }: Line): string {
  return spans.map(({ text }) => text).join('');
}

/** Columns that a text takes: what counts in a terminal is characters, not UTF-16 units. */
export function width(text: string): number {
  return [...text].length;
}

/** The narrowest screen that is laid out for; in a narrower one the terminal breaks lines itself. */
const COLUMNS_MIN = 20;

/** Between words; the name of an address, as `<a.page(3) + 0x10>`, is one word, and so is … with the one before. */
const WORDS = /(?<=\s)(?=\S)(?!(?:[-+] )?0x[0-9a-f]+>|…)/;

/** A line as rows of at most `columns`; null: as it is. */
export function rows(source: Line, columns: number | null): readonly (readonly Span[])[] {
  if (columns === null) return [source.spans];
  const limit = Math.max(columns, COLUMNS_MIN);
  if (width(plainText(source)) <= limit) return [source.spans];
  const hang = source.verbatim ? 0 : Math.min(source.hang, Math.floor(limit / 2));
  const out: Span[][] = [];
  let row: Span[] = [];
  let used = 0;
  /** Nothing but indentation stands in the row. */
  let empty = true;
  const next = (): void => {
    out.push(row);
    row = hang > 0 ? [{ text: ' '.repeat(hang), style: 'plain' }] : [];
    used = hang;
    empty = true;
  };
  for (const { text, style } of source.spans) {
    for (const piece of source.verbatim ? [text] : text.split(WORDS)) {
      let rest = [...piece];
      const solid = width(piece.trimEnd());
      // What is longer than a row is broken where it stands.
      if (!source.verbatim && !empty && used + solid > limit && solid <= limit - hang) next();
      while (rest.length > 0 && used + width(rest.join('').trimEnd()) > limit) {
        const room = limit - used;
        if (room <= 0) {
          next();
          continue;
        }
        row.push({ text: rest.slice(0, room).join(''), style });
        rest = rest.slice(room);
        next();
      }
      const tail = rest.join('');
      if (tail === '' || (empty && out.length > 0 && tail.trim() === '')) continue;
      row.push({ text: tail, style });
      used += width(tail);
      if (tail.trim() !== '') empty = false;
    }
  }
  out.push(row);
  return out;
}

/** How styles look. */
export type Palette = Readonly<Record<Style, (text: string) => string>>;

/** The palette of a terminal, or one that changes nothing. */
export function palette(colours: boolean): Palette {
  const c = pc.createColors(colours);
  return {
    plain: (text) => text,
    dim: c.dim,
    strong: c.bold,
    here: (text) => c.bold(c.yellow(text)),
    changed: c.yellow,
    good: c.green,
    bad: c.red,
    name: c.cyan,
  };
}

/** What goes to the terminal for some lines: control characters of a fixture's author are not among it. */
export function paint(lines: readonly Line[], columns: number | null, colours: Palette): string {
  let out = '';
  for (const each of lines) {
    for (const row of rows(each, columns)) {
      // Blanks at the end of a row are of no use to anybody; those of a verbatim line are the author's.
      const spans = each.verbatim ? row : trimmed(row);
      out += `${spans.map(({ text, style }) => colours[style](printable(text))).join('')}\n`;
    }
  }
  return out;
}

function trimmed(row: readonly Span[]): Span[] {
  const out = [...row];
  for (;;) {
    const last = out.at(-1);
    if (last === undefined) return out;
    const text = last.text.trimEnd();
    if (text === last.text && text !== '') return out;
    out.pop();
    if (text !== '') return [...out, { text, style: last.style }];
  }
}
