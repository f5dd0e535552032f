import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { COVERAGE_FILE, coverageText, oneSided, readCoverage, uncovered } from './coverage.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

describe('the cases of the fault paths', () => {
  const coverage = readCoverage(root);

  test.each([
    ['x86', 54],
    ['arm64', 68],
    ['kfence', 35],
    ['kfence-kunit', 27],
    ['arena', 88],
    ['race', 28],
    ['sched-ext', 8],
    ['selftest', 84],
  ])('of %s are %i, numbered without a gap', (table, count) => {
    const expected = Array.from({ length: count }, (_, i) => `${table}/${i + 1}`);
    const ids = coverage.rows.map(({ id }) => id);
    expect(ids.filter((id) => id.startsWith(`${table}/`))).toEqual(expected);
  });

  test('each have a fixture, or a reason why there is none', () => {
    expect(uncovered(coverage)).toEqual([]);
  });

  test('have one on each architecture, where both have the case', () => {
    expect(oneSided(coverage)).toEqual([]);
  });

  test('are those that fixtures name', () => {
    expect(coverage.unknown).toEqual([]);
    expect(coverage.broken).toEqual([]);
  });

  test('and their fixtures are in docs/coverage.md: `npm run coverage-doc`', () => {
    expect(readFileSync(join(root, COVERAGE_FILE), 'utf8') === coverageText(coverage)).toBe(true);
  });
});

test('cases are shown with their fixtures or reasons; what is missing or unknown is found', () => {
  const tree = mkdtempSync(join(tmpdir(), 'kfault-coverage-'));
  try {
    mkdirSync(join(tree, 'docs'));
    mkdirSync(join(tree, 'fixtures', 'x86'), { recursive: true });
    writeFileSync(
      join(tree, 'docs', 'coverage-rows.yaml'),
      'x86:\n  1: shown\n  2: missing\n  3: { text: impossible, reason: no such hardware }\n' +
        'arena:\n  1: on both\n  2: { text: on one, arch: x86-64 }\n',
    );
    writeFileSync(
      join(tree, 'fixtures', 'x86', 'a.yaml'),
      'name: a | b\narch: x86-64\ncovers: [x86/1, x86/4, arena/1, arena/2]\ntext: [{ symbol: f, asm: ret }]\nsteps: [{ call: f }]\n',
    );
    const coverage = readCoverage(tree);
    expect(uncovered(coverage)).toEqual(['x86/2']);
    expect(oneSided(coverage)).toEqual(['arena/1']);
    expect(coverage.unknown).toEqual(['fixtures/x86/a.yaml: x86/4']);
    expect(coverageText(coverage).split('\n').slice(5)).toEqual([
      '5 cases: 3 shown by fixtures, 1 with a reason why not, 1 missing.',
      '',
      '## x86-64',
      '',
      '| case | what happens | fixtures |',
      '|---|---|---|',
      '| x86/1 | shown | [a \\| b](../fixtures/x86/a.yaml) |',
      '| x86/2 | missing | **missing** |',
      '| x86/3 | impossible | none: no such hardware |',
      '',
      '## Arenas',
      '',
      '| case | what happens | fixtures |',
      '|---|---|---|',
      '| arena/1 | on both | [a \\| b](../fixtures/x86/a.yaml) |',
      '| arena/2 | on one (x86-64) | [a \\| b](../fixtures/x86/a.yaml) |',
      '',
    ]);
  } finally {
    rmSync(tree, { recursive: true });
  }
});
