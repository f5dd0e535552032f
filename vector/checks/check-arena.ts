/** Expectations about the state of arenas and of pages. */
import { hex } from '../../emu/address.js';
import type { ArenaStateExpect, PageStateExpect } from '../format/schema-arena.js';
import type { Path } from '../format/source.js';
import type { ArenaView } from '../machine/machine-arena.js';
import type { Checks } from './failure.js';

const COUNTS = ['pages', 'scratched', 'free', 'mappings'] as const;
const ADDRESSES = ['user_vm_start', 'user_vm_end'] as const;

export function checkArenas(
  checks: Checks,
  arenas: Readonly<Record<string, ArenaStateExpect>>,
  path: Path,
): void {
  const { machine } = checks;
  for (const [name, { exists, ...expected }] of Object.entries(arenas)) {
    const at = [...path, name];
    if (exists !== undefined) {
      checks.equal('arenas', [...at, 'exists'], String(exists), String(machine.arenas.exists(name)));
    }
    if (Object.values(expected).every((each) => each === undefined)) continue;
    checkArena(checks, expected, at, machine.arena(name));
  }
}

function checkArena(
  checks: Checks,
  expected: Omit<ArenaStateExpect, 'exists'>,
  path: Path,
  view: ArenaView,
): void {
  for (const key of COUNTS) checks.count('arenas', [...path, key], expected[key], view[key]);
  for (const key of ['ranges', 'deferred'] as const) {
    checks.equal('arenas', [...path, key], expected[key], rangesText(view[key]));
  }
  checks.equal('arenas', [...path, 'queued'], expected.queued, view.queued);
  for (const key of ADDRESSES) checks.number('arenas', [...path, key], expected[key], view[key]);
}

/** `0-2 4 7-15`, or `none`. */
function rangesText(ranges: ArenaView['ranges']): string {
  if (ranges.length === 0) return 'none';
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(' ');
}

/** Checks what pages addresses have, and who has how many. */
export function checkPages(checks: Checks, expect: PageStateExpect, path: Path, cpu: number): void {
  const { machine } = checks;
  const { scope, arenas } = machine;
  expect.frames?.forEach((want, i) => {
    const at = [...path, 'frames', i];
    const va = want.at.value(scope);
    const frame = arenas.frame(cpu, va);
    if (frame === null) {
      checks.fail('pages', [...at, 'at'], 'a page', 'not mapped', { notes: [`at ${checks.shown(va)}`] });
      return;
    }
    const notes = [`page behind ${checks.shown(va)}: ${hex(frame.pa)}`];
    checks.count('pages', [...at, 'refs'], want.refs, frame.refs, notes);
    checks.count('pages', [...at, 'mapped'], want.mapped, frame.mapped, notes);
    checks.equal('pages', [...at, 'owner'], want.owner, frame.owner ?? 'nobody', notes);
  });
  expect.same_page?.forEach((addresses, i) => {
    const places = addresses.map((each) => {
      const va = each.value(scope);
      const frame = arenas.frame(cpu, va);
      return { va, pa: frame === null ? null : frame.pa + Number(va & 0xfffn) };
    });
    const [first] = places;
    if (first?.pa !== null && places.every(({ pa }) => pa === first?.pa)) return;
    const shown = places.map(({ va, pa }) => `${checks.shown(va)}: ${pa === null ? 'not mapped' : hex(pa)}`);
    checks.fail('pages', [...path, 'same_page', i], 'one page', 'not one page', { notes: shown });
  });
  for (const [owner, want] of Object.entries(expect.in_use ?? {})) {
    checks.count('pages', [...path, 'in_use', owner], want, arenas.inUse(owner));
  }
  checks.count('pages', [...path, 'arena_areas'], expect.arena_areas, arenas.areas);
}
