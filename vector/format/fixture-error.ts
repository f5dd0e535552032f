/** What is wrong with a fixture, and where: the one kind of message that bad input produces. */

/** A place in a fixture's text; line and column count from 1, columns in UTF-16 units. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/**
 * One mistake in one fixture. `message` says what is wrong, `hint` (may be empty) what would be right.
 * Line 0 means the file as a whole: it is missing, unreadable, empty.
 */
export class FixtureError extends Error {
  override name = 'FixtureError';

  constructor(
    readonly file: string,
    readonly place: Place | null,
    message: string,
    readonly hint = '',
    /** The fixture's lines, so that the place can be shown; empty when there is no text to show. */
    readonly lines: readonly string[] = [],
  ) {
    super(message);
  }

  get line(): number {
    return this.place?.line ?? 0;
  }

  get column(): number {
    return this.place?.column ?? 0;
  }

  /** `file:line:column: message`, the source line, a caret under the place, the hint. */
  format(): string {
    const where = this.place === null ? this.file : `${this.file}:${this.place.line}:${this.place.column}`;
    const out = [`${where}: ${this.message}`];
    if (this.place !== null) out.push(...excerpt(this.lines[this.place.line - 1], this.place));
    if (this.hint !== '') out.push(`  ${this.hint}`);
    return out.join('\n');
  }
}

/** Several mistakes found in one go. */
export class FixtureErrors extends Error {
  override name = 'FixtureErrors';

  constructor(readonly errors: readonly FixtureError[]) {
    super(errors.map((error) => error.message).join('\n'));
  }
}

/** Characters of a source line shown at the most, and how many of them before the caret. */
const EXCERPT = 100;
const BEFORE_CARET = 60;

function excerpt(line: string | undefined, place: Place): string[] {
  if (line === undefined) return [];
  const gutter = String(place.line).padStart(5);
  const start = place.column > EXCERPT ? place.column - 1 - BEFORE_CARET : 0;
  const shown = printable(line.slice(start, start + EXCERPT)).trimEnd();
  const caret = place.column - 1 - start;
  return [`${gutter} | ${shown}`, `${' '.repeat(5)} | ${' '.repeat(Math.min(caret, EXCERPT))}^`];
}

/** Text that a terminal shows as it is: tabs become blanks, other control characters `?`. */
export function printable(text: string): string {
  let out = '';
  for (const char of text) {
    const code = char.codePointAt(0) ?? 0;
    if (code === 9) out += ' ';
    else if (code < 32 || (code >= 127 && code < 160)) out += '?';
    else out += char;
  }
  return out;
}

/** The first `limit` characters of something a user wrote, quoted, for a message. */
export function quoted(text: string, limit = 60): string {
  const shown = printable(text);
  return `\`${shown.length > limit ? `${shown.slice(0, limit)}…` : shown}\``;
}
