/** Expectations about the way of a step or a fault through the kernel, and counts of what happened on it. */
import type { DecideEvent, Event, Primitive } from '../../emu/events.js';
import { Expression } from '../format/bound-expression.js';
import type { HappenedExpect } from '../format/schema-arena.js';
import type { Path } from '../format/source.js';
import { decisions, entered } from '../report/fault-story.js';
import { type Checks, type FailureKind, listShown } from './failure.js';
import { primitiveText } from './primitive-text.js';
import { diffLines } from './text-match.js';

type Way = Pick<HappenedExpect, 'path' | 'not' | 'decisions'>;

/** Checks what happened in a step, by its own events; `cpu` did it. */
export function checkHappened(
  checks: Checks,
  want: HappenedExpect,
  path: Path,
  cpu: number,
  events: readonly Event[],
): void {
  checkWay(checks, 'happened', want, path, { events });
  const functions = entered({ events });
  for (const [fn, count] of Object.entries(want.calls ?? {})) {
    const got = functions.filter((each) => each === fn).length;
    checks.count('happened', [...path, 'calls', fn], count, got);
  }
  if (want.tlb_flushes !== undefined) {
    checkFlushes(checks, want.tlb_flushes, [...path, 'tlb_flushes'], cpu, events);
  }
  for (const [key, action] of [
    ['pages_taken', 'alloc'],
    ['pages_freed', 'free'],
  ] as const) {
    const pages = events.filter((event) => event.type === 'page' && event.action === action);
    checks.count('happened', [...path, key], want[key], pages.length);
  }
}

/** Checks functions entered and decisions taken, each an ordered part of all. */
export function checkWay(
  checks: Checks,
  kind: FailureKind,
  want: Way,
  path: Path,
  story: { readonly events: readonly Event[] },
): void {
  if (want.path === undefined && want.not === undefined && want.decisions === undefined) return;
  const got = entered(story);
  checkPath(checks, kind, want.path ?? [], [...path, 'path'], got);
  want.not?.forEach((fn, i) => {
    if (got.includes(fn)) {
      checks.fail(kind, [...path, 'not', i], `${fn} not entered`, `${fn} entered`, {
        notes: [`its path: ${pathShown(got, fn)}`],
      });
    }
  });
  checkDecisions(checks, kind, want.decisions ?? [], [...path, 'decisions'], decisions(story));
}

/** Functions in front of and behind one that is shown on a long path. */
const AROUND = 12;

/** A path through the kernel; of a long one the stretch around a function. */
function pathShown(functions: readonly string[], fn: string): string {
  const at = functions.indexOf(fn);
  const [from, to] = [Math.max(0, at - AROUND), at + AROUND + 1];
  const shown = functions.slice(from, to).join(' → ');
  return `${from > 0 ? '… → ' : ''}${shown}${to < functions.length ? ' → …' : ''}`;
}

/** Flushes that are named one by one. */
const FLUSHES = 4;

/** What the kernel drops; what the fixture itself drops is not meant. */
function checkFlushes(
  checks: Checks,
  want: NonNullable<HappenedExpect['tlb_flushes']>,
  path: Path,
  cpu: number,
  events: readonly Event[],
): void {
  const got = events.flatMap((event) =>
    event.type === 'tlb-flush' && event.cpu === cpu && event.by !== 'switch_mm'
      ? [event.va === null ? 'all' : checks.shown(event.va)]
      : [],
  );
  const wanted = want.map((each) => (each === 'all' ? each : checks.shown(each.value(checks.machine.scope))));
  if (got.length === wanted.length && got.every((each, i) => each === wanted[i])) return;
  const text = (list: readonly string[]): string => {
    if (list.length === 0) return 'none';
    return list.length > FLUSHES ? `${list[0]} … (${list.length} flushes)` : list.join(', ');
  };
  checks.fail('happened', path, text(wanted), text(got), { diff: diffLines(wanted, got) });
}

function checkPath(
  checks: Checks,
  kind: FailureKind,
  want: readonly string[],
  path: Path,
  got: readonly string[],
): void {
  let from = 0;
  for (const [i, fn] of want.entries()) {
    const at = got.indexOf(fn, from);
    if (at < 0) {
      const where = got.includes(fn) ? `${fn} entered only before ${want[i - 1]}` : `${fn} not entered`;
      const wildcards = ['...', ...want.flatMap((name) => [name, '...'])];
      checks.fail(kind, [...path, i], `${fn} entered${i > 0 ? ` after ${want[i - 1]}` : ''}`, where, {
        diff: diffLines(wildcards, got),
      });
      return;
    }
    from = at + 1;
  }
}

function checkDecisions(
  checks: Checks,
  kind: FailureKind,
  want: NonNullable<Way['decisions']>,
  path: Path,
  got: readonly DecideEvent[],
): void {
  let from = 0;
  for (const [i, expected] of want.entries()) {
    const matches = (index: number): boolean => {
      const event = got[index];
      return event?.test === expected.test && (expected.fn === undefined || event.fn === expected.fn);
    };
    let at = from;
    while (at < got.length && !matches(at)) at += 1;
    const found = got[at];
    const what = `${expected.fn === undefined ? '' : `${expected.fn}: `}${expected.test}`;
    if (found === undefined) {
      checks.fail(kind, [...path, i, 'test'], what, 'not decided', {
        notes: decidedNotes(got, from, expected.fn),
      });
      return;
    }
    from = at + 1;
    if (!sameValue(checks, expected.value, found.value)) {
      const wanted =
        expected.value instanceof Expression ? expected.value.text : primitiveText(expected.value);
      checks.fail(kind, [...path, i, 'value'], wanted, primitiveText(found.value), {
        notes: [`decision: ${found.fn}: ${found.test}`],
      });
    }
  }
}

/** What was decided from `from` on: by the function that was meant, if it did, and by any otherwise. */
function decidedNotes(all: readonly DecideEvent[], from: number, fn: string | undefined): string[] {
  const behind = all[from - 1];
  const later = all.slice(from);
  const own = later.filter((event) => event.fn === fn);
  const lines = (own.length > 0 ? own : later).map(
    ({ fn, test, value }) => `  ${fn}: ${test} = ${primitiveText(value)}`,
  );
  const what = own.length > 0 ? `${fn} decided` : lines.length > 0 ? 'decided' : 'nothing was decided';
  const where = behind === undefined ? '' : ` behind ${behind.fn}: ${behind.test}`;
  return [`${what}${where}${lines.length > 0 ? ':' : ''}`, ...listShown(lines)];
}

function sameValue(checks: Checks, want: boolean | null | Expression, got: Primitive): boolean {
  if (!(want instanceof Expression)) return got === want || (want === null && got === undefined);
  // What the source calls by a name, like EX_TYPE_BPF, is shown by it.
  if (typeof got === 'string') return want.text.trim() === got;
  if (typeof got !== 'bigint' && typeof got !== 'number') return false;
  return want.value(checks.machine.scope) === BigInt.asUintN(64, BigInt(got));
}
