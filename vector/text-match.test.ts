import { describe, expect, test } from '@jest/globals';
import { compareText } from './text-match.js';

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
    ['a\n', 'a\n\n'],
    ['a\n\n', 'a\n\n'],
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
    ['a\n\nb', 'a\nb', '  a\n-\n  b'],
    ['a \n', 'a\n', '- a\n+ a'],
  ])('%j and %j', (expected, actual, diff) => {
    expect(compareText(expected, actual)).toBe(diff);
  });

  test('long stretches that agree are folded', () => {
    const lines = Array.from({ length: 20 }, (_, i) => `line ${i}`);
    const actual = [...lines.slice(0, 19), 'other'].join('\n');
    expect(compareText(lines.join('\n'), actual)).toBe(
      ['  … 16 lines …', '  line 16', '  line 17', '  line 18', '- line 19', '+ other'].join('\n'),
    );
  });
});
