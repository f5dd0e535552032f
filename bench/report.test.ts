import { describe, expect, test } from '@jest/globals';
import { SPLITS, type Split } from './figures.js';
import { type FigureTurns, jsonReport, number, partRows, type Surroundings, textReport } from './report.js';
import { select } from './selection.js';

const surroundings: Surroundings = { node: 'v20', engine: '2.1.4', processor: 'a CPU', turns: 3 };

function turnsOf(values: readonly number[], fastest: readonly number[] = []): FigureTurns {
  return { values, fastest };
}

describe('numbers', () => {
  test.each<[number, string]>([
    [0.12345, '0.12'],
    [9.876, '9.88'],
    [98.76, '98.8'],
    [987.6, '988'],
    [123456.7, '123457'],
    [-12.34, '-12.3'],
  ])('%d is shown as %s', (value, text) => {
    expect(number(value)).toBe(text);
  });
});

describe('a figure beside the Python binding', () => {
  const selection = select(/^miss-restart\/x86-64$/);
  const turns = new Map([
    ['miss-restart/x86-64', turnsOf([1000, 1500, 1100], [990, 1000, 980])],
    ['python-miss-restart/x86-64', turnsOf([8000, 15000, 10000])],
  ]);

  test('as a table', () => {
    const lines = textReport(selection, turns, surroundings);
    expect(lines[0]).toBe('a CPU; Node v20; Unicorn 2.1.4; medians of 3 turns');
    expect(lines.slice(2).map((line) => line.replaceAll(/ {2,}/g, '  '))).toEqual([
      "a miss, a stop, a restart: nothing behind it  median  min..max  of Python's (min..max)",
      '  koffi, x86-64  1100 ns  1000..1500  0.11 (0.10..0.13)',
      '  the Python binding, x86-64  10000 ns  8000..15000',
    ]);
  });

  test('as JSON', () => {
    expect(JSON.parse(jsonReport(selection, turns, surroundings))).toEqual({
      ...surroundings,
      figures: {
        'miss-restart/x86-64': {
          section: 'a miss, a stop, a restart: nothing behind it',
          label: 'koffi, x86-64',
          unit: 'ns',
          median: 1100,
          min: 1000,
          max: 1500,
          turns: [1000, 1500, 1100],
          ofPython: { median: 0.11, min: 0.1, max: 0.125 },
        },
        'python-miss-restart/x86-64': expect.objectContaining({ median: 10000 }),
      },
      parts: {},
    });
  });

  test('without a binding there is no ratio', () => {
    const alone = new Map([['miss-restart/x86-64', turnsOf([1000, 1500, 1100])]]);
    const lines = textReport(selection, alone, surroundings);
    expect(lines.at(-1)?.replaceAll(/ {2,}/g, '  ')).toBe('  koffi, x86-64  1100 ns  1000..1500');
  });
});

describe('a fault in parts', () => {
  const split: Split = {
    section: 'parts',
    parts: [
      ['engine', 'a'],
      ['walk', 'b'],
    ],
    whole: ['whole', 'c'],
    beyond: ['events', 'd'],
  };
  // The second turn was slow from beginning to end, the first one while it measured the walk.
  const turns = new Map([
    ['a', turnsOf([9999, 9999, 9999], [100, 200, 110])],
    ['b', turnsOf([9999, 9999, 9999], [990, 290, 160])],
    ['c', turnsOf([9999, 9999, 9999], [200, 310, 210])],
    ['d', turnsOf([9999, 9999, 9999], [300, 480, 310])],
  ]);
  const range = (min: number, median: number, max: number) => ({ median, min, max });

  test('each part is what its stage costs more than the one before, undisturbed', () => {
    expect(partRows(split, turns)).toEqual([
      { label: 'engine', ns: 100, stage: range(100, 110, 200), share: 0.5 },
      { label: 'walk', ns: 60, stage: range(160, 290, 990), share: 0.3 },
      { label: 'remainder', ns: 40, stage: range(200, 210, 310), share: 0.2 },
      { label: 'whole', ns: 200, stage: range(200, 210, 310), share: 1 },
      { label: 'events', ns: 100, stage: range(300, 310, 480), share: 0.5 },
    ]);
  });

  test('the parts and the remainder come to the whole', () => {
    const rows = partRows(split, turns);
    const sum = rows.slice(0, 3).reduce((total, { ns }) => total + ns, 0);
    expect(sum).toBe(rows[3]?.ns);
  });

  test('stands in the table', () => {
    const [first] = SPLITS;
    if (first === undefined) throw new Error('there is no split');
    const selection = { processes: [], shown: new Set<string>(), splits: [first] };
    const all = [...first.parts, first.whole, first.beyond];
    const values = new Map(all.map(([, id], i) => [id, turnsOf([9999], [100 * (i + 1)])]));
    const lines = textReport(selection, values, { ...surroundings, turns: 1 });
    expect(lines[0]).toContain('medians of 1 turn');
    expect(lines.filter((line) => line.includes(' 100 ns'))).toHaveLength(all.length);
    expect(lines.at(-2)).toContain('100 %');
  });
});
