/**
 * Which fixture shows which case: the table of docs/coverage.md, made of the list of cases
 * (docs/coverage-rows.yaml) and the key `covers` of the fixtures.
 */
import { readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { parse } from 'yaml';
import { discoverFixtures } from '../vector/format/discover.js';
import { loadFixture } from '../vector/format/load.js';

/** A case, e.g. `x86/13`. */
export interface CoverageRow {
  readonly id: string;
  /** What happens, in a few words. */
  readonly text: string;
  /** Why no fixture can show it; null where one has to. */
  readonly reason: string | null;
  /** The only architecture that has this case; null where both have it, or the table is one architecture's. */
  readonly arch: 'x86-64' | 'arm64' | null;
  readonly fixtures: readonly CoveringFixture[];
}

export interface CoveringFixture {
  /** From the root of the repository, with `/`. */
  readonly file: string;
  readonly name: string;
}

export interface Coverage {
  readonly rows: readonly CoverageRow[];
  /** `covers` entries that name no case, as `file: x86/99`. */
  readonly unknown: readonly string[];
  /** What is wrong with fixtures that cannot be read. */
  readonly broken: readonly string[];
}

/** Files below the root of the repository. */
export const ROWS_FILE = join('docs', 'coverage-rows.yaml');
export const COVERAGE_FILE = join('docs', 'coverage.md');

/** Reads the list of cases and all fixtures below `root`. */
export function readCoverage(root: string): Coverage {
  const tables = parse(readFileSync(join(root, ROWS_FILE), 'utf8')) as Tables;
  const broken: string[] = [];
  const covering = new Map<string, CoveringFixture[]>();
  for (const file of discoverFixtures([join(root, 'fixtures')]).files) {
    const loaded = loadFixture(file);
    if (!loaded.ok) {
      broken.push(...loaded.errors.map((error) => error.format()));
      continue;
    }
    const { name, covers = [] } = loaded.fixture.data;
    const fixture = { file: relative(root, file).split(sep).join('/'), name };
    for (const row of covers) covering.set(row, [...(covering.get(row) ?? []), fixture]);
  }
  const rows = Object.entries(tables).flatMap(([table, cases]) =>
    Object.entries(cases).map(([number, entry]): CoverageRow => {
      const id = `${table}/${number}`;
      const { text, reason = null, arch = null } = typeof entry === 'string' ? { text: entry } : entry;
      return { id, text, reason, arch, fixtures: covering.get(id) ?? [] };
    }),
  );
  const known = new Set(rows.map(({ id }) => id));
  const unknown = [...covering]
    .filter(([id]) => !known.has(id))
    .flatMap(([id, fixtures]) => fixtures.map(({ file }) => `${file}: ${id}`));
  return { rows, unknown, broken };
}

/** What happens, and why no fixture shows it, or which architecture alone has it. */
interface Entry {
  readonly text: string;
  readonly reason?: string;
  readonly arch?: 'x86-64' | 'arm64';
}

/** Cases by table and number. */
type Tables = Readonly<Record<string, Readonly<Record<string, string | Entry>>>>;

/** Rows that neither a fixture shows nor a reason excuses. */
export function uncovered({ rows }: Coverage): string[] {
  return rows.filter(({ fixtures, reason }) => fixtures.length === 0 && reason === null).map(({ id }) => id);
}

/** Tables whose cases both architectures have. */
const COMMON_TABLES: readonly string[] = ['kfence', 'kfence-kunit', 'arena', 'race', 'sched-ext', 'selftest'];

/** Rows of both architectures that fixtures show on one of them only. */
export function oneSided({ rows }: Coverage): string[] {
  return rows
    .filter(({ id, arch, fixtures }) => {
      const sides = new Set(fixtures.map(({ file }) => file.split('/')[1]));
      return arch === null && sides.size === 1 && COMMON_TABLES.includes(id.split('/', 1)[0] ?? '');
    })
    .map(({ id }) => id);
}

const TITLES: Readonly<Record<string, string>> = {
  x86: 'x86-64',
  arm64: 'arm64',
  kfence: 'KFENCE',
  'kfence-kunit': 'KUnit cases of KFENCE',
  arena: 'Arenas',
  race: 'Arenas and several CPUs',
  'sched-ext': 'A scheduler with arena memory',
  selftest: "The kernel's selftests",
};

/** The text of docs/coverage.md. */
export function coverageText(coverage: Coverage): string {
  const { rows } = coverage;
  const missing = uncovered(coverage).length;
  const excused = rows.filter(({ fixtures, reason }) => fixtures.length === 0 && reason !== null).length;
  const tables = [...new Set(rows.map(({ id }) => id.split('/', 1)[0] ?? ''))];
  return [
    '# Coverage',
    '',
    'Cases of the fault paths and the fixtures that show them. Made by `npm run coverage-doc` from',
    '`docs/coverage-rows.yaml` and the key `covers` of the fixtures: do not edit.',
    '',
    `${rows.length} cases: ${rows.length - missing - excused} shown by fixtures, ${excused} with a reason why not, ${missing} missing.`,
    '',
    ...tables.flatMap((table) => [
      `## ${TITLES[table] ?? table}`,
      '',
      '| case | what happens | fixtures |',
      '|---|---|---|',
      ...rows.filter(({ id }) => id.startsWith(`${table}/`)).map(rowText),
      '',
    ]),
  ].join('\n');
}

function rowText({ id, text, reason, arch, fixtures }: CoverageRow): string {
  const shown = fixtures.map(({ file, name }) => `[${name.replaceAll('|', '\\|')}](../${file})`).join('<br>');
  const cell = shown === '' ? (reason === null ? '**missing**' : `none: ${reason}`) : shown;
  return `| ${id} | ${text}${arch === null ? '' : ` (${arch})`} | ${cell} |`;
}
