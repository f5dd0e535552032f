import { describe, expect, test } from '@jest/globals';
import { PROCESSES, SECTIONS, SPLITS } from './figures.js';
import { select } from './selection.js';

const figures = PROCESSES.flatMap(({ figures }) => [...figures]);
const ids = figures.map(({ id }) => id);

function measured(pattern: RegExp | null): string[] {
  return select(pattern).processes.flatMap(({ figures }) => figures.map(({ id }) => id));
}

describe('the figures', () => {
  test('have names of their own', () => {
    expect(new Set(ids).size).toBe(ids.length);
  });

  test('are compared with figures that exist', () => {
    const others = figures.flatMap(({ python }) => (python === undefined ? [] : [python]));
    expect(others.length).toBeGreaterThan(0);
    for (const other of others) expect(ids).toContain(other);
  });

  test('stand in a section of the report or in a split', () => {
    for (const { section, part } of figures) {
      expect(part === true ? SPLITS.map((split) => split.section) : SECTIONS).toContain(section);
    }
  });

  test('of a split exist', () => {
    for (const { parts, whole, beyond } of SPLITS) {
      for (const [, id] of [...parts, whole, beyond]) expect(ids).toContain(id);
    }
  });
});

describe('select', () => {
  test('everything', () => {
    const all = select(null);
    expect(all.processes).toEqual(PROCESSES);
    expect(all.splits).toEqual(SPLITS);
    // Stages are shown as parts only.
    expect(all.shown.has('scratch-fault/up-to-walk/arm64')).toBe(false);
    expect(all.shown.has('scratch-fault/arm64')).toBe(true);
  });

  test('a figure comes with what it is compared with', () => {
    expect(measured(/^tlb-fill\/far\/arm64$/)).toEqual(['tlb-fill/far/arm64', 'python-tlb-fill/arm64']);
  });

  test('parts come with all that they are made of, which is not shown by itself', () => {
    const { processes, shown, splits } = select(/in parts, arm64/);
    expect(splits.map(({ section }) => section)).toEqual(['a scratch fault in parts, arm64']);
    expect(processes.flatMap(({ figures }) => figures.map(({ id }) => id))).toEqual([
      'miss-restart/arm64',
      'scratch-fault/arm64',
      'scratch-fault/events/arm64',
      ...['walk', 'registers', 'path', 'stack', 'pte', 'report'].map((s) => `scratch-fault/up-to-${s}/arm64`),
    ]);
    expect([...shown]).toEqual([]);
  });

  test('by section and by label, in any case', () => {
    expect(measured(/KOFFI, x86/i)).toEqual(['miss-restart/x86-64', 'python-miss-restart/x86-64']);
    expect(measured(/^fixtures$/)).toContain('start-up');
  });

  test('nothing', () => {
    expect(select(/there is no such figure/).processes).toEqual([]);
  });
});
