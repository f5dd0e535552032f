import { describe, expect, test } from '@jest/globals';
import { compareText, differInBlankEnd } from './text-match.js';

describe('texts that agree', () => {
  test.each([
    ['', ''],
    ['a', 'a\n'],
    ['a\nb\n', 'a\nb'],
    ['a\n...\n', 'a\nb\nc\n'],
    ['a\n...\n', 'a\n'],
    ['...\nc', 'a\nb\nc'],
    ['...', ''],
    ['a\n...\nc\n...\ne', 'a\nc\nx\nc\nd\ne'],
    ['a\n\n', 'a\n\n'],
    ['a\n...\n', 'a\n\n'],
    ['a\n...\n\n', 'a\nb\n\n'],
    ['a\n\nb', 'a\n\nb'],
  ])('%j and %j', (expected, actual) => {
    expect(compareText(expected, actual)).toBeNull();
  });
});

describe('texts that differ', () => {
  test.each([
    ['a', '', '- a'],
    ['', 'a', '+ a'],
    ['a\nb', 'a\nc', '  a\n- b\n+ c'],
    ['a\n...', 'b\nc', '- a\n  b\n  c'],
    ['...\nz', 'a\nb', '  a\n  b\n- z'],
    ['a\n\n', 'a\n', '  a\n-'],
    ['a\n', 'a\n\n', '  a\n+'],
    ['a\n\n', 'a\n\n\n', '  a\n\n+'],
    ['a\n...\n\n', 'a\nb\n', '  a\n  b\n-'],
    ['', '\n', '+'],
    ['\n', '', '-'],
    ['a\n\nb', 'a\nb', '  a\n-\n  b'],
    ['a  b  \n', 'a  b\n', '- a  b··\n+ a  b'],
  ])('%j and %j', (expected, actual, diff) => {
    expect(compareText(expected, actual)).toBe(diff);
  });

  test.each([
    ['a\n', 'a\n\n', true],
    ['a\n\n\n', 'a', true],
    ['', '\n', true],
    ['a\n...\nb\n', 'a\nb\n\n', true],
    ['a\n', 'b\n\n', false],
    ['a\n', '\na\n', false],
  ])('%j and %j: only in blank lines at the end: %j', (expected, actual, only) => {
    expect(differInBlankEnd(expected, actual)).toBe(only);
  });

  test('long stretches that agree are folded', () => {
    const lines = Array.from({ length: 20 }, (_, i) => `line ${i}`);
    const actual = [...lines.slice(0, 19), 'other'].join('\n');
    expect(compareText(lines.join('\n'), actual)).toBe(
      ['  … 16 lines …', '  line 16', '  line 17', '  line 18', '- line 19', '+ other'].join('\n'),
    );
  });

  test.each([
    ['few against many', 1, 1000],
    ['more than can be aligned', 1001, 1000],
  ])('a long difference is cut: %s', (_, want, got) => {
    const diff = compareText('want\n'.repeat(want), 'got\n'.repeat(got))?.split('\n') ?? [];
    expect(diff).toHaveLength(201);
    expect(diff[0]).toBe('- want');
    expect(diff.at(-1)).toBe(`  … ${want + got - 200} more lines …`);
  });
});
