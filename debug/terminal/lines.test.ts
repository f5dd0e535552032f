import { describe, expect, test } from '@jest/globals';
import { bad, dim, hanging, type Line, line, paint, palette, verbatim } from './lines.js';

const plain = palette(false);
const shown = (source: Line, columns: number | null): string[] =>
  paint([source], columns, plain).replace(/\n$/, '').split('\n');

describe('lines are broken to the width of the screen', () => {
  const text = 'one two three four five six seven eight';

  test('not at all where lines may be of any length, or there is room', () => {
    expect(shown(line(text.repeat(20)), null)).toEqual([text.repeat(20)]);
    expect(shown(line(text), 39)).toEqual([text]);
  });

  test('at blanks, further rows hanging', () => {
    expect(shown(line(text), 38)).toEqual(['one two three four five six seven', '  eight']);
    expect(shown(hanging(4, text), 20)).toEqual(['one two three four', '    five six seven', '    eight']);
    expect(shown(line(`  ${text}`), 24)).toEqual(['  one two three four', '    five six seven eight']);
  });

  test('across pieces of different styles', () => {
    expect(shown(line('one two ', dim('three four '), 'five', bad(' six seven')), 20)).toEqual([
      'one two three four',
      '  five six seven',
    ]);
  });

  test('in the middle of a word that is longer than a row; nothing is lost', () => {
    const word = 'x'.repeat(50);
    expect(shown(line(`a ${word} b`), 20)).toEqual([
      `a ${'x'.repeat(18)}`,
      `  ${'x'.repeat(18)}`,
      `  ${'x'.repeat(14)} b`,
    ]);
  });

  test('not in the name of an address', () => {
    expect(shown(line('write of 0xffff <a.page(3) + 0x10>, code 0x2'), 30)).toEqual([
      'write of 0xffff',
      '  <a.page(3) + 0x10>, code 0x2',
    ]);
    expect(shown(line('one two three a - 0x10 four'), 18)).toEqual(['one two three a -', '  0x10 four']);
  });

  test('text of others anywhere, with its blanks', () => {
    const log = '[    1.000000]   Call Trace:   <TASK>';
    expect(shown(verbatim(dim('log| '), log), 20).join('')).toBe(`log| ${log}`);
    expect(shown(verbatim('a   '), 20)).toEqual(['a   ']);
  });

  test.each([20, 21, 33, 40, 57, 80])('no row is longer than %d columns, and no word is lost', (columns) => {
    const words = Array.from({ length: 60 }, (_, i) => 'w'.repeat((i * 7) % 31) + i);
    const rows = shown(
      hanging(30, words.slice(0, 30).join(' '), dim(` ${words.slice(30).join('  ')}`)),
      columns,
    );
    expect(rows.every((row) => row.length <= columns)).toBe(true);
    expect(rows.join('').replaceAll(' ', '')).toBe(words.join(''));
  });

  test('a width below the least one is as the least one', () => {
    expect(shown(line(text), 3)).toEqual(shown(line(text), 20));
  });
});

test('styles are there in colour only', () => {
  const source = line('a', bad('b'));
  expect(paint([source], null, palette(false))).toBe('ab\n');
  expect(paint([source], null, palette(true))).toBe('a\u001b[31mb\u001b[39m\n');
});

test('control characters of somebody else do not reach the terminal', () => {
  expect(paint([verbatim('\u001b[2Jgone\u0007')], null, plain)).toBe('?[2Jgone?\n');
});
