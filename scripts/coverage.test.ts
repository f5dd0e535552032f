import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { COVERAGE_FILE, coverageText, readCoverage, uncovered } from './coverage.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

describe('the cases of the fault paths', () => {
  const coverage = readCoverage(root);

  test.each([
    ['x86', 54],
    ['arm64', 68],
    ['kfence', 35],
    ['kfence-kunit', 27],
  ])('of %s are %i, numbered without a gap', (table, count) => {
    const expected = Array.from({ length: count }, (_, i) => `${table}/${i + 1}`);
    const ids = coverage.rows.map(({ id }) => id);
    expect(ids.filter((id) => id.startsWith(`${table}/`))).toEqual(expected);
  });

  test('each have a fixture, or a reason why there is none', () => {
    expect(uncovered(coverage)).toEqual([]);
  });

  test('of KFENCE have one on each architecture', () => {
    const oneSided = coverage.rows
      .filter(({ id }) => id.startsWith('kfence'))
      .filter(({ fixtures }) => new Set(fixtures.map(({ file }) => file.split('/')[1])).size < 2);
    // The encoding of arm64.
    expect(oneSided.map(({ id }) => id)).toEqual(['kfence/30']);
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
    mkdirSync(join(tree, 'fixtures'));
    writeFileSync(
      join(tree, 'docs', 'coverage-rows.yaml'),
      'x86:\n  1: shown\n  2: missing\n  3: { text: impossible, reason: no such hardware }\n',
    );
    writeFileSync(
      join(tree, 'fixtures', 'a.yaml'),
      'name: a | b\narch: x86-64\ncovers: [x86/1, x86/4]\ntext: [{ symbol: f, asm: ret }]\nsteps: [{ call: f }]\n',
    );
    const coverage = readCoverage(tree);
    expect(uncovered(coverage)).toEqual(['x86/2']);
    expect(coverage.unknown).toEqual(['fixtures/a.yaml: x86/4']);
    expect(coverageText(coverage).split('\n').slice(5)).toEqual([
      '3 cases: 1 shown by fixtures, 1 with a reason why not, 1 missing.',
      '',
      '## x86-64',
      '',
      '| case | what happens | fixtures |',
      '|---|---|---|',
      '| x86/1 | shown | [a \\| b](../fixtures/a.yaml) |',
      '| x86/2 | missing | **missing** |',
      '| x86/3 | impossible | none: no such hardware |',
      '',
    ]);
  } finally {
    rmSync(tree, { recursive: true });
  }
});
