/** Comparing text line by line, where a line `...` of the expectation stands for any lines. */

/** The wildcard line. */
const ANY = '...';

/** Lines of a text, blank ones at the end too. A newline at the end ends the last line and begins none. */
export function textLines(text: string): string[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

/**
 * What differs between an expected text and the actual one, or null when they agree. Every blank and every blank line
 * counts, also at the end; only whether the last line is ended by a newline does not.
 */
export function compareText(expected: string, actual: string): string | null {
  const want = textLines(expected);
  const got = textLines(actual);
  return matches(want, got) ? null : diffLines(want, got);
}

/** Whether two texts are the same but for blank lines at the end. */
export function differInBlankEnd(expected: string, actual: string): boolean {
  const end = /\n*$/;
  return compareText(expected.replace(end, ''), actual.replace(end, '')) === null;
}

function isAny(line: string | undefined): boolean {
  return line?.trim() === ANY;
}

function matches(want: readonly string[], got: readonly string[]): boolean {
  // Greedy matching with one point to come back to is exact for this kind of pattern.
  let w = 0;
  let g = 0;
  let backWant = -1;
  let backGot = 0;
  while (g < got.length) {
    if (w < want.length && isAny(want[w])) {
      backWant = w;
      backGot = g;
      w += 1;
    } else if (w < want.length && want[w] === got[g]) {
      w += 1;
      g += 1;
    } else if (backWant >= 0) {
      w = backWant + 1;
      backGot += 1;
      g = backGot;
    } else return false;
  }
  while (isAny(want[w])) w += 1;
  return w === want.length;
}

type Row = { readonly mark: ' ' | '-' | '+' | '~'; readonly text: string };

/** Unchanged lines shown around a change. */
const CONTEXT = 3;
/** Texts longer than this are not aligned, only shown. */
const ALIGN_MAX = 1_000_000;
/** Lines of a difference that are shown. */
const SHOWN_MAX = 200;

/**
 * `-` lines that are missing, `+` lines that are too much, two blanks before lines that agree. Blanks at the end of a
 * line that differs are dots.
 */
export function diffLines(want: readonly string[], got: readonly string[]): string {
  const all =
    want.length * got.length > ALIGN_MAX
      ? [...want.map((text): Row => ({ mark: '-', text })), ...got.map((text): Row => ({ mark: '+', text }))]
      : align(want, got);
  const folded = fold(all);
  const hidden = folded.length - SHOWN_MAX;
  const rows =
    hidden > 1
      ? [...folded.slice(0, SHOWN_MAX), { mark: '~', text: `… ${hidden} more lines …` } as const]
      : folded;
  return rows
    .map(({ mark, text }) =>
      `${mark === '~' ? ' ' : mark} ${mark === '-' || mark === '+' ? endShown(text) : text}`.trimEnd(),
    )
    .join('\n');
}

/** Blanks at the end of a line that differs, as dots: what cannot be seen would look like no difference. */
export function endShown(text: string): string {
  return text.replace(/ +$/, (blanks) => '·'.repeat(blanks.length));
}

/** Cheapest way from `want` to `got`; lines under a wildcard cost nothing. */
function align(want: readonly string[], got: readonly string[]): Row[] {
  const columns = got.length + 1;
  const cost = new Uint32Array((want.length + 1) * columns);
  const at = (w: number, g: number): number => cost[w * columns + g] ?? 0;
  for (let w = want.length; w >= 0; w -= 1) {
    for (let g = got.length; g >= 0; g -= 1) {
      let best: number;
      if (w === want.length) best = got.length - g;
      else if (isAny(want[w]))
        best = Math.min(at(w + 1, g), g < got.length ? at(w, g + 1) : Number.MAX_SAFE_INTEGER);
      else if (g === got.length) best = at(w + 1, g) + 1;
      else if (want[w] === got[g]) best = at(w + 1, g + 1);
      else best = Math.min(at(w + 1, g), at(w, g + 1)) + 1;
      cost[w * columns + g] = best;
    }
  }
  const rows: Row[] = [];
  let w = 0;
  let g = 0;
  while (w < want.length || g < got.length) {
    const line = want[w];
    if (w < want.length && isAny(line)) {
      if (g < got.length && at(w, g + 1) === at(w, g) && at(w + 1, g) !== at(w, g)) {
        rows.push({ mark: '~', text: got[g] ?? '' });
        g += 1;
      } else w += 1;
    } else if (w < want.length && g < got.length && line === got[g]) {
      rows.push({ mark: ' ', text: line ?? '' });
      w += 1;
      g += 1;
    } else if (w < want.length && (g === got.length || at(w + 1, g) + 1 === at(w, g))) {
      rows.push({ mark: '-', text: line ?? '' });
      w += 1;
    } else {
      rows.push({ mark: '+', text: got[g] ?? '' });
      g += 1;
    }
  }
  return rows;
}

/** Replaces long stretches without a change by one line that says how long they are. */
function fold(rows: readonly Row[]): Row[] {
  const near = rows.map((_, i) =>
    rows.slice(Math.max(0, i - CONTEXT), i + CONTEXT + 1).some((row) => row.mark === '-' || row.mark === '+'),
  );
  const out: Row[] = [];
  let hidden = 0;
  const flush = (): void => {
    if (hidden > 0) out.push({ mark: ' ', text: `… ${hidden} line${hidden === 1 ? '' : 's'} …` });
    hidden = 0;
  };
  rows.forEach((row, i) => {
    if (near[i] === true) {
      flush();
      out.push(row);
    } else hidden += 1;
  });
  flush();
  return out;
}
